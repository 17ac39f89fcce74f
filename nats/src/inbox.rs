use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::{AckKind, Message};
use async_nats::{Client, Subject};
use async_trait::async_trait;
use bytes::Bytes;
use dripline_actors::ports::{Acknowledge, Delivery, Inbox, Settle, Settlement, StoreError};
use dripline_domain::Timestamp;
use futures_util::{FutureExt, StreamExt};

/// A pull waits so long for messages; stopping takes as long at most.
const PULL_EXPIRES: Duration = Duration::from_millis(900);

/// A durable consumer of a work queue.
pub struct JetStreamInbox {
    consumer: Consumer<pull::Config>,
    client: Client,
}

impl JetStreamInbox {
    /// Settles over `client`, the connection the consumer was got with.
    pub fn new(consumer: Consumer<pull::Config>, client: Client) -> Self {
        Self { consumer, client }
    }

    fn delivery(&self, message: Message) -> Result<Delivery, StoreError> {
        let info = message.info().map_err(StoreError::Unavailable)?;
        let (sequence, deliveries) = (info.stream_sequence, info.delivered);
        let published = i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let message = message.message;
        let Some(to) = message.reply else {
            return Err(StoreError::Unavailable("a message without a reply subject".into()));
        };
        Ok(Delivery {
            content_type: message
                .headers
                .as_ref()
                .and_then(|headers| headers.get("Content-Type"))
                .map(|value| value.as_str().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()),
            subject: message.subject.to_string(),
            payload: message.payload,
            sequence,
            published: Timestamp::from_millis(published),
            deliveries: u64::try_from(deliveries).unwrap_or(1),
            settlement: Settlement::new(Reply { client: self.client.clone(), to }),
        })
    }
}

#[async_trait]
impl Inbox for JetStreamInbox {
    async fn pull(&self, most: usize, deliver: &mut (dyn FnMut(Delivery) + Send)) -> Result<usize, StoreError> {
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
}

/// Answers a message on its reply subject.
struct Reply {
    client: Client,
    to: Subject,
}

impl Acknowledge for Reply {
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
