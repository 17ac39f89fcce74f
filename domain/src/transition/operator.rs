//! What an operator's hand makes of a lead. Every state answers every action here, too.
use super::change::Change;
use super::step::decide_step;
use super::{Transition, arrive, new_lead};
use crate::operator::REQUESTS_KEPT;
use crate::{
    ArrivalId, Context, Enrolment, EnrolmentId, Entry, Hold, Lead, Operator, OperatorAction, Refusal, RequestId,
    Sequence, SequenceRef, State, StepEvent, StopReason, Timestamp, What,
};

pub(super) fn operate(
    lead: Option<&Lead>,
    action: OperatorAction<'_>,
    operator: &Operator,
    request: &RequestId,
    context: &Context,
) -> Result<Transition, Refusal> {
    if let Some(lead) = lead.filter(|lead| lead.requests.contains(request)) {
        // Asked again: all that it had to do is on disk.
        return Ok(Change::of(lead.clone(), context).done());
    }
    let change = || {
        let lead = lead.ok_or(Refusal::NoSuchLead)?.clone();
        Ok(Change::of(lead, context).by(operator))
    };
    let decided = match action {
        OperatorAction::Pause => Ok(pause(change()?, operator)),
        OperatorAction::Resume => resume(change()?),
        OperatorAction::Move { to, step, at } => move_to(change()?, to, step, at),
        OperatorAction::Migrate { from, to } => migrate(change()?, from, to),
        OperatorAction::Restart { sequence, suppression } => {
            let mut change = change()?;
            if !change.lead.enrolments.iter().any(|enrolment| enrolment.sequence.name == sequence.name) {
                return Err(Refusal::NotInSequence);
            }
            change.reconcile(&suppression);
            if suppression.in_force(sequence.transactional).is_some() {
                return Err(Refusal::MustNotBeMailed);
            }
            change.begin(sequence, ArrivalId::by_request(request, context.now));
            Ok(change.done())
        }
        OperatorAction::Stop { sequence } => stop(change()?, sequence, operator),
        OperatorAction::Enroll { arrival, lead_id, sequence, suppression } => {
            if suppression.in_force(sequence.transactional).is_some() {
                return Err(Refusal::MustNotBeMailed);
            }
            let is_new = lead.is_none();
            let lead = lead.cloned().unwrap_or_else(|| new_lead(&arrival, lead_id, context.now));
            let change = Change::of(lead, context).by(operator);
            let id = ArrivalId::by_request(request, context.now);
            let decided = arrive(change, *arrival, id, sequence, &suppression, is_new);
            if decided.journal.iter().any(|entry| entry.event == What::Enrolled) {
                Ok(decided)
            } else {
                Err(Refusal::AlreadyEnrolled)
            }
        }
        OperatorAction::Resolve { sequence, sent } => {
            let change = change()?;
            let id = change.lead.in_doubt(&sequence.name).ok_or(Refusal::NoSuchAttempt)?.id();
            let place = change.place(&id)?;
            let state = &change.lead.enrolments[place].state;
            let step = decide_step(state, StepEvent::Settled { sent, reason: operator.reason().to_owned() }, context)?;
            Ok(change.apply(place, sequence, step))
        }
    };
    decided.map(|decided| remember(decided, request))
}

/// A request that changed something is known again.
fn remember(mut decided: Transition, request: &RequestId) -> Transition {
    if !decided.journal.is_empty() {
        decided.lead.requests.push(request.clone());
        let surplus = decided.lead.requests.len().saturating_sub(REQUESTS_KEPT);
        decided.lead.requests.drain(..surplus);
    }
    decided
}

/// The journal's line for the erasure of a lead: its document goes, and all that is in it.
///
/// # Errors
/// An email is under way: its answer has yet to be written down.
pub fn erase(lead: &Lead, operator: &Operator, context: &Context) -> Result<Entry, Refusal> {
    let is_under_way = |enrolment: &Enrolment| match enrolment.state.in_progress() {
        State::Sending { .. } => true,
        // Nobody waits for an answer.
        State::InDoubt { .. }
        | State::Waiting { .. }
        | State::Completed
        | State::Parked { .. }
        | State::Stopped { .. } => false,
    };
    if lead.enrolments.iter().any(is_under_way) {
        return Err(Refusal::AttemptOpen);
    }
    let (reason, by) = (Some(operator.reason().to_owned()), Some(operator.by().into()));
    Ok(Entry { reason, by, ..Entry::new(context.now, What::Erased) })
}

fn pause(mut change: Change<'_>, operator: &Operator) -> Transition {
    if change.lead.paused.is_none() {
        let now = change.context.now;
        change.lead.paused =
            Some(Hold { by: operator.by().to_owned(), reason: operator.reason().to_owned(), timestamp: now });
        change.log(Entry::new(now, What::Paused));
        // The timer that is set wakes nobody any more.
        change.lead.generation += 1;
    }
    change.done()
}

