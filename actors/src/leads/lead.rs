//! A lead: holds its own document while it is at work, and carries out what the domain decides. Once it is idle and its
//! place is needed, its actor may go on as another lead.
//!
//! One message is one pipeline, read from top to bottom: load, decide, commit, act, settle. The lines of
//! [`LeadState::step`] are the numbered lines of the protocol in ARCHITECTURE.md.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dripline_domain::{
    Address, Arrival, ArrivalId, Attempt, Context, Effect, Email, Enrolment, EnrolmentId, Entry, Event, Feedback, Lead,
    LeadId, LeadKey, Outcome, Refusal, Sequence, SequenceRef, StepEvent, Suppression, Timestamp, Transition, send_key,
    transition,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::Serialize;
use tokio::sync::oneshot;
use tracing::field::Empty;
use tracing::{Instrument, trace_span};

use super::Services;
use super::kept::Stored;
use crate::Chain;
use crate::committer::CommitError;
use crate::control::{ControlError, Obeyed, Order};
use crate::crash_point::crash_point;
use crate::ports::{Delivery, JournalLines, Put, Rejection, Settle, StoreError, TimerError};
use crate::provider::NoPlace;
use crate::slot::NotRunning;
use crate::timer::Timer;
use crate::trace;

mod document;
mod doubt;
mod due_action;
mod leave;
mod orders;

use document::Document;
use due_action::DueAction;

/// When something the process needs is away, its message comes again so much later.
const AWAY: Duration = Duration::from_secs(2);

/// A timer that fires early by no more than this is waited out; another is delivered again. Shorter than any `ack_wait`.
const WAIT_OUT: Duration = Duration::from_millis(500);

/// A lead whose sequence is paused looks again after half of the pause so far, within these.
const LOOK_FIRST: Duration = Duration::from_secs(10);
const LOOK_LAST: Duration = Duration::from_mins(10);

/// So often the record of an answer is tried, a second apart, before it is given up as in doubt.
const RECORD_TRIES: u32 = 60;

/// What a lead is told.
pub(crate) enum Message {
    /// By a queue's message, which is settled afterwards.
    Work(Work, Delivery),
    /// By an operator, who waits for the answer.
    Order(Box<Ordered>),
    /// That it is this lead from now on, with its document as it was when it was let go.
    Become(LeadKey, Option<Stored>),
}

/// An order, and who waits for what comes of it.
pub(crate) struct Ordered {
    pub(crate) order: Order,
    pub(crate) lead_id: LeadId,
    pub(crate) reply: oneshot::Sender<Result<Obeyed, ControlError>>,
}

/// The kinds of work.
pub(crate) enum Work {
    /// A source handed the lead in.
    Arrive(Box<Arriving>),
    /// A timer fired: with the generation it was set with, and whether what came of it may not be known.
    Wake { generation: u64, again: bool },
    /// A provider, or the person, told us something.
    Told(Box<Telling>),
    /// This lead failed too often: park it, with the reason.
    Park(String),
}

impl Work {
    /// Its name in a trace.
    fn name(&self) -> &'static str {
        match self {
            Self::Arrive(_) => "lead arrived",
            Self::Wake { .. } => "lead woken",
            Self::Told(_) => "lead told",
            Self::Park(_) => "lead parked",
        }
    }
}

/// A lead that a source handed in.
pub(crate) struct Arriving {
    pub(crate) arrival: Arrival,
    pub(crate) lead_id: LeadId,
    pub(crate) sequence: Arc<Sequence>,
}

/// What was told. What it says against the address, or for it, is in the bucket `suppressions` already.
pub(crate) struct Telling {
    pub(crate) feedback: Feedback,
    /// For the journal, where there is no such lead.
    pub(crate) lead_id: LeadId,
}

pub(crate) struct LeadActor;

pub(crate) struct LeadArguments {
    pub(crate) key: LeadKey,
    pub(crate) services: Arc<Services>,
    /// Its document as it was when it was let go.
    pub(crate) stored: Option<Stored>,
}

pub(crate) struct LeadState {
    key: LeadKey,
    services: Arc<Services>,
    document: Document,
}

/// What came of a decision.
enum Decided {
    /// There was nothing to write.
    Nothing,
    /// It is on disk, and its timer is set.
    Written,
    /// It is on disk, and this call is to be made.
    Send(Attempt),
    /// Another process wrote first: nothing of it is on disk.
    Overtaken,
}

