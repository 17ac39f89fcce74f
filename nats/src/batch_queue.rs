//! A way into a stream for many at once: what arrives together shares one batch, and so one fsync.
use std::sync::Arc;

use async_nats::Client;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::{self, ErrorCode};
use dripline_actors::ports::FrontDoorError;
use tokio::sync::{mpsc, oneshot, watch};

use crate::batch::{self, BatchError, BatchMessage, publish_batch};
use crate::connect::Connections;
use crate::topology::QUEUE_MESSAGE_BYTES;

/// Payload of a batch, in bytes, unless its first parcel alone has more: what is on its way to the server is in memory
/// twice.
const BATCH_BYTES: usize = 8 << 20;

/// The most that a queue's stream takes as one message, less room for headers.
const MOST_BYTES: usize = QUEUE_MESSAGE_BYTES as usize - 4_096;

pub(crate) type Answer = Result<(), FrontDoorError>;

/// Messages that are stored together or not at all: from 1 to [`batch::MOST`].
type Parcel = Vec<BatchMessage>;

/// Its task fills and publishes batches; it ends when the last clone of this is dropped.
#[derive(Clone)]
pub(crate) struct BatchQueue {
    waiting: mpsc::Sender<(Parcel, oneshot::Sender<Answer>)>,
    client: Client,
}

impl BatchQueue {
    /// With room for so many parcels that wait for their batch; beyond it, submitters wait to submit.
    pub(crate) fn open(connections: &Connections, room: usize) -> Self {
        let (waiting, parcels) = mpsc::channel(room);
        let client = connections.general.clone();
        let publisher = Publisher {
            client: client.clone(),
            lost: connections.lost.clone(),
            context: Arc::new(Connections::jetstream(&client)),
        };
        tokio::spawn(publisher.publish_all(parcels));
        Self { waiting, client }
    }

    /// On disk, all of it, once this returns.
    pub(crate) async fn submit(&self, parcel: Parcel) -> Answer {
        let gone = |error: &str| FrontDoorError::Unavailable(error.to_owned().into());
        if let Some(bytes) = parcel.iter().map(|message| message.payload.len()).find(|bytes| *bytes > MOST_BYTES) {
            return Err(FrontDoorError::TooLarge { bytes, most: MOST_BYTES });
        }
        // The client would hold it back and send it on reconnecting, long after the source was told to try again.
        self.ready()?;
        let (reply, answer) = oneshot::channel();
        self.waiting.send((parcel, reply)).await.map_err(|_| gone("the gateway is stopping"))?;
        answer.await.map_err(|_| gone("the batch was given up"))?
    }

    pub(crate) fn ready(&self) -> Answer {
        match self.client.connection_state() {
            async_nats::connection::State::Connected => Ok(()),
            state => Err(FrontDoorError::Unavailable(format!("the connection to NATS is {state}").into())),
        }
    }
}

/// The stream, as the task that publishes sees it.
#[derive(Clone)]
struct Publisher {
    client: Client,
    lost: watch::Receiver<u64>,
    context: Arc<jetstream::Context>,
}

impl Publisher {
    /// While one batch is in flight, the next one fills.
    async fn publish_all(self, mut parcels: mpsc::Receiver<(Parcel, oneshot::Sender<Answer>)>) {
        let mut arrived = Vec::with_capacity(batch::MOST);
        while parcels.recv_many(&mut arrived, batch::MOST).await > 0 {
            let mut left = arrived.drain(..).peekable();
            while let Some((first, reply)) = left.next() {
                let (mut messages, mut bytes) = (first.len(), size(&first));
                let (mut batch, mut replies) = (vec![first], vec![reply]);
                while let Some((parcel, reply)) = left.next_if(|(parcel, _)| {
                    messages += parcel.len();
                    bytes += size(parcel);
                    messages <= batch::MOST && bytes <= BATCH_BYTES
                }) {
                    batch.push(parcel);
                    replies.push(reply);
                }
                self.publish(batch, replies).await;
            }
        }
    }

    async fn publish(&self, parcels: Vec<Parcel>, replies: Vec<oneshot::Sender<Answer>>) {
        // One known message id refuses a whole batch, so each parcel goes by itself when that happens.
        match self.publish_together(parcels.iter().flatten().cloned().collect()).await {
            Ok(()) => answer_all(replies, || Ok(())),
            Err(error @ BatchError::Refused { .. }) if error.is_full() => {
                answer_all(replies, || Err(FrontDoorError::Full));
            }
            Err(BatchError::Refused { .. }) => {
                for (parcel, reply) in parcels.into_iter().zip(replies) {
                    let publisher = self.clone();
                    tokio::spawn(async move { answer(reply, publisher.publish_alone(parcel).await) });
                }
            }
            Err(BatchError::Unanswered(error)) => {
                answer_all(replies, || Err(FrontDoorError::Unavailable(error.to_string().into())));
            }
        }
    }

    async fn publish_together(&self, messages: Vec<BatchMessage>) -> Result<(), BatchError> {
        publish_batch(&self.client, self.lost.clone(), messages).await.map(drop)
    }

    async fn publish_alone(&self, mut parcel: Parcel) -> Answer {
        if parcel.len() > 1 {
            return self.publish_together(parcel).await.map_err(|error| {
                if error.is_full() { FrontDoorError::Full } else { FrontDoorError::Unavailable(error.into()) }
            });
        }
        let Some(BatchMessage { subject, headers, payload }) = parcel.pop() else { return Ok(()) };
        let ack = self.context.publish_with_headers(subject, headers, payload).await.map_err(refusal)?;
        // A duplicate is acknowledged like the first: it is in the queue.
        ack.await.map(drop).map_err(refusal)
    }
}

fn size(parcel: &Parcel) -> usize {
    parcel.iter().map(|message| message.payload.len()).sum()
}

fn answer_all(replies: Vec<oneshot::Sender<Answer>>, result: impl Fn() -> Answer) {
    for reply in replies {
        answer(reply, result());
    }
}

fn answer(reply: oneshot::Sender<Answer>, result: Answer) {
    // A source that has hung up will try again.
    let _ = reply.send(result);
}

fn refusal(error: jetstream::context::PublishError) -> FrontDoorError {
    let full = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
        .is_some_and(|source| source.error_code() == ErrorCode::STREAM_STORE_FAILED);
    if full || error.kind() == PublishErrorKind::MaxAckPending {
        FrontDoorError::Full
    } else {
        FrontDoorError::Unavailable(error.into())
    }
}
