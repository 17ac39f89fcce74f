//! Whatever comes in, nothing is lost silently, nobody else waits, and dripline goes on.
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, Context};
use dripline_test_support::until;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use crate::system::System;

const GOOD: &str = r#"{"email": "good@example.com", "company": "Acme"}"#;

async fn jetstream(system: &System) -> Context {
    jetstream::new(async_nats::connect(system.server.url()).await.unwrap())
}

/// The rejection under this code whose payload is `bytes`: its reason.
async fn until_rejected(system: &System, code: &str, bytes: &[u8]) -> String {
    let mut reason = None;
    let what = format!("{:?} is rejected as {code}", String::from_utf8_lossy(bytes));
    let rejected = until(what, async || {
        let found = system.rejected(code).await.into_iter().find(|(_, payload)| payload == bytes);
        reason = found.map(|(reason, _)| reason);
        reason.is_some()
    });
    if let Err(error) = rejected.await {
        panic!("{error}\n{}", system.log());
    }
    reason.unwrap()
}

async fn until_drained(system: &System, stream: &str) {
    until(format!("{stream} is empty"), async || system.depth(stream).await == 0).await.unwrap();
}

fn newest_reason(document: &Value) -> &str {
    document["history"].as_array().unwrap().last().unwrap()["reason"].as_str().unwrap()
}

