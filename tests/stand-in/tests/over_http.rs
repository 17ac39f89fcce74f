//! The stand-in as a test meets it: over HTTP.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dripline_stand_in::{Accepted, Fault, FaultKind, Refusal, Summary, Vendor};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::http::request::Builder;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A stand-in in this process, and a client that uses a new connection for each call.
struct StandIn(String);

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl StandIn {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { dripline_stand_in::serve(listener, "test-key").await });
        Self(address)
    }

    async fn call(&self, request: Request<Full<Bytes>>) -> Result<Answer, hyper::Error> {
        let stream = TcpStream::connect(&self.0).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let request = Request::get(path).header(HOST, &self.0).body(Full::default()).unwrap();
        serde_json::from_slice(&self.call(request).await.unwrap().body).unwrap()
    }

    async fn post(&self, path: &str, body: &impl serde::Serialize) -> Answer {
        let body = serde_json::to_vec(body).unwrap();
        let request = Request::post(path).header(HOST, &self.0).body(Full::new(body.into())).unwrap();
        self.call(request).await.unwrap()
    }

    async fn fault(&self, fault: Fault) {
        assert_eq!(self.post("/_/faults", &fault).await.status, 200);
    }

    /// One email by way of Resend.
    async fn send(&self, to: &str, key: &str, text: &str) -> Result<Answer, hyper::Error> {
        let body = json!({
            "from": "Acme <hello@acme.example>",
            "to": [to],
            "subject": "Hello",
            "text": text,
            "tags": [
                { "name": "send_key", "value": key },
                { "name": "lead_id", "value": "lead-1" },
                { "name": "sequence", "value": "nurture" },
                { "name": "step", "value": "welcome" }
            ]
        });
        let request = Request::post("/emails")
            .header(HOST, &self.0)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, "test")
            .header("authorization", "Bearer test-key")
            .header("idempotency-key", key)
            .body(Full::new(body.to_string().into()))
            .unwrap();
        self.call(request).await
    }

    /// A batch by way of Postmark, one email to each address with the address for a send key.
    async fn send_batch(&self, to: &[&str]) -> Answer {
        let email = |to: &&str| {
            json!({
                "From": "Acme <hello@acme.example>",
                "To": to,
                "Subject": "Hello",
                "TextBody": "Hello",
                "Metadata": { "send_key": to, "lead_id": "lead-1", "sequence": "nurture", "step": "welcome" }
            })
        };
        let body: Value = to.iter().map(email).collect();
        self.call(self.postmark(Request::post("/email/batch"), body.to_string())).await.unwrap()
    }

    /// What Postmark finds by a send key: the status, and how many.
    async fn look_up(&self, send_key: &str) -> (StatusCode, Option<u64>) {
        let path = format!("/messages/outbound?count=1&offset=0&metadata_send_key={send_key}");
        let answer = self.call(self.postmark(Request::get(path), String::new())).await.unwrap();
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status, body["TotalCount"].as_u64())
    }

    fn postmark(&self, request: Builder, body: String) -> Request<Full<Bytes>> {
        request
            .header(HOST, &self.0)
            .header(CONTENT_TYPE, "application/json")
            .header("accept", "application/json")
            .header("x-postmark-server-token", "test-key")
            .body(Full::new(body.into()))
            .unwrap()
    }

    async fn summary(&self) -> Summary {
        self.get("/_/summary").await
    }
}

#[tokio::test]
async fn an_accepted_email_is_remembered() {
    let stand_in = StandIn::start().await;
    let answer = stand_in.send("jane@example.com", "key-1", "Hello").await.unwrap();
    assert_eq!(answer.status, 200);
    let answered: Value = serde_json::from_slice(&answer.body).unwrap();
    let email: Accepted = stand_in.get("/_/accepted?to=jane%40example.com").await;
    assert_eq!((&*email.send_key, &*email.to, &*email.step), ("key-1", "jane@example.com", "welcome"));
    assert_eq!((email.provider, &*email.message_id), (Vendor::Resend, answered["id"].as_str().unwrap()));

    stand_in.post("/_/reset", &()).await;
    assert_eq!(stand_in.summary().await, Summary::default());
}