/// What stops a pipeline before its end.
#[derive(Debug, thiserror::Error)]
enum Interruption {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Timer(#[from] TimerError),
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
    #[error("not before {0}")]
    Later(Timestamp),
}

impl From<NoPlace> for Interruption {
    fn from(error: NoPlace) -> Self {
        match error {
            NoPlace::Stopped(until) => Self::Later(until),
            NoPlace::NotRunning(error) => Self::NotRunning(error),
        }
    }
}

impl Actor for LeadActor {
    type Msg = Message;
    type State = LeadState;
    type Arguments = LeadArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        LeadArguments { key, services, stored }: LeadArguments,
    ) -> Result<LeadState, ActorProcessingErr> {
        Ok(LeadState::new(key, services, stored))
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut LeadState,
    ) -> Result<(), ActorProcessingErr> {
        // Boxed: an actor without a message needs no room for what it takes, and there are many more such actors.
        match message {
            Message::Work(work, delivery) => Box::pin(state.work(work, delivery)).await,
            Message::Order(ordered) => Box::pin(state.obey(*ordered)).await,
            Message::Become(key, stored) => {
                *state = LeadState::new(key, Arc::clone(&state.services), stored);
                return Ok(());
            }
        }
        state.services.finished(&state.key, state.document.stored());
        Ok(())
    }
}

impl LeadState {
    fn new(key: LeadKey, services: Arc<Services>, stored: Option<Stored>) -> Self {
        Self { key, services, document: stored.map_or(Document::Unread, Document::Stored) }
    }

    async fn work(&mut self, work: Work, delivery: Delivery) {
        crash_point("taken");
        let span = trace_span!(
            target: trace::TARGET, "lead", otel.name = work.name(), otel.kind = "consumer", lead_id = Empty,
            deliveries = delivery.deliveries
        );
        trace::continue_from(&span, delivery.trace.as_deref());
        let done = async {
            match work {
                Work::Arrive(arriving) => self.arrive(*arriving, &delivery).await,
                Work::Wake { generation, again } => self.wake(generation, again).await,
                Work::Told(telling) => self.told(telling, &delivery).await,
                Work::Park(reason) => self.park(reason, &delivery).await,
            }
        };
        let done = done.instrument(span.clone()).await;
        span.record("lead_id", self.lead_id());
        self.settle(done, delivery).await;
    }

    async fn settle(&mut self, done: Result<Settle, Interruption>, delivery: Delivery) {
        let settle = match done {
            Ok(settle) => settle,
            Err(Interruption::Later(time)) => Settle::Retry(time.since(self.now())),
            Err(Interruption::Store(StoreError::Unreadable(error))) => {
                let reason = format!("the lead's document cannot be read: {error}");
                self.services.reject(Rejection::of("unreadable_document", reason, &delivery)).await
            }
            Err(Interruption::Commit(CommitError::Conflict)) => {
                self.document = Document::Unread;
                Settle::Retry(Duration::ZERO)
            }
            Err(
                error @ (Interruption::Store(StoreError::Unavailable(_))
                | Interruption::Commit(_)
                | Interruption::Timer(_)
                | Interruption::NotRunning(_)),
            ) => {
                tracing::warn!(lead_id = self.lead_id(), error = %Chain(&error), "interrupted; it will be delivered again");
                self.document = Document::Unread;
                Settle::Retry(AWAY)
            }
        };
        delivery.settle(settle);
        crash_point("settled");
    }

    /// A source handed this lead in.
    async fn arrive(&mut self, arriving: Arriving, delivery: &Delivery) -> Result<Settle, Interruption> {
        let Arriving { arrival, lead_id, sequence } = arriving;
        let id = ArrivalId::new(delivery.sequence, delivery.published, delivery.message_id.as_deref());
        self.meet(delivery).await?;
        let decided = loop {
            let suppression = self.suppression_at_arrival(&arrival.address, &lead_id).await?;
            let arrived = || Event::Arrived {
                arrival: arrival.clone(),
                id: id.clone(),
                lead_id: lead_id.clone(),
                sequence: &sequence,
                suppression: suppression.clone(),
            };
            match self.decide_once(arrived).await? {
                Decided::Overtaken => self.services.newcomers.saw(false),
                decided @ (Decided::Nothing | Decided::Written | Decided::Send(_)) => break decided,
            }
        };
        // Delivered again: the crash may have come between the document and its timer.
        if matches!(decided, Decided::Nothing) && delivery.deliveries > 1 {
            self.set_timer_again().await?;
        }
        Ok(Settle::Ack)
    }

