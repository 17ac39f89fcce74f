use std::collections::HashSet;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use dripline_actors::ports::{Ledger, Revision, Scanned, StoreError};
use dripline_domain::LeadKey;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use tokio::sync::{Mutex, watch};

use crate::key_hash::key_hash;
use crate::lead_scan::messages;
use crate::marks::Marks;
use crate::store::KV_OPERATION;
use crate::topology::{LEADS_BUCKET_SUBJECT, TIMERS_AT_SUBJECT, TIMERS_DUE_SUBJECT};

/// What the sweeper reads: the subjects of `TIMERS`, and the headers of `leads`.
pub struct JetStreamLedger {
    leads: Stream<()>,
    timers: Stream<()>,
    connected: Mutex<watch::Receiver<u64>>,
}

impl JetStreamLedger {
    /// `connected` counts connections; see [`crate::Connections`].
    pub fn new(leads: Stream<()>, timers: Stream<()>, mut connected: watch::Receiver<u64>) -> Self {
        connected.mark_unchanged();
        Self { leads, timers, connected: Mutex::new(connected) }
    }

    /// The leads that have a timer, pending or fired, as 64-bit hashes: eight bytes each, however long the address.
    /// Two leads that share a hash, one in 2^64 pairs, share the answer until the next sweep after one of them moves on.
    async fn with_timer(&self) -> Result<HashSet<u64>, StoreError> {
        let unavailable = |error: async_nats::jetstream::stream::InfoError| StoreError::Unavailable(error.into());
        let subjects = self.timers.info_with_subjects("timers.>").await.map_err(unavailable)?;
        subjects
            .map_err(unavailable)
            .try_fold(HashSet::new(), |mut keys, (subject, _)| async move {
                let key = subject.strip_prefix(TIMERS_AT_SUBJECT).or_else(|| subject.strip_prefix(TIMERS_DUE_SUBJECT));
                if let Some(key) = key {
                    keys.insert(key_hash(key));
                }
                Ok(keys)
            })
            .await
    }
}

#[async_trait]
impl Ledger for JetStreamLedger {
    async fn scan(&self, after: Revision) -> Result<BoxStream<'static, Result<Scanned, StoreError>>, StoreError> {
        // First: a timer that is set from now on makes ours be refused.
        let with_timer = self.with_timer().await?;
        let from = DeliverPolicy::ByStartSequence { start_sequence: after + 1 };
        let (count, documents) = messages(&self.leads, format!("{LEADS_BUCKET_SUBJECT}>"), true, from).await?;
        // The bucket keeps one message a subject: what stands at a place is the newest of its lead. One that changes
        // comes again at the end; so many as there were at the start are enough, or leads that change faster than they
        // are read would make this endless.
        let most = usize::try_from(count).unwrap_or(usize::MAX);
        let scanned = documents
            .and_then(|message| std::future::ready(revision(&message).map(|revision| (revision, message))))
            // The client begins at the first message again if the connection is lost before it has any.
            .try_skip_while(move |(revision, _)| std::future::ready(Ok(*revision <= after)))
            .take(most)
            .try_filter_map(move |(revision, message)| std::future::ready(Ok(read(revision, &message, &with_timer))));
        Ok(scanned.boxed())
    }

    async fn reconnected(&self) {
        if self.connected.lock().await.changed().await.is_err() {
            // The connection is closed for good: the process is ending.
            std::future::pending::<()>().await;
        }
    }
}

fn revision(message: &Message) -> Result<Revision, StoreError> {
    message.info().map(|info| info.stream_sequence).map_err(StoreError::Unavailable)
}

/// One lead as its headers show it; none where the message is no lead of ours.
fn read(revision: Revision, message: &Message, with_timer: &HashSet<u64>) -> Option<Scanned> {
    let headers = message.headers.as_ref();
    let is_gone = headers.is_some_and(|headers| headers.get(KV_OPERATION).is_some());
    match message.subject.strip_prefix(LEADS_BUCKET_SUBJECT).map(LeadKey::parse) {
        Some(Ok(key)) if !is_gone => {
            let Marks { status, generation, next_action, .. } = Marks::read(headers);
            let has_timer = with_timer.contains(&key_hash(key.as_str()));
            Some(Scanned { key, revision, next_action, generation, status, has_timer })
        }
        Some(Ok(_)) | None => None,
        Some(Err(error)) => {
            tracing::warn!(%error, "a key in the bucket `leads` is not a lead's; it is left alone");
            None
        }
    }
}
