//! Dripline as a whole, on real parts: a nats-server of its own for each test, the real `nats` CLI, real HTTP, a real
//! SMTP server, and a stand-in for the providers that is strict about their wire formats.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod alerts;
mod bad_input;
mod behind;
mod canary;
mod cluster;
mod command_line;
mod control;
mod crash;
#[cfg(feature = "crash-points")]
mod crash_points;
mod delivery;
mod engine;
mod faults;
mod feedback;
mod guards;
mod import;
mod inbox;
mod lead;
mod mailpit;
mod metrics;
mod outgoing;
mod processes;
mod rejected;
mod statistics;
mod supervision;
mod suppression;
mod sweeper;
mod system;
mod timers;
mod topology;
mod torture;
mod traces;
mod unsubscribe;
mod vendors;
mod webhooks;
