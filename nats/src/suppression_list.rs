//! The bucket `suppressions`, as an operator changes and reads it.
use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{CreateErrorKind, Store};
use bytes::Bytes;
use dripline_actors::ports::Source;
use dripline_domain::{Address, KeyError, LeadId, LeadIdKey, LeadKey, Timestamp};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::journal::publish_lines;
use crate::suppressions::written_by_hand;
use crate::topology::SUPPRESSIONS;

/// Writes under way at a time: a put waits for its fsync.
const IN_FLIGHT: usize = 256;

/// Who must not be mailed, and why. Every change is in the journal, with who made it.
pub struct SuppressionList {
    bucket: Store,
    context: Context,
    lead_ids: LeadIdKey,
}

/// What the bucket says of one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suppression {
    /// The address, normalised.
    pub address: Address,
    /// Why, for people.
    pub reason: String,
    /// Who or what put it there; `null` where somebody wrote the entry by hand.
    #[serde(default)]
    pub source: Option<String>,
    /// When; `null` likewise.
    #[serde(default)]
    pub timestamp: Option<Timestamp>,
}

/// One change, to be made and journalled.
#[derive(Debug, Clone)]
pub struct SuppressionChange {
    /// Of which address.
    pub address: Address,
    /// Why, for people.
    pub reason: String,
    /// Who or what makes it.
    pub source: String,
    /// When.
    pub timestamp: Timestamp,
}

/// The bucket or the journal could not be used. What was done before stays; the same change may be made again.
#[derive(Debug, thiserror::Error)]
pub enum SuppressionListError {
    /// The server is away, or refused.
    #[error("the bucket `suppressions` is unavailable")]
    Unavailable(#[source] Source),
    /// The change is made; its journal entry is not.
    #[error("the change is made, but it could not be written to the journal")]
    NotJournalled(#[source] Source),
    /// A key that no address has.
    #[error("the bucket `suppressions` holds the key `{key}`, which is no address's: remove it with `nats kv del`")]
    ForeignKey {
        /// The key.
        key: String,
        /// What is wrong with it.
        source: KeyError,
    },
}

/// The value in the bucket; the address is the key.
#[derive(Serialize, Deserialize)]
struct Value {
    reason: String,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    timestamp: Option<Timestamp>,
}

/// A line of the journal.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JournalLine<'a> {
    lead_id: LeadId,
    timestamp: Timestamp,
    event: &'static str,
    reason: &'a str,
    by: &'a str,
}

impl SuppressionList {
    /// Over the bucket; `lead_ids` names the leads in the journal.
    ///
    /// # Errors
    /// The bucket is not there, or the server is away.
    pub async fn open(context: Context, lead_ids: LeadIdKey) -> Result<Self, SuppressionListError> {
        let bucket = context.get_key_value(SUPPRESSIONS).await.map_err(unavailable)?;
        Ok(Self { bucket, context, lead_ids })
    }

    /// Suppresses these addresses; how many were not suppressed before. One that was keeps its first reason.
    ///
    /// On disk when it returns; every engine's watcher has it within moments, and then sends them nothing more.
    pub async fn add(&self, changes: &[SuppressionChange]) -> Result<usize, SuppressionListError> {
        let added: Vec<bool> =
            stream::iter(changes).map(|change| self.add_one(change)).buffered(IN_FLIGHT).try_collect().await?;
        let new: Vec<_> = changes.iter().zip(added).filter_map(|(change, added)| added.then_some(change)).collect();
        self.journal("suppression_added", &new).await?;
        Ok(new.len())
    }

    async fn add_one(&self, change: &SuppressionChange) -> Result<bool, SuppressionListError> {
        let value = Value {
            reason: change.reason.clone(),
            source: Some(change.source.clone()),
            timestamp: Some(change.timestamp),
        };
        let value = serde_json::to_vec(&value).map_err(unavailable)?;
        match self.bucket.create(LeadKey::of(&change.address).as_str(), value.into()).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Lifts the suppression of one address; whether there was one.
    pub async fn remove(&self, change: &SuppressionChange) -> Result<bool, SuppressionListError> {
        let key = LeadKey::of(&change.address);
        if self.bucket.get(key.as_str()).await.map_err(unavailable)?.is_none() {
            return Ok(false);
        }
        self.bucket.delete(key.as_str()).await.map_err(unavailable)?;
        self.journal("suppression_removed", &[change]).await?;
        Ok(true)
    }

    /// Every suppression, by address.
    pub async fn list(&self) -> Result<Vec<Suppression>, SuppressionListError> {
        let keys: Vec<String> =
            self.bucket.keys().await.map_err(unavailable)?.try_collect().await.map_err(unavailable)?;
        let found = stream::iter(keys).map(|key| self.get(key)).buffered(IN_FLIGHT);
        let mut found: Vec<Suppression> =
            found.try_filter_map(async |suppression| Ok(suppression)).try_collect().await?;
        found.sort_by(|one, other| one.address.as_str().cmp(other.address.as_str()));
        Ok(found)
    }

    async fn get(&self, key: String) -> Result<Option<Suppression>, SuppressionListError> {
        let Some(value) = self.bucket.get(key.as_str()).await.map_err(unavailable)? else { return Ok(None) };
        let address = match LeadKey::parse(&key).and_then(|key| key.address()) {
            Ok(address) => address,
            Err(source) => return Err(SuppressionListError::ForeignKey { key, source }),
        };
        let Value { reason, source, timestamp } = serde_json::from_slice(&value).unwrap_or_else(|_| Value {
            reason: written_by_hand(&value),
            source: None,
            timestamp: None,
        });
        Ok(Some(Suppression { address, reason, source, timestamp }))
    }

    async fn journal(&self, event: &'static str, changes: &[&SuppressionChange]) -> Result<(), SuppressionListError> {
        let not_journalled = |error: Source| SuppressionListError::NotJournalled(error);
        if changes.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::with_capacity(changes.len());
        for change in changes {
            let line = serde_json::to_vec(&JournalLine {
                lead_id: self.lead_ids.lead_id(&change.address),
                timestamp: change.timestamp,
                event,
                reason: &change.reason,
                by: &change.source,
            });
            lines.push(Bytes::from(line.map_err(|error| not_journalled(error.into()))?));
        }
        publish_lines(&self.context, &lines).await.map_err(not_journalled)
    }
}

fn unavailable(error: impl Into<Source>) -> SuppressionListError {
    SuppressionListError::Unavailable(error.into())
}
