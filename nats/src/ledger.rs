use std::collections::HashSet;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use dripline_actors::ports::{Ledger, Revision, Scanned, StoreError};
use dripline_domain::{LeadKey, Timestamp};
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use tokio::sync::{Mutex, watch};

use crate::key_hash::key_hash;
use crate::lead_scan::messages;
use crate::marks::Marks;
use crate::store::is_removed;
use crate::topology::{DUE, LEADS_BUCKET_SUBJECT, TIMERS_AT_SUBJECT, TIMERS_DUE_SUBJECT};
use crate::unavailable;

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

    async fn with_timer(&self) -> Result<WithTimer, StoreError> {
        self.remove_settled().await?;
        let subjects = self.timers.info_with_subjects("timers.>").await.map_err(unavailable)?;
        let with_timer = subjects.map_err(unavailable).try_fold(WithTimer::default(), |mut keys, (subject, _)| {
            if let Some(key) = subject.strip_prefix(TIMERS_AT_SUBJECT) {
                keys.pending.insert(key_hash(key));
            } else if let Some(key) = subject.strip_prefix(TIMERS_DUE_SUBJECT) {
                keys.fired.insert(key_hash(key));
            }
            std::future::ready(Ok(keys))
        });
        with_timer.await
    }

    /// A server that was killed may keep fired timers that were acknowledged: their removal was not on disk yet. Nobody
    /// gets them any more, and each looks like the timer of its lead.
    async fn remove_settled(&self) -> Result<(), StoreError> {
        let consumer = self.timers.consumer_info(DUE).await.map_err(unavailable)?;
        let settled = self.timers.purge().filter(format!("{TIMERS_DUE_SUBJECT}>"));
        settled.sequence(consumer.ack_floor.stream_sequence + 1).await.map(drop).map_err(unavailable)
    }
}

/// The leads that have a timer, as 64-bit hashes: eight bytes each, however long the address. Two leads that share a hash,
/// one in 2^64 pairs, share the answer until the next sweep after one of them moves on.
#[derive(Default)]
struct WithTimer {
    pending: HashSet<u64>,
    /// In the queue.
    fired: HashSet<u64>,
}

#[async_trait]
impl Ledger for JetStreamLedger {
    async fn scan(
        &self,
        after: Revision,
        fired_by: Timestamp,
    ) -> Result<BoxStream<'static, Result<Scanned, StoreError>>, StoreError> {
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
            .try_filter_map(move |(revision, message)| {
                std::future::ready(Ok(read(revision, &message, &with_timer, fired_by)))
            });
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
fn read(revision: Revision, message: &Message, with_timer: &WithTimer, fired_by: Timestamp) -> Option<Scanned> {
    let headers = message.headers.as_ref();
    match message.subject.strip_prefix(LEADS_BUCKET_SUBJECT).map(LeadKey::parse) {
        Some(Ok(key)) if !is_removed(headers) => {
            let Marks { status, generation, next_action, .. } = Marks::read(headers);
            let hash = key_hash(key.as_str());
            // A schedule that a killed server had fired may stand there again, and never fires: of a lead whose time is
            // over for long, only what is in the queue counts.
            let may_be_pending = next_action.is_none_or(|next| next >= fired_by);
            let has_timer = with_timer.fired.contains(&hash) || may_be_pending && with_timer.pending.contains(&hash);
            Some(Scanned { key, revision, next_action, generation, status, has_timer })
        }
        Some(Ok(_)) | None => None,
        Some(Err(error)) => {
            tracing::warn!(%error, "a key in the bucket `leads` is not a lead's; it is left alone");
            None
        }
    }
}
