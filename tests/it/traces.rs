//! What is traced: as a collector gets it.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::system::System;

/// Takes OTLP by HTTP.
struct Collector {
    url: String,
    requests: Arc<Mutex<Vec<Bytes>>>,
    serving: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Collector {
    async fn start() -> Self {
        let requests = Arc::<Mutex<Vec<Bytes>>>::default();
        let kept = Arc::clone(&requests);
        let take = post(async move |body: Bytes| {
            kept.lock().unwrap().push(body);
            StatusCode::OK
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", take);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, requests, serving }
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let read = requests.iter().map(|body| ExportTraceServiceRequest::decode(body.clone()).unwrap());
        let resources = read.flat_map(|request| request.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// From a span up to where the trace comes from: the names, and the id of the parent that is not ours.
fn path<'a>(spans: &'a [Span], from: &'a Span) -> (Vec<&'a str>, &'a [u8]) {
    let by_id: HashMap<_, _> = spans.iter().map(|span| (&span.span_id, span)).collect();
    let (mut names, mut at) = (vec![&*from.name], from);
    while let Some(parent) = by_id.get(&at.parent_span_id) {
        names.push(&parent.name);
        at = parent;
    }
    (names, &at.parent_span_id)
}

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const PARENT: u64 = 0x00f0_67aa_0ba9_02b7;

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_clients_request_to_the_providers_answer() {
    let collector = Collector::start().await;
    let mut system = System::new("resend").await;
    system.sequence("welcome", &[("first", "0s"), ("second", "2m")]);
    system.set("DRIPLINE_TELEMETRY__OTLP_ENDPOINT", &collector.url);
    let mut gateway = system.start("gateway").await;
    let mut engine = system.start("engine").await;
    let lead = system.http.post(system.gateway("/v1/leads")).body(r#"{"email": "jane@example.com"}"#);
    let lead = lead
        .header("Content-Type", "application/json")
        .header("traceparent", format!("00-{TRACE:032x}-{PARENT:016x}-01"));
    assert_eq!(lead.send().await.unwrap().status(), 202);
    system.until_status("jane=40example.com", "ACTIVE").await;
    // What is left goes out on a stop.
    assert_eq!((gateway.stop().await.unwrap(), engine.stop().await.unwrap()), (Some(0), Some(0)));

    let spans = collector.spans();
    let call = spans.iter().find(|span| span.name == "call provider").unwrap_or_else(|| panic!("{spans:#?}"));
    let names = ["call provider", "lead woken", "lead arrived", "POST /v1/leads"];
    assert_eq!(path(&spans, call), (names.to_vec(), &PARENT.to_be_bytes()[..]), "{spans:#?}");
    assert_eq!(attribute(call, "outcome"), Some("accepted"));
    assert_eq!(attribute(call, "step"), Some("first"));
    assert_eq!(attribute(call, "send_key").map(str::len), Some(32));
    let lead_ids: Vec<_> = spans.iter().filter_map(|span| attribute(span, "lead_id")).collect();
    assert!(lead_ids.len() >= 3 && lead_ids.iter().all(|id| *id == lead_ids[0]), "{lead_ids:?}");
    assert!(spans.iter().all(|span| span.trace_id == TRACE.to_be_bytes()), "{spans:#?}");
    let sent = collector.requests.lock().unwrap().concat();
    assert!(!String::from_utf8_lossy(&sent).contains("jane"), "an address is in the traces");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_traces_and_no_email() {
    let mut system = System::new("resend").await;
    let nobody = dripline_test_support::free_port().unwrap();
    system.set("DRIPLINE_TELEMETRY__OTLP_ENDPOINT", &format!("http://127.0.0.1:{nobody}"));
    let mut dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    system.until_status("jane=40example.com", "COMPLETED").await;
    assert_eq!(dripline.stop().await.unwrap(), Some(0));
    assert!(system.log().contains("telemetry data will be lost"), "{}", system.log());
}
