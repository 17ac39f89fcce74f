//! The one place that decides: `(lead, event, context) → (lead, effects)`.
//!
//! Every state answers every event; there is no catch-all arm, so a new event does not compile until each state says
//! what it does with it. What a state cannot do is a typed [`Refusal`], and changes nothing.
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use smol_str::SmolStr;

use crate::lead::hex;
use crate::{
    Arrival, ArrivalId, Attempt, DoubtPolicy, Enrolment, EnrolmentId, Entry, Feedback, Lead, LeadId, Operator,
    OperatorAction, Outcome, Reentry, RequestId, RetryPolicy, Sequence, SequenceRef, SoftBounce, Suppressed,
    Suppression, Timestamp, What,
};

mod change;
mod operator;
mod step;

use change::Change;
pub use operator::erase;
use step::{decide_step, heed_evidence};

/// What a decision may depend on besides the lead.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// The time of the decision.
    pub now: Timestamp,
    /// A random number in `[0, 1)`, for jitter.
    pub random: f64,
    /// When failed attempts are tried again.
    pub retry: RetryPolicy,
    /// What is done about lost answers.
    pub doubt: DoubtPolicy,
}

/// What happens to a lead.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// A source handed it in.
    Arrived {
        /// Cleaned.
        arrival: Arrival,
        /// Which arrival.
        id: ArrivalId,
        /// The id a new lead gets.
        lead_id: LeadId,
        /// The sequence it enters.
        sequence: &'a Sequence,
        /// What is known against the address now; nothing lifts what the document says.
        suppression: Suppression,
    },
    /// This is known against the address now, and forbids mail that the lead waits for.
    Suppressed(Suppression),
    /// A provider, or the person, told us something.
    Told {
        /// What.
        feedback: &'a Feedback,
        /// The sequence, at its version, of the enrolment that it speaks of ([`Lead::enrolment_of`]); one without steps
        /// where it speaks of none.
        sequence: &'a Sequence,
        /// What is known against the address now, this event included; none where the event says nothing of that.
        suppression: Option<Suppression>,
    },
    /// Something about the step one enrolment is at.
    Step {
        /// Which enrolment.
        enrolment: EnrolmentId,
        /// Its sequence, at its version.
        sequence: &'a Sequence,
        /// What.
        event: StepEvent,
    },
    /// An operator does something by hand.
    Operator {
        /// What.
        action: OperatorAction<'a>,
        /// Who, and why.
        operator: &'a Operator,
        /// Which request: one that is repeated changes nothing.
        request: &'a RequestId,
    },
}

/// What happens to the step an enrolment is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEvent {
    /// Its time has come and a permit was given: write the intent.
    Begin {
        /// The engine process that will call the provider.
        owner: SmolStr,
        /// The provider that will be called.
        provider: SmolStr,
        /// So long after now an answer counts as lost.
        answer_within: Duration,
    },
    /// The provider answered an attempt, or did not.
    Answered {
        /// Which step of which enrolment.
        send_key: SmolStr,
        /// Which attempt at it.
        attempt: u32,
        /// What came of it.
        outcome: Outcome,
    },
    /// The process that held the open attempt is gone, or was silent for too long.
    AnswerLost,
    /// The provider was asked for an attempt in doubt, and never took it.
    NotSent,
    /// What became of an attempt in doubt could not be found out, for this reason.
    Unresolved {
        /// For people.
        reason: String,
        /// Whether it is of use to ask again before the time for it is over.
        ask_again: bool,
    },
    /// An operator says what became of an attempt in doubt.
    Settled {
        /// The email is out.
        sent: bool,
        /// How they know, for people.
        reason: String,
    },
    /// It cannot go on by itself, for this reason.
    Fail(String),
}

/// What must be done once the new state is on disk, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Call the provider: this attempt is now on disk.
    Send(Attempt),
    /// Set a timer. Earlier ones of the lead are of no use any more.
    SetTimer {
        /// When.
        at: Timestamp,
        /// The lead's generation, by which the timer is known when it fires.
        generation: u64,
    },
}

/// A decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// The lead's next state.
    pub lead: Lead,
    /// What the journal says of it. Empty when nothing changed: then there is nothing to write.
    pub journal: Vec<Arc<Entry>>,
    /// What must be done once `lead` is on disk.
    pub effects: Vec<Effect>,
}

