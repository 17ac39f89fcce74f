//! A sequence: the emails a lead gets, in order, with the time between them.
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

mod mailbox;
mod parse;

pub use mailbox::split_mailbox;
pub use parse::parse_sequence;

/// One version of one sequence, whole: its steps and the templates they use.
///
/// Immutable once a lead is in it: another text or another delay is another version.
/// Invariants (kept by [`parse_sequence`]): 1 to 1,000 steps; step ids unique; each step's template present.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sequence {
    /// `[a-z0-9_-]`, at most 64 characters.
    pub name: SmolStr,
    /// From 1 on.
    pub version: u32,
    /// The sender, `Name <local@domain>` or a bare address, as a header takes it (RFC 5322 §3.4); see [`split_mailbox`].
    pub from: SmolStr,
    /// Where answers go, when it is not `from`; written likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<SmolStr>,
    /// What a second arrival of the same address does.
    #[serde(default)]
    pub reentry: Reentry,
    /// Its emails are part of a service the person uses (a receipt, a password): an unsubscribe does not end it, and they
    /// carry no unsubscribe link. A bounce or a complaint ends it like any other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transactional: bool,
    /// In order of sending.
    pub steps: Vec<Step>,
    /// By template name, as the steps name them.
    pub templates: BTreeMap<String, Template>,
}

impl Sequence {
    /// The bodies of the email of this step, counted from 0; none beyond the last.
    pub fn template(&self, step: usize) -> Option<&Template> {
        self.templates.get(&self.steps.get(step)?.send.template)
    }
}

/// One email of a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Unique in its sequence; `[a-z0-9_-]`, at most 64 characters.
    pub id: SmolStr,
    /// Counted from the enrolment for the first step, from the previous email's actual sending for the others. Whole
    /// milliseconds; at most five years.
    #[serde(rename = "afterMs", with = "millis")]
    pub after: Duration,
    /// What is sent.
    pub send: Send,
}

/// The email of a step, unrendered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Send {
    /// A one-line template: not empty, no control characters.
    pub subject: String,
    /// A key of [`Sequence::templates`].
    pub template: String,
}

/// The bodies of an email; at least one is present.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// From `<template>.html`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// From `<template>.txt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What a second arrival of an address does that is, or was, in the sequence. Its profile is merged in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reentry {
    /// Nothing more.
    #[default]
    Ignore,
    /// Ends the enrolment under way, if there is one, and begins at the first step.
    Restart,
    /// Begins again if no enrolment is under way and the last one began at least this long ago.
    After(#[serde(with = "millis")] Duration),
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// Why a sequence was refused, with the place: `sequences/x/sequence.toml:7: steps[1].after: …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {field}: {message}")]
pub struct SequenceError {
    /// The file as the caller named it.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// The path of the field, such as `steps[1].after`, steps counted from 0; `TOML` where the file is not even that.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

#[cfg(test)]
mod tests;
