//! The provider, the timers and NATS fail; what was promised about emails holds.
use std::collections::{BTreeMap, BTreeSet};

use dripline_stand_in::{Fault, FaultKind};
use dripline_test_support::until;
use serde_json::{Value, json};

use crate::system::System;

const STEPS: [&str; 3] = ["first", "second", "third"];

/// Requests of this one address fail so.
fn for_jane(kind: FaultKind) -> Fault {
    Fault { match_to: Some("jane@".to_owned()), ..Fault::new(kind) }
}

fn status(status: u16) -> Fault {
    Fault { status: Some(status), ..for_jane(FaultKind::Status) }
}

async fn publish(system: &System, names: &[&str]) {
    for name in names {
        system.publish("leads.new", &json!({"email": format!("{name}@example.com")}).to_string()).await;
    }
}

fn events(document: &Value) -> Vec<&str> {
    document["history"].as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect()
}

fn newest(document: &Value) -> &Value {
    document["history"].as_array().unwrap().last().unwrap()
}

/// Every lead has had every email, once.
async fn assert_each_once(system: &System, leads: usize) {
    let mut steps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for email in system.accepted().await {
        steps.entry(email.to.to_string()).or_default().push(email.step.to_string());
    }
    assert_eq!(steps.len(), leads);
    for (address, steps) in steps {
        assert_eq!(steps, STEPS, "{address}");
    }
    assert_eq!(system.summary().await.refused, 0);
}

#[tokio::test]
async fn a_provider_that_fails_twice_is_asked_a_third_time_and_the_email_goes_out_once() {
    for vendor in ["sendgrid", "mailgun", "postmark", "resend"] {
        let system = System::new(vendor).await;
        let _dripline = system.start("run").await;
        system.fault(&Fault { count: Some(2), ..status(503) }).await;
        publish(&system, &["jane", "joe"]).await;
        let jane = system.until_status("jane=40example.com", "COMPLETED").await;
        system.until_status("joe=40example.com", "COMPLETED").await;
        let expected = ["enrolled", "retrying", "retrying", "sent", "sent", "sent", "completed"];
        assert_eq!(events(&jane), expected, "{vendor}");
        assert!(jane["history"][1]["reason"].as_str().unwrap().contains("503"), "{vendor}: {jane:#}");
        assert_eq!(jane["history"][3]["attempt"], 3, "{vendor}: {jane:#}");
        assert_each_once(&system, 2).await;
    }
}

#[tokio::test]
async fn one_refused_email_of_a_batch_is_parked_and_every_other_goes_once() {
    for vendor in ["mailgun", "postmark", "resend"] {
        let mut system = System::new(vendor).await;
        system.set("DRIPLINE_ESP__BATCH", "true");
        system.fault(&status(422)).await;
        let others: Vec<_> = (0..12).map(|number| format!("joe{number}")).collect();
        let names: Vec<_> = std::iter::once("jane").chain(others.iter().map(String::as_str)).collect();
        // They wait when the engine starts, and so go together.
        assert_eq!(system.run(&["topology", "apply"]).await.0, Some(0), "{}", system.log());
        publish(&system, &names).await;
        let _dripline = system.start("run").await;
        let jane = system.until_status("jane=40example.com", "PARKED").await;
        assert_eq!(events(&jane), ["enrolled", "parked"], "{vendor}: {jane:#}");
        for name in &others {
            system.until_status(&format!("{name}=40example.com"), "COMPLETED").await;
        }
        assert_each_once(&system, others.len()).await;
        if vendor == "mailgun" {
            // One call has one id for all of its emails.
            let emails = system.accepted().await;
            let ids: BTreeSet<_> = emails.iter().map(|email| &email.message_id).collect();
            assert!(ids.len() < emails.len(), "none went with another: {ids:?}");
        }
    }
}

