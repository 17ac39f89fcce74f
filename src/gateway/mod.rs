//! The HTTP door: for leads, for what providers tell, and for people who want no more. It checks their shape, puts them
//! into the queues, and knows nothing of sequences.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/leads`, `POST /v1/leads/{source}` | 202 once the lead is on disk |
//! | `POST /webhooks/{vendor}` | 200 once the provider's events are on disk |
//! | `GET /unsubscribe/{token}` | a page with a button |
//! | `POST /unsubscribe/{token}`, `POST /unsubscribe/{token}/undo` | 200 once the person's wish is on disk |
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200 while leads are taken, otherwise 503 with what is not ready |
//!
//! Whatever is refused is answered with a problem document (RFC 9457) whose `code` is for programs.
mod auth;
pub mod health;
mod leads;
mod problem;
mod refusals;
mod request;
mod unsubscribe;
mod webhooks;

use std::future::{Future, IntoFuture, pending};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::post;
use axum::serve::ListenerExt;
use dripline_actors::ports::{Clock, FeedbackDoor, FrontDoor};
use dripline_actors::trace;
use dripline_domain::{LeadIdKey, Sanitiser};
use dripline_esp::UnsubscribeLinks;
use dripline_esp::webhooks::Bridge;
use governor::Quota;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::field::Empty;
use tracing::{Instrument, trace_span};

use self::auth::{ApiKeys, KeyedLimit};
use self::health::{QueueCheck, ReadyCheck};
pub use self::leads::is_source;
use self::problem::Problem;
use self::refusals::RefusalLog;
use self::unsubscribe::Unsubscribe;
use self::webhooks::Webhooks;
use crate::telemetry::Addresses;
use crate::{config, metrics};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How long a browser may remember what we allow.
const PREFLIGHT_AGE: Duration = Duration::from_hours(1);

/// How long requests under way may take once we are told to stop.
const STOPPING_TIME: Duration = Duration::from_secs(20);

/// What the gateway needs.
pub struct Gateway {
    /// The queue of leads.
    pub door: Arc<dyn FrontDoor>,
    /// The queue of what comes back.
    pub feedback: Arc<dyn FeedbackDoor>,
    /// Tells a provider's delivery from a forged one.
    pub bridge: Bridge,
    /// Tells our links to unsubscribe from forged ones.
    pub links: UnsubscribeLinks,
    /// Dates what comes back.
    pub clock: Arc<dyn Clock>,
    /// Tells a lead from what is none.
    pub sanitiser: Sanitiser,
    /// Gives a lead its id, the same as the engine does.
    pub lead_ids: LeadIdKey,
    /// What the operator set.
    pub settings: config::Gateway,
    /// How addresses appear in its logs.
    pub addresses: Addresses,
    /// What must be ready besides the queue.
    pub checks: Vec<Arc<dyn ReadyCheck>>,
}

/// What every request shares.
struct Shared {
    door: Arc<dyn FrontDoor>,
    sanitiser: Sanitiser,
    lead_ids: LeadIdKey,
    addresses: Addresses,
    keys: ApiKeys,
    limit: Option<KeyedLimit<IpAddr>>,
    trust_forwarded_for: bool,
    body_limit: usize,
    form_redirect: Option<HeaderValue>,
    refusals: RefusalLog,
}

/// The gateway's routes.
///
/// # Errors
/// The page to unsubscribe has a wrong template.
pub fn router(gateway: Gateway) -> Result<Router, minijinja::Error> {
    let Gateway { door, feedback, bridge, links, clock, sanitiser, lead_ids, settings, addresses, mut checks } =
        gateway;
    let webhooks = Webhooks { bridge, door: Arc::clone(&feedback), clock: Arc::clone(&clock) };
    let unsubscribe = Unsubscribe { links, door: feedback, clock, addresses };
    checks.insert(0, Arc::new(QueueCheck(Arc::clone(&door))));
    let shared = Shared {
        door,
        sanitiser,
        lead_ids,
        addresses,
        keys: ApiKeys::new(settings.api_keys),
        limit: settings.rate_per_ip.map(|rate| KeyedLimit::new(Quota::per_second(rate))),
        trust_forwarded_for: settings.trust_forwarded_for,
        body_limit: settings.body_limit,
        form_redirect: settings.form_redirect.and_then(|url| HeaderValue::try_from(url).ok()),
        refusals: RefusalLog::default(),
    };
    let leads = Router::new()
        .route("/v1/leads", post(leads::submit))
        .route("/v1/leads/{source}", post(leads::submit_from))
        .route_layer(middleware::from_fn(traced))
        .with_state(Arc::new(shared))
        // Asked for here as well, so that the layer below answers a preflight first.
        .method_not_allowed_fallback(not_allowed);
    let leads = match cors(&settings.cors_origins) {
        Some(cors) => leads.layer(cors),
        None => leads,
    };
    let router = leads
        .merge(webhooks::router(webhooks))
        .merge(unsubscribe::router(unsubscribe)?)
        // Bodies are measured where they are read.
        .layer(DefaultBodyLimit::disable())
        .merge(health::router(checks))
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn(metrics::observe));
    Ok(router)
}

async fn not_allowed() -> Problem {
    Problem::method_not_allowed()
}

/// One request in a trace: the client's own, if its header tells of one.
async fn traced(request: Request, next: Next) -> Response {
    let span = trace_span!(
        target: trace::TARGET,
        "POST /v1/leads",
        otel.kind = "server",
        lead_id = Empty,
        http.response.status_code = Empty
    );
    trace::continue_from(&span, request.headers().get(trace::HEADER).and_then(|header| header.to_str().ok()));
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    response
}

/// Lets scripts on these pages hand leads in; none when there are no such pages.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else if origins.is_empty() {
        return None;
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok()))
    };
    let cors = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::POST])
        .allow_headers([CONTENT_TYPE, AUTHORIZATION, API_KEY, IDEMPOTENCY_KEY])
        .expose_headers([RETRY_AFTER])
        .max_age(PREFLIGHT_AGE);
    Some(cors)
}

/// Serves until `shutdown`, then finishes the requests under way: for 20 seconds at the most.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = listener.tap_io(|connection| {
        // An answer is one small write: nothing to wait for. Should this fail, it is only slower.
        let _ = connection.set_nodelay(true);
    });
    let (stopping, stopped) = oneshot::channel();
    let signal = async move {
        shutdown.await;
        // Nobody listens once the server is done.
        let _ = stopping.send(());
    };
    let time_is_up = async {
        if stopped.await.is_err() {
            pending::<()>().await;
        }
        tokio::time::sleep(STOPPING_TIME).await;
    };
    let server = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(signal)
        .into_future();
    tokio::select! {
        result = server => result,
        () = time_is_up => {
            tracing::warn!("requests still under way were cut off");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
