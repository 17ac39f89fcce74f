//! Events of a provider by HTTP, each on disk before its 200, about leads that were mailed and wait for their next email:
//! how fast they are taken, and how far behind their effect in the documents is.
//!
//! An event is of an email's delay, delivery, opening or click, in this order, each kind of all emails before the next: so
//! each event changes a document, and seldom one that is in memory.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use bytes::Bytes;
use clap::Args;
use dripline_domain::{JournalEvent, JournalLine, What};
use dripline_nats::topology;
use dripline_stand_in::Accepted;
use dripline_test_support::{Dripline, SendgridKey, free_port, until};
use futures_util::StreamExt;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use serde::Serialize;

use crate::client::{Client, percentile_ms};
use crate::measure::{cores, cpu, micros_each, now_millis, peak_mb, per_second, progress, report, seconds};
use crate::system::{Common, System, at_once};

#[derive(Debug, Args)]
pub struct Options {
    /// Events a second.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..))]
    events: u64,
    /// So long, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Events of one post.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    per_post: u64,
    /// Connections, each kept alive, with one post at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct Report {
    leads: usize,
    events: usize,
    per_post: u64,
    /// As asked for, and as they were.
    due_per_s: u64,
    events_per_s: f64,
    posts_per_s: f64,
    /// From the time a post was due to its 200.
    latency_p50_ms: f64,
    latency_p99_ms: f64,
    latency_max_ms: f64,
    /// How much of it is the client's: so much after its time a post began.
    late_p99_ms: f64,
    /// In `FEEDBACK` when the last post was answered, and from then until none was.
    waiting: u64,
    drained_s: f64,
    /// From the first post until none waited.
    settled_per_s: f64,
    /// Processor time an event, user and system: gateway and engine together, the server, the client.
    dripline_cpu_us: f64,
    nats_server_cpu_us: f64,
    client_cpu_us: f64,
    /// Events that the journal does not have, and lines of it that are there once more.
    lost: usize,
    twice: usize,
    dripline_peak_mb: u64,
    nats_server_peak_mb: u64,
    cores: usize,
}

/// Each changes a document once for an email, and ends nothing.
const KINDS: [(&str, What); 4] =
    [("deferred", What::Deferred), ("delivered", What::Delivered), ("open", What::Opened), ("click", What::Clicked)];

/// Nothing takes longer to drain.
const PATIENCE: Duration = Duration::from_mins(10);

