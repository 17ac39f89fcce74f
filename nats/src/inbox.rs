use std::error::Error;
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{AckKind, Message};
use async_nats::{Client, Subject};
use async_trait::async_trait;
use bytes::Bytes;
use dripline_actors::ports::{Acknowledge, Delivery, Inbox, Settle, Settlement, StoreError};
use dripline_actors::trace;
use dripline_domain::Timestamp;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::mender::Mender;

/// A pull waits so long for messages; stopping takes as long at most.
const PULL_EXPIRES: Duration = Duration::from_millis(900);

/// How often the queue's settled messages are removed.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// What is asked beside pulling holds it up no longer: while a cluster elects a leader, questions are lost, and each would
/// wait ten seconds for its answer.
const ASIDE: Duration = Duration::from_secs(1);

/// A durable consumer of a queue.
pub struct JetStreamInbox {
    consumer: Consumer<pull::Config>,
    client: Client,
    trim: Option<Mutex<Trim>>,
    mender: Mender,
}

/// Removes what every message before is settled, too, from a stream that keeps what is acknowledged: all of it with
/// one fsync, where work queue retention takes one for each message.
struct Trim {
    stream: Stream<()>,
    /// Settled up to here, and removed.
    floor: u64,
    next: Instant,
}

impl JetStreamInbox {
    /// Settles over the connection the consumer was got with. The stream removes what is settled.
    pub fn new(consumer: Consumer<pull::Config>, mender: Mender) -> Self {
        Self { consumer, client: mender.connections.general.clone(), trim: None, mender }
    }

    /// The same for a `stream` that keeps what is settled: this inbox removes it, and must be its only consumer.
    pub fn trimming(consumer: Consumer<pull::Config>, mender: Mender, stream: Stream<()>) -> Self {
        let trim = Trim { stream, floor: 0, next: Instant::now() };
        Self { trim: Some(Mutex::new(trim)), ..Self::new(consumer, mender) }
    }

    /// A failure costs nothing but disk until the next time.
    async fn trim(&self) {
        let Some(trim) = &self.trim else { return };
        let mut trim = trim.lock().await;
        if Instant::now() < trim.next {
            return;
        }
        trim.next = Instant::now() + TRIM_EVERY;
        match timeout(ASIDE, trim.remove(&self.consumer)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = &*error, "settled messages could not be removed from their queue yet");
            }
            Err(_) => tracing::debug!("settled messages could not be removed from their queue in time"),
        }
    }

    /// Somebody may have deleted the stream or the consumer, or the server may have lost it.
    async fn mend_if_missing(&self) {
        let asked = timeout(ASIDE, self.consumer.get_info()).await;
        let missing = asked.is_ok_and(|found| {
            found.is_err_and(|error| {
                matches!(error.kind(), ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound)
            })
        });
        if missing {
            self.mender.mend().await;
        }
    }

    async fn receive(&self, most: usize, deliver: &mut (dyn FnMut(Delivery) + Send)) -> Result<usize, StoreError> {
        let mut messages = self
            .consumer
            .batch()
            .max_messages(most)
            .expires(PULL_EXPIRES)
            .messages()
            .await
            .map_err(|error| StoreError::Unavailable(error.into()))?;
        let mut count = 0;
        while let Some(message) = messages.next().await {
            deliver(self.delivery(message.map_err(StoreError::Unavailable)?)?);
            count += 1;
        }
        Ok(count)
    }

    fn delivery(&self, message: Message) -> Result<Delivery, StoreError> {
        let info = message.info().map_err(StoreError::Unavailable)?;
        let (sequence, deliveries) = (info.stream_sequence, info.delivered);
        let published = timestamp(info.published.unix_timestamp_nanos());
        let message = message.message;
        let Some(to) = message.reply else {
            return Err(StoreError::Unavailable("a message without a reply subject".into()));
        };
        let header = |name: &str| message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str);
        Ok(Delivery {
            content_type: header("Content-Type")
                .map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()),
            message_id: header("Nats-Msg-Id").map(str::to_owned),
            trace: header(trace::HEADER).map(str::to_owned),
            subject: message.subject.to_string(),
            payload: message.payload,
            sequence,
            published,
            deliveries: u64::try_from(deliveries).unwrap_or(1),
            settlement: Settlement::new(Reply { client: self.client.clone(), to }),
        })
    }
}

impl Trim {
    async fn remove(&mut self, consumer: &Consumer<pull::Config>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let floor = consumer.get_info().await?.ack_floor.stream_sequence;
        if floor > self.floor {
            self.stream.purge().sequence(floor + 1).await?;
            self.floor = floor;
        }
        Ok(())
    }
}

#[async_trait]
impl Inbox for JetStreamInbox {
    async fn pull(&self, most: usize, deliver: &mut (dyn FnMut(Delivery) + Send)) -> Result<usize, StoreError> {
        let (received, ()) = tokio::join!(self.receive(most, deliver), self.trim());
        if received.is_err() {
            self.mend_if_missing().await;
        }
        received
    }
}

/// Answers a message on its reply subject.
struct Reply {
    client: Client,
    to: Subject,
}

impl Acknowledge for Reply {
    fn in_progress(&self) {
        let (client, to) = (self.client.clone(), self.to.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Lost, it is said again.
            runtime.spawn(async move { client.publish(to, AckKind::Progress.into()).await });
        }
    }

    fn settle(self: Box<Self>, how: Settle) {
        let answer: Bytes = match how {
            Settle::Ack => AckKind::Ack,
            Settle::Retry(delay) => AckKind::Nak(Some(delay)),
            Settle::Terminate => AckKind::Term,
        }
        .into();
        let Reply { client, to } = *self;
        let publish = async move { client.publish(to, answer).await };
        let mut publish = Box::pin(publish);
        match publish.as_mut().now_or_never() {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "an answer could not be sent; the message will be delivered again");
            }
            // The client's buffer is full. Without a runtime the process is ending, and redelivery settles it.
            None => {
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(publish);
                }
            }
        }
    }
}

/// When a stream took a message, from Unix nanoseconds.
pub(crate) fn timestamp(unix_nanos: i128) -> Timestamp {
    Timestamp::from_millis(i64::try_from(unix_nanos / 1_000_000).unwrap_or(i64::MAX))
}
