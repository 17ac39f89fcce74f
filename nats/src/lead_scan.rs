//! Every lead of the bucket, one after the other; never all of them in memory.
use std::collections::HashSet;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::Stream;
use dripline_actors::ports::StoreError;
use dripline_domain::Lead;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::key_hash::key_hash;
use crate::store::is_removed;
use crate::topology::LEADS_BUCKET_SUBJECT;

/// The leads of the bucket, each as it was when it was read.
pub struct LeadScan {
    /// How many there were at the start.
    pub count: u64,
    /// Each once. One that comes while this is read may be in it or not.
    pub leads: BoxStream<'static, Result<ScannedLead, StoreError>>,
}

/// A document of the bucket.
pub struct ScannedLead {
    /// Its key.
    pub key: String,
    /// What it says.
    ///
    /// # Errors
    /// It is not one of ours, or of a newer version.
    pub lead: Result<Lead, serde_json::Error>,
}

impl LeadScan {
    /// Over the stream behind the bucket.
    ///
    /// # Errors
    /// The server is away.
    pub async fn start(bucket: &Stream<()>) -> Result<Self, StoreError> {
        let subjects = format!("{LEADS_BUCKET_SUBJECT}>");
        let (count, messages) = messages(bucket, subjects, false, DeliverPolicy::LastPerSubject).await?;
        // A lead that changes after it was read comes again, at its new place. As in the sweeper, eight bytes each.
        let mut seen = HashSet::new();
        let leads = messages.try_filter_map(move |message| {
            let deleted = is_removed(message.headers.as_ref());
            let key = message.subject.strip_prefix(LEADS_BUCKET_SUBJECT).unwrap_or_default().to_owned();
            let new = !deleted && seen.insert(key_hash(&key));
            std::future::ready(Ok(new.then(|| ScannedLead { key, lead: Lead::from_json(&message.payload) })))
        });
        Ok(Self { count, leads: leads.boxed() })
    }
}

/// The messages of these subjects, and how many there are; ends where nothing more waits.
pub(crate) async fn messages(
    stream: &Stream<()>,
    subjects: String,
    headers_only: bool,
    deliver_policy: DeliverPolicy,
) -> Result<(u64, BoxStream<'static, Result<Message, StoreError>>), StoreError> {
    let consumer = stream
        .create_consumer(OrderedConfig {
            filter_subject: subjects,
            deliver_policy,
            headers_only,
            ..OrderedConfig::default()
        })
        .await
        .map_err(|error| StoreError::Unavailable(error.into()))?;
    let count = consumer.cached_info().num_pending;
    if count == 0 {
        return Ok((0, stream::empty().boxed()));
    }
    let messages = consumer.messages().await.map_err(|error| StoreError::Unavailable(error.into()))?;
    let newest = stream::unfold(Some(messages), |messages| async move {
        let mut messages = messages?;
        let message = messages.next().await?.map_err(|error| StoreError::Unavailable(error.into()));
        let pending = message.as_ref().ok().and_then(|message| message.info().ok()).map_or(0, |info| info.pending);
        Some((message, (pending > 0).then_some(messages)))
    });
    Ok((count, newest.boxed()))
}
