//! A wish to get no more email, while many leads are due: from the gateway's 200 to the document of the lead, and whether an
//! email goes afterwards.
//!
//! All leads are due at once, and a rate keeps most of them waiting. A random sample of those who wait says no by the link
//! for one click, on a schedule. Some of them are in an engine's hands already, and wait for their permit there.
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use clap::Args;
use dripline_domain::{Address, LeadKey, LeadStatus};
use dripline_esp::{Recipient, UnsubscribeLinks};
use dripline_nats::{Marks, topology};
use dripline_test_support::{free_port, until};
use futures_util::StreamExt;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use rand::seq::SliceRandom as _;
use serde::Serialize;

use crate::client::{Client, percentile_ms};
use crate::measure::{cores, now_millis, percentile, progress, report};
use crate::system::{Common, System, UNSUBSCRIBE_KEY, address, at_once};

#[derive(Debug, Args)]
pub struct Options {
    /// How many leads, all due at once.
    #[arg(long, default_value_t = 50_000)]
    leads: usize,
    /// Emails a second (`DRIPLINE_ESP__RATE`).
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How many say no.
    #[arg(long, default_value_t = 2_000)]
    unsubscribes: usize,
    /// So many a second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    per_second: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct Report {
    leads: usize,
    rate: u32,
    unsubscribes: usize,
    /// From the time a request was due to its 200.
    answer_p50_ms: f64,
    answer_p99_ms: f64,
    /// From the 200 to the document that says `UNSUBSCRIBED`.
    effect_p50_ms: i64,
    effect_p99_ms: i64,
    effect_max_ms: i64,
    /// Of those who said no: mailed before the 200.
    mailed_before: usize,
    /// Mailed after the 200, by a call that was under way; and how long after it the last of them.
    mailed_after: usize,
    mailed_after_max_ms: u64,
    /// Emails to those who said no that were taken more than a second after the 200.
    late: usize,
    /// Others who were not mailed, or twice.
    missing: usize,
    duplicates: usize,
    cores: usize,
}

/// A call that is under way at the 200 is over by then: the stand-in answers at once.
const UNDER_WAY_MILLIS: u64 = 1_000;

