//! A sequence that is held back, by its guard or by an operator.
use dripline_test_support::until;
use serde_json::{Value, json};

use crate::feedback::now;
use crate::system::System;

async fn listed(system: &System, name: &str) -> Value {
    let (code, out, err) = system.run(&["sequence", "list", "--json"]).await;
    assert_eq!(code, Some(0), "{err}");
    let rows: Vec<Value> = serde_json::from_str(&out).unwrap();
    rows.into_iter().find(|row| row["name"] == name).unwrap_or_default()
}

async fn done(system: &System, arguments: &[&str]) -> String {
    let (code, out, err) = system.run(arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {err}");
    out
}

/// So many lines of an event, as one message of the journal.
async fn journal(system: &System, id: &str, event: &str, count: usize) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let line = json!({
        "leadId": "ld_1", "timestamp": u64::try_from(now).unwrap(), "event": event, "sequence": "welcome",
        "version": 1, "step": "first", "provider": "resend",
    });
    let lines = format!("{line}\n").repeat(count);
    system.server.cli(["pub", "-J", &format!("journal.{id}"), &lines]).await.unwrap();
}

async fn journalled(system: &System, event: &str) -> Vec<Value> {
    let text = system.journal().await;
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["event"] == event)
        .collect()
}

#[tokio::test]
async fn too_many_bounces_pause_the_sequence_until_an_operator_resumes_it() {
    let system = System::new("resend").await;
    system.sequence("other", &[("only", "0s")]);
    let mut dripline = system.start("run").await;
    journal(&system, "sent", "sent", 100).await;
    journal(&system, "bounced", "hard_bounced", 6).await;
    let paused = until("the guard pauses it", async || listed(&system, "welcome").await["paused"]["by"] == "guard");
    paused.await.unwrap();
    let reason = listed(&system, "welcome").await["paused"]["reason"].clone();
    assert_eq!(reason, "by resend: 6 of 100 emails bounced (6.00 %; the limit is 5.00 %)");
    until("the log tells it", async || system.log().contains("this needs a person")).await.unwrap();
    assert_eq!(journalled(&system, "sequence_paused").await.len(), 1);

    // Leads enter it and get nothing, also from an engine that starts anew; another sequence goes on.
    assert_eq!(dripline.stop().await.unwrap(), Some(0));
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "ann@example.com"}"#).await;
    system.publish("leads.new", r#"{"email": "bob@example.com", "sequence": "other"}"#).await;
    system.until_status("bob=40example.com", "COMPLETED").await;
    let waiting = system.until_status("ann=40example.com", "NEW").await;
    journal(&system, "sent-later", "sent", 500).await;
    let counted = until("the later ones are counted", async || {
        let (_, out, _) = system.run(&["stats", "--json"]).await;
        let stats: Value = serde_json::from_str(&out).unwrap();
        stats["sequences"]["welcome"]["versions"]["1"]["steps"]["first"]["sent"] == 600
    });
    counted.await.unwrap();
    assert_eq!(listed(&system, "welcome").await["paused"]["by"], "guard", "a better rate does not resume it");
    let still = system.document("ann=40example.com").await.unwrap();
    assert_eq!((&still, system.steps_of("ann@example.com").await.len()), (&waiting, 0), "nothing was written");

    let why = ["--reason", "list cleaned", "--by", "ann"];
    let told = done(&system, &[&["sequence", "resume", "welcome"], &why[..]].concat()).await;
    assert!(told.starts_with("welcome goes on"), "{told}");
    assert_eq!(listed(&system, "welcome").await["paused"], Value::Null);
    system.until_status("ann=40example.com", "COMPLETED").await;
    assert_eq!(system.steps_of("ann@example.com").await, ["first", "second", "third"]);
    assert_eq!(journalled(&system, "sequence_resumed").await[0]["by"], "ann");

    // Its window began anew: what paused it does not pause it again.
    journal(&system, "bounced-later", "hard_bounced", 1).await;
    let counted = until("the late bounce is counted", async || {
        let (_, out, _) = system.run(&["stats", "--json"]).await;
        let stats: Value = serde_json::from_str(&out).unwrap();
        stats["sequences"]["welcome"]["versions"]["1"]["steps"]["first"]["hardBounced"] == 7
    });
    counted.await.unwrap();
    assert_eq!(listed(&system, "welcome").await["paused"], Value::Null);
    assert_eq!(journalled(&system, "sequence_paused").await.len(), 1);
}

