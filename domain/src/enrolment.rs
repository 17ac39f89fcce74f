use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ArrivalId, Profile, Timestamp};

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
    /// What it is doing.
    pub state: State,
}

/// Tells a lead's enrolments apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EnrolmentId {
    /// The sequence's name.
    pub sequence: String,
    /// As [`Enrolment::number`].
    pub number: u32,
}

/// A sequence's name and version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SequenceRef {
    /// The name.
    pub name: String,
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
    },
    /// Ended before its last step.
    Stopped {
        /// Why.
        reason: StopReason,
        /// An attempt that was open at that moment; its answer is still recorded.
        attempt: Option<Attempt>,
    },
}

/// One try to send one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Names the step; the same on every attempt at it.
    pub send_key: String,
    /// Counts the attempts at this step, from 1 on.
    pub number: u32,
    /// When the intent was written.
    pub started_at: Timestamp,
    /// No answer by then: lost.
    pub lost_at: Timestamp,
    /// The engine process that makes the call.
    pub owner: String,
    /// The provider it calls.
    #[serde(default)]
    pub provider: String,
    /// The profile that the email was rendered with, where it has changed since: should the call be made again, it must
    /// be the very same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Box<Profile>>,
}

/// Why an enrolment ended before its last step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The address must not be mailed: the suppression's reason.
    Suppressed(String),
    /// The lead arrived again and the sequence says `restart`.
    Restarted,
}

impl Enrolment {
    /// Its identity.
    pub fn id(&self) -> EnrolmentId {
        EnrolmentId { sequence: self.sequence.name.clone(), number: self.number }
    }

    /// Whether it is that one.
    pub fn is(&self, id: &EnrolmentId) -> bool {
        self.number == id.number && self.sequence.name == id.sequence
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
    sequence: Cow<'a, str>,
    version: u32,
    number: u32,
    step: usize,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
}

// serde's `skip_serializing_if` hands over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

const RESTARTED: &str = "restarted";

impl Serialize for Enrolment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut document = Document {
            sequence: Cow::Borrowed(&self.sequence.name),
            version: self.sequence.version,
            number: self.number,
            step: self.step,
            status: Cow::Borrowed(self.state.name()),
            generation: self.generation,
            next_action_timestamp: self.state.next_action(),
            began_at: self.began,
            arrival: Cow::Borrowed(&self.arrival),
            attempts: 0,
            failures: 0,
            attempt: None,
            reason: None,
        };
        match &self.state {
            State::Waiting { due: _, attempts, failures } => {
                document.attempts = *attempts;
                document.failures = *failures;
            }
            State::Sending { attempt, failures } => {
                document.attempt = Some(Cow::Borrowed(attempt));
                document.failures = *failures;
            }
            State::InDoubt { attempt, failures, reason, next: _ } => {
                document.attempt = Some(Cow::Borrowed(attempt));
                document.failures = *failures;
                document.reason = Some(Cow::Borrowed(reason));
            }
            State::Completed => {}
            State::Parked { reason } => document.reason = Some(Cow::Borrowed(reason)),
            State::Stopped { reason, attempt } => {
                document.attempt = attempt.as_ref().map(Cow::Borrowed);
                document.reason = Some(match reason {
                    StopReason::Suppressed(reason) => Cow::Owned(format!("suppressed: {reason}")),
                    StopReason::Restarted => Cow::Borrowed(RESTARTED),
                });
            }
        }
        document.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Enrolment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;

        let document = Document::deserialize(deserializer)?;
        let failures = document.failures;
        let attempt = document.attempt.map(Cow::into_owned);
        let reason = document.reason.map(Cow::into_owned);
        let state = match &*document.status {
            "WAITING" => State::Waiting {
                due: document.next_action_timestamp.ok_or_else(|| Error::missing_field("nextActionTimestamp"))?,
                attempts: document.attempts,
                failures,
            },
            "SENDING" => State::Sending { attempt: attempt.ok_or_else(|| Error::missing_field("attempt"))?, failures },
            "IN_DOUBT" => State::InDoubt {
                attempt: attempt.ok_or_else(|| Error::missing_field("attempt"))?,
                failures,
                reason: reason.unwrap_or_default(),
                next: document.next_action_timestamp,
            },
            "COMPLETED" => State::Completed,
            "PARKED" => State::Parked { reason: reason.unwrap_or_default() },
            "STOPPED" => {
                let reason = reason.unwrap_or_default();
                State::Stopped {
                    reason: match reason.strip_prefix("suppressed: ") {
                        Some(reason) => StopReason::Suppressed(reason.to_owned()),
                        None if reason == RESTARTED => StopReason::Restarted,
                        None => return Err(Error::custom(format!("unknown stop reason `{reason}`"))),
                    },
                    attempt,
                }
            }
            other => return Err(Error::custom(format!("unknown enrolment status `{other}`"))),
        };
        Ok(Self {
            sequence: SequenceRef { name: document.sequence.into_owned(), version: document.version },
            number: document.number,
            arrival: document.arrival.into_owned(),
            began: document.began_at,
            step: document.step,
            generation: document.generation,
            state,
        })
    }
}
