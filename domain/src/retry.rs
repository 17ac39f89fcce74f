use std::time::Duration;

/// When a failed attempt is tried again: exponential growth with full jitter, so that leads that failed together
/// do not come back together (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The upper bound of the first delay.
    pub first: Duration,
    /// No delay is longer.
    pub longest: Duration,
    /// After so many failures of one step the enrolment is parked. At least 1.
    pub max_failures: u32,
}

/// Some three days in all, so that the outage of a provider over a weekend parks nobody.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first: Duration::from_secs(30), longest: Duration::from_hours(6), max_failures: 20 }
    }
}

impl RetryPolicy {
    /// The delay after the `failures`-th failure in a row (from 1 on); `random` is in `[0, 1)`.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let ceiling = self.first.saturating_mul(1 << doublings).min(self.longest);
        ceiling.mul_f64(random.clamp(0.0, 1.0))
    }

    /// Whether this many failures are enough.
    pub fn exhausted(&self, failures: u32) -> bool {
        failures >= self.max_failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_longest_delay() {
        let policy = RetryPolicy { first: Duration::from_secs(1), longest: Duration::from_secs(10), max_failures: 8 };
        for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (6, 10), (4_000_000, 10)] {
            assert_eq!(policy.delay(failures, 1.0), Duration::from_secs(seconds), "{failures} failures");
        }
        assert_eq!(policy.delay(4, 0.5), Duration::from_secs(4));
        assert_eq!(policy.delay(4, 0.0), Duration::ZERO);
    }
}