pub async fn run(options: &Options) -> Result<()> {
    let &Options { per_post, connections, .. } = options;
    let posts = options.events * options.seconds / per_post;
    let events = usize::try_from(posts * per_post)?;
    let leads = events.div_ceil(KINDS.len());
    let key = SendgridKey::generate()?;
    let public_key = key.public_key()?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let settings = [("DRIPLINE_GATEWAY__LISTEN", &*listen), ("DRIPLINE_WEBHOOKS__SENDGRID__PUBLIC_KEY", &*public_key)];
    let sequence = at_once(2, Duration::from_hours(24));
    let system = System::start(&options.common.of("sendgrid"), &[sequence], &settings).await?;
    let mut dripline = system.dripline("run")?;
    system.engines_are_ready(1).await?;

    progress(format_args!("{leads} leads are mailed"));
    system.queue(0..leads, None).await?;
    system.emails(leads, &mut dripline).await?;
    let settled = until("every email is written down", async || {
        let due = system.consumer(topology::TIMERS, topology::DUE).await;
        due.is_ok_and(|due| due.num_pending == 0 && due.num_ack_pending == 0)
    });
    settled.await.with_context(|| system.end_of_log())?;

    let (timestamp, emails) = (now_millis() / 1_000, system.provider.accepted().await?);
    let event = |number: usize| {
        let email = &emails[number % leads];
        event(email, KINDS[number / leads].0, number, timestamp)
    };
    let signed = (0..events)
        .collect::<Vec<_>>()
        .chunks(usize::try_from(per_post)?)
        .map(|numbers| {
            let body = format!("[{}]", numbers.iter().map(|number| event(*number)).collect::<Vec<_>>().join(","));
            Ok((key.sign(timestamp, &body)?, Bytes::from(body)))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut client = Client::connect(&system, &listen, connections, StatusCode::OK).await?;

    let rate = (options.events / per_post).max(1);
    progress(format_args!("{} posts of {per_post} events, {rate} a second", signed.len()));
    let pid = dripline.pid().into_iter().collect::<Vec<_>>();
    let used = || [cpu(&pid), cpu(&system.servers.pids()), cpu(&[std::process::id()])];
    let (before, began) = (used(), Instant::now());
    let count = signed.len();
    let make = move |number: usize| {
        let (signature, body) = &signed[number];
        let request = Request::post("/webhooks/sendgrid").header(HOST, "localhost");
        let request = request.header(CONTENT_TYPE, "application/json");
        let request = request.header(SendgridKey::SIGNATURE, signature).header(SendgridKey::TIMESTAMP, timestamp);
        Ok(request.body(Full::new(body.clone()))?)
    };
    let run = client.run(0..count, Some(rate), Arc::new(make)).await?;
    let client_cpu = cpu(&[std::process::id()]).saturating_sub(before[2]);
    let answered = Instant::now();
    let waiting = feedback(&system).await?;
    progress(format_args!("all are answered, {waiting} wait"));
    drained(&system, &mut dripline).await?;
    let (drained, whole, after) = (answered.elapsed(), began.elapsed(), used());
    let each = |of: usize| micros_each(after[of].saturating_sub(before[of]), events);

    let lines = journal(&system).await?;
    let told = (0..events).map(|number| (emails[number % leads].lead_id.clone(), KINDS[number / leads].1));
    let lost = told.filter(|told| !lines.contains_key(told)).count();
    let twice = lines.values().sum::<usize>() - lines.len();
    let dripline_peak_mb = peak_mb(&pid);
    // Connections that are kept alive would hold up its stop.
    drop(client);
    dripline.stop().await?;
    report(&Report {
        leads,
        events,
        per_post,
        due_per_s: options.events,
        events_per_s: per_second(events, run.took),
        posts_per_s: per_second(count, run.took),
        latency_p50_ms: percentile_ms(&run.latencies, 50),
        latency_p99_ms: percentile_ms(&run.latencies, 99),
        latency_max_ms: percentile_ms(&run.latencies, 100),
        late_p99_ms: percentile_ms(&run.late, 99),
        waiting,
        drained_s: seconds(drained),
        settled_per_s: per_second(events, whole),
        dripline_cpu_us: each(0),
        nats_server_cpu_us: each(1),
        client_cpu_us: micros_each(client_cpu, events),
        lost,
        twice,
        dripline_peak_mb,
        nats_server_peak_mb: peak_mb(&system.servers.pids()),
        cores: cores()?,
    })?;
    ensure!(lost == 0 && twice == 0, "{lost} events are not in the journal, {twice} are in it again");
    Ok(())
}

/// As SendGrid documents it: <https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event>.
fn event(email: &Accepted, kind: &str, number: usize, timestamp: u64) -> String {
    let Accepted { send_key, lead_id, to, sequence, step, message_id, .. } = email;
    format!(
        r#"{{"email":"{to}","event":"{kind}","sg_event_id":"bench-{number}","sg_message_id":"{message_id}.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0","smtp-id":"<{send_key}@acme.example>","timestamp":{timestamp},"category":["{sequence}"],"send_key":"{send_key}","lead_id":"{lead_id}","sequence":"{sequence}","step":"{step}"}}"#
    )
}

/// Events that no engine has settled.
async fn feedback(system: &System) -> Result<u64> {
    let consumer = system.consumer(topology::FEEDBACK, topology::FEEDBACK_CONSUMER).await?;
    Ok(consumer.num_pending + u64::try_from(consumer.num_ack_pending)?)
}

async fn drained(system: &System, dripline: &mut Dripline) -> Result<()> {
    let since = Instant::now();
    while feedback(system).await? > 0 {
        ensure!(since.elapsed() < PATIENCE && dripline.runs()?, "events are left:\n{}", system.end_of_log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// How many lines of the journal tell this of this lead, read from where they are committed: of the kinds that were
/// posted.
async fn journal(system: &System) -> Result<HashMap<(Box<str>, What), usize>> {
    let bucket = system.jetstream.get_stream_no_info(topology::LEADS_BUCKET).await?;
    let config = OrderedConfig {
        filter_subject: "journal.>".to_owned(),
        deliver_policy: DeliverPolicy::All,
        ..OrderedConfig::default()
    };
    let consumer = bucket.create_consumer(config).await?;
    let count = usize::try_from(consumer.cached_info().num_pending)?;
    let mut messages = consumer.messages().await?.take(count);
    let mut told = HashMap::new();
    while let Some(message) = messages.next().await {
        for line in message?.payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let JournalLine { lead_id, event, .. } = serde_json::from_slice(line)?;
            if let (Some(lead_id), JournalEvent::Lead(what)) = (lead_id, event)
                && KINDS.iter().any(|(_, kind)| *kind == what)
            {
                *told.entry((lead_id.as_str().into(), what)).or_default() += 1;
            }
        }
    }
    Ok(told)
}
