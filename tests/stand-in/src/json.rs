//! JSON read strictly and, where possible, without copying.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;

use serde::{Deserialize, Deserializer};

/// A JSON string, borrowed from the body unless it holds an escape.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A JSON object of strings.
pub type Texts<'a> = BTreeMap<Text<'a>, Text<'a>>;

/// For a field that may be left out but not be null: vendors document no null anywhere in a send request.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Why a body could not be read.
#[derive(Debug)]
pub enum Unreadable {
    /// It is not JSON.
    Malformed(String),
    /// It is, but a field is missing, unknown, or of another type.
    Mistyped(String),
}

impl Unreadable {
    /// In words, whichever it is.
    pub fn into_reason(self) -> String {
        match self {
            Self::Malformed(reason) | Self::Mistyped(reason) => reason,
        }
    }
}

/// Reads a body as exactly this type.
pub fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(body).map_err(|error| {
        let reason = error.to_string();
        if error.is_data() { Unreadable::Mistyped(reason) } else { Unreadable::Malformed(reason) }
    })
}