#[tokio::test]
async fn a_provider_that_asks_for_a_pause_gets_it_and_then_the_email() {
    let system = System::new("resend").await;
    let _dripline = system.start("run").await;
    let headers = [("Retry-After".to_owned(), "1".to_owned())].into();
    system.fault(&Fault { count: Some(1), headers, ..status(429) }).await;
    publish(&system, &["jane"]).await;
    let jane = system.until_status("jane=40example.com", "COMPLETED").await;
    assert_eq!(events(&jane)[..3], ["enrolled", "rate_limited", "sent"]);
    let [limited, sent] = [1, 2].map(|entry| &jane["history"][entry]["timestamp"]);
    let waited = sent.as_i64().unwrap() - limited.as_i64().unwrap();
    assert!(waited >= 900, "waited {waited} ms: {jane:#}");
    assert_each_once(&system, 1).await;
}

/// Jane's first call fails so, and only a webhook could tell what became of it: she is in doubt, has `accepted` emails,
/// and is not tried again; Joe has all of his.
async fn assert_in_doubt(fault: Fault, accepted: usize) {
    let system = System::new("sendgrid").await;
    let _dripline = system.start("run").await;
    system.fault(&fault).await;
    publish(&system, &["jane", "joe"]).await;
    let mut jane = Value::Null;
    let waits = until("Jane is in doubt, and waits for a webhook", async || {
        jane = system.document("jane=40example.com").await.unwrap_or_default();
        let next = jane["nextActionTimestamp"].as_i64().unwrap_or_default();
        let began = jane["enrollments"][0]["attempt"]["startedAt"].as_i64().unwrap_or_default();
        jane["status"] == "IN_DOUBT" && next == began + 3_600_000
    });
    waits.await.unwrap_or_else(|error| panic!("{error}: {jane:#}"));
    assert_eq!(newest(&jane)["event"], "in_doubt", "{jane:#}");
    assert!(!newest(&jane)["reason"].as_str().unwrap().is_empty(), "{jane:#}");
    assert!(jane["enrollments"][0]["attempt"]["sendKey"].is_string(), "{jane:#}");
    // Longer than any retry would have taken: Joe's three steps, then those of one who came later.
    system.until_status("joe=40example.com", "COMPLETED").await;
    publish(&system, &["late"]).await;
    system.until_status("late=40example.com", "COMPLETED").await;

    let summary = system.summary().await;
    assert_eq!(summary.faulted, 1, "one call for Jane, and no second one");
    assert_eq!((summary.duplicates, summary.refused), (0, 0));
    assert_eq!(system.steps_of("jane@example.com").await, STEPS[..accepted]);
    assert_eq!(system.steps_of("joe@example.com").await, STEPS);
    assert_eq!(system.steps_of("late@example.com").await, STEPS);
    assert_eq!(system.document("jane=40example.com").await.unwrap(), jane, "unchanged");
}

#[tokio::test]
async fn an_email_that_was_taken_but_whose_answer_was_lost_is_in_doubt_and_not_sent_again() {
    assert_in_doubt(for_jane(FaultKind::DropAfterAccept), 1).await;
}

#[tokio::test]
async fn an_email_whose_call_broke_off_is_in_doubt_even_if_it_was_not_taken() {
    assert_in_doubt(for_jane(FaultKind::DropBeforeAccept), 0).await;
}

#[tokio::test]
async fn an_email_whose_call_takes_too_long_is_in_doubt() {
    assert_in_doubt(for_jane(FaultKind::Hang), 0).await;
}

#[tokio::test]
async fn an_email_that_was_taken_but_answered_too_late_is_in_doubt_and_not_sent_again() {
    assert_in_doubt(Fault { delay_ms: Some(2_500), ..for_jane(FaultKind::Slow) }, 1).await;
}

#[tokio::test]
async fn an_answer_that_is_not_the_providers_leaves_the_email_in_doubt() {
    assert_in_doubt(for_jane(FaultKind::Garbage), 0).await;
}

