//! Asks the control service of a running engine, for the commands that change or show what engines hold.
use std::time::Duration;

use anyhow::Context as _;
use async_nats::client::{Request, RequestErrorKind};
use async_nats::service::NATS_SERVICE_ERROR_CODE;
use clap::Args;
use dripline_domain::RequestId;
use dripline_nats::{Connections, SERVICE};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Config;
use crate::service::connect;

/// A request that reads or changes many leads answers page by page, each within this.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);
/// So often a request is made whose answer is lost, or that says "not now".
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// Who makes a change, and why.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Kept with the change, and in the journal.
    #[arg(long)]
    pub(crate) reason: String,
    /// Who makes the change; likewise.
    #[arg(long, env = "USER", default_value = "operator")]
    pub(crate) by: String,
}

/// What is held back, or let go on, and why.
#[derive(Debug, Args)]
pub(crate) struct Hold {
    /// Which.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) why: Why,
}

impl Hold {
    /// What came of it, for people.
    ///
    /// # Errors
    /// It was to go on, and was not paused.
    pub(crate) fn told(&self, paused: bool, changed: bool, goes_on: &str) -> anyhow::Result<String> {
        let name = &self.name;
        Ok(match (paused, changed) {
            (true, true) => format!("{name} is paused\n"),
            (true, false) => format!("{name} was paused already; its first reason is kept\n"),
            (false, true) => format!("{name} {goes_on}\n"),
            (false, false) => anyhow::bail!("{name} is not paused"),
        })
    }
}

/// The service said no.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refused {
    /// As HTTP has them: 404 for what is not there.
    pub(crate) status: u16,
    message: String,
}

/// Reaches the control service.
pub(crate) struct Control {
    pub(crate) connections: Connections,
}

/// The body of a refusal.
#[derive(Deserialize)]
struct Body {
    message: String,
}

impl Control {
    pub(crate) async fn connect(config: &Config) -> anyhow::Result<Self> {
        Ok(Self { connections: connect(config, "dripline control").await? })
    }

    /// Asks; `verb` is the subject without the service's name.
    pub(crate) async fn ask(&self, verb: &str, request: &Value) -> anyhow::Result<Value> {
        let client = &self.connections.general;
        let mut tried = 1;
        loop {
            let message = Request::new().payload(request.to_string().into()).timeout(Some(ANSWER_WITHIN));
            let answer = match client.send_request(format!("{SERVICE}.{verb}"), message).await {
                Ok(answer) => answer,
                Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                    anyhow::bail!("no engine answers: start one, with `dripline run` or `dripline engine`")
                }
                Err(error) if error.kind() == RequestErrorKind::TimedOut && tried < TRIES => {
                    tried += 1;
                    continue;
                }
                Err(error) => return Err(error).context("the control service did not answer"),
            };
            let status = answer.headers.as_ref().and_then(|headers| headers.get(NATS_SERVICE_ERROR_CODE));
            let Some(status) = status else {
                return serde_json::from_slice(&answer.payload).context("the control service's answer cannot be read");
            };
            let status = status.as_str().parse().unwrap_or(500);
            if status == 503 && tried < TRIES {
                tried += 1;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let body = serde_json::from_slice::<Body>(&answer.payload);
            let message = body.map_or_else(|_| "the request was refused".to_owned(), |body| body.message);
            return Err(Refused { status, message }.into());
        }
    }

    /// Asks for a change; the same request however often it must be made.
    pub(crate) async fn change(&self, verb: &str, mut request: Value, why: &Why) -> anyhow::Result<Value> {
        request["by"] = json!(why.by);
        request["reason"] = json!(why.reason);
        self.ask(verb, &request).await
    }

    /// The same for a change that is known again by its id.
    pub(crate) async fn change_once(&self, verb: &str, mut request: Value, why: &Why) -> anyhow::Result<Value> {
        request["requestId"] = json!(RequestId::random(rand::random()));
        self.change(verb, request, why).await
    }
}
