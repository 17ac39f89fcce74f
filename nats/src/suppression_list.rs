//! The bucket `suppressions`, as an operator changes and reads it.
use std::fmt;

use async_nats::jetstream::Context;
use async_nats::jetstream::kv::Store;
use dripline_actors::ports::{JournalLines, Source};
use dripline_domain::{
    Address, KeyError, LeadId, LeadIdKey, LeadKey, Suppression, SuppressionCause, SuppressionMark, Timestamp,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::journal::publish_lines;
use crate::suppressions::{ANONYMOUS, SuppressionBucket, anonymous_key};
use crate::topology::{SUPPRESSIONS, SUPPRESSIONS_BUCKET};

/// Writes under way at a time: a put waits for its fsync.
const IN_FLIGHT: usize = 256;

/// Who must not be mailed, and why. Every change is in the journal, with who made it.
pub struct SuppressionList {
    bucket: Store,
    entries: SuppressionBucket,
    context: Context,
    lead_ids: LeadIdKey,
}

/// One thing that speaks against mailing an address, now. An address may have several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Whose.
    #[serde(flatten)]
    pub whom: Whom,
    /// What kind of reason.
    pub cause: SuppressionCause,
    /// Why, for people; who or what put it there, `by hand` where somebody wrote the entry; when.
    #[serde(flatten)]
    pub mark: SuppressionMark,
}

/// Who must not be mailed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Whom {
    /// The address, normalised.
    Address(Address),
    /// A lead that was erased: only its opaque id is left.
    LeadId(String),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::LeadId(id) => f.write_str(id),
        }
    }
}

/// One change, to be made and journalled.
#[derive(Debug, Clone)]
pub struct SuppressionChange {
    /// Of which address.
    pub address: Address,
    /// What kind of reason. Lifting a suppression lifts every kind.
    pub cause: SuppressionCause,
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
        let stream = context.get_stream_no_info(SUPPRESSIONS_BUCKET).await.map_err(unavailable)?;
        let entries = SuppressionBucket::new(context.clone(), stream);
        Ok(Self { bucket, entries, context, lead_ids })
    }

    /// Suppresses these addresses; how many were not suppressed for this cause before. One that was keeps its first
    /// reason.
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
        let (timestamp, source, reason) = (change.timestamp, change.source.clone(), change.reason.clone());
        let known = Suppression::of(change.cause, SuppressionMark { timestamp, source, reason });
        let (_, is_more) =
            self.entries.merge(LeadKey::of(&change.address).as_str(), &known).await.map_err(unavailable)?;
        Ok(is_more)
    }

    /// Lifts the suppression of one address; whether there was one.
    pub async fn remove(&self, change: &SuppressionChange) -> Result<bool, SuppressionListError> {
        let keys = [LeadKey::of(&change.address).to_string(), anonymous_key(&self.lead_ids, &change.address)];
        let mut is_lifted = false;
        for key in keys {
            if self.entries.get(&key).await.map_err(unavailable)?.in_force(false).is_some() {
                self.bucket.delete(&key).await.map_err(unavailable)?;
                is_lifted = true;
            }
        }
        if !is_lifted {
            return Ok(false);
        }
        self.journal("suppression_removed", &[change]).await?;
        Ok(true)
    }

    /// Every suppression in force, by address.
    pub async fn list(&self) -> Result<Vec<Listed>, SuppressionListError> {
        let keys: Vec<String> =
            self.bucket.keys().await.map_err(unavailable)?.try_collect().await.map_err(unavailable)?;
        let found = stream::iter(keys).map(|key| self.get(key)).buffered(IN_FLIGHT);
        let mut found: Vec<Listed> = found.try_collect::<Vec<_>>().await?.into_iter().flatten().collect();
        found.sort_by(|one, other| one.whom.cmp(&other.whom));
        Ok(found)
    }

    async fn get(&self, key: String) -> Result<Vec<Listed>, SuppressionListError> {
        let known = self.entries.get(&key).await.map_err(unavailable)?;
        let whom = match key.strip_prefix(ANONYMOUS) {
            Some(lead_id) => Whom::LeadId(lead_id.to_owned()),
            None => match LeadKey::parse(&key).and_then(|key| key.address()) {
                Ok(address) => Whom::Address(address),
                Err(source) => return Err(SuppressionListError::ForeignKey { key, source }),
            },
        };
        let listed = |(cause, mark): (_, &SuppressionMark)| Listed { whom: whom.clone(), cause, mark: mark.clone() };
        Ok(known.all_in_force().map(listed).collect())
    }

    async fn journal(&self, event: &'static str, changes: &[&SuppressionChange]) -> Result<(), SuppressionListError> {
        let not_journalled = |error: Source| SuppressionListError::NotJournalled(error);
        if changes.is_empty() {
            return Ok(());
        }
        let mut lines = JournalLines::default();
        for change in changes {
            let pushed = lines.push(&JournalLine {
                lead_id: self.lead_ids.lead_id(&change.address),
                timestamp: change.timestamp,
                event,
                reason: &change.reason,
                by: &change.source,
            });
            pushed.map_err(|error| not_journalled(error.into()))?;
        }
        publish_lines(&self.context, lines).await.map_err(not_journalled)
    }
}

fn unavailable(error: impl Into<Source>) -> SuppressionListError {
    SuppressionListError::Unavailable(error.into())
}
