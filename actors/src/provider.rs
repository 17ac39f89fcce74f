//! The provider: makes the calls to one ESP, so many at a time, and stops when the ESP refuses everything.
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use dripline_domain::{Email, Outcome, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::limiter::RateLimiter;
use crate::ports::{Clock, Esp};
use crate::slot::{NotRunning, Slot};

/// After a `Misconfigured` answer one call is tried again so much later.
const PROBE_EVERY: Duration = Duration::from_mins(1);

/// Reaches the provider.
#[derive(Clone)]
pub struct Provider {
    slot: Slot<Message>,
    /// Unix milliseconds; 0 when it is not stopped.
    stopped_until: Arc<AtomicI64>,
}

impl Provider {
    pub(crate) fn new() -> Self {
        Self { slot: Slot::empty(), stopped_until: Arc::default() }
    }

    /// Until when no call should be begun, because the provider refuses all of them.
    pub fn stopped(&self, now: Timestamp) -> Option<Timestamp> {
        let until = Timestamp::from_millis(self.stopped_until.load(Ordering::Relaxed));
        (until > now).then_some(until)
    }

    /// Makes one call. It is not begun after `latest`: then nothing was mailed, and the outcome is `Transient`.
    /// An error means that the call may have been made and its answer is lost.
    pub async fn send(&self, email: Email, latest: Timestamp) -> Result<Outcome, NotRunning> {
        let (reply, answer) = oneshot::channel();
        self.slot.cast("provider", Message::Send(Call { email: Box::new(email), latest, reply }))?;
        answer.await.map_err(|_| NotRunning("provider"))
    }

    pub(crate) fn actor(
        &self,
        esp: Arc<dyn Esp>,
        limiter: RateLimiter,
        clock: Arc<dyn Clock>,
        most: usize,
    ) -> (ProviderActor, ProviderArguments) {
        (ProviderActor, ProviderArguments { provider: self.clone(), esp, limiter, clock, most })
    }
}

/// What the provider is told.
pub(crate) enum Message {
    /// A lead's intent is on disk: call.
    Send(Call),
    /// A call came back.
    Answered(Report),
}

/// What of an outcome concerns all leads.
pub(crate) enum Report {
    Nothing,
    RateLimited(Option<Timestamp>),
    Misconfigured(String),
}

/// Tells the provider that a call came back, also when the adapter panicked: its place is never lost.
struct Returned {
    to: ActorRef<Message>,
    report: Report,
}

impl Drop for Returned {
    fn drop(&mut self) {
        let report = std::mem::replace(&mut self.report, Report::Nothing);
        // Fails only when the provider itself is gone.
        let _ = self.to.cast(Message::Answered(report));
    }
}

pub(crate) struct Call {
    email: Box<Email>,
    latest: Timestamp,
    reply: oneshot::Sender<Outcome>,
}

pub(crate) struct ProviderActor;

pub(crate) struct ProviderArguments {
    provider: Provider,
    esp: Arc<dyn Esp>,
    limiter: RateLimiter,
    clock: Arc<dyn Clock>,
    most: usize,
}

pub(crate) struct ProviderState {
    stopped_until: Arc<AtomicI64>,
    esp: Arc<dyn Esp>,
    limiter: RateLimiter,
    clock: Arc<dyn Clock>,
    waiting: VecDeque<Call>,
    in_flight: usize,
    most: usize,
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
            waiting: VecDeque::new(),
            in_flight: 0,
            most: arguments.most.max(1),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut ProviderState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Send(call) => state.waiting.push_back(call),
            Message::Answered(report) => {
                state.in_flight -= 1;
                state.learn(report);
            }
        }
        while state.in_flight < state.most {
            let Some(call) = state.waiting.pop_front() else { break };
            state.begin(&myself, call);
        }
        Ok(())
    }
}

impl ProviderState {
    fn begin(&mut self, myself: &ActorRef<Message>, call: Call) {
        if self.clock.now() > call.latest {
            let reason = "not called: too many calls were waiting before it".to_owned();
            let _ = call.reply.send(Outcome::Transient { reason });
            return;
        }
        self.in_flight += 1;
        let esp = Arc::clone(&self.esp);
        let returned = Returned { to: myself.clone(), report: Report::Nothing };
        tokio::spawn(async move {
            let mut returned = returned;
            let outcome = esp.send(&call.email).await;
            tracing::debug!(
                lead_id = call.email.lead_id,
                sequence = call.email.sequence,
                step = call.email.step,
                send_key = call.email.send_key,
                provider = esp.name(),
                outcome = outcome.name(),
                "provider answered"
            );
            match &outcome {
                Outcome::RateLimited { until } => returned.report = Report::RateLimited(*until),
                Outcome::Misconfigured { reason } => returned.report = Report::Misconfigured(reason.clone()),
                Outcome::Accepted { .. }
                | Outcome::Transient { .. }
                | Outcome::Refused { .. }
                | Outcome::Unknown { .. } => {}
            }
            // A lead that was stopped meanwhile finds its open attempt, and says that it is in doubt.
            let _ = call.reply.send(outcome);
        });
    }

    fn learn(&self, report: Report) {
        let now = self.clock.now();
        match report {
            Report::Nothing => {}
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
