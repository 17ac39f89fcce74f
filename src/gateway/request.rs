//! What every door reads of a request.
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::header::{ACCEPT, CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, HeaderName};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::Problem;

/// A body that takes longer is not waited for.
const BODY_TIME: Duration = Duration::from_secs(15);

/// What is read of a body that is too large, and thrown away: a client that still writes would not see our answer.
const MOST_DISCARDED: usize = 16 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

pub fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a person waits for a page, rather than a script for an answer.
pub fn wants_page(headers: &HeaderMap) -> bool {
    text(headers, &ACCEPT).is_some_and(|accept| accept.contains("text/html"))
}

/// Reads a body up to `limit`; no more than that is ever held.
pub async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
    let mut chunks = body.into_data_stream();
    let announced: Option<usize> = text(headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let announced_too_much = announced.is_some_and(|length| length > limit);
    if !announced_too_much {
        let collected = tokio::time::timeout(BODY_TIME, collect(&mut chunks, limit)).await;
        if let Some(body) = collected.map_err(|_| Problem::too_slow())?? {
            return Ok(body);
        }
    }
    // Who asked first has sent nothing yet, and will not.
    if !headers.contains_key(EXPECT) {
        discard(&mut chunks).await;
    }
    Err(Problem::too_large(limit))
}

/// The whole body; none if it is longer than `limit`.
async fn collect(chunks: &mut BodyDataStream, limit: usize) -> Result<Option<Bytes>, Problem> {
    let Some(first) = next(chunks).await? else { return Ok(Some(Bytes::new())) };
    if first.len() > limit {
        return Ok(None);
    }
    // Nearly every body is one chunk, and is not copied.
    let Some(second) = next(chunks).await? else { return Ok(Some(first)) };
    let mut whole = BytesMut::from(first);
    let mut chunk = Some(second);
    while let Some(part) = chunk {
        if whole.len() + part.len() > limit {
            return Ok(None);
        }
        whole.extend_from_slice(&part);
        chunk = next(chunks).await?;
    }
    Ok(Some(whole.freeze()))
}

async fn next(chunks: &mut BodyDataStream) -> Result<Option<Bytes>, Problem> {
    chunks.next().await.transpose().map_err(|_| Problem::broken_body())
}

async fn discard(chunks: &mut BodyDataStream) {
    let mut left = MOST_DISCARDED;
    let all = async {
        while let Some(Ok(chunk)) = chunks.next().await
            && left >= chunk.len()
        {
            left -= chunk.len();
        }
    };
    // Too much or too slow: the connection is closed instead.
    let _ = tokio::time::timeout(DISCARD_TIME, all).await;
}
