//! What a lead goes through, decided by the domain alone.
#![allow(clippy::unwrap_used, clippy::panic)]
mod control;
mod doubt;
mod feedback;
mod properties;
mod transitions;
mod world;
