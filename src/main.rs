//! The command `dripline`.
use std::process::ExitCode;

use clap::Parser;
use dripline::cli::Cli;

/// Thousands of leads at work on a few threads: the system's allocator took a third of the engine's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
