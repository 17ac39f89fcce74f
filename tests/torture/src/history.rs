//! What was seen from outside: what was promised, what was mailed, what the system says of itself in the end. Times are
//! Unix milliseconds of one machine's clock.
use std::collections::BTreeMap;

use dripline_domain::{Lead, send_key};
use dripline_stand_in::Accepted;
use serde::{Deserialize, Serialize};

use crate::check::InDoubt;
use crate::plan::Sequence;

/// A run, as it was.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct History {
    /// That leads could enter.
    pub sequences: Vec<Sequence>,
    /// What sources handed in.
    pub submissions: Vec<Submission>,
    /// What operators asked for.
    pub suppressions: Vec<Suppression>,
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

/// A put into the bucket `suppressions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppression {
    /// Who must not be mailed.
    pub address: String,
    /// When the put was acknowledged.
    pub acknowledged: u64,
}

/// Something that was done to the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// When it began.
    pub from: u64,
    /// When it was undone.
    pub to: u64,
    /// For people.
    pub what: String,
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
    /// Each time it entered a sequence.
    pub enrollments: Vec<Enrolment>,
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
    /// Whose.
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

impl Document {
    /// From a stored document.
    pub fn read(json: &[u8], sequences: &[Sequence]) -> Result<Self, serde_json::Error> {
        let mut document: Self = serde_json::from_slice(json)?;
        // The names of emails are the engine's own business; only they are taken from its code.
        let lead = Lead::from_json(json)?;
        for (ours, theirs) in document.enrollments.iter_mut().zip(&lead.enrolments) {
            let steps = sequences.iter().find(|sequence| sequence.name == ours.sequence).map(|it| it.steps.as_slice());
            let steps = steps.unwrap_or_default();
            ours.send_keys = steps.iter().map(|step| send_key(&lead.lead_id, theirs, &step.id)).collect();
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
    /// Addresses suppressed.
    pub suppressions: usize,
    /// What was done, by kind.
    pub deeds: BTreeMap<String, usize>,
    /// Leads by status in the end.
    pub statuses: BTreeMap<String, usize>,
    /// What does not hold.
    pub violations: usize,
}