pub async fn run(options: &Options) -> Result<()> {
    let &Options { leads, rate, unsubscribes, .. } = options;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let per_second = rate.to_string();
    let settings = [("DRIPLINE_GATEWAY__LISTEN", &*listen), ("DRIPLINE_ESP__RATE", &*per_second)];
    let system = System::start(&options.common, &[at_once(1, Duration::ZERO)], &settings).await?;
    let mut dripline = system.dripline("run")?;
    system.engines_are_ready(1).await?;
    let mut client = Client::connect(&system, &listen, 32, StatusCode::OK).await?;
    progress(format_args!("{leads} leads, all due"));
    system.queue(0..leads, None).await?;
    let enrolled = until("every lead is enrolled", async || {
        let intake = system.consumer(topology::LEADS, topology::INTAKE).await;
        intake.is_ok_and(|intake| intake.num_pending == 0 && intake.num_ack_pending == 0)
    });
    enrolled.await.with_context(|| system.end_of_log())?;

    let mailed: HashSet<Box<str>> = system.provider.accepted().await?.into_iter().map(|email| email.to).collect();
    let mut waiting: Vec<usize> = (0..leads).filter(|number| !mailed.contains(&*address(*number))).collect();
    ensure!(waiting.len() >= unsubscribes, "only {} leads wait; a lower --rate leaves more", waiting.len());
    waiting.shuffle(&mut rand::rng());
    waiting.truncate(unsubscribes);
    progress(format_args!("{} are mailed; {unsubscribes} of the others say no", mailed.len()));
    let effects = tokio::spawn(effects(changes(&system).await?, unsubscribes));
    let tokens = tokens(&waiting)?;
    let make = move |number: usize| {
        let request = Request::post(format!("/unsubscribe/{}", tokens[number])).header(HOST, "localhost");
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        Ok(request.body(Full::new("List-Unsubscribe=One-Click".into()))?)
    };
    let run = client.run(0..unsubscribes, Some(options.per_second), Arc::new(make)).await?;
    let effects = tokio::time::timeout(Duration::from_mins(1), effects)
        .await
        .with_context(|| format!("some wishes had no effect:\n{}", system.end_of_log()))???;

    let stopped = until("everybody is mailed or said no", async || {
        let due = system.consumer(topology::TIMERS, topology::DUE).await;
        due.is_ok_and(|due| due.num_pending == 0 && due.num_ack_pending == 0)
    });
    stopped.await.with_context(|| system.end_of_log())?;
    drop(client);
    dripline.stop().await?;

    let accepted: HashMap<Box<str>, u64> =
        system.provider.accepted().await?.into_iter().map(|email| (email.to, email.at)).collect();
    let (mut latencies, mut before, mut after) = (Vec::new(), 0, Vec::new());
    for (number, answered) in &run.answered {
        let address = address(waiting[*number]);
        let effect = effects.get(&*key(&address)?).context("a wish without effect")?;
        latencies.push(i64::try_from(effect.saturating_sub(*answered))?);
        match accepted.get(&*address) {
            Some(at) if at <= answered => before += 1,
            Some(at) => after.push(at - answered),
            None => {}
        }
    }
    latencies.sort_unstable();
    let late = after.iter().filter(|after| **after > UNDER_WAY_MILLIS).count();
    let summary = system.provider.summary().await?;
    let missing = (leads - unsubscribes + before + after.len()).saturating_sub(summary.distinct_send_keys);
    report(&Report {
        leads,
        rate,
        unsubscribes,
        answer_p50_ms: percentile_ms(&run.latencies, 50),
        answer_p99_ms: percentile_ms(&run.latencies, 99),
        effect_p50_ms: percentile(&latencies, 50),
        effect_p99_ms: percentile(&latencies, 99),
        effect_max_ms: percentile(&latencies, 100),
        mailed_before: before,
        mailed_after: after.len(),
        mailed_after_max_ms: after.iter().copied().max().unwrap_or(0),
        late,
        missing,
        duplicates: summary.duplicates,
        cores: cores()?,
    })?;
    let whole = late == 0 && missing == 0 && summary.duplicates == 0;
    ensure!(whole, "{late} emails after a no, {missing} did not go, {} went twice", summary.duplicates);
    Ok(())
}

/// The link's last part, for each of these leads. No email of the run carried it: it speaks of the person alone.
fn tokens(numbers: &[usize]) -> Result<Vec<String>> {
    let links = UnsubscribeLinks::new("", UNSUBSCRIBE_KEY.as_bytes(), []);
    let token = |number: &usize| {
        let recipient = Recipient { address: Address::parse(&address(*number))?, send_key: "0".repeat(32).into() };
        let url = links.url(&recipient)?;
        Ok(url.rsplit('/').next().unwrap_or_default().to_owned())
    };
    numbers.iter().map(token).collect()
}

fn key(address: &str) -> Result<String> {
    Ok(LeadKey::of(&Address::parse(address)?).to_string())
}

/// Every change of a document from now on.
async fn changes(system: &System) -> Result<Ordered> {
    let bucket = system.jetstream.get_stream_no_info(topology::LEADS_BUCKET).await?;
    let config = OrderedConfig {
        filter_subject: "$KV.leads.>".to_owned(),
        deliver_policy: DeliverPolicy::New,
        headers_only: true,
        ..OrderedConfig::default()
    };
    Ok(bucket.create_consumer(config).await?.messages().await?)
}

/// When the document of each of so many leads, by its key, was seen to say `UNSUBSCRIBED`, in milliseconds since 1970.
async fn effects(mut changes: Ordered, count: usize) -> Result<HashMap<String, u64>> {
    let mut seen = HashMap::new();
    while seen.len() < count {
        let document = changes.next().await.context("the bucket is closed")??;
        if Marks::read(document.headers.as_ref()).status == Some(LeadStatus::Unsubscribed) {
            let key = document.subject.trim_start_matches("$KV.leads.").to_owned();
            seen.entry(key).or_insert_with(now_millis);
        }
    }
    Ok(seen)
}
