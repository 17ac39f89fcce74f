//! The memory of a bucket: kept by a watcher, and counted on while it is surely of now.
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::Stream;
use dripline_actors::ports::Source;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::millis;

/// Between two questions.
const EVERY: Duration = Duration::from_millis(100);
/// What was all there is longer ago may no longer be. Also how long a process may stand still unnoticed.
const HOLDS: Duration = Duration::from_millis(500);
/// A question that is not answered by then is asked again.
const ANSWERS: Duration = Duration::from_secs(1);
/// A watcher that is behind for so long sees nothing any more: its consumer was on a server that died, for example. The
/// client itself would take a minute to find out.
const BEHIND: Duration = Duration::from_secs(3);

/// What a watcher fills.
pub(crate) trait Memory: Send + 'static {
    /// What was seen is told anew, from the beginning.
    fn begin_anew(&mut self);
    /// The newest of a key: first of each, then what changes.
    fn see(&mut self, key: &str, message: &Message);
    /// All that is in the bucket has been seen. Told again after each change.
    fn is_complete(&mut self) {}
}

/// The watcher of a bucket.
pub(crate) struct Watcher<M> {
    /// Behind the bucket.
    pub(crate) stream: Stream<()>,
    /// Before each key.
    pub(crate) subjects: &'static str,
    pub(crate) headers_only: bool,
    pub(crate) freshness: Freshness,
    pub(crate) memory: M,
}

impl<M: Memory> Watcher<M> {
    /// Watches for good. `connected` changes when the connection was made again.
    pub(crate) async fn keep_on(mut self, mut connected: watch::Receiver<u64>) {
        connected.mark_unchanged();
        let (stream, freshness) = (self.stream.clone(), self.freshness.clone());
        loop {
            let error = tokio::select! {
                Err(error) = self.watch() => Some(error),
                Err(error) = freshness.keep_asking(&stream) => Some(error),
                // What changed while the connection was away has not been seen.
                Ok(()) = connected.changed() => None,
            };
            // In this order: who finds nothing in memory asks whether it counts.
            freshness.lost();
            self.memory.begin_anew();
            if let Some(error) = error {
                let bucket = self.subjects;
                tracing::warn!(%error, bucket, "a bucket cannot be watched; before each email it is read until it can");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn watch(&mut self) -> Result<Infallible, Source> {
        let before = self.stream.get_info().await?.state.last_sequence;
        let consumer = self
            .stream
            .create_consumer(OrderedConfig {
                filter_subject: format!("{}>", self.subjects),
                deliver_policy: DeliverPolicy::LastPerSubject,
                headers_only: self.headers_only,
                ..OrderedConfig::default()
            })
            .await?;
        let (mut is_complete, mut seen) = (consumer.cached_info().num_pending == 0, before);
        let mut messages = consumer.messages().await?;
        loop {
            if is_complete {
                self.memory.is_complete();
                self.freshness.saw(seen);
            }
            let message = messages.next().await.ok_or("the consumer ended")??;
            let info = message.info()?;
            seen = seen.max(info.stream_sequence);
            is_complete |= info.pending == 0;
            if let Some(key) = message.subject.strip_prefix(self.subjects) {
                self.memory.see(key, &message);
            }
        }
    }
}

/// Whether a watcher's memory of a bucket can be trusted at this moment.
///
/// A process that stood still (SIGSTOP, a paused machine) or has lost its connection, or whose watcher is served by nobody any
/// more, remembers what was true before, and does not know it. So the stream's leader is asked ten times a second for the
/// bucket's last sequence, and memory counts from the question on, once the watcher has seen that.
#[derive(Clone)]
pub(crate) struct Freshness {
    began: Instant,
    /// When the newest question was asked that the watcher has caught up with, in milliseconds since `began`; 0 for none.
    asked: Arc<AtomicU64>,
    /// None until the watcher has caught up with what was there when it began.
    seen: Arc<watch::Sender<Option<u64>>>,
}

impl Freshness {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), asked: Arc::default(), seen: Arc::new(watch::Sender::new(None)) }
    }

    /// Whether memory can be trusted now. To be asked once memory was looked at: the watcher may begin anew meanwhile.
    pub(crate) fn is_fresh(&self) -> bool {
        let asked = self.asked.load(Ordering::Acquire);
        asked > 0 && self.now() <= asked + millis(HOLDS)
    }

    /// The watcher has seen all of the bucket up to this sequence.
    fn saw(&self, sequence: u64) {
        self.seen.send_replace(Some(sequence));
    }

    /// The watcher begins anew. Before it forgets anything.
    fn lost(&self) {
        self.asked.store(0, Ordering::Release);
        self.seen.send_replace(None);
    }

    /// Asks as long as the watcher keeps up.
    ///
    /// # Errors
    /// It does not, and should begin anew.
    async fn keep_asking(&self, stream: &Stream<()>) -> Result<Infallible, Source> {
        let mut seen = self.seen.subscribe();
        // To catch up takes as long as the bucket is large.
        seen.wait_for(Option::is_some).await?;
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let asked = self.now().max(1);
            // No answer, as while a cluster elects a leader: memory ages meanwhile.
            let Ok(Ok(info)) = timeout(ANSWERS, stream.get_info()).await else { continue };
            let last = info.state.last_sequence;
            let caught_up = timeout(BEHIND, seen.wait_for(|seen| *seen >= Some(last))).await;
            caught_up.map_err(|_| format!("the watcher does not see what is in the bucket, up to {last}"))??;
            self.asked.store(asked, Ordering::Release);
        }
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }
}
