//! The way back: what is told of a person, on `feedback.<provider>`, and what becomes of their emails.
use std::time::{SystemTime, UNIX_EPOCH};

use dripline_test_support::until;
use serde_json::{Value, json};

use crate::system::System;

pub fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// What a person said on the unsubscribe page, just now.
pub fn said(kind: &str, address: &str) -> String {
    let occurred_at = now();
    json!({"id": format!("{kind}-{occurred_at}"), "kind": kind, "occurredAt": occurred_at, "address": address})
        .to_string()
}

/// The events of a document's history.
pub fn events(document: &Value) -> Vec<&str> {
    document["history"].as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect()
}

/// A sequence whose emails an unsubscribe does not stop, and which have no link for one.
pub fn transactional(system: &System, name: &str, steps: &[(&str, &str)]) {
    system.sequence(name, steps);
    let folder = system.dir().join("sequences").join(name);
    let file = folder.join("sequence.toml");
    let toml = std::fs::read_to_string(&file).unwrap();
    std::fs::write(file, toml.replacen("version = 1\n", "version = 1\ntransactional = true\n", 1)).unwrap();
    std::fs::write(folder.join("body.html"), "<p>Thank you.</p>\n").unwrap();
}

pub async fn until_settled(system: &System) {
    let settled = until("every event is settled", async || system.waiting("FEEDBACK", "feedback").await == 0);
    settled.await.unwrap_or_else(|error| panic!("{error}\n{}", system.log()));
}

