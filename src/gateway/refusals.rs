//! Saying that requests are refused, without a line for each.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Counts what is refused: it is said once a second with how many, not once a request.
pub struct RefusalLog {
    began: Instant,
    second: AtomicU64,
    unsaid: AtomicU64,
}

impl Default for RefusalLog {
    fn default() -> Self {
        Self { began: Instant::now(), second: AtomicU64::new(u64::MAX), unsaid: AtomicU64::new(0) }
    }
}

impl RefusalLog {
    /// One more; how many were not said yet, when it is time to say it.
    pub fn to_say(&self) -> Option<u64> {
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        let second = self.began.elapsed().as_secs();
        (self.second.swap(second, Ordering::Relaxed) != second).then(|| self.unsaid.swap(0, Ordering::Relaxed))
    }
}