/// An event that a state has no use for. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The time of the step has not come.
    #[error("not due before {0}")]
    NotDue(Timestamp),
    /// An attempt is open, or its answer is in doubt: no second one beside it.
    #[error("an attempt is open")]
    AttemptOpen,
    /// No attempt is open that this could be the answer to.
    #[error("no such attempt is open")]
    NoSuchAttempt,
    /// The enrolment has ended, is parked, or there is none at that place.
    #[error("the enrolment does not go on")]
    Ended,
    /// There is no document of this lead.
    #[error("no such lead")]
    NoSuchLead,
    /// An operator holds the lead back.
    #[error("the lead is paused")]
    Paused,
    /// There is nothing that could be resumed.
    #[error("the lead is not paused, and nothing of it is parked")]
    NotPaused,
    /// It is not in this sequence, or not at this version of it.
    #[error("the lead is not in this sequence")]
    NotInSequence,
    /// The sequence has no such step at this version.
    #[error("this version of the sequence has no such step")]
    NoSuchStep,
    /// The address is on the suppression list.
    #[error("the address must not be mailed")]
    MustNotBeMailed,
    /// It is or was in the sequence, which says that this is enough.
    #[error("the lead is or was in this sequence, which takes it in no second time: `restart` does")]
    AlreadyEnrolled,
}

/// Names one step of one enrolment of one lead: the same on every attempt, in every process.
/// SHA-256 over the parts, cut to 128 bits, in hexadecimal.
///
/// The time it began is one of them: a lead that was erased or deleted and comes again counts its enrolments anew, and its
/// first email is another than that of its earlier life, which a provider may still know.
pub fn send_key(lead: &LeadId, enrolment: &Enrolment, step: &str) -> SmolStr {
    let mut hash = Sha256::new();
    for part in [lead.as_str(), &enrolment.sequence.name, step] {
        // Lengths keep ("ab", "c") and ("a", "bc") apart.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(enrolment.sequence.version.to_be_bytes());
    hash.update(enrolment.number.to_be_bytes());
    hash.update(enrolment.began.as_millis().to_be_bytes());
    hex(&hash.finalize()[..16]).into()
}

/// Decides what an event makes of a lead; none is a lead that has no document yet.
///
/// # Errors
/// The state has no use for the event; nothing changed.
pub fn transition(lead: Option<&Lead>, event: Event<'_>, context: &Context) -> Result<Transition, Refusal> {
    match event {
        Event::Arrived { arrival, id, lead_id, sequence, suppression } => {
            let (lead, is_new) = match lead {
                Some(lead) => (lead.clone(), false),
                None => (new_lead(&arrival, lead_id, context.now), true),
            };
            Ok(arrive(Change::of(lead, context), arrival, id, sequence, &suppression, is_new))
        }
        Event::Suppressed(suppression) => {
            Ok(suppress(Change::of(lead.ok_or(Refusal::NoSuchLead)?.clone(), context), &suppression))
        }
        Event::Told { feedback, sequence, suppression } => {
            let change = Change::of(lead.ok_or(Refusal::NoSuchLead)?.clone(), context);
            Ok(told(change, feedback, sequence, suppression.as_ref()))
        }
        Event::Step { enrolment, sequence, event } => {
            let lead = lead.ok_or(Refusal::NoSuchLead)?;
            let place = lead.enrolments.iter().position(|it| it.is(&enrolment)).ok_or(Refusal::Ended)?;
            let enrolment = &lead.enrolments[place];
            if lead.paused.is_some() && matches!(event, StepEvent::Begin { .. }) {
                return Err(Refusal::Paused);
            }
            let step = heed_evidence(decide_step(&enrolment.state, event, context)?, enrolment, sequence);
            Ok(Change::of(lead.clone(), context).apply(place, sequence, step))
        }
        Event::Operator { action, operator, request } => operator::operate(lead, action, operator, request, context),
    }
}

fn new_lead(arrival: &Arrival, lead_id: LeadId, now: Timestamp) -> Lead {
    Lead {
        lead_id,
        address: arrival.address.clone(),
        profile: Arc::new(arrival.profile.clone()),
        suppressed: None,
        told: Suppression::default(),
        soft_bounces: Vec::new(),
        paused: None,
        requests: Vec::new(),
        generation: 0,
        created_at: now,
        enrolments: Vec::new(),
        history: Vec::new(),
    }
}

fn arrive(
    mut change: Change<'_>,
    arrival: Arrival,
    id: ArrivalId,
    sequence: &Sequence,
    suppression: &Suppression,
    is_new: bool,
) -> Transition {
    let merged = !is_new && change.merge(arrival.profile);
    let here = |change: &Change<'_>, what| Entry {
        sequence: Some(sequence.name.clone()),
        version: Some(sequence.version),
        ..Entry::new(change.context.now, what)
    };
    if change.lead.enrolments.iter().any(|it| it.sequence.name == sequence.name && it.arrival.is(&id)) {
        // Delivered again: all that it had to do is on disk.
        return change.done();
    }
    let was_suppressed = change.lead.suppressed.is_some();
    change.reconcile(suppression);
    if let Some((_, mark)) = suppression.in_force(sequence.transactional) {
        let entry = Entry { reason: Some(mark.reason.clone()), ..here(&change, What::NotEnrolled) };
        change.log(entry);
        return change.done();
    }
    let is_lifted = was_suppressed && change.lead.suppressed.is_none();
    let earlier: Vec<_> =
        change.lead.enrolments.iter().filter(|enrolment| enrolment.sequence.name == sequence.name).collect();
    let under_way = earlier.iter().any(|enrolment| !enrolment.state.is_terminal());
    let newest = earlier.iter().map(|enrolment| enrolment.began).max();
    let begins = match (sequence.reentry, newest) {
        (_, None) | (Reentry::Restart, Some(_)) => true,
        (Reentry::Ignore, Some(_)) => false,
        (Reentry::After(pause), Some(began)) => !under_way && change.context.now >= began.plus(pause),
    };
    if !begins {
        if merged || is_lifted {
            let reason = is_lifted.then(|| "may be mailed again".to_owned());
            let entry = Entry { reason, ..here(&change, What::ArrivedAgain) };
            change.log(entry);
        }
        return change.done();
    }
    change.begin(sequence, id);
    change.done()
}

