//! Many messages of a stream by one request (ADR-31, batched direct gets): for a work queue, of which a consumer of its own
//! could not read what others are to work off, and where single requests would be too many.
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::{Client, Message, StatusCode};
use dripline_actors::ports::{Revision, StoreError};
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde::Serialize;
use serde_json::json;

use crate::unavailable;

/// Messages that one request asks for. For each request the server counts what follows (nats-server 2.15, `NumPending`: 0.2 s
/// where a million follow), so few large ones; they are in memory at once, some 15 MB.
const BATCH: usize = 20_000;
/// The server is away when it says nothing for so long.
const SILENCE: Duration = Duration::from_secs(5);

/// A message of a stream.
pub(crate) struct Stored {
    pub(crate) subject: String,
    pub(crate) sequence: Revision,
    pub(crate) message: Message,
}

/// Every message of the stream, in its order, until none follows.
pub(crate) fn read_all(context: Context, stream: &'static str) -> BoxStream<'static, Result<Stored, StoreError>> {
    let batches = stream::try_unfold(Some(1), move |from: Option<Revision>| {
        let context = context.clone();
        async move {
            let Some(from) = from else { return Ok(None) };
            let request = json!({"seq": from, "batch": BATCH});
            let batch = get_many(&context.client(), stream, &request).await?;
            let next = batch.last().map(|last| last.sequence + 1);
            Ok(Some((stream::iter(batch).map(Ok), next)))
        }
    });
    batches.try_flatten().boxed()
}

/// What the stream has of what is asked for.
async fn get_many(client: &Client, stream: &str, request: &impl Serialize) -> Result<Vec<Stored>, StoreError> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(unavailable)?;
    let request = serde_json::to_vec(request).map_err(unavailable)?;
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    client.publish_with_reply(subject, inbox, request.into()).await.map_err(unavailable)?;
    let mut found = Vec::new();
    loop {
        let answer = tokio::time::timeout(SILENCE, answers.next()).await.map_err(unavailable)?;
        let answer = answer.ok_or_else(|| StoreError::Unavailable("the connection is closed".into()))?;
        match answer.status {
            None => found.push(stored(answer)?),
            // "End of batch", or nothing at all.
            Some(status) if status.as_u16() == 204 || status == StatusCode::NOT_FOUND => return Ok(found),
            Some(status) => {
                let said = answer.description.unwrap_or_default();
                return Err(StoreError::Unavailable(format!("the server answers {status} {said}").into()));
            }
        }
    }
}

fn stored(message: Message) -> Result<Stored, StoreError> {
    let header = |name: &str| message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str);
    let of_stream = header("Nats-Subject").zip(header("Nats-Sequence").and_then(|sequence| sequence.parse().ok()));
    let Some((subject, sequence)) = of_stream else {
        return Err(StoreError::Unavailable("an answer that is no message of a stream".into()));
    };
    Ok(Stored { subject: subject.to_owned(), sequence, message })
}
