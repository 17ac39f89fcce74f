use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{Context, Message};
use async_trait::async_trait;
use dripline_actors::ports::{Source, StoreError, Suppressions};
use dripline_domain::{Address, LeadId, LeadIdKey, LeadKey, Suppression};
use tokio::task::AbortHandle;

use crate::batch::is_wrong_last_sequence;
use crate::connect::Connections;
use crate::inbox::timestamp;
use crate::key_hash::key_hash;
use crate::store::{is_removed, newest};
use crate::topology::SUPPRESSIONS_BUCKET_SUBJECT;
use crate::watcher::{Freshness, Memory, Watcher};

/// The bucket `suppressions`, asked before each email at the cost of a look into memory.
///
/// A watcher keeps a set of 64-bit hashes of the suppressed keys. An address that is not in it is free; one that is in
/// it is read from the bucket, so that a shared hash costs a read and never an email. While the set may be of before
/// ([`Freshness`]), and until the watcher has caught up after a lost connection, every address is read from the bucket.
pub struct JetStreamSuppressions {
    bucket: SuppressionBucket,
    suppressed: Arc<Suppressed>,
    lead_ids: LeadIdKey,
    watcher: AbortHandle,
}

/// The key of what is known against the address of an erased lead: its lead id, which says nothing of the address. No
/// address has such a key, since an `@` is always encoded.
pub(crate) fn anonymous_key(lead_ids: &LeadIdKey, address: &Address) -> String {
    format!("{ANONYMOUS}{}", lead_ids.lead_id(address))
}

/// Before the lead id in the key of an erased lead.
pub(crate) const ANONYMOUS: &str = "id.";

struct Suppressed {
    hashes: RwLock<Hashes>,
    freshness: Freshness,
}

/// Of all keys of the bucket.
#[derive(Default)]
struct Hashes {
    keys: HashSet<u64>,
    /// Of the lead ids of erased leads.
    lead_ids: HashSet<u64>,
}

/// The entries of the bucket.
pub(crate) struct SuppressionBucket {
    context: Context,
    stream: Stream<()>,
}

impl JetStreamSuppressions {
    /// Over the stream behind the bucket; starts the watcher. `lead_ids` find what is known of erased leads.
    pub fn watch(connections: &Connections, stream: Stream<()>, lead_ids: LeadIdKey) -> Self {
        let suppressed = Arc::new(Suppressed::new());
        let watcher = Watcher {
            stream: stream.clone(),
            subjects: SUPPRESSIONS_BUCKET_SUBJECT,
            headers_only: true,
            freshness: suppressed.freshness.clone(),
            memory: Arc::clone(&suppressed),
        };
        let watcher = tokio::spawn(watcher.keep_on(connections.connected.clone())).abort_handle();
        let bucket = SuppressionBucket::new(Connections::jetstream(&connections.general), stream);
        Self { bucket, suppressed, lead_ids, watcher }
    }
}

impl Drop for JetStreamSuppressions {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

#[async_trait]
impl Suppressions for JetStreamSuppressions {
    async fn get(&self, key: &LeadKey, lead_id: &LeadId) -> Result<Suppression, StoreError> {
        if !self.suppressed.may_contain(key, lead_id) {
            return Ok(Suppression::default());
        }
        self.bucket.known(key, &format!("{ANONYMOUS}{lead_id}")).await
    }

    async fn read(&self, address: &Address) -> Result<Suppression, StoreError> {
        self.bucket.known(&LeadKey::of(address), &anonymous_key(&self.lead_ids, address)).await
    }

    async fn record(&self, address: &Address, known: &Suppression) -> Result<Suppression, StoreError> {
        let (key, anonymous) = (LeadKey::of(address), anonymous_key(&self.lead_ids, address));
        // Who was erased stays without a name, whatever providers still tell of them.
        let before = self.bucket.get(&anonymous).await?;
        let (key, mut other) = if before.is_empty() {
            (key.as_str(), before)
        } else {
            (&*anonymous, self.bucket.get(key.as_str()).await?)
        };
        let (merged, _) = self.bucket.merge(key, known).await?;
        self.suppressed.set(key, true);
        other.merge(&merged);
        Ok(other)
    }