    /// Looks whether this lead is known; not where that would be in vain, as it is surely new.
    async fn meet(&mut self, delivery: &Delivery) -> Result<(), StoreError> {
        if !matches!(self.document, Document::Unread) {
            return Ok(());
        }
        if delivery.deliveries == 1 && self.services.newcomers.are_the_rule() {
            self.document = Document::presumed_none();
            return Ok(());
        }
        let is_new = self.lead().await?.is_none();
        self.services.newcomers.saw(is_new);
        Ok(())
    }

    /// Asked once the document is there: who changes the list writes that down there, too, and so overtakes us.
    async fn suppression_at_arrival(
        &mut self,
        address: &Address,
        lead_id: &LeadId,
    ) -> Result<Suppression, Interruption> {
        let services = Arc::clone(&self.services);
        let is_suppressed = self.lead().await?.is_some_and(|lead| lead.suppressed.is_some());
        let known = services.suppressions.get(&self.key, lead_id).await?;
        // Lifted, or not seen here yet: only the bucket itself can say.
        Ok(if is_suppressed && known.is_empty() { services.suppressions.read(address).await? } else { known })
    }

    /// A provider, or the person, told us something.
    async fn told(&mut self, telling: Box<Telling>, delivery: &Delivery) -> Result<Settle, Interruption> {
        let Telling { feedback, lead_id } = &*telling;
        let services = Arc::clone(&self.services);
        let of_suppression = feedback.suppression().is_some();
        // What is no news by the document as we know it, or by a copy that is behind, is some where another has written.
        let mut is_fresh = false;
        let decided = loop {
            let Some(lead) = self.lead().await? else {
                if !is_fresh {
                    self.read_anew().await?;
                    is_fresh = true;
                    continue;
                }
                let entry = feedback.entry(services.clock.now());
                services.committer.journal(journal_lines(lead_id, 0, [&entry])).await?;
                return Ok(Settle::Ack);
            };
            let too_many = lead.too_many_soft_bounces(feedback, &services.soft_bounces);
            let sequence = match lead.enrolment_of(feedback) {
                Some(enrolment) => services.sequence_of(enrolment).await?,
                None => None,
            };
            let sequence = sequence.unwrap_or_else(|| Arc::clone(&services.no_sequence));
            let suppression = match too_many {
                Some(known) => Some(services.suppressions.record(&feedback.address, &known).await?),
                None if of_suppression => Some(services.suppressions.read(&feedback.address).await?),
                None => None,
            };
            let told = || Event::Told { feedback, sequence: &sequence, suppression: suppression.clone() };
            match self.decide_once(told).await? {
                Decided::Overtaken => is_fresh = false,
                Decided::Nothing if !is_fresh => {
                    self.read_anew().await?;
                    is_fresh = true;
                }
                decided @ (Decided::Nothing | Decided::Written | Decided::Send(_)) => break decided,
            }
        };
        // Delivered again: the crash may have come between the document and its timer.
        if matches!(decided, Decided::Nothing) && delivery.deliveries > 1 {
            self.set_timer_again().await?;
        }
        Ok(Settle::Ack)
    }

