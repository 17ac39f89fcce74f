//! How late emails leave under a steady flow, where no queue builds up.
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::measure::{Seen, cores, cpu, lags, now_millis, peak_mb, per_second, progress, report};
use crate::system::{Common, System, at_once};

#[derive(Debug, Args)]
pub struct Options {
    /// Emails that are due every second.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    due: u64,
    /// So long, in seconds, after the flow has become full.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Emails of each lead.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..))]
    steps: u64,
    /// Between two emails of a lead, in seconds.
    #[arg(long, default_value_t = 1)]
    every: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct Report {
    leads: usize,
    /// As asked for, and as it was: the flow is only steady where these agree.
    due_per_s: u64,
    arrivals_due_per_s: u64,
    arrivals_per_s: f64,
    #[serde(flatten)]
    seen: Seen,
    /// How many emails the lag is of: those after a lead's first that were due while the flow was full.
    lags: usize,
    engine_peak_mb: u64,
    nats_server_peak_mb: u64,
    cores: usize,
}

pub async fn run(options: &Options) -> Result<()> {
    let &Options { due, seconds, steps, every, .. } = options;
    // Until the first leads come to their last email, fewer are due; after the last arrival again.
    let ramp = (steps - 1) * every;
    let arrivals = due.div_ceil(steps);
    let leads = usize::try_from(arrivals * (ramp + seconds))?;
    let expected = leads * usize::try_from(steps)?;
    let every = Duration::from_secs(every);
    let system = System::start(&options.common, &[at_once(usize::try_from(steps)?, every)], &[]).await?;
    let mut engine = system.dripline("engine")?;
    system.engines_are_ready(1).await?;

    progress(format_args!("{arrivals} leads a second arrive for {} s", ramp + seconds));
    let pid = engine.pid().into_iter().collect::<Vec<_>>();
    let (engine_cpu, server_cpu) = (cpu(&pid), cpu(&system.servers.pids()));
    let arriving = Instant::now();
    let full = now_millis() + ramp * 1_000;
    system.queue(0..leads, Some(arrivals)).await?;
    let (arrived_in, ended) = (arriving.elapsed(), now_millis());
    system.emails(expected, &mut engine).await?;

    let cpu = [cpu(&pid).saturating_sub(engine_cpu), cpu(&system.servers.pids()).saturating_sub(server_cpu)];
    let engine_peak_mb = peak_mb(&pid);
    engine.stop().await?;
    let lags = lags(&system.provider.accepted().await?, every, full..ended);
    let seen = Seen::new(expected, &system.provider.summary().await?, &lags, cpu);
    let report_of = Report {
        leads,
        due_per_s: due,
        arrivals_due_per_s: arrivals,
        arrivals_per_s: per_second(leads, arrived_in),
        seen,
        lags: lags.len(),
        engine_peak_mb,
        nats_server_peak_mb: peak_mb(&system.servers.pids()),
        cores: cores()?,
    };
    report(&report_of)?;
    report_of.seen.check()
}
