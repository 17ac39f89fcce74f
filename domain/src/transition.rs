//! The one place that decides: `(lead, event, context) → (lead, effects)`.
//!
//! Every state answers every event; there is no catch-all arm, so a new event does not compile until each state says
//! what it does with it. What a state cannot do is a typed [`Refusal`], and changes nothing.
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use smol_str::SmolStr;

use crate::enrolment::EMAILS_KEPT;
use crate::lead::hex;
use crate::{
    Arrival, ArrivalId, Attempt, DoubtEnd, DoubtPolicy, Enrolment, EnrolmentId, Entry, Feedback, FeedbackKind,
    HISTORY_LIMIT, Lead, LeadId, Operator, OperatorAction, Outcome, Profile, Reentry, RequestId, RetryPolicy,
    SentEmail, Sequence, SequenceRef, SoftBounce, State, StopReason, Suppressed, Suppression, Timestamp, What,
};

mod operator;

pub use operator::erase;

/// So many ended enrolments that a later one of the same sequence followed stay in a document, the newest; older ones
/// are in the journal.
const ENDED_LIMIT: usize = 20;

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

/// What an event makes of the step an enrolment is at.
enum Step {
    /// Write the intent of attempt `attempt`, then call.
    Send { attempt: u32, failures: u32, owner: SmolStr, provider: SmolStr, answer_within: Duration },
    /// The email is out: go to the next step.
    Sent { attempt: u32, message_id: Option<SmolStr>, provider: Option<SmolStr> },
    /// A doubt is settled, like this.
    Resolved { attempt: u32, how: String, then: Box<Step> },
    /// Nobody knows whether the email is out, and the step counts as sent.
    Skipped,
    /// Nobody knows yet.
    DoubtStays { attempt: Attempt, failures: u32, reason: String, next: Timestamp },
    /// Another try at `due`.
    Again { due: Timestamp, attempts: u32, failures: u32, what: What, reason: Option<String> },
    /// Nobody knows whether the email is out.
    Doubt { attempt: Attempt, failures: u32, reason: String, next: Option<Timestamp> },
    /// An operator must look.
    Park { reason: String },
}

// Arms that say the same stay apart: a table of state × event, where each line can change by itself.
#[allow(clippy::match_same_arms)]
fn decide_step(state: &State, event: StepEvent, context: &Context) -> Result<Step, Refusal> {
    match (state, event) {
        (State::Waiting { due, .. }, StepEvent::Begin { .. }) if context.now < *due => Err(Refusal::NotDue(*due)),
        (State::Waiting { attempts, failures, .. }, StepEvent::Begin { owner, provider, answer_within }) => {
            Ok(Step::Send { attempt: attempts + 1, failures: *failures, owner, provider, answer_within })
        }
        (
            State::Waiting { .. },
            StepEvent::Answered { .. }
            | StepEvent::AnswerLost
            | StepEvent::NotSent
            | StepEvent::Unresolved { .. }
            | StepEvent::Settled { .. },
        ) => Err(Refusal::NoSuchAttempt),
        (State::Waiting { .. }, StepEvent::Fail(reason)) => Ok(Step::Park { reason }),

        (State::Sending { .. } | State::InDoubt { .. }, StepEvent::Begin { .. }) => Err(Refusal::AttemptOpen),
        (State::Sending { attempt, failures }, StepEvent::Answered { send_key, attempt: answered, outcome }) => {
            if attempt.is(&send_key, answered) {
                Ok(settle(attempt, *failures, outcome, context))
            } else {
                Err(Refusal::NoSuchAttempt)
            }
        }
        (State::Sending { attempt, failures }, StepEvent::AnswerLost) => Ok(doubt(
            attempt,
            *failures,
            "the process that made the call ended before its answer was written".to_owned(),
            context,
        )),
        // Whoever asks has not waited for the answer.
        (State::Sending { .. }, StepEvent::NotSent | StepEvent::Unresolved { .. } | StepEvent::Settled { .. }) => {
            Err(Refusal::AttemptOpen)
        }
        // The call may be out: whatever failed since, that stays the most important thing to know.
        (State::Sending { attempt, failures }, StepEvent::Fail(reason)) => {
            Ok(doubt(attempt, *failures, reason, context))
        }

        (State::InDoubt { attempt, failures, .. }, StepEvent::Answered { send_key, attempt: answered, outcome }) => {
            if !attempt.is(&send_key, answered) {
                return Err(Refusal::NoSuchAttempt);
            }
            let how = format!("{} said what became of it: {}", attempt.provider, outcome.name());
            Ok(match settle(attempt, *failures, outcome, context) {
                // Still nobody knows.
                doubt @ Step::Doubt { .. } => doubt,
                then => Step::Resolved { attempt: attempt.number, how, then: Box::new(then) },
            })
        }
        (State::InDoubt { attempt, failures, .. }, StepEvent::NotSent) => Ok(Step::Resolved {
            attempt: attempt.number,
            how: format!("{} does not have it: it was not sent", attempt.provider),
            then: Box::new(again_at_once(attempt, *failures, context)),
        }),
        (State::InDoubt { attempt, failures, .. }, StepEvent::Unresolved { reason, ask_again }) => {
            Ok(unresolved(attempt, *failures, reason, ask_again, context))
        }
        (State::InDoubt { attempt, failures, .. }, StepEvent::Settled { sent, reason }) => {
            Ok(settled_by_hand(attempt, *failures, sent, &reason, context))
        }
        (State::InDoubt { .. }, StepEvent::AnswerLost) => Err(Refusal::AttemptOpen),
        (State::InDoubt { attempt, failures, .. }, StepEvent::Fail(reason)) => {
            Ok(Step::Doubt { attempt: attempt.clone(), failures: *failures, reason, next: None })
        }

        // It has ended, and its open attempt is settled all the same.
        (
            State::Stopped { before: Some(before), .. },
            answered @ (StepEvent::Answered { .. } | StepEvent::Settled { .. }),
        ) if before.open_attempt().is_some() => decide_step(before, answered, context),
        (
            State::Completed | State::Parked { .. } | State::Stopped { .. },
            StepEvent::Begin { .. }
            | StepEvent::Answered { .. }
            | StepEvent::AnswerLost
            | StepEvent::NotSent
            | StepEvent::Unresolved { .. }
            | StepEvent::Settled { .. }
            | StepEvent::Fail(_),
        ) => Err(Refusal::Ended),
    }
}