    async fn anonymise(&self, address: &Address) -> Result<(), StoreError> {
        let (key, anonymous) = (LeadKey::of(address), anonymous_key(&self.lead_ids, address));
        loop {
            let (known, revision) = self.bucket.newest(key.as_str()).await?;
            if revision == 0 {
                return Ok(());
            }
            if !known.is_empty() {
                self.bucket.merge(&anonymous, &known).await?;
                self.suppressed.set(&anonymous, true);
            }
            self.bucket.forget(key.as_str(), revision).await?;
        }
    }
}

impl SuppressionBucket {
    /// Over the stream behind the bucket.
    pub(crate) fn new(context: Context, stream: Stream<()>) -> Self {
        Self { context, stream }
    }

    /// What is known against the address of this key, as it stands now.
    pub(crate) async fn get(&self, key: &str) -> Result<Suppression, StoreError> {
        self.newest(key).await.map(|(known, _)| known)
    }

    /// The same, of the stream's leader, and the revision that the next write must expect.
    async fn newest(&self, key: &str) -> Result<(Suppression, u64), StoreError> {
        let newest = newest(&self.stream, &format!("{SUPPRESSIONS_BUCKET_SUBJECT}{key}")).await?;
        Ok(newest.map_or_else(Default::default, |message| (entry(&message), message.sequence)))
    }

    /// All that is known against a person, as it stands now: under the address, and under the lead id.
    async fn known(&self, key: &LeadKey, anonymous: &str) -> Result<Suppression, StoreError> {
        let mut known = self.get(key.as_str()).await?;
        known.merge(&self.get(anonymous).await?);
        Ok(known)
    }

    /// Removes the entry up to this revision, and the key itself with it: a marker would hold the address.
    async fn forget(&self, key: &str, revision: u64) -> Result<(), StoreError> {
        let purge = self.stream.purge().filter(format!("{SUPPRESSIONS_BUCKET_SUBJECT}{key}")).sequence(revision + 1);
        purge.await.map(drop).map_err(|error| StoreError::Unavailable(error.into()))
    }

    /// Merges this into what is known; what it then is, and whether that is more than before. On disk when it returns.
    pub(crate) async fn merge(&self, key: &str, known: &Suppression) -> Result<(Suppression, bool), StoreError> {
        let unavailable = |error: Source| StoreError::Unavailable(error);
        // Whoever loses a race has seen another's write through: there is no end without progress.
        loop {
            let (before, revision) = self.newest(key).await?;
            let mut merged = before.clone();
            merged.merge(known);
            if merged == before {
                return Ok((merged, false));
            }
            let value = merged.to_json().map_err(|error| unavailable(error.into()))?;
            let mut headers = HeaderMap::new();
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
            let subject = format!("{SUPPRESSIONS_BUCKET_SUBJECT}{key}");
            let ack = self.context.publish_with_headers(subject, headers, value.into()).await;
            match ack.map_err(|error| unavailable(error.into()))?.await {
                Ok(_) => return Ok((merged, true)),
                Err(error) if is_wrong_last_sequence(&error) => {}
                Err(error) => return Err(unavailable(error.into())),
            }
        }
    }
}

fn entry(message: &StreamMessage) -> Suppression {
    if is_removed(Some(&message.headers)) {
        return Suppression::default();
    }
    Suppression::parse(&message.payload, timestamp(message.time.unix_timestamp_nanos()))
}

impl Suppressed {
    fn new() -> Self {
        Self { hashes: RwLock::default(), freshness: Freshness::new() }
    }

    fn may_contain(&self, key: &LeadKey, lead_id: &LeadId) -> bool {
        let hashes = self.hashes.read().unwrap_or_else(PoisonError::into_inner);
        hashes.keys.contains(&key_hash(key.as_str()))
            || hashes.lead_ids.contains(&key_hash(lead_id.as_str()))
            || !self.freshness.is_fresh()
    }

    fn set(&self, key: &str, suppressed: bool) {
        // A key that shares its hash with a removed one would be read from the bucket no more: so hashes only ever leave
        // with the whole set, when the watcher starts again.
        if !suppressed {
            return;
        }
        let mut hashes = self.hashes.write().unwrap_or_else(PoisonError::into_inner);
        match key.strip_prefix(ANONYMOUS) {
            Some(lead_id) => hashes.lead_ids.insert(key_hash(lead_id)),
            None => hashes.keys.insert(key_hash(key)),
        };
    }
}

impl Memory for Arc<Suppressed> {
    fn begin_anew(&mut self) {
        *self.hashes.write().unwrap_or_else(PoisonError::into_inner) = Hashes::default();
    }

    fn see(&mut self, key: &str, message: &Message) {
        self.set(key, !is_removed(message.headers.as_ref()));
    }
}
