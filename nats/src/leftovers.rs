use std::collections::BTreeSet;

use async_nats::jetstream::kv::Store;
use async_trait::async_trait;
use dripline_actors::ports::{Leftovers, StoreError};

use crate::unavailable;

/// The bucket `outgoing`: `<webhook>.<journal message>` → the lines that the subscriber does not have yet. An entry goes by
/// itself when nobody tries any more.
pub struct JetStreamLeftovers {
    bucket: Store,
}

impl JetStreamLeftovers {
    /// Over the bucket.
    pub fn new(bucket: Store) -> Self {
        Self { bucket }
    }
}

#[async_trait]
impl Leftovers for JetStreamLeftovers {
    async fn load(&self, webhook: &str, message: &str) -> Result<Option<BTreeSet<usize>>, StoreError> {
        let value = self.bucket.get(format!("{webhook}.{message}")).await.map_err(unavailable)?;
        value
            .map(|value| serde_json::from_slice(&value))
            .transpose()
            .map_err(|error| StoreError::Unreadable(error.into()))
    }

    async fn save(&self, webhook: &str, message: &str, lines: &BTreeSet<usize>) -> Result<(), StoreError> {
        let value = serde_json::to_vec(lines).map_err(unavailable)?;
        self.bucket.put(format!("{webhook}.{message}"), value.into()).await.map(drop).map_err(unavailable)
    }
}
