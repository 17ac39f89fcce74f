use std::time::Duration;

use crate::{Attempt, Timestamp};

/// What is done about an attempt whose answer was lost.
///
/// First the provider is asked, where it can say. What nobody can find out within [`DoubtPolicy::wait`] is settled as
/// [`DoubtPolicy::then`] says: nothing is ever guessed in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubtPolicy {
    /// So long after the attempt it is given up to find out.
    pub wait: Duration,
    /// What is done then.
    pub then: DoubtEnd,
}

/// What becomes of an attempt that nobody could find out about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DoubtEnd {
    /// The email is sent again: some are mailed twice, none is missing.
    Resend,
    /// The step counts as sent: some are missing, none is mailed twice.
    Skip,
    /// It stays in doubt until a webhook or an operator settles it.
    #[default]
    Hold,
}

impl Default for DoubtPolicy {
    fn default() -> Self {
        Self { wait: Duration::from_hours(1), then: DoubtEnd::Hold }
    }
}

/// The provider is asked no more often than this.
const ASK_SOONEST: Duration = Duration::from_secs(1);
/// Nor less often than this.
const ASK_LATEST: Duration = Duration::from_mins(10);

impl DoubtPolicy {
    /// When it is given up to find out about this attempt.
    pub fn deadline(&self, attempt: &Attempt) -> Timestamp {
        attempt.started_at.plus(self.wait)
    }

    /// When to ask again: the longer it is ago, the later, with jitter, and once more at the deadline.
    pub fn next_question(&self, attempt: &Attempt, now: Timestamp, random: f64) -> Timestamp {
        let pause = now.since(attempt.started_at).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0);
        now.plus(pause.clamp(ASK_SOONEST, ASK_LATEST)).min(self.deadline(attempt))
    }
}