fn suppress(mut change: Change<'_>, suppression: &Suppression) -> Transition {
    if let Some(suppressed) = change.news_of(suppression) {
        let entry = Entry { reason: Some(suppressed.reason), ..Entry::new(change.context.now, What::Suppressed) };
        change.log(entry);
    }
    change.reconcile(suppression);
    change.done()
}

/// What is told once or often, in whatever order, comes to the same: of each email each kind counts once, and what is
/// known against the address is decided from all of it together.
fn told(
    mut change: Change<'_>,
    feedback: &Feedback,
    sequence: &Sequence,
    suppression: Option<&Suppression>,
) -> Transition {
    let email = change.lead.email_of(feedback).and_then(|email| {
        let place = email.place;
        Some((place, email.tried_step(&change.lead.enrolments[place], sequence)?))
    });
    let mut is_news = match &email {
        Some((place, step)) => change.see(*place, step, sequence, feedback),
        None => false,
    };
    if let Some(bounce) = change.lead.soft_bounce(feedback) {
        is_news |= SoftBounce::remember(&mut change.lead.soft_bounces, bounce);
    }
    if let Some(known) = feedback.suppression() {
        let before = change.lead.told.clone();
        change.lead.told.merge(&known);
        is_news |= change.lead.told != before;
    }
    // Repeated, and yet not what the document says: somebody changed the list meanwhile.
    let is_other = suppression.is_some_and(|suppression| change.lead.suppressed != strongest(suppression));
    if is_news || is_other {
        let mut entry = feedback.entry(change.context.now);
        if let Some((place, step)) = &email {
            let SequenceRef { name, version } = change.lead.enrolments[*place].sequence.clone();
            entry = Entry { sequence: Some(name), version: Some(version), step: Some(step.clone()), ..entry };
        }
        if !is_news && let Some(suppressed) = suppression.and_then(strongest) {
            let reason = Some(suppressed.reason);
            change.log(Entry { reason, ..Entry::new(change.context.now, What::Suppressed) });
        } else if feedback.kind.is_history() {
            change.log(entry);
        } else {
            change.journal.push(Arc::new(entry));
        }
    }
    if let Some((place, step)) = &email {
        change.settle_shown(*place, step, sequence);
    }
    if let Some(suppression) = suppression {
        change.reconcile(suppression);
    }
    change.done()
}

fn strongest(suppression: &Suppression) -> Option<Suppressed> {
    suppression.in_force(false).map(Suppressed::from)
}
