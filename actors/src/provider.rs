//! The providers: each makes the calls to one ESP, so many at a time, gathered into batches where the ESP has them, and
//! behind a circuit breaker. Where one is stopped, the next in order takes the calls.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dripline_domain::{Email, Outcome, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::breaker::{Admission, Breaker, BreakerLimits, Change, Opened, Verdict};
use crate::control::ProviderStatus;
use crate::limiter::RateLimiter;
use crate::metrics::ProviderMetrics;
use crate::ports::{AfterLostAnswer, Clock, Control, Controlled, Controls, Esp, LookUp, StoreError};
use crate::pump::Room;
use crate::slot::{NotRunning, Slot};

/// Calls that come within this go into one batch, where the provider has batches.
const GATHER: Duration = Duration::from_millis(3);

/// A provider that an operator holds back is asked again after this.
const PAUSED: Duration = Duration::from_secs(5);

/// Reaches the providers.
#[derive(Clone)]
pub struct Providers {
    /// In order of preference; at least one.
    list: Arc<[Provider]>,
}

/// Reaches one provider.
#[derive(Clone)]
pub(crate) struct Provider {
    slot: Slot<Message>,
    esp: Arc<dyn Esp>,
    places: Arc<Semaphore>,
    breaker: Arc<Mutex<Breaker>>,
    most: usize,
    limiter: RateLimiter,
    controls: Arc<dyn Controls>,
    clock: Arc<dyn Clock>,
    metrics: Arc<ProviderMetrics>,
}

/// Room for one call to one provider. Taken before the intent is written, so that a crash leaves no more attempts in
/// doubt than there may be calls at a time.
pub struct Place {
    provider: Provider,
    _permit: OwnedSemaphorePermit,
    /// By this call the provider is tried.
    probe: bool,
}

/// There is no room.
#[derive(Debug, thiserror::Error)]
pub enum NoPlace {
    /// No provider takes calls before this time.
    #[error("no provider takes calls before {0}")]
    Stopped(Timestamp),
    /// The engine is stopping.
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
}

impl Place {
    /// The name of the provider that will be called.
    pub fn provider(&self) -> &'static str {
        self.provider.esp.name()
    }

    /// Why an operator holds back the provider, if so.
    pub(crate) async fn paused_now(&self) -> Result<Option<Control>, StoreError> {
        self.provider.controls.paused_now(Controlled::Provider(self.provider.plain_name())).await
    }

    /// The call was made, and what it taught is known.
    fn came_back(&mut self) {
        self.probe = false;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A probe that came back has already said so.
        if self.probe {
            self.provider.breaker().give_back();
        }
    }
}

impl Providers {
    /// In order of preference; each takes at most so many calls at a time.
    pub(crate) fn new(
        esps: &[Arc<dyn Esp>],
        calls: usize,
        limits: BreakerLimits,
        limiter: &RateLimiter,
        controls: &Arc<dyn Controls>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let provider = |esp: &Arc<dyn Esp>| Provider {
            slot: Slot::empty(),
            esp: Arc::clone(esp),
            places: Arc::new(Semaphore::new(calls.max(1))),
            breaker: Arc::new(Mutex::new(Breaker::new(limits))),
            most: calls.max(1),
            limiter: limiter.clone(),
            controls: Arc::clone(controls),
            clock: Arc::clone(clock),
            metrics: Arc::new(ProviderMetrics::new(esp.name())),
        };
        Self { list: esps.iter().map(provider).collect() }
    }

    /// One actor each.
    pub(crate) fn actors(&self) -> impl Iterator<Item = &Provider> {
        self.list.iter()
    }

    /// Waits for room for one call at the first provider that takes calls; first come, first served.
    pub async fn place(&self) -> Result<Place, NoPlace> {
        let mut again = None;
        for provider in &*self.list {
            match provider.place().await {
                Err(NoPlace::Stopped(until)) => {
                    again = Some(again.map_or(until, |earlier: Timestamp| earlier.min(until)));
                }
                taken => return taken,
            }
        }
        Err(again.map_or(NoPlace::NotRunning(NotRunning("provider")), NoPlace::Stopped))
    }

    /// The same at the provider of this name; none where there is no such provider any more.
    pub async fn place_at(&self, name: &str) -> Option<Result<Place, NoPlace>> {
        Some(self.named(name)?.place().await)
    }

