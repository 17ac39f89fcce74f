use std::time::Duration;

use async_nats::jetstream::kv::{Operation, Store};
use async_trait::async_trait;
use dripline_actors::ports::{Beat, Presence, StoreError};
use dripline_domain::Timestamp;
use futures_util::stream::{BoxStream, StreamExt};
use serde::{Deserialize, Serialize};

use crate::{millis, unavailable};

/// The bucket `engines`: a key for each engine process that is alive, gone by itself when the process is.
pub struct JetStreamPresence {
    bucket: Store,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Value {
    #[serde(default)]
    uptime_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused_until: Option<Timestamp>,
}

impl JetStreamPresence {
    /// Over the bucket.
    pub fn new(bucket: Store) -> Self {
        Self { bucket }
    }
}

#[async_trait]
impl Presence for JetStreamPresence {
    async fn announce(&self, beat: &Beat) -> Result<(), StoreError> {
        let uptime_ms = millis(beat.uptime);
        let value = serde_json::to_vec(&Value { uptime_ms, paused_until: beat.paused_until }).map_err(unavailable)?;
        self.bucket.put(&beat.owner, value.into()).await.map(drop).map_err(unavailable)
    }

    async fn leave(&self, owner: &str) -> Result<(), StoreError> {
        self.bucket.delete(owner).await.map_err(unavailable)
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<Result<Beat, String>, StoreError>>, StoreError> {
        let entries = self.bucket.watch_with_history(">").await.map_err(unavailable)?;
        Ok(entries
            .map(|entry| {
                let entry = entry.map_err(unavailable)?;
                Ok(match entry.operation {
                    Operation::Put => {
                        // Who is there counts, whatever else a later version says.
                        let value = serde_json::from_slice::<Value>(&entry.value).unwrap_or_default();
                        let uptime = Duration::from_millis(value.uptime_ms);
                        Ok(Beat { owner: entry.key, uptime, paused_until: value.paused_until })
                    }
                    Operation::Delete | Operation::Purge => Err(entry.key),
                })
            })
            .boxed())
    }
}