fn resume(mut change: Change<'_>) -> Result<Transition, Refusal> {
    let now = change.context.now;
    let was_paused = change.lead.paused.take().is_some();
    if was_paused {
        change.log(Entry::new(now, What::Resumed));
        change.lead.generation += 1;
    }
    let mut has_parked = false;
    for place in 0..change.lead.enrolments.len() {
        let Enrolment { state, sequence, .. } = &change.lead.enrolments[place];
        match state {
            State::Parked { attempts, .. } => {
                let resumed = State::Waiting { due: now, attempts: *attempts, failures: 0 };
                let SequenceRef { name, version } = sequence.clone();
                change.log(Entry { sequence: Some(name), version: Some(version), ..Entry::new(now, What::Resumed) });
                change.enter(place, resumed);
                has_parked = true;
            }
            State::Waiting { due, attempts, failures } if was_paused && *due < now => {
                let resumed = State::Waiting { due: now, attempts: *attempts, failures: *failures };
                change.enter(place, resumed);
            }
            State::Waiting { .. }
            | State::Sending { .. }
            | State::InDoubt { .. }
            | State::Completed
            | State::Stopped { .. } => {}
        }
    }
    if was_paused || has_parked { Ok(change.done()) } else { Err(Refusal::NotPaused) }
}

fn move_to(mut change: Change<'_>, to: &Sequence, step: &str, at: Option<Timestamp>) -> Result<Transition, Refusal> {
    let id = change.lead.newest_enrolment(&to.name).ok_or(Refusal::NotInSequence)?.id();
    let place = change.place(&id)?;
    match &change.lead.enrolments[place].state {
        State::Waiting { .. } | State::Parked { .. } => {}
        State::Sending { .. } | State::InDoubt { .. } => return Err(Refusal::AttemptOpen),
        State::Completed | State::Stopped { .. } => return Err(Refusal::Ended),
    }
    let (number, step) = to.steps.iter().enumerate().find(|(_, it)| it.id == step).ok_or(Refusal::NoSuchStep)?;
    let now = change.context.now;
    let due = at.map_or_else(|| now.plus(step.after), |at| at.max(now));
    change.go_on_at(place, to, number, State::Waiting { due, attempts: 0, failures: 0 });
    Ok(change.done())
}

fn migrate(mut change: Change<'_>, from: &Sequence, to: &Sequence) -> Result<Transition, Refusal> {
    let is_on =
        |enrolment: &Enrolment| enrolment.sequence.name == from.name && enrolment.sequence.version == from.version;
    let mut found = Err(Refusal::NotInSequence);
    for place in 0..change.lead.enrolments.len() {
        let enrolment = &change.lead.enrolments[place];
        if !is_on(enrolment) {
            continue;
        }
        let state = match &enrolment.state {
            // Another version has other send keys: a step that was tried is tried to its end under those it has.
            State::Waiting { attempts: 1.., .. } | State::Sending { .. } | State::InDoubt { .. } => {
                return Err(Refusal::AttemptOpen);
            }
            State::Waiting { due, .. } => State::Waiting { due: *due, attempts: 0, failures: 0 },
            State::Parked { reason, .. } => State::Parked { reason: reason.clone(), attempts: 0 },
            State::Completed | State::Stopped { .. } => continue,
        };
        let id = from.steps.get(enrolment.step).map(|step| step.id.as_str());
        let number = to.steps.iter().position(|step| Some(step.id.as_str()) == id).ok_or(Refusal::NoSuchStep)?;
        change.go_on_at(place, to, number, state);
        found = Ok(());
        // A lead has at most one enrolment under way in a sequence, and places have shifted.
        break;
    }
    found.map(|()| change.done())
}

fn stop(mut change: Change<'_>, sequence: Option<&str>, operator: &Operator) -> Result<Transition, Refusal> {
    let is_meant = |enrolment: &Enrolment| sequence.is_none_or(|name| enrolment.sequence.name == name);
    if !change.lead.enrolments.iter().any(is_meant) {
        return Err(Refusal::NotInSequence);
    }
    if !change.lead.enrolments.iter().any(|enrolment| is_meant(enrolment) && !enrolment.state.is_terminal()) {
        return Err(Refusal::Ended);
    }
    let reason = || StopReason::Operator(operator.reason().to_owned());
    change.stop(What::Stopped, |enrolment| is_meant(enrolment).then(reason));
    Ok(change.done())
}

impl Change<'_> {
    fn place(&self, id: &EnrolmentId) -> Result<usize, Refusal> {
        self.lead.enrolments.iter().position(|enrolment| enrolment.is(id)).ok_or(Refusal::NotInSequence)
    }

    /// Ends an enrolment that is not at work, and goes on with a new one at this step of this version: its send keys are
    /// its own, whatever was sent or tried before.
    fn go_on_at(&mut self, place: usize, to: &Sequence, step: usize, state: State) {
        let before = &self.lead.enrolments[place];
        let next = Enrolment {
            sequence: SequenceRef { name: to.name.clone(), version: to.version },
            number: self.next_number(&to.name),
            arrival: before.arrival.clone(),
            began: before.began,
            step,
            generation: 0,
            transactional: to.transactional,
            emails: Vec::new(),
            state,
        };
        let entry = Entry {
            sequence: Some(to.name.clone()),
            version: Some(to.version),
            step: to.steps.get(step).map(|step| step.id.clone()),
            until: next.state.next_action(),
            ..Entry::new(self.context.now, What::Moved)
        };
        self.log(entry);
        self.lead.enrolments[place].state = State::Stopped { reason: StopReason::Moved, before: None };
        self.push(next);
    }
}
