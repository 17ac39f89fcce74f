use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;

use crate::{ArrivalId, Profile, Sequence, Suppressed, SuppressionCause, Timestamp, What};

/// One lead in one version of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The sequence, at the version it began with.
    pub sequence: SequenceRef,
    /// Counts this lead's enrolments in this sequence, from 1 on; part of the send key.
    pub number: u32,
    /// The arrival that began it: the same arrival delivered twice begins it once.
    pub arrival: ArrivalId,
    /// When it began.
    pub began: Timestamp,
    /// The step it is at; the number of steps once it is completed.
    pub step: usize,
    /// The lead's generation when this enrolment's next time was last set.
    pub generation: u64,
    /// As [`crate::Sequence::transactional`]: an unsubscribe does not end it.
    pub transactional: bool,
    /// The emails of which a provider told us something, in the order it first did; the latest [`EMAILS_KEPT`].
    pub emails: Vec<SentEmail>,
    /// What it is doing.
    pub state: State,
}

/// An enrolment remembers what was told of so many emails. Of an older one, an event that is repeated has another line
/// in the journal.
pub(crate) const EMAILS_KEPT: usize = 100;

/// What providers told of one email.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SentEmail {
    /// Its step, by its id.
    pub step: SmolStr,
    /// The provider's id of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<SmolStr>,
    /// Each kind of event once, sorted: one that is repeated changes nothing.
    pub seen: Vec<What>,
}

/// Tells a lead's enrolments apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EnrolmentId {
    /// The sequence's name.
    pub sequence: SmolStr,
    /// As [`Enrolment::number`].
    pub number: u32,
}

/// A sequence's name and version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SequenceRef {
    /// The name.
    pub name: SmolStr,
    /// The version.
    pub version: u32,
}

/// What an enrolment is doing. Each variant owns its data, so that an impossible state cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Waits for the time of its step, or of another try.
    Waiting {
        /// Not before.
        due: Timestamp,
        /// Attempts at this step so far.
        attempts: u32,
        /// How many of them failed; those that met a rate limit do not count.
        failures: u32,
    },
    /// The intent is on disk; the provider is being called, or was when its process died.
    Sending {
        /// The open attempt.
        attempt: Attempt,
        /// As in `Waiting`.
        failures: u32,
    },
    /// The answer to an attempt was lost: it may or may not have been mailed.
    InDoubt {
        /// The attempt whose answer was lost.
        attempt: Attempt,
        /// As in `Waiting`.
        failures: u32,
        /// For people.
        reason: String,
        /// When to find out more; none when only a webhook or an operator can settle it.
        next: Option<Timestamp>,
    },
    /// Every step was sent.
    Completed,
    /// Cannot go on by itself; an operator must look.
    Parked {
        /// For people.
        reason: String,
        /// As in `Waiting`.
        attempts: u32,
    },
    /// Ended before its last step.
    Stopped {
        /// Why.
        reason: StopReason,
        /// What it would be doing. An answer to an attempt that was open is recorded here, and whoever wants more again
        /// goes on from here. None where neither can be.
        before: Option<Box<State>>,
    },
}

/// One try to send one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Names the step; the same on every attempt at it.
    pub send_key: SmolStr,
    /// Counts the attempts at this step, from 1 on.
    pub number: u32,
    /// When the intent was written.
    pub started_at: Timestamp,
    /// No answer by then: lost.
    pub lost_at: Timestamp,
    /// The engine process that makes the call.
    pub owner: SmolStr,
    /// The provider it calls.
    #[serde(default)]
    pub provider: SmolStr,
    /// The profile that the email was rendered with, where it has changed since: should the call be made again, it must
    /// be the very same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Arc<Profile>>,
}

/// Why an enrolment ended before its last step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The address must not be mailed.
    Suppressed(Suppressed),
    /// It began anew: the lead arrived again and the sequence says `restart`, or an operator said so.
    Restarted,
    /// An operator put it at another step or on another version, where it goes on as a later enrolment.
    Moved,
    /// An operator ended it, for this reason.
    Operator(String),
}

impl Enrolment {
    /// Its identity.
    pub fn id(&self) -> EnrolmentId {
        EnrolmentId { sequence: self.sequence.name.clone(), number: self.number }
    }

    /// Whether it is at this step now, by its id.
    pub(crate) fn is_at(&self, step: &str, sequence: &Sequence) -> bool {
        sequence.steps.get(self.step).is_some_and(|current| current.id == step)
    }

    /// Whether it is that one.
    pub fn is(&self, id: &EnrolmentId) -> bool {
        self.number == id.number && self.sequence.name == id.sequence
    }
}

impl StopReason {
    /// Whether only the person's own no ended it.
    pub(crate) fn is_unsubscribe(&self) -> bool {
        matches!(self, Self::Suppressed(Suppressed { cause: SuppressionCause::Unsubscribe, .. }))
    }

