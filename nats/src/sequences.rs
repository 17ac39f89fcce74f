use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::{InfoError, Stream};
use async_trait::async_trait;
use dripline_actors::Chain;
use dripline_actors::ports::{JournalLines, Sequences, StoreError};
use dripline_domain::{ControlEvent, JournalEvent, JournalLine, Operator, Sequence, SmolStr, Timestamp};
use futures_util::{StreamExt, TryStreamExt};
use tokio::task::AbortHandle;

use crate::batch::is_wrong_last_sequence;
use crate::journal::publish_lines;
use crate::store::{is_removed, newest};
use crate::topology::SEQUENCES_BUCKET_SUBJECT;

/// Which sequence a lead enters that names none.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The sequence of each source (`leads.new.<source>`).
    pub by_source: HashMap<String, String>,
    /// The sequence of all others.
    pub default: Option<String>,
}

/// The sequences: the current ones as the folder has them, all versions as the bucket `sequences` keeps them.
pub struct SequenceBook {
    stream: Stream<()>,
    current: RwLock<HashMap<SmolStr, Arc<Sequence>>>,
    selection: Selection,
    versions: RwLock<HashMap<SmolStr, HashMap<u32, Arc<Sequence>>>>,
}

/// A sequence could not be put into the bucket.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Leads are on this version: it must stay what it is.
    #[error(
        "sequence `{name}` version {version} is in use with another content: raise `version` in its sequence.toml; \
         leads that began with version {version} finish it as it was"
    )]
    Changed {
        /// Its name.
        name: String,
        /// Its version.
        version: u32,
    },
    /// The bucket cannot be written or read.
    #[error("the sequence could not be put into the bucket `sequences`")]
    Store(#[from] StoreError),
}

impl SequenceBook {
    /// Puts the folder's sequences into the bucket, each version once and for good.
    ///
    /// # Errors
    /// A version stands in the bucket with another content, or the bucket is unavailable.
    pub async fn publish(
        context: &jetstream::Context,
        stream: Stream<()>,
        sequences: Vec<Sequence>,
        selection: Selection,
    ) -> Result<Self, PublishError> {
        let book = Self { stream, current: RwLock::default(), selection, versions: RwLock::default() };
        let mut current = HashMap::new();
        for sequence in sequences {
            let sequence = Arc::new(sequence);
            book.put(context, &sequence).await?;
            book.remember(&sequence);
            current.insert(sequence.name.clone(), sequence);
        }
        Ok(Self { current: RwLock::new(current), ..book })
    }

    /// Puts what is new in the folder into the bucket, and has every process go on with it: new leads enter it from now
    /// on. What is in the folder no more stays until a restart. Gives each that changed, and the version before it.
    ///
    /// # Errors
    /// A version stands in the bucket with another content, or the bucket is unavailable. Those before it are reloaded;
    /// it may be done again.
    pub async fn reload(
        &self,
        context: &jetstream::Context,
        sequences: Vec<Sequence>,
        operator: &Operator,
        now: Timestamp,
    ) -> Result<Vec<(Arc<Sequence>, Option<u32>)>, PublishError> {
        let mut reloaded = Vec::new();
        for sequence in sequences {
            let sequence = Arc::new(sequence);
            self.put(context, &sequence).await?;
            self.remember(&sequence);
            let before = self.current(&sequence.name).map(|before| before.version);
            if before == Some(sequence.version) {
                continue;
            }
            let line = JournalLine {
                lead_id: None,
                timestamp: now,
                event: JournalEvent::Control(ControlEvent::SequenceReloaded),
                sequence: Some(sequence.name.clone()),
                version: Some(sequence.version),
                step: None,
                reason: Some(operator.reason().to_owned()),
                provider: None,
                webhook: None,
                by: Some(operator.by().into()),
            };
            let mut lines = JournalLines::default();
            lines.push(&line).map_err(|error| StoreError::Unreadable(error.into()))?;
            publish_lines(context, lines).await.map_err(StoreError::Unavailable)?;
            let unavailable = |error: jetstream::context::PublishError| StoreError::Unavailable(error.into());
            let ack = context.publish(current_subject(&sequence.name), sequence.version.to_string().into()).await;
            ack.map_err(unavailable)?.await.map_err(unavailable)?;
            self.enter(Arc::clone(&sequence));
            reloaded.push((sequence, before));
        }
        Ok(reloaded)
    }

    /// Goes on with what other processes reload from now on, until it is aborted.
    ///
    /// # Errors
    /// The bucket is unavailable.
    pub async fn follow(self: &Arc<Self>) -> Result<AbortHandle, StoreError> {
        let info = self.stream.get_info().await.map_err(|error: InfoError| StoreError::Unavailable(error.into()))?;
        let (book, mut last) = (Arc::clone(self), info.state.last_sequence);
        let following = async move {
            loop {
                if let Err(error) = book.follow_from(&mut last).await {
                    tracing::warn!(error = %Chain(&error), "reloaded sequences cannot be followed; trying on");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        Ok(tokio::spawn(following).abort_handle())
    }

    async fn follow_from(&self, last: &mut u64) -> Result<(), StoreError> {
        let consumer = self
            .stream
            .create_consumer(OrderedConfig {
                filter_subject: current_subject("*"),
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: *last + 1 },
                // So that it is soon missed on a server that died: a heartbeat each half of it.
                max_expires: Duration::from_secs(5),
                ..OrderedConfig::default()
            })
            .await
            .map_err(|error| StoreError::Unavailable(error.into()))?;
        let mut messages = consumer.messages().await.map_err(|error| StoreError::Unavailable(error.into()))?;
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| StoreError::Unavailable(error.into()))?;
            let name = message.subject.strip_prefix(CURRENT_SUBJECT).and_then(|rest| rest.strip_suffix(CURRENT_END));
            let version = std::str::from_utf8(&message.payload).ok().and_then(|text| text.parse().ok());
            if let (Some(name), Some(version)) = (name, version)
                && let Some(sequence) = self.version(name, version).await?
            {
                self.enter(sequence);
            }
            *last = message.info().map_err(StoreError::Unavailable)?.stream_sequence;
        }
        Ok(())
    }

