use async_nats::{HeaderMap, jetstream};
use async_trait::async_trait;
use dripline_actors::ports::{Rejected, Rejection, StoreError};

use crate::topology::REJECTED_SUBJECT;

pub(crate) const REASON_HEADER: &str = "Dripline-Reason";
pub(crate) const SUBJECT_HEADER: &str = "Dripline-Subject";
pub(crate) const CONTENT_TYPE_HEADER: &str = "Content-Type";

/// The stream `REJECTED`: the original bytes as the payload, the rest in headers.
pub struct JetStreamRejected {
    context: jetstream::Context,
}

impl JetStreamRejected {
    /// Publishes over this context.
    pub fn new(context: jetstream::Context) -> Self {
        Self { context }
    }
}

#[async_trait]
impl Rejected for JetStreamRejected {
    async fn keep(&self, rejection: Rejection) -> Result<(), StoreError> {
        let mut headers = HeaderMap::new();
        headers.insert(REASON_HEADER, header_text(&rejection.reason));
        headers.insert(SUBJECT_HEADER, header_text(&rejection.subject));
        if let Some(content_type) = &rejection.content_type {
            headers.insert(CONTENT_TYPE_HEADER, header_text(content_type));
        }
        let subject = format!("{REJECTED_SUBJECT}{}", rejection.code);
        let unavailable = |error: jetstream::context::PublishError| StoreError::Unavailable(error.into());
        let ack = self.context.publish_with_headers(subject, headers, rejection.payload).await.map_err(unavailable)?;
        ack.await.map(drop).map_err(unavailable)
    }
}

/// One line of at most 500 characters: what a header can hold.
fn header_text(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}
