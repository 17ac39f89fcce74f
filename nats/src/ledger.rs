use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{Context, Message};
use async_trait::async_trait;
use dripline_actors::Timer;
use dripline_actors::ports::{Ledger, Revision, Scanned, StoreError};
use dripline_domain::{LeadKey, Timestamp};
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use tokio::sync::{Mutex, watch};

use crate::direct::read_all;
use crate::key_hash::key_hash;
use crate::lead_scan::messages;
use crate::marks::Marks;
use crate::store::is_removed;
use crate::topology::{DUE, LEADS_BUCKET_SUBJECT, TIMERS, TIMERS_DUE_SUBJECT};
use crate::unavailable;

/// A timer is set so much after its lead's document at the latest, if it can be set at all.
const BETWEEN: Duration = Duration::from_secs(1);

/// What the sweeper reads: the timers in `TIMERS`, and the headers of `leads`.
pub struct JetStreamLedger {
    leads: Stream<()>,
    timers: Stream<()>,
    context: Context,
    connected: Mutex<watch::Receiver<u64>>,
}

impl JetStreamLedger {
    /// `connected` counts connections; see [`crate::Connections`].
    pub fn new(context: Context, leads: Stream<()>, timers: Stream<()>, mut connected: watch::Receiver<u64>) -> Self {
        connected.mark_unchanged();
        Self { leads, timers, context, connected: Mutex::new(connected) }
    }

    /// The timers that there are, and the revision of the leads whose timers must be among them.
    async fn timers(&self, fired_by: Timestamp) -> Result<(Revision, HashSet<u64>), StoreError> {
        let last = self.leads.get_info().await.map_err(unavailable)?.state.last_sequence;
        tokio::time::sleep(BETWEEN).await;
        self.remove_settled().await?;
        let groups = read_all(self.context.clone(), TIMERS);
        let timers = groups.try_fold(HashSet::new(), |mut timers, group| {
            let has_fired = group.subject.starts_with(TIMERS_DUE_SUBJECT);
            for bytes in Timer::split(&group.message.payload) {
                // What is no timer of ours is rejected when it fires.
                if let Ok(Timer { key, at, generation, .. }) = Timer::read(&bytes)
                    // A schedule that a killed server had fired may stand there again, and never fires.
                    && (has_fired || at >= fired_by)
                {
                    timers.insert(timer_hash(&key, generation));
                }
            }
            std::future::ready(Ok(timers))
        });
        Ok((last, timers.await?))
    }

    /// A server that was killed may keep fired timers that were acknowledged: their removal was not on disk yet. Nobody
    /// gets them any more, and each looks like the timer of its lead.
    async fn remove_settled(&self) -> Result<(), StoreError> {
        let consumer = self.timers.consumer_info(DUE).await.map_err(unavailable)?;
        let settled = self.timers.purge().filter(format!("{TIMERS_DUE_SUBJECT}>"));
        settled.sequence(consumer.ack_floor.stream_sequence + 1).await.map(drop).map_err(unavailable)
    }
}

/// Eight bytes a timer, however long the address. Two that share them, one in 2^64 pairs, share the answer until the next
/// sweep after one of their leads moves on.
fn timer_hash(key: &LeadKey, generation: u64) -> u64 {
    key_hash((key.as_str(), generation))
}

#[async_trait]
impl Ledger for JetStreamLedger {
    async fn scan(
        &self,
        after: Revision,
        fired_by: Timestamp,
    ) -> Result<BoxStream<'static, Result<Scanned, StoreError>>, StoreError> {
        let (last, timers) = self.timers(fired_by).await?;
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
                std::future::ready(Ok(read(revision, &message, |key, generation| {
                    revision > last || timers.contains(&timer_hash(key, generation))
                })))
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
fn read(revision: Revision, message: &Message, has_timer: impl FnOnce(&LeadKey, u64) -> bool) -> Option<Scanned> {
    let headers = message.headers.as_ref();
    match message.subject.strip_prefix(LEADS_BUCKET_SUBJECT).map(LeadKey::parse) {
        Some(Ok(key)) if !is_removed(headers) => {
            let Marks { status, generation, next_action, .. } = Marks::read(headers);
            let has_timer = has_timer(&key, generation);
            Some(Scanned { key, revision, next_action, generation, status, has_timer })
        }
        Some(Ok(_)) | None => None,
        Some(Err(error)) => {
            tracing::warn!(%error, "a key in the bucket `leads` is not a lead's; it is left alone");
            None
        }
    }
}