    fn enter(&self, sequence: Arc<Sequence>) {
        let (name, version) = (sequence.name.clone(), sequence.version);
        let before = self.current.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), sequence);
        if before.map(|before| before.version) != Some(version) {
            tracing::info!(sequence = name.as_str(), version, "new leads enter this version from now on");
        }
    }

    async fn put(&self, context: &jetstream::Context, sequence: &Sequence) -> Result<(), PublishError> {
        let unavailable = |error: jetstream::context::PublishError| StoreError::Unavailable(error.into());
        let Sequence { name, version, .. } = sequence;
        let json = serde_json::to_vec(sequence).map_err(|error| StoreError::Unreadable(error.into()))?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        let ack =
            context.publish_with_headers(subject(name, *version), headers, json.into()).await.map_err(unavailable)?;
        match ack.await {
            Ok(_) => {
                tracing::info!(sequence = name.as_str(), version, "sequence published");
                Ok(())
            }
            Err(error) if is_wrong_last_sequence(&error) => match read_sequence(&self.stream, name, *version).await? {
                Some(published) if published == *sequence => Ok(()),
                _ => Err(PublishError::Changed { name: name.to_string(), version: *version }),
            },
            Err(error) => Err(unavailable(error).into()),
        }
    }

    fn remember(&self, sequence: &Arc<Sequence>) {
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        versions.entry(sequence.name.clone()).or_default().insert(sequence.version, Arc::clone(sequence));
    }

    fn remembered(&self, name: &str, version: u32) -> Option<Arc<Sequence>> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        versions.get(name)?.get(&version).cloned()
    }
}

#[async_trait]
impl Sequences for SequenceBook {
    fn current(&self, name: &str) -> Option<Arc<Sequence>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn for_source(&self, source: Option<&str>) -> Option<Arc<Sequence>> {
        let by_source = source.and_then(|source| self.selection.by_source.get(source));
        self.current(by_source.or(self.selection.default.as_ref())?)
    }

    async fn version(&self, name: &str, version: u32) -> Result<Option<Arc<Sequence>>, StoreError> {
        if let Some(sequence) = self.remembered(name, version) {
            return Ok(Some(sequence));
        }
        let Some(sequence) = read_sequence(&self.stream, name, version).await? else { return Ok(None) };
        let sequence = Arc::new(sequence);
        self.remember(&sequence);
        Ok(Some(sequence))
    }
}

/// One version of a sequence, from the stream behind the bucket; none where it was never published. Of the leader: by a copy
/// that is behind a lead's sequence would seem to be gone.
pub async fn read_sequence(stream: &Stream<()>, name: &str, version: u32) -> Result<Option<Sequence>, StoreError> {
    let newest = newest(stream, &subject(name, version)).await?;
    let Some(message) = newest.filter(|message| !is_removed(Some(&message.headers))) else { return Ok(None) };
    serde_json::from_slice(&message.payload).map(Some).map_err(|error| StoreError::Unreadable(error.into()))
}

/// The newest version of every sequence that was ever published, by name.
pub async fn newest_sequences(stream: &Stream<()>) -> Result<Vec<Sequence>, StoreError> {
    let unavailable = |error: InfoError| StoreError::Unavailable(error.into());
    let subjects = stream.info_with_subjects(format!("{SEQUENCES_BUCKET_SUBJECT}>")).await.map_err(unavailable)?;
    let subjects: Vec<(String, usize)> = subjects.map_err(unavailable).try_collect().await?;
    let mut newest: BTreeMap<&str, u32> = BTreeMap::new();
    for (subject, _) in &subjects {
        let key = subject.strip_prefix(SEQUENCES_BUCKET_SUBJECT).and_then(|key| key.rsplit_once('.'));
        if let Some((name, version)) = key
            && let Ok(version) = version.parse::<u32>()
        {
            let known = newest.entry(name).or_default();
            *known = version.max(*known);
        }
    }
    let mut sequences = Vec::with_capacity(newest.len());
    for (name, version) in newest {
        sequences.extend(read_sequence(stream, name, version).await?);
    }
    Ok(sequences)
}

/// Which version new leads enter since a reload: `current.<name>.now`. No version has such a key, since its last part is
/// a number.
const CURRENT_SUBJECT: &str = "$KV.sequences.current.";
const CURRENT_END: &str = ".now";

fn current_subject(name: &str) -> String {
    format!("{CURRENT_SUBJECT}{name}{CURRENT_END}")
}

fn subject(name: &str, version: u32) -> String {
    format!("{SEQUENCES_BUCKET_SUBJECT}{name}.{version}")
}
