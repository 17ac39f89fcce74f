use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_SCHEDULE, NATS_SCHEDULE_TARGET};
use async_nats::jetstream;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use dripline_actors::ports::{TimerError, Timers};
use dripline_actors::{TimerPayload, trace};
use dripline_domain::{LeadKey, Timestamp};

use crate::batch::is_wrong_last_sequence;
use crate::topology::{TIMERS_AT_SUBJECT, TIMERS_DUE_SUBJECT};

/// The server looks for what is due every 250 ms and no sooner (nats-server 2.15, `MsgScheduling.resetTimer`), so a
/// schedule may fire so much late. It is set so much early, and the lead waits out the rest.
const EARLY_MILLIS: i64 = 250;

/// What is due within this is part of the trace that set the timer. Later steps begin traces of their own, which have
/// the lead's id and the send key in common: a trace that lasts for weeks is of no use.
const SAME_TRACE: Duration = Duration::from_mins(1);

/// The stream `TIMERS`: scheduled messages (ADR-51). A lead has one pending schedule, `timers.at.<key>`, which fires
/// into `timers.due.<key>`. Only `@at` is used: after a downtime an overdue one fires at once.
pub struct JetStreamTimers {
    context: jetstream::Context,
    stream: Stream<()>,
}

impl JetStreamTimers {
    /// Over the timers' own connection.
    pub fn new(context: jetstream::Context, stream: Stream<()>) -> Self {
        Self { context, stream }
    }

    async fn publish(
        &self,
        key: &LeadKey,
        at: Timestamp,
        generation: u64,
        if_absent: bool,
    ) -> Result<(), PublishFailure> {
        let payload = TimerPayload { generation }.encode().map_err(|error| PublishFailure::Other(error.into()))?;
        let due = format!("{TIMERS_DUE_SUBJECT}{key}");
        let mut headers = HeaderMap::new();
        if if_absent {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        }
        if at.since(now()) <= SAME_TRACE
            && let Some(trace) = trace::current()
        {
            headers.insert(trace::HEADER, trace);
        }
        let fires_at = Timestamp::from_millis(at.as_millis().saturating_sub(EARLY_MILLIS));
        let subject = if fires_at <= now() {
            // Due already, or in a moment: no need of a schedule.
            due
        } else {
            headers.insert(NATS_SCHEDULE, format!("@at {fires_at}"));
            headers.insert(NATS_SCHEDULE_TARGET, due);
            format!("{TIMERS_AT_SUBJECT}{key}")
        };
        let ack = self.context.publish_with_headers(subject, headers, payload).await;
        let error = match ack {
            Ok(ack) => match ack.await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            },
            Err(error) => error,
        };
        Err(if is_wrong_last_sequence(&error) { PublishFailure::Present } else { PublishFailure::Other(error.into()) })
    }
}

enum PublishFailure {
    Present,
    Other(dripline_actors::ports::Source),
}

#[async_trait]
impl Timers for JetStreamTimers {
    async fn set(&self, key: &LeadKey, at: Timestamp, generation: u64) -> Result<(), TimerError> {
        match self.publish(key, at, generation, false).await {
            Ok(()) => Ok(()),
            Err(PublishFailure::Present) => {
                Err(TimerError("the server refused a timer for its subject's sequence".into()))
            }
            Err(PublishFailure::Other(error)) => Err(TimerError(error)),
        }
    }

    async fn set_if_absent(&self, key: &LeadKey, at: Timestamp, generation: u64) -> Result<(), TimerError> {
        match self.publish(key, at, generation, true).await {
            Ok(()) | Err(PublishFailure::Present) => Ok(()),
            Err(PublishFailure::Other(error)) => Err(TimerError(error)),
        }
    }

    async fn clear(&self, key: &LeadKey) -> Result<(), TimerError> {
        let subject = format!("{TIMERS_AT_SUBJECT}{key}");
        self.stream.purge().filter(subject).await.map(drop).map_err(|error| TimerError(error.into()))
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
