//! `make torture`: see the library.
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use dripline_torture::plan::{Deed, Plan};
use dripline_torture::{InDoubt, Outcome, Rules, Size, StandIn, Torture};

/// Kills, pauses and lies to dripline at random moments, then checks from outside what it promised.
///
/// Exit codes: 0 all was kept, 1 something was not, 2 the torture itself failed.
// Each is a flag of its own.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Parser)]
struct Options {
    /// Repeats a plan; by default another one each time
    #[arg(long)]
    seed: Option<u64>,
    /// How long, in seconds
    #[arg(long, default_value_t = 60, conflicts_with = "minutes")]
    seconds: u64,
    /// How long, in minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// nats-servers: 1, or 3 for a cluster that keeps everything three times
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    servers: u8,
    /// Engine processes
    #[arg(long, default_value_t = 2)]
    engines: usize,
    /// New people a second
    #[arg(long, default_value_t = 10.0)]
    people: f64,
    /// So many milliseconds after a suppression, a pause or a stop was acknowledged an email may still be accepted
    #[arg(long, default_value_t = 1_000)]
    grace_ms: u64,
    /// What is done about an attempt in doubt; other than `hold` it is set as `esp.in_doubt`
    #[arg(long, value_enum, default_value_t)]
    in_doubt: InDoubt,
    /// Further settings of dripline, `DRIPLINE_X=value`
    #[arg(long = "set", value_name = "VARIABLE=VALUE")]
    settings: Vec<String>,
    /// Prints the summary as one line of JSON
    #[arg(long)]
    json: bool,
    /// Shows nothing while it runs
    #[arg(long)]
    quiet: bool,
    /// Shows what would be done, and does nothing
    #[arg(long)]
    plan: bool,
    /// Keeps the folder with logs and history, also when all was kept
    #[arg(long)]
    keep: bool,
}

/// More violations than these are in the kept folder only.
const SHOWN: usize = 10;

#[tokio::main]
async fn main() -> ExitCode {
    // Ended from outside, it still ends what it started, as the values that stand for the processes are dropped.
    let options = Options::parse();
    let tortured = tokio::select! {
        tortured = torture(&options) => tortured,
        () = stop_signal() => Err(anyhow::anyhow!("it was stopped")),
    };
    match tortured {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            show(&format!("the torture itself failed: {error:#}"));
            ExitCode::from(2)
        }
    }
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};

    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn torture(options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let seconds = options.minutes.map_or(options.seconds, |minutes| minutes * 60);
    let size = Size {
        duration: Duration::from_secs(seconds),
        engines: options.engines,
        servers: options.servers.into(),
        people_per_second: options.people,
    };
    if options.plan {
        say(&plan(seed, size));
        return Ok(true);
    }
    let binary = beside_us("dripline")?;
    let torture = Torture {
        seed,
        size,
        rules: Rules { grace_ms: options.grace_ms, in_doubt: options.in_doubt },
        binary: &binary,
        settings: &settings(options)?,
        keep: options.keep,
    };
    let progress = |line: String| {
        if !options.quiet {
            show(&line);
        }
    };
    progress(format!("seed {seed}, {seconds} s, {} engines, {} nats-servers", options.engines, options.servers));
    let provider = StandIn::process(&beside_us("dripline-stand-in")?).await?;
    let Outcome { summary, violations, folder, .. } = torture.run(provider, &progress).await?;

    for violation in violations.iter().take(SHOWN) {
        show(&violation.to_string());
    }
    if violations.len() > SHOWN {
        show(&format!("… and {} more", violations.len() - SHOWN));
    }
    if let Some(folder) = folder {
        show(&format!("logs, history and the story of each violation: {}", folder.display()));
    }
    if !violations.is_empty() {
        show(&format!("replay with: make torture TORTURE=\"{}\"", replay(options, seed, seconds)));
    }
    if options.json {
        say(&serde_json::to_string(&summary)?);
    } else {
        say(&format!("{summary:#?}"));
    }
    Ok(violations.is_empty())
}

fn plan(seed: u64, size: Size) -> String {
    let Plan { arrivals, lanes } = Plan::draw(seed, size);
    let mut deeds: Vec<_> = lanes.into_iter().flatten().collect();
    deeds.sort_by_key(|deed| deed.at);
    let line = |Deed { at, lasts, what }: &Deed| {
        format!("{:7.1} s  {what} for {:.1} s", at.as_secs_f64(), lasts.as_secs_f64())
    };
    let lines: Vec<_> = deeds.iter().map(line).collect();
    format!("seed {seed}: {} arrivals\n{}", arrivals.len(), lines.join("\n"))
}

fn replay(options: &Options, seed: u64, seconds: u64) -> String {
    let Options { servers, engines, people, .. } = options;
    let mut text =
        format!("--seed {seed} --seconds {seconds} --servers {servers} --engines {engines} --people {people}");
    if options.in_doubt != InDoubt::default() {
        text.push_str(&format!(" --in-doubt {}", name_of(options.in_doubt)));
    }
    for setting in &options.settings {
        text.push_str(&format!(" --set {setting}"));
    }
    text
}

fn settings(options: &Options) -> Result<Vec<(String, String)>> {
    let mut settings = Vec::new();
    // Left out where it is the default: an earlier version does not know the setting.
    if options.in_doubt != InDoubt::default() {
        settings.push(("DRIPLINE_ESP__IN_DOUBT".to_owned(), name_of(options.in_doubt)));
        // Hours by default: too long to watch.
        settings.push(("DRIPLINE_ESP__IN_DOUBT_WAIT".to_owned(), "3s".to_owned()));
    }
    for setting in &options.settings {
        let (name, value) = setting.split_once('=').context("--set takes VARIABLE=VALUE")?;
        settings.push((name.to_owned(), value.to_owned()));
    }
    Ok(settings)
}

fn name_of(in_doubt: InDoubt) -> String {
    in_doubt.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// A binary of this workspace, built with us.
fn beside_us(name: &str) -> Result<PathBuf> {
    let file = std::env::current_exe()?.with_file_name(name);
    if !file.is_file() {
        bail!("{} is not built: `make torture` builds it", file.display());
    }
    Ok(file)
}

// The report is what this program is for; progress goes beside it.
#[allow(clippy::print_stdout)]
fn say(text: &str) {
    println!("{text}");
}

#[allow(clippy::print_stderr)]
fn show(text: &str) {
    eprintln!("{text}");
}
