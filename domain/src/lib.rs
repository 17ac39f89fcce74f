//! The rules of a drip campaign, and nothing else.
//!
//! This crate decides; it never acts. It has no clock, no randomness, no network and no disk: time and
//! random numbers come in as arguments, so that every decision can be tested and replayed.
//!
//! Start at [`transition`]: `(lead, event, context) → (lead, effects)`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod address;
mod alert;
mod arrival;
mod canary;
mod doubt;
mod email;
mod enrolment;
mod feedback;
mod guard;
mod installation;
mod journal;
mod key;
mod lead;
mod matching;
mod operator;
mod outcome;
mod phone;
mod retry;
mod sequence;
mod statistics;
mod suppression;
mod time;
mod transition;

pub use address::{Address, AddressError};
pub use alert::{Alert, AlertPolicy, Cause, Condition, Growth, NOTICE_LEASE, NoticeKind, Pending, Severity};
pub use arrival::{Arrival, ArrivalError, Limits, Profile, Sanitiser};
pub use canary::{
    Arrived, CANARY_LEFTOVERS, CANARY_RESULTS, Canary, CanaryResult, CanaryRules, CanaryRun, CanaryStep, EvidenceState,
    Finding, Leftover, Link, Missing, Progress, Sighting, Standstill, Surroundings, canary_version, told_by_webhooks,
};
pub use doubt::{DoubtEnd, DoubtPolicy};
pub use email::Email;
pub use enrolment::{Attempt, Enrolment, EnrolmentId, SentEmail, SequenceRef, State, StopReason};
pub use feedback::{Feedback, FeedbackKind, SOFT_BOUNCES_KEPT, SoftBouncePolicy};
pub use guard::{GuardLimits, GuardWindow, Guarded, share};
pub use installation::{Installation, QueueState};
pub use journal::{ControlEvent, JournalEvent, JournalLine};
pub use key::{KeyError, LeadKey};
pub use lead::{
    ArrivalId, Entry, HISTORY_LIMIT, Lead, LeadId, LeadIdKey, LeadStatus, SCHEMA, SoftBounce, Suppressed, What,
};
pub use operator::{Hold, Operator, OperatorAction, OperatorError, RequestId};
pub use outcome::Outcome;
pub use phone::{PhoneError, check_region, normalise_phone};
pub use retry::RetryPolicy;
pub use sequence::{Reentry, Send, Sequence, SequenceError, Step, Template, parse_sequence, split_mailbox};
/// Names and ids: up to 23 bytes stand in the value itself, and a clone of a longer one shares it.
pub use smol_str::SmolStr;
pub use statistics::{
    Counted, CountingRules, EmailCounts, EnrolmentCounts, SequenceStatistics, Statistics, VersionStatistics,
};
pub use suppression::{Suppression, SuppressionCause, SuppressionMark};
pub use time::{Timestamp, parse_duration};
pub use transition::{Context, Effect, Event, Refusal, StepEvent, Transition, erase, send_key, transition};