#[tokio::test]
async fn an_unsubscribe_ends_every_enrolment_and_a_change_of_mind_brings_all_back() {
    let system = System::new("resend").await;
    system.sequence("welcome", &[("first", "0s"), ("second", "3s")]);
    system.sequence("tips", &[("only", "3d")]);
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    system.publish("leads.new", r#"{"email": "jane@example.com", "sequence": "tips"}"#).await;
    system.until_accepted(1).await;
    system.publish("feedback.unsubscribe", &said("unsubscribed", "jane@example.com")).await;
    let jane = system.until_status("jane=40example.com", "UNSUBSCRIBED").await;
    assert_eq!(jane["nextActionTimestamp"], Value::Null);
    let states: Vec<_> = jane["enrollments"].as_array().unwrap().iter().map(|it| it["status"].clone()).collect();
    assert_eq!(states, ["STOPPED", "STOPPED"]);
    let entry = system.server.cli(["kv", "get", "suppressions", "jane=40example.com", "--raw"]).await.unwrap();
    let entry: Value = serde_json::from_str(&entry).unwrap();
    assert_eq!(entry["unsubscribe"]["source"], "unsubscribe-page");
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;

    system.publish("feedback.unsubscribe", &said("resubscribed", "jane@example.com")).await;
    let jane = system.until_status("jane=40example.com", "ACTIVE").await;
    assert_eq!(events(&jane).iter().filter(|event| **event == "resumed").count(), 2, "{jane:#}");
    system.until_accepted(2).await;
    assert_eq!(system.steps_of("jane@example.com").await, ["first", "second"]);
    assert_eq!(system.summary().await.duplicates, 0);
}

#[tokio::test]
async fn what_is_told_of_an_unknown_address_is_journalled_and_a_no_holds_when_it_arrives() {
    let system = System::new("resend").await;
    let _dripline = system.start("run").await;
    system.publish("feedback.unsubscribe", &said("unsubscribed", "no@example.com")).await;
    let mut journal = String::new();
    let journalled = until("the journal has it", async || {
        journal = system.journal().await;
        journal.contains(r#""event":"unsubscribed""#)
    });
    journalled.await.unwrap_or_else(|error| panic!("{error}\n{}", system.log()));
    assert!(journal.contains(r#""provider":"unsubscribe-page""#) && !journal.contains("example.com"), "{journal}");
    until_settled(&system).await;

    system.publish("leads.new", r#"{"email": "no@example.com"}"#).await;
    let document = system.until_status("no=40example.com", "UNSUBSCRIBED").await;
    assert_eq!(document["enrollments"], json!([]));
    let line: Value = journal
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .find(|line: &Value| line["event"] == "unsubscribed")
        .unwrap();
    assert_eq!(line["leadId"], document["leadId"]);

    // It outlives the document.
    system.server.cli(["kv", "del", "leads", "no=40example.com", "--force"]).await.unwrap();
    system.publish("leads.new", r#"{"email": "no@example.com"}"#).await;
    system.until_status("no=40example.com", "UNSUBSCRIBED").await;
    assert_eq!(system.summary().await.accepted, 0);
}

#[tokio::test]
async fn a_transactional_sequence_goes_on_after_an_unsubscribe_and_ends_when_an_operator_says_no() {
    let system = System::new("resend").await;
    system.sequence("welcome", &[("first", "0s"), ("second", "1d")]);
    system.sequence("news", &[("monday", "0s")]);
    transactional(&system, "receipts", &[("paid", "1s"), ("sent", "1s"), ("arrived", "1d")]);
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    system.until_accepted(1).await;
    system.publish("feedback.unsubscribe", &said("unsubscribed", "jane@example.com")).await;
    system.until_status("jane=40example.com", "UNSUBSCRIBED").await;
    system.publish("leads.new", r#"{"email": "jane@example.com", "sequence": "receipts"}"#).await;
    system.until_accepted(3).await;
    assert_eq!(system.steps_of("jane@example.com").await, ["first", "paid", "sent"]);

    let add = ["suppression", "add", "jane@example.com", "--reason", "asked by phone", "--by", "ann"];
    assert_eq!(system.run(&add).await.0, Some(0));
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    let jane = system.until_status("jane=40example.com", "SUPPRESSED").await;
    assert_eq!(jane["nextActionTimestamp"], Value::Null, "{jane:#}");

    // Lifted: both the operator's no and the person's.
    let remove = ["suppression", "remove", "jane@example.com", "--reason", "a mistake", "--by", "ann"];
    assert_eq!(system.run(&remove).await.0, Some(0));
    system.publish("leads.new", r#"{"email": "jane@example.com", "sequence": "news"}"#).await;
    system.until_accepted(4).await;
    assert_eq!(system.steps_of("jane@example.com").await, ["first", "paid", "sent", "monday"]);
}

#[tokio::test]
async fn an_unsubscribe_stops_every_later_email_while_many_leads_are_due() {
    const LEADS: usize = 60;
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ESP__RATE", "10");
    system.sequence("welcome", &[("first", "0s")]);
    let _dripline = system.start("run").await;
    let address = |number: usize| format!("lead-{number}@example.com");
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    let publish = async |subject: &'static str, payload: String| {
        context.publish(subject, payload.into()).await.unwrap().await.unwrap();
    };
    for number in 0..LEADS {
        publish("leads.new", json!({"email": address(number)}).to_string()).await;
    }
    // The others wait for their permits.
    system.until_accepted(5).await;
    let mut no = Vec::new();
    for number in (0..LEADS).step_by(3) {
        publish("feedback.unsubscribe", said("unsubscribed", &address(number))).await;
        no.push((address(number), now()));
    }
    let ended = until("nobody waits any more", async || {
        let documents = system.documents().await;
        documents.len() == LEADS && documents.iter().all(|lead| lead["nextActionTimestamp"].is_null())
    });
    ended.await.unwrap_or_else(|error| panic!("{error}\n{}", system.log()));
    let accepted = system.accepted().await;
    for (address, since) in &no {
        let late: Vec<_> = accepted.iter().filter(|email| *email.to == **address && email.at > since + 1_000).collect();
        assert!(late.is_empty(), "{address} said no at {since}: {late:?}");
    }
    let mailed = no.iter().filter(|(address, _)| accepted.iter().any(|email| *email.to == **address)).count();
    assert!(mailed < no.len(), "the test came too late to show anything");
    assert!(accepted.len() >= LEADS - no.len(), "who did not say no is mailed");
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_kept_with_the_reason() {
    let system = System::new("resend").await;
    let _dripline = system.start("run").await;
    system.publish("feedback.unsubscribe", r#"{"id": "1", "kind": "paused"}"#).await;
    system.publish("feedback.nobody", "{}").await;
    let mut reasons = String::new();
    let kept = until("both are in REJECTED", async || {
        let rejected = system.rejected("invalid_feedback").await;
        reasons = rejected.iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>().join("\n");
        rejected.len() == 2
    });
    kept.await.unwrap_or_else(|error| panic!("{error}\n{}", system.log()));
    assert!(reasons.contains("unknown variant `paused`") && reasons.contains("`nobody`"), "{reasons}");
    until_settled(&system).await;
}
