//! The pumps: pull messages, hand them over, and pull no more than the leads can take.
//!
//! What is at work at a time is bounded by a pump's places, and so is memory. A message may hold many leads' timers: what is
//! left of it waits in the pump, and its queue is told so, that it is not delivered again meanwhile.
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dripline_domain::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::Chain;
use crate::metrics::{PumpMetrics, number};
use crate::ports::{Acknowledge, Delivery, Inbox, Settle, Settlement};

/// A pump whose queue is away asks again after this.
const AWAY: Duration = Duration::from_secs(1);

/// Takes messages over; it settles them, now or later.
pub(crate) trait Consume: Send + Sync + 'static {
    /// The pump's name in logs.
    fn name(&self) -> &'static str;
    /// What a message holds: each is at work, and settled, by itself. At least one.
    fn split(&self, delivery: Delivery) -> Vec<Delivery> {
        vec![delivery]
    }
    /// Must not block: it hands over.
    fn consume(&self, delivery: Delivery);
    /// How many may be at work now.
    fn room(&self) -> Room {
        Room::AtMost(usize::MAX)
    }
}

/// How many may be at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// None before this time.
    Closed(Timestamp),
    /// So many.
    AtMost(usize),
}

impl Room {
    /// What both allow.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Closed(one), Self::Closed(other)) => Self::Closed(one.max(other)),
            (closed @ Self::Closed(_), Self::AtMost(_)) | (Self::AtMost(_), closed @ Self::Closed(_)) => closed,
            (Self::AtMost(one), Self::AtMost(other)) => Self::AtMost(one.min(other)),
        }
    }
}

/// A pump that may not pull looks again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A pump's places for what is at work; they outlive the pump's restarts.
#[derive(Clone)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    most: u32,
}

impl Places {
    pub(crate) fn new(most: usize) -> Self {
        let most = u32::try_from(most.max(1)).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(most as usize)), most }
    }

    /// What is not settled yet, and room asked for by a pull under way.
    pub(crate) fn taken(&self) -> usize {
        (self.most as usize).saturating_sub(self.free.available_permits())
    }

    fn free(&self) -> Arc<Semaphore> {
        Arc::clone(&self.free)
    }
}

/// What a pump is told.
pub(crate) enum Message {
    /// Pull once more.
    Pull,
}

pub(crate) struct PumpActor;

pub(crate) struct PumpArguments {
    pub(crate) inbox: Arc<dyn Inbox>,
    pub(crate) consume: Arc<dyn Consume>,
    pub(crate) places: Places,
    /// How long a message may be held without a word to its queue.
    pub(crate) silence: Duration,
    /// Turns true when the engine stops.
    pub(crate) stopping: watch::Receiver<bool>,
}

pub(crate) struct PumpState {
    arguments: PumpArguments,
    waiting: Waiting,
    metrics: Arc<PumpMetrics>,
}

/// What was pulled and has no place yet: how much a message holds shows only when it is here.
struct Waiting {
    messages: VecDeque<Delivery>,
    /// What is left of the message before them.
    rest: VecDeque<Delivery>,
    /// How much eight messages hold: a moving average.
    in_eight: usize,
    /// When their queue was last told that they are still ours.
    told: Instant,
}

impl Waiting {
    /// Of nothing; the first pull asks for few messages.
    fn new() -> Self {
        Self { messages: VecDeque::new(), rest: VecDeque::new(), in_eight: 8 * 64, told: Instant::now() }
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.rest.is_empty()
    }

    fn next(&mut self, consume: &dyn Consume) -> Option<Delivery> {
        if self.rest.is_empty() {
            self.rest.extend(consume.split(self.messages.pop_front()?));
            self.in_eight = self.in_eight - self.in_eight.div_ceil(8) + self.rest.len();
        }
        self.rest.pop_front()
    }

    /// How many messages hold so much, about; at least one.
    fn messages_for(&self, count: usize) -> usize {
        (8 * count / self.in_eight.max(8)).max(1)
    }

    fn tell_in_progress(&mut self, silence: Duration) {
        if self.told.elapsed() < silence {
            return;
        }
        self.told = Instant::now();
        // What is left of one message speaks for all of it.
        for delivery in self.rest.front().into_iter().chain(&self.messages) {
            delivery.settlement.in_progress();
        }
    }
}

impl Actor for PumpActor {
    type Msg = Message;
    type State = PumpState;
    type Arguments = PumpArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: PumpArguments,
    ) -> Result<PumpState, ActorProcessingErr> {
        myself.cast(Message::Pull)?;
        let metrics = Arc::new(PumpMetrics::new(arguments.consume.name()));
        Ok(PumpState { arguments, waiting: Waiting::new(), metrics })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        Message::Pull: Message,
        state: &mut PumpState,
    ) -> Result<(), ActorProcessingErr> {
        state.pull().await;
        if !*state.arguments.stopping.borrow() {
            myself.cast(Message::Pull)?;
        }
        Ok(())
    }
}

impl PumpState {
    async fn pull(&mut self) {
        let PumpArguments { inbox, consume, places, silence, stopping } = &mut self.arguments;
        let waiting = &mut self.waiting;
        self.metrics.held.set(number(places.taken()));
        waiting.tell_in_progress(*silence);
        let most = match consume.room() {
            Room::AtMost(most) if most > places.taken() => most - places.taken(),
            Room::AtMost(_) | Room::Closed(_) => {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                    _ = stopping.wait_for(|stopping| *stopping) => {}
                }
                return;
            }
        };
        // A quarter free before the next pull: large pulls cost the server less than many small ones.
        let quarter = if waiting.is_empty() { (places.most / 4).max(1) } else { 1 };
        let quarter = quarter.min(u32::try_from(most).unwrap_or(u32::MAX));
        let mut taken = tokio::select! {
            taken = places.free().acquire_many_owned(quarter) => match taken {
                Ok(taken) => taken,
                Err(_closed) => return,
            },
            () = tokio::time::sleep(*silence) => return,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let free = places.free.available_permits().min(most - taken.num_permits());
        if let Ok(more) = places.free().try_acquire_many_owned(u32::try_from(free).unwrap_or(0)) {
            taken.merge(more);
        }
        let metrics = &self.metrics;
        let mut hand_over = |waiting: &mut Waiting| {
            while taken.num_permits() > 0
                && let Some(mut delivery) = waiting.next(&**consume)
            {
                let (settlement, metrics) = (delivery.settlement, Arc::clone(metrics));
                delivery.settlement = Settlement::new(Placed { settlement, metrics, _place: taken.split(1) });
                consume.consume(delivery);
            }
            taken.num_permits()
        };
        let left = hand_over(waiting);
        if left == 0 {
            return;
        }
        let most = waiting.messages_for(left);
        let mut deliver = |delivery: Delivery| {
            waiting.messages.push_back(delivery);
            hand_over(waiting);
        };
        if let Err(error) = inbox.pull(most, &mut deliver).await {
            tracing::warn!(pump = consume.name(), error = %Chain(&error), "the queue is away; asking again");
            tokio::time::sleep(AWAY).await;
        }
    }
}

/// A settlement that frees the message's place in its pump.
struct Placed {
    settlement: Settlement,
    metrics: Arc<PumpMetrics>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Acknowledge for Placed {
    fn settle(self: Box<Self>, how: Settle) {
        self.metrics.settled(how);
        self.settlement.settle(how);
    }

    fn in_progress(&self) {
        self.settlement.in_progress();
    }
}