    /// What to remember of a state that this put an end to: nothing of one that neither can be gone on from nor has an
    /// answer to come.
    pub(crate) fn keep(&self, state: State) -> Option<Box<State>> {
        let is_kept = match self {
            Self::Suppressed(_) => true,
            Self::Restarted | Self::Moved | Self::Operator(_) => state.open_attempt().is_some(),
        };
        is_kept.then(|| Box::new(state))
    }
}

impl Attempt {
    /// Whether it is that attempt at that step.
    pub fn is(&self, send_key: &str, number: u32) -> bool {
        self.number == number && self.send_key == send_key
    }
}

impl State {
    /// As in the document's `status`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "WAITING",
            Self::Sending { .. } => "SENDING",
            Self::InDoubt { .. } => "IN_DOUBT",
            Self::Completed => "COMPLETED",
            Self::Parked { .. } => "PARKED",
            Self::Stopped { .. } => "STOPPED",
        }
    }

    /// Whether nothing is sent in this state, now or later.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Completed | Self::Stopped { .. } => true,
            Self::Waiting { .. } | Self::Sending { .. } | Self::InDoubt { .. } | Self::Parked { .. } => false,
        }
    }

    /// The attempt that may be out, also of an enrolment that has ended meanwhile.
    pub fn open_attempt(&self) -> Option<&Attempt> {
        match self {
            Self::Sending { attempt, .. } | Self::InDoubt { attempt, .. } => Some(attempt),
            Self::Stopped { before, .. } => before.as_ref()?.open_attempt(),
            Self::Waiting { .. } | Self::Completed | Self::Parked { .. } => None,
        }
    }

    /// What it is doing, or would be doing had it not ended.
    pub(crate) fn in_progress(&self) -> &Self {
        match self {
            Self::Stopped { before: Some(before), .. } => before.in_progress(),
            Self::Stopped { before: None, .. }
            | Self::Waiting { .. }
            | Self::Sending { .. }
            | Self::InDoubt { .. }
            | Self::Completed
            | Self::Parked { .. } => self,
        }
    }

    /// Attempts at the step it is at, as far as is known.
    pub(crate) fn attempts(&self) -> u32 {
        match self {
            Self::Waiting { attempts, .. } | Self::Parked { attempts, .. } => *attempts,
            Self::Sending { attempt, .. } | Self::InDoubt { attempt, .. } => attempt.number,
            Self::Stopped { before, .. } => before.as_ref().map_or(0, |before| before.attempts()),
            Self::Completed => 0,
        }
    }

    /// Whether the step it is at has been tried, as far as is known.
    pub(crate) fn has_tried(&self) -> bool {
        match self {
            Self::Waiting { attempts, .. } => *attempts > 0,
            Self::Sending { .. } | Self::InDoubt { .. } | Self::Completed | Self::Parked { .. } => true,
            Self::Stopped { before, .. } => before.as_ref().is_none_or(|before| before.has_tried()),
        }
    }

    /// When it needs us next.
    pub fn next_action(&self) -> Option<Timestamp> {
        match self {
            Self::Waiting { due, .. } => Some(*due),
            Self::Sending { attempt, .. } => Some(attempt.lost_at),
            Self::InDoubt { next, .. } => *next,
            Self::Completed | Self::Parked { .. } | Self::Stopped { .. } => None,
        }
    }
}

/// An enrolment as it stands in the lead's document: flat, so that it reads well.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    sequence: SmolStr,
    version: u32,
    number: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    transactional: bool,
    step: usize,
    #[serde(borrow)]
    status: Cow<'a, str>,
    generation: u64,
    next_action_timestamp: Option<Timestamp>,
    began_at: Timestamp,
    arrival: Cow<'a, ArrivalId>,
    #[serde(default, skip_serializing_if = "is_zero")]
    attempts: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    failures: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<Cow<'a, Attempt>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suppression_cause: Option<SuppressionCause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Box<StateDocument<'a>>>,
    #[serde(default, skip_serializing_if = "<[SentEmail]>::is_empty")]
    emails: Cow<'a, [SentEmail]>,
}

/// The fields that say what an enrolment is doing.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StateDocument<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_action_timestamp: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "is_zero")]
    attempts: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    failures: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<Cow<'a, Attempt>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suppression_cause: Option<SuppressionCause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Box<StateDocument<'a>>>,
}

// serde's `skip_serializing_if` hands over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

const RESTARTED: &str = "restarted";
const MOVED: &str = "moved";
const BY_OPERATOR: &str = "stopped: ";

