//! Leads that are asleep, as the engine leaves them: a document and a timer each.
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dripline_actors::Timer;
use dripline_actors::ports::{BatchResult, JournalLines, LeadStore, Put, Timers};
use dripline_domain::{
    ArrivalId, Context, DoubtPolicy, Event, Lead, LeadIdKey, LeadKey, Outcome, Reentry, RetryPolicy, Sanitiser, Send,
    Sequence, Step, StepEvent, Suppression, Template, Timestamp, send_key, transition,
};
use dripline_nats::{Connections, JetStreamLeadStore, JetStreamTimers, Login, topology};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::measure::{now_millis, progress};
use crate::system::Delays;

/// Documents in one atomic batch.
const BATCH: usize = 990;
/// Batches under way at a time: one is written while the timers of another are set.
const BATCHES: usize = 4;
/// Timers of a batch under way at a time.
const TIMERS: usize = 256;

const NAME: &str = "asleep";
/// Between a sleeper's first email and the one it waits for.
const MONTHS: Duration = Duration::from_hours(24 * 180);
/// The sleepers had their first email within so long before now, evenly.
const SPREAD_MILLIS: usize = 30 * 24 * 3_600_000;

/// The sequence they are in, for the engine's folder.
pub fn delays() -> Delays<'static> {
    (NAME, vec!["0s".to_owned(), format!("{}h", MONTHS.as_secs() / 3_600)])
}

/// Puts so many of them to sleep; gives how long it took.
pub async fn fill(url: &str, count: usize) -> Result<Duration> {
    let connections = dripline_nats::connect(url, &Login::None, "sleepers").await?;
    let context = Connections::jetstream(&connections.general);
    let bucket = context.get_stream_no_info(topology::LEADS_BUCKET).await?;
    let timers = context.get_stream_no_info(topology::TIMERS).await?;
    let filler = Arc::new(Filler {
        store: JetStreamLeadStore::new(bucket, connections.commits.clone()),
        timers: JetStreamTimers::new(Connections::jetstream(&connections.timers), timers),
        sequence: sequence(),
        // Only their length matters: the engine reads ids, and never checks them.
        lead_ids: LeadIdKey::new("bench"),
        now: i64::try_from(now_millis())?,
    });
    let started = Instant::now();
    let mut batches = stream::iter((0..count).step_by(BATCH))
        .map(|first| {
            let (filler, numbers) = (Arc::clone(&filler), first..(first + BATCH).min(count));
            tokio::spawn(async move { filler.batch(numbers).await })
        })
        .buffer_unordered(BATCHES);
    let (mut done, mut said) = (0, Instant::now());
    while let Some(batch) = batches.next().await {
        done += batch??;
        if said.elapsed() > Duration::from_secs(5) {
            progress(format_args!("{done} of {count} asleep"));
            said = Instant::now();
        }
    }
    let took = started.elapsed();
    let messages = context.get_stream(topology::LEADS_BUCKET).await?.cached_info().state.messages;
    ensure!(messages == count as u64, "{count} leads were put to sleep, and the bucket has {messages} documents");
    Ok(took)
}

struct Filler {
    store: JetStreamLeadStore,
    timers: JetStreamTimers,
    sequence: Sequence,
    lead_ids: LeadIdKey,
    now: i64,
}

impl Filler {
    async fn batch(&self, numbers: Range<usize>) -> Result<usize> {
        let puts = numbers.map(|number| self.put(number)).collect::<Result<Vec<_>>>()?;
        // No journal: that of leads asleep for long has left the bucket.
        match self.store.write(&puts, JournalLines::default()).await {
            BatchResult::Written(_) => {}
            BatchResult::Refused => bail!("a batch of sleepers was refused: they are there already"),
            BatchResult::Unanswered(error) => bail!("a batch of sleepers was not answered: {error}"),
        }
        let count = puts.len();
        stream::iter(puts)
            .map(|Put { key, next_action, generation, .. }| async move {
                let at = next_action.context("a sleeper without a next time")?;
                let timer = Timer::new(key, at, generation);
                self.timers.set(timer).await.context("a sleeper's timer")
            })
            .buffer_unordered(TIMERS)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(count)
    }

    fn put(&self, number: usize) -> Result<Put> {
        // Coprime to the spread: every number has a time of its own, and neighbours are far apart.
        let before = i64::try_from(number * 49_999 % SPREAD_MILLIS)?;
        let lead = lead(&self.sequence, &self.lead_ids, Timestamp::from_millis(self.now - before), number)?;
        Ok(Put {
            key: LeadKey::of(&lead.address),
            expected: 0,
            document: Some(lead.to_json()?.into()),
            next_action: lead.next_action(),
            generation: lead.generation,
            status: Some(lead.status()),
            write: rand::random(),
        })
    }
}

/// By the engine's own rules: it arrived at `now`, had its first email, and waits for the second.
fn lead(sequence: &Sequence, lead_ids: &LeadIdKey, now: Timestamp, number: usize) -> Result<Lead> {
    let context = Context { now, random: 0.5, retry: RetryPolicy::default(), doubt: DoubtPolicy::default() };
    let raw = format!("{{\"email\":\"asleep-{number}@example.com\",\"firstName\":\"Sleeper {number}\"}}");
    let arrival = Sanitiser::default().read_json(raw.as_bytes())?;
    let arrived = Event::Arrived {
        id: ArrivalId::new(number as u64 + 1, now, None),
        lead_id: lead_ids.lead_id(&arrival.address),
        arrival,
        sequence,
        suppression: Suppression::default(),
    };
    let mut lead = transition(None, arrived, &context)?.lead;
    let enrolment = lead.enrolments.first().context("nothing began")?;
    let (id, send_key) = (enrolment.id(), send_key(&lead.lead_id, enrolment, "step-0"));
    let begin =
        StepEvent::Begin { owner: "bench".into(), provider: "resend".into(), answer_within: Duration::from_secs(22) };
    let outcome = Outcome::Accepted { message_id: format!("{number:032x}").into() };
    for event in [begin, StepEvent::Answered { send_key, attempt: 1, outcome }] {
        lead = transition(Some(&lead), Event::Step { enrolment: id.clone(), sequence, event }, &context)?.lead;
    }
    Ok(lead)
}

/// As in the folder, as far as the rules look at it.
fn sequence() -> Sequence {
    let step = |number: usize, after| Step {
        id: format!("step-{number}").into(),
        after,
        send: Send { subject: "Hello".to_owned(), template: "text".to_owned() },
    };
    let text = Template { html: None, text: Some("Hello".to_owned()) };
    Sequence {
        name: NAME.into(),
        version: 1,
        from: "hello@acme.example".into(),
        reply_to: None,
        reentry: Reentry::Ignore,
        transactional: false,
        steps: vec![step(0, Duration::ZERO), step(1, MONTHS)],
        templates: BTreeMap::from([("text".to_owned(), text)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_has_had_one_email_and_waits_for_months() {
        let lead = lead(&sequence(), &LeadIdKey::new("bench"), Timestamp::from_millis(0), 7).unwrap();
        assert_eq!(lead.status().name(), "ACTIVE");
        assert_eq!(lead.next_action(), Some(Timestamp::from_millis(0).plus(MONTHS)));
    }
}
