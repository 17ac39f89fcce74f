//! Dripline, wired: the configuration, the gateway, the engine and the command line over the crates beside it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cli;
pub mod config;
mod dev;
pub mod gateway;
mod lead;
pub mod metrics;
mod rejected;
pub mod service;
mod suppression;
pub mod telemetry;
