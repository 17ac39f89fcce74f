//! The pumps: pull messages, hand them over, and pull no more than the leads can take.
//!
//! What is at work at a time is bounded by a pump's places, and so is memory. A message may hold many leads' timers: what is
//! left of it waits in the pump, and its queue is told so, that it is not delivered again meanwhile.
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dripline_domain::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

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

    /// Adds what is free, as long as no more than `most` are taken in all.
    fn take_more(&self, taken: &mut OwnedSemaphorePermit, most: usize) {
        let free = self.free.available_permits().min(most.saturating_sub(self.taken()));
        if let Ok(more) = self.free().try_acquire_many_owned(u32::try_from(free).unwrap_or(0)) {
            taken.merge(more);
        }
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
    /// How much 64 messages hold, about: a moving average.
    in_64: usize,
    /// When their queue was last told that they are still ours.
    told: Instant,
}

impl Waiting {
    /// Of nothing; the first pull asks for few messages.
    fn new() -> Self {
        Self { messages: VecDeque::new(), rest: VecDeque::new(), in_64: 64 * 64, told: Instant::now() }
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.rest.is_empty()
    }

    fn next(&mut self, consume: &dyn Consume) -> Option<Delivery> {
        if self.rest.is_empty() {
            self.rest.extend(consume.split(self.messages.pop_front()?));
            self.in_64 = self.in_64 - self.in_64 / 8 + 8 * self.rest.len();
        }
        self.rest.pop_front()
    }

    /// How many messages hold so much, about; at least one.
    fn messages_for(&self, count: usize) -> usize {
        (64 * count / self.in_64.max(64)).max(1)
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
            Room::AtMost(most) if most > places.taken() => most,
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
        let quarter = quarter.min(u32::try_from(most - places.taken()).unwrap_or(u32::MAX));
        let mut taken = tokio::select! {
            taken = places.free().acquire_many_owned(quarter) => match taken {
                Ok(taken) => taken,
                Err(_closed) => return,
            },
            () = tokio::time::sleep(*silence) => return,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        places.take_more(&mut taken, most);
        let metrics = &self.metrics;
        let hand_over = |taken: &mut OwnedSemaphorePermit, waiting: &mut Waiting| {
            while taken.num_permits() > 0
                && let Some(mut delivery) = waiting.next(&**consume)
            {
                let (settlement, metrics) = (delivery.settlement, Arc::clone(metrics));
                delivery.settlement = Settlement::new(Placed { settlement, metrics, _place: taken.split(1) });
                consume.consume(delivery);
            }
        };
        hand_over(&mut taken, waiting);
        if taken.num_permits() == 0 {
            return;
        }
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        let mut deliver = |delivery| {
            // The other end lives longer.
            let _ = arrived.send(delivery);
        };
        let mut pulling = inbox.pull(waiting.messages_for(taken.num_permits()), &mut deliver);
        let pulled = loop {
            tokio::select! {
                biased;
                Some(delivery) = arrivals.recv() => waiting.messages.push_back(delivery),
                pulled = &mut pulling => break pulled,
                // More came than there was room for, and the pull waits for still more.
                () = tokio::time::sleep(LOOK_AGAIN), if !waiting.is_empty() => {
                    if let Room::AtMost(most) = consume.room() {
                        places.take_more(&mut taken, most);
                    }
                    waiting.tell_in_progress(*silence);
                }
            }
            hand_over(&mut taken, waiting);
        };
        drop(pulling);
        while let Ok(delivery) = arrivals.try_recv() {
            waiting.messages.push_back(delivery);
        }
        hand_over(&mut taken, waiting);
        if let Err(error) = pulled {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;
    use crate::ports::StoreError;

    /// Gives so many messages, then waits for more that never come.
    struct Queue(Vec<&'static str>);

    #[async_trait]
    impl Inbox for Queue {
        async fn pull(&self, _: usize, deliver: &mut (dyn FnMut(Delivery) + Send)) -> Result<usize, StoreError> {
            for payload in &self.0 {
                deliver(Delivery {
                    subject: String::new(),
                    payload: Bytes::from_static(payload.as_bytes()),
                    content_type: None,
                    message_id: None,
                    trace: None,
                    sequence: 1,
                    published: Timestamp::from_millis(0),
                    deliveries: 1,
                    settlement: Settlement::new(Nobody),
                });
            }
            std::future::pending().await
        }
    }

    struct Nobody;

    impl Acknowledge for Nobody {
        fn settle(self: Box<Self>, _: Settle) {}
        fn in_progress(&self) {}
    }

    /// A message holds as much as it has bytes; each is done at once.
    #[derive(Default)]
    struct Leads {
        done: AtomicUsize,
        at_once: AtomicUsize,
    }

    impl Consume for Leads {
        fn name(&self) -> &'static str {
            "test"
        }

        fn split(&self, delivery: Delivery) -> Vec<Delivery> {
            let share = crate::shares::shares(delivery);
            let payload = share().payload;
            (0..payload.len()).map(|byte| Delivery { payload: payload.slice(byte..=byte), ..share() }).collect()
        }

        fn consume(&self, delivery: Delivery) {
            self.done.fetch_add(1, Ordering::Relaxed);
            delivery.settle(Settle::Ack);
        }

        fn room(&self) -> Room {
            Room::AtMost(self.at_once.load(Ordering::Relaxed))
        }
    }

    #[tokio::test]
    async fn what_came_in_one_message_goes_on_while_the_pull_waits_for_more() {
        let leads = Arc::new(Leads::default());
        let (_goes_on, stopping) = watch::channel(false);
        leads.at_once.store(2, Ordering::Relaxed);
        let arguments = PumpArguments {
            inbox: Arc::new(Queue(vec!["abcde", "fgh"])),
            consume: Arc::clone(&leads) as _,
            places: Places::new(10),
            silence: Duration::from_secs(10),
            stopping,
        };
        let metrics = Arc::new(PumpMetrics::new("test"));
        let mut pump = PumpState { arguments, waiting: Waiting::new(), metrics };
        let all = async {
            while leads.done.load(Ordering::Relaxed) < 8 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = pump.pull() => panic!("the queue gives nothing more"),
            all = tokio::time::timeout(Duration::from_mins(1), all) => all.unwrap(),
        }
    }

    #[test]
    fn what_messages_hold_on_average_says_how_many_to_ask_for() {
        let leads = Leads::default();
        let mut waiting = Waiting::new();
        assert_eq!(waiting.messages_for(640), 10);
        let mut hold = |payload: &'static [u8], count: usize| {
            for _ in 0..count {
                let settlement = Settlement::new(Nobody);
                let (subject, payload) = (String::new(), Bytes::from_static(payload));
                let (published, sequence, deliveries) = (Timestamp::from_millis(0), 1, 1);
                let (content_type, message_id, trace) = (None, None, None);
                waiting.messages.push_back(Delivery {
                    subject,
                    payload,
                    content_type,
                    message_id,
                    trace,
                    sequence,
                    published,
                    deliveries,
                    settlement,
                });
                while waiting.next(&leads).is_some() {}
            }
            waiting.messages_for(640)
        };
        assert!((570..=640).contains(&hold(b"a", 100)));
        assert!((150..=160).contains(&hold(b"abcd", 100)));
    }
}