impl<'a> StateDocument<'a> {
    fn of(state: &'a State) -> Self {
        let document =
            Self { status: state.name().into(), next_action_timestamp: state.next_action(), ..Self::default() };
        match state {
            State::Waiting { due: _, attempts, failures } => {
                Self { attempts: *attempts, failures: *failures, ..document }
            }
            State::Sending { attempt, failures } => {
                Self { attempt: Some(Cow::Borrowed(attempt)), failures: *failures, ..document }
            }
            State::InDoubt { attempt, failures, reason, next: _ } => Self {
                attempt: Some(Cow::Borrowed(attempt)),
                failures: *failures,
                reason: Some(Cow::Borrowed(reason)),
                ..document
            },
            State::Completed => document,
            State::Parked { reason, attempts } => {
                Self { reason: Some(Cow::Borrowed(reason)), attempts: *attempts, ..document }
            }
            State::Stopped { reason, before } => {
                let (reason, suppression_cause) = match reason {
                    StopReason::Suppressed(Suppressed { cause, reason }) => {
                        (Cow::Owned(format!("suppressed: {reason}")), Some(*cause))
                    }
                    StopReason::Restarted => (Cow::Borrowed(RESTARTED), None),
                    StopReason::Moved => (Cow::Borrowed(MOVED), None),
                    StopReason::Operator(reason) => (Cow::Owned(format!("{BY_OPERATOR}{reason}")), None),
                };
                let before = before.as_ref().map(|before| Box::new(Self::of(before)));
                Self { reason: Some(reason), suppression_cause, before, ..document }
            }
        }
    }

    fn into_state<E: serde::de::Error>(self) -> Result<State, E> {
        let Self { status, next_action_timestamp, attempts, failures, attempt, reason, suppression_cause, before } =
            self;
        let attempt = attempt.map(Cow::into_owned);
        let reason = reason.map(Cow::into_owned).unwrap_or_default();
        Ok(match &*status {
            "WAITING" => State::Waiting {
                due: next_action_timestamp.ok_or_else(|| E::missing_field("nextActionTimestamp"))?,
                attempts,
                failures,
            },
            "SENDING" => State::Sending { attempt: attempt.ok_or_else(|| E::missing_field("attempt"))?, failures },
            "IN_DOUBT" => State::InDoubt {
                attempt: attempt.ok_or_else(|| E::missing_field("attempt"))?,
                failures,
                reason,
                next: next_action_timestamp,
            },
            "COMPLETED" => State::Completed,
            "PARKED" => State::Parked { reason, attempts },
            "STOPPED" => State::Stopped {
                reason: match reason.strip_prefix("suppressed: ") {
                    Some(reason) => StopReason::Suppressed(Suppressed {
                        // Documents of earlier versions name no cause.
                        cause: suppression_cause.unwrap_or(SuppressionCause::Manual),
                        reason: reason.to_owned(),
                    }),
                    None if reason == RESTARTED => StopReason::Restarted,
                    None if reason == MOVED => StopReason::Moved,
                    None if let Some(reason) = reason.strip_prefix(BY_OPERATOR) => {
                        StopReason::Operator(reason.to_owned())
                    }
                    None => return Err(E::custom(format!("unknown stop reason `{reason}`"))),
                },
                before: match (before, attempt) {
                    (Some(before), _) => Some(Box::new(before.into_state()?)),
                    // As earlier versions wrote it.
                    (None, Some(attempt)) => Some(Box::new(State::Sending { attempt, failures })),
                    (None, None) => None,
                },
            },
            other => return Err(E::custom(format!("unknown enrolment status `{other}`"))),
        })
    }
}

impl Serialize for Enrolment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let StateDocument {
            status,
            next_action_timestamp,
            attempts,
            failures,
            attempt,
            reason,
            suppression_cause,
            before,
        } = StateDocument::of(&self.state);
        Document {
            sequence: self.sequence.name.clone(),
            version: self.sequence.version,
            number: self.number,
            transactional: self.transactional,
            step: self.step,
            status,
            generation: self.generation,
            next_action_timestamp,
            began_at: self.began,
            arrival: Cow::Borrowed(&self.arrival),
            attempts,
            failures,
            attempt,
            reason,
            suppression_cause,
            before,
            emails: Cow::Borrowed(&self.emails),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Enrolment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = Document::deserialize(deserializer)?;
        let state = StateDocument {
            status: document.status,
            next_action_timestamp: document.next_action_timestamp,
            attempts: document.attempts,
            failures: document.failures,
            attempt: document.attempt,
            reason: document.reason,
            suppression_cause: document.suppression_cause,
            before: document.before,
        };
        Ok(Self {
            sequence: SequenceRef { name: document.sequence, version: document.version },
            number: document.number,
            arrival: document.arrival.into_owned(),
            began: document.began_at,
            step: document.step,
            generation: document.generation,
            transactional: document.transactional,
            emails: document.emails.into_owned(),
            state: state.into_state()?,
        })
    }
}
