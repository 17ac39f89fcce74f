//! Outgoing webhooks: tells subscribers what stands in the journal, one POST an event, at least once.
//!
//! Each has a consumer of its own on `JOURNAL` and an actor of its own, so that one that is slow or dead holds back
//! nobody else. A message of the journal holds the events of a whole batch; those that a subscriber does not have are
//! remembered, so that a try again repeats none of the others.
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dripline_domain::{JournalEvent, JournalLine, What};
use futures_util::{StreamExt, stream};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::Chain;
use crate::ports::{
    Clock, Control, Controlled, Controls, Delivery, Inbox, Leftovers, OutgoingWebhook, Posted, Rejected, Rejection,
    Settle, StoreError, journal_lines,
};

/// Journal messages at work at a time, and POSTs of each: what one subscriber can cost.
const MESSAGES: usize = 4;
const POSTS: usize = 8;
/// The first delay after a failure; each is twice the one before.
const FIRST_DELAY: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_hours(1);
/// An event that nobody took for so long is given up, if it was tried often enough: one that waited behind others for as
/// long was not.
const GIVEN_UP_AFTER: Duration = Duration::from_hours(3 * 24);
const TRIES_AT_LEAST: u64 = 10;
/// One try at a message takes no longer than this and one POST (20 s), well within the consumer's `ack_wait` (45 s); the rest
/// follows.
const AT_A_TIME: Duration = Duration::from_secs(15);
/// How often one that is held back looks whether it still is; and the pause after a failure of our own.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the pause of a subscriber that is gone carries as `by`.
pub(crate) const GONE: &str = "dripline";

/// One subscriber, and what it wants to hear.
#[derive(Clone)]
pub struct Subscriber {
    /// Posts to it.
    pub webhook: Arc<dyn OutgoingWebhook>,
    /// Its consumer of `JOURNAL`.
    pub inbox: Arc<dyn Inbox>,
    /// Which events; none for all but `sending` and `asked`, which say nothing that another event does not.
    pub events: Option<HashSet<JournalEvent>>,
}

impl Subscriber {
    fn wants(&self, event: &JournalEvent) -> bool {
        match &self.events {
            Some(events) => events.contains(event),
            None => !matches!(event, JournalEvent::Lead(What::Sending | What::Asked)),
        }
    }
}

pub(crate) enum Message {
    /// Post until told to stop.
    Post,
}

pub(crate) struct OutgoingActor;

#[derive(Clone)]
pub(crate) struct OutgoingArguments {
    pub(crate) subscriber: Subscriber,
    pub(crate) controls: Arc<dyn Controls>,
    pub(crate) leftovers: Arc<dyn Leftovers>,
    pub(crate) rejected: Arc<dyn Rejected>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Actor for OutgoingActor {
    type Msg = Message;
    type State = OutgoingArguments;
    type Arguments = OutgoingArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: OutgoingArguments,
    ) -> Result<OutgoingArguments, ActorProcessingErr> {
        myself.cast(Message::Post)?;
        Ok(arguments)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        Message::Post: Message,
        state: &mut OutgoingArguments,
    ) -> Result<(), ActorProcessingErr> {
        let mut stopping = state.stopping.clone();
        tokio::select! {
            () = state.post_some() => myself.cast(Message::Post)?,
            // What is at work is dropped unsettled, and delivered again.
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        Ok(())
    }
}

impl OutgoingArguments {
    async fn post_some(&self) {
        let name = self.subscriber.webhook.name();
        if self.controls.paused(Controlled::OutgoingWebhook(name)).is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
            return;
        }
        let mut messages = Vec::new();
        if let Err(error) = self.subscriber.inbox.pull(MESSAGES, &mut |message| messages.push(message)).await {
            tracing::warn!(webhook = name, error = %Chain(&error), "the journal cannot be read for an outgoing webhook; trying on");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let at_work = stream::iter(messages).map(|message| self.post_message(message));
        at_work.buffer_unordered(MESSAGES).collect::<()>().await;
    }

    async fn post_message(&self, delivery: Delivery) {
        let settle = match self.try_message(&delivery).await {
            Ok(settle) => settle,
            Err(error) => {
                let name = self.subscriber.webhook.name();
                tracing::warn!(webhook = name, error = %Chain(&error), "an outgoing webhook's message is interrupted; it will be delivered again");
                Settle::Retry(LOOK_EVERY)
            }
        };
        delivery.settle(settle);
    }

