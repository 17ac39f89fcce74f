//! The queues: the ways in, what comes out of them, and where what cannot be processed is kept.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dripline_domain::{Feedback, Timestamp};

use super::{Source, StoreError};

/// Where messages come from.
#[async_trait]
pub trait Inbox: Send + Sync + 'static {
    /// Asks for up to `most` messages, waits a moment for them, and hands each over as it arrives.
    /// Returns how many there were.
    async fn pull(&self, most: usize, deliver: &mut (dyn FnMut(Delivery) + Send)) -> Result<usize, StoreError>;
}

/// One message handed to us, to be settled exactly once.
pub struct Delivery {
    /// The subject it was published to.
    pub subject: String,
    /// Its bytes.
    pub payload: Bytes,
    /// Its `Content-Type` header.
    pub content_type: Option<String>,
    /// Its `Nats-Msg-Id`: what its sender says makes two messages one.
    pub message_id: Option<String>,
    /// The trace that it belongs to, by its header [`crate::trace::HEADER`].
    pub trace: Option<String>,
    /// Its sequence number in its stream.
    pub sequence: u64,
    /// When its stream took it.
    pub published: Timestamp,
    /// How often it was delivered, this time included.
    pub deliveries: u64,
    /// How it is settled.
    pub settlement: Settlement,
}

impl Delivery {
    /// Answers for it.
    pub fn settle(self, how: Settle) {
        self.settlement.settle(how);
    }
}

/// The duty to answer for one message. Dropped without an answer (a panic), it asks for redelivery.
pub struct Settlement(Option<Box<dyn Acknowledge>>);

/// How a message is answered for; the client's side of a [`Settlement`].
pub trait Acknowledge: Send + Sync + 'static {
    /// Sends the answer; must not block.
    fn settle(self: Box<Self>, how: Settle);
    /// Says that it is still ours, so that it is not delivered again yet; must not block.
    fn in_progress(&self);
}

/// The closed set of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// Done: the next state is on disk.
    Ack,
    /// Deliver again, no sooner than this.
    Retry(Duration),
    /// Never deliver again: it is in `REJECTED`.
    Terminate,
}

impl Settlement {
    /// Wraps the client's side.
    pub fn new(acknowledge: impl Acknowledge) -> Self {
        Self(Some(Box::new(acknowledge)))
    }

    /// Says that it will be answered later.
    pub fn in_progress(&self) {
        if let Some(acknowledge) = &self.0 {
            acknowledge.in_progress();
        }
    }

    /// Answers.
    pub fn settle(mut self, how: Settle) {
        if let Some(acknowledge) = self.0.take() {
            acknowledge.settle(how);
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        if let Some(acknowledge) = self.0.take() {
            acknowledge.settle(Settle::Retry(Duration::from_secs(1)));
        }
    }
}

/// Where what cannot be processed is kept, with the reason.
#[async_trait]
pub trait Rejected: Send + Sync + 'static {
    /// Keeps subject, bytes and reason; on disk when it returns.
    async fn keep(&self, rejection: Rejection) -> Result<(), StoreError>;
}

/// A message that cannot be processed.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// A word for metrics: `invalid_email`, `unknown_sequence`, `failed_repeatedly`, …
    pub code: &'static str,
    /// For people.
    pub reason: String,
    /// The original subject.
    pub subject: String,
    /// The original bytes.
    pub payload: Bytes,
    /// The original content type.
    pub content_type: Option<String>,
}

impl Rejection {
    /// Rejects this message.
    pub fn of(code: &'static str, reason: impl Into<String>, delivery: &Delivery) -> Self {
        Self {
            code,
            reason: reason.into(),
            subject: delivery.subject.clone(),
            payload: delivery.payload.clone(),
            content_type: delivery.content_type.clone(),
        }
    }
}

/// The way in for the gateway and importers: what is taken is on disk.
#[async_trait]
pub trait FrontDoor: Send + Sync + 'static {
    /// Puts one lead into the queue and waits until it is on disk. Calls that arrive together share one batch.
    async fn submit(&self, lead: Submission) -> Result<(), FrontDoorError>;
    /// Whether the queue can be reached now.
    async fn ready(&self) -> Result<(), FrontDoorError>;
}

/// A raw lead on its way into the queue.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The last part of `leads.new.<source>`; none for `leads.new`.
    pub source: Option<String>,
    /// As the source sent it.
    pub payload: Bytes,
    /// `application/json` or `application/msgpack`.
    pub content_type: &'static str,
    /// Two submissions with the same id, minutes apart, are one (`Nats-Msg-Id`).
    pub id: Option<String>,
    /// The trace that it belongs to; see [`crate::trace::current`].
    pub trace: Option<String>,
}

/// Why a lead or an event was not taken: unless it is too large, the source must try again.
#[derive(Debug, thiserror::Error)]
pub enum FrontDoorError {
    /// The queue is at its limit (discard new). Nothing was kept.
    #[error("the queue is full")]
    Full,
    /// More than the queue takes as one message. Nothing was kept.
    #[error("{bytes} bytes are more than the {most} that the queue takes")]
    TooLarge {
        /// It has so many.
        bytes: usize,
        /// It may have so many.
        most: usize,
    },
    /// The queue cannot be reached, or did not answer in time: then what was sent may be in it all the same.
    #[error("the queue is unavailable")]
    Unavailable(#[source] Source),
}

/// The way in for the webhook bridge: what is taken is on disk in `FEEDBACK`.
#[async_trait]
pub trait FeedbackDoor: Send + Sync + 'static {
    /// Puts these events into the queue, in order, and waits until all are on disk. Calls that arrive together share a
    /// batch.
    async fn submit(&self, events: Vec<RawFeedback>) -> Result<(), FrontDoorError>;
}

/// One event of a provider on its way into the queue: verified, not interpreted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFeedback {
    /// The last part of `feedback.<provider>`.
    pub provider: String,
    /// The event as the provider sent it.
    pub payload: Bytes,
}

/// Reads the events of every provider, as they stand in `FEEDBACK`.
pub trait FeedbackReader: Send + Sync + 'static {
    /// What an event says, in our terms; one for each person it speaks of, none where it says nothing that we need.
    ///
    /// # Errors
    /// It is not an event of this provider, or there is no such provider.
    fn read(&self, provider: &str, payload: &[u8]) -> Result<Vec<Feedback>, FeedbackError>;
}

/// An event that cannot be read: for people, naming the field. It is kept in `REJECTED`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FeedbackError(pub String);
