//! The pumps: pull messages, hand them over, and pull no more than the leads can take.
//!
//! A pump holds at most its capacity of unsettled messages, so that memory is bounded and no message is redelivered
//! while it waits its turn.
use std::sync::Arc;
use std::time::Duration;

use dripline_domain::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::Chain;
use crate::metrics::{PumpMetrics, number};
use crate::ports::{Acknowledge, Delivery, Inbox, Settle, Settlement};

/// A pump whose queue is away asks again after this.
const AWAY: Duration = Duration::from_secs(1);

/// Takes one message over; it settles it, now or later.
pub(crate) trait Consume: Send + Sync + 'static {
    /// The pump's name in logs.
    fn name(&self) -> &'static str;
    /// Must not block: it hands over.
    fn consume(&self, delivery: Delivery);
    /// How many messages may be at work now.
    fn room(&self) -> Room {
        Room::AtMost(usize::MAX)
    }
}

/// How many messages may be at work.
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

/// A pump's places for unsettled messages; they outlive the pump's restarts.
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

    /// Messages not settled yet, and room asked for by a pull under way.
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
    /// Turns true when the engine stops.
    pub(crate) stopping: watch::Receiver<bool>,
}

pub(crate) struct PumpState {
    inbox: Arc<dyn Inbox>,
    consume: Arc<dyn Consume>,
    places: Places,
    stopping: watch::Receiver<bool>,
    metrics: Arc<PumpMetrics>,
}

impl Actor for PumpActor {
    type Msg = Message;
    type State = PumpState;
    type Arguments = PumpArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        PumpArguments { inbox, consume, places, stopping }: PumpArguments,
    ) -> Result<PumpState, ActorProcessingErr> {
        myself.cast(Message::Pull)?;
        let metrics = Arc::new(PumpMetrics::new(consume.name()));
        Ok(PumpState { inbox, consume, places, stopping, metrics })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        Message::Pull: Message,
        state: &mut PumpState,
    ) -> Result<(), ActorProcessingErr> {
        state.pull().await;
        if !*state.stopping.borrow() {
            myself.cast(Message::Pull)?;
        }
        Ok(())
    }
}

impl PumpState {
    async fn pull(&mut self) {
        self.metrics.held.set(number(self.places.taken()));
        let most = match self.consume.room() {
            Room::AtMost(most) if most > self.places.taken() => most - self.places.taken(),
            Room::AtMost(_) | Room::Closed(_) => {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                    _ = self.stopping.wait_for(|stopping| *stopping) => {}
                }
                return;
            }
        };
        // A quarter free before the next pull: large pulls cost the server less than many small ones.
        let quarter = (self.places.most / 4).max(1).min(u32::try_from(most).unwrap_or(u32::MAX));
        let mut places = tokio::select! {
            places = self.places.free().acquire_many_owned(quarter) => match places {
                Ok(places) => places,
                Err(_closed) => return,
            },
            _ = self.stopping.wait_for(|stopping| *stopping) => return,
        };
        let free = self.places.free.available_permits().min(most - places.num_permits());
        if let Ok(more) = self.places.free().try_acquire_many_owned(u32::try_from(free).unwrap_or(0)) {
            places.merge(more);
        }
        let (consume, metrics) = (Arc::clone(&self.consume), Arc::clone(&self.metrics));
        let most = places.num_permits();
        let mut deliver = |mut delivery: Delivery| {
            let place = places.split(1);
            let metrics = Arc::clone(&metrics);
            delivery.settlement = Settlement::new(Placed { settlement: delivery.settlement, metrics, _place: place });
            consume.consume(delivery);
        };
        if let Err(error) = self.inbox.pull(most, &mut deliver).await {
            tracing::warn!(pump = self.consume.name(), error = %Chain(&error), "the queue is away; asking again");
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
}
