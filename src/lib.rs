//! Dripline, wired: the configuration, the gateway, the engine and the command line over the crates beside it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod canary;
pub mod cli;
pub mod config;
mod dev;
mod export;
pub mod gateway;
mod import;
mod lead;
mod progress;
mod rejected;
mod sequence;
pub mod service;
mod stats;
mod suppression;
pub mod telemetry;
mod watch;