#[tokio::test]
async fn a_provider_with_idempotency_keys_is_called_again_and_mails_once() {
    for kind in
        [FaultKind::DropAfterAccept, FaultKind::DropBeforeAccept, FaultKind::Hang, FaultKind::Garbage, FaultKind::Slow]
    {
        let system = System::new("resend").await;
        let _dripline = system.start("run").await;
        system.fault(&Fault { delay_ms: Some(2_500), count: Some(1), ..for_jane(kind) }).await;
        publish(&system, &["jane", "joe"]).await;
        let jane = system.until_status("jane=40example.com", "COMPLETED").await;
        assert_eq!(events(&jane)[..4], ["enrolled", "in_doubt", "resolved", "sent"], "{kind:?}: {jane:#}");
        system.until_status("joe=40example.com", "COMPLETED").await;
        assert_each_once(&system, 2).await;
    }
}

#[tokio::test]
async fn an_email_in_doubt_is_called_for_again_with_what_it_was_rendered_from() {
    let system = System::new("resend").await;
    let _dripline = system.start("run").await;
    // Taken, not answered; and then the lead tells us another name.
    system.fault(&Fault { count: Some(1), ..for_jane(FaultKind::DropAfterAccept) }).await;
    let busy = Fault { status: Some(503), ..for_jane(FaultKind::Status) };
    system.publish("leads.new", r#"{"email": "jane@example.com", "firstName": "Jane"}"#).await;
    system.until_accepted(1).await;
    system.fault(&busy).await;
    system.publish("leads.new", r#"{"email": "jane@example.com", "firstName": "Joan"}"#).await;
    let renamed = until("the lead has its new name", async || {
        system.document("jane=40example.com").await.is_some_and(|lead| lead["firstName"] == "Joan")
    });
    renamed.await.unwrap();
    system.fault(&Fault::new(FaultKind::None)).await;
    let jane = system.until_status("jane=40example.com", "COMPLETED").await;
    assert!(events(&jane).contains(&"resolved"), "{jane:#}");
    assert_each_once(&system, 1).await;
}

/// Only a webhook could tell what became of Jane's first email, and none comes; the emails she has in the end.
async fn unresolved_comes_to(setting: &str, kind: FaultKind) -> (Value, Vec<String>) {
    let mut system = System::new("sendgrid").await;
    system.set("DRIPLINE_ESP__IN_DOUBT", setting);
    system.set("DRIPLINE_ESP__IN_DOUBT_WAIT", "2s");
    let _dripline = system.start("run").await;
    system.fault(&Fault { count: Some(1), ..for_jane(kind) }).await;
    publish(&system, &["jane"]).await;
    let mut jane = Value::Null;
    let resolved = until("the doubt is settled as configured", async || {
        jane = system.document("jane=40example.com").await.unwrap_or_default();
        jane["history"].is_array() && events(&jane).contains(&"resolved") && jane["nextActionTimestamp"].is_null()
    });
    resolved.await.unwrap_or_else(|error| panic!("{setting}: {error}: {jane:#}"));
    let reason = jane["history"].as_array().unwrap().iter().find(|entry| entry["event"] == "resolved").unwrap();
    assert!(reason["reason"].as_str().unwrap().contains("as configured"), "{jane:#}");
    (jane, system.steps_of("jane@example.com").await)
}

#[tokio::test]
async fn what_nobody_can_find_out_is_settled_as_configured() {
    let (jane, steps) = unresolved_comes_to("resend", FaultKind::DropBeforeAccept).await;
    assert_eq!((&jane["status"], steps.as_slice()), (&json!("COMPLETED"), &STEPS.map(str::to_owned)[..]));
    let (jane, steps) = unresolved_comes_to("skip", FaultKind::DropBeforeAccept).await;
    assert_eq!((&jane["status"], steps.as_slice()), (&json!("COMPLETED"), &STEPS.map(str::to_owned)[1..]));
    let (jane, steps) = unresolved_comes_to("hold", FaultKind::DropAfterAccept).await;
    assert_eq!((&jane["status"], steps.as_slice()), (&json!("IN_DOUBT"), &STEPS.map(str::to_owned)[..1]));
}

#[tokio::test]
async fn a_provider_that_is_down_is_left_alone_and_everything_goes_out_once_it_is_back() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ESP__BREAKER_FAILURES", "5");
    system.set("DRIPLINE_ESP__PROBE_EVERY", "1s");
    let _dripline = system.start("run").await;
    system.fault(&Fault { status: Some(503), ..Fault::new(FaultKind::Status) }).await;
    let names: Vec<String> = (0..200).map(|number| format!("lead-{number}")).collect();
    let leads: Vec<_> = names.iter().map(|name| json!({"email": format!("{name}@example.com")}).to_string()).collect();
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    for lead in leads {
        context.publish("leads.new", lead.into()).await.unwrap().await.unwrap();
    }
    until("the log says that it is stopped", async || system.log().contains("the provider is stopped")).await.unwrap();
    // What was on its way when it was stopped still arrives.
    let mut before = 0;
    let arrived = until("no call is on its way any more", async || {
        let earlier = std::mem::replace(&mut before, system.summary().await.faulted);
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        before <= earlier + 1
    });
    arrived.await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let tries = system.summary().await.faulted - before;
    assert!((1..=8).contains(&tries), "{tries} tries within five seconds");
    system.fault(&Fault::new(FaultKind::None)).await;
    system.until_all(200, "COMPLETED").await;
    assert!(system.log().contains("the provider works again"));
    assert_each_once(&system, 200).await;
}

#[tokio::test]
async fn while_one_provider_is_down_the_next_one_sends() {
    let mut system = System::new("postmark").await;
    // Nobody listens there.
    system.set("DRIPLINE_ESP__PROVIDER", "resend");
    system.set("DRIPLINE_ESP__RESEND__API_KEY", "test-key");
    system.set("DRIPLINE_ESP__RESEND__BASE_URL", "http://127.0.0.1:9");
    system.set("DRIPLINE_ESP__FALLBACK", "postmark");
    system.set("DRIPLINE_ESP__BREAKER_FAILURES", "3");
    let _dripline = system.start("run").await;
    publish(&system, &["jane", "joe", "jim"]).await;
    let leads = system.until_all(3, "COMPLETED").await;
    assert_each_once(&system, 3).await;
    assert!(leads.iter().any(|lead| events(lead).contains(&"retrying")), "the first was tried: {leads:#?}");
}

#[tokio::test]
async fn a_revoked_key_costs_no_lead_and_is_said_loudly() {
    let system = System::new("sendgrid").await;
    let mut dripline = system.start("run").await;
    system.fault(&Fault { status: Some(401), ..Fault::new(FaultKind::Status) }).await;
    publish(&system, &["jane", "joe", "jim"]).await;
    let said = || {
        let log = system.log();
        let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        lines.into_iter().find(|line| {
            line["level"] == "ERROR" && line["message"].as_str().unwrap_or_default().contains("refuses every email")
        })
    };
    until("the log says that the provider refuses every email", async || said().is_some()).await.unwrap();
    let line = said().unwrap();
    assert!(line["reason"].as_str().unwrap().contains("401"), "{line}");
    for key in ["jane", "joe", "jim"].map(|name| format!("{name}=40example.com")) {
        let lead = system.until_status(&key, "NEW").await;
        assert!(lead["nextActionTimestamp"].is_i64(), "it waits for its first email: {lead:#}");
    }
    let leads = system.documents().await;
    assert!(leads.iter().any(|lead| events(lead).contains(&"misconfigured")), "{leads:#?}");
    assert!(!leads.iter().any(|lead| events(lead).contains(&"parked")), "{leads:#?}");
    assert_eq!(system.depth("REJECTED").await, 0);
    assert_eq!(system.summary().await.accepted, 0);
    assert!(dripline.runs().unwrap());
}

#[tokio::test]
async fn a_refused_email_parks_its_lead_with_the_providers_words() {
    for vendor in ["sendgrid", "mailgun", "postmark", "resend"] {
        let system = System::new(vendor).await;
        let _dripline = system.start("run").await;
        system.fault(&status(422)).await;
        publish(&system, &["jane", "joe"]).await;
        let jane = system.until_status("jane=40example.com", "PARKED").await;
        let reason = newest(&jane)["reason"].as_str().unwrap();
        assert!(reason.contains("422") && reason.contains("told to answer this"), "{vendor}: {reason}");
        system.until_status("joe=40example.com", "COMPLETED").await;
        assert_eq!(system.summary().await.faulted, 1, "{vendor}: it is not tried again");
        assert_eq!(system.steps_of("jane@example.com").await, Vec::<String>::new(), "{vendor}");
        assert_eq!(system.steps_of("joe@example.com").await, STEPS, "{vendor}");
    }
}

#[tokio::test]
async fn lost_timers_are_set_again_and_every_lead_gets_its_emails_once() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ENGINE__SWEEP_EVERY", "1s");
    system.sequence("welcome", &[("first", "0s"), ("second", "4s"), ("third", "1s")]);
    let _dripline = system.start("run").await;
    let names: Vec<String> = (0..10).map(|number| format!("lead-{number}")).collect();
    publish(&system, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    system.until_accepted(10).await;
    until("every lead has its timer", async || system.with_timer().await.len() == 10).await.unwrap();
    system.server.cli(["stream", "purge", "TIMERS", "-f"]).await.unwrap();
    let leads = system.until_all(10, "COMPLETED").await;
    assert_eq!(leads.len(), 10);
    assert_each_once(&system, 10).await;
    assert!(
        system.log().contains("set the timers of leads that had none"),
        "the sweep set them, or the purge was too late"
    );
}

#[tokio::test]
async fn a_timer_that_never_fires_is_set_again_once_the_lead_is_overdue() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ENGINE__SWEEP_EVERY", "1s");
    system.sequence("welcome", &[("first", "0s"), ("second", "3s")]);
    let _dripline = system.start("run").await;
    publish(&system, &["jane"]).await;
    system.until_accepted(1).await;
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    let mut timer = None;
    let set = until("the timer is set", async || {
        let stream = context.get_stream("TIMERS").await.unwrap();
        timer = stream.direct_get_next_for_subject("timers.at.>", None).await.ok();
        timer.is_some()
    });
    set.await.unwrap();
    // As a server leaves it that was killed after the timer had fired: it stands there, and is scheduled no more.
    let timer = timer.unwrap();
    context.publish(timer.subject, timer.payload).await.unwrap().await.unwrap();
    let jane = system.until_status("jane=40example.com", "COMPLETED").await;
    assert_eq!(system.steps_of("jane@example.com").await, ["first", "second"], "{jane}");
}

