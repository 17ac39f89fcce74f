//! The actors' ports on NATS JetStream.
