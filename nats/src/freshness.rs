//! Whether what the server has told this process is of now.
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::Client;
use futures_util::StreamExt;
use tokio::task::AbortHandle;

/// So often the server is asked for an echo.
const EVERY: Duration = Duration::from_millis(100);
/// What was heard longer ago may be of before. Also how long a process may stand still unnoticed.
const HOLDS: Duration = Duration::from_millis(500);
/// After a silence the watchers of buckets may be behind for so long: their pulls may have ended meanwhile.
const CATCHES_UP: Duration = Duration::from_secs(2);

/// Whether a watcher's memory of a bucket can be trusted at this moment.
///
/// A process that stood still (SIGSTOP, a paused machine) or has lost its connection remembers what was true before, and does
/// not know it. So it sends itself a word by way of the server, ten times a second: while the words come back, the server's
/// other messages do, too.
pub(crate) struct Freshness {
    echo: Arc<Echo>,
    listener: AbortHandle,
}

impl Freshness {
    /// Starts to listen on this connection.
    pub(crate) fn watch(client: &Client) -> Self {
        let echo = Arc::new(Echo::new());
        let (client, heard) = (client.clone(), Arc::clone(&echo));
        let listener = tokio::spawn(async move {
            loop {
                let Err(error) = listen(&client, &heard).await;
                tracing::warn!(%error, "no echo of the server; buckets are read one by one");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        Self { echo, listener: listener.abort_handle() }
    }

    /// Whether memory can be trusted now.
    pub(crate) fn is_fresh(&self) -> bool {
        self.echo.is_fresh(self.echo.now())
    }
}

impl Drop for Freshness {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn listen(client: &Client, echo: &Echo) -> Result<Infallible, Box<dyn std::error::Error + Send + Sync>> {
    let subject = client.new_inbox();
    let mut words = client.subscribe(subject.clone()).await?;
    let mut every = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => client.publish(subject.clone(), echo.now().to_string().into()).await?,
            word = words.next() => {
                let word = word.ok_or("the subscription ended")?;
                echo.heard(std::str::from_utf8(&word.payload)?.parse()?, echo.now());
            }
        }
    }
}

/// Times in milliseconds since its beginning.
struct Echo {
    began: Instant,
    /// When the newest word that came back was sent.
    sent: AtomicU64,
    /// From then on memory is trusted again.
    trusted_from: AtomicU64,
}

impl Echo {
    fn new() -> Self {
        Self { began: Instant::now(), sent: AtomicU64::new(0), trusted_from: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    fn heard(&self, sent: u64, now: u64) {
        if self.is_silent(now) {
            let silent_ms = now - self.sent.load(Ordering::Acquire);
            tracing::info!(
                silent_ms,
                "this process stood still, or the server did; for a moment buckets are read one by one"
            );
            self.trusted_from.store(now + millis(CATCHES_UP), Ordering::Release);
        }
        self.sent.fetch_max(sent, Ordering::AcqRel);
    }

    fn is_silent(&self, now: u64) -> bool {
        now > self.sent.load(Ordering::Acquire) + millis(HOLDS)
    }

    fn is_fresh(&self, now: u64) -> bool {
        // In this order: the end of a silence is seen together with what it brings.
        !self.is_silent(now) && now >= self.trusted_from.load(Ordering::Acquire)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_trusted_while_words_come_back() {
        let echo = Echo::new();
        assert!(echo.is_fresh(400));
        echo.heard(390, 401);
        assert!(echo.is_fresh(890));
        assert!(!echo.is_fresh(891), "nothing was heard for too long");
    }

    #[test]
    fn after_a_silence_it_is_trusted_once_the_watchers_have_caught_up() {
        let echo = Echo::new();
        // The words of a lost connection come all at once when it is back.
        for sent in (100..=3_000).step_by(100) {
            echo.heard(sent, 3_005);
        }
        assert!(!echo.is_fresh(3_006));
        for now in (3_100..=5_100).step_by(100) {
            echo.heard(now - 1, now);
        }
        assert!(!echo.is_fresh(5_004));
        assert!(echo.is_fresh(5_005));
    }
}
