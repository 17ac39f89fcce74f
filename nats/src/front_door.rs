//! The way in for the gateway: what arrives together goes into `LEADS` as one batch, with one fsync.
use std::sync::Arc;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, HeaderMap};
use async_trait::async_trait;
use dripline_actors::ports::{FrontDoor, FrontDoorError, Submission};
use dripline_actors::trace;
use tokio::sync::{mpsc, oneshot, watch};

use crate::batch::{self, BatchError, BatchMessage, publish_batch};
use crate::connect::Connections;
use crate::topology::LEADS_SUBJECT;

/// Submissions that may wait for their batch; beyond it, submitters wait to submit.
const WAITING: usize = 8 * batch::MOST;

type Answer = Result<(), FrontDoorError>;

/// The stream `LEADS`, in batches.
pub struct JetStreamFrontDoor {
    waiting: mpsc::Sender<(Submission, oneshot::Sender<Answer>)>,
    client: Client,
}

impl JetStreamFrontDoor {
    /// Starts the task that fills and publishes batches; it ends when the last clone of this is dropped.
    pub fn open(connections: &Connections) -> Self {
        let (waiting, submissions) = mpsc::channel(WAITING);
        let client = connections.general.clone();
        let queue = Queue {
            client: client.clone(),
            lost: connections.lost.clone(),
            context: Arc::new(Connections::jetstream(&client)),
        };
        tokio::spawn(queue.publish_all(submissions));
        Self { waiting, client }
    }
}

#[async_trait]
impl FrontDoor for JetStreamFrontDoor {
    async fn submit(&self, lead: Submission) -> Answer {
        let gone = |error: &str| FrontDoorError::Unavailable(error.to_owned().into());
        // The client would hold it back and send it on reconnecting, long after the source was told to try again.
        self.ready().await?;
        let (reply, answer) = oneshot::channel();
        self.waiting.send((lead, reply)).await.map_err(|_| gone("the gateway is stopping"))?;
        answer.await.map_err(|_| gone("the batch was given up"))?
    }

    async fn ready(&self) -> Answer {
        match self.client.connection_state() {
            async_nats::connection::State::Connected => Ok(()),
            state => Err(FrontDoorError::Unavailable(format!("the connection to NATS is {state}").into())),
        }
    }
}

/// The stream, as the task that publishes sees it.
struct Queue {
    client: Client,
    lost: watch::Receiver<u64>,
    context: Arc<jetstream::Context>,
}

impl Queue {
    /// While one batch is in flight, the next one fills.
    async fn publish_all(self, mut submissions: mpsc::Receiver<(Submission, oneshot::Sender<Answer>)>) {
        let mut arrived = Vec::with_capacity(batch::MOST);
        while submissions.recv_many(&mut arrived, batch::MOST).await > 0 {
            let (leads, replies): (Vec<_>, Vec<_>) = arrived.drain(..).unzip();
            publish(&self, leads, replies).await;
        }
    }
}

async fn publish(queue: &Queue, leads: Vec<Submission>, replies: Vec<oneshot::Sender<Answer>>) {
    // One known message id refuses a whole batch, so leads that have one go by themselves when that happens.
    match publish_batch(&queue.client, queue.lost.clone(), leads.iter().map(message).collect()).await {
        Ok(_) => {
            for reply in replies {
                answer(reply, Ok(()));
            }
        }
        Err(error @ BatchError::Refused { .. }) if error.is_full() => {
            for reply in replies {
                answer(reply, Err(FrontDoorError::Full));
            }
        }
        Err(BatchError::Refused { .. }) => {
            for (lead, reply) in leads.into_iter().zip(replies) {
                let context = Arc::clone(&queue.context);
                tokio::spawn(async move { answer(reply, publish_one(&context, &lead).await) });
            }
        }
        Err(BatchError::Unanswered(error)) => {
            for reply in replies {
                answer(reply, Err(FrontDoorError::Unavailable(error.to_string().into())));
            }
        }
    }
}

fn answer(reply: oneshot::Sender<Answer>, result: Answer) {
    // A source that has hung up will try again.
    let _ = reply.send(result);
}

async fn publish_one(context: &jetstream::Context, lead: &Submission) -> Answer {
    let BatchMessage { subject, headers, payload } = message(lead);
    let ack = context.publish_with_headers(subject, headers, payload).await.map_err(refusal)?;
    // A duplicate is acknowledged like the first: it is in the queue.
    ack.await.map(drop).map_err(refusal)
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

fn message(lead: &Submission) -> BatchMessage {
    let subject = match &lead.source {
        Some(source) => format!("{LEADS_SUBJECT}.{source}"),
        None => LEADS_SUBJECT.to_owned(),
    };
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", lead.content_type);
    if let Some(id) = &lead.id {
        headers.insert(NATS_MESSAGE_ID, id.as_str());
    }
    if let Some(trace) = &lead.trace {
        headers.insert(trace::HEADER, trace.as_str());
    }
    BatchMessage { subject, headers, payload: lead.payload.clone() }
}
