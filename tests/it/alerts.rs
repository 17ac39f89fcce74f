//! What needs a person is told: once, by every way that is set, and once more when it is over.
use std::time::{SystemTime, UNIX_EPOCH};

use dripline_stand_in::{Fault, FaultKind};
use dripline_test_support::{free_port, until};
use serde_json::{Value, json};

use crate::mailpit::Mailpit;
use crate::outgoing::{Subscriber, json_of};
use crate::system::System;

/// Looks every moment.
pub fn impatient(system: &mut System) {
    for (name, value) in [("EVERY", "200ms"), ("PATIENCE", "1s"), ("QUEUE_AGE", "1s"), ("WITHIN", "4s")] {
        system.set(&format!("DRIPLINE_ALERTS__{name}"), value);
    }
}

async fn alerting(vendor: &str, answers: &[u16]) -> (System, Subscriber) {
    let mut system = System::new(vendor).await;
    let people = Subscriber::start(answers).await;
    system.set("DRIPLINE_ALERTS__WEBHOOK_URL", &people.url);
    impatient(&mut system);
    (system, people)
}

/// What the webhook was told of this alert: kind and summary, in order.
pub fn told(people: &Subscriber, alert: &str) -> Vec<(String, String)> {
    let bodies = people.posts().into_iter().filter(|(answer, ..)| *answer == 200).map(|(_, _, body)| json_of(&body));
    let its = bodies.filter(|body| body["data"]["alert"] == alert);
    its.map(|body| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&body["type"]), text(&body["data"]["summary"]))
    })
    .collect()
}

/// Waits until it was raised; gives its summary.
pub async fn until_raised(system: &System, people: &Subscriber, alert: &str) -> String {
    let raised = until(format!("{alert} is raised"), async || !told(people, alert).is_empty());
    if let Err(error) = raised.await {
        panic!("{error}; {:?}\n{}", people.taken(), system.log());
    }
    told(people, alert)[0].1.clone()
}

/// Waits until everybody was told that it is over; it was told once, and its end once.
pub async fn until_resolved(system: &System, people: &Subscriber, alert: &str) {
    let over = until(format!("{alert} is over"), async || {
        told(people, alert).len() >= 2 && system.server.cli(["kv", "get", "alerts", alert, "--raw"]).await.is_err()
    });
    if let Err(error) = over.await {
        panic!("{error}; {:?}\n{}", told(people, alert), system.log());
    }
    let kinds: Vec<_> = told(people, alert).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["dripline.alert.raised", "dripline.alert.resolved"], "{alert}");
}

#[tokio::test]
async fn two_gateways_without_an_engine_tell_it_once_by_webhook_slack_email_and_log() {
    let (mut system, people) = alerting("resend", &[]).await;
    let slack = Subscriber::start(&[]).await;
    let mailpit = Mailpit::start(&system.http).await;
    system.set("DRIPLINE_ALERTS__SLACK_URL", &slack.url);
    system.set("DRIPLINE_ALERTS__EMAIL_TO", "ops@acme.example");
    system.set("DRIPLINE_ALERTS__EMAIL_FROM", "Dripline <dripline@acme.example>");
    mailpit.is_server_of(&mut system, "ALERTS");
    let _one = system.start("gateway").await;
    system.set("DRIPLINE_GATEWAY__LISTEN", &format!("127.0.0.1:{}", free_port().unwrap()));
    let _other = system.start("gateway").await;
    let summary = until_raised(&system, &people, "no-engine").await;
    assert!(summary.contains("no engine is alive"), "{summary}");
    let record = system.server.cli(["kv", "get", "alerts", "no-engine", "--raw"]).await.unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!((&record["severity"], &record["key"]), (&json!("critical"), &json!("no-engine")));

    let _engine = system.start("engine").await;
    until_resolved(&system, &people, "no-engine").await;
    let texts: Vec<_> =
        slack.posts().iter().map(|(_, _, body)| json_of(body)["text"].as_str().unwrap().to_owned()).collect();
    assert!(texts.len() == 2 && texts[0].starts_with("[critical] no engine"), "{texts:?}");
    assert!(texts[1].starts_with("[resolved] no engine"), "{texts:?}");
    let subjects = mailpit.subjects_to("ops@acme.example").await;
    assert!(subjects.len() == 2 && subjects[0].starts_with("Dripline: [critical] no engine"), "{subjects:?}");
    assert!(subjects[1].starts_with("Dripline: [resolved]"), "{subjects:?}");
    assert_eq!(system.log().matches("this needs a person").count(), 1, "{}", system.log());
}

