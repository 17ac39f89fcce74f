//! What the journal comes to: counts by sequence, version and step. A function of the lines in their order alone, so that
//! a replay gives the same numbers.
use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::{ControlEvent, GuardLimits, GuardWindow, Guarded, JournalEvent, JournalLine, What};

/// Rows of one sequence, a row for each step of each version: what keeps its document below a message's size. Beyond
/// it, the lowest versions are added up in [`SequenceStatistics::earlier`].
const MOST_ROWS: usize = 2_000;

/// Everything that is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// By name.
    pub sequences: BTreeMap<SmolStr, SequenceStatistics>,
    /// Of emails that cannot be told any more: what a provider said of somebody, and not of which email.
    pub unattributed: EmailCounts,
}

/// The counts of one sequence, and its guards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SequenceStatistics {
    /// By version.
    pub versions: BTreeMap<u32, VersionStatistics>,
    /// The lowest versions, added up, where there were too many rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<VersionStatistics>,
    /// By provider.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub guard: BTreeMap<SmolStr, GuardWindow>,
}

/// The counts of one version of a sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VersionStatistics {
    /// What became of its enrolments.
    pub enrolments: EnrolmentCounts,
    /// By the step's id, in the order in which they were first met; under the empty one what cannot be told of a step.
    pub steps: IndexMap<SmolStr, EmailCounts>,
}

/// Counts of enrolments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnrolmentCounts {
    /// Began.
    pub enrolled: u64,
    /// Had every email.
    pub completed: u64,
    /// Ended by a suppression.
    pub suppressed: u64,
    /// Ended by a new beginning.
    pub restarted: u64,
    /// Ended by an operator.
    pub stopped: u64,
}

/// Counts of emails. Each kind of event counts once for an email, however often a provider tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EmailCounts {
    /// The provider took it.
    pub sent: u64,
    /// The receiving server took it.
    pub delivered: u64,
    /// Was opened.
    pub opened: u64,
    /// A link in it was followed.
    pub clicked: u64,
    /// The receiving server wanted it later.
    pub deferred: u64,
    /// Did not arrive, for a reason that may pass.
    pub soft_bounced: u64,
    /// Did not arrive, and never will.
    pub hard_bounced: u64,
    /// The provider took it and did not mail it.
    pub dropped: u64,
    /// Was reported as spam.
    pub complained: u64,
    /// Made the person unsubscribe.
    pub unsubscribed: u64,
    /// The answer to an attempt was lost.
    pub in_doubt: u64,
    /// Could not be sent.
    pub parked: u64,
}

/// What is counted, and when a sequence must not go on.
#[derive(Debug, Clone, Default)]
pub struct CountingRules {
    /// Sequences that are left out.
    pub exclude: Vec<String>,
    /// When a sequence is paused.
    pub guard: GuardLimits,
}

/// What a line changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counted {
    /// Nothing.
    Nothing,
    /// What cannot be attributed.
    Unattributed,
    /// A sequence; and why it must not go on, if so.
    Sequence {
        /// For people.
        must_stop: Option<String>,
    },
}

impl Statistics {
    /// Counts one line.
    pub fn count(&mut self, line: &JournalLine, rules: &CountingRules) -> Counted {
        let adds = Adds::by(&line.event);
        let Some(name) = &line.sequence else {
            let Adds::Email(count, _) = adds else { return Counted::Nothing };
            *count(&mut self.unattributed) += 1;
            return Counted::Unattributed;
        };
        let resumed = line.event == JournalEvent::Control(ControlEvent::SequenceResumed);
        if rules.exclude.iter().any(|excluded| excluded == name) || (matches!(adds, Adds::Nothing) && !resumed) {
            return Counted::Nothing;
        }
        let sequence = self.sequences.entry(name.clone()).or_default();
        if resumed {
            // What paused it must not pause it again at once.
            sequence.guard.clear();
        }
        Counted::Sequence { must_stop: sequence.add(&adds, line, &rules.guard) }
    }

    /// Whether both have the same counts, whatever their guards have seen.
    pub fn same_counts(&self, other: &Self) -> bool {
        self.unattributed == other.unattributed
            && self.sequences.len() == other.sequences.len()
            && self.sequences.iter().zip(&other.sequences).all(|((name, one), (other_name, other))| {
                name == other_name && one.versions == other.versions && one.earlier == other.earlier
            })
    }
}

