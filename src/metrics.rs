//! What a process measures, served for Prometheus at `/metrics`, on a listener of its own: the gateway's is for the
//! internet, where figures are nobody's business.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;
use dripline_actors::Chain;
use dripline_actors::metrics::{DURATIONS, ENGINE, Kind, Metric};
use dripline_actors::ports::{Clock, StoreError};
use dripline_domain::Timestamp;
use dripline_nats::Figures;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::gateway::health::{self, ReadyCheck};
use crate::gateway::serve;

const BUILD: Metric = Metric::gauge("dripline_build_info", "Always 1; the version is the label.");
const REQUESTS: Metric =
    Metric::counter("dripline_http_requests_total", "Requests to the gateway, by route and status.");
const REQUEST_DURATION: Metric = Metric::histogram(
    "dripline_http_request_duration_seconds",
    "Time from a request's head to the head of its answer.",
    DURATIONS,
);
const MESSAGES: Metric = Metric::gauge("dripline_stream_messages", "Messages in a stream.");
const BYTES: Metric = Metric::gauge("dripline_stream_bytes", "Bytes of all messages in a stream.");
const OLDEST: Metric = Metric::gauge(
    "dripline_stream_oldest_message_age_seconds",
    "Age of the oldest message in a stream; 0 where it is empty.",
);
const PENDING: Metric =
    Metric::gauge("dripline_consumer_pending_messages", "Messages that a consumer has not handed out yet.");
const UNSETTLED: Metric = Metric::gauge(
    "dripline_consumer_unsettled_messages",
    "Messages that a consumer has handed out, and that nobody has answered for.",
);
const REDELIVERED: Metric = Metric::gauge(
    "dripline_consumer_redelivered_messages",
    "Unsettled messages that a consumer has handed out more than once.",
);
const READ: Metric = Metric::gauge(
    "dripline_server_read_timestamp_seconds",
    "When the figures of streams and consumers were last read from the server, in Unix time.",
);
const CANARY_FAILING: Metric =
    Metric::gauge("dripline_canary_failing", "Whether the canary's last run failed: 1 until one passes again.");
const CANARY_PASSED: Metric = Metric::gauge(
    "dripline_canary_last_pass_timestamp_seconds",
    "When the canary's last run that passed ended, in Unix time; 0 where none has.",
);

/// What is measured here, besides what the engine measures.
const OURS: [Metric; 12] = [
    BUILD,
    REQUESTS,
    REQUEST_DURATION,
    MESSAGES,
    BYTES,
    OLDEST,
    PENDING,
    UNSETTLED,
    REDELIVERED,
    READ,
    CANARY_FAILING,
    CANARY_PASSED,
];

/// Between two readings of the server's figures.
const READ_EVERY: Duration = Duration::from_secs(10);
/// Samples are sorted into their buckets so often; until then each of them takes memory.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// The text format, version 0.0.4.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The listener of a process that measures.
pub(crate) struct Served {
    serving: JoinHandle<std::io::Result<()>>,
    stop: oneshot::Sender<()>,
    _tasks: JoinSet<()>,
}

/// From now on, what this process does is measured: to be called before anything begins.
///
/// # Errors
/// Somebody else records already.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new();
    for metric in ENGINE.iter().chain(&OURS) {
        if let Kind::Histogram(bounds) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)?;
        }
    }
    let handle = builder.install_recorder().context("metrics are recorded already")?;
    for Metric { name, help, kind } in ENGINE.iter().chain(&OURS) {
        match kind {
            Kind::Counter => describe_counter!(*name, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
            Kind::Histogram(_) => describe_histogram!(*name, *help),
        }
    }
    gauge!(BUILD.name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

impl Served {
    /// Serves `/metrics`, `/healthz` and `/readyz`, and reads the server's figures every ten seconds.
    pub(crate) async fn start(
        listen: SocketAddr,
        handle: PrometheusHandle,
        checks: Vec<Arc<dyn ReadyCheck>>,
        figures: Figures,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen} (metrics.listen)"))?;
        tracing::info!(address = ?listener.local_addr().ok(), "metrics are served");
        let mut tasks = JoinSet::new();
        tasks.spawn(read(figures, clock));
        tasks.spawn({
            let handle = handle.clone();
            async move {
                let mut ticks = tokio::time::interval(UPKEEP_EVERY);
                loop {
                    ticks.tick().await;
                    handle.run_upkeep();
                }
            }
        });
        let router = Router::new()
            .route("/metrics", get(async move || ([(CONTENT_TYPE, FORMAT)], handle.render())))
            .merge(health::router(checks));
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, router, async move {
            // Dropped means stopping as well.
            let _ = stopped.await;
        }));
        Ok(Self { serving, stop, _tasks: tasks })
    }

    /// Ends when the last answer is out.
    pub(crate) async fn stop(self) {
        // It may have ended by itself.
        let _ = self.stop.send(());
        match self.serving.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "metrics could not be served"),
            Err(error) => tracing::warn!(%error, "metrics could not be served"),
        }
    }
}

/// Measures one request to the gateway.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let began = Instant::now();
    // As declared, not as asked for: what clients make up must not become labels.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    histogram!(REQUEST_DURATION.name, "route" => route.clone()).record(began.elapsed());
    counter!(REQUESTS.name, "route" => route, "status" => response.status().as_str().to_owned()).increment(1);
    response
}

/// Reads the server's figures for as long as the process lives. While the server is away they stay as they were, and
/// the time of the last reading says so.
async fn read(figures: Figures, clock: Arc<dyn Clock>) {
    let mut ticks = tokio::time::interval(READ_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match read_once(&figures, clock.now()).await {
            Ok(()) => gauge!(READ.name).set(clock.now().since(Timestamp::from_millis(0))),
            Err(error) => tracing::debug!(error = %Chain(&error), "the server's figures could not be read"),
        }
    }
}

async fn read_once(figures: &Figures, now: Timestamp) -> Result<(), StoreError> {
    for read in figures.streams().await? {
        gauge!(MESSAGES.name, "stream" => read.stream).set(number(read.messages));
        gauge!(BYTES.name, "stream" => read.stream).set(number(read.bytes));
        gauge!(OLDEST.name, "stream" => read.stream)
            .set(read.oldest.map_or(Duration::ZERO, |oldest| now.since(oldest)));
    }
    for read in figures.consumers().await? {
        let labels = [("stream", read.stream), ("consumer", read.consumer)];
        gauge!(PENDING.name, &labels).set(number(read.pending));
        gauge!(UNSETTLED.name, &labels).set(number(read.unsettled));
        gauge!(REDELIVERED.name, &labels).set(number(read.redelivered));
    }
    let canary = figures.canary().await?;
    let unix = Timestamp::from_millis(0);
    gauge!(CANARY_FAILING.name).set(f64::from(u8::from(canary.failure.is_some())));
    gauge!(CANARY_PASSED.name).set(canary.last_pass().unwrap_or(unix).since(unix));
    Ok(())
}

/// Exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn number(count: u64) -> f64 {
    count as f64
}
