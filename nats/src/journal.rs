use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, State, Stream};
use async_trait::async_trait;
use dripline_actors::ports::{Journal, JournalLines, JournalMessage, JournalPosition, Source, StoreError};

use crate::batch::BatchMessage;
use crate::store::journal_message;
use crate::unavailable;

/// The server writes on a sourced message where it comes from: the stream, its sequence there, and more.
const SOURCE_HEADER: &str = "Nats-Stream-Source";

/// The stream `JOURNAL`, read message by message with direct gets: a message holds hundreds of lines, and no consumer can
/// be lost. A message that was removed from the stream is passed over.
pub struct JetStreamJournal {
    stream: Stream<()>,
}

impl JetStreamJournal {
    /// Over the stream.
    pub fn new(stream: Stream<()>) -> Self {
        Self { stream }
    }

    /// Whether the journal still has its first message: a replay of another is not the whole.
    pub async fn reaches_back(&self) -> Result<bool, StoreError> {
        Ok(self.state().await?.first_sequence <= 1)
    }

    async fn state(&self) -> Result<State, StoreError> {
        Ok(self.stream.get_info().await.map_err(unavailable)?.state)
    }
}

#[async_trait]
impl Journal for JetStreamJournal {
    async fn seek(&self, after: JournalPosition) -> Result<u64, StoreError> {
        let last = self.last().await?;
        // Shorter than it was: after a crash of the server it catches up with the same messages.
        let known = last.min(after.sequence);
        if known == 0 {
            return Ok(1);
        }
        let as_it_was = match self.read(known).await? {
            Some(message) if message.position.sequence != known => false,
            Some(message) if last < after.sequence => message.position.origin < after.origin,
            Some(message) => message.position.origin == after.origin,
            None => false,
        };
        // Made anew: what was read before is known by its origin.
        Ok(if as_it_was { known + 1 } else { 1 })
    }

    async fn read(&self, from: u64) -> Result<Option<JournalMessage>, StoreError> {
        match self.stream.direct_get_next_for_subject(">", Some(from)).await {
            Ok(message) => read(message).map(Some),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn last(&self) -> Result<u64, StoreError> {
        Ok(self.state().await?.last_sequence)
    }
}

fn read(message: StreamMessage) -> Result<JournalMessage, StoreError> {
    let origin = origin(&message.headers)
        .ok_or_else(|| StoreError::Unreadable(format!("JOURNAL {}: no source", message.sequence).into()))?;
    let position = JournalPosition { sequence: message.sequence, origin };
    Ok(JournalMessage { position, payload: message.payload })
}

fn origin(headers: &HeaderMap) -> Option<u64> {
    headers.get(SOURCE_HEADER)?.as_str().split(' ').nth(1)?.parse().ok()
}

/// Writes lines that belong to no change of a lead; on disk when it returns.
pub(crate) async fn publish_lines(context: &Context, lines: JournalLines) -> Result<(), Source> {
    let BatchMessage { subject, headers, payload } = journal_message(lines);
    context.publish_with_headers(subject, headers, payload).await?.await?;
    Ok(())
}