    /// Makes one call, unless it is too late for it: past `call_by` another process may take the attempt for lost. An
    /// error means that the call may have been made and its answer is lost.
    pub async fn send(&self, email: Email, call_by: Timestamp, mut place: Place) -> Result<Outcome, NotRunning> {
        let provider = &place.provider;
        if provider.esp.batch_limit() > 1 {
            let (reply, answer) = oneshot::channel();
            let slot = provider.slot.clone();
            slot.cast("provider", Message::Send(Box::new(Call { email, not_after: call_by, place, reply })))?;
            return answer.await.map_err(|_| NotRunning("provider"));
        }
        // Nothing to gather: the lead makes the call itself.
        if let Some(outcome) = provider.too_late(call_by) {
            return Ok(outcome);
        }
        let began = Instant::now();
        let outcome = provider.esp.send(&email).await;
        provider.metrics.call.record(began.elapsed());
        provider.learn(std::slice::from_ref(&outcome));
        provider.tell(&email, &outcome);
        place.came_back();
        Ok(outcome)
    }

    /// What the provider of this name can do about a lost answer; none where there is no such provider any more.
    pub fn after_lost_answer(&self, name: &str) -> Option<AfterLostAnswer> {
        Some(self.named(name)?.esp.after_lost_answer())
    }

    /// Asks the provider at which this place is for an email.
    pub async fn look_up(&self, place: &Place, email: &Email, attempted_at: Timestamp) -> LookUp {
        place.provider.esp.look_up(email, attempted_at).await
    }

    /// How many steps may begin now.
    pub(crate) fn room(&self, now: Timestamp) -> Room {
        let mut room = None;
        for provider in &*self.list {
            match provider.peek(now) {
                Admission::Go => return Room::AtMost(usize::MAX),
                // One to try; more would only be sent back.
                Admission::Probe => room = Some(Room::AtMost(1)),
                Admission::Stop(until) => match room {
                    Some(Room::AtMost(_)) => {}
                    Some(Room::Closed(earlier)) => room = Some(Room::Closed(earlier.min(until))),
                    None => room = Some(Room::Closed(until)),
                },
            }
        }
        room.unwrap_or(Room::AtMost(usize::MAX))
    }

    /// Each, in order of preference.
    pub(crate) fn status(&self) -> Vec<ProviderStatus> {
        self.list.iter().map(Provider::status).collect()
    }

    /// Those that are left alone, and why.
    pub fn stopped(&self) -> Vec<(&'static str, Opened)> {
        let opened = |provider: &Provider| Some((provider.name(), provider.breaker().opened()?.clone()));
        self.list.iter().filter_map(opened).collect()
    }

    fn named(&self, name: &str) -> Option<&Provider> {
        self.list.iter().find(|provider| provider.esp.name() == name)
    }
}

