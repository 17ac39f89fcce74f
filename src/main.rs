//! The command `dripline`.
use std::process::ExitCode;

use clap::Parser;
use dripline::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