#[tokio::test]
async fn a_refused_request_is_shown_with_its_reason() {
    let stand_in = StandIn::start().await;
    let answer = stand_in.post("/v3/mail/send", &json!({ "html": "x" })).await;
    assert_eq!(answer.status, 401);
    assert_eq!(stand_in.post("/nothing", &()).await.status, 404);
    let refusals: Vec<Refusal> = stand_in.get("/_/refusals").await;
    assert_eq!(refusals[0].provider, Some(Vendor::SendGrid));
    assert_eq!(refusals[0].body, r#"{"html":"x"}"#);
    assert_eq!(refusals[1].provider, None);
    assert_eq!(stand_in.summary().await.refused, 2);
}

#[tokio::test]
async fn a_lost_answer_leaves_the_email_accepted() {
    let stand_in = StandIn::start().await;
    stand_in.fault(Fault { count: Some(1), ..Fault::new(FaultKind::DropAfterAccept) }).await;
    assert!(stand_in.send("jane@example.com", "key-1", "Hello").await.is_err());
    assert_eq!(stand_in.summary().await.accepted, 1);
    assert_eq!(stand_in.send("jane@example.com", "key-1", "Hello").await.unwrap().status, 200);
    let summary = stand_in.summary().await;
    assert_eq!((summary.accepted, summary.duplicates, summary.faulted), (1, 0, 1));
}

#[tokio::test]
async fn a_lost_request_leaves_nothing() {
    let stand_in = StandIn::start().await;
    stand_in.fault(Fault::new(FaultKind::DropBeforeAccept)).await;
    assert!(stand_in.send("jane@example.com", "key-1", "Hello").await.is_err());
    assert_eq!(stand_in.summary().await.accepted, 0);
}

#[tokio::test]
async fn a_hanging_call_is_never_answered() {
    let stand_in = StandIn::start().await;
    stand_in.fault(Fault { count: Some(1), ..Fault::new(FaultKind::Hang) }).await;
    let call = stand_in.send("jane@example.com", "key-1", "Hello");
    assert!(timeout(Duration::from_millis(300), call).await.is_err());
    assert_eq!(stand_in.summary().await.accepted, 0);
}

#[tokio::test]
async fn a_slow_call_is_accepted_at_once_and_keeps_its_key_busy() {
    let stand_in = StandIn::start().await;
    stand_in.fault(Fault { delay_ms: Some(400), count: Some(1), ..Fault::new(FaultKind::Slow) }).await;
    let started = Instant::now();
    let (first, second) = tokio::join!(stand_in.send("jane@example.com", "key-1", "Hello"), async {
        while stand_in.summary().await.accepted == 0 {}
        stand_in.send("jane@example.com", "key-1", "Hello").await
    });
    assert_eq!(first.unwrap().status, 200);
    assert!(started.elapsed() >= Duration::from_millis(400));
    let second = second.unwrap();
    assert_eq!(second.status, 409);
    assert!(String::from_utf8_lossy(&second.body).contains("concurrent_idempotent_requests"));
    assert_eq!(stand_in.summary().await.refused, 0);
}

#[tokio::test]
async fn another_body_under_a_used_key_is_refused() {
    let stand_in = StandIn::start().await;
    stand_in.send("jane@example.com", "key-1", "Hello").await.unwrap();
    let answer = stand_in.send("jane@example.com", "key-1", "Hello again").await.unwrap();
    assert_eq!(answer.status, 409);
    assert!(String::from_utf8_lossy(&answer.body).contains("invalid_idempotent_request"));
    let summary = stand_in.summary().await;
    assert_eq!((summary.accepted, summary.refused), (1, 1));
}

#[tokio::test]
async fn a_status_comes_with_its_headers_for_the_address_it_is_meant_for() {
    let stand_in = StandIn::start().await;
    let headers = [("retry-after".to_owned(), "2".to_owned())].into();
    let fault = Fault { status: Some(429), headers, match_to: Some("busy".into()), ..Fault::new(FaultKind::Status) };
    stand_in.fault(fault).await;
    let answer = stand_in.send("busy@example.com", "key-1", "Hello").await.unwrap();
    assert_eq!((answer.status, &answer.headers[RETRY_AFTER]), (StatusCode::TOO_MANY_REQUESTS, &"2".parse().unwrap()));
    assert!(String::from_utf8_lossy(&answer.body).contains("rate_limit_exceeded"));
    assert_eq!(stand_in.send("idle@example.com", "key-2", "Hello").await.unwrap().status, 200);
    assert_eq!(stand_in.summary().await.accepted, 1);
}

#[tokio::test]
async fn garbage_is_a_page_and_accepts_nothing() {
    let stand_in = StandIn::start().await;
    stand_in.fault(Fault::new(FaultKind::Garbage)).await;
    let answer = stand_in.send("jane@example.com", "key-1", "Hello").await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(serde_json::from_slice::<Value>(&answer.body).is_err());
    assert_eq!(stand_in.summary().await.accepted, 0);
}

/// The `ErrorCode` of each.
fn codes(answer: &Answer) -> Vec<u64> {
    assert_eq!(answer.status, 200);
    let results: Vec<Value> = serde_json::from_slice(&answer.body).unwrap();
    results.iter().map(|result| result["ErrorCode"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_batch_has_a_result_for_each_email() {
    let stand_in = StandIn::start().await;
    let answer = stand_in.send_batch(&["jane@example.com", "nobody", "joe@example.com"]).await;
    assert_eq!(codes(&answer), [0, 300, 0]);
    let summary = stand_in.summary().await;
    assert_eq!((summary.accepted, summary.distinct_send_keys, summary.refused, summary.peak_5s), (2, 2, 1, 2));

    let fault = Fault { status: Some(422), match_to: Some("bad".into()), ..Fault::new(FaultKind::Status) };
    stand_in.fault(fault).await;
    assert_eq!(codes(&stand_in.send_batch(&["good@example.com", "bad@example.com"]).await), [0, 300]);
    stand_in.fault(Fault { status: Some(422), ..Fault::new(FaultKind::Status) }).await;
    assert_eq!(stand_in.send_batch(&["good@example.com", "fine@example.com"]).await.status, 422);
    let summary = stand_in.summary().await;
    assert_eq!((summary.accepted, summary.refused, summary.faulted), (3, 1, 2));
}

#[tokio::test]
async fn only_what_was_accepted_is_found() {
    let stand_in = StandIn::start().await;
    stand_in.send_batch(&["jane@example.com", "nobody"]).await;
    stand_in.send("joe@example.com", "key-1", "Hello").await.unwrap();
    for (send_key, count) in [("jane@example.com", 1), ("nobody", 0), ("jane", 0), ("key-1", 0)] {
        assert_eq!(stand_in.look_up(send_key).await, (StatusCode::OK, Some(count)), "{send_key}");
    }
    let summary = stand_in.summary().await;
    assert_eq!((summary.accepted, summary.look_ups, summary.refused), (2, 4, 1));
}

#[tokio::test]
async fn a_look_up_may_lag_or_fail() {
    let stand_in = StandIn::start().await;
    stand_in.send_batch(&["jane@example.com"]).await;
    stand_in.fault(Fault { delay_ms: Some(600_000), ..Fault::new(FaultKind::LookUpLag) }).await;
    assert_eq!(stand_in.look_up("jane@example.com").await.1, Some(0));
    let fault = Fault { status: Some(500), count: Some(1), ..Fault::new(FaultKind::LookUpStatus) };
    stand_in.fault(fault).await;
    assert_eq!(stand_in.look_up("jane@example.com").await.0, 500);
    assert_eq!(stand_in.look_up("jane@example.com").await.1, Some(1));
    assert_eq!(stand_in.summary().await.accepted, 1);
}

#[tokio::test]
async fn a_fault_that_is_not_understood_is_refused() {
    let stand_in = StandIn::start().await;
    for fault in [json!({ "kind": "explode" }), json!({ "kind": "hang", "delay": 1 }), json!({ "kind": "slow" })] {
        assert_eq!(stand_in.post("/_/faults", &fault).await.status, 400, "{fault}");
    }
    let both = json!([{ "kind": "hang", "count": 1 }, { "kind": "garbage" }]);
    assert_eq!(stand_in.post("/_/faults", &both).await.status, 200);
    let faults: Vec<Fault> = stand_in.get("/_/faults").await;
    assert_eq!(faults.len(), 2);
}

#[test]
fn the_process_says_where_it_listens_and_ends_with_its_standard_input() {
    let mut process = Command::new(env!("CARGO_BIN_EXE_dripline-stand-in"))
        .arg("--exit-with-stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on http://").unwrap();
    std::net::TcpStream::connect(address).unwrap();
    drop(process.stdin.take());
    assert!(process.wait().unwrap().success());
}
