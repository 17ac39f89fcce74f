use std::sync::atomic::{AtomicU64, Ordering};

use dripline_domain::{Entry, What};

/// What this process has done since it started. Each is monotone.
#[derive(Debug, Default)]
pub struct Counters {
    enrolled: AtomicU64,
    sent: AtomicU64,
    retried: AtomicU64,
    in_doubt: AtomicU64,
    resolved: AtomicU64,
    parked: AtomicU64,
    rejected: AtomicU64,
    restarts: AtomicU64,
    conflicts: AtomicU64,
    timers_mended: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Enrolments begun.
    pub enrolled: u64,
    /// Emails accepted by a provider.
    pub sent: u64,
    /// Attempts to be made again.
    pub retried: u64,
    /// Attempts whose answer was lost.
    pub in_doubt: u64,
    /// Doubts that were settled, or given up.
    pub resolved: u64,
    /// Enrolments that wait for an operator.
    pub parked: u64,
    /// Messages moved to `REJECTED`.
    pub rejected: u64,
    /// Lead actors that failed.
    pub restarts: u64,
    /// Writes that another process's write came before.
    pub conflicts: u64,
    /// Timers the sweeper set again.
    pub timers_mended: u64,
}

impl Counters {
    pub(crate) fn count(&self, entry: &Entry) {
        let counter = match entry.event {
            What::Enrolled => &self.enrolled,
            What::Sent => &self.sent,
            What::RateLimited | What::Retrying | What::Misconfigured => &self.retried,
            What::InDoubt => &self.in_doubt,
            What::Parked => &self.parked,
            What::Resolved => &self.resolved,
            What::ArrivedAgain
            | What::NotEnrolled
            | What::Sending
            | What::Asked
            | What::Completed
            | What::Suppressed
            | What::Restarted
            | What::Accepted
            | What::Delivered
            | What::Opened
            | What::Clicked
            | What::Deferred
            | What::SoftBounced
            | What::HardBounced
            | What::Complained
            | What::Unsubscribed
            | What::Resubscribed
            | What::Dropped
            | What::Paused
            | What::Resumed
            | What::Moved
            | What::Stopped
            | What::Erased => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn restarted(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn conflicted(&self) {
        self.conflicts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn timer_mended(&self) {
        self.timers_mended.fetch_add(1, Ordering::Relaxed);
    }

    /// All of them now.
    pub fn read(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            enrolled: of(&self.enrolled),
            sent: of(&self.sent),
            retried: of(&self.retried),
            in_doubt: of(&self.in_doubt),
            resolved: of(&self.resolved),
            parked: of(&self.parked),
            rejected: of(&self.rejected),
            restarts: of(&self.restarts),
            conflicts: of(&self.conflicts),
            timers_mended: of(&self.timers_mended),
        }
    }
}
