//! Leads as sources send them, and what we make of them.

use serde::Serialize;
use serde_json::Value;
use unicode_normalization::UnicodeNormalization;

use crate::Address;
use crate::phone::{normalise_international_phone, normalise_phone};

mod error;
mod profile;

pub use error::ArrivalError;
pub use profile::Profile;

/// A name longer than this many characters is none.
const MAX_NAME_CHARS: usize = 100;

/// A lead as a source hands it in, cleaned.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// Whom.
    pub address: Address,
    /// What we know of them.
    pub profile: Profile,
    /// The sequence the lead names, if it does: `[a-z0-9_-]`, at most 64 characters.
    pub sequence: Option<String>,
}

/// Reads leads as sources send them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sanitiser {
    /// The region whose national phone notation is understood, such as `US`, to be checked by
    /// [`check_region`](crate::check_region); without one, only the international notation is.
    pub default_region: Option<String>,
    /// How much a lead may bring.
    pub limits: Limits,
}

/// How much a lead may bring. More is a mistake, or an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Fields, known and unknown, at the top level.
    pub max_fields: usize,
    /// Characters of a key, at any level.
    pub max_key_chars: usize,
    /// Characters of a text, at any level.
    pub max_text_chars: usize,
    /// Arrays and objects within one another in an attribute: `[]` is 1, `[{}]` is 2.
    pub max_depth: usize,
    /// Bytes of all attributes as JSON.
    pub max_total_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_fields: 64, max_key_chars: 64, max_text_chars: 1024, max_depth: 4, max_total_bytes: 16 * 1024 }
    }
}

/// The fields we know, by every name sources have for them.
#[derive(Clone, Copy)]
enum Field {
    Email,
    FirstName,
    LastName,
    Phone,
    Sequence,
}

impl Field {
    fn named(key: &str) -> Option<Self> {
        match key {
            "email" | "emailAddress" | "email_address" => Some(Self::Email),
            "firstName" | "first_name" | "firstname" => Some(Self::FirstName),
            "lastName" | "last_name" | "lastname" => Some(Self::LastName),
            "phone" | "phoneNumber" | "phone_number" => Some(Self::Phone),
            "sequence" => Some(Self::Sequence),
            _ => None,
        }
    }
}

/// What was read so far. A known field is taken once; empty counts as absent.
#[derive(Default)]
struct Read {
    address: Option<Address>,
    profile: Profile,
    sequence: Option<String>,
    /// A phone number that is none, with the key it came under.
    raw_phone: Option<(String, String)>,
}

impl Sanitiser {
    /// Reads a lead from JSON text.
    pub fn read_json(&self, bytes: &[u8]) -> Result<Arrival, ArrivalError> {
        self.read(serde_json::from_slice(bytes).map_err(|error| ArrivalError::NotJson(error.to_string()))?)
    }

    /// Reads a lead.
    ///
    /// Known are `email`, `firstName`, `lastName`, `phone` and `sequence`, in camel case and in snake case, besides
    /// `emailAddress` and `phoneNumber`; a known field that is null or blank counts as absent. If one comes under two
    /// names, the first counts and the other stays an attribute. A phone number that is none does not cost us the
    /// lead: it stays an attribute under `phone`. All else is an attribute, as it came, but for line ends, which
    /// become `\n`.
    pub fn read(&self, fields: Value) -> Result<Arrival, ArrivalError> {
        let Value::Object(fields) = fields else {
            return Err(ArrivalError::NotAnObject);
        };
        if fields.len() > self.limits.max_fields {
            return Err(ArrivalError::TooManyFields { limit: self.limits.max_fields });
        }
        let mut read = Read::default();
        for (key, value) in fields {
            self.read_field(&mut read, key, value)?;
        }
        let Read { address, mut profile, sequence, raw_phone } = read;
        if let Some((key, text)) = raw_phone {
            let taken = profile.attributes.contains_key("phone");
            profile.attributes.insert(if taken { key } else { "phone".to_owned() }, Value::String(text));
        }
        if json_bytes(&profile.attributes) > self.limits.max_total_bytes {
            return Err(ArrivalError::TooLarge { limit: self.limits.max_total_bytes });
        }
        Ok(Arrival { address: address.ok_or(ArrivalError::MissingEmail)?, profile, sequence })
    }

