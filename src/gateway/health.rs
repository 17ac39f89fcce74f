//! Whether the process lives, and whether it does its work.
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use dripline_actors::ports::FrontDoor;
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;

/// A check that takes longer has failed.
const CHECK_TIME: Duration = Duration::from_secs(2);

/// Something that must be ready before traffic is sent here.
#[async_trait]
pub trait ReadyCheck: Send + Sync + 'static {
    /// What is checked, in a word.
    fn name(&self) -> &'static str;
    /// Why it is not ready, for people, if it is not.
    async fn check(&self) -> Result<(), String>;
}

/// The lead queue can be reached.
pub struct QueueCheck(pub Arc<dyn FrontDoor>);

#[async_trait]
impl ReadyCheck for QueueCheck {
    fn name(&self) -> &'static str {
        "queue"
    }

    async fn check(&self) -> Result<(), String> {
        self.0.ready().await.map_err(|error| error.to_string())
    }
}

/// `GET /healthz` and `GET /readyz`, for a process of any kind.
pub fn router(checks: Vec<Arc<dyn ReadyCheck>>) -> Router {
    let checks: Arc<[Arc<dyn ReadyCheck>]> = checks.into();
    Router::new()
        .route("/healthz", get(async || Json(json!({ "status": "ok" }))))
        .route("/readyz", get(ready))
        .with_state(checks)
}

#[derive(Serialize)]
struct NotReady {
    name: &'static str,
    reason: String,
}

async fn ready(State(checks): State<Arc<[Arc<dyn ReadyCheck>]>>) -> Response {
    let answers = join_all(checks.iter().map(|check| async {
        let answer = tokio::time::timeout(CHECK_TIME, check.check()).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".into()));
        answer.err().map(|reason| NotReady { name: check.name(), reason })
    }));
    let not_ready: Vec<NotReady> = answers.await.into_iter().flatten().collect();
    if not_ready.is_empty() {
        return Json(json!({ "status": "ready" })).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not_ready", "notReady": not_ready }))).into_response()
}
