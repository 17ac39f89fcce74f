//! `POST /webhooks/{vendor}`: from a provider's delivery to its events on disk.
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use dripline_actors::ports::{Clock, FeedbackDoor};
use dripline_esp::webhooks::{Bridge, Vendor, WebhookError};
use tokio::sync::Semaphore;

use super::Problem;
use super::refusals::RefusalLog;
use super::request::read;

/// Providers gather events; none of them documents larger deliveries.
const BODY_LIMIT: usize = 5 << 20;

/// Deliveries in memory at the same time, each of [`BODY_LIMIT`] at the most. Anyone can begin one.
const AT_ONCE: usize = 32;

/// So long a delivery waits until it is read. Then the provider is told to come back.
const TURN_TIME: Duration = Duration::from_secs(10);

/// What the deliveries share.
pub struct Webhooks {
    pub bridge: Bridge,
    pub door: Arc<dyn FeedbackDoor>,
    pub clock: Arc<dyn Clock>,
}

struct Shared {
    webhooks: Webhooks,
    turns: Semaphore,
    refusals: RefusalLog,
}

/// The routes.
pub fn router(webhooks: Webhooks) -> Router {
    let shared = Shared { webhooks, turns: Semaphore::new(AT_ONCE), refusals: RefusalLog::default() };
    Router::new().route("/webhooks/{vendor}", post(receive)).with_state(Arc::new(shared))
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    vendor: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let vendor = vendor.ok().and_then(|Path(name)| Vendor::parse(&name));
    let Some(vendor) = vendor else { return Problem::from(&WebhookError::UnknownVendor).into_response() };
    let taken = shared.take(vendor, request).await;
    taken.map_or_else(IntoResponse::into_response, |()| StatusCode::OK.into_response())
}

impl Shared {
    async fn take(&self, vendor: Vendor, request: Request) -> Result<(), Problem> {
        let _turn = tokio::time::timeout(TURN_TIME, self.turns.acquire()).await.map_err(|_| Problem::busy())?;
        let (parts, body) = request.into_parts();
        let body = read(&parts.headers, body, BODY_LIMIT).await?;
        let Webhooks { bridge, door, clock } = &self.webhooks;
        let events = bridge.receive(vendor.name(), &parts.headers, body, clock.now()).await.map_err(|error| {
            self.say_refused(vendor, &error);
            Problem::from(&error)
        })?;
        let count = events.len();
        door.submit(events).await.map_err(|error| {
            self.say_refused(vendor, &error);
            Problem::of_feedback(&error)
        })?;
        tracing::debug!(vendor = vendor.name(), events = count, "webhook taken");
        Ok(())
    }

    fn say_refused(&self, vendor: Vendor, error: &(dyn Error + 'static)) {
        if let Some(refused) = self.refusals.to_say() {
            tracing::warn!(refused, vendor = vendor.name(), error, "webhook refused");
        }
    }
}
