//! The stream `REJECTED`, as an operator reads and clears it.
use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use bytes::Bytes;
use dripline_actors::ports::Source;
use dripline_domain::Timestamp;
use futures_util::StreamExt;

use crate::inbox::timestamp;
use crate::rejected::{CONTENT_TYPE_HEADER, REASON_HEADER, SUBJECT_HEADER};
use crate::topology::{LEADS_SUBJECT, REJECTED, REJECTED_SUBJECT};

/// The payload's size, where only headers are delivered.
const SIZE_HEADER: &str = "Nats-Msg-Size";

/// What could not be processed.
pub struct RejectedList {
    stream: Stream<()>,
    context: Context,
}

/// One message of it, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedMessage {
    /// Its number in the stream.
    pub sequence: u64,
    /// When it was rejected.
    pub timestamp: Timestamp,
    /// Why, in a word; docs/rejected.md has them all.
    pub code: String,
    /// Why, for people.
    pub reason: String,
    /// The subject it came on.
    pub subject: String,
    /// As it came, if it came with one.
    pub content_type: Option<String>,
    /// Of its payload.
    pub bytes: usize,
}

/// Why a message could not be shown, replayed or dropped.
#[derive(Debug, thiserror::Error)]
pub enum RejectedListError {
    /// The server is away, or refused.
    #[error("the stream `REJECTED` is unavailable")]
    Unavailable(#[source] Source),
    /// There is none of this number.
    #[error("there is no message {0} in `REJECTED`; `dripline rejected ls` shows what there is")]
    NotFound(u64),
    /// Only leads are replayed.
    #[error(
        "message {sequence} came on `{subject}`, and only leads are replayed: drop it; a lead's timer is set again by itself"
    )]
    NotALead {
        /// Its number.
        sequence: u64,
        /// Its subject.
        subject: String,
    },
    /// The queue did not take it: it stays in `REJECTED`.
    #[error("message {sequence} could not be put back into the queue, and stays in `REJECTED`")]
    NotReplayed {
        /// Its number.
        sequence: u64,
        /// Why.
        source: Source,
    },
}

impl RejectedList {
    /// Over the stream.
    ///
    /// # Errors
    /// It is not there, or the server is away.
    pub async fn open(context: Context) -> Result<Self, RejectedListError> {
        let stream = context.get_stream_no_info(REJECTED).await.map_err(unavailable)?;
        Ok(Self { stream, context })
    }

    /// Every message, or those of one code, the oldest first.
    pub async fn list(&self, code: Option<&str>) -> Result<Vec<RejectedMessage>, RejectedListError> {
        let consumer = self
            .stream
            .create_consumer(OrderedConfig {
                filter_subject: format!("{REJECTED_SUBJECT}{}", code.unwrap_or("*")),
                headers_only: true,
                ..OrderedConfig::default()
            })
            .await
            .map_err(unavailable)?;
        let mut to_come = consumer.cached_info().num_pending;
        let mut messages = consumer.messages().await.map_err(unavailable)?;
        let mut found = Vec::new();
        while to_come > 0 {
            let Some(message) = messages.next().await else { break };
            let message = message.map_err(unavailable)?;
            let info = message.info().map_err(RejectedListError::Unavailable)?;
            let headers = message.headers.clone().unwrap_or_default();
            let bytes = headers.get(SIZE_HEADER).and_then(|size| size.as_str().parse().ok()).unwrap_or_default();
            let nanos = info.published.unix_timestamp_nanos();
            found.push(read(info.stream_sequence, nanos, &message.subject, &headers, bytes));
            to_come -= 1;
        }
        Ok(found)
    }

    /// One message, and its bytes.
    pub async fn get(&self, sequence: u64) -> Result<(RejectedMessage, Bytes), RejectedListError> {
        let message = self.stream.direct_get(sequence).await.map_err(|error| match error.kind() {
            DirectGetErrorKind::NotFound => RejectedListError::NotFound(sequence),
            _ => unavailable(error),
        })?;
        let nanos = message.time.unix_timestamp_nanos();
        let found = read(message.sequence, nanos, &message.subject, &message.headers, message.payload.len());
        Ok((found, message.payload))
    }

    /// Puts a lead back into the queue as it came, and then removes it from here. A crash in between leaves it in both;
    /// within two minutes of the first, another replay is the same arrival.
    pub async fn replay(&self, sequence: u64) -> Result<(), RejectedListError> {
        let (message, payload) = self.get(sequence).await?;
        let RejectedMessage { subject, timestamp, content_type, .. } = message;
        if subject != LEADS_SUBJECT && !subject.starts_with(&format!("{LEADS_SUBJECT}.")) {
            return Err(RejectedListError::NotALead { sequence, subject });
        }
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, format!("rejected.{sequence}.{}", timestamp.as_millis()));
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE_HEADER, content_type);
        }
        let not_replayed = |source: Source| RejectedListError::NotReplayed { sequence, source };
        let ack = self.context.publish_with_headers(subject, headers, payload).await;
        ack.map_err(|error| not_replayed(error.into()))?.await.map_err(|error| not_replayed(error.into()))?;
        self.remove(sequence).await
    }

    /// Removes a message for good.
    pub async fn drop(&self, sequence: u64) -> Result<(), RejectedListError> {
        self.get(sequence).await?;
        self.remove(sequence).await
    }

    async fn remove(&self, sequence: u64) -> Result<(), RejectedListError> {
        self.stream.delete_message(sequence).await.map(drop).map_err(unavailable)
    }
}

fn read(sequence: u64, unix_nanos: i128, subject: &str, headers: &HeaderMap, bytes: usize) -> RejectedMessage {
    let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    RejectedMessage {
        sequence,
        timestamp: timestamp(unix_nanos),
        code: subject.strip_prefix(REJECTED_SUBJECT).unwrap_or(subject).to_owned(),
        reason: header(REASON_HEADER).unwrap_or_default(),
        subject: header(SUBJECT_HEADER).unwrap_or_default(),
        content_type: header(CONTENT_TYPE_HEADER),
        bytes,
    }
}

fn unavailable(error: impl Into<Source>) -> RejectedListError {
    RejectedListError::Unavailable(error.into())
}
