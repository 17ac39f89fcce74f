use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_SCHEDULE, NATS_SCHEDULE_TARGET};
use async_nats::jetstream;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use dripline_actors::ports::{Source, TimerError, Timers};
use dripline_actors::{Timer, trace};
use dripline_domain::{LeadKey, Timestamp};
use futures_util::future::join_all;
use futures_util::stream::TryStreamExt;
use tokio::sync::{mpsc, oneshot};

use crate::batch::is_wrong_last_sequence;
use crate::direct::{Stored, read_all};
use crate::topology::{TIMERS, TIMERS_AT_SUBJECT, TIMERS_DUE_SUBJECT};

/// The server looks for what is due every 250 ms and no sooner (nats-server 2.15, `MsgScheduling.resetTimer`), so a
/// schedule may fire so much late. It is set so much early, and the lead waits out the rest.
const EARLY_MILLIS: i64 = 250;

/// Timers whose times lie this close together share a message, which fires for the first of them.
const TOGETHER_MILLIS: i64 = 100;

/// The most timers in a message. An engine takes all of them; a second engine could have had some.
const MOST: usize = 64;

/// Timers that wait for their group; beyond it, those who set them wait as well.
const ROOM: usize = 8_192;

/// What is due within this is part of the trace that set the timer. Later steps begin traces of their own, which have
/// the lead's id and the send key in common: a trace that lasts for weeks is of no use.
const SAME_TRACE: Duration = Duration::from_mins(1);

/// The stream `TIMERS`: scheduled messages (ADR-51). Each is for a group of timers; `timers.at.<id>` fires into
/// `timers.due.<id>`. Only `@at` is used: after a downtime an overdue one fires at once.
///
/// A task of its own gathers them: while some are being published, the next ones come together. It ends when this is
/// dropped.
pub struct JetStreamTimers {
    waiting: mpsc::Sender<Waiting>,
    publisher: Publisher,
}

struct Waiting {
    timer: Timer,
    reply: oneshot::Sender<Result<(), TimerError>>,
}

impl JetStreamTimers {
    /// Over the timers' own connection.
    pub fn new(context: jetstream::Context, stream: Stream<()>) -> Self {
        let (waiting, timers) = mpsc::channel(ROOM);
        let publisher = Publisher { context, stream };
        tokio::spawn(publisher.clone().publish_all(timers));
        Self { waiting, publisher }
    }
}

#[async_trait]
impl Timers for JetStreamTimers {
    async fn set(&self, mut timer: Timer) -> Result<(), TimerError> {
        if timer.trace.is_none() && timer.at.since(now()) <= SAME_TRACE {
            timer.trace = trace::current();
        }
        let (reply, answer) = oneshot::channel();
        let gone = || TimerError("the process is ending".into());
        self.waiting.send(Waiting { timer, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    async fn forget(&self, key: &LeadKey) -> Result<(), TimerError> {
        self.publisher.forget(key).await.map_err(TimerError)
    }
}

#[derive(Clone)]
struct Publisher {
    context: jetstream::Context,
    stream: Stream<()>,
}

impl Publisher {
    async fn publish_all(self, mut waiting: mpsc::Receiver<Waiting>) {
        let mut timers = Vec::new();
        while waiting.recv_many(&mut timers, ROOM).await > 0 {
            timers.sort_unstable_by_key(|waiting| waiting.timer.at);
            let mut left = timers.drain(..).peekable();
            let groups = std::iter::from_fn(|| {
                let first = left.next()?;
                let until = first.timer.at.as_millis().saturating_add(TOGETHER_MILLIS);
                let mut group = vec![first];
                while group.len() < MOST
                    && let Some(next) = left.next_if(|next| next.timer.at.as_millis() <= until)
                {
                    group.push(next);
                }
                Some(group)
            });
            join_all(groups.map(|group| self.publish(group))).await;
        }
    }

    /// Publishes a group, the earliest first, and answers for each.
    async fn publish(&self, group: Vec<Waiting>) {
        let published = self.try_publish(&group).await.map_err(|error| error.to_string());
        for Waiting { reply, .. } in group {
            // Whoever set it may have gone.
            let _ = reply.send(published.clone().map_err(|error| TimerError(error.into())));
        }
    }

    async fn try_publish(&self, group: &[Waiting]) -> Result<(), Source> {
        let Some(first) = group.first() else { return Ok(()) };
        let mut payload = Vec::with_capacity(group.len() * 64);
        for Waiting { timer, .. } in group {
            timer.write(&mut payload)?;
        }
        let id = format!("{:016x}", rand::random::<u64>());
        let due = format!("{TIMERS_DUE_SUBJECT}{id}");
        let fires_at = Timestamp::from_millis(first.timer.at.as_millis().saturating_sub(EARLY_MILLIS));
        let (subject, headers) = if fires_at <= now() {
            // Due already, or in a moment: no need of a schedule.
            (due, HeaderMap::new())
        } else {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_SCHEDULE, format!("@at {fires_at}"));
            headers.insert(NATS_SCHEDULE_TARGET, due);
            (format!("{TIMERS_AT_SUBJECT}{id}"), headers)
        };
        Ok(self.store(subject, headers, payload).await?)
    }

    async fn store(&self, subject: String, headers: HeaderMap, payload: Vec<u8>) -> Result<(), PublishError> {
        self.context.publish_with_headers(subject, headers, payload.into()).await?.await.map(drop)
    }

    /// Reads every schedule: there is no other way to those of one lead, and leads are seldom erased.
    async fn forget(&self, key: &LeadKey) -> Result<(), Source> {
        let mut groups = read_all(self.context.clone(), TIMERS);
        while let Some(group) = groups.try_next().await? {
            if !group.subject.starts_with(TIMERS_AT_SUBJECT) {
                continue;
            }
            let mut others = Vec::new();
            let mut is_in_it = false;
            for bytes in Timer::split(&group.message.payload) {
                if Timer::read(&bytes).is_ok_and(|timer| timer.key == *key) {
                    is_in_it = true;
                } else {
                    others.extend_from_slice(&bytes);
                }
            }
            if is_in_it {
                self.replace(group, others).await?;
            }
        }
        Ok(())
    }

    /// Leaves only this of a group. One that has fired meanwhile is no longer there, and its timers are worked off.
    async fn replace(&self, group: Stored, payload: Vec<u8>) -> Result<(), Source> {
        let Stored { subject, sequence, message } = group;
        if payload.is_empty() {
            self.stream.purge().filter(subject).await?;
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        for name in [NATS_SCHEDULE, NATS_SCHEDULE_TARGET] {
            if let Some(value) = message.headers.as_ref().and_then(|headers| headers.get(name.clone())) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
        match self.store(subject, headers, payload).await {
            Err(error) if !is_wrong_last_sequence(&error) => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
