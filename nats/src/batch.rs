//! Atomic batches (ADR-50): all messages of a batch are stored, or none, with one fsync.
use std::time::Duration;

use async_nats::header::{NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::{Client, HeaderMap, Request, jetstream};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::watch;

/// Messages in a batch (ADR-50).
pub(crate) const MOST: usize = 1_000;
/// An answer that takes longer is lost: the server forgets an idle batch after 10 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// `JSStreamWrongLastSequence`, with and without its constant text.
const CONFLICTS: [u64; 2] = [10_071, 10_164];

#[derive(Clone)]
pub(crate) struct BatchMessage {
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

/// Why a batch was not stored, or not surely.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    /// The server refused the whole batch.
    #[error("the server refused the batch: {description} ({code})")]
    Refused { code: u64, description: String },
    /// Nobody knows whether it was stored.
    #[error("the batch was not answered")]
    Unanswered(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl BatchError {
    /// A revision is not the expected one.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if CONFLICTS.contains(code))
    }

    /// The stream is at a limit, or the disk is: `JSStreamStoreFailed` and its kin.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Refused { code: 10023 | 10047 | 10077, .. })
    }
}

/// The same of a single publish. A cluster says so by a code that the client does not know by name.
pub(crate) fn is_wrong_last_sequence(error: &PublishError) -> bool {
    let code = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
        .map(|source| source.error_code().0);
    error.kind() == PublishErrorKind::WrongLastSequence || code.is_some_and(|code| CONFLICTS.contains(&code))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ack {
    Refused { error: Refusal },
    Stored { seq: u64 },
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Stores all messages or none; gives the stream sequence of the last. The others have the ones just before it. `lost`
/// changes when the connection is lost: the answer went with it, so it is not waited for.
pub(crate) async fn publish_batch(
    client: &Client,
    mut lost: watch::Receiver<u64>,
    messages: Vec<BatchMessage>,
) -> Result<u64, BatchError> {
    lost.mark_unchanged();
    tokio::select! {
        stored = publish(client, messages) => stored,
        Ok(()) = lost.changed() => Err(BatchError::Unanswered("the connection was lost".into())),
    }
}

async fn publish(client: &Client, messages: Vec<BatchMessage>) -> Result<u64, BatchError> {
    let unanswered = |error: Box<dyn std::error::Error + Send + Sync>| BatchError::Unanswered(error);
    let id = format!("{:x}", rand::random::<u64>());
    let last = messages.len();
    for (number, mut message) in (1_usize..).zip(messages) {
        message.headers.insert(NATS_BATCH_ID, id.as_str());
        message.headers.insert(NATS_BATCH_SEQUENCE, number.to_string());
        if number < last {
            client
                .publish_with_headers(message.subject, message.headers, message.payload)
                .await
                .map_err(|error| unanswered(error.into()))?;
            continue;
        }
        message.headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        let request = Request::new().headers(message.headers).payload(message.payload).timeout(Some(ANSWER_WITHIN));
        let answer = client.send_request(message.subject, request).await.map_err(|error| unanswered(error.into()))?;
        return match serde_json::from_slice(&answer.payload).map_err(|error| unanswered(error.into()))? {
            Ack::Stored { seq } => Ok(seq),
            Ack::Refused { error } => Err(BatchError::Refused { code: error.err_code, description: error.description }),
        };
    }
    Ok(0)
}
