//! What sleeping leads cost: the same work beside few and beside many of them.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use dripline_test_support::Dripline;
use serde::Serialize;

use crate::measure::{Seen, cores, cpu, lags, now_millis, peak_mb, progress, report, resident_mb, seconds, two_places};
use crate::sleepers;
use crate::system::{Common, System, at_once};

#[derive(Debug, Args)]
pub struct Options {
    /// Many leads asleep.
    #[arg(long, default_value_t = 1_000_000)]
    sleepers: usize,
    /// Few leads asleep, to compare with.
    #[arg(long, default_value_t = 10_000)]
    few: usize,
    /// Leads that come while the others sleep.
    #[arg(long, default_value_t = 20_000)]
    leads: usize,
    /// Emails of each of them.
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Between two emails of a lead, in seconds.
    #[arg(long, default_value_t = 1)]
    every: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct Report {
    few: Beside,
    many: Beside,
    /// Of the processor time a send beside many to that beside few.
    engine_cpu_ratio: f64,
    nats_server_cpu_ratio: f64,
    sends_per_s_ratio: f64,
    cores: usize,
}

/// What was seen beside so many sleepers.
#[derive(Debug, Serialize)]
struct Beside {
    asleep: usize,
    /// Until all were asleep.
    fill_s: f64,
    /// From the engine's start until it asks for work.
    ready_s: f64,
    /// From the engine's start until the first of the leads that waited was mailed.
    first_email_s: f64,
    /// From the engine's start until the sweeper has looked at every lead for the first time.
    swept_s: f64,
    /// Processor time from the engine's start until then, in seconds.
    engine_sweep_cpu_s: f64,
    nats_server_sweep_cpu_s: f64,
    /// Resident, after that sweep.
    engine_mb: u64,
    nats_server_mb: u64,
    /// Of the leads that come after that sweep, all at once, while the engine runs.
    #[serde(flatten)]
    seen: Seen,
    engine_peak_mb: u64,
    nats_server_peak_mb: u64,
}

/// Leads that wait when the engine starts.
const FRESH: usize = 10;

/// A first sweep over a million leads takes seconds.
const SWEEP_PATIENCE: Duration = Duration::from_mins(10);

pub async fn run(options: &Options) -> Result<()> {
    let few = beside(options, options.few).await?;
    let many = beside(options, options.sleepers).await?;
    let whole = Report {
        engine_cpu_ratio: two_places(many.seen.engine_cpu_us / few.seen.engine_cpu_us),
        nats_server_cpu_ratio: two_places(many.seen.nats_server_cpu_us / few.seen.nats_server_cpu_us),
        sends_per_s_ratio: two_places(many.seen.sends_per_s / few.seen.sends_per_s),
        few,
        many,
        cores: cores()?,
    };
    report(&whole)?;
    whole.few.seen.check()?;
    whole.many.seen.check()
}

async fn beside(options: &Options, asleep: usize) -> Result<Beside> {
    let &Options { leads, steps, .. } = options;
    let every = Duration::from_secs(options.every);
    // The end of a sweep is said at this level.
    let settings = [("DRIPLINE_LOG__LEVEL", "warn,dripline_actors::sweeper=debug")];
    let system = System::start(&options.common, &[at_once(steps, every), sleepers::delays()], &settings).await?;
    progress(format_args!("putting {asleep} leads to sleep"));
    let fill_s = seconds(sleepers::fill(&system.servers.url(), asleep).await?);
    system.queue(0..FRESH, None).await?;

    progress(format_args!("{asleep} are asleep; starting the engine"));
    let (started, started_at) = (Instant::now(), now_millis());
    let server_cpu = cpu(&system.servers.pids());
    let mut engine = system.dripline("engine")?;
    system.engines_are_ready(1).await?;
    let ready = started.elapsed();
    swept(&system, &mut engine).await?;
    let swept = started.elapsed();
    let pid = engine.pid().into_iter().collect::<Vec<_>>();
    let sweep_cpu = [cpu(&pid), cpu(&system.servers.pids()).saturating_sub(server_cpu)];
    let (engine_mb, nats_server_mb) = (resident_mb(&pid), resident_mb(&system.servers.pids()));
    system.emails(FRESH * steps, &mut engine).await?;
    let first_at = system.provider.summary().await?.first_at.unwrap_or(0);
    system.provider.reset().await?;

    progress(format_args!("swept after {} s; {leads} leads come", seconds(swept)));
    let (engine_cpu, server_cpu) = (cpu(&pid), cpu(&system.servers.pids()));
    system.queue(FRESH..FRESH + leads, None).await?;
    system.emails(leads * steps, &mut engine).await?;
    let cpu = [cpu(&pid).saturating_sub(engine_cpu), cpu(&system.servers.pids()).saturating_sub(server_cpu)];
    let engine_peak_mb = peak_mb(&pid);
    engine.stop().await?;
    let lags = lags(&system.provider.accepted().await?, every, ..);
    Ok(Beside {
        asleep,
        fill_s,
        ready_s: seconds(ready),
        first_email_s: seconds(Duration::from_millis(first_at.saturating_sub(started_at))),
        swept_s: seconds(swept),
        engine_sweep_cpu_s: seconds(sweep_cpu[0]),
        nats_server_sweep_cpu_s: seconds(sweep_cpu[1]),
        engine_mb,
        nats_server_mb,
        seen: Seen::new(leads * steps, &system.provider.summary().await?, &lags, cpu),
        engine_peak_mb,
        nats_server_peak_mb: peak_mb(&system.servers.pids()),
    })
}

/// Waits until the engine says that its first sweep is over.
async fn swept(system: &System, engine: &mut Dripline) -> Result<()> {
    let since = Instant::now();
    // A sweep that failed says so as a warning, and is tried again.
    let over = |line: &str| line.contains("dripline_actors::sweeper") && !line.contains("\"level\":\"WARN\"");
    while !system.log().lines().any(over) {
        ensure!(since.elapsed() < SWEEP_PATIENCE && engine.runs()?, "no end of a sweep:\n{}", system.end_of_log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
