use std::time::Duration;

use dripline_actors::ports::FeedbackError;
use dripline_domain::{Address, Feedback, FeedbackKind, SmolStr, Timestamp, split_mailbox};
use serde_json::Value;

use super::Vendor;
use crate::reason::tidy;

/// Longest id, in characters: a [`Feedback`] keeps no longer one.
const ID_LIMIT: usize = 200;

/// The last second with a year of four digits.
const LAST_SECOND: u64 = 253_402_300_799;

/// One raw event, read field by field. A path is a JSON pointer (RFC 6901).
pub(super) struct Event {
    vendor: Vendor,
    root: Value,
}

impl Event {
    /// # Errors
    /// Not a JSON object, or one nested deeper than 128 levels.
    pub fn parse(vendor: Vendor, payload: &[u8]) -> Result<Self, FeedbackError> {
        let wrong = |what: &str| FeedbackError(format!("this is not an event of {}: {what}", vendor.name()));
        let root: Value = serde_json::from_slice(payload).map_err(|error| {
            wrong(&format!("no JSON can be read (line {}, column {})", error.line(), error.column()))
        })?;
        if root.is_object() { Ok(Self { vendor, root }) } else { Err(wrong("JSON, but not an object")) }
    }

    /// A text that must be there.
    pub fn text(&self, path: &str) -> Result<&str, FeedbackError> {
        self.some_text(path).ok_or_else(|| wrong(path, "is missing, or not a text"))
    }

    /// A text, where there is one that is not empty.
    pub fn some_text(&self, path: &str) -> Option<&str> {
        self.root.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// A truth that must be there.
    pub fn truth(&self, path: &str) -> Result<bool, FeedbackError> {
        self.root.pointer(path).and_then(Value::as_bool).ok_or_else(|| wrong(path, "is missing, or not true or false"))
    }

    /// A number or a text that must be there, as text.
    pub fn number(&self, path: &str) -> Result<String, FeedbackError> {
        match self.root.pointer(path) {
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            _ => Err(wrong(path, "is missing, or not a number")),
        }
    }

    /// A list that must be there.
    pub fn list(&self, path: &str) -> Result<&[Value], FeedbackError> {
        let list = self.root.pointer(path).and_then(Value::as_array);
        list.map(Vec::as_slice).ok_or_else(|| wrong(path, "is missing, or not a list"))
    }

    /// The value at a path, whatever it is.
    pub fn value(&self, path: &str) -> Option<&Value> {
        self.root.pointer(path)
    }

    /// Unix seconds, perhaps with a fraction, perhaps as a text.
    pub fn seconds(&self, path: &str) -> Result<Timestamp, FeedbackError> {
        let seconds =
            self.number(path)?.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let since_1970 = seconds.filter(|since_1970| since_1970.as_secs() <= LAST_SECOND);
        since_1970
            .map(|since_1970| Timestamp::from_millis(0).plus(since_1970))
            .ok_or_else(|| wrong(path, "is not a number of seconds since 1970"))
    }

    /// A time as RFC 3339 writes it; a space for the `T` will do.
    pub fn time(&self, path: &str) -> Result<Timestamp, FeedbackError> {
        let time: jiff::Timestamp = self.text(path)?.parse().map_err(|_| wrong(path, "is not a time (RFC 3339)"))?;
        Ok(Timestamp::from_millis(time.as_millisecond()))
    }

    /// A person's address, perhaps with a name.
    pub fn address(&self, path: &str) -> Result<Address, FeedbackError> {
        let mailbox = split_mailbox(self.text(path)?);
        mailbox.map(|(_, address)| address).ok_or_else(|| wrong(path, "is not an address, such as jane@example.com"))
    }

    /// What this event says, about whomever: `kind`, by the provider's `id` of it, at this time.
    ///
    /// # Errors
    /// The id is longer than 200 characters.
    pub fn says(&self, kind: FeedbackKind, id: String, occurred_at: Timestamp) -> Result<Said, FeedbackError> {
        if id.chars().count() > ID_LIMIT {
            return Err(FeedbackError(format!("the event's id is longer than {ID_LIMIT} characters")));
        }
        Ok(Said {
            vendor: self.vendor,
            kind,
            id,
            occurred_at,
            message_id: None,
            send_key: None,
            sequence: None,
            step: None,
        })
    }
}

/// `/event-data/recipient` is told as `event-data.recipient`.
fn wrong(path: &str, what: &str) -> FeedbackError {
    FeedbackError(format!("`{}` {what}", path.trim_start_matches('/').replace('/', ".")))
}

/// A [`Feedback`] that lacks the person.
#[derive(Clone)]
pub(super) struct Said {
    vendor: Vendor,
    kind: FeedbackKind,
    id: String,
    occurred_at: Timestamp,
    message_id: Option<SmolStr>,
    send_key: Option<SmolStr>,
    sequence: Option<SmolStr>,
    step: Option<SmolStr>,
}

impl Said {
    /// Of the email with this id, in the form that the adapter got it in.
    pub fn of_message(mut self, message_id: Option<&str>) -> Self {
        self.message_id = message_id.filter(is_an_id).map(SmolStr::new);
        self
    }

    /// Of the email that carried our own names, see [`crate::wire::Ids`]. What is not a text, or far too long, is not
    /// ours: the account may have other users.
    pub fn with_ids<'a>(mut self, find: impl Fn(&str) -> Option<&'a str>) -> Self {
        let id = |name| find(name).filter(is_an_id).map(SmolStr::new);
        (self.send_key, self.sequence, self.step) = (id("send_key"), id("sequence"), id("step"));
        self
    }

    /// About this person, in these words of the provider.
    pub fn about(&self, address: Address, words: Option<&str>) -> Feedback {
        let said = self.clone();
        Feedback {
            provider: said.vendor.name().into(),
            id: said.id,
            kind: said.kind,
            occurred_at: said.occurred_at,
            reason: words.map(|words| tidy(&without_addresses(words), &address)).filter(|words| !words.is_empty()),
            address,
            send_key: said.send_key,
            sequence: said.sequence,
            step: said.step,
            message_id: said.message_id,
        }
    }
}

fn is_an_id(text: &&str) -> bool {
    !text.is_empty() && text.chars().count() <= ID_LIMIT
}

/// Servers like to repeat the address they speak of, and not always as we know it: every word with an `@` goes.
fn without_addresses(words: &str) -> String {
    let words = words.split_whitespace().map(|word| if word.contains('@') { "[address]" } else { word });
    words.collect::<Vec<_>>().join(" ")
}