    fn read_field(&self, read: &mut Read, key: String, value: Value) -> Result<(), ArrivalError> {
        match Field::named(&key) {
            Some(Field::Email) if read.address.is_none() => {
                read.address = text(&key, value)?.map(|text| Address::parse(&text)).transpose()?;
            }
            Some(Field::FirstName) if read.profile.first_name.is_none() => {
                read.profile.first_name = text(&key, value)?.map(|text| tidy_name(&key, &text)).transpose()?;
            }
            Some(Field::LastName) if read.profile.last_name.is_none() => {
                read.profile.last_name = text(&key, value)?.map(|text| tidy_name(&key, &text)).transpose()?;
            }
            Some(Field::Phone) if read.profile.phone.is_none() && read.raw_phone.is_none() => {
                if let Some(text) = text(&key, value)? {
                    let text = self.check_text(text, &key)?;
                    match self.normalise_phone(&text) {
                        Some(e164) => read.profile.phone = Some(e164),
                        None => read.raw_phone = Some((key, text)),
                    }
                }
            }
            Some(Field::Sequence) if read.sequence.is_none() => {
                let name = text(&key, value)?;
                if name.as_deref().is_some_and(|name| !is_name(name)) {
                    return Err(ArrivalError::InvalidSequence);
                }
                read.sequence = name;
            }
            _ => {
                self.check_key(&key, &key)?;
                let value = self.check_attribute(value, &key, 0)?;
                read.profile.attributes.insert(key, value);
            }
        }
        Ok(())
    }

    fn normalise_phone(&self, text: &str) -> Option<String> {
        match &self.default_region {
            Some(region) => normalise_phone(text, region).ok(),
            None => normalise_international_phone(text).ok(),
        }
    }

    /// `path` names the value in errors; `depth` is how many arrays and objects it stands in.
    fn check_attribute(&self, value: Value, path: &str, depth: usize) -> Result<Value, ArrivalError> {
        if (value.is_array() || value.is_object()) && depth == self.limits.max_depth {
            return Err(ArrivalError::TooDeep { field: excerpt(path), limit: self.limits.max_depth });
        }
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(value),
            Value::String(text) => self.check_text(text, path).map(Value::String),
            Value::Array(values) => {
                let check = |(i, value)| self.check_attribute(value, &format!("{path}[{i}]"), depth + 1);
                values.into_iter().enumerate().map(check).collect::<Result<_, _>>().map(Value::Array)
            }
            Value::Object(fields) => {
                let check = |(key, value): (String, Value)| {
                    let path = format!("{path}.{key}");
                    self.check_key(&key, &path)?;
                    let value = self.check_attribute(value, &path, depth + 1)?;
                    Ok((key, value))
                };
                fields.into_iter().map(check).collect::<Result<_, _>>().map(Value::Object)
            }
        }
    }

    fn check_key(&self, key: &str, path: &str) -> Result<(), ArrivalError> {
        refuse_long(key, path, self.limits.max_key_chars)?;
        refuse_control(key, path)
    }

    /// Line ends are made `\n`, as HTML forms send `\r\n`.
    fn check_text(&self, text: String, path: &str) -> Result<String, ArrivalError> {
        let text = if text.contains("\r\n") { text.replace("\r\n", "\n") } else { text };
        refuse_long(&text, path, self.limits.max_text_chars)?;
        if text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
            return Err(ArrivalError::ControlCharacters { field: excerpt(path) });
        }
        Ok(text)
    }
}

/// The text of a known field; none if it is null or blank.
fn text(field: &str, value: Value) -> Result<Option<String>, ArrivalError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(ArrivalError::WrongType { field: field.to_owned(), expected: "a text" })
        }
    }
}

/// Leaves the case alone: nobody but its owner knows how `McDonald` or `van der Berg` is written.
fn tidy_name(field: &str, name: &str) -> Result<String, ArrivalError> {
    refuse_control(name, field)?;
    let words: Vec<&str> = name.split_whitespace().collect();
    let tidy: String = words.join(" ").nfc().collect();
    refuse_long(&tidy, field, MAX_NAME_CHARS)?;
    Ok(tidy)
}

fn refuse_control(text: &str, field: &str) -> Result<(), ArrivalError> {
    if text.contains(char::is_control) {
        return Err(ArrivalError::ControlCharacters { field: excerpt(field) });
    }
    Ok(())
}

fn refuse_long(text: &str, field: &str, limit: usize) -> Result<(), ArrivalError> {
    // A text has no more characters than bytes, so most need not be counted.
    if text.len() > limit && text.chars().count() > limit {
        return Err(ArrivalError::TooLong { field: excerpt(field), limit });
    }
    Ok(())
}

/// The name of a sequence, a step or a template: safe in a subject, a key and a file name.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

/// A foreign text as it may stand in a message: at most 80 characters, none of them a control character.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARS: usize = 80;
    let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    match text.char_indices().nth(CHARS) {
        None => text.chars().map(printable).collect(),
        Some(_) => text.chars().take(CHARS - 1).map(printable).chain(['…']).collect(),
    }
}

fn json_bytes(value: &(impl Serialize + ?Sized)) -> usize {
    // What cannot be written as JSON has no size that fits; no value of serde_json is of that kind.
    serde_json::to_vec(value).map_or(usize::MAX, |json| json.len())
}

#[cfg(test)]
mod tests;