#[tokio::test]
async fn an_operator_pauses_a_sequence_between_two_emails_and_resumes_it() {
    let system = System::new("resend").await;
    system.sequence("welcome", &[("first", "0s"), ("second", "3s"), ("third", "0s")]);
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "ann@example.com"}"#).await;
    system.until_accepted(1).await;
    let why = ["--reason", "wrong price in it", "--by", "ann"];
    assert_eq!(done(&system, &[&["sequence", "pause", "welcome"], &why[..]].concat()).await, "welcome is paused\n");
    let again = done(&system, &[&["sequence", "pause", "welcome"], &why[..]].concat()).await;
    assert!(again.contains("already"), "{again}");
    let table = done(&system, &["sequence", "list"]).await;
    assert!(table.contains("version 1") && table.contains("3 steps  paused by ann"), "{table}");

    // Past the time of the second: its timer was put off, and the queue is empty.
    let due = system.document("ann=40example.com").await.unwrap()["nextActionTimestamp"].as_u64().unwrap();
    let put_off = until("the due step is put off", async || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        let subjects = system.server.cli(["stream", "subjects", "TIMERS", "--names"]).await.unwrap_or_default();
        now > u128::from(due) + 1_000 && subjects.contains("timers.at.") && !subjects.contains("timers.due.")
    });
    put_off.await.unwrap();
    assert_eq!(system.summary().await.accepted, 1);
    done(&system, &[&["sequence", "resume", "welcome"], &why[..]].concat()).await;
    system.until_status("ann=40example.com", "COMPLETED").await;
    assert_eq!(system.steps_of("ann@example.com").await, ["first", "second", "third"]);

    for (arguments, says) in [
        (["sequence", "resume", "welcome"], "welcome is not paused"),
        (["sequence", "pause", "nowhere"], "there is no sequence `nowhere`; there are: welcome"),
    ] {
        let (code, _, err) = system.run(&[&arguments, &why[..]].concat()).await;
        assert_eq!(code, Some(1));
        assert!(err.contains(says), "{err}");
    }
}

/// At one email a second a lead is at work that waits for its permit.
#[tokio::test]
async fn a_pause_holds_for_a_lead_that_waits_for_its_permit() {
    for paused in [["sequence", "pause", "welcome"], ["provider", "pause", "resend"]] {
        let mut system = System::new("resend").await;
        system.sequence("welcome", &[("only", "0s")]);
        system.set("DRIPLINE_ESP__RATE", "1");
        let _dripline = system.start("run").await;
        for number in 0..5 {
            system.publish("leads.new", &format!(r#"{{"email": "lead-{number}@example.com"}}"#)).await;
        }
        system.until_accepted(1).await;
        done(&system, &[&paused[..], &["--reason", "wrong price in it", "--by", "ann"]].concat()).await;
        let acknowledged = now();
        let later = until("the next permit is given", async || now() > acknowledged + 2_000);
        later.await.unwrap();
        let begun = journalled(&system, "sending").await;
        // Every engine learns of it within moments.
        let after = begun.iter().filter(|line| line["timestamp"].as_u64().unwrap() > acknowledged + 300);
        assert_eq!(after.count(), 0, "{paused:?}, acknowledged at {acknowledged}: {begun:?}");
        assert!(begun.len() < 5, "the pause came too late to show anything");
    }
}