impl Provider {
    pub(crate) fn name(&self) -> &'static str {
        self.esp.name()
    }

    pub(crate) fn actor(&self) -> (ProviderActor, Self) {
        (ProviderActor, self.clone())
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By which operators know it, whether it gathers calls or not.
    fn plain_name(&self) -> &'static str {
        let name = self.name();
        name.strip_suffix("-batch").unwrap_or(name)
    }

    fn paused(&self) -> Option<Control> {
        self.controls.paused(Controlled::Provider(self.plain_name()))
    }

    /// Whether a call could be made.
    fn peek(&self, now: Timestamp) -> Admission {
        if self.paused().is_some() { Admission::Stop(now.plus(PAUSED)) } else { self.breaker().peek(now) }
    }

    fn status(&self) -> ProviderStatus {
        let stopped_until = match self.breaker().peek(self.clock.now()) {
            Admission::Stop(until) => Some(until),
            Admission::Go | Admission::Probe => None,
        };
        ProviderStatus {
            name: self.plain_name().to_owned(),
            stopped_until,
            paused: self.paused(),
            calls: self.most.saturating_sub(self.places.available_permits()),
        }
    }

    async fn place(&self) -> Result<Place, NoPlace> {
        if let Admission::Stop(until) = self.peek(self.clock.now()) {
            return Err(NoPlace::Stopped(until));
        }
        let permit = Arc::clone(&self.places).acquire_owned().await.map_err(|_closed| NotRunning("provider"))?;
        // The wait may have been long: it is asked once more, and this time for good.
        let probe = match self.breaker().admit(self.clock.now()) {
            Admission::Go => false,
            Admission::Probe => true,
            Admission::Stop(until) => return Err(NoPlace::Stopped(until)),
        };
        Ok(Place { provider: self.clone(), _permit: permit, probe })
    }

    /// A process that was paused for long, or waited for long, must not call any more: another may have taken its
    /// attempt for lost, and found that it was not sent.
    fn too_late(&self, not_after: Timestamp) -> Option<Outcome> {
        (self.clock.now() > not_after)
            .then(|| Outcome::Transient { reason: "not called: this process was held up for too long".to_owned() })
    }

    fn tell(&self, email: &Email, outcome: &Outcome) {
        self.metrics.answered(outcome);
        tracing::debug!(
            lead_id = email.lead_id.as_str(),
            sequence = email.sequence.as_str(),
            step = email.step.as_str(),
            send_key = email.send_key.as_str(),
            provider = self.esp.name(),
            outcome = outcome.name(),
            "provider answered"
        );
    }

    fn learn(&self, outcomes: &[Outcome]) {
        let now = self.clock.now();
        let name = self.esp.name();
        let change = self.breaker().learn(now, Verdict::of(outcomes));
        match change {
            Some(Change::Opened { until, reason }) => {
                self.metrics.breaker.set(1.0);
                tracing::error!(
                    provider = name, reason, %until,
                    "the provider is stopped: it fails, or refuses every email; every lead is kept and it is tried again"
                );
            }
            Some(Change::Closed) => {
                self.metrics.breaker.set(0.0);
                tracing::info!(provider = name, "the provider works again");
            }
            None => {}
        }
        let limited = outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::RateLimited { until } => Some(until.unwrap_or(now)),
            _ => None,
        });
        if let Some(until) = limited.max() {
            self.limiter.slow_down(until);
        }
    }
}

/// What a provider that has batches is told.
pub(crate) enum Message {
    /// A lead's intent is on disk: call.
    Send(Box<Call>),
    /// The time to gather this batch is over.
    Gathered(u64),
}

pub(crate) struct Call {
    email: Email,
    not_after: Timestamp,
    place: Place,
    reply: oneshot::Sender<Outcome>,
}

pub(crate) struct ProviderActor;

pub(crate) struct ProviderState {
    provider: Provider,
    gathering: Vec<Call>,
    /// Counts the batches, so that an old [`Message::Gathered`] is known.
    batch: u64,
}

impl Actor for ProviderActor {
    type Msg = Message;
    type State = ProviderState;
    type Arguments = Provider;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        provider: Provider,
    ) -> Result<ProviderState, ActorProcessingErr> {
        provider.slot.occupy(myself);
        Ok(ProviderState { provider, gathering: Vec::new(), batch: 0 })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut ProviderState,
    ) -> Result<(), ActorProcessingErr> {
        let most = state.provider.esp.batch_limit();
        match message {
            Message::Send(call) => {
                if state.gathering.is_empty() {
                    let batch = state.batch;
                    myself.send_after(GATHER, move || Message::Gathered(batch));
                }
                state.gathering.push(*call);
                if state.gathering.len() >= most {
                    state.send();
                }
            }
            Message::Gathered(batch) if batch == state.batch => state.send(),
            Message::Gathered(_) => {}
        }
        Ok(())
    }
}

impl ProviderState {
    fn send(&mut self) {
        self.batch += 1;
        tokio::spawn(many(self.provider.clone(), std::mem::take(&mut self.gathering)));
    }
}

async fn many(provider: Provider, calls: Vec<Call>) {
    let mut in_time = Vec::with_capacity(calls.len());
    for call in calls {
        match provider.too_late(call.not_after) {
            // A lead that was stopped meanwhile finds its open attempt, and says that it is in doubt.
            Some(outcome) => drop(call.reply.send(outcome)),
            None => in_time.push(call),
        }
    }
    if in_time.is_empty() {
        return;
    }
    let (emails, waiting): (Vec<_>, Vec<_>) =
        in_time.into_iter().map(|Call { email, place, reply, .. }| (email, (place, reply))).unzip();
    let began = Instant::now();
    let outcomes = provider.esp.send_batch(&emails).await;
    provider.metrics.call.record(began.elapsed());
    provider.learn(&outcomes);
    for ((email, (mut place, reply)), outcome) in emails.iter().zip(waiting).zip(outcomes) {
        provider.tell(email, &outcome);
        place.came_back();
        // As above.
        let _ = reply.send(outcome);
    }
}
