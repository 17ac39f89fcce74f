//! The lead supervisor: brings a lead to work when there is something for it, restarts it with backoff when it fails,
//! parks it after too many failures, and lets it go when it is idle.
mod kept;
mod lead;
mod newcomers;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dripline_domain::{
    Arrival, DoubtPolicy, Feedback, LeadId, LeadKey, RetryPolicy, Sequence, SmolStr, SoftBouncePolicy,
};
use kept::{KeptDocuments, Stored};
use lead::{Arriving, LeadActor, LeadArguments, Ordered, Telling, Work};
pub(crate) use newcomers::Newcomers;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use crate::Chain;
use crate::committer::Committer;
use crate::control::{ControlError, Obeyed, Order};
use crate::limiter::RateLimiter;
use crate::metrics::{Metrics, number};
use crate::ports::{
    Clock, Composer, Controls, Delivery, LeadStore, Rejected, Rejection, Sequences, Settle, Suppressions, Timers,
};
use crate::provider::Providers;
use crate::slot::{NotRunning, Slot};

/// How often idle leads are looked for.
const TICK: Duration = Duration::from_secs(1);
/// A failed lead is left alone so long after its first failure, twice as long after the second, and so on.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// A lead that has not failed for so long starts with a clean record.
const FORGIVEN_AFTER: Duration = Duration::from_mins(10);

/// Limits of the lead supervisor.
#[derive(Debug, Clone, Copy)]
pub struct LeadLimits {
    /// So many leads hold their documents in memory; beyond it, idle ones are let go at once.
    pub resident: usize,
    /// An idle lead is let go after this.
    pub idle: Duration,
    /// After so many failures a lead is parked.
    pub failures: u32,
}

/// Reaches the leads.
#[derive(Clone)]
pub struct Leads {
    slot: Slot<Message>,
}

/// What every lead needs; shared.
pub(crate) struct Services {
    pub(crate) owner: SmolStr,
    pub(crate) answer_within: Duration,
    /// A call begins no later than this after its intent.
    pub(crate) call_within: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) doubt: DoubtPolicy,
    pub(crate) soft_bounces: SoftBouncePolicy,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<dyn LeadStore>,
    pub(crate) timers: Arc<dyn Timers>,
    pub(crate) suppressions: Arc<dyn Suppressions>,
    pub(crate) controls: Arc<dyn Controls>,
    pub(crate) sequences: Arc<dyn Sequences>,
    pub(crate) composer: Arc<dyn Composer>,
    pub(crate) rejected: Arc<dyn Rejected>,
    pub(crate) committer: Committer,
    pub(crate) limiter: RateLimiter,
    pub(crate) providers: Providers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) leads: Leads,
    pub(crate) newcomers: Newcomers,
    /// Stands in where an enrolment's sequence is gone: it has no steps.
    pub(crate) no_sequence: Arc<Sequence>,
}

impl Services {
    /// Keeps a message that cannot be processed; how to settle it then.
    pub(crate) async fn reject(&self, rejection: Rejection) -> Settle {
        tracing::warn!(
            code = rejection.code,
            reason = rejection.reason,
            "a message cannot be processed; it is kept in REJECTED"
        );
        let code = rejection.code;
        match self.rejected.keep(rejection).await {
            Ok(()) => {
                Metrics::rejected(code);
                Settle::Terminate
            }
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "REJECTED is unavailable; the message will be delivered again");
                Settle::Retry(Duration::from_secs(2))
            }
        }
    }

    fn finished(&self, key: &LeadKey, stored: Option<Stored>) {
        // Fails only when the supervisor is being restarted, and its leads with it.
        let _ = self.leads.slot.cast("lead supervisor", Message::Finished(key.clone(), stored));
    }
}

impl Leads {
    pub(crate) fn new() -> Self {
        Self { slot: Slot::empty() }
    }

    /// Hands an arrival to its lead.
    pub fn arrive(
        &self,
        key: LeadKey,
        arrival: Arrival,
        lead_id: LeadId,
        sequence: Arc<Sequence>,
        delivery: Delivery,
    ) -> Result<(), NotRunning> {
        let work = Work::Arrive(Box::new(Arriving { arrival, lead_id, sequence }));
        self.slot.cast("lead supervisor", Message::Deliver(key, lead::Message::Work(work, delivery)))
    }

    /// Hands what was told to its lead.
    pub fn tell(
        &self,
        key: LeadKey,
        feedback: Feedback,
        lead_id: LeadId,
        delivery: Delivery,
    ) -> Result<(), NotRunning> {
        let work = Work::Told(Box::new(Telling { feedback, lead_id }));
        self.slot.cast("lead supervisor", Message::Deliver(key, lead::Message::Work(work, delivery)))
    }

