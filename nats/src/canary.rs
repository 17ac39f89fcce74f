use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{Operation, Store};
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use dripline_actors::ports::{CanaryStore, LeadStore, Revision, SaveError, StoreError};
use dripline_domain::{Canary, Lead, LeadKey, Sequence};

use crate::alerts::refused;
use crate::connect::Connections;
use crate::sequences::read_sequence;
use crate::store::JetStreamLeadStore;
use crate::topology::{CANARY, LEADS_BUCKET, LEADS_BUCKET_SUBJECT, SEQUENCES_BUCKET};
use crate::unavailable;

/// The one key of the bucket.
const STATE: &str = "state";

/// The bucket `canary`, and what the canary needs of the others.
pub struct JetStreamCanary {
    bucket: Store,
    leads: Stream<()>,
    store: JetStreamLeadStore,
    sequences: Stream<()>,
}

impl JetStreamCanary {
    /// Over the buckets.
    ///
    /// # Errors
    /// One is not there, or the server is away.
    pub async fn open(connections: &Connections) -> Result<Self, StoreError> {
        let context: Context = Connections::jetstream(&connections.general);
        let stream = async |name: &str| context.get_stream_no_info(name).await.map_err(unavailable);
        let leads = stream(LEADS_BUCKET).await?;
        Ok(Self {
            bucket: context.get_key_value(CANARY).await.map_err(unavailable)?,
            leads: leads.clone(),
            store: JetStreamLeadStore::new(leads, connections.commits.clone()),
            sequences: stream(SEQUENCES_BUCKET).await?,
        })
    }
}

#[async_trait]
impl CanaryStore for JetStreamCanary {
    async fn load(&self) -> Result<(Canary, Revision), StoreError> {
        read_canary(&self.bucket).await
    }

    async fn save(&self, canary: &Canary, expected: Revision) -> Result<Revision, SaveError> {
        let value = serde_json::to_vec(canary).map_err(|error| StoreError::Unreadable(error.into()))?;
        self.bucket.update(STATE, value.into(), expected).await.map_err(refused)
    }

    async fn lead(&self, key: &LeadKey) -> Result<Option<Lead>, StoreError> {
        self.store.load(key).await.map(|(lead, _)| lead)
    }

    async fn sequence(&self, name: &str, version: u32) -> Result<Option<Sequence>, StoreError> {
        read_sequence(&self.sequences, name, version).await
    }

    async fn erase(&self, key: &LeadKey) -> Result<(), StoreError> {
        // The whole subject, so that not even a mark of the removal is left: there is a run every hour. A lead actor that
        // still has the document loses at its next commit, and finds none.
        self.leads.purge().filter(format!("{LEADS_BUCKET_SUBJECT}{key}")).await.map(drop).map_err(unavailable)
    }
}

/// Where the canary is, from its bucket.
pub(crate) async fn read_canary(bucket: &Store) -> Result<(Canary, Revision), StoreError> {
    let Some(entry) = bucket.entry(STATE).await.map_err(unavailable)? else { return Ok(Default::default()) };
    match entry.operation {
        Operation::Put => {
            let canary = serde_json::from_slice(&entry.value).map_err(|error| StoreError::Unreadable(error.into()))?;
            Ok((canary, entry.revision))
        }
        Operation::Delete | Operation::Purge => Ok((Canary::default(), entry.revision)),
    }
}
