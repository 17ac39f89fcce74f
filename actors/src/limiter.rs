//! The rate limiter: no email leaves without its permit, first come, first served.
//!
//! Three things bound the rate of this process: its share of the configured rate, which depends on how many processes
//! are alive; what a provider's "too fast" has taught it (additive increase, multiplicative decrease); and a pause, if a
//! provider asked for one.
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dripline_domain::Timestamp;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter as Governor};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::metrics::Metrics;
use crate::ports::Clock;
use crate::pump::Room;
use crate::slot::{NotRunning, Slot};

/// How fast emails may leave, of all processes together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Emails a second, above zero.
    pub per_second: f64,
    /// So many may leave at once after a pause; at least 1.
    pub burst: NonZeroU32,
}

/// After a "too fast" that names no time, nobody gets a permit for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a cut rate creeps back.
const CREEP_EVERY: Duration = Duration::from_secs(1);
/// How often permits that were taken unasked are counted.
const PACE_EVERY: Duration = Duration::from_millis(500);
/// By so much each time, of the rate before the cut.
const CREEP: f64 = 0.05;
/// A rate is not cut below this, in emails a second.
const SLOWEST: f64 = 0.5;
/// Where no rate is configured, a cut is forgotten once it has crept up to so many times the rate before it.
const FORGOTTEN_AT: f64 = 2.0;
/// The pumps hold no more messages than get their permit within this: well below `ack_wait`, or they would be delivered
/// again while they wait; and below a second, since what is told of a lead waits as long as its actor does.
const HOLD: Duration = Duration::from_millis(750);

/// Reaches the rate limiter.
#[derive(Clone)]
pub struct RateLimiter {
    slot: Slot<Message>,
    shown: Arc<Shown>,
    metrics: Arc<Metrics>,
}

/// What can be read without asking the actor.
#[derive(Default)]
struct Shown {
    /// Unix milliseconds; 0 when it was never paused.
    paused_until: AtomicI64,
    /// How many messages a pump may hold; `u64::MAX` for no limit.
    hold: AtomicU64,
    /// Neither a rate nor a pause holds.
    unlimited: AtomicBool,
    /// Permits that were taken while nothing held.
    permits: AtomicU64,
}

impl RateLimiter {
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Self {
        Self { slot: Slot::empty(), shown: Arc::default(), metrics: Arc::clone(metrics) }
    }

    /// Waits for a permit to make one call.
    pub async fn permit(&self) -> Result<(), NotRunning> {
        // Nothing to wait for, so nobody to ask.
        if self.shown.unlimited.load(Ordering::Acquire) {
            self.shown.permits.fetch_add(1, Ordering::Relaxed);
            self.metrics.limiter_wait.record(0.0);
            return Ok(());
        }
        let began = Instant::now();
        let (reply, answer) = oneshot::channel();
        self.slot.cast("rate limiter", Message::Acquire(reply))?;
        answer.await.map_err(|_| NotRunning("rate limiter"))?;
        self.metrics.limiter_wait.record(began.elapsed());
        Ok(())
    }

    /// Until when nobody gets a permit, if a provider asked for a pause: no need to wait in line for so long.
    pub fn paused(&self, now: Timestamp) -> Option<Timestamp> {
        let until = Timestamp::from_millis(self.shown.paused_until.load(Ordering::Relaxed));
        (until > now).then_some(until)
    }

    /// A provider said that we are too fast: nobody gets a permit before `until`, and then more slowly.
    pub fn slow_down(&self, until: Timestamp) {
        self.tell(Message::SlowDown(until));
    }

    /// Another process was told to pause: so do we.
    pub(crate) fn pause(&self, until: Timestamp) {
        self.tell(Message::Pause(until));
    }

    /// The part of the configured rate that is ours, from 0 to 1; none while it is not known.
    pub(crate) fn share(&self, share: Option<f64>) {
        self.tell(Message::Share(share));
    }

    /// How many messages a pump may hold.
    pub(crate) fn room(&self, now: Timestamp) -> Room {
        match self.paused(now) {
            Some(until) => Room::Closed(until),
            None => Room::AtMost(usize::try_from(self.shown.hold.load(Ordering::Relaxed)).unwrap_or(usize::MAX).max(1)),
        }
    }

    fn tell(&self, message: Message) {
        if let Err(error) = self.slot.cast("rate limiter", message) {
            tracing::debug!(%error, "the rate limiter could not be told");
        }
    }

    pub(crate) fn actor(&self, rate: Option<Rate>, clock: Arc<dyn Clock>) -> (LimiterActor, LimiterArguments) {
        (LimiterActor, LimiterArguments { handle: self.clone(), rate, clock })
    }
}

