//! Guards: a sequence whose emails bounce, or are reported as spam, more often than its provider and the receiving
//! servers bear, must not go on.
use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// A window slides by this part of its length.
const PARTS: u32 = 24;

/// When a sequence is paused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GuardLimits {
    /// How far back is looked.
    pub window: Duration,
    /// Hard bounces for each email sent; past it, the sequence is paused.
    pub bounces: f64,
    /// Spam complaints for each email sent, likewise.
    pub complaints: f64,
    /// Nothing is judged by fewer emails than this in the window.
    pub least: u64,
}

impl Default for GuardLimits {
    /// Complaints as Gmail bears them (0.1 %, Email sender guidelines).
    fn default() -> Self {
        Self { window: Duration::from_hours(24), bounces: 0.05, complaints: 0.001, least: 100 }
    }
}

/// What a guard counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// An email was sent.
    Sent,
    /// An email did not arrive, and never will.
    HardBounced,
    /// An email was reported as spam.
    Complained,
}

/// The newest emails of one sequence by one provider, and what became of them: at most 25 parts, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GuardWindow(VecDeque<Part>);

/// Stored as a list of four numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, u64, u64, u64)", into = "(i64, u64, u64, u64)")]
struct Part {
    /// Unix milliseconds.
    began: i64,
    sent: u64,
    bounced: u64,
    complained: u64,
}

impl From<(i64, u64, u64, u64)> for Part {
    fn from((began, sent, bounced, complained): (i64, u64, u64, u64)) -> Self {
        Self { began, sent, bounced, complained }
    }
}

impl From<Part> for (i64, u64, u64, u64) {
    fn from(Part { began, sent, bounced, complained }: Part) -> Self {
        (began, sent, bounced, complained)
    }
}

impl GuardWindow {
    /// Counts, forgets what is too old, and judges: why the sequence must not go on, if so.
    pub fn count(&mut self, what: Guarded, at: Timestamp, limits: &GuardLimits) -> Option<String> {
        let length = i64::try_from((limits.window / PARTS).as_millis()).unwrap_or(i64::MAX).max(1);
        let began = at.as_millis().saturating_sub(at.as_millis().rem_euclid(length));
        // The clocks of two engines differ: a line that is late by so little counts as of now.
        if self.0.back().is_none_or(|newest| newest.began < began) {
            self.0.push_back(Part { began, sent: 0, bounced: 0, complained: 0 });
            let oldest = began.saturating_sub(length.saturating_mul(i64::from(PARTS)));
            self.0.retain(|part| part.began >= oldest);
        }
        if let Some(newest) = self.0.back_mut() {
            match what {
                Guarded::Sent => newest.sent += 1,
                Guarded::HardBounced => newest.bounced += 1,
                Guarded::Complained => newest.complained += 1,
            }
        }
        self.judge(limits)
    }

    fn judge(&self, limits: &GuardLimits) -> Option<String> {
        let sum = |of: fn(&Part) -> u64| self.0.iter().map(of).sum::<u64>();
        let sent = sum(|part| part.sent);
        if sent < limits.least {
            return None;
        }
        [
            ("bounced", sum(|part| part.bounced), limits.bounces),
            ("were reported as spam", sum(|part| part.complained), limits.complaints),
        ]
        .into_iter()
        .find(|(_, count, limit)| *count > 0 && share(*count, sent) > *limit)
        .map(|(what, count, limit)| {
            let percent = |share: f64| format!("{:.2} %", share * 100.0);
            format!(
                "{count} of {sent} emails {what} ({}; the limit is {})",
                percent(share(count, sent)),
                percent(limit)
            )
        })
    }
}

/// From 0 on; 0 of nothing. Beyond 2^53 it is rounded.
#[allow(clippy::cast_precision_loss)]
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn limits() -> GuardLimits {
        GuardLimits::default()
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 / HOUR * HOUR + hours * HOUR)
    }

    fn sent(window: &mut GuardWindow, count: u64, hours: i64) {
        for _ in 0..count {
            assert_eq!(window.count(Guarded::Sent, at(hours), &limits()), None);
        }
    }

    #[test]
    fn past_the_limit_and_not_at_it() {
        let mut window = GuardWindow::default();
        sent(&mut window, 100, 0);
        for _ in 0..5 {
            assert_eq!(window.count(Guarded::HardBounced, at(1), &limits()), None);
        }
        let why = window.count(Guarded::HardBounced, at(1), &limits()).unwrap();
        assert_eq!(why, "6 of 100 emails bounced (6.00 %; the limit is 5.00 %)");
    }

    #[test]
    fn one_complaint_in_a_thousand_is_borne_and_two_are_not() {
        let mut window = GuardWindow::default();
        sent(&mut window, 1_000, 0);
        assert_eq!(window.count(Guarded::Complained, at(0), &limits()), None);
        assert!(window.count(Guarded::Complained, at(0), &limits()).unwrap().contains("reported as spam"));
    }

    #[test]
    fn nothing_is_judged_by_a_few_emails() {
        let mut window = GuardWindow::default();
        sent(&mut window, 99, 0);
        for _ in 0..99 {
            assert_eq!(window.count(Guarded::HardBounced, at(0), &limits()), None);
        }
        assert!(window.count(Guarded::Sent, at(0), &limits()).is_some());
    }

    #[test]
    fn what_is_older_than_the_window_counts_no_more() {
        let mut window = GuardWindow::default();
        sent(&mut window, 100, 0);
        for _ in 0..5 {
            window.count(Guarded::HardBounced, at(0), &limits());
        }
        sent(&mut window, 100, 25);
        for _ in 0..5 {
            assert_eq!(window.count(Guarded::HardBounced, at(25), &limits()), None);
        }
        assert!(window.count(Guarded::HardBounced, at(25), &limits()).is_some());
    }

    #[test]
    fn it_never_grows_beyond_its_parts() {
        let mut window = GuardWindow::default();
        for hour in 0..1_000 {
            window.count(Guarded::Sent, at(hour), &limits());
            assert!(window.0.len() <= 25);
        }
        let stored = serde_json::to_string(&window).unwrap();
        assert!(stored.starts_with("[["), "{stored}");
        assert_eq!(serde_json::from_str::<GuardWindow>(&stored).unwrap(), window);
    }
}
