use std::fmt;

use figment::error::{Actual, Kind};
use figment::{Metadata, Source};

/// Why a configuration cannot be used: one line that names where it stands, the key, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    place: String,
    message: String,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file, as its path was given.
    File(String),
    /// A variable of the environment.
    Variable(String),
}

impl Origin {
    pub fn of(metadata: Option<&Metadata>) -> Self {
        match metadata.and_then(|metadata| metadata.source.as_ref()) {
            Some(Source::File(path)) => Self::File(path.display().to_string()),
            Some(Source::Custom(name)) => Self::Variable(name.clone()),
            Some(_) | None => Self::Default,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name) | Self::Variable(name) => f.write_str(name),
        }
    }
}

impl ConfigError {
    /// Wrong at this place.
    pub fn at(place: impl Into<String>, message: impl Into<String>) -> Self {
        // One line, whatever a library or a value put in.
        let message = message.into().replace(['\n', '\r'], " ");
        Self { place: place.into(), message }
    }

    /// The value of this key is wrong, and came from there.
    pub fn of_key(origin: &Origin, key: &str, message: impl Into<String>) -> Self {
        match origin {
            Origin::Default => Self::at(key, message),
            Origin::File(file) => Self::at(format!("{file}: {key}"), message),
            Origin::Variable(name) => Self::at(name, message),
        }
    }

    /// This key has no value, and cannot do without.
    pub fn missing(key: &str) -> Self {
        let variable = key.to_ascii_uppercase().replace('.', "__");
        Self::at(key, format!("is missing; set it in {}, or DRIPLINE_{variable}", super::DEFAULT_FILE))
    }

    /// The same, and why it is so.
    #[must_use]
    pub fn because(self, why: &str) -> Self {
        Self { message: format!("{}; {why}", self.message), ..self }
    }

    /// There is no such key; `known` are those beside it.
    pub fn unknown(place: &str, name: &str, known: &[&str]) -> Self {
        let close = known.iter().map(|other| (distance(name, other), other)).min().filter(|(edits, _)| *edits <= 2);
        let hint = match close {
            Some((_, other)) => format!("unknown key, did you mean `{other}`?"),
            None if known.is_empty() => "unknown key".to_owned(),
            None => format!("unknown key; known here: {}", known.join(", ")),
        };
        Self::at(place, hint)
    }

    /// What figment found, as one line.
    pub fn from_figment(error: figment::Error) -> Self {
        let origin = Origin::of(error.metadata.as_ref());
        let key = error.path.join(".");
        let secret = is_secret(&key);
        match error.kind {
            Kind::UnknownField(name, known) => {
                // The path names the unknown key itself.
                let at = Self::of_key(&origin, &key, "");
                Self::unknown(&at.place, &name, known)
            }
            Kind::MissingField(name) => Self::missing(&format!("{key}.{name}")),
            Kind::UnknownVariant(found, known) => {
                Self::of_key(&origin, &key, format!("`{found}` is not one of {}", known.join(", ")))
            }
            Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => Self::of_key(
                &origin,
                &key,
                format!("{} found, {} expected", found_as(&found, secret), wanted_as(&wanted)),
            ),
            Kind::InvalidLength(length, wanted) => {
                Self::of_key(&origin, &key, format!("{length} entries found, {wanted} expected"))
            }
            Kind::Message(message) => Self::of_key(&origin, &key, message),
            other => Self::of_key(&origin, &key, other.to_string()),
        }
    }
}

/// Whether a value under this key must not be shown, not even when it is wrong.
pub fn is_secret(key: &str) -> bool {
    ["password", "key", "seed", "secret", "token"].iter().any(|word| key.contains(word))
}

fn found_as(found: &Actual, secret: bool) -> String {
    match found {
        Actual::Bool(value) if !secret => format!("`{value}`"),
        Actual::Unsigned(value) if !secret => format!("`{value}`"),
        Actual::Signed(value) if !secret => format!("`{value}`"),
        Actual::Float(value) if !secret => format!("`{value}`"),
        Actual::Str(value) if !secret => format!("`{value}`"),
        Actual::Bool(_) => "true or false".into(),
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) => "a number".into(),
        Actual::Str(_) => "a text".into(),
        Actual::Seq => "a list".into(),
        Actual::Map => "a table".into(),
        Actual::Unit | Actual::Option => "nothing".into(),
        other => other.to_string(),
    }
}

/// serde's words for a type, as people say them.
fn wanted_as(wanted: &str) -> &str {
    match wanted {
        "a string" | "path string" => "a text in quotes",
        "a sequence" => "a list",
        "a map" => "a table of keys",
        "a boolean" => "true or false",
        "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        wanted if wanted.starts_with("a nonzero") => "a whole number, 1 or more",
        wanted if wanted.starts_with("struct ") => "a table of keys",
        wanted => wanted,
    }
}

/// How many slips of the finger lie between two words: a letter too many, too few, wrong, or swapped.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let wrong = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = wrong.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
