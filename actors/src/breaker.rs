//! The circuit breaker of one provider: after failures in a row it lets no call through for a while, then one to try.
use std::time::Duration;

use dripline_domain::{Outcome, Timestamp};

/// When a provider's circuit opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimits {
    /// It opens after so many calls in a row that failed or were not answered. At least 1.
    pub failures: u32,
    /// For so long the first time; twice as long after each failed try.
    pub first: Duration,
    /// Never longer.
    pub longest: Duration,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        Self { failures: 20, first: Duration::from_secs(1), longest: Duration::from_mins(1) }
    }
}

/// What one call taught about the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It works, whatever it said of this email.
    Well,
    /// It failed, or did not answer.
    Failed(String),
    /// It refuses every email until its configuration is mended.
    Misconfigured(String),
}

impl Verdict {
    /// Of the outcomes of one call: it works if it said something clear of any email.
    pub(crate) fn of(outcomes: &[Outcome]) -> Self {
        let mut verdict = Self::Well;
        for outcome in outcomes {
            match outcome {
                Outcome::Accepted { .. } | Outcome::Refused { .. } | Outcome::RateLimited { .. } => return Self::Well,
                Outcome::Misconfigured { reason } => verdict = Self::Misconfigured(reason.clone()),
                Outcome::Transient { reason } | Outcome::Unknown { reason } => verdict = Self::Failed(reason.clone()),
            }
        }
        verdict
    }
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Yes.
    Go,
    /// Yes, this one: by it the provider is tried.
    Probe,
    /// No; ask again then.
    Stop(Timestamp),
}

/// A change that an operator should see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Opened { until: Timestamp, reason: String },
    Closed,
}

pub(crate) struct Breaker {
    limits: BreakerLimits,
    circuit: Circuit,
    /// Failed calls in a row.
    failures: u32,
    /// How often it opened in a row.
    trips: u32,
    /// Why it opened, until it closes.
    opened: Option<Opened>,
}

/// Why a provider is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Whether it refuses every email until its configuration is mended.
    pub misconfigured: bool,
    /// What it said last.
    pub reason: String,
}

enum Circuit {
    Closed,
    Open {
        until: Timestamp,
    },
    /// One call at a time, to try.
    HalfOpen {
        probing: bool,
    },
}

/// While a probe is on its way, others ask again after this.
const PROBE_PAUSE: Duration = Duration::from_millis(250);

impl Breaker {
    pub(crate) fn new(limits: BreakerLimits) -> Self {
        Self { limits, circuit: Circuit::Closed, failures: 0, trips: 0, opened: None }
    }

    /// Admits one call, or says when to ask again. Whoever gets [`Admission::Probe`] calls [`Breaker::learn`] or
    /// [`Breaker::give_back`].
    pub(crate) fn admit(&mut self, now: Timestamp) -> Admission {
        let admission = self.peek(now);
        if admission == Admission::Probe {
            self.circuit = Circuit::HalfOpen { probing: true };
        }
        admission
    }

    /// What [`Breaker::admit`] would say, without taking anything.
    pub(crate) fn peek(&self, now: Timestamp) -> Admission {
        match self.circuit {
            Circuit::Closed => Admission::Go,
            Circuit::Open { until } if now < until => Admission::Stop(until),
            Circuit::HalfOpen { probing: true } => Admission::Stop(now.plus(PROBE_PAUSE)),
            Circuit::Open { .. } | Circuit::HalfOpen { probing: false } => Admission::Probe,
        }
    }

    /// Why it is open; none while it is closed.
    pub(crate) fn opened(&self) -> Option<&Opened> {
        self.opened.as_ref()
    }

    /// The probe was not made.
    pub(crate) fn give_back(&mut self) {
        if let Circuit::HalfOpen { probing } = &mut self.circuit {
            *probing = false;
        }
    }

    /// A call came back.
    pub(crate) fn learn(&mut self, now: Timestamp, verdict: Verdict) -> Option<Change> {
        match (&self.circuit, verdict) {
            // Begun before it opened: says nothing new.
            (Circuit::Open { .. }, Verdict::Well | Verdict::Failed(_) | Verdict::Misconfigured(_)) => None,
            (Circuit::Closed, Verdict::Well) => {
                self.failures = 0;
                None
            }
            (Circuit::HalfOpen { .. }, Verdict::Well) => {
                (self.circuit, self.failures, self.trips) = (Circuit::Closed, 0, 0);
                self.opened = None;
                Some(Change::Closed)
            }
            (Circuit::Closed, Verdict::Failed(reason)) => {
                self.failures += 1;
                (self.failures >= self.limits.failures).then(|| self.open(now, self.pause(), false, reason))
            }
            (Circuit::HalfOpen { .. }, Verdict::Failed(reason)) => Some(self.open(now, self.pause(), false, reason)),
            (Circuit::Closed | Circuit::HalfOpen { .. }, Verdict::Misconfigured(reason)) => {
                // It takes a person to mend it: no use to try more often.
                Some(self.open(now, self.limits.longest, true, reason))
            }
        }
    }

