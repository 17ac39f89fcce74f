//! Requests about sequences, providers and outgoing webhooks.
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

    /// Holds it back, or lets it go on. One that is held back may be let go on, whatever became of it.
    pub(super) async fn hold(
        &self,
        what: Controlled<'_>,
        paused: bool,
        operator: &Operator,
        request: &RequestId,
    ) -> Result<Value, Problem> {
        if self.parts.controls.paused(what).is_none() {
            self.must_be_known(what).await?;
        }
        let (by, reason) = (operator.by().to_owned(), operator.reason().to_owned());
        let timestamp = self.parts.controller.clock().now();
        let control = Control { paused, reason, by, timestamp };
        let changed = self.parts.controls.change(what, &control, Some(request)).await?;
        let (kind, name) = match what {
            Controlled::Sequence(name) => ("sequence", name),
            Controlled::Provider(name) => ("provider", name),
            Controlled::OutgoingWebhook(name) => ("webhook", name),
        };
        Ok(json!({kind: name, "paused": paused, "changed": changed}))
    }

    async fn must_be_known(&self, what: Controlled<'_>) -> Result<(), Problem> {
        match what {
            Controlled::Sequence(name) => {
                let is_current = self.parts.sequences.current(name).is_some();
                if is_current || newest_sequences(&self.published).await?.iter().any(|it| it.name == name) {
                    Ok(())
                } else {
                    Err(Problem::no_such_sequence(name))
                }
            }
            Controlled::Provider(name) => {
                let providers = self.parts.controller.providers();
                let known: Vec<_> = providers.iter().map(|provider| &*provider.name).collect();
                must_be_among(name, &known, "provider", "no_such_provider")
            }
            Controlled::OutgoingWebhook(name) => {
                let known: Vec<_> = self.parts.webhooks.iter().map(String::as_str).collect();
                must_be_among(name, &known, "outgoing webhook", "no_such_webhook")
            }
        }
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

fn must_be_among(name: &str, known: &[&str], kind: &str, code: &'static str) -> Result<(), Problem> {
    if known.contains(&name) {
        return Ok(());
    }
    let there_are = match known {
        [] => "none is configured".to_owned(),
        known => format!("there are: {}", known.join(", ")),
    };
    Err(Problem { status: 404, code, message: format!("there is no {kind} `{name}`; {there_are}") })
}
