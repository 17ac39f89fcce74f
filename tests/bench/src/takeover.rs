//! How long the work of an engine that died lies idle.
//!
//! Two engines share a backlog; one is killed (`kill -9`) while both are at work. What it held are the messages that
//! were delivered to it and not acknowledged: leads to enrol and steps to carry out. The server delivers them again
//! after `engine.ack_wait`, to the other. Which they are cannot be seen from outside; but all of them, and those that
//! the other engine held at that moment, stand at or before the last message delivered so far. So the time that is
//! measured is from the kill until every message up to there is settled, in both queues (the consumers' ack floors
//! have passed it): the latest time at which anything that was under way at the kill has gone on.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::consumer::{DeliverPolicy, Info};
use clap::Args;
use dripline_domain::LeadStatus;
use dripline_nats::{Marks, topology};
use futures_util::StreamExt;
use serde::Serialize;

use crate::measure::{cores, progress, report, seconds};
use crate::system::{Common, System, at_once};

#[derive(Debug, Args)]
pub struct Options {
    /// How many leads.
    #[arg(long, default_value_t = 5_000)]
    leads: usize,
    /// Emails of each.
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Between two emails of a lead, in seconds.
    #[arg(long, default_value_t = 1)]
    every: u64,
    /// After how long the server delivers an unsettled message again: `engine.ack_wait`.
    #[arg(long, default_value = "30s")]
    ack_wait: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct Report {
    leads: usize,
    ack_wait: String,
    /// Emails accepted before the kill.
    emails_before: usize,
    /// The fewest messages that were unsettled between the kill and the first redelivery: the dead engine's, and
    /// what the other one still had in hand.
    held: usize,
    /// From the kill until every message that was under way at it was settled.
    takeover_s: f64,
    /// From the kill until no lead had anything left to do.
    finished_s: f64,
    /// Leads whose call was under way at the kill, or about to be: held, never mailed again.
    in_doubt: usize,
    /// Leads that neither came to their end nor are in doubt.
    unfinished: usize,
    duplicates: usize,
    cores: usize,
}

/// The queues whose messages an engine holds.
const QUEUES: [(&str, &str); 2] = [(topology::LEADS, topology::INTAKE), (topology::TIMERS, topology::DUE)];

/// Nothing takes longer: a redelivery, the wait until an attempt counts as lost, and the work itself.
const PATIENCE: Duration = Duration::from_mins(5);

pub async fn run(options: &Options) -> Result<()> {
    let &Options { leads, steps, .. } = options;
    let sequences = [at_once(steps, Duration::from_secs(options.every))];
    let settings = [("DRIPLINE_ENGINE__ACK_WAIT", &*options.ack_wait)];
    let system = System::start(&options.common, &sequences, &settings).await?;
    let mut dying = system.dripline("engine")?;
    let mut living = system.dripline("engine")?;
    system.engines_are_ready(2).await?;
    system.queue(0..leads, None).await?;
    system.emails(leads * steps / 3, &mut living).await?;

    let emails_before = system.provider.summary().await?.accepted;
    let killed = Instant::now();
    dying.kill().await?;
    let at_kill = queues(&system).await?;
    progress(format_args!("killed one of two engines after {emails_before} emails"));

    let mut held = at_kill.iter().map(|queue| queue.num_ack_pending).sum::<usize>();
    let (mut redelivered, mut taken_over) = (false, None);
    let finished = loop {
        let now = queues(&system).await?;
        let settled = now.iter().zip(&at_kill).all(|(now, at_kill)| is_settled(now, at_kill));
        if taken_over.is_none() && settled {
            taken_over = Some(killed.elapsed());
        }
        // The other engine works its own off; what the dead one held stays until it is delivered again.
        redelivered |= now.iter().any(|queue| queue.num_redelivered > 0);
        if !redelivered {
            held = held.min(now.iter().map(|queue| queue.num_ack_pending).sum());
        }
        if let Some(taken_over) = taken_over
            && is_idle(&system, &now).await?
        {
            break (taken_over, killed.elapsed());
        }
        ensure!(killed.elapsed() < PATIENCE && living.runs()?, "not taken over:\n{}", system.end_of_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (completed, in_doubt) = outcomes(&system).await?;
    let unfinished = leads.saturating_sub(completed + in_doubt);
    let duplicates = system.provider.summary().await?.duplicates;
    living.stop().await?;
    report(&Report {
        leads,
        ack_wait: options.ack_wait.clone(),
        emails_before,
        held,
        takeover_s: seconds(finished.0),
        finished_s: seconds(finished.1),
        in_doubt,
        unfinished,
        duplicates,
        cores: cores()?,
    })?;
    ensure!(duplicates == 0 && unfinished == 0, "{duplicates} emails went twice, {unfinished} leads were lost");
    Ok(())
}

async fn queues(system: &System) -> Result<Vec<Info>> {
    let mut queues = Vec::with_capacity(QUEUES.len());
    for (stream, consumer) in QUEUES {
        queues.push(system.consumer(stream, consumer).await?);
    }
    Ok(queues)
}

/// Whether every message that had been delivered then is settled now.
fn is_settled(now: &Info, then: &Info) -> bool {
    now.num_ack_pending == 0 || now.ack_floor.stream_sequence >= then.delivered.stream_sequence
}

/// Whether no message waits and no timer is set: then no lead has anything left to do.
async fn is_idle(system: &System, queues: &[Info]) -> Result<bool> {
    let nothing = queues.iter().all(|queue| queue.num_pending == 0 && queue.num_ack_pending == 0);
    Ok(nothing && system.jetstream.get_stream(topology::TIMERS).await?.cached_info().state.messages == 0)
}

/// How many leads came to their end, and how many are in doubt, by the header on their documents.
async fn outcomes(system: &System) -> Result<(usize, usize)> {
    let bucket = system.jetstream.get_stream_no_info(topology::LEADS_BUCKET).await?;
    let config = OrderedConfig {
        filter_subject: "$KV.leads.>".to_owned(),
        deliver_policy: DeliverPolicy::LastPerSubject,
        headers_only: true,
        ..OrderedConfig::default()
    };
    let consumer = bucket.create_consumer(config).await?;
    let count = usize::try_from(consumer.cached_info().num_pending)?;
    let mut documents = consumer.messages().await?.take(count);
    let (mut completed, mut in_doubt) = (0, 0);
    while let Some(document) = documents.next().await {
        let document = document?;
        match Marks::read(document.headers.as_ref()).status.context("a document without its status")? {
            LeadStatus::Completed => completed += 1,
            LeadStatus::InDoubt => in_doubt += 1,
            _ => {}
        }
    }
    Ok((completed, in_doubt))
}