    /// A timer fired.
    async fn wake(&mut self, generation: u64, again: bool) -> Result<Settle, Interruption> {
        let services = Arc::clone(&self.services);
        let mut is_fresh = false;
        // Ahead of us: another process has written since we read, or what we read was a copy that is behind.
        if self.lead().await?.is_some_and(|lead| generation > lead.generation) {
            self.read_anew().await?;
            is_fresh = true;
        }
        let mut first_generation = self.lead().await?.map(|lead| lead.generation);
        loop {
            let Some(lead) = self.lead().await? else {
                if is_fresh {
                    // Deleted: nobody to mail.
                    return Ok(Settle::Ack);
                }
                first_generation = self.read_anew().await?;
                is_fresh = true;
                continue;
            };
            let Some((enrolment, action)) = services.due_action(lead) else {
                if first_generation != Some(lead.generation) {
                    // What was due is done, and its decision has set the next timer.
                    return Ok(Settle::Ack);
                }
                // Ours, but early: timers may be, by a little, and the server's clock may be ahead of ours.
                let at = lead.next_action().filter(|_| generation == lead.generation);
                let early = at.map(|at| at.since(services.clock.now()));
                if let Some(early) = early.filter(|early| *early <= WAIT_OUT) {
                    tokio::time::sleep(early).await;
                    continue;
                }
                if !is_fresh {
                    // A lead that was erased and came again counts its generations anew: our document may be of before.
                    first_generation = self.read_anew().await?;
                    is_fresh = true;
                    continue;
                }
                if let Some(at) = at {
                    return Err(Interruption::Later(at));
                }
                // 2: an older timer is of no use any more, unless it was the one of a process that died, or gave up, before
                // it set the next.
                if again || generation > lead.generation {
                    self.set_timer_again().await?;
                }
                return Ok(Settle::Ack);
            };
            match action {
                DueAction::Step => self.step(&enrolment).await?,
                DueAction::AnswerLost => {
                    self.decide_step(&enrolment, &StepEvent::AnswerLost).await?;
                }
                DueAction::Doubt => Box::pin(self.resolve(&enrolment)).await?,
                DueAction::Wait(until) => return Err(Interruption::Later(until)),
                DueAction::Paused(since) => {
                    self.look_again_later(since).await?;
                    return Ok(Settle::Ack);
                }
            }
        }
    }

    /// One step of one enrolment: the protocol.
    async fn step(&mut self, id: &EnrolmentId) -> Result<(), Interruption> {
        let services = Arc::clone(&self.services);
        let Some(lead) = self.lead().await? else { return Ok(()) };
        let Some(enrolment) = lead.enrolment(id) else { return Ok(()) };
        let due = enrolment.state.next_action();
        let Some(sequence) = services.sequence_of(enrolment).await? else {
            let SequenceRef { name, version } = &enrolment.sequence;
            let fail = StepEvent::Fail(format!("there is no version {version} of sequence `{name}`"));
            return self.decide_step(id, &fail).await.map(drop);
        };
        let (lead_id, transactional) = (lead.lead_id.clone(), enrolment.transactional);
        // 4: room for the call, and the permit. 3 comes after it, because the wait may be long: suppression is checked
        // at the last moment, and so are pauses.
        let place = services.providers.place().await?;
        let Some(place) = self.permit(place, &lead_id, transactional).await? else { return Ok(()) };
        if services.held_back(&place, &sequence.name).await?.is_some() {
            // It comes again, and by then it is known without a question.
            return Err(Interruption::Later(services.clock.now().plus(AWAY)));
        }
        crash_point("permitted");
        // Not before: who waits for a permit would only fill the memory with an email.
        let Some(lead) = self.lead().await? else { return Ok(()) };
        let Some(enrolment) = lead.enrolment(id) else { return Ok(()) };
        let email = match compose(&services, &sequence, lead, enrolment) {
            Ok(email) => email,
            Err(reason) => return self.decide_step(id, &StepEvent::Fail(reason)).await.map(drop),
        };
        // 5: the intent, on disk before the call. A second owner loses here, before any email.
        let begin = StepEvent::Begin {
            owner: services.owner.clone(),
            provider: place.provider().into(),
            answer_within: services.answer_within,
        };
        let Decided::Send(attempt) = self.decide_step(id, &begin).await? else { return Ok(()) };
        services.metrics.scheduler_lag.record(services.clock.now().since(due.unwrap_or(attempt.started_at)));
        // 6: the call. The intent's commit may have taken long: whoever said no meanwhile, and what is paused, is not called.
        let (send_key, number) = (email.send_key.clone(), attempt.number);
        if let Some(why_not) = self.why_not(&lead_id, transactional, &place, &sequence.name).await {
            let outcome = Outcome::Transient { reason: format!("not called: {why_not}") };
            return self.record(id, &StepEvent::Answered { send_key, attempt: number, outcome }).await;
        }
        let call_by = attempt.started_at.plus(services.call_within);
        crash_point("calling");
        let call = trace_span!(
            target: trace::TARGET, "call provider", otel.kind = "client", provider = place.provider(),
            sequence = email.sequence.as_str(), step = email.step.as_str(), send_key = send_key.as_str(),
            attempt = number, outcome = Empty
        );
        let outcome = services.providers.send(email, call_by, place).instrument(call.clone()).await?;
        call.record("outcome", outcome.name());
        crash_point("answered");
        // 7 and 8: what came of it, on disk; the next timer.
        self.record(id, &StepEvent::Answered { send_key, attempt: number, outcome }).await
    }

