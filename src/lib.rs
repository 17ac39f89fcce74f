//! Dripline, wired: the configuration, the gateway, the engine and the command line over the crates beside it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod canary;
pub mod cli;
pub mod config;
mod control;
mod dev;
mod export;
pub mod gateway;
mod import;
mod journal;
mod lead;
pub mod metrics;
mod outgoing;
mod progress;
mod provider;
mod rejected;
mod sequence;
pub mod service;
mod stats;
mod status;
mod suppression;
pub mod telemetry;
mod watch;
