use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_nats::jetstream::kv::{Store, UpdateErrorKind};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{Context, Message};
use async_trait::async_trait;
use dripline_actors::ports::{Control, Controlled, Controls, JournalLines, StoreError};
use dripline_domain::{ControlEvent, JournalEvent, JournalLine, RequestId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::connect::Connections;
use crate::journal::publish_lines;
use crate::store::{is_removed, newest};
use crate::topology::{CONTROLS, CONTROLS_BUCKET, CONTROLS_BUCKET_SUBJECT};
use crate::unavailable;
use crate::watcher::{Freshness, Memory, Watcher};

/// At the start, so long for the first look at the bucket: nothing is sent before it.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// The ids of so many requests are remembered, the newest.
const REQUESTS_KEPT: usize = 16;
/// So often a change is tried that others write beside.
const TRIES: u32 = 5;

/// The bucket `controls`, kept in memory by a watcher. Without a connection, what was known last holds; before an email, the
/// bucket itself is asked then.
pub struct JetStreamControls {
    freshness: Freshness,
    context: Context,
    bucket: Store,
    /// The one behind the bucket.
    stream: Stream<()>,
    known: Arc<RwLock<HashMap<String, Control>>>,
    watcher: AbortHandle,
}

impl JetStreamControls {
    /// Watches the bucket; all of it is known when this returns.
    ///
    /// # Errors
    /// The bucket is not there, or the server is away.
    pub async fn watch(connections: &Connections) -> Result<Self, StoreError> {
        let context = Connections::jetstream(&connections.general);
        let bucket = context.get_key_value(CONTROLS).await.map_err(unavailable)?;
        let stream = context.get_stream_no_info(CONTROLS_BUCKET).await.map_err(unavailable)?;
        let (known, freshness) = (Arc::default(), Freshness::new());
        let (looked, mut first_look) = watch::channel(false);
        let watcher = Watcher {
            stream: stream.clone(),
            subjects: CONTROLS_BUCKET_SUBJECT,
            headers_only: false,
            freshness: freshness.clone(),
            memory: Reading { paused: HashMap::new(), known: Arc::clone(&known), looked },
        };
        let watcher = tokio::spawn(watcher.keep_on(connections.connected.clone())).abort_handle();
        let controls = Self { freshness, context, bucket, stream, known, watcher };
        let first_look = tokio::time::timeout(FIRST_LOOK, first_look.wait_for(|looked| *looked)).await;
        first_look.map_err(unavailable)?.map_err(unavailable)?;
        Ok(controls)
    }

    /// As it stands now, of the stream's leader: by a copy that is behind, an order would seem to be carried out already.
    async fn newest(&self, key: &str) -> Result<(Option<Stored>, u64), StoreError> {
        let newest = newest(&self.stream, &format!("{CONTROLS_BUCKET_SUBJECT}{key}")).await?;
        Ok(newest.map_or((None, 0), |message| {
            let stored = (!is_removed(Some(&message.headers))).then(|| Stored::read(key, &message.payload));
            (stored, message.sequence)
        }))
    }

    async fn change_if(
        &self,
        what: Controlled<'_>,
        control: &Control,
        request: Option<&RequestId>,
        may: impl Fn(&Control) -> bool,
    ) -> Result<bool, StoreError> {
        let key = what.to_string();
        for tried in 0..TRIES {
            let (before, revision) = self.newest(&key).await?;
            let changes = match &before {
                Some(Stored { requests, .. }) if request.is_some_and(|it| requests.contains(it)) => return Ok(true),
                Some(Stored { control: before, .. }) => before.paused != control.paused && may(before),
                None => control.paused,
            };
            if !changes {
                return Ok(false);
            }
            let requests = before.map(|before| before.requests).unwrap_or_default();
            let value = Stored { control: control.clone(), requests }.remember(request);
            let value = serde_json::to_vec(&value).map_err(unavailable)?;
            // First the journal: rather a line too many than a change that nobody knows of. And the guard's new window
            // begins before the first email that is sent in it.
            if tried == 0 {
                self.journal(what, control).await?;
            }
            match self.bucket.update(&key, value.into(), revision).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(StoreError::Unavailable(format!("{key} is being changed by somebody else").into()))
    }

    async fn journal(&self, what: Controlled<'_>, control: &Control) -> Result<(), StoreError> {
        let event = match (what, control.paused) {
            (Controlled::Sequence(_), true) => ControlEvent::SequencePaused,
            (Controlled::Sequence(_), false) => ControlEvent::SequenceResumed,
            (Controlled::Provider(_), true) => ControlEvent::ProviderPaused,
            (Controlled::Provider(_), false) => ControlEvent::ProviderResumed,
            (Controlled::OutgoingWebhook(_), true) => ControlEvent::OutgoingPaused,
            (Controlled::OutgoingWebhook(_), false) => ControlEvent::OutgoingResumed,
        };
        let (mut sequence, mut provider, mut webhook) = (None, None, None);
        match what {
            Controlled::Sequence(name) => sequence = Some(name.into()),
            Controlled::Provider(name) => provider = Some(name.into()),
            Controlled::OutgoingWebhook(name) => webhook = Some(name.into()),
        }
        let line = JournalLine {
            lead_id: None,
            timestamp: control.timestamp,
            event: JournalEvent::Control(event),
            sequence,
            version: None,
            step: None,
            reason: Some(control.reason.clone()),
            provider,
            webhook,
            by: Some(control.by.as_str().into()),
        };
        let mut lines = JournalLines::default();
        lines.push(&line).map_err(unavailable)?;
        publish_lines(&self.context, lines).await.map_err(StoreError::Unavailable)
    }
}

impl Drop for JetStreamControls {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

#[async_trait]
impl Controls for JetStreamControls {
    fn paused(&self, what: Controlled<'_>) -> Option<Control> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            return None;
        }
        known.get(&what.to_string()).cloned()
    }

    async fn paused_now(&self, what: Controlled<'_>) -> Result<Option<Control>, StoreError> {
        let known = self.paused(what);
        if self.freshness.is_fresh() {
            return Ok(known);
        }
        let (stored, _) = self.newest(&what.to_string()).await?;
        Ok(stored.map(|stored| stored.control).filter(|control| control.paused))
    }

    fn all_paused(&self) -> Vec<(String, Control)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut paused: Vec<_> = known.iter().map(|(what, control)| (what.clone(), control.clone())).collect();
        paused.sort_by(|(one, _), (other, _)| one.cmp(other));
        paused
    }

    async fn change(
        &self,
        what: Controlled<'_>,
        control: &Control,
        request: Option<&RequestId>,
    ) -> Result<bool, StoreError> {
        self.change_if(what, control, request, |_| true).await
    }

    async fn change_unless_newer(&self, what: Controlled<'_>, control: &Control) -> Result<bool, StoreError> {
        self.change_if(what, control, None, |before| before.timestamp < control.timestamp).await
    }
}

/// An entry of the bucket.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    control: Control,
    /// The newest requests that changed it: one may come again long after its answer, from an engine that stood still.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requests: Vec<RequestId>,
}