/// What a provider told of an email shows that it went out, whatever became of the answer to the call: it is neither
/// doubted nor sent again.
fn heed_evidence(step: Step, enrolment: &Enrolment, sequence: &Sequence) -> Step {
    let (attempt, provider) = match &step {
        Step::Send { attempt, .. } if *attempt > 1 => (attempt - 1, None),
        Step::Doubt { attempt, .. } => (attempt.number, Some(attempt.provider.clone())),
        Step::Send { .. }
        | Step::Sent { .. }
        | Step::Resolved { .. }
        | Step::Skipped
        | Step::DoubtStays { .. }
        | Step::Again { .. }
        | Step::Park { .. } => return step,
    };
    let id = sequence.steps.get(enrolment.step).map(|step| step.id.as_str());
    match enrolment.emails.iter().find(|email| Some(&*email.step) == id) {
        Some(email) => shown_sent(attempt, provider, email),
        None => step,
    }
}

fn shown_sent(attempt: u32, provider: Option<SmolStr>, email: &SentEmail) -> Step {
    let then = Step::Sent { attempt, message_id: email.message_id.clone(), provider };
    Step::Resolved { attempt, how: "what was told of it shows that it went out".to_owned(), then: Box::new(then) }
}

/// The answer to an attempt was lost: find out at once.
fn doubt(attempt: &Attempt, failures: u32, reason: String, context: &Context) -> Step {
    Step::Doubt { attempt: attempt.clone(), failures, reason, next: Some(context.now) }
}

fn again_at_once(attempt: &Attempt, failures: u32, context: &Context) -> Step {
    let (due, attempts) = (context.now, attempt.number);
    Step::Again { due, attempts, failures, what: What::Retrying, reason: None }
}

/// What an attempt in doubt comes to of which an operator knows.
fn settled_by_hand(attempt: &Attempt, failures: u32, sent: bool, reason: &str, context: &Context) -> Step {
    let (how, then) = if sent {
        let provider = Some(attempt.provider.clone());
        ("an operator says that it was sent", Step::Sent { attempt: attempt.number, message_id: None, provider })
    } else {
        ("an operator says that it was not sent", again_at_once(attempt, failures, context))
    };
    Step::Resolved { attempt: attempt.number, how: format!("{how}: {reason}"), then: Box::new(then) }
}