    /// Hands a fired timer to its lead.
    pub fn wake(&self, key: LeadKey, generation: u64, again: bool, delivery: Delivery) -> Result<(), NotRunning> {
        let work = Work::Wake { generation, again };
        self.slot.cast("lead supervisor", Message::Deliver(key, lead::Message::Work(work, delivery)))
    }

    /// Hands an operator's order to its lead. Nothing is done of one whose answer nobody waits for any more.
    pub(crate) fn order(
        &self,
        key: LeadKey,
        lead_id: LeadId,
        order: Order,
    ) -> Result<oneshot::Receiver<Result<Obeyed, ControlError>>, NotRunning> {
        let (reply, answer) = oneshot::channel();
        let ordered = Box::new(Ordered { order, lead_id, reply });
        self.slot.cast("lead supervisor", Message::Deliver(key, lead::Message::Order(ordered)))?;
        Ok(answer)
    }

    pub(crate) fn actor(&self, services: Arc<Services>, limits: LeadLimits) -> (LeadsActor, LeadsArguments) {
        (LeadsActor, LeadsArguments { slot: self.slot.clone(), services, limits })
    }
}

/// What the lead supervisor is told.
pub(crate) enum Message {
    /// Something for a lead.
    Deliver(LeadKey, lead::Message),
    /// A lead has settled one message; its document, where it has stored it and nobody else since, as far as it knows.
    Finished(LeadKey, Option<Stored>),
    /// Look for idle leads.
    Tick,
}

pub(crate) struct LeadsActor;

pub(crate) struct LeadsArguments {
    slot: Slot<Message>,
    services: Arc<Services>,
    limits: LeadLimits,
}

pub(crate) struct LeadsState {
    services: Arc<Services>,
    limits: LeadLimits,
    resident: HashMap<LeadKey, Resident>,
    by_actor: HashMap<ActorId, LeadKey>,
    kept: KeptDocuments,
    /// Leads in the order they became idle, each with the number of its latest idleness: others are outdated.
    idle: VecDeque<(LeadKey, u64)>,
    failures: HashMap<LeadKey, Failures>,
}

struct Resident {
    actor: ActorRef<lead::Message>,
    /// Messages handed over and not settled.
    pending: usize,
    stored: Option<Stored>,
    idle_since: Instant,
    /// Counts how often it became idle.
    idleness: u64,
}

struct Failures {
    count: u32,
    last: Instant,
    reason: String,
}

impl Failures {
    fn backoff_left(&self) -> Duration {
        let backoff = FIRST_BACKOFF.saturating_mul(1 << self.count.saturating_sub(1).min(10));
        backoff.saturating_sub(self.last.elapsed())
    }
}

