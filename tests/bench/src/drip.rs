//! Leads × steps: from a backlog in the queue to the last email at the provider, then the same by the bare protocol.
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use dripline_test_support::Dripline;
use serde::Serialize;

use crate::measure::{Seen, cores, cpu, lags, peak_mb, per_second, progress, report, seconds, two_places};
use crate::system::{Common, System, at_once};

#[derive(Debug, Args)]
pub struct Options {
    /// How many leads.
    #[arg(long, default_value_t = 20_000)]
    leads: usize,
    /// Emails of each.
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Between two emails of a lead, in seconds.
    #[arg(long, default_value_t = 1)]
    every: u64,
    /// Measures the engine alone.
    #[arg(long)]
    without_bare: bool,
    /// Measures the bare protocol alone.
    #[arg(long, conflicts_with = "without_bare")]
    only_bare: bool,
    #[command(flatten)]
    common: Common,
}

/// Leads at work at a time in the bare protocol.
const BARE_IN_FLIGHT: usize = 4_096;

/// What runs.
#[derive(Debug, Clone, Copy)]
enum Runner {
    Engine,
    Bare,
    /// With a message for each timer.
    BareSingleTimers,
}

/// What the whole benchmark saw.
#[derive(Debug, Serialize)]
struct Comparison {
    #[serde(flatten)]
    report: Report,
    #[serde(flatten)]
    bare: Option<BareSeen>,
}

/// What the bare protocol came to, and the engine's speed by that.
#[derive(Debug, Serialize)]
struct BareSeen {
    bare_sends_per_s: f64,
    ratio: f64,
    bare_single_timers_sends_per_s: f64,
    ratio_single_timers: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    leads: usize,
    #[serde(flatten)]
    seen: Seen,
    /// From the engine's start to the last email.
    seconds: f64,
    engine_peak_mb: u64,
    nats_server_peak_mb: u64,
    queued_per_s: f64,
    cores: usize,
}

pub async fn run(options: &Options) -> Result<()> {
    let comparison = if options.only_bare {
        Comparison { report: measure(options, Runner::Bare).await?, bare: None }
    } else if options.without_bare {
        Comparison { report: measure(options, Runner::Engine).await?, bare: None }
    } else {
        let report = measure(options, Runner::Engine).await?;
        let bare = measure(options, Runner::Bare).await?.seen.sends_per_s;
        let single = measure(options, Runner::BareSingleTimers).await?.seen.sends_per_s;
        let ratio = |bare| two_places(report.seen.sends_per_s / bare);
        let bare = BareSeen {
            bare_sends_per_s: bare,
            ratio: ratio(bare),
            bare_single_timers_sends_per_s: single,
            ratio_single_timers: ratio(single),
        };
        Comparison { report, bare: Some(bare) }
    };
    report(&comparison)?;
    comparison.report.seen.check()
}

async fn measure(options: &Options, runner: Runner) -> Result<Report> {
    let &Options { leads, steps, .. } = options;
    let every = Duration::from_secs(options.every);
    let system = System::start(&options.common, &[at_once(steps, every)], &[]).await?;
    let queueing = Instant::now();
    system.queue(0..leads, None).await?;
    let queued_in = queueing.elapsed();

    progress(format_args!("{leads} leads wait; starting the {runner:?}"));
    let started = Instant::now();
    let mut engine = match runner {
        Runner::Engine => system.dripline("engine")?,
        Runner::Bare => start_bare(&system, options, &[])?,
        Runner::BareSingleTimers => start_bare(&system, options, &["--single-timers"])?,
    };
    let expected = leads * steps;
    system.emails(expected, &mut engine).await?;
    let took = started.elapsed();

    let pid = engine.pid().into_iter().collect::<Vec<_>>();
    // The server's from its start: queueing is part of what a lead costs it.
    let cpu = [cpu(&pid), cpu(&system.servers.pids())];
    let engine_peak_mb = peak_mb(&pid);
    engine.stop().await?;
    let lags = lags(&system.provider.accepted().await?, every, ..);
    Ok(Report {
        leads,
        seen: Seen::new(expected, &system.provider.summary().await?, &lags, cpu),
        seconds: seconds(took),
        engine_peak_mb,
        nats_server_peak_mb: peak_mb(&system.servers.pids()),
        queued_per_s: per_second(leads, queued_in),
        cores: cores()?,
    })
}

fn start_bare(system: &System, options: &Options, more: &[&str]) -> Result<Dripline> {
    let (server, steps, every) = (system.servers.url(), options.steps.to_string(), options.every.to_string());
    let in_flight = BARE_IN_FLIGHT.to_string();
    let arguments = ["bare", "--nats", &server, "--provider", &system.provider.url, "--steps", &steps];
    let arguments = [&arguments[..], &["--every", &every, "--in-flight", &in_flight], more].concat();
    Dripline::start(&std::env::current_exe()?, system.dir(), &arguments, &[])
}
