//! The provider: makes the calls to one ESP, so many at a time, and stops for a while when the ESP refuses everything.
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use dripline_domain::{Email, Outcome, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::limiter::RateLimiter;
use crate::ports::{Clock, Esp};
use crate::slot::{NotRunning, Slot};

/// After a `Misconfigured` answer no call is begun for so long.
const PROBE_EVERY: Duration = Duration::from_mins(1);

/// Reaches the provider.
#[derive(Clone)]
pub struct Provider {
    slot: Slot<Message>,
    places: Arc<Semaphore>,
    /// Unix milliseconds; 0 when it is not stopped.
    stopped_until: Arc<AtomicI64>,
}

/// Room for one call. Taken before the intent is written, so that a crash leaves no more attempts in doubt than there
/// may be calls at a time.
pub struct Place(OwnedSemaphorePermit);

impl Provider {
    /// At most so many calls at a time.
    pub(crate) fn new(calls: usize) -> Self {
        Self { slot: Slot::empty(), places: Arc::new(Semaphore::new(calls.max(1))), stopped_until: Arc::default() }
    }

    /// Until when no call should be begun, because the provider refuses all of them.
    pub fn stopped(&self, now: Timestamp) -> Option<Timestamp> {
        let until = Timestamp::from_millis(self.stopped_until.load(Ordering::Relaxed));
        (until > now).then_some(until)
    }

    /// Waits for room for one call; first come, first served.
    pub async fn place(&self) -> Result<Place, NotRunning> {
        Arc::clone(&self.places).acquire_owned().await.map(Place).map_err(|_closed| NotRunning("provider"))
    }

    /// Makes one call. An error means that the call may have been made and its answer is lost.
    pub async fn send(&self, email: Email, place: Place) -> Result<Outcome, NotRunning> {
        let (reply, answer) = oneshot::channel();
        self.slot.cast("provider", Message::Send(Call { email: Box::new(email), place, reply }))?;
        answer.await.map_err(|_| NotRunning("provider"))
    }

    pub(crate) fn actor(
        &self,
        esp: Arc<dyn Esp>,
        limiter: RateLimiter,
        clock: Arc<dyn Clock>,
    ) -> (ProviderActor, ProviderArguments) {
        (ProviderActor, ProviderArguments { provider: self.clone(), esp, limiter, clock })
    }
}

/// What the provider is told.
pub(crate) enum Message {
    /// A lead's intent is on disk: call.
    Send(Call),
    /// What a call taught about the provider.
    Learn(Report),
}

/// What of an outcome concerns all leads.
pub(crate) enum Report {
    RateLimited(Option<Timestamp>),
    Misconfigured(String),
}

impl Report {
    fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::RateLimited { until } => Some(Self::RateLimited(*until)),
            Outcome::Misconfigured { reason } => Some(Self::Misconfigured(reason.clone())),
            Outcome::Accepted { .. }
            | Outcome::Transient { .. }
            | Outcome::Refused { .. }
            | Outcome::Unknown { .. } => None,
        }
    }
}

pub(crate) struct Call {
    email: Box<Email>,
    place: Place,
    reply: oneshot::Sender<Outcome>,
}

pub(crate) struct ProviderActor;

pub(crate) struct ProviderArguments {
    provider: Provider,
    esp: Arc<dyn Esp>,
    limiter: RateLimiter,
    clock: Arc<dyn Clock>,
}

pub(crate) struct ProviderState {
    stopped_until: Arc<AtomicI64>,
    esp: Arc<dyn Esp>,
    limiter: RateLimiter,
    clock: Arc<dyn Clock>,
}

impl Actor for ProviderActor {
    type Msg = Message;
    type State = ProviderState;
    type Arguments = ProviderArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: ProviderArguments,
    ) -> Result<ProviderState, ActorProcessingErr> {
        arguments.provider.slot.occupy(myself);
        Ok(ProviderState {
            stopped_until: arguments.provider.stopped_until,
            esp: arguments.esp,
            limiter: arguments.limiter,
            clock: arguments.clock,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut ProviderState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Send(call) => state.begin(&myself, call),
            Message::Learn(report) => state.learn(report),
        }
        Ok(())
    }
}

impl ProviderState {
    fn begin(&self, myself: &ActorRef<Message>, call: Call) {
        let (esp, myself) = (Arc::clone(&self.esp), myself.clone());
        tokio::spawn(async move {
            let Call { email, place: Place(_place), reply } = call;
            let outcome = esp.send(&email).await;
            tracing::debug!(
                lead_id = email.lead_id,
                sequence = email.sequence,
                step = email.step,
                send_key = email.send_key,
                provider = esp.name(),
                outcome = outcome.name(),
                "provider answered"
            );
            if let Some(report) = Report::of(&outcome) {
                // Fails only when the provider is being restarted: the next such answer teaches the same.
                let _ = myself.cast(Message::Learn(report));
            }
            // A lead that was stopped meanwhile finds its open attempt, and says that it is in doubt.
            let _ = reply.send(outcome);
        });
    }

    fn learn(&self, report: Report) {
        let now = self.clock.now();
        match report {
            Report::RateLimited(until) => self.limiter.pause(until.unwrap_or(now.plus(Duration::from_secs(1)))),
            Report::Misconfigured(reason) => {
                let until = now.plus(PROBE_EVERY);
                self.stopped_until.store(until.as_millis(), Ordering::Relaxed);
                tracing::error!(
                    provider = self.esp.name(), reason, %until,
                    "the provider refuses every email: mend its configuration; every lead is kept"
                );
            }
        }
    }
}
