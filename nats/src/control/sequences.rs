//! Requests about sequences, providers and outgoing webhooks.
use std::borrow::Borrow;

use dripline_actors::ControlError;
use dripline_actors::ports::{Control, Controlled, Sequences as _};
use dripline_domain::{Operator, RequestId};
use serde_json::{Value, json};

use super::Desk;
use super::request::{Problem, Show};
use crate::sequences::newest_sequences;

impl Desk {
    pub(super) async fn list_sequences(&self) -> Result<Value, Problem> {
        let newest = newest_sequences(&self.published).await?;
        let rows: Vec<_> = newest
            .iter()
            .map(|sequence| {
                let steps: Vec<_> = sequence.steps.iter().map(|step| &step.id).collect();
                let current = self.parts.sequences.current(&sequence.name).map(|current| current.version);
                let paused = self.parts.controls.paused(Controlled::Sequence(&sequence.name));
                json!({
                    "name": sequence.name, "version": sequence.version, "current": current, "steps": steps,
                    "paused": paused,
                })
            })
            .collect();
        Ok(json!({"sequences": rows}))
    }

    pub(super) async fn show_sequence(&self, Show { sequence: name, version }: Show) -> Result<Value, Problem> {
        let Some(version) = version else {
            let current = self.parts.sequences.current(&name);
            return current.map(|current| json!(*current)).ok_or_else(|| Problem::no_such_sequence(&name));
        };
        match self.parts.sequences.version(&name, version).await? {
            Some(sequence) => Ok(json!(*sequence)),
            None => Err(ControlError::NoSuchVersion { sequence: name, version }.into()),
        }
    }

    pub(super) async fn hold_sequence(
        &self,
        name: &str,
        paused: bool,
        operator: &Operator,
        request: &RequestId,
    ) -> Result<Value, Problem> {
        // One that is paused may be resumed, whatever became of it.
        let is_known = self.parts.sequences.current(name).is_some()
            || self.parts.controls.paused(Controlled::Sequence(name)).is_some()
            || newest_sequences(&self.published).await?.iter().any(|sequence| sequence.name == name);
        if !is_known {
            return Err(Problem::no_such_sequence(name));
        }
        let changed = self.hold(Controlled::Sequence(name), paused, operator, request).await?;
        Ok(json!({"sequence": name, "paused": paused, "changed": changed}))
    }

    pub(super) async fn hold_provider(
        &self,
        name: &str,
        paused: bool,
        operator: &Operator,
        request: &RequestId,
    ) -> Result<Value, Problem> {
        let known: Vec<_> = self.parts.controller.providers().into_iter().map(|provider| provider.name).collect();
        let what = Controlled::Provider(name);
        self.must_be_known(what, &known, || (format!("there is no provider `{name}`"), "no_such_provider"))?;
        let changed = self.hold(what, paused, operator, request).await?;
        Ok(json!({"provider": name, "paused": paused, "changed": changed}))
    }

    pub(super) async fn hold_outgoing(
        &self,
        name: &str,
        paused: bool,
        operator: &Operator,
        request: &RequestId,
    ) -> Result<Value, Problem> {
        let what = Controlled::OutgoingWebhook(name);
        let unknown = || (format!("there is no outgoing webhook `{name}`"), "no_such_webhook");
        self.must_be_known(what, &self.parts.webhooks, unknown)?;
        let changed = self.hold(what, paused, operator, request).await?;
        Ok(json!({"webhook": name, "paused": paused, "changed": changed}))
    }

    /// One that is held back may be let go on, whatever became of it; another must be among these.
    fn must_be_known(
        &self,
        what: Controlled<'_>,
        known: &[impl Borrow<str>],
        unknown: impl FnOnce() -> (String, &'static str),
    ) -> Result<(), Problem> {
        let (Controlled::Sequence(name) | Controlled::Provider(name) | Controlled::OutgoingWebhook(name)) = what;
        if self.parts.controls.paused(what).is_some() || known.iter().any(|known| known.borrow() == name) {
            return Ok(());
        }
        let (unknown, code) = unknown();
        let there_are = match known {
            [] => "none is configured".to_owned(),
            known => format!("there are: {}", known.join(", ")),
        };
        Err(Problem { status: 404, code, message: format!("{unknown}; {there_are}") })
    }

    async fn hold(
        &self,
        what: Controlled<'_>,
        paused: bool,
        operator: &Operator,
        request: &RequestId,
    ) -> Result<bool, Problem> {
        let (by, reason) = (operator.by().to_owned(), operator.reason().to_owned());
        let timestamp = self.parts.controller.clock().now();
        let control = Control { paused, reason, by, timestamp };
        Ok(self.parts.controls.change(what, &control, Some(request)).await?)
    }

    /// Publishes what is new in this process's folder. The others, and this one, go on with it.
    pub(super) async fn reload(&self, operator: &Operator) -> Result<Value, Problem> {
        let folder = self.parts.folder.clone();
        let read = tokio::task::spawn_blocking(move || folder()).await.map_err(Problem::unavailable)?;
        let sequences =
            read.map_err(|problems| Problem { status: 409, code: "sequences_unusable", message: problems.join("\n") })?;
        let now = self.parts.controller.clock().now();
        let reloaded = self.parts.sequences.reload(&self.context, sequences, operator, now).await?;
        let rows: Vec<_> = reloaded
            .iter()
            .map(|(sequence, before)| json!({"name": sequence.name, "version": sequence.version, "before": before}))
            .collect();
        Ok(json!({"engine": self.parts.controller.owner(), "reloaded": rows}))
    }
}