    /// Writes down an answer. It is all we have, so an absence of the store is waited out for a while.
    async fn record(&mut self, id: &EnrolmentId, answered: &StepEvent) -> Result<(), Interruption> {
        for _ in 0..RECORD_TRIES {
            match self.decide_step(id, answered).await {
                Ok(Decided::Overtaken) => {}
                Ok(Decided::Nothing | Decided::Written | Decided::Send(_)) => return Ok(()),
                Err(Interruption::Timer(error)) => return Err(Interruption::Timer(error)),
                Err(error) => {
                    tracing::warn!(lead_id = self.lead_id(), error = %Chain(&error), "an answer is not written yet; trying on");
                    self.document = Document::Unread;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        Err(Interruption::Commit(CommitError::Unavailable))
    }

    /// This lead's actor failed again and again: an operator must look.
    async fn park(&mut self, reason: String, delivery: &Delivery) -> Result<Settle, Interruption> {
        let services = Arc::clone(&self.services);
        if let Some(lead) = self.lead().await?
            && let Some((enrolment, _)) = services.due_action(lead)
        {
            self.decide_step(&enrolment, &StepEvent::Fail(reason.clone())).await?;
        }
        Ok(services.reject(Rejection::of("failed_repeatedly", reason, delivery)).await)
    }

    /// Never decided again on a document that another process has changed: the event was meant for what we saw.
    async fn decide_step(&mut self, id: &EnrolmentId, event: &StepEvent) -> Result<Decided, Interruption> {
        let services = Arc::clone(&self.services);
        let Some(enrolment) = self.lead().await?.and_then(|lead| lead.enrolment(id)) else {
            return Ok(Decided::Nothing);
        };
        let sequence = services.sequence_of(enrolment).await?.unwrap_or_else(|| Arc::clone(&services.no_sequence));
        self.decide_once(|| Event::Step { enrolment: id.clone(), sequence: &sequence, event: event.clone() }).await
    }

    /// The same, where it does not matter why an event has no use.
    async fn decide_once<'a>(&mut self, event: impl Fn() -> Event<'a>) -> Result<Decided, Interruption> {
        Ok(self.decide(event()).await?.unwrap_or_else(|refusal| {
            tracing::debug!(lead_id = self.lead_id(), %refusal, "an event had no use");
            Decided::Nothing
        }))
    }

    /// Decides, writes, and sets the timer.
    async fn decide(&mut self, event: Event<'_>) -> Result<Result<Decided, Refusal>, Interruption> {
        let context = self.services.context();
        let transition = match transition(self.lead().await?, event, &context) {
            Ok(transition) if transition.journal.is_empty() => return Ok(Ok(Decided::Nothing)),
            Ok(transition) => transition,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let effects = match self.commit(transition).await {
            Ok(effects) => effects,
            Err(CommitError::Conflict) => {
                self.services.metrics.conflicts.increment(1);
                self.document = Document::Unread;
                return Ok(Ok(Decided::Overtaken));
            }
            Err(error) => return Err(error.into()),
        };
        crash_point("committed");
        let mut decided = Decided::Written;
        for effect in effects {
            match effect {
                Effect::SetTimer { at, generation } => {
                    self.set_timer(at, generation).await?;
                    crash_point("timer-set");
                }
                Effect::Send(attempt) => decided = Decided::Send(attempt),
            }
        }
        Ok(Ok(decided))
    }

    async fn commit(&mut self, transition: Transition) -> Result<Vec<Effect>, CommitError> {
        let Transition { lead, journal, effects } = transition;
        let Document::Known { revision: expected, .. } = self.document else { return Err(CommitError::Conflict) };
        let document: Bytes = match lead.to_json() {
            Ok(document) => document.into(),
            Err(error) => {
                tracing::error!(%error, "a document cannot be written as JSON");
                return Err(CommitError::Unavailable);
            }
        };
        let put = Put {
            key: self.key.clone(),
            expected,
            document: Some(document.clone()),
            next_action: lead.next_action(),
            generation: lead.generation,
            status: Some(lead.status()),
            write: rand::random(),
        };
        let lines = journal_lines(&lead.lead_id, lead.generation, journal.iter().map(AsRef::as_ref));
        let written = self.services.committer.commit(put, lines);
        let revision = written.instrument(trace_span!(target: trace::TARGET, "commit")).await?;
        for entry in &journal {
            self.services.metrics.happened(entry);
            tracing::info!(
                lead_id = %lead.lead_id, sequence = entry.sequence.as_deref(), step = entry.step.as_deref(),
                attempt = entry.attempt, event = ?entry.event, reason = entry.reason, "lead changed"
            );
        }
        self.document = Document::Known { lead: Some(Box::new(lead)), revision, stored: Some(document) };
        Ok(effects)
    }

    /// Its sequence is paused: a timer brings it back, and its document stays as it is. The longer the pause, the rarer
    /// it looks; after a short one it goes on soon.
    async fn look_again_later(&mut self, since: Timestamp) -> Result<(), Interruption> {
        let now = self.now();
        let Some(lead) = self.lead().await? else { return Ok(()) };
        let pause = (now.since(since) / 2).clamp(LOOK_FIRST, LOOK_LAST);
        let later = now.plus(pause.mul_f64(rand::random_range(0.5..1.0)));
        // Another enrolment may be due sooner.
        let next = lead.enrolments.iter().filter_map(|enrolment| enrolment.state.next_action());
        let at = next.filter(|next| *next > now).chain([later]).min().unwrap_or(later);
        let generation = lead.generation;
        Ok(self.set_timer(at, generation).await?)
    }

    async fn set_timer_again(&mut self) -> Result<(), Interruption> {
        if let Some(lead) = self.lead().await?
            && let Some(at) = lead.next_action()
        {
            let generation = lead.generation;
            self.set_timer(at, generation).await?;
        }
        Ok(())
    }

    async fn set_timer(&self, at: Timestamp, generation: u64) -> Result<(), TimerError> {
        let timer = Timer::new(self.key.clone(), at, generation);
        self.services.timers.set(timer).await
    }

    /// Reads the document as it stands now, whatever is known of it; the lead's generation, if there is one.
    async fn read_anew(&mut self) -> Result<Option<u64>, StoreError> {
        let lead = self.document.read_anew(&self.key, &*self.services.store).await?;
        Ok(lead.map(|lead| lead.generation))
    }

    /// The document, read if need be.
    async fn lead(&mut self) -> Result<Option<&Lead>, StoreError> {
        self.document.lead(&self.key, &*self.services.store).await
    }

    /// For logs: the key holds the address, the id says nothing of the person.
    fn lead_id(&self) -> &str {
        self.document.lead_id()
    }

    fn now(&self) -> Timestamp {
        self.services.clock.now()
    }
}

impl Services {
    fn context(&self) -> Context {
        Context { now: self.clock.now(), random: rand::random(), retry: self.retry, doubt: self.doubt }
    }

    async fn sequence_of(&self, enrolment: &Enrolment) -> Result<Option<Arc<Sequence>>, StoreError> {
        self.sequences.version(&enrolment.sequence.name, enrolment.sequence.version).await
    }
}

fn compose(services: &Services, sequence: &Arc<Sequence>, lead: &Lead, enrolment: &Enrolment) -> Result<Email, String> {
    let step = sequence.steps.get(enrolment.step).ok_or_else(|| {
        format!("sequence `{}` version {} has no step {}", sequence.name, sequence.version, enrolment.step)
    })?;
    let key = send_key(&lead.lead_id, enrolment, &step.id);
    services.composer.compose(sequence, enrolment.step, lead, key).map_err(|error| error.to_string())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JournalLine<'a> {
    lead_id: &'a LeadId,
    generation: u64,
    #[serde(flatten)]
    entry: &'a Entry,
}

fn journal_lines<'a>(lead_id: &LeadId, generation: u64, entries: impl IntoIterator<Item = &'a Entry>) -> JournalLines {
    let mut lines = JournalLines::default();
    for entry in entries {
        if let Err(error) = lines.push(&JournalLine { lead_id, generation, entry }) {
            tracing::error!(%lead_id, %error, "a journal line cannot be written as JSON");
        }
    }
    lines
}