/// What the rate limiter is told.
pub(crate) enum Message {
    /// A lead wants to make a call.
    Acquire(oneshot::Sender<()>),
    /// A provider said that we are too fast.
    SlowDown(Timestamp),
    /// No permits before this time.
    Pause(Timestamp),
    /// Our part of the configured rate.
    Share(Option<f64>),
    /// Time may have come for those who wait.
    Grant,
    /// A cut rate creeps back.
    Creep,
    /// Count the permits that were taken unasked.
    Pace,
}

pub(crate) struct LimiterActor;

pub(crate) struct LimiterArguments {
    handle: RateLimiter,
    rate: Option<Rate>,
    clock: Arc<dyn Clock>,
}

pub(crate) struct LimiterState {
    shown: Arc<Shown>,
    metrics: Arc<Metrics>,
    rate: Option<Rate>,
    /// None: we do not know how many share the rate, so nobody gets a permit.
    share: Option<f64>,
    cut: Option<Cut>,
    /// What of it all holds now; none for as fast as can be.
    governor: Option<DefaultDirectRateLimiter>,
    clock: Arc<dyn Clock>,
    waiting: VecDeque<oneshot::Sender<()>>,
    paused_until: Option<Instant>,
    pace: Pace,
    /// Of the permits taken unasked, those that are in `pace`.
    counted: u64,
    /// Whether a `Grant` is on its way.
    armed: bool,
}

/// A rate that a provider found too fast, and what it is now.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cut {
    before: f64,
    now: f64,
    at: Instant,
}

/// Permits of the latest full second: the rate to cut where none is configured.
struct Pace {
    since: Instant,
    permits: u32,
    last: f64,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { since: now, permits: 0, last: 0.0 }
    }

    fn count(&mut self, now: Instant, permits: u32) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= Duration::from_secs(1) {
            self.last = f64::from(self.permits) / elapsed.as_secs_f64();
            (self.since, self.permits) = (now, 0);
        }
        self.permits += permits;
    }

    /// Emails a second, lately.
    fn rate(&mut self, now: Instant) -> f64 {
        self.count(now, 0);
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64();
        // A beginning second says something once it is a tenth old.
        if elapsed > 0.1 { self.last.max(f64::from(self.permits) / elapsed) } else { self.last }
    }
}

impl Actor for LimiterActor {
    type Msg = Message;
    type State = LimiterState;
    type Arguments = LimiterArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        LimiterArguments { handle, rate, clock }: LimiterArguments,
    ) -> Result<LimiterState, ActorProcessingErr> {
        if rate.is_some_and(|rate| !(rate.per_second > 0.0 && rate.per_second.is_finite())) {
            return Err("the rate must be above zero".into());
        }
        let mut state = LimiterState {
            shown: Arc::clone(&handle.shown),
            metrics: Arc::clone(&handle.metrics),
            rate,
            // Without a rate there is nothing to share.
            share: rate.is_none().then_some(1.0),
            cut: None,
            governor: None,
            clock,
            waiting: VecDeque::new(),
            paused_until: None,
            pace: Pace::new(Instant::now()),
            counted: handle.shown.permits.load(Ordering::Relaxed),
            armed: false,
        };
        state.rebuild();
        myself.send_interval(PACE_EVERY, || Message::Pace);
        handle.slot.occupy(myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut LimiterState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Acquire(reply) => state.waiting.push_back(reply),
            Message::SlowDown(until) => {
                let now = state.clock.now();
                state.pause(until.max(now.plus(PAUSE)));
                if state.cut() {
                    myself.send_after(CREEP_EVERY, || Message::Creep);
                }
            }
            Message::Pause(until) => state.pause(until),
            Message::Share(share) => {
                if state.rate.is_some() && state.share != share {
                    state.share = share;
                    state.rebuild();
                    tracing::info!(share, per_second = state.per_second(), "this process's share of the rate");
                }
            }
            Message::Grant => state.armed = false,
            Message::Pace => state.count_unasked(),
            Message::Creep => {
                if state.creep() {
                    myself.send_after(CREEP_EVERY, || Message::Creep);
                }
            }
        }
        state.grant(&myself);
        let unlimited = state.per_second().is_none() && state.paused_until.is_none();
        state.shown.unlimited.store(unlimited, Ordering::Release);
        Ok(())
    }
}

impl LimiterState {
    fn count_unasked(&mut self) {
        let taken = self.shown.permits.load(Ordering::Relaxed);
        let new = u32::try_from(taken - self.counted).unwrap_or(u32::MAX);
        self.counted = taken;
        self.pace.count(Instant::now(), new);
        // A pause that is over is forgotten here, where nobody waits for it.
        if self.paused_until.is_some_and(|until| until <= Instant::now()) {
            self.paused_until = None;
        }
    }

