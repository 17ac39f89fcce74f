//! Reads what is on the servers.
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::jetstream;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::timeout;

use crate::history::{Document, LeftHeld, Line, Rejected};
use crate::now;
use crate::plan::{Held, Sequence};

/// A message that is there comes within this time.
const COMES_WITHIN: Duration = Duration::from_secs(20);

/// An entry of the bucket `controls`.
#[derive(serde::Deserialize)]
struct Control {
    paused: bool,
    reason: String,
}

/// Reads streams.
pub(crate) struct Reader(jetstream::Context);

impl Reader {
    pub(crate) async fn connect(urls: &[String]) -> Result<Self> {
        Ok(Self(jetstream::new(async_nats::connect(urls).await?)))
    }

    /// The bucket `leads`.
    pub(crate) async fn documents(&self, sequences: &[Sequence]) -> Result<Vec<Document>> {
        let messages = self.all("KV_leads", "$KV.leads.>", DeliverPolicy::LastPerSubject).await?;
        let read = |message: &jetstream::Message| {
            Document::read(&message.payload, sequences)
                .with_context(|| format!("{}: {}", message.subject, String::from_utf8_lossy(&message.payload)))
        };
        messages.iter().map(read).collect()
    }

    /// Every transition. Read where it is committed together with the documents: `JOURNAL` is a copy.
    pub(crate) async fn journal(&self) -> Result<Vec<Line>> {
        let messages = self.all("KV_leads", "journal.>", DeliverPolicy::All).await?;
        let lines = messages.iter().flat_map(|message| message.payload.split(|&byte| byte == b'\n'));
        lines.filter(|line| !line.is_empty()).map(|line| Ok(serde_json::from_slice(line)?)).collect()
    }

    /// The stream `REJECTED`.
    pub(crate) async fn rejected(&self) -> Result<Vec<Rejected>> {
        let messages = self.all("REJECTED", "rejected.>", DeliverPolicy::All).await?;
        let read = |message: &jetstream::Message| Rejected {
            subject: message.subject.to_string(),
            reason: message
                .headers
                .as_ref()
                .and_then(|headers| headers.get("Dripline-Reason"))
                .map(ToString::to_string)
                .unwrap_or_default(),
            payload: String::from_utf8_lossy(&message.payload).into_owned(),
        };
        Ok(messages.iter().map(read).collect())
    }

    /// The sequences and providers that the bucket `controls` holds back.
    pub(crate) async fn controls(&self) -> Result<Vec<LeftHeld>> {
        let (at, mut held) = (now(), Vec::new());
        for message in self.all("KV_controls", "$KV.controls.>", DeliverPolicy::LastPerSubject).await? {
            let Control { paused, reason } = serde_json::from_slice(&message.payload)?;
            let what = match message.subject.strip_prefix("$KV.controls.").and_then(|key| key.split_once('.')) {
                Some(("sequence", name)) => Held::Sequence(name.to_owned()),
                Some(("provider", _)) => Held::Provider,
                _ => bail!("a control that nobody ordered: {}", message.subject),
            };
            if paused {
                held.push(LeftHeld { at, held: what, reason });
            }
        }
        Ok(held)
    }

    /// Messages in a stream.
    pub(crate) async fn count(&self, stream: &str) -> Result<u64> {
        Ok(self.0.get_stream(stream).await?.cached_info().state.messages)
    }

    /// The batches whose lines a stream has, and how often: the server may copy one twice.
    pub(crate) async fn batches(&self, stream: &str) -> Result<BTreeMap<String, usize>> {
        let stream = self.0.get_stream(stream).await?;
        let subjects = stream.info_with_subjects("journal.>").await?;
        Ok(subjects.try_collect().await?)
    }

    async fn all(&self, stream: &str, subjects: &str, deliver: DeliverPolicy) -> Result<Vec<jetstream::Message>> {
        let stream = self.0.get_stream(stream).await?;
        let config =
            OrderedConfig { filter_subject: subjects.to_owned(), deliver_policy: deliver, ..OrderedConfig::default() };
        let consumer = stream.create_consumer(config).await?;
        let count = usize::try_from(consumer.cached_info().num_pending)?;
        let mut found = Vec::with_capacity(count);
        if count == 0 {
            return Ok(found);
        }
        let mut messages = consumer.messages().await?;
        while found.len() < count {
            let message = timeout(COMES_WITHIN, messages.next()).await.context("a message does not come")?;
            found.push(message.context("the messages ended early")??);
        }
        Ok(found)
    }
}
