//! What was seen from outside: what was promised, what was mailed, what the system says of itself in the end. Times are
//! Unix milliseconds of one machine's clock.
use std::collections::BTreeMap;
use std::fmt;

use dripline_domain::{Lead, send_key};
use dripline_stand_in::Accepted;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::check::InDoubt;
use crate::plan::{Cause, Held, PROVIDER, Sequence};

/// A run, as it was.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct History {
    /// That leads could enter.
    pub sequences: Vec<Sequence>,
    /// What sources handed in.
    pub submissions: Vec<Submission>,
    /// Who must not be mailed, by whose word.
    pub suppressions: Vec<Suppression>,
    /// What operators ordered; those about one lead, one sequence or the provider in the order in which they were given.
    #[serde(default)]
    pub orders: Vec<Order>,
    /// What was found held back once every operator was done.
    #[serde(default)]
    pub left_held: Vec<LeftHeld>,
    /// What was done to the system.
    pub deeds: Vec<Done>,
    /// What the provider accepted, in order.
    pub accepted: Vec<Accepted>,
    /// The bucket `leads`.
    pub documents: Vec<Document>,
    /// Every transition, in the order it was committed.
    pub journal: Vec<Line>,
    /// The stream `REJECTED`.
    pub rejected: Vec<Rejected>,
    /// What did not come to rest, for people.
    pub stuck: Vec<String>,
    /// What else should not have happened, for people: an unclean stop, a request that is not what the provider takes.
    pub odd: Vec<String>,
}

/// A lead that a source hands in, until it is promised to be kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Whose.
    pub address: String,
    /// Which sequence it names.
    pub sequence: String,
    /// The idempotency key.
    pub key: String,
    /// When it was sent first.
    pub first_tried: u64,
    /// When it was sent last, under the same key.
    pub last_tried: u64,
    /// How often it was sent.
    pub tries: u32,
    /// The first 202.
    pub promise: Option<Promise>,
    /// An answer that no good lead should get.
    pub refused: Option<String>,
}

/// A 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// When.
    pub at: u64,
    /// The lead's id, as answered.
    pub lead_id: String,
}

/// Somebody's word that an address must not be mailed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppression {
    /// Who must not be mailed.
    pub address: String,
    /// Whose word.
    pub cause: Cause,
    /// When it was acknowledged: the put into the bucket, or a 200.
    pub acknowledged: u64,
}

/// A request to the control service, made until it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The request's id. The journal has it as the reason of all that the order does.
    pub id: String,
    /// What is ordered.
    pub verb: Verb,
    /// When it was sent first.
    pub first_sent: u64,
    /// How often it was sent until it was answered.
    pub tries: u32,
    /// None where nobody ever answered.
    pub answer: Option<Answer>,
    /// It was asked for once more under its id, after it had been answered.
    pub repeat: Option<Answer>,
}

/// What an order asks of the control service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Nothing of it goes.
    Pause(Held),
    /// It goes on.
    Resume(Held),
    /// What is under way of a lead ends, in this sequence or in all.
    Stop(String, Option<String>),
    /// A lead begins this sequence anew.
    Restart(String, String),
}

/// An answer of the control service that is not `unavailable`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// When.
    pub at: u64,
    /// The code of a refusal.
    pub refused: Option<String>,
}

/// Something that is held back although every operator is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftHeld {
    /// Not read before this time.
    pub at: u64,
    /// What.
    pub held: Held,
    /// The reason that stands there: the id of an order.
    pub reason: String,
}

/// Something that was done to the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// When it began.
    pub from: u64,
    /// When it was undone.
    pub to: u64,
    /// What was hindered by it, if it kept an engine from what others know.
    #[serde(default)]
    pub hinders: Option<Hindered>,
    /// For people.
    pub what: String,
}

/// What may keep an engine from what others know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hindered {
    /// It ended, with what it had in its hands. The next one looks before it begins.
    Ended,
    /// It stood still, and goes on with what it knew.
    StoodStill,
    /// A server was away.
    Server,
}

/// A lead's document.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// Opaque.
    pub lead_id: String,
    /// The address.
    pub email: String,
    /// In one word.
    pub status: String,
    /// When it needs the engine next.
    pub next_action_timestamp: Option<u64>,
    /// Why it must not be mailed.
    pub suppressed: Option<String>,
    /// That an operator holds it back.
    #[serde(default)]
    pub paused: Option<Pause>,
    /// Each time it entered a sequence.
    pub enrollments: Vec<Enrolment>,
}

/// Why a lead is held back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// As the order said.
    pub reason: String,
}

/// A lead in a sequence.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolment {
    /// The sequence's name.
    pub sequence: String,
    /// Counts the lead's enrolments in it, from 1.
    pub number: u32,
    /// The step it is at; the number of steps at its end.
    pub step: usize,
    /// What it is doing.
    pub status: String,
    /// When it began.
    pub began_at: u64,
    /// Why, if that is to be said.
    pub reason: Option<String>,
    /// The send key of each step: not in the document, worked out from it.
    #[serde(default)]
    pub send_keys: Vec<String>,
}

/// An entry of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Whose; empty where it is no lead's.
    #[serde(default)]
    pub lead_id: String,
    /// When.
    pub timestamp: u64,
    /// What.
    pub event: String,
    /// In which sequence.
    #[serde(default)]
    pub sequence: Option<String>,
    /// At which step, by its id.
    #[serde(default)]
    pub step: Option<String>,
    /// Which attempt at it.
    #[serde(default)]
    pub attempt: Option<u32>,
    /// For people.
    #[serde(default)]
    pub reason: Option<String>,
    /// Who, where it was somebody's order.
    #[serde(default)]
    pub by: Option<String>,
}

