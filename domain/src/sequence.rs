//! A sequence: the emails a lead gets, in order, with the time between them.
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One version of one sequence, whole: its steps and the templates they use.
///
/// Immutable once a lead is in it: another text or another delay is another version.
/// Invariants (kept by [`parse_sequence`]): at least one step; step ids unique; each step's template present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sequence {
    /// `[a-z0-9_-]`, at most 64 characters.
    pub name: String,
    /// From 1 on.
    pub version: u32,
    /// The sender, `Name <local@domain>` or a bare address.
    pub from: String,
    /// Where answers go, when it is not `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// What a second arrival of the same address does.
    #[serde(default)]
    pub reentry: Reentry,
    /// In order of sending.
    pub steps: Vec<Step>,
    /// By template name, as the steps name them.
    pub templates: BTreeMap<String, Template>,
}

/// One email of a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Unique in its sequence; `[a-z0-9_-]`, at most 64 characters.
    pub id: String,
    /// Counted from the enrolment for the first step, from the previous email's actual sending for the others.
    #[serde(rename = "afterMs", with = "millis")]
    pub after: Duration,
    /// What is sent.
    pub send: Send,
}

/// The email of a step, unrendered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Send {
    /// A one-line template.
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
    /// The path of the field, such as `steps[1].after`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Reads and validates a sequence file. `template` is asked for each template the steps name and gives what stands
/// in the folder under that name; none when there is neither `.html` nor `.txt`.
///
/// # Errors
/// Every fault found, with its place; never an empty list.
pub fn parse_sequence(
    file: &str,
    toml: &str,
    template: impl FnMut(&str) -> Option<Template>,
) -> Result<Sequence, Vec<SequenceError>> {
    todo!()
}