    fn pause(&mut self, until: Timestamp) {
        self.shown.paused_until.fetch_max(until.as_millis(), Ordering::Relaxed);
        let until = Instant::now() + until.since(self.clock.now());
        self.paused_until = Some(self.paused_until.map_or(until, |earlier| earlier.max(until)));
    }

    /// Emails a second that are ours to send, without what a provider has taught; none for as many as can be.
    fn ceiling(&self) -> Option<f64> {
        self.rate.map(|rate| rate.per_second * self.share.unwrap_or(0.0))
    }

    fn per_second(&self) -> Option<f64> {
        let cut = self.cut.map(|cut| cut.now);
        match (self.ceiling(), cut) {
            (Some(ceiling), Some(cut)) => Some(ceiling.min(cut)),
            (ceiling, cut) => ceiling.or(cut),
        }
    }

    /// Halves the rate, once for all that the provider says within a second. Whether the rate was whole until now.
    fn cut(&mut self) -> bool {
        let now = Instant::now();
        self.count_unasked();
        let lately = self.pace.rate(now).max(SLOWEST);
        let (before, whole) = match self.cut {
            Some(cut) if now.saturating_duration_since(cut.at) < PAUSE => return false,
            Some(cut) => (cut.before, false),
            None => (self.ceiling().unwrap_or(lately).min(lately), true),
        };
        let halved = (self.cut.map_or(before, |cut| cut.now) / 2.0).max(SLOWEST);
        self.cut = Some(Cut { before, now: halved, at: now });
        self.rebuild();
        tracing::warn!(per_second = self.per_second(), "the provider is too slow for us: sending more slowly");
        whole
    }

    /// Whether there is more to come.
    fn creep(&mut self) -> bool {
        let Some(cut) = &mut self.cut else { return false };
        if self.paused_until.is_none_or(|until| until <= Instant::now()) {
            cut.now += (cut.before * CREEP).max(SLOWEST * CREEP);
        }
        let enough = self.rate.map_or(cut.before * FORGOTTEN_AT, |rate| rate.per_second * self.share.unwrap_or(1.0));
        if cut.now >= enough {
            self.cut = None;
            tracing::info!("sending at full speed again");
        }
        self.rebuild();
        self.cut.is_some()
    }

    /// The new rate holds from now on, with nothing saved up: whoever gains a share must not send its burst at once.
    fn rebuild(&mut self) {
        let per_second = self.per_second();
        self.governor = per_second.filter(|rate| *rate > 0.0).and_then(|per_second| {
            let quota = Quota::with_period(Duration::from_secs_f64(1.0 / per_second))?;
            let burst =
                self.rate.map_or(per_second / 10.0, |rate| f64::from(rate.burst.get()) * per_second / rate.per_second);
            let burst = NonZeroU32::new(ceil(burst)).unwrap_or(NonZeroU32::MIN);
            let governor = Governor::direct(quota.allow_burst(burst));
            let _ = governor.check_n(burst);
            Some(governor)
        });
        let hold = per_second.map_or(u64::MAX, |rate| u64::from(ceil(rate * HOLD.as_secs_f64())));
        self.shown.hold.store(hold, Ordering::Relaxed);
        self.metrics.limiter_rate.set(per_second.unwrap_or(f64::INFINITY));
    }

    fn grant(&mut self, myself: &ActorRef<Message>) {
        let mut granted = 0;
        while !self.waiting.is_empty() {
            match self.wait() {
                Wait::None => {}
                Wait::For(wait) => {
                    if !self.armed {
                        self.armed = true;
                        myself.send_after(wait, || Message::Grant);
                    }
                    break;
                }
                // The next share brings them on.
                Wait::ForShare => break,
            }
            if let Some(reply) = self.waiting.pop_front() {
                // A lead that no longer waits leaves its permit unused: slower, never faster, than allowed.
                let _ = reply.send(());
                granted += 1;
            }
        }
        if granted > 0 {
            self.pace.count(Instant::now(), granted);
        }
    }

    /// How long until the next permit; `Wait::None` when it was just taken.
    fn wait(&mut self) -> Wait {
        if let Some(until) = self.paused_until {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Wait::For(left);
            }
            self.paused_until = None;
        }
        match (&self.governor, self.per_second()) {
            (Some(governor), _) => match governor.check() {
                Ok(()) => Wait::None,
                Err(not_until) => Wait::For(not_until.wait_time_from(DefaultClock::default().now())),
            },
            (None, None) => Wait::None,
            (None, Some(_zero)) => Wait::ForShare,
        }
    }
}

enum Wait {
    None,
    For(Duration),
    ForShare,
}

/// Rates and bursts are far below 2^32; beyond it, the cast saturates.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn ceil(number: f64) -> u32 {
    number.ceil() as u32
}