/// A message that could not be processed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// `rejected.<code>`.
    pub subject: String,
    /// Why, as it says.
    pub reason: String,
    /// As it came.
    pub payload: String,
}

impl Verb {
    /// The subject's end, as `docs/control.md` has it.
    pub fn subject(&self) -> &'static str {
        match self {
            Self::Pause(Held::Lead(_)) => "lead.pause",
            Self::Pause(Held::Sequence(_)) => "sequence.pause",
            Self::Pause(Held::Provider) => "provider.pause",
            Self::Resume(Held::Lead(_)) => "lead.resume",
            Self::Resume(Held::Sequence(_)) => "sequence.resume",
            Self::Resume(Held::Provider) => "provider.resume",
            Self::Stop(..) => "lead.stop",
            Self::Restart(..) => "lead.restart",
        }
    }

    /// The fields that say of what.
    pub(crate) fn fields(&self) -> Value {
        match self {
            Self::Pause(held) | Self::Resume(held) => match held {
                Held::Lead(address) => json!({"address": address}),
                Held::Sequence(name) => json!({"sequence": name}),
                Held::Provider => json!({"provider": PROVIDER}),
            },
            Self::Stop(address, None) => json!({"address": address}),
            Self::Stop(address, Some(sequence)) | Self::Restart(address, sequence) => {
                json!({"address": address, "sequence": sequence})
            }
        }
    }

    /// The lead's address, where it is about one.
    pub fn address(&self) -> Option<&str> {
        match self {
            Self::Pause(Held::Lead(address))
            | Self::Resume(Held::Lead(address))
            | Self::Stop(address, _)
            | Self::Restart(address, _) => Some(address),
            Self::Pause(Held::Sequence(_) | Held::Provider) | Self::Resume(Held::Sequence(_) | Held::Provider) => None,
        }
    }

    /// The journal's event when it is carried out.
    pub(crate) fn event(&self) -> &'static str {
        match self {
            Self::Pause(Held::Lead(_)) => "paused",
            Self::Pause(Held::Sequence(_)) => "sequence_paused",
            Self::Pause(Held::Provider) => "provider_paused",
            Self::Resume(Held::Lead(_)) => "resumed",
            Self::Resume(Held::Sequence(_)) => "sequence_resumed",
            Self::Resume(Held::Provider) => "provider_resumed",
            Self::Stop(..) => "stopped",
            Self::Restart(..) => "enrolled",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.subject(), self.fields())
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, verb, first_sent, tries, answer, .. } = self;
        write!(f, "{id} ({verb}), sent at {first_sent}, {tries} tries, ")?;
        match answer {
            Some(Answer { at, refused: None }) => write!(f, "acknowledged at {at}"),
            Some(Answer { at, refused: Some(code) }) => write!(f, "refused at {at}: {code}"),
            None => f.write_str("never answered"),
        }
    }
}

impl Order {
    /// When it was acknowledged; none where it was refused, or never answered.
    pub fn acknowledged(&self) -> Option<u64> {
        self.answer.as_ref().filter(|answer| answer.refused.is_none()).map(|answer| answer.at)
    }

    /// Whether nothing can have come of it: what was sent once and refused is over.
    pub fn came_to_nothing(&self) -> bool {
        self.tries == 1 && self.answer.as_ref().is_some_and(|answer| answer.refused.is_some())
    }
}

impl Document {
    /// From a stored document.
    pub fn read(json: &[u8], sequences: &[Sequence]) -> Result<Self, serde_json::Error> {
        let mut document: Self = serde_json::from_slice(json)?;
        // The names of emails are the engine's own business; only they are taken from its code.
        let lead = Lead::from_json(json)?;
        for (ours, theirs) in document.enrollments.iter_mut().zip(&lead.enrolments) {
            let steps = sequences.iter().find(|sequence| sequence.name == ours.sequence).map(|it| it.steps.as_slice());
            let steps = steps.unwrap_or_default();
            ours.send_keys = steps.iter().map(|step| send_key(&lead.lead_id, theirs, &step.id).to_string()).collect();
        }
        Ok(document)
    }

    /// Whether all that it still waits for is word of an attempt in doubt, under a policy that waits for no more: that
    /// may take longer than anyone watches.
    pub(crate) fn is_held(&self, in_doubt: InDoubt) -> bool {
        let mut open = self.enrollments.iter().filter(|enrolment| enrolment.status != "COMPLETED");
        in_doubt == InDoubt::Hold
            && open.all(|enrolment| matches!(enrolment.status.as_str(), "IN_DOUBT" | "PARKED" | "STOPPED"))
    }
}

/// A run in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Repeats the run's plan.
    pub seed: u64,
    /// From the first lead to rest.
    pub seconds: u64,
    /// nats-servers.
    pub servers: usize,
    /// Engine processes.
    pub engines: usize,
    /// Documents.
    pub leads: usize,
    /// 202s.
    pub promises: usize,
    /// Requests of sources that had to be sent again.
    pub retries: u32,
    /// Emails accepted by the provider.
    pub emails: usize,
    /// Attempts declared as in doubt.
    pub doubts: usize,
    /// Addresses suppressed, by whose word.
    pub suppressions: BTreeMap<String, usize>,
    /// Orders acknowledged, by verb.
    pub orders: BTreeMap<&'static str, usize>,
    /// Orders refused, by code.
    pub refusals: BTreeMap<String, usize>,
    /// What was done, by kind.
    pub deeds: BTreeMap<String, usize>,
    /// Leads by status in the end.
    pub statuses: BTreeMap<String, usize>,
    /// What does not hold.
    pub violations: usize,
}