impl Stored {
    fn read(key: &str, value: &[u8]) -> Self {
        serde_json::from_slice(value).unwrap_or_else(|_| Self { control: control(key, value), requests: Vec::new() })
    }

    fn remember(mut self, request: Option<&RequestId>) -> Self {
        self.requests.extend(request.cloned());
        let surplus = self.requests.len().saturating_sub(REQUESTS_KEPT);
        self.requests.drain(..surplus);
        self
    }
}

/// An entry that is not of our form was put there by hand, and certainly to hold something back.
fn control(key: &str, value: &[u8]) -> Control {
    serde_json::from_slice(value).unwrap_or_else(|error| {
        tracing::warn!(key, %error, "an entry in the bucket `controls` cannot be read; it counts as paused");
        let reason = String::from_utf8_lossy(value).chars().take(200).collect();
        Control { paused: true, reason, by: String::new(), timestamp: dripline_domain::Timestamp::from_millis(0) }
    })
}

/// What the watcher fills. What is held back stays so until all of the bucket is read.
struct Reading {
    paused: HashMap<String, Control>,
    known: Arc<RwLock<HashMap<String, Control>>>,
    looked: watch::Sender<bool>,
}

impl Memory for Reading {
    fn begin_anew(&mut self) {
        self.paused.clear();
    }

    fn see(&mut self, key: &str, message: &Message) {
        let removed = is_removed(message.headers.as_ref());
        let control = (!removed).then(|| control(key, &message.payload)).filter(|control| control.paused);
        match control {
            Some(control) => self.paused.insert(key.to_owned(), control),
            None => self.paused.remove(key),
        };
    }

    fn is_complete(&mut self) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).clone_from(&self.paused);
        self.looked.send_replace(true);
    }
}
