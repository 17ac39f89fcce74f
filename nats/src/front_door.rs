//! The way in for the gateway: leads go into `LEADS`.
use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_trait::async_trait;
use dripline_actors::ports::{FrontDoor, Submission};
use dripline_actors::trace;

use crate::batch::{self, BatchMessage};
use crate::batch_queue::{Answer, BatchQueue};
use crate::connect::Connections;
use crate::topology::LEADS_SUBJECT;

/// Leads that may wait for their batch.
const WAITING: usize = 8 * batch::MOST;

/// The stream `LEADS`, in batches.
pub struct JetStreamFrontDoor(BatchQueue);

impl JetStreamFrontDoor {
    /// Starts the task that fills and publishes batches; it ends when this is dropped.
    pub fn open(connections: &Connections) -> Self {
        Self(BatchQueue::open(connections, WAITING))
    }
}

#[async_trait]
impl FrontDoor for JetStreamFrontDoor {
    async fn submit(&self, lead: Submission) -> Answer {
        self.0.submit(vec![message(lead)]).await
    }

    async fn ready(&self) -> Answer {
        self.0.ready()
    }
}

fn message(lead: Submission) -> BatchMessage {
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
    BatchMessage { subject, headers, payload: lead.payload }
}
