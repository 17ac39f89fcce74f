use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Arrival, LeadId, Sequence, Suppression, Timestamp};

/// The longest name of an operator, in characters.
const BY_LIMIT: usize = 100;
/// The longest reason, in characters.
const REASON_LIMIT: usize = 300;
/// The longest id of a request, in bytes.
const REQUEST_LIMIT: usize = 64;

/// The document remembers the ids of so many requests, the newest.
pub(crate) const REQUESTS_KEPT: usize = 16;

/// Who changes something by hand, and why. Both end up in the journal.
///
/// Invariants: one line each, not empty, at most 100 and 300 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    by: String,
    reason: String,
}

impl Operator {
    /// Checks both.
    ///
    /// # Errors
    /// One of them is empty, too long, or more than a line.
    pub fn new(by: &str, reason: &str) -> Result<Self, OperatorError> {
        Ok(Self { by: line("by", by, BY_LIMIT)?, reason: line("reason", reason, REASON_LIMIT)? })
    }

    /// Who.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// Why.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

fn line(field: &'static str, text: &str, limit: usize) -> Result<String, OperatorError> {
    let text = text.trim();
    if text.is_empty() {
        Err(OperatorError::Missing(field))
    } else if text.chars().count() > limit {
        Err(OperatorError::TooLong { field, limit })
    } else if text.chars().any(char::is_control) {
        Err(OperatorError::NotALine(field))
    } else {
        Ok(text.to_owned())
    }
}

/// What an operator did not say, or not well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// It is needed.
    #[error("`{0}` is missing: say who makes the change and why, as it shall stand in the journal")]
    Missing(&'static str),
    /// It is longer than we keep.
    #[error("`{field}` has more than {limit} characters")]
    TooLong {
        /// Which.
        field: &'static str,
        /// The most.
        limit: usize,
    },
    /// It has line ends or other control characters.
    #[error("`{0}` must be one line of text")]
    NotALine(&'static str),
    /// The id of the request cannot be one.
    #[error("`requestId` must be 1 to 64 letters, digits, `-`, `_` or `.`")]
    RequestId,
}

/// What an operator calls a request: repeated, it changes nothing more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct RequestId(String);

impl RequestId {
    /// Checks it.
    ///
    /// # Errors
    /// It is not 1 to 64 letters, digits, `-`, `_` or `.`.
    pub fn parse(text: &str) -> Result<Self, OperatorError> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > REQUEST_LIMIT || !text.bytes().all(is_legal) {
            return Err(OperatorError::RequestId);
        }
        Ok(Self(text.to_owned()))
    }

    /// For a request that its sender gave no id: from a random number.
    pub fn random(number: u128) -> Self {
        Self(format!("{number:032x}"))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An operator holds a lead back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Who.
    pub by: String,
    /// Why, for people.
    pub reason: String,
    /// Since when.
    pub timestamp: Timestamp,
}

/// What an operator has done to a lead. Of several enrolments in one sequence the newest is meant.
#[derive(Debug, Clone)]
pub enum OperatorAction<'a> {
    /// Nothing of this lead is sent until it is resumed. What arrives enrols, and waits. An email that is under way is not
    /// called back.
    Pause,
    /// What was held back goes on, and what was parked is tried again, now.
    Resume,
    /// To this step, which waits its time from now on, or until `at`. It goes on as a new enrolment: what was sent before,
    /// under the send keys of the old one, may be sent again.
    Move {
        /// The sequence at the version to go on with.
        to: &'a Sequence,
        /// The step, by its id.
        step: &'a str,
        /// When; none for as long after now as the step says.
        at: Option<Timestamp>,
    },
    /// Every enrolment that waits in one version goes on in another, at the step of the same id and at the same time.
    Migrate {
        /// The version it is on.
        from: &'a Sequence,
        /// The version to go on with.
        to: &'a Sequence,
    },
    /// What is under way in this sequence ends, and it begins anew at the first step.
    Restart {
        /// The sequence to begin.
        sequence: &'a Sequence,
        /// What is known against the address now.
        suppression: Suppression,
    },
    /// What is under way ends.
    Stop {
        /// In this sequence alone; none for all.
        sequence: Option<&'a str>,
    },
    /// It enters a sequence, as if a source had handed it in.
    Enroll {
        /// Cleaned.
        arrival: Box<Arrival>,
        /// The id a new lead gets.
        lead_id: LeadId,
        /// The sequence it enters.
        sequence: &'a Sequence,
        /// What is known against the address now.
        suppression: Suppression,
    },
    /// Says what became of an attempt in doubt.
    Resolve {
        /// The sequence, at the version of the enrolment.
        sequence: &'a Sequence,
        /// The email is out.
        sent: bool,
    },
}
