use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, LastRawMessageErrorKind, Stream};
use async_trait::async_trait;
use dripline_actors::ports::{BatchResult, Fate, JournalLines, LeadStore, Put, Revision, StoreError};
use dripline_domain::{Lead, LeadKey};
use futures_util::future::try_join_all;

use crate::batch::{BatchError, BatchMessage};
use crate::connect::CommitConnection;
use crate::marks::{self, Marks};
use crate::topology::{JOURNAL_SUBJECT, JOURNAL_TTL, LEADS_BUCKET_SUBJECT};

/// An erased lead's key stays for so long. Whoever holds an older revision has lost it, then and afterwards.
const ERASED_TTL: &str = "5s";
/// On a key that was deleted or purged, by the CLI or another client.
const KV_OPERATION: &str = "KV-Operation";

/// The bucket `leads`.
pub struct JetStreamLeadStore {
    /// For reading.
    stream: Stream<()>,
    /// The committer's own connection.
    commits: CommitConnection,
}

impl JetStreamLeadStore {
    /// Over the stream behind the bucket.
    pub fn new(stream: Stream<()>, commits: CommitConnection) -> Self {
        Self { stream, commits }
    }

    /// As the leader knows it: what a copy that is behind took for lost would be an attempt in doubt.
    async fn fate(&self, put: &Put) -> Result<Fate, StoreError> {
        let Some(newest) = newest(&self.stream, &subject(&put.key)).await? else {
            return Ok(if put.expected == 0 { Fate::Open } else { Fate::Lost });
        };
        Ok(if Marks::read(Some(&newest.headers)).write == put.write {
            Fate::Written(newest.sequence)
        } else if newest.sequence == put.expected {
            Fate::Open
        } else {
            Fate::Lost
        })
    }
}

#[async_trait]
impl LeadStore for JetStreamLeadStore {
    async fn load(&self, key: &LeadKey) -> Result<(Option<Lead>, Revision), StoreError> {
        let message = match self.stream.direct_get_last_for_subject(subject(key)).await {
            Ok(message) => message,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok((None, 0)),
            Err(error) => return Err(StoreError::Unavailable(error.into())),
        };
        read(&message)
    }

    async fn load_newest(&self, key: &LeadKey) -> Result<(Option<Lead>, Revision), StoreError> {
        newest(&self.stream, &subject(key)).await?.map_or(Ok((None, 0)), |message| read(&message))
    }

    async fn write(&self, puts: &[Put], journal: JournalLines) -> BatchResult {
        let mut messages: Vec<_> = puts.iter().map(message).collect();
        let with_journal = !journal.is_empty();
        if with_journal {
            messages.push(journal_message(journal));
        }
        match self.commits.publish(messages).await {
            // The members of a batch have consecutive sequences (ADR-50), and the journal's message is the last.
            Ok(last) => {
                let first = last + 1 - puts.len() as u64 - u64::from(with_journal);
                BatchResult::Written((first..).take(puts.len()).collect())
            }
            Err(error) if error.is_conflict() => BatchResult::Refused,
            Err(error) => {
                if let BatchError::Refused { .. } = error {
                    // Not for a lost revision: full, or read-only. A moment's pause, or the committer would spin.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                BatchResult::Unanswered(error.into())
            }
        }
    }

    async fn examine(&self, puts: &[Put]) -> Result<Vec<Fate>, StoreError> {
        try_join_all(puts.iter().map(|put| self.fate(put))).await
    }
}

/// The newest message on this subject as it stands now: of the stream's leader, where a direct get may be answered by a copy
/// that is behind.
pub(crate) async fn newest(stream: &Stream<()>, subject: &str) -> Result<Option<StreamMessage>, StoreError> {
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(StoreError::Unavailable(error.into())),
    }
}

fn read(message: &StreamMessage) -> Result<(Option<Lead>, Revision), StoreError> {
    if is_removed(Some(&message.headers)) {
        return Ok((None, message.sequence));
    }
    let lead = Lead::from_json(&message.payload).map_err(|error| StoreError::Unreadable(error.into()))?;
    Ok((Some(lead), message.sequence))
}

/// Whether a bucket's message marks that its key was deleted or purged.
pub(crate) fn is_removed(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| headers.get(KV_OPERATION).is_some())
}

fn subject(key: &LeadKey) -> String {
    [LEADS_BUCKET_SUBJECT, key.as_str()].concat()
}

fn message(put: &Put) -> BatchMessage {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, put.expected.to_string());
    let Put { status, generation, next_action, write, .. } = *put;
    headers.insert(marks::HEADER, Marks { status, generation, next_action, write }.to_string());
    if put.document.is_none() {
        // What marks the end goes by itself: its subject holds the address, too.
        headers.insert(KV_OPERATION, "PURGE");
        headers.insert(async_nats::header::NATS_MESSAGE_TTL, ERASED_TTL);
    }
    BatchMessage { subject: subject(&put.key), headers, payload: put.document.clone().unwrap_or_default() }
}

/// One message holds the lines of the whole batch: state and journal are stored together or not at all.
pub(crate) fn journal_message(lines: JournalLines) -> BatchMessage {
    let mut headers = HeaderMap::new();
    headers.insert(async_nats::header::NATS_MESSAGE_TTL, JOURNAL_TTL);
    BatchMessage {
        subject: format!("{JOURNAL_SUBJECT}{:032x}", rand::random::<u128>()),
        headers,
        payload: lines.into(),
    }
}
