//! What needs a person, and who has been told of it: one record an alert, so that many processes can share it.
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Link, Timestamp};

/// What can be wrong: a closed set. Each is an alert of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The canary's last run ended at this link.
    Canary(Link),
    /// A provider refuses every email until its configuration is mended.
    ProviderMisconfigured(String),
    /// A provider fails, and is left alone.
    ProviderStopped(String),
    /// What waits in this stream waits for too long.
    QueueBlocked(String),
    /// The lead queue is at its limit: every lead is refused.
    QueueFull,
    /// More and more attempts whose answer was lost.
    InDoubt,
    /// More and more messages that cannot be processed.
    Rejected,
    /// A guard has paused this sequence.
    Guard(String),
    /// An outgoing webhook is paused, since its subscriber is gone.
    OutgoingWebhook(String),
    /// Leads cannot be put on disk.
    Ingestion,
    /// No engine is alive.
    NoEngine,
}

impl Cause {
    /// As a bucket takes it: `provider.sendgrid`.
    pub fn key(&self) -> String {
        match self {
            Self::Canary(link) => format!("canary.{}", link.name()),
            Self::ProviderMisconfigured(name) => format!("misconfigured.{name}"),
            Self::ProviderStopped(name) => format!("provider.{name}"),
            Self::QueueBlocked(stream) => format!("queue.{stream}"),
            Self::QueueFull => "queue-full".to_owned(),
            Self::InDoubt => "in-doubt".to_owned(),
            Self::Rejected => "rejected".to_owned(),
            Self::Guard(sequence) => format!("guard.{sequence}"),
            Self::OutgoingWebhook(name) => format!("outgoing.{name}"),
            Self::Ingestion => "ingestion".to_owned(),
            Self::NoEngine => "no-engine".to_owned(),
        }
    }

    /// Whether leads or emails stand still.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Canary(_)
            | Self::ProviderMisconfigured(_)
            | Self::ProviderStopped(_)
            | Self::QueueBlocked(_)
            | Self::QueueFull
            | Self::Ingestion
            | Self::NoEngine => Severity::Critical,
            Self::InDoubt | Self::Rejected | Self::Guard(_) | Self::OutgoingWebhook(_) => Severity::Warning,
        }
    }
}

/// How much an alert matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Leads or emails stand still.
    Critical,
    /// Somebody should look today.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
        })
    }
}

/// Something that is wrong now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What.
    pub cause: Cause,
    /// For people: what is wrong, and what to do. It names no recipient.
    pub summary: String,
}

/// When people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlertPolicy {
    /// An alert that nobody has seen for so long is resolved.
    pub quiet: Duration,
    /// An alert that stays is told again after this.
    pub repeat: Duration,
}

/// One alert, from when it was raised until everybody was told that it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// As [`Cause::key`].
    pub key: String,
    /// How much it matters.
    pub severity: Severity,
    /// What was seen last, for people.
    pub summary: String,
    /// When it was raised.
    pub since: Timestamp,
    /// When it was last seen.
    pub seen: Timestamp,
    /// When it was found to be over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Timestamp>,
    /// When people were last to be told.
    pub told: Timestamp,
    /// What has yet to be delivered; none once everybody has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
}

/// A notice on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    /// Of which kind.
    pub kind: NoticeKind,
    /// The channels that do not have it yet, by name.
    pub left: Vec<String>,
    /// How often it was tried.
    pub tries: u32,
    /// Whether a process is at it.
    pub claimed: bool,
    /// It is tried no sooner: either a try failed, or a process is at it.
    pub due: Timestamp,
}

/// What a notice says of its alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeKind {
    /// It is new.
    Raised,
    /// It is there still.
    Repeated,
    /// It is over.
    Resolved,
}

impl NoticeKind {
    /// As programs get it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Repeated => "repeated",
            Self::Resolved => "resolved",
        }
    }
}

/// Whoever is at a notice has so long for it; then another process may take it.
pub const NOTICE_LEASE: Duration = Duration::from_mins(1);

/// The pauses between tries to deliver a notice double from one to the other.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

impl Alert {
    /// A new one, to be told through these channels.
    pub fn raise(condition: &Condition, channels: &[String], now: Timestamp) -> Self {
        let mut alert = Self {
            key: condition.cause.key(),
            severity: condition.cause.severity(),
            summary: condition.summary.clone(),
            since: now,
            seen: now,
            resolved: None,
            told: now,
            pending: None,
        };
        alert.tell(NoticeKind::Raised, channels, now);
        alert
    }

    /// It is seen again. What it then is; none where that needs no writing, as it was seen a moment ago.
    pub fn see(&self, condition: &Condition, channels: &[String], policy: AlertPolicy, now: Timestamp) -> Option<Self> {
        if self.resolved.is_some() {
            return Some(Self::raise(condition, channels, now));
        }
        let repeats = self.pending.is_none() && now.since(self.told) >= policy.repeat;
        if !repeats && now.since(self.seen) < policy.quiet / 3 {
            return None;
        }
        let mut alert = Self { seen: now, summary: condition.summary.clone(), ..self.clone() };
        if repeats {
            alert.tell(NoticeKind::Repeated, channels, now);
        }
        Some(alert)
    }