#[tokio::test]
async fn a_provider_that_fails_and_one_that_is_misconfigured_are_told_apart() {
    let (mut system, people) = alerting("resend", &[]).await;
    system.set("DRIPLINE_ESP__BREAKER_FAILURES", "1");
    system.set("DRIPLINE_ESP__PROBE_EVERY", "500ms");
    let _dripline = system.start("run").await;
    for (status, alert) in [(503, "provider.resend"), (401, "misconfigured.resend")] {
        system.fault(&Fault { status: Some(status), ..Fault::new(FaultKind::Status) }).await;
        system.publish("leads.new", &json!({"email": format!("jane{status}@example.com")}).to_string()).await;
        let summary = until_raised(&system, &people, alert).await;
        assert!(summary.contains("resend") && summary.contains(&status.to_string()), "{summary}");
        system.fault(&Fault::new(FaultKind::None)).await;
        until_resolved(&system, &people, alert).await;
    }
}

#[tokio::test]
async fn a_queue_that_does_not_drain_is_told_and_a_notice_that_is_refused_is_tried_again() {
    let (mut system, people) = alerting("resend", &[500, 503]).await;
    let slack = Subscriber::start(&[]).await;
    system.set("DRIPLINE_ALERTS__SLACK_URL", &slack.url);
    let mut dripline = system.start("run").await;
    system.server.cli(["consumer", "pause", "LEADS", "intake", "1h", "--force"]).await.unwrap();
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    let summary = until_raised(&system, &people, "queue.LEADS").await;
    assert!(summary.contains("waiting in LEADS: 1") && summary.contains("its consumer is paused"), "{summary}");
    assert_eq!(people.posts().len(), 3, "twice refused");
    assert_eq!(slack.posts().len(), 1, "one that has it is not told again");

    // What was told is known to the next process.
    dripline.kill().await.unwrap();
    let _dripline = system.start("run").await;
    system.server.cli(["consumer", "resume", "LEADS", "intake", "--force"]).await.unwrap();
    until_resolved(&system, &people, "queue.LEADS").await;
    system.until_status("jane=40example.com", "COMPLETED").await;
}