impl Actor for LeadsActor {
    type Msg = Message;
    type State = LeadsState;
    type Arguments = LeadsArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        LeadsArguments { slot, services, limits }: LeadsArguments,
    ) -> Result<LeadsState, ActorProcessingErr> {
        slot.occupy(myself.clone());
        myself.send_interval(TICK, || Message::Tick);
        Ok(LeadsState {
            services,
            limits,
            resident: HashMap::new(),
            by_actor: HashMap::new(),
            kept: KeptDocuments::new(),
            idle: VecDeque::new(),
            failures: HashMap::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut LeadsState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Deliver(key, message) => state.deliver(&myself, key, message).await?,
            Message::Finished(key, stored) => state.finished(key, stored),
            Message::Tick => state.tick(),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut LeadsState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, error) => state.failed(cell.get_id(), &error.to_string()),
            SupervisionEvent::ActorTerminated(..)
            | SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl LeadsState {
    async fn deliver(
        &mut self,
        myself: &ActorRef<Message>,
        key: LeadKey,
        message: lead::Message,
    ) -> Result<(), ActorProcessingErr> {
        let message = match self.failures.get(&key) {
            None => message,
            Some(failures) => match self.heed(failures, message) {
                Some(message) => message,
                None => return Ok(()),
            },
        };
        if !self.resident.contains_key(&key) {
            let stored = self.kept.take(&key);
            let actor = if let Some(free) = self.make_room() {
                // It cannot have failed: it had nothing to do.
                let _ = free.cast(lead::Message::Become(key.clone(), stored));
                free
            } else {
                let arguments = LeadArguments { key: key.clone(), services: Arc::clone(&self.services), stored };
                // Boxed: only the first leads take it, and every message would have to bring its room along.
                Box::pin(Actor::spawn_linked(None, LeadActor, arguments, myself.get_cell())).await?.0
            };
            self.by_actor.insert(actor.get_id(), key.clone());
            let resident = Resident { actor, pending: 0, stored: None, idle_since: Instant::now(), idleness: 0 };
            self.resident.insert(key.clone(), resident);
        }
        if let Some(resident) = self.resident.get_mut(&key) {
            resident.pending += 1;
            // A lead that failed this very moment drops the message, and so asks for it again.
            let _ = resident.actor.cast(message);
        }
        Ok(())
    }

    /// What a lead that failed is still told; none where the message is answered for already.
    fn heed(&self, failures: &Failures, message: lead::Message) -> Option<lead::Message> {
        let (work, delivery) = match message {
            lead::Message::Work(work, delivery) => (work, delivery),
            of_ours @ lead::Message::Become(..) => return Some(of_ours),
            lead::Message::Order(ordered) => {
                // Its next message parks it, or finds that it works.
                if failures.count < self.limits.failures && failures.backoff_left().is_zero() {
                    return Some(lead::Message::Order(ordered));
                }
                let reason = format!("the lead's actor failed, and is left alone for a moment: {}", failures.reason);
                // Whoever asked may have gone.
                let _ = ordered.reply.send(Err(ControlError::Unavailable(reason)));
                return None;
            }
        };
        if failures.count > self.limits.failures {
            // Even parking it failed: all that is left is to keep the message.
            let rejection = Rejection::of("failed_repeatedly", failures.reason.clone(), &delivery);
            let services = Arc::clone(&self.services);
            tokio::spawn(async move { delivery.settle(services.reject(rejection).await) });
            return None;
        }
        if failures.count == self.limits.failures {
            let reason = format!("its actor failed {} times; the last: {}", failures.count, failures.reason);
            return Some(lead::Message::Work(Work::Park(reason), delivery));
        }
        if !failures.backoff_left().is_zero() {
            delivery.settle(Settle::Retry(failures.backoff_left()));
            return None;
        }
        Some(lead::Message::Work(work, delivery))
    }

    fn finished(&mut self, key: LeadKey, stored: Option<Stored>) {
        if self.failures.get(&key).is_some_and(|failures| failures.count >= self.limits.failures) {
            // It did not fail this time: it is parked, and what an operator makes of it starts with a clean record.
            self.failures.remove(&key);
        }
        let Some(resident) = self.resident.get_mut(&key) else { return };
        resident.pending = resident.pending.saturating_sub(1);
        resident.stored = stored;
        if resident.pending > 0 {
            return;
        }
        if self.limits.idle.is_zero() {
            self.let_go(&key);
            return;
        }
        resident.idle_since = Instant::now();
        resident.idleness += 1;
        self.idle.push_back((key, resident.idleness));
    }

    fn failed(&mut self, actor: ActorId, reason: &str) {
        let Some(key) = self.by_actor.remove(&actor) else { return };
        self.resident.remove(&key);
        self.services.metrics.restarts.increment(1);
        let failures =
            self.failures.entry(key).or_insert(Failures { count: 0, last: Instant::now(), reason: String::new() });
        failures.count += 1;
        failures.last = Instant::now();
        reason.clone_into(&mut failures.reason);
        tracing::error!(
            reason,
            failures = failures.count,
            "a lead's actor failed; it is restarted with its next message"
        );
    }

    /// Lets idle leads go where there are too many for another one. The actor of one of them is free for that: to end it
    /// and to start another would take longer than all that an actor does for an email.
    fn make_room(&mut self) -> Option<ActorRef<lead::Message>> {
        let mut free: Option<ActorRef<lead::Message>> = None;
        while self.resident.len() >= self.limits.resident {
            let Some((key, idleness)) = self.idle.pop_front() else { break };
            if !self.is_idle_since(&key, idleness) {
                continue;
            }
            let Some(Resident { actor, stored, .. }) = self.resident.remove(&key) else { continue };
            if let Some(stored) = stored {
                self.kept.keep(key, stored);
            }
            if let Some(one_more) = free.replace(actor) {
                self.end(&one_more);
            }
        }
        free
    }

    fn tick(&mut self) {
        self.services.metrics.resident.set(number(self.resident.len()));
        self.failures.retain(|_, failures| failures.last.elapsed() < FORGIVEN_AFTER);
        if let Some(long_ago) = Instant::now().checked_sub(self.limits.idle) {
            self.kept.forget_before(long_ago);
        }
        while let Some((key, idleness)) = self.idle.front() {
            if self.is_idle_since(key, *idleness) {
                if self.resident.get(key).is_some_and(|resident| resident.idle_since.elapsed() < self.limits.idle) {
                    return;
                }
                let key = key.clone();
                self.let_go(&key);
            }
            self.idle.pop_front();
        }
    }

    fn is_idle_since(&self, key: &LeadKey, idleness: u64) -> bool {
        self.resident.get(key).is_some_and(|resident| resident.pending == 0 && resident.idleness == idleness)
    }

    fn let_go(&mut self, key: &LeadKey) {
        if let Some(resident) = self.resident.remove(key) {
            self.end(&resident.actor);
        }
    }

    fn end(&mut self, actor: &ActorRef<lead::Message>) {
        self.by_actor.remove(&actor.get_id());
        actor.stop(None);
    }
}
