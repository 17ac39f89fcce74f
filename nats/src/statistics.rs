use std::collections::BTreeSet;

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use bytes::Bytes;
use dripline_actors::ports::{JournalPosition, Revision, SaveError, StatisticsStore, StoreError, Tally};
use dripline_domain::{EmailCounts, SequenceStatistics, SmolStr, Statistics};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::batch::{BatchMessage, publish_batch};
use crate::connect::Connections;
use crate::store::newest;
use crate::topology::STATISTICS_BUCKET_SUBJECT;
use crate::unavailable;

/// The place in the journal, and what belongs to no sequence.
const PROGRESS: &str = "progress";
/// Before the name of a sequence.
const SEQUENCE: &str = "sequence.";
/// Reads under way at a time.
const IN_FLIGHT: usize = 64;
/// So often the bucket is read when somebody writes it meanwhile.
const TRIES: u32 = 20;

/// The bucket `statistics`: a document for each sequence, and `progress`, whose revision decides who counts.
///
/// A sequence's document has at most 2,000 rows, below 700 KB; there may be any number of sequences.
pub struct JetStreamStatistics {
    connections: Connections,
    stream: Stream<()>,
}

#[derive(Default, Serialize, Deserialize)]
struct Progress {
    journal: JournalPosition,
    unattributed: EmailCounts,
}

impl JetStreamStatistics {
    /// Over the stream behind the bucket.
    pub fn new(connections: Connections, stream: Stream<()>) -> Self {
        Self { connections, stream }
    }

    /// Of the stream's leader: the counts of a copy that is behind do not belong to the place that another has.
    async fn get(&self, subject: &str) -> Result<Option<(Bytes, Revision)>, StoreError> {
        let newest = newest(&self.stream, subject).await?;
        Ok(newest.map(|message| (message.payload, message.sequence)))
    }

    async fn read_progress(&self) -> Result<(Progress, Revision), StoreError> {
        match self.get(&subject(PROGRESS)).await? {
            Some((value, revision)) => Ok((serde_json::from_slice(&value).map_err(unreadable)?, revision)),
            None => Ok((Progress::default(), 0)),
        }
    }

    async fn sequence(&self, subject: String) -> Result<Option<(SmolStr, SequenceStatistics)>, StoreError> {
        let name = subject.strip_prefix(STATISTICS_BUCKET_SUBJECT).and_then(|key| key.strip_prefix(SEQUENCE));
        let Some(name) = name.map(SmolStr::new) else { return Ok(None) };
        let Some((value, _)) = self.get(&subject).await? else { return Ok(None) };
        Ok(Some((name, serde_json::from_slice(&value).map_err(unreadable)?)))
    }
}

#[async_trait]
impl StatisticsStore for JetStreamStatistics {
    async fn load(&self) -> Result<Tally, StoreError> {
        for _ in 0..TRIES {
            let (progress, revision) = self.read_progress().await?;
            let subjects =
                self.stream.info_with_subjects(subject(&format!("{SEQUENCE}*"))).await.map_err(unavailable)?;
            let subjects: Vec<(String, usize)> = subjects.map_err(unavailable).try_collect().await?;
            let sequences = stream::iter(subjects)
                .map(|(subject, _)| self.sequence(subject))
                .buffered(IN_FLIGHT)
                .try_filter_map(async |sequence| Ok(sequence))
                .try_collect()
                .await?;
            // Written meanwhile: some of it is older than the rest.
            if self.read_progress().await?.1 == revision {
                let statistics = Statistics { sequences, unattributed: progress.unattributed };
                return Ok(Tally { statistics, position: progress.journal, revision });
            }
        }
        Err(StoreError::Unavailable("the statistics change faster than they can be read".into()))
    }

    async fn progress(&self) -> Result<(JournalPosition, Revision), StoreError> {
        let (progress, revision) = self.read_progress().await?;
        Ok((progress.journal, revision))
    }

    async fn save(&self, tally: &Tally, changed: &BTreeSet<SmolStr>) -> Result<Revision, SaveError> {
        let none = SequenceStatistics::default();
        let mut messages = Vec::with_capacity(changed.len() + 1);
        for name in changed {
            let sequence = tally.statistics.sequences.get(name).unwrap_or(&none);
            messages.push(message(&format!("{SEQUENCE}{name}"), sequence, HeaderMap::new())?);
        }
        let mut expected = HeaderMap::new();
        expected.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, tally.revision.to_string());
        let progress = Progress { journal: tally.position, unattributed: tally.statistics.unattributed };
        messages.push(message(PROGRESS, &progress, expected)?);
        publish_batch(&self.connections.general, self.connections.lost.clone(), messages)
            .await
            .map_err(|error| if error.is_conflict() { SaveError::Conflict } else { unavailable(error).into() })
    }
}

fn message(key: &str, value: &impl Serialize, headers: HeaderMap) -> Result<BatchMessage, StoreError> {
    let payload = serde_json::to_vec(value).map_err(unreadable)?.into();
    Ok(BatchMessage { subject: subject(key), headers, payload })
}

fn subject(key: &str) -> String {
    format!("{STATISTICS_BUCKET_SUBJECT}{key}")
}

fn unreadable(error: serde_json::Error) -> StoreError {
    StoreError::Unreadable(error.into())
}