    fn pause(&self) -> Duration {
        self.limits.first.saturating_mul(1 << self.trips.min(16)).min(self.limits.longest)
    }

    fn open(&mut self, now: Timestamp, pause: Duration, misconfigured: bool, reason: String) -> Change {
        let until = now.plus(pause);
        self.circuit = Circuit::Open { until };
        self.failures = 0;
        self.trips += 1;
        self.opened = Some(Opened { misconfigured, reason: reason.clone() });
        Change::Opened { until, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_000_000);

    fn failed() -> Verdict {
        Verdict::Failed("503".to_owned())
    }

    fn after(seconds: u64) -> Timestamp {
        START.plus(Duration::from_secs(seconds))
    }

    /// Opened at [`START`], for a second.
    fn open() -> Breaker {
        let mut breaker = Breaker::new(BreakerLimits { failures: 3, ..BreakerLimits::default() });
        for _ in 0..2 {
            assert_eq!(breaker.learn(START, failed()), None);
        }
        let Some(Change::Opened { until, .. }) = breaker.learn(START, failed()) else { panic!("it stays closed") };
        assert_eq!(until, after(1));
        breaker
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let mut breaker = Breaker::new(BreakerLimits { failures: 3, ..BreakerLimits::default() });
        for _ in 0..10 {
            for verdict in [failed(), failed(), Verdict::Well] {
                assert_eq!(breaker.learn(START, verdict), None);
            }
        }
        assert_eq!(breaker.admit(START), Admission::Go);
    }

    #[test]
    fn one_call_tries_and_its_success_closes_it() {
        let mut breaker = open();
        assert_eq!(breaker.admit(START), Admission::Stop(after(1)));
        assert_eq!(breaker.admit(after(1)), Admission::Probe);
        assert_eq!(breaker.admit(after(1)), Admission::Stop(after(1).plus(PROBE_PAUSE)));
        assert_eq!(breaker.opened().map(|opened| opened.reason.as_str()), Some("503"));
        assert_eq!(breaker.learn(after(2), Verdict::Well), Some(Change::Closed));
        assert_eq!(breaker.opened(), None);
        assert_eq!(breaker.admit(after(2)), Admission::Go);
    }

    #[test]
    fn each_failed_try_doubles_the_pause_up_to_the_longest() {
        let mut breaker = open();
        let mut now = after(1);
        for pause in [2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(breaker.admit(now), Admission::Probe);
            let opened = breaker.learn(now, failed());
            now = now.plus(Duration::from_secs(pause));
            assert_eq!(opened, Some(Change::Opened { until: now, reason: "503".to_owned() }));
        }
    }

    #[test]
    fn a_probe_that_was_not_made_is_made_by_the_next() {
        let mut breaker = open();
        assert_eq!(breaker.admit(after(1)), Admission::Probe);
        breaker.give_back();
        assert_eq!(breaker.admit(after(1)), Admission::Probe);
    }

    #[test]
    fn what_was_under_way_when_it_opened_changes_nothing() {
        let mut breaker = open();
        for verdict in [failed(), Verdict::Well] {
            assert_eq!(breaker.learn(START, verdict), None);
        }
        assert_eq!(breaker.admit(START), Admission::Stop(after(1)));
    }

    #[test]
    fn a_misconfigured_provider_is_stopped_at_once_and_tried_once_a_minute() {
        let mut breaker = Breaker::new(BreakerLimits::default());
        let revoked = || Verdict::Misconfigured("the key was revoked".to_owned());
        assert!(matches!(breaker.learn(START, revoked()), Some(Change::Opened { until, .. }) if until == after(60)));
        assert_eq!(breaker.learn(START, revoked()), None, "told once");
        assert_eq!(breaker.admit(after(60)), Admission::Probe);
        assert!(breaker.learn(after(60), revoked()).is_some());
    }

    #[test]
    fn a_batch_of_which_anything_came_back_clearly_is_well() {
        let transient = || Outcome::Transient { reason: "503".to_owned() };
        assert_eq!(Verdict::of(&[transient(), Outcome::Refused { reason: "no".to_owned() }]), Verdict::Well);
        assert_eq!(Verdict::of(&[transient(), transient()]), failed());
    }
}