    /// Tries what the subscriber does not have yet of one journal message.
    async fn try_message(&self, delivery: &Delivery) -> Result<Settle, StoreError> {
        let name = self.subscriber.webhook.name();
        // `journal.<random>`: the same for good, also if the stream is made anew.
        let id = delivery.subject.rsplit('.').next().unwrap_or_default();
        let events = self.events(delivery);
        let mut left: BTreeSet<usize> = events.iter().map(|event| event.number).collect();
        if delivery.deliveries > 1
            && let Some(known) = self.leftovers.load(name, id).await?
        {
            left = known;
        }
        let tried = left.len();
        let until = Instant::now() + AT_A_TIME;
        let posts = events.iter().filter(|event| left.contains(&event.number)).map(|event| async move {
            let id = format!("{id}-{}", event.number);
            (event.number, self.subscriber.webhook.post(&id, event.body.clone(), self.clock.now()).await)
        });
        let mut posts = stream::iter(posts.collect::<Vec<_>>()).buffered(POSTS);
        let (mut taken, mut failure, mut gone) = (Vec::new(), None, false);
        while Instant::now() < until
            && let Some((number, posted)) = posts.next().await
        {
            match posted {
                Posted::Taken => taken.push(number),
                Posted::Refused { reason } => failure = Some(reason),
                Posted::Away { reason } => {
                    failure = Some(reason);
                    break;
                }
                Posted::Gone => {
                    gone = true;
                    break;
                }
            }
        }
        drop(posts);
        left.retain(|number| !taken.contains(number));
        if left.is_empty() {
            return Ok(Settle::Ack);
        }
        if left.len() < tried {
            self.leftovers.save(name, id, &left).await?;
        }
        if gone {
            self.disable(name).await?;
            return Ok(Settle::Retry(FIRST_DELAY));
        }
        // Only out of time: the rest at once.
        let Some(failure) = failure else { return Ok(Settle::Retry(Duration::ZERO)) };
        let age = self.clock.now().since(delivery.published);
        if age >= GIVEN_UP_AFTER && delivery.deliveries >= TRIES_AT_LEAST {
            for event in events.iter().filter(|event| left.contains(&event.number)) {
                self.give_up(name, &failure, event, delivery).await?;
            }
            return Ok(Settle::Ack);
        }
        let delay = delay(delivery.deliveries);
        tracing::warn!(
            webhook = name,
            left = left.len(),
            failure,
            ?delay,
            "events could not be posted; trying again later"
        );
        Ok(Settle::Retry(delay))
    }

    async fn disable(&self, name: &str) -> Result<(), StoreError> {
        let control = Control {
            paused: true,
            reason: "it answered 410 Gone".to_owned(),
            by: GONE.to_owned(),
            timestamp: self.clock.now(),
        };
        self.controls.change(Controlled::OutgoingWebhook(name), &control, None).await.map(drop)
    }

    async fn give_up(&self, name: &str, failure: &str, event: &Event, delivery: &Delivery) -> Result<(), StoreError> {
        let reason = format!("outgoing webhook `{name}` did not take it for three days; the last answer: {failure}");
        tracing::error!(webhook = name, failure, "an event was given up; it is kept in REJECTED");
        let rejection = Rejection {
            payload: event.body.clone(),
            content_type: Some("application/json".to_owned()),
            ..Rejection::of("webhook_undeliverable", reason, delivery)
        };
        self.rejected.keep(rejection).await
    }

    /// The events of a message that this subscriber wants to hear.
    fn events(&self, delivery: &Delivery) -> Vec<Event> {
        let mut events = Vec::new();
        for (number, line) in journal_lines(&delivery.payload).enumerate() {
            match read(line) {
                Ok((line, data)) if self.subscriber.wants(&line.event) => {
                    events.push(Event { number, body: body(&line, &data) });
                }
                Ok(_) => {}
                Err(error) => {
                    let sequence = delivery.sequence;
                    tracing::warn!(sequence, %error, "a line of JOURNAL cannot be read, and is not posted");
                }
            }
        }
        events
    }
}

/// One event, as it is posted.
struct Event {
    /// Its line in the message, counted from 0.
    number: usize,
    body: Bytes,
}

fn read(line: &[u8]) -> Result<(JournalLine, Value), serde_json::Error> {
    Ok((JournalLine::from_json(line)?, serde_json::from_slice(line)?))
}

/// The body that Standard Webhooks recommends: type, timestamp, data.
fn body(line: &JournalLine, data: &Value) -> Bytes {
    let name = data["event"].as_str().unwrap_or_default();
    let body = json!({
        "type": format!("dripline.{name}"),
        "timestamp": line.timestamp.to_string(),
        "data": data,
    });
    body.to_string().into()
}

/// After so many deliveries, this one included.
fn delay(deliveries: u64) -> Duration {
    let doublings = u32::try_from(deliveries.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_from_five_seconds_to_an_hour() {
        let seconds: Vec<_> = [1, 2, 3, 10, 11, u64::MAX].map(|deliveries| delay(deliveries).as_secs()).into();
        assert_eq!(seconds, [5, 10, 20, 2_560, 3_600, 3_600]);
    }
}
