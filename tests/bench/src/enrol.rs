//! How fast a backlog is taken in: the first email is an hour away, so all that happens is the arrival of each lead.
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::stream::Stream;
use clap::Args;
use dripline_nats::topology;
use dripline_test_support::PATIENCE;
use futures_util::TryStreamExt;
use serde::Serialize;

use crate::measure::{cores, cpu, micros_each, now_millis, peak_mb, per_second, progress, report, seconds};
use crate::system::{Common, System};

#[derive(Debug, Args)]
pub struct Options {
    /// How many leads.
    #[arg(long, default_value_t = 100_000)]
    leads: usize,
    /// Of so many in a row one has been here before; by default none.
    #[arg(long)]
    known_every: Option<usize>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct Report {
    leads: usize,
    /// Those that had been here before.
    known: usize,
    /// From the engine's start until the last lead's state was on disk.
    seconds: f64,
    leads_per_s: f64,
    /// Processor time a lead, user and system; the queueing before is not in it.
    engine_cpu_us: f64,
    nats_server_cpu_us: f64,
    engine_peak_mb: u64,
    nats_server_peak_mb: u64,
    cores: usize,
}

pub async fn run(options: &Options) -> Result<()> {
    let leads = options.leads;
    let system = System::start(&options.common, &[("bench", vec!["1h".to_owned()])], &[]).await?;
    let known: Vec<_> = options.known_every.map_or_else(Vec::new, |every| (0..leads).step_by(every.max(1)).collect());
    if !known.is_empty() {
        system.queue(known.iter().copied(), None).await?;
        let mut engine = system.dripline("engine")?;
        taken(&system, known.len()).await?;
        engine.stop().await?;
    }
    system.queue(0..leads, None).await?;

    progress(format_args!("{leads} leads wait; starting the engine"));
    let server_cpu = cpu(&system.servers.pids());
    let started = now_millis();
    let mut engine = system.dripline("engine")?;
    taken(&system, known.len() + leads).await?;
    let pid = engine.pid().into_iter().collect::<Vec<_>>();
    let (engine_cpu, server_cpu) = (cpu(&pid), cpu(&system.servers.pids()).saturating_sub(server_cpu));
    let engine_peak_mb = peak_mb(&pid);
    engine.stop().await?;
    let bucket = system.jetstream.get_stream_no_info(topology::LEADS_BUCKET).await?;
    // The newest document is the last lead's; the server dated it.
    let newest = bucket.get_last_raw_message_by_subject(DOCUMENTS).await.context("no document")?;
    let finished = u64::try_from(newest.time.unix_timestamp_nanos() / 1_000_000)?;
    let took = Duration::from_millis(finished.saturating_sub(started));
    report(&Report {
        leads,
        known: known.len(),
        seconds: seconds(took),
        leads_per_s: per_second(leads, took),
        engine_cpu_us: micros_each(engine_cpu, leads),
        nats_server_cpu_us: micros_each(server_cpu, leads),
        engine_peak_mb,
        nats_server_peak_mb: peak_mb(&system.servers.pids()),
        cores: cores()?,
    })?;
    let written = documents(&bucket).await?;
    ensure!(written == leads, "{leads} leads came, and there are {written} documents");
    Ok(())
}

/// Waits until so many arrivals are settled: their leads' states are on disk.
async fn taken(system: &System, arrivals: usize) -> Result<()> {
    let (mut seen, mut since) = (0, now_millis());
    while seen < arrivals as u64 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let settled = system.consumer(topology::LEADS, topology::INTAKE).await?.ack_floor.stream_sequence;
        if settled > seen {
            (seen, since) = (settled, now_millis());
        }
        if u128::from(now_millis() - since) > PATIENCE.as_millis() {
            bail!("stuck at {seen} of {arrivals} arrivals:\n{}", system.end_of_log());
        }
    }
    Ok(())
}

/// The subjects of the leads' documents, one message each.
const DOCUMENTS: &str = "$KV.leads.>";

/// How many documents there are: every message of the bucket but the journal's. A batch has one of those for hundreds
/// of leads, so that listing them is cheap, where listing the documents is not.
async fn documents(bucket: &Stream<()>) -> Result<usize> {
    let listed = bucket.info_with_subjects("journal.>").await?;
    let messages = usize::try_from(listed.info.state.messages)?;
    let journals = listed.try_fold(0, |count, _| async move { Ok(count + 1) }).await?;
    Ok(messages.saturating_sub(journals))
}