#[tokio::test]
async fn what_is_no_lead_is_rejected_with_a_reason_and_its_bytes_and_the_next_lead_gets_its_emails() {
    let system = System::new("resend").await;
    let mut dripline = system.start("run").await;
    let context = jetstream(&system).await;
    let whole = rmp_serde::to_vec_named(&json!({"email": "pack@example.com", "firstName": "Jane"})).unwrap();
    let early = &whole[..whole.len() - 3];
    let table: [(&str, Option<&str>, &[u8], &str); 10] = [
        ("not_json", None, b"not JSON", "not JSON"),
        ("not_json", None, b"", "not JSON"),
        ("not_json", None, b"\x00\xff\xfe\x9c\x81{\"", "not JSON"),
        ("not_an_object", None, br#"["jane@example.com"]"#, "not a JSON object"),
        ("missing_email", None, br#"{"firstName": "Jane"}"#, "no email"),
        ("invalid_email", None, br#"{"email": "jane@"}"#, "email"),
        ("wrong_type", None, br#"{"email": 17}"#, "email"),
        (
            "control_characters",
            None,
            br#"{"email": "bad@example.com", "firstName": "Jane\r\nBcc: x@y.z"}"#,
            "firstName",
        ),
        ("unknown_sequence", None, br#"{"email": "bad@example.com", "sequence": "nowhere"}"#, "nowhere"),
        ("not_msgpack", Some("application/msgpack"), early, "MessagePack"),
    ];
    for (_, content_type, bytes, _) in table {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = content_type {
            headers.insert("Content-Type", content_type);
        }
        context.publish_with_headers("leads.new", headers, bytes.to_vec().into()).await.unwrap().await.unwrap();
    }
    context.publish("leads.new", GOOD.into()).await.unwrap().await.unwrap();

    system.until_status("good=40example.com", "COMPLETED").await;
    for (code, _, bytes, told) in table {
        let reason = until_rejected(&system, code, bytes).await;
        assert!(reason.contains(told), "{code}: {reason}");
    }
    until_drained(&system, "LEADS").await;
    assert_eq!(system.depth("REJECTED").await, table.len() as u64, "each once");
    assert_eq!(system.steps_of("good@example.com").await, ["first", "second", "third"]);
    assert_eq!(system.summary().await.accepted, 3);
    assert_eq!(system.document("bad=40example.com").await, None);
    assert!(dripline.runs().unwrap());
}

/// Status, code, field and the whole document.
async fn problem(request: RequestBuilder) -> (u16, String, Value) {
    let response = request.timeout(Duration::from_secs(30)).send().await.unwrap();
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{status}");
    let document: Value = response.json().await.unwrap();
    assert_eq!(document["status"], status);
    assert!(!document["detail"].as_str().unwrap().is_empty(), "{document}");
    (status, document["code"].as_str().unwrap().to_owned(), document)
}

#[tokio::test]
async fn the_gateway_says_what_is_wrong_and_queues_nothing() {
    let system = System::new("resend").await;
    let mut gateway = system.start("gateway").await;
    let leads = system.gateway("/v1/leads");
    let post = |body: Vec<u8>| system.http.post(&leads).header("Content-Type", "application/json").body(body);
    for (body, code, field) in [
        ("not JSON", "not_json", None),
        ("", "not_json", None),
        (r#"["jane@example.com"]"#, "not_an_object", None),
        (r#"{"firstName": "Jane"}"#, "missing_email", Some("email")),
        (r#"{"email": "jane@"}"#, "invalid_email", Some("email")),
        (r#"{"email": 17}"#, "wrong_type", Some("email")),
        (r#"{"email": "j@example.com", "sequence": "No Name"}"#, "invalid_sequence", Some("sequence")),
        (r#"{"email": "j@example.com", "firstName": "J\r\nBcc: x@y.z"}"#, "control_characters", Some("firstName")),
        (r#"{"email": "j@example.com\r\nBcc: x@y.z"}"#, "invalid_email", Some("email")),
    ] {
        let (status, found, document) = problem(post(body.into())).await;
        assert_eq!((status, &*found), (400, code), "{body}: {document}");
        assert_eq!(document["field"].as_str(), field, "{body}: {document}");
    }
    let (status, code, _) = problem(post(b"\xff\xfe\x00".to_vec())).await;
    assert_eq!((status, &*code), (400, "not_json"));

    let large = format!(r#"{{"email": "j@example.com", "note": "{}"}}"#, "x".repeat(10_000_000));
    let (status, code, _) = problem(post(large.into())).await;
    assert_eq!((status, &*code), (413, "body_too_large"));

    let text = system.http.post(&leads).header("Content-Type", "text/plain").body(GOOD);
    let (status, code, _) = problem(text).await;
    assert_eq!((status, &*code), (415, "unsupported_media_type"));
    let (status, code, _) = problem(system.http.post(system.gateway("/v1/nothing")).body("")).await;
    assert_eq!((status, &*code), (404, "not_found"));
    let (status, code, _) = problem(system.http.get(&leads)).await;
    assert_eq!((status, &*code), (405, "method_not_allowed"));
    let (status, code, _) = problem(system.http.post(system.gateway("/v1/leads/no.such%20source")).body("")).await;
    assert_eq!((status, &*code), (400, "invalid_source"));

    assert_eq!(system.waiting_leads().await, 0);
    assert!(gateway.runs().unwrap());
}

async fn hand_in(system: &System, number: u32) -> Response {
    let lead = json!({"email": format!("lead-{number}@example.com")});
    let request = system.http.post(system.gateway("/v1/leads")).json(&lead);
    request.timeout(Duration::from_secs(30)).send().await.unwrap()
}

/// Asserts that the source is to try again; gives what it is told.
async fn assert_try_again(response: Response, code: &str) -> String {
    assert_eq!(response.status(), 503);
    let wait = response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap();
    assert!(wait > 0);
    let document: Value = response.json().await.unwrap();
    assert_eq!(document["code"], code, "{document}");
    document["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_gateway_asks_to_try_again_while_nats_is_away_and_takes_leads_once_it_is_back() {
    let mut system = System::new("resend").await;
    let mut gateway = system.start("gateway").await;
    assert_eq!(hand_in(&system, 1).await.status(), 202);
    system.server.kill().await.unwrap();
    let told = assert_try_again(hand_in(&system, 2).await, "queue_unavailable").await;
    let ready = system.http.get(system.gateway("/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    system.server.restart().await.unwrap();
    until("leads are taken again", async || hand_in(&system, 3).await.status() == 202).await.unwrap();
    let queued = jetstream(&system).await.get_stream("LEADS").await.unwrap();
    for sequence in 1..=queued.cached_info().state.last_sequence {
        let lead = queued.get_raw_message(sequence).await.unwrap();
        let kept = lead.payload.windows(6).any(|part| part == b"lead-2");
        assert!(
            !kept || !told.contains("nothing of this lead was kept"),
            "it was kept, and its source was told: {told}"
        );
    }
    assert!(gateway.runs().unwrap());
}

#[tokio::test]
async fn the_gateway_asks_to_try_again_while_the_queue_is_full() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_NATS__MAX_LEADS", "3");
    let _gateway = system.start("gateway").await;
    for number in 1..=3 {
        assert_eq!(hand_in(&system, number).await.status(), 202, "lead {number}");
    }
    assert_try_again(hand_in(&system, 4).await, "queue_full").await;
    assert_eq!(system.waiting_leads().await, 3, "a full queue drops nothing");
}

#[tokio::test]
async fn a_line_break_in_a_subject_parks_that_lead_and_no_other() {
    let system = System::new("postmark").await;
    system.sequence_saying("welcome", &[("first", "0s"), ("second", "0s")], "For {{ company }}", "<p>Hello</p>");
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "bad@example.com", "company": "Acme\nBcc: x@y.z"}"#).await;
    system.publish("leads.new", GOOD).await;
    let parked = system.until_status("bad=40example.com", "PARKED").await;
    let reason = newest_reason(&parked);
    assert!(reason.contains("subject") && reason.contains("line break"), "{reason}");
    system.until_status("good=40example.com", "COMPLETED").await;
    assert_eq!(system.steps_of("good@example.com").await, ["first", "second"]);
    assert_eq!(system.summary().await.accepted, 2);
}

#[tokio::test]
async fn a_template_that_fails_for_a_lead_parks_that_lead_and_no_other() {
    let system = System::new("mailgun").await;
    system.sequence_saying("welcome", &[("first", "0s"), ("second", "0s")], "Hello", "<p>\nAt {{ company }}</p>");
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "bad@example.com"}"#).await;
    system.publish("leads.new", GOOD).await;
    let parked = system.until_status("bad=40example.com", "PARKED").await;
    let reason = newest_reason(&parked);
    assert!(reason.contains("body.html:2") && reason.contains("company"), "{reason}");
    system.until_status("good=40example.com", "COMPLETED").await;
    assert_eq!(system.steps_of("good@example.com").await, ["first", "second"]);
    assert_eq!(system.summary().await.accepted, 2);
}

#[tokio::test]
async fn a_timer_that_is_none_is_rejected_and_the_real_ones_go_on() {
    let system = System::new("resend").await;
    let mut dripline = system.start("run").await;
    let context = jetstream(&system).await;
    // A payload that is none, and a subject that names nobody.
    let garbage: [(&str, &[u8]); 3] = [
        ("timers.due.x=40example.com", b"\xc1 garbage"),
        ("timers.due.y=40example.com", b""),
        ("timers.due.nobody", b"\x91\x01"),
    ];
    for (subject, bytes) in garbage {
        context.publish(subject, bytes.to_vec().into()).await.unwrap().await.unwrap();
    }
    system.publish("leads.new", GOOD).await;
    for (_, bytes) in garbage {
        assert!(!until_rejected(&system, "invalid_timer", bytes).await.is_empty());
    }
    system.until_status("good=40example.com", "COMPLETED").await;
    until_drained(&system, "TIMERS").await;
    assert_eq!(system.summary().await.accepted, 3);
    assert!(dripline.runs().unwrap());
}

#[tokio::test]
async fn a_document_that_cannot_be_read_is_left_alone_and_its_lead_rejected() {
    let system = System::new("resend").await;
    let mut dripline = system.start("run").await;
    system.server.cli(["kv", "put", "leads", "x=40example.com", "notjson"]).await.unwrap();
    let lead = r#"{"email": "x@example.com"}"#;
    system.publish("leads.new", lead).await;
    system.publish("leads.new", GOOD).await;
    let reason = until_rejected(&system, "unreadable_document", lead.as_bytes()).await;
    assert!(reason.contains("document"), "{reason}");
    system.until_status("good=40example.com", "COMPLETED").await;
    until_drained(&system, "LEADS").await;
    let document = system.server.cli(["kv", "get", "leads", "x=40example.com", "--raw"]).await.unwrap();
    assert_eq!(document.trim(), "notjson");
    assert_eq!(system.steps_of("x@example.com").await, Vec::<String>::new());
    assert!(dripline.runs().unwrap());
}