    /// Nobody has seen it for long: it is over. None where that is not so, or is known.
    pub fn expire(&self, channels: &[String], policy: AlertPolicy, now: Timestamp) -> Option<Self> {
        // The end is not told before the beginning.
        let telling = self.pending.as_ref().is_some_and(|pending| pending.claimed && now < pending.due);
        if self.resolved.is_some() || telling || now.since(self.seen) < policy.quiet {
            return None;
        }
        let mut alert = Self { resolved: Some(now), ..self.clone() };
        alert.tell(NoticeKind::Resolved, channels, now);
        Some(alert)
    }

    fn tell(&mut self, kind: NoticeKind, channels: &[String], now: Timestamp) {
        self.told = now;
        self.pending = (!channels.is_empty()).then(|| Pending {
            kind,
            left: channels.to_vec(),
            tries: 0,
            claimed: false,
            due: now,
        });
    }

    /// Takes the notice that is due, to be tried through those of these channels that it has yet to go through. Whoever
    /// has the returned record written first tries it.
    pub fn claim(&self, channels: &[String], now: Timestamp) -> Option<Self> {
        let pending = self.pending.as_ref().filter(|pending| pending.due <= now)?;
        if !pending.left.iter().any(|channel| channels.contains(channel)) {
            return None;
        }
        let (tries, due) = (pending.tries + 1, now.plus(NOTICE_LEASE));
        let pending = Pending { tries, due, claimed: true, ..pending.clone() };
        Some(Self { pending: Some(pending), ..self.clone() })
    }

    /// A try at this notice is over: these channels have it. None where another notice has taken its place.
    pub fn delivered(&self, tried: &Pending, through: &[String], now: Timestamp) -> Option<Self> {
        if self.pending.as_ref() != Some(tried) {
            return None;
        }
        let pending = self.pending.clone().and_then(|mut pending| {
            pending.claimed = false;
            pending.left.retain(|channel| !through.contains(channel));
            let doublings = pending.tries.saturating_sub(1).min(16);
            pending.due = now.plus(FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE));
            (!pending.left.is_empty()).then_some(pending)
        });
        Some(Self { pending, ..self.clone() })
    }

    /// It is resolved, and everybody knows.
    pub fn is_over(&self) -> bool {
        self.resolved.is_some() && self.pending.is_none()
    }
}

/// A number that only grows, looked at now and then: by how much it grew within a time.
#[derive(Debug, Clone)]
pub struct Growth {
    within: Duration,
    samples: std::collections::VecDeque<(Timestamp, u64)>,
}

impl Growth {
    /// Growth is measured over this time. It begins with the first sample.
    pub fn new(within: Duration) -> Self {
        Self { within, samples: std::collections::VecDeque::new() }
    }

