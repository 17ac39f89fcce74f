//! A lead on its way to its next state: what each decision does to its document, its journal and its timer.
use std::sync::Arc;
use std::time::Duration;

use super::step::{Step, shown_sent};
use super::{Context, Effect, Transition, send_key, strongest};
use crate::enrolment::EMAILS_KEPT;
use crate::{
    ArrivalId, Attempt, Enrolment, Entry, Feedback, FeedbackKind, HISTORY_LIMIT, Lead, Operator, Profile, SentEmail,
    Sequence, SequenceRef, State, StopReason, Suppressed, Suppression, What,
};

/// So many ended enrolments that a later one of the same sequence followed stay in a document, the newest; older ones
/// are in the journal.
const ENDED_LIMIT: usize = 20;

/// A lead on its way to its next state.
pub(super) struct Change<'a> {
    pub(super) lead: Lead,
    pub(super) context: &'a Context,
    generation_before: u64,
    /// By whom each entry is, where an operator is at work.
    operator: Option<&'a Operator>,
    pub(super) journal: Vec<Arc<Entry>>,
    effects: Vec<Effect>,
}

impl<'a> Change<'a> {
    pub(super) fn of(lead: Lead, context: &'a Context) -> Self {
        Self {
            generation_before: lead.generation,
            operator: None,
            lead,
            context,
            journal: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// What follows is this operator's doing.
    pub(super) fn by(self, operator: &'a Operator) -> Self {
        Self { operator: Some(operator), ..self }
    }

    /// Begins at the first step; what is under way in the sequence ends.
    pub(super) fn begin(&mut self, sequence: &Sequence, arrival: ArrivalId) {
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

    pub(super) fn next_number(&self, sequence: &str) -> u32 {
        let same = self.lead.enrolments.iter().filter(|enrolment| enrolment.sequence.name == sequence);
        same.map(|enrolment| enrolment.number).max().unwrap_or(0) + 1
    }

    pub(super) fn push(&mut self, enrolment: Enrolment) {
        self.lead.enrolments.push(enrolment);
        self.rescheduled(self.lead.enrolments.len() - 1);
        self.forget_oldest_ended();
    }

    pub(super) fn apply(mut self, place: usize, sequence: &Sequence, step: Step) -> Transition {
        self.take(place, sequence, step);
        self.done()
    }

    /// Remembers what was told of an email; whether it was the first of its kind.
    pub(super) fn see(&mut self, place: usize, step: &str, sequence: &Sequence, feedback: &Feedback) -> bool {
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
    pub(super) fn settle_shown(&mut self, place: usize, step: &str, sequence: &Sequence) {
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

    pub(super) fn take(&mut self, place: usize, sequence: &Sequence, step: Step) {
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

    pub(super) fn log(&mut self, entry: Entry) {
        let entry = self.signed(entry);
        let entry = Arc::new(entry);
        self.journal.push(Arc::clone(&entry));
        self.lead.history.push(entry);
        let surplus = self.lead.history.len().saturating_sub(HISTORY_LIMIT);
        self.lead.history.drain(..surplus);
    }

    /// Takes over what a later arrival told. An open attempt keeps the profile its email was rendered with: should the
    /// call be made again, it must be the very same.
    pub(super) fn merge(&mut self, newer: Profile) -> bool {
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
    pub(super) fn news_of(&self, suppression: &Suppression) -> Option<Suppressed> {
        strongest(suppression).filter(|suppressed| self.lead.suppressed.as_ref() != Some(suppressed))
    }

    /// Makes the lead what is known against its address: ends what must not go on, and lets go on what only an
    /// unsubscribe ended that was taken back.
    pub(super) fn reconcile(&mut self, suppression: &Suppression) {
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
    pub(super) fn stop(&mut self, what: What, reason: impl Fn(&Enrolment) -> Option<StopReason>) {
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
    pub(super) fn enter(&mut self, place: usize, state: State) {
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

    pub(super) fn done(mut self) -> Transition {
        if self.lead.generation != self.generation_before
            && let Some(at) = self.lead.next_action()
        {
            self.effects.push(Effect::SetTimer { at, generation: self.lead.generation });
        }
        Transition { lead: self.lead, journal: self.journal, effects: self.effects }
    }
}
