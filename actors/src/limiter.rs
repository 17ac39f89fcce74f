//! The rate limiter: no email leaves without its permit, first come, first served.
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use dripline_domain::Timestamp;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter as Governor};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::ports::Clock;
use crate::slot::{NotRunning, Slot};

/// How fast emails may leave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Emails a second, above zero.
    pub per_second: f64,
    /// So many may leave at once after a pause; at least 1.
    pub burst: NonZeroU32,
}

/// Reaches the rate limiter.
#[derive(Clone)]
pub struct RateLimiter {
    slot: Slot<Message>,
    /// Unix milliseconds; 0 when it was never paused.
    paused_until: Arc<AtomicI64>,
}

impl RateLimiter {
    pub(crate) fn new() -> Self {
        Self { slot: Slot::empty(), paused_until: Arc::default() }
    }

    /// Waits for a permit to make one call.
    pub async fn permit(&self) -> Result<(), NotRunning> {
        let (reply, answer) = oneshot::channel();
        self.slot.cast("rate limiter", Message::Acquire(reply))?;
        answer.await.map_err(|_| NotRunning("rate limiter"))
    }

    /// Until when nobody gets a permit, if the provider asked for a pause: no need to wait in line for so long.
    pub fn paused(&self, now: Timestamp) -> Option<Timestamp> {
        let until = Timestamp::from_millis(self.paused_until.load(Ordering::Relaxed));
        (until > now).then_some(until)
    }

    /// The provider asked for a pause: nobody gets a permit before `until`.
    pub fn pause(&self, until: Timestamp) {
        self.paused_until.fetch_max(until.as_millis(), Ordering::Relaxed);
        if let Err(error) = self.slot.cast("rate limiter", Message::Pause(until)) {
            tracing::warn!(%error, "could not tell the rate limiter to pause");
        }
    }

    pub(crate) fn actor(&self, rate: Option<Rate>, clock: Arc<dyn Clock>) -> (LimiterActor, LimiterArguments) {
        (LimiterActor, LimiterArguments { slot: self.slot.clone(), rate, clock })
    }
}

/// What the rate limiter is told.
pub(crate) enum Message {
    /// A lead wants to make a call.
    Acquire(oneshot::Sender<()>),
    /// No permits before this time.
    Pause(Timestamp),
    /// Time may have come for those who wait.
    Grant,
}

pub(crate) struct LimiterActor;

pub(crate) struct LimiterArguments {
    slot: Slot<Message>,
    rate: Option<Rate>,
    clock: Arc<dyn Clock>,
}

pub(crate) struct LimiterState {
    governor: Option<DefaultDirectRateLimiter>,
    clock: Arc<dyn Clock>,
    waiting: VecDeque<oneshot::Sender<()>>,
    paused_until: Option<Instant>,
    /// Whether a `Grant` is on its way.
    armed: bool,
}

impl Actor for LimiterActor {
    type Msg = Message;
    type State = LimiterState;
    type Arguments = LimiterArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: LimiterArguments,
    ) -> Result<LimiterState, ActorProcessingErr> {
        let governor = match arguments.rate {
            None => None,
            Some(rate) => {
                let quota = Quota::with_period(Duration::from_secs_f64(1.0 / rate.per_second))
                    .ok_or("the rate must be above zero")?
                    .allow_burst(rate.burst);
                Some(Governor::direct(quota))
            }
        };
        arguments.slot.occupy(myself);
        Ok(LimiterState {
            governor,
            clock: arguments.clock,
            waiting: VecDeque::new(),
            paused_until: None,
            armed: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut LimiterState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Acquire(reply) => state.waiting.push_back(reply),
            Message::Pause(until) => {
                let until = Instant::now() + until.since(state.clock.now());
                state.paused_until = Some(state.paused_until.map_or(until, |earlier| earlier.max(until)));
            }
            Message::Grant => state.armed = false,
        }
        state.grant(&myself);
        Ok(())
    }
}

impl LimiterState {
    fn grant(&mut self, myself: &ActorRef<Message>) {
        while !self.waiting.is_empty() {
            if let Some(wait) = self.wait() {
                if !self.armed {
                    self.armed = true;
                    myself.send_after(wait, || Message::Grant);
                }
                return;
            }
            if let Some(reply) = self.waiting.pop_front() {
                // A lead that no longer waits leaves its permit unused: slower, never faster, than allowed.
                let _ = reply.send(());
            }
        }
    }

    /// How long until the next permit; none when it was just taken.
    fn wait(&mut self) -> Option<Duration> {
        if let Some(until) = self.paused_until {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Some(left);
            }
            self.paused_until = None;
        }
        let governor = self.governor.as_ref()?;
        governor.check().err().map(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }
}