/// What an attempt in doubt comes to that was asked for in vain.
fn unresolved(attempt: &Attempt, failures: u32, reason: String, ask_again: bool, context: &Context) -> Step {
    let policy = &context.doubt;
    if context.now < policy.deadline(attempt) {
        let next = if ask_again {
            policy.next_question(attempt, context.now, context.random)
        } else {
            policy.deadline(attempt)
        };
        return Step::DoubtStays { attempt: attempt.clone(), failures, reason, next };
    }
    let then = match policy.then {
        DoubtEnd::Resend => again_at_once(attempt, failures, context),
        DoubtEnd::Skip => Step::Skipped,
        DoubtEnd::Hold => Step::Doubt { attempt: attempt.clone(), failures, reason: reason.clone(), next: None },
    };
    let end = match policy.then {
        DoubtEnd::Resend => "sent again",
        DoubtEnd::Skip => "skipped",
        DoubtEnd::Hold => "held for an operator",
    };
    let how = format!("nobody knows what became of it ({reason}): {end}, as configured");
    Step::Resolved { attempt: attempt.number, how, then: Box::new(then) }
}

/// What an answer makes of the attempt it belongs to.
fn settle(attempt: &Attempt, failures: u32, outcome: Outcome, context: &Context) -> Step {
    let attempts = attempt.number;
    let again = |due, failures, what, reason| Step::Again { due, attempts, failures, what, reason };
    match outcome {
        Outcome::Accepted { message_id } => {
            Step::Sent { attempt: attempts, message_id: Some(message_id), provider: Some(attempt.provider.clone()) }
        }
        Outcome::RateLimited { until } => {
            // Jitter, so that all who met the limit together do not come back together.
            let jitter = context.retry.delay(1, context.random);
            let due = until.unwrap_or(context.now).max(context.now).plus(jitter);
            again(due, failures, What::RateLimited, None)
        }
        Outcome::Transient { reason } => {
            let failures = failures + 1;
            if context.retry.exhausted(failures) {
                return Step::Park { reason: format!("gave up after {failures} failures; the last: {reason}") };
            }
            let due = context.now.plus(context.retry.delay(failures, context.random));
            again(due, failures, What::Retrying, Some(reason))
        }
        Outcome::Refused { reason } => Step::Park { reason: format!("the provider refused it: {reason}") },
        // Nothing is wrong with this lead: it waits as long as it takes.
        Outcome::Misconfigured { reason } => {
            let due = context.now.plus(context.retry.delay(failures + 1, context.random));
            again(due, failures, What::Misconfigured, Some(reason))
        }
        Outcome::Unknown { reason } => doubt(attempt, failures, reason, context),
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

/// A lead on its way to its next state.
struct Change<'a> {
    lead: Lead,
    context: &'a Context,
    generation_before: u64,
    /// By whom each entry is, where an operator is at work.
    operator: Option<&'a Operator>,
    journal: Vec<Arc<Entry>>,
    effects: Vec<Effect>,
}

impl<'a> Change<'a> {
    fn of(lead: Lead, context: &'a Context) -> Self {
        Self {
            generation_before: lead.generation,
            operator: None,
            lead,
            context,
            journal: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Begins at the first step; what is under way in the sequence ends.
    fn begin(&mut self, sequence: &Sequence, arrival: ArrivalId) {
        let same = |enrolment: &Enrolment| enrolment.sequence.name == sequence.name;
        self.stop(What::Restarted, |enrolment| same(enrolment).then_some(StopReason::Restarted));
        let (name, version) = (sequence.name.clone(), sequence.version);
        let (began, delay) = (self.context.now, sequence.steps.first().map_or(Duration::ZERO, |step| step.after));
        let entry = Entry::new(began, What::Enrolled);
        self.log(Entry { sequence: Some(name.clone()), version: Some(version), ..entry });
        let state = State::Waiting { due: began.plus(delay), attempts: 0, failures: 0 };
        let enrolment = Enrolment {
            sequence: SequenceRef { name, version },
            number: self.next_number(&sequence.name),
            arrival,
            began,
            step: 0,
            generation: 0,
            transactional: sequence.transactional,
            emails: Vec::new(),
            state,
        };
        self.push(enrolment);
    }

    fn next_number(&self, sequence: &str) -> u32 {
        let same = self.lead.enrolments.iter().filter(|enrolment| enrolment.sequence.name == sequence);
        same.map(|enrolment| enrolment.number).max().unwrap_or(0) + 1
    }

    fn push(&mut self, enrolment: Enrolment) {
        self.lead.enrolments.push(enrolment);
        self.rescheduled(self.lead.enrolments.len() - 1);
        self.forget_oldest_ended();
    }

    fn apply(mut self, place: usize, sequence: &Sequence, step: Step) -> Transition {
        self.take(place, sequence, step);
        self.done()
    }

    /// Remembers what was told of an email; whether it was the first of its kind.
    fn see(&mut self, place: usize, step: &str, sequence: &Sequence, feedback: &Feedback) -> bool {
        let enrolment = &mut self.lead.enrolments[place];
        if feedback.kind == FeedbackKind::Accepted && !enrolment.is_at(step, sequence) {
            // Known from the answer.
            return false;
        }
        let what = feedback.kind.what();
        let known = enrolment.emails.iter().position(|email| email.step == step).unwrap_or_else(|| {
            let surplus = (enrolment.emails.len() + 1).saturating_sub(EMAILS_KEPT);
            enrolment.emails.drain(..surplus);
            enrolment.emails.push(SentEmail { step: step.into(), message_id: None, seen: Vec::new() });
            enrolment.emails.len() - 1
        });
        let email = &mut enrolment.emails[known];
        match email.seen.binary_search(&what) {
            Ok(_) => false,
            Err(place) => {
                email.seen.insert(place, what);
                if email.message_id.is_none() {
                    email.message_id.clone_from(&feedback.message_id);
                }
                true
            }
        }
    }

    /// Settles the attempt at this step if its answer is lost: what was told shows that the provider took the email. While
    /// the process that made the call may still be at it, its answer decides.
    fn settle_shown(&mut self, place: usize, step: &str, sequence: &Sequence) {
        let enrolment = &self.lead.enrolments[place];
        let open = match &enrolment.state {
            State::Stopped { before: Some(before), .. } => before,
            state => state,
        };
        let attempt = match open {
            State::InDoubt { attempt, .. } => attempt,
            State::Sending { attempt, .. } if attempt.lost_at <= self.context.now => attempt,
            State::Sending { .. }
            | State::Waiting { .. }
            | State::Completed
            | State::Parked { .. }
            | State::Stopped { .. } => return,
        };
        if attempt.send_key != send_key(&self.lead.lead_id, enrolment, step) {
            return;
        }
        if let Some(email) = enrolment.emails.iter().find(|email| email.step == step) {
            let shown = shown_sent(attempt.number, Some(attempt.provider.clone()), email);
            self.take(place, sequence, shown);
        }
    }

    fn take(&mut self, place: usize, sequence: &Sequence, step: Step) {
        let enrolment = &self.lead.enrolments[place];
        let step_id = sequence.steps.get(enrolment.step).map(|step| step.id.clone()).unwrap_or_default();
        let here = |what, attempt| Entry {
            sequence: Some(enrolment.sequence.name.clone()),
            version: Some(enrolment.sequence.version),
            step: Some(step_id.clone()),
            attempt,
            ..Entry::new(self.context.now, what)
        };
        match step {
            Step::Send { attempt, failures, owner, provider, answer_within } => {
                let entry = here(What::Sending, Some(attempt));
                let attempt = Attempt {
                    send_key: send_key(&self.lead.lead_id, enrolment, &step_id),
                    number: attempt,
                    started_at: self.context.now,
                    lost_at: self.context.now.plus(answer_within),
                    owner,
                    provider,
                    profile: None,
                };
                self.effects.push(Effect::Send(attempt.clone()));
                self.journal.push(Arc::new(entry));
                // The timer that brought us here is still ours to answer for: no new one, no new generation.
                self.lead.enrolments[place].state = State::Sending { attempt, failures };
            }
            Step::Sent { attempt, message_id, provider } => {
                let entry = Entry { message_id, provider, ..here(What::Sent, Some(attempt)) };
                self.log(entry);
                self.go_on(place, sequence);
            }
            Step::Skipped => self.go_on(place, sequence),
            Step::Resolved { attempt, how, then } => {
                let entry = Entry { reason: Some(how), ..here(What::Resolved, Some(attempt)) };
                self.log(entry);
                self.take(place, sequence, *then);
            }
            Step::DoubtStays { attempt, failures, reason, next } => {
                let entry = here(What::Asked, Some(attempt.number));
                self.journal.push(Arc::new(Entry { reason: Some(reason.clone()), until: Some(next), ..entry }));
                self.enter(place, State::InDoubt { attempt, failures, reason, next: Some(next) });
            }
            Step::Again { due, attempts, failures, what, reason } => {
                let entry = Entry { reason, until: Some(due), ..here(what, Some(attempts)) };
                self.log_try(place, entry);
                self.enter(place, State::Waiting { due, attempts, failures });
            }
            Step::Doubt { attempt, failures, reason, next } => {
                let entry = Entry { reason: Some(reason.clone()), ..here(What::InDoubt, Some(attempt.number)) };
                self.log_try(place, entry);
                self.enter(place, State::InDoubt { attempt, failures, reason, next });
            }
            Step::Park { reason } => {
                let entry = Entry { reason: Some(reason.clone()), ..here(What::Parked, None) };
                let attempts = enrolment.state.attempts();
                self.log_try(place, entry);
                self.enter(place, State::Parked { reason, attempts });
            }
        }
    }

    /// To the step after this one, or to the end.
    fn go_on(&mut self, place: usize, sequence: &Sequence) {
        let next = self.lead.enrolments[place].step + 1;
        self.lead.enrolments[place].step = next;
        // Counted from now, the actual sending: an outage never makes two emails arrive together.
        if let Some(step) = sequence.steps.get(next) {
            let due = self.context.now.plus(step.after);
            self.enter(place, State::Waiting { due, attempts: 0, failures: 0 });
        } else {
            let SequenceRef { name, version } = self.lead.enrolments[place].sequence.clone();
            let entry =
                Entry { sequence: Some(name), version: Some(version), ..Entry::new(self.context.now, What::Completed) };
            self.log(entry);
            self.enter(place, State::Completed);
        }
    }

    /// Logs a try that came to nothing. Of an enrolment that has ended the journal alone is told.
    fn log_try(&mut self, place: usize, entry: Entry) {
        if !self.lead.enrolments[place].state.is_terminal() {
            return self.log(entry);
        }
        let reason = Some("ended meanwhile: no further try".to_owned());
        let entry = Entry { event: What::Retrying, attempt: None, reason, until: None, ..entry };
        let entry = self.signed(entry);
        self.journal.push(Arc::new(entry));
    }

    /// Says by whom it is, where an operator is at work.
    fn signed(&self, mut entry: Entry) -> Entry {
        if let Some(operator) = self.operator {
            entry.by = Some(operator.by().into());
            entry.reason.get_or_insert_with(|| operator.reason().to_owned());
        }
        entry
    }

    fn log(&mut self, entry: Entry) {
        let entry = self.signed(entry);
        let entry = Arc::new(entry);
        self.journal.push(Arc::clone(&entry));
        self.lead.history.push(entry);
        let surplus = self.lead.history.len().saturating_sub(HISTORY_LIMIT);
        self.lead.history.drain(..surplus);
    }

    /// Takes over what a later arrival told. An open attempt keeps the profile its email was rendered with: should the
    /// call be made again, it must be the very same.
    fn merge(&mut self, newer: Profile) -> bool {
        let before = Arc::clone(&self.lead.profile);
        let changed = Arc::make_mut(&mut self.lead.profile).merge(newer);
        if changed {
            for enrolment in &mut self.lead.enrolments {
                if let State::Sending { attempt, .. } | State::InDoubt { attempt, .. } = &mut enrolment.state {
                    attempt.profile.get_or_insert_with(|| Arc::clone(&before));
                }
            }
        }
        changed
    }

    /// What must not be mailed for another reason than the document says; none where it says so already.
    fn news_of(&self, suppression: &Suppression) -> Option<Suppressed> {
        strongest(suppression).filter(|suppressed| self.lead.suppressed.as_ref() != Some(suppressed))
    }

    /// Makes the lead what is known against its address: ends what must not go on, and lets go on what only an
    /// unsubscribe ended that was taken back.
    fn reconcile(&mut self, suppression: &Suppression) {
        self.lead.suppressed = strongest(suppression);
        let stops = |enrolment: &Enrolment| {
            let suppressed = suppression.in_force(enrolment.transactional).map(Suppressed::from);
            suppressed.map(StopReason::Suppressed)
        };
        self.stop(What::Suppressed, stops);
        for place in 0..self.lead.enrolments.len() {
            let stronger = stops(&self.lead.enrolments[place]);
            let is_superseded = self.is_superseded(place);
            let State::Stopped { reason: reason @ StopReason::Suppressed(_), before } =
                &mut self.lead.enrolments[place].state
            else {
                continue;
            };
            if let Some(stronger) = stronger {
                *reason = stronger;
            } else if suppression.is_lifted() && !is_superseded && reason.is_unsubscribe() {
                let before = before.take();
                self.resume(place, before);
            }
        }
    }

    /// Lets an enrolment that an unsubscribe ended go on where it was.
    fn resume(&mut self, place: usize, before: Option<Box<State>>) {
        let state = match before.map(|before| *before) {
            Some(State::Waiting { due, attempts, failures }) => {
                State::Waiting { due: due.max(self.context.now), attempts, failures }
            }
            Some(
                state @ (State::Sending { .. }
                | State::InDoubt { .. }
                | State::Completed
                | State::Parked { .. }
                | State::Stopped { .. }),
            ) => state,
            None => return,
        };
        let SequenceRef { name, version } = self.lead.enrolments[place].sequence.clone();
        let reason = Some("wants more again".to_owned());
        let entry = Entry::new(self.context.now, What::Resumed);
        self.log(Entry { sequence: Some(name), version: Some(version), reason, ..entry });
        self.lead.enrolments[place].state = state;
        self.rescheduled(place);
    }

    /// Stops every enrolment that is not at its end and for which there is a reason.
    fn stop(&mut self, what: What, reason: impl Fn(&Enrolment) -> Option<StopReason>) {
        for place in 0..self.lead.enrolments.len() {
            let enrolment = &self.lead.enrolments[place];
            let Some(reason) = reason(enrolment) else { continue };
            if enrolment.state.is_terminal() {
                continue;
            }
            let entry = Entry {
                sequence: Some(enrolment.sequence.name.clone()),
                version: Some(enrolment.sequence.version),
                reason: match &reason {
                    StopReason::Suppressed(suppressed) => Some(suppressed.reason.clone()),
                    StopReason::Restarted | StopReason::Moved => None,
                    StopReason::Operator(reason) => Some(reason.clone()),
                },
                ..Entry::new(self.context.now, what)
            };
            let before = reason.keep(enrolment.state.clone());
            self.log(entry);
            self.enter(place, State::Stopped { reason, before });
        }
    }

    /// Puts an enrolment into a state; one that has ended stays so, and remembers what it would be doing.
    fn enter(&mut self, place: usize, state: State) {
        if let State::Stopped { reason, before } = &mut self.lead.enrolments[place].state {
            *before = reason.keep(state);
            return;
        }
        self.lead.enrolments[place].state = state;
        self.rescheduled(place);
    }

    fn rescheduled(&mut self, place: usize) {
        self.lead.generation += 1;
        self.lead.enrolments[place].generation = self.lead.generation;
    }

    /// Forgets the oldest ended enrolments, but never the newest of a sequence: by it a second arrival is known.
    fn forget_oldest_ended(&mut self) {
        let forgettable: Vec<_> = (0..self.lead.enrolments.len())
            .filter(|&place| self.lead.enrolments[place].state.is_terminal() && self.is_superseded(place))
            .collect();
        let surplus = forgettable.len().saturating_sub(ENDED_LIMIT);
        for &place in forgettable[..surplus].iter().rev() {
            self.lead.enrolments.remove(place);
        }
    }

    /// Whether a later enrolment of the same sequence followed.
    fn is_superseded(&self, place: usize) -> bool {
        let name = &self.lead.enrolments[place].sequence.name;
        self.lead.enrolments[place + 1..].iter().any(|later| later.sequence.name == *name)
    }

    fn done(mut self) -> Transition {
        if self.lead.generation != self.generation_before
            && let Some(at) = self.lead.next_action()
        {
            self.effects.push(Effect::SetTimer { at, generation: self.lead.generation });
        }
        Transition { lead: self.lead, journal: self.journal, effects: self.effects }
    }
}