#[tokio::test]
async fn the_whole_stream_of_timers_is_deleted_under_load_and_every_lead_gets_its_emails_once() {
    let mut system = System::new("resend").await;
    // Only because of the deletion, never because its time has come.
    system.set("DRIPLINE_ENGINE__SWEEP_EVERY", "1h");
    let _dripline = system.start("run").await;
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    for number in 0..500 {
        let lead = json!({"email": format!("lead-{number}@example.com")}).to_string();
        context.publish("leads.new", lead.into()).await.unwrap().await.unwrap();
    }
    system.until_accepted(600).await;
    system.server.cli(["stream", "rm", "TIMERS", "-f"]).await.unwrap();
    system.until_all(500, "COMPLETED").await;
    assert_each_once(&system, 500).await;
    assert!(system.log().contains("was deleted on the NATS server, and was made again"));
}

#[tokio::test]
async fn nats_ends_in_the_middle_and_comes_back_and_every_lead_gets_its_emails_once() {
    let mut system = System::new("resend").await;
    let mut dripline = system.start("run").await;
    let names: Vec<String> = (0..20).map(|number| format!("lead-{number}")).collect();
    publish(&system, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // Some have had their first email; all wait for something.
    system.until_accepted(15).await;
    system.server.kill().await.unwrap();
    assert!(system.summary().await.accepted < 60, "the kill came too late to show anything");
    system.server.restart().await.unwrap();
    let leads = system.until_all(20, "COMPLETED").await;
    assert_eq!(leads.len(), 20, "none is in doubt or lost");
    assert_each_once(&system, 20).await;
    assert!(dripline.runs().unwrap());
}
