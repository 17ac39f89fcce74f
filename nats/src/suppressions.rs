use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use async_trait::async_trait;
use dripline_actors::ports::{StoreError, Suppressions};
use dripline_domain::{Address, LeadKey};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::connect::Connections;
use crate::key_hash::key_hash;
use crate::store::KV_OPERATION;
use crate::topology::SUPPRESSIONS_BUCKET_SUBJECT;

/// The bucket `suppressions`, asked before each email at the cost of a look into memory.
///
/// A watcher keeps a set of 64-bit hashes of the suppressed keys. An address that is not in it is free; one that is in
/// it is read from the bucket, so that a shared hash costs a read and never an email. Without a connection, and until
/// the watcher has caught up after one, every address is read from the bucket.
pub struct JetStreamSuppressions {
    client: Client,
    stream: Stream<()>,
    suppressed: Arc<Suppressed>,
    watcher: AbortHandle,
}

#[derive(Default)]
struct Suppressed {
    keys: RwLock<HashSet<u64>>,
    complete: AtomicBool,
}

#[derive(Deserialize)]
struct Suppression {
    reason: String,
}

impl JetStreamSuppressions {
    /// Over the stream behind the bucket; starts the watcher.
    pub fn watch(connections: &Connections, stream: Stream<()>) -> Self {
        let suppressed = Arc::new(Suppressed::default());
        let watcher =
            tokio::spawn(keep_watching(stream.clone(), Arc::clone(&suppressed), connections.connected.clone()))
                .abort_handle();
        Self { client: connections.general.clone(), stream, suppressed, watcher }
    }
}

impl Drop for JetStreamSuppressions {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

#[async_trait]
impl Suppressions for JetStreamSuppressions {
    async fn reason(&self, address: &Address) -> Result<Option<String>, StoreError> {
        let key = LeadKey::of(address);
        let connected = self.client.connection_state() == State::Connected;
        if connected && self.suppressed.complete.load(Ordering::Acquire) && !self.suppressed.contains(key.as_str()) {
            return Ok(None);
        }
        let message = match self.stream.direct_get_last_for_subject(format!("{SUPPRESSIONS_BUCKET_SUBJECT}{key}")).await
        {
            Ok(message) => message,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::Unavailable(error.into())),
        };
        if message.headers.get(KV_OPERATION).is_some() {
            return Ok(None);
        }
        let reason = serde_json::from_slice::<Suppression>(&message.payload)
            .map_or_else(|_| written_by_hand(&message.payload), |suppression| suppression.reason);
        Ok(Some(reason))
    }
}

/// The reason of an entry that is not of our form: it was put there by hand, and certainly to stop our mail.
pub(crate) fn written_by_hand(value: &[u8]) -> String {
    String::from_utf8_lossy(value).chars().take(200).collect()
}

impl Suppressed {
    fn contains(&self, key: &str) -> bool {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).contains(&key_hash(key))
    }

    fn set(&self, key: &str, suppressed: bool) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        // A key that shares its hash with a removed one is read from the bucket no more: so hashes only ever leave with
        // the whole set, when the watcher starts again.
        if suppressed {
            keys.insert(key_hash(key));
        }
    }

    fn start_again(&self) {
        self.complete.store(false, Ordering::Release);
        self.keys.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

async fn keep_watching(stream: Stream<()>, suppressed: Arc<Suppressed>, mut connected: watch::Receiver<u64>) {
    connected.mark_unchanged();
    loop {
        let ended = tokio::select! {
            ended = watch_bucket(&stream, &suppressed) => ended,
            // What changed while the connection was away has not been seen.
            Ok(()) = connected.changed() => Ok(()),
        };
        suppressed.start_again();
        if let Err(error) = ended {
            tracing::warn!(%error, "suppressions are read one by one until they can be watched again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn watch_bucket(
    stream: &Stream<()>,
    suppressed: &Suppressed,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let consumer = stream
        .create_consumer(OrderedConfig {
            filter_subject: format!("{SUPPRESSIONS_BUCKET_SUBJECT}>"),
            deliver_policy: DeliverPolicy::LastPerSubject,
            headers_only: true,
            ..OrderedConfig::default()
        })
        .await?;
    let mut to_come = consumer.cached_info().num_pending;
    suppressed.complete.store(to_come == 0, Ordering::Release);
    let mut messages = consumer.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let removed = message.headers.as_ref().is_some_and(|headers| headers.get(KV_OPERATION).is_some());
        if let Some(key) = message.subject.strip_prefix(SUPPRESSIONS_BUCKET_SUBJECT) {
            suppressed.set(key, !removed);
        }
        to_come = to_come.saturating_sub(1);
        if to_come == 0 {
            suppressed.complete.store(true, Ordering::Release);
        }
    }
    Ok(())
}
