//! Requests as they come over the wire, and what is wrong with one.
use dripline_actors::ports::{Source, StoreError};
use dripline_actors::{Chain, ControlError, OrderedAction};
use dripline_domain::{Address, LeadStatus, Operator, Refusal, RequestId, Sanitiser, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::sequences::PublishError;

/// A request has at most so many bytes.
const LIMIT: usize = 64 * 1024;

/// Why a request was not carried out: HTTP's numbers, a word for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn invalid(error: impl Into<Source>) -> Self {
        Self { status: 400, code: "invalid_request", message: Chain(&*error.into()).to_string() }
    }

    pub(super) fn unavailable(error: impl Into<Source>) -> Self {
        Self { status: 503, code: "unavailable", message: Chain(&*error.into()).to_string() }
    }

    pub(super) fn no_such_sequence(name: &str) -> Self {
        ControlError::NoSuchSequence(name.to_owned()).into()
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let message = error.to_string();
        let (status, code) = match error {
            ControlError::NoSuchLead => (404, "no_such_lead"),
            ControlError::NoSuchSequence(_) => (404, "no_such_sequence"),
            ControlError::NoSuchVersion { .. } => (404, "no_such_version"),
            ControlError::NoDefaultSequence => (400, "invalid_request"),
            ControlError::Unreadable(_) => (500, "unreadable_document"),
            ControlError::Unavailable(_) => (503, "unavailable"),
            ControlError::Refused(refusal) => match refusal {
                Refusal::NoSuchLead => (404, "no_such_lead"),
                Refusal::NotInSequence => (404, "not_in_sequence"),
                Refusal::NoSuchStep => (404, "no_such_step"),
                Refusal::NotDue(_) => (409, "not_due"),
                Refusal::AttemptOpen => (409, "attempt_open"),
                Refusal::NoSuchAttempt => (409, "nothing_in_doubt"),
                Refusal::Ended => (409, "ended"),
                Refusal::Paused => (409, "paused"),
                Refusal::NotPaused => (409, "not_paused"),
                Refusal::MustNotBeMailed => (409, "must_not_be_mailed"),
                Refusal::AlreadyEnrolled => (409, "already_enrolled"),
            },
        };
        Self { status, code, message }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        ControlError::from(error).into()
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Changed { .. } => Self { status: 409, code: "version_in_use", message: error.to_string() },
            PublishError::Store(error) => error.into(),
        }
    }
}

/// The fields of a request; each is taken once, and none may be left over.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// An empty request is one without fields.
    pub(super) fn read(payload: &[u8]) -> Result<Self, Problem> {
        if payload.len() > LIMIT {
            return Err(Problem::invalid(format!("a request has at most {LIMIT} bytes")));
        }
        if payload.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Map::new()));
        }
        let fields = serde_json::from_slice(payload);
        fields.map(Self).map_err(|error| Problem::invalid(format!("a request is a JSON object: {error}")))
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::invalid(format!("`{name}` must be a text"))),
        }
    }

    pub(super) fn address(&mut self) -> Result<Address, Problem> {
        let text = self.text("address")?.ok_or_else(|| Problem::invalid("`address` is missing: whose lead it is"))?;
        Address::parse(&text).map_err(|error| Problem::invalid(format!("`address`: {error}")))
    }

    /// Who makes a change, why, and as which request.
    pub(super) fn operator(&mut self) -> Result<(Operator, RequestId), Problem> {
        let (by, reason) = (self.text("by")?.unwrap_or_default(), self.text("reason")?.unwrap_or_default());
        let operator = Operator::new(&by, &reason).map_err(Problem::invalid)?;
        let request = match self.text("requestId")? {
            Some(text) => RequestId::parse(&text).map_err(Problem::invalid)?,
            None => RequestId::random(rand::random()),
        };
        Ok((operator, request))
    }

    /// All that is left.
    pub(super) fn rest<T: DeserializeOwned>(self) -> Result<T, Problem> {
        serde_json::from_value(Value::Object(self.0)).map_err(Problem::invalid)
    }

    /// What an arrival by hand says of a person, read as a source's is.
    pub(super) fn enrolment(mut self, address: &Address, sanitiser: &Sanitiser) -> Result<OrderedAction, Problem> {
        let mut lead = match self.0.remove("lead") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(lead)) => lead,
            Some(_) => return Err(Problem::invalid("`lead` must be an object: what is known of the person")),
        };
        let sequence = self.text("sequence")?;
        let Nothing {} = self.rest()?;
        if lead.contains_key("email") || lead.contains_key("sequence") {
            return Err(Problem::invalid("`address` and `sequence` stand beside `lead`, not in it"));
        }
        lead.insert("email".to_owned(), json!(address.as_str()));
        lead.extend(sequence.map(|sequence| ("sequence".to_owned(), json!(sequence))));
        let arrival = sanitiser.read(Value::Object(lead)).map_err(Problem::invalid)?;
        Ok(OrderedAction::Enroll { arrival: Box::new(arrival) })
    }
}

/// A request that needs no more fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Move {
    pub(super) sequence: String,
    pub(super) step: String,
    pub(super) version: Option<u32>,
    pub(super) at: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfSequence {
    pub(super) sequence: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stop {
    pub(super) sequence: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolve {
    pub(super) sequence: String,
    pub(super) sent: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct History {
    pub(super) address: Option<String>,
    pub(super) lead_id: Option<String>,
    pub(super) before: Option<u64>,
    pub(super) limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    pub(super) status: Option<LeadStatus>,
    pub(super) sequence: Option<String>,
    pub(super) step: Option<String>,
    #[serde(default)]
    pub(super) overdue: bool,
    pub(super) after: Option<u64>,
    pub(super) limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Show {
    pub(super) sequence: String,
    pub(super) version: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Migrate {
    pub(super) sequence: String,
    pub(super) from: u32,
    pub(super) to: u32,
    #[serde(default)]
    pub(super) dry_run: bool,
    pub(super) after: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfProvider {
    pub(super) provider: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfWebhook {
    pub(super) webhook: String,
}