impl SequenceStatistics {
    fn add(&mut self, adds: &Adds, line: &JournalLine, limits: &GuardLimits) -> Option<String> {
        let version = || line.version.unwrap_or_default();
        match adds {
            Adds::Nothing => None,
            Adds::Enrolment(count) => {
                *count(&mut self.versions.entry(version()).or_default().enrolments) += 1;
                self.fold();
                None
            }
            Adds::Email(count, guarded) => {
                let steps = &mut self.versions.entry(version()).or_default().steps;
                *count(steps.entry(line.step.clone().unwrap_or_default()).or_default()) += 1;
                self.fold();
                // A batch's answers carry a name of their own; what becomes of its emails is told under the provider's.
                let provider = line.provider.as_deref()?;
                let provider = provider.strip_suffix("-batch").unwrap_or(provider);
                let guarded = (*guarded)?;
                let window = self.guard.entry(provider.into()).or_default();
                let why = window.count(guarded, line.timestamp, limits)?;
                Some(format!("by {provider}: {why}"))
            }
        }
    }

    fn fold(&mut self) {
        while self.versions.len() > 1
            && self.versions.values().map(|version| version.steps.len() + 1).sum::<usize>() > MOST_ROWS
        {
            let Some((_, lowest)) = self.versions.pop_first() else { return };
            let earlier = self.earlier.get_or_insert_default();
            earlier.enrolments.add(lowest.enrolments);
            let all = earlier.steps.entry(SmolStr::default()).or_default();
            for step in lowest.steps.into_values() {
                all.add(step);
            }
        }
    }
}

impl VersionStatistics {
    /// All its emails.
    pub fn emails(&self) -> EmailCounts {
        let mut all = EmailCounts::default();
        for step in self.steps.values() {
            all.add(*step);
        }
        all
    }
}

impl EnrolmentCounts {
    fn add(&mut self, other: Self) {
        let Self { enrolled, completed, suppressed, restarted, stopped } = other;
        self.enrolled += enrolled;
        self.completed += completed;
        self.suppressed += suppressed;
        self.restarted += restarted;
        self.stopped += stopped;
    }
}

impl EmailCounts {
    fn add(&mut self, other: Self) {
        let Self {
            sent,
            delivered,
            opened,
            clicked,
            deferred,
            soft_bounced,
            hard_bounced,
            dropped,
            complained,
            unsubscribed,
            in_doubt,
            parked,
        } = other;
        self.sent += sent;
        self.delivered += delivered;
        self.opened += opened;
        self.clicked += clicked;
        self.deferred += deferred;
        self.soft_bounced += soft_bounced;
        self.hard_bounced += hard_bounced;
        self.dropped += dropped;
        self.complained += complained;
        self.unsubscribed += unsubscribed;
        self.in_doubt += in_doubt;
        self.parked += parked;
    }
}

/// What an event adds to.
enum Adds {
    Email(fn(&mut EmailCounts) -> &mut u64, Option<Guarded>),
    Enrolment(fn(&mut EnrolmentCounts) -> &mut u64),
    Nothing,
}

impl Adds {
    fn by(event: &JournalEvent) -> Self {
        let what = match event {
            JournalEvent::Lead(what) => what,
            JournalEvent::Control(_) | JournalEvent::Unknown(_) => return Self::Nothing,
        };
        match what {
            What::Sent => Self::Email(|counts| &mut counts.sent, Some(Guarded::Sent)),
            What::Delivered => Self::Email(|counts| &mut counts.delivered, None),
            What::Opened => Self::Email(|counts| &mut counts.opened, None),
            What::Clicked => Self::Email(|counts| &mut counts.clicked, None),
            What::Deferred => Self::Email(|counts| &mut counts.deferred, None),
            What::SoftBounced => Self::Email(|counts| &mut counts.soft_bounced, None),
            What::HardBounced => Self::Email(|counts| &mut counts.hard_bounced, Some(Guarded::HardBounced)),
            What::Dropped => Self::Email(|counts| &mut counts.dropped, None),
            What::Complained => Self::Email(|counts| &mut counts.complained, Some(Guarded::Complained)),
            What::Unsubscribed => Self::Email(|counts| &mut counts.unsubscribed, None),
            What::InDoubt => Self::Email(|counts| &mut counts.in_doubt, None),
            What::Parked => Self::Email(|counts| &mut counts.parked, None),
            What::Enrolled => Self::Enrolment(|counts| &mut counts.enrolled),
            What::Completed => Self::Enrolment(|counts| &mut counts.completed),
            What::Suppressed => Self::Enrolment(|counts| &mut counts.suppressed),
            What::Restarted => Self::Enrolment(|counts| &mut counts.restarted),
            What::Stopped => Self::Enrolment(|counts| &mut counts.stopped),
            What::ArrivedAgain
            | What::NotEnrolled
            | What::Sending
            | What::RateLimited
            | What::Retrying
            | What::Misconfigured
            | What::Asked
            | What::Resolved
            | What::Resubscribed
            | What::Paused
            | What::Resumed
            | What::Moved
            | What::Accepted
            | What::Erased => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;
