//! What an event makes of the step that an enrolment is at: a table of state × event.
use std::time::Duration;

use smol_str::SmolStr;

use super::{Context, Refusal, StepEvent};
use crate::{Attempt, DoubtEnd, Enrolment, Outcome, SentEmail, Sequence, State, Timestamp, What};

/// What an event makes of the step an enrolment is at.
pub(super) enum Step {
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
pub(super) fn decide_step(state: &State, event: StepEvent, context: &Context) -> Result<Step, Refusal> {
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
pub(super) fn heed_evidence(step: Step, enrolment: &Enrolment, sequence: &Sequence) -> Step {
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

pub(super) fn shown_sent(attempt: u32, provider: Option<SmolStr>, email: &SentEmail) -> Step {
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