    /// It stands here now; by how much it grew. A number that shrank was begun anew.
    pub fn sample(&mut self, count: u64, now: Timestamp) -> u64 {
        if self.samples.back().is_some_and(|(_, last)| count < *last) {
            self.samples.clear();
        }
        // Only what grew is kept, so that there are no more samples than there are steps of growth.
        if self.samples.back().is_none_or(|(_, last)| *last != count) {
            self.samples.push_back((now, count));
        }
        // The newest sample that is older than the time is where the count stood when it began.
        while self.samples.get(1).is_some_and(|(at, _)| now.since(*at) >= self.within) {
            self.samples.pop_front();
        }
        count - self.samples.front().map_or(count, |(_, first)| *first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_000_000);
    const POLICY: AlertPolicy = AlertPolicy { quiet: Duration::from_secs(30), repeat: Duration::from_hours(4) };

    fn condition(summary: &str) -> Condition {
        Condition { cause: Cause::QueueBlocked("LEADS".to_owned()), summary: summary.to_owned() }
    }

    fn channels(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn after(seconds: u64) -> Timestamp {
        START.plus(Duration::from_secs(seconds))
    }

    fn kind(alert: &Alert) -> Option<NoticeKind> {
        alert.pending.as_ref().map(|pending| pending.kind)
    }

    /// Raised at [`START`], and everybody told.
    fn told() -> Alert {
        let slack = channels(&["slack"]);
        tried(&Alert::raise(&condition("it waits"), &slack, START).claim(&slack, START).unwrap(), &slack, START)
    }

    fn tried(claimed: &Alert, through: &[String], now: Timestamp) -> Alert {
        claimed.delivered(claimed.pending.as_ref().unwrap(), through, now).unwrap()
    }

    #[test]
    fn an_alert_that_stays_is_told_once_and_again_after_the_repeat() {
        let slack = channels(&["slack"]);
        let mut alert = told();
        let mut notices = Vec::new();
        for second in (0..36_000).step_by(5) {
            if let Some(seen) = alert.see(&condition("it waits"), &slack, POLICY, after(second)) {
                alert = seen;
            }
            assert_eq!(alert.expire(&slack, POLICY, after(second)), None);
            if let Some(claimed) = alert.claim(&slack, after(second)) {
                notices.push((second, kind(&claimed).unwrap()));
                alert = tried(&claimed, &slack, after(second));
            }
        }
        assert_eq!(notices, [(14_400, NoticeKind::Repeated), (28_800, NoticeKind::Repeated)]);
    }

    #[test]
    fn seeing_it_every_moment_writes_it_only_now_and_then() {
        let alert = told();
        assert_eq!(alert.see(&condition("more wait"), &[], POLICY, after(9)), None);
        let seen = alert.see(&condition("more wait"), &[], POLICY, after(10)).unwrap();
        assert_eq!((seen.summary.as_str(), seen.seen, seen.since), ("more wait", after(10), START));
    }

    #[test]
    fn one_that_nobody_sees_is_resolved_and_told_so_once() {
        let slack = channels(&["slack"]);
        let alert = told();
        assert_eq!(alert.expire(&slack, POLICY, after(29)), None);
        let over = alert.expire(&slack, POLICY, after(30)).unwrap();
        assert_eq!((kind(&over), over.is_over()), (Some(NoticeKind::Resolved), false));
        assert_eq!(over.expire(&slack, POLICY, after(300)), None);
        let known = tried(&over.claim(&slack, after(30)).unwrap(), &slack, after(30));
        assert!(known.is_over());
    }

    #[test]
    fn one_that_comes_back_before_its_end_was_told_is_a_new_one() {
        let over = told().expire(&channels(&["slack"]), POLICY, after(30)).unwrap();
        let again = over.see(&condition("again"), &channels(&["slack"]), POLICY, after(31)).unwrap();
        assert_eq!((kind(&again), again.since, again.resolved), (Some(NoticeKind::Raised), after(31), None));
    }

    #[test]
    fn a_channel_that_fails_is_tried_again_with_growing_pauses_and_the_others_are_not() {
        let both = channels(&["slack", "email"]);
        let mut alert = Alert::raise(&condition("it waits"), &both, START);
        let mut now = START;
        for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let claimed = alert.claim(&both, now).unwrap();
            assert_eq!(claimed.claim(&both, now), None, "one at a time");
            alert = tried(&claimed, &channels(&["slack"]), now);
            assert_eq!(alert.pending.as_ref().unwrap().left, ["email"]);
            now = now.plus(Duration::from_secs(pause));
            assert_eq!(alert.pending.as_ref().unwrap().due, now);
        }
        let claimed = alert.claim(&both, now).unwrap();
        assert_eq!(tried(&claimed, &channels(&["email"]), now).pending, None);
    }

    #[test]
    fn a_notice_whose_process_died_is_taken_over() {
        let slack = channels(&["slack"]);
        let claimed = Alert::raise(&condition("it waits"), &slack, START).claim(&slack, START).unwrap();
        assert_eq!(claimed.claim(&slack, after(59)), None);
        assert!(claimed.claim(&slack, after(60)).is_some());
        assert_eq!(claimed.claim(&channels(&["email"]), after(60)), None, "not ours");
    }

    #[test]
    fn the_end_is_not_told_before_the_beginning() {
        let slack = channels(&["slack"]);
        let claimed = Alert::raise(&condition("it waits"), &slack, START).claim(&slack, START).unwrap();
        assert_eq!(claimed.expire(&slack, POLICY, after(40)), None, "a process is at it");
        let failed = tried(&claimed, &[], after(40));
        let over = failed.expire(&slack, POLICY, after(40)).unwrap();
        assert_eq!(over.delivered(claimed.pending.as_ref().unwrap(), &slack, after(41)), None, "another notice");
    }

    #[test]
    fn without_channels_nothing_is_pending() {
        let alert = Alert::raise(&condition("it waits"), &[], START);
        assert_eq!(alert.pending, None);
        assert!(alert.expire(&[], POLICY, after(30)).unwrap().is_over());
    }

    #[test]
    fn growth_is_what_came_within_the_time() {
        let mut growth = Growth::new(Duration::from_mins(10));
        assert_eq!(growth.sample(500, START), 0, "what was there before");
        assert_eq!(growth.sample(503, after(60)), 3);
        assert_eq!(growth.sample(504, after(300)), 4);
        assert_eq!(growth.sample(504, after(659)), 4);
        assert_eq!(growth.sample(504, after(660)), 1);
        assert_eq!(growth.sample(504, after(900)), 0);
        assert_eq!(growth.sample(2, after(901)), 0, "begun anew");
        assert_eq!(growth.sample(4, after(902)), 2);
    }
}