#[tokio::test]
async fn rejected_messages_and_lost_answers_that_grow_are_told() {
    let (mut system, people) = alerting("resend", &[]).await;
    system.set("DRIPLINE_ALERTS__REJECTED", "3");
    system.set("DRIPLINE_ALERTS__IN_DOUBT", "1");
    let _dripline = system.start("run").await;
    // What is there when the process begins to look is not growth.
    for _ in 0..2 {
        system.publish("leads.new", "{}").await;
    }
    let rejected = until("two are rejected", async || system.depth("REJECTED").await == 2);
    rejected.await.unwrap();
    for _ in 0..3 {
        system.publish("leads.new", "{}").await;
    }
    let summary = until_raised(&system, &people, "rejected").await;
    assert!(summary.contains("dripline rejected ls"), "{summary}");
    until_resolved(&system, &people, "rejected").await;

    system.fault(&Fault { count: Some(1), ..Fault::new(FaultKind::DropAfterAccept) }).await;
    system.publish("leads.new", r#"{"email": "ann@example.com"}"#).await;
    let summary = until_raised(&system, &people, "in-doubt").await;
    assert!(summary.contains("answers lost within 4s: 1"), "{summary}");
    until_resolved(&system, &people, "in-doubt").await;
}

#[tokio::test]
async fn a_guard_that_pauses_a_sequence_is_told_until_the_sequence_is_resumed() {
    let (mut system, people) = alerting("resend", &[]).await;
    system.set("DRIPLINE_GUARD__LEAST", "10");
    let _dripline = system.start("run").await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    for (event, count) in [("sent", 10), ("hard_bounced", 10)] {
        let line = json!({
            "leadId": "ld_1", "timestamp": u64::try_from(now).unwrap(), "event": event, "sequence": "welcome",
            "version": 1, "step": "first", "provider": "resend",
        });
        let lines = format!("{line}\n").repeat(count);
        system.server.cli(["pub", "-J", &format!("journal.{event}"), &lines]).await.unwrap();
    }
    let summary = until_raised(&system, &people, "guard.welcome").await;
    assert!(summary.contains("`welcome` was paused by its guard"), "{summary}");
    let (code, _, err) = system.run(&["sequence", "resume", "welcome", "--reason", "looked into", "--by", "ann"]).await;
    assert_eq!(code, Some(0), "{err}");
    until_resolved(&system, &people, "guard.welcome").await;
}

#[tokio::test]
async fn that_leads_cannot_be_put_on_disk_is_told_while_nats_is_away() {
    let (mut system, people) = alerting("resend", &[]).await;
    let _dripline = system.start("run").await;
    system.server.kill().await.unwrap();
    let summary = until_raised(&system, &people, "ingestion").await;
    assert!(summary.contains("leads cannot be put on disk"), "{summary}");
    system.server.restart().await.unwrap();
    until_resolved(&system, &people, "ingestion").await;
}

#[tokio::test]
async fn a_full_lead_queue_is_told() {
    let (mut system, people) = alerting("resend", &[]).await;
    system.set("DRIPLINE_NATS__MAX_LEADS", "2");
    system.set("DRIPLINE_ALERTS__QUEUE_AGE", "1h");
    let _dripline = system.start("run").await;
    system.server.cli(["consumer", "pause", "LEADS", "intake", "1h", "--force"]).await.unwrap();
    for name in ["ann", "bob"] {
        system.publish("leads.new", &json!({"email": format!("{name}@example.com")}).to_string()).await;
    }
    let summary = until_raised(&system, &people, "queue-full").await;
    assert!(summary.contains("nats.max_leads"), "{summary}");
    system.server.cli(["consumer", "resume", "LEADS", "intake", "--force"]).await.unwrap();
    until_resolved(&system, &people, "queue-full").await;
}

#[tokio::test]
async fn settings_that_cannot_reach_anybody_are_refused() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ALERTS__EMAIL_TO", "ops@acme.example");
    for (name, value, says) in [
        ("DRIPLINE_ALERTS__SLACK_URL", "hooks.slack.example/secret", "alerts.slack_url"),
        ("DRIPLINE_ALERTS__SLACK_URL", "", "alerts.email_from: is missing"),
        ("DRIPLINE_ALERTS__EMAIL_FROM", "nobody", "`nobody` is not a mailbox"),
        ("DRIPLINE_ALERTS__EMAIL_FROM", "ops@acme.example", "alerts.smtp.host: is missing"),
        ("DRIPLINE_ALERTS__SMTP__HOST", "mail.acme.example", ""),
        ("DRIPLINE_ALERTS__SMTP__USERNAME", "ops", "alerts.smtp.password is not set"),
    ] {
        system.set(name, value);
        let (code, _, err) = system.run(&["config", "check"]).await;
        assert_eq!(code, Some(if says.is_empty() { 0 } else { 2 }), "{name}={value}: {err}");
        assert!(err.contains(says) && !err.contains("/secret"), "{err}");
    }
}
