//! The way back for the gateway: what providers tell, and what people want, goes into `FEEDBACK`.
use async_nats::HeaderMap;
use async_trait::async_trait;
use dripline_actors::ports::{FeedbackDoor, RawFeedback};
use futures_util::future::try_join_all;

use crate::batch::{self, BatchMessage};
use crate::batch_queue::{Answer, BatchQueue};
use crate::connect::Connections;
use crate::topology::FEEDBACK_SUBJECT;

/// Deliveries that may wait for their batch.
const WAITING: usize = 64;

/// The stream `FEEDBACK`, in batches.
pub struct JetStreamFeedbackDoor(BatchQueue);

impl JetStreamFeedbackDoor {
    /// Starts the task that fills and publishes batches; it ends when this is dropped.
    pub fn open(connections: &Connections) -> Self {
        Self(BatchQueue::open(connections, WAITING))
    }
}

#[async_trait]
impl FeedbackDoor for JetStreamFeedbackDoor {
    /// Stored all, or an error. After an error some may be stored: events count once, so all may be sent again.
    async fn submit(&self, events: Vec<RawFeedback>) -> Answer {
        let mut parcels = Vec::new();
        let mut messages = events.into_iter().map(message).peekable();
        while messages.peek().is_some() {
            parcels.push(messages.by_ref().take(batch::MOST).collect());
        }
        // Begun in order, and so stored in order.
        try_join_all(parcels.into_iter().map(|parcel| self.0.submit(parcel))).await.map(drop)
    }
}

fn message(event: RawFeedback) -> BatchMessage {
    let subject = format!("{FEEDBACK_SUBJECT}.{}", event.provider);
    BatchMessage { subject, headers: HeaderMap::new(), payload: event.payload }
}
