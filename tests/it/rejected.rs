//! What could not be processed, by its commands.
use dripline_test_support::until;
use serde_json::{Value, json};

use crate::system::System;

async fn listed(system: &System, arguments: &[&str]) -> Vec<Value> {
    let (code, out, err) = system.run(&[&["rejected", "ls", "--json"], arguments].concat()).await;
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).unwrap()
}

#[tokio::test]
async fn a_rejected_lead_is_shown_as_it_came_and_replayed_once_the_cause_is_mended() {
    let system = System::new("resend").await;
    let mut engine = system.start("run").await;
    let lead = r#"{"email": "jane@example.com", "sequence": "later"}"#;
    system.publish("leads.new.website", lead).await;
    system.publish("leads.new", "no lead").await;
    system.server.cli(["pub", "-J", "timers.due.jane=40example.com", "no timer"]).await.unwrap();
    until("all three are rejected", async || system.depth("REJECTED").await == 3).await.unwrap();

    let unknown = &listed(&system, &["--code", "unknown_sequence"]).await[..];
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert_eq!(
        (&unknown[0]["subject"], &unknown[0]["bytes"], &unknown[0]["reason"]),
        (&json!("leads.new.website"), &json!(lead.len()), &json!("there is no sequence `later`"))
    );
    let number = unknown[0]["sequence"].to_string();
    let (code, out, err) = system.run(&["rejected", "show", &number]).await;
    assert_eq!((code, &*out), (Some(0), lead), "{err}");
    assert!(err.contains("unknown_sequence: there is no sequence `later`"), "{err}");
    let (_, table, _) = system.run(&["rejected", "ls"]).await;
    assert!(table.lines().count() == 3 && table.contains("not_json"), "{table}");

    assert_eq!(engine.stop().await.unwrap(), Some(0));
    system.sequence("later", &[("first", "0s")]);
    let _engine = system.start("run").await;
    let (code, out, err) = system.run(&["rejected", "replay", &number]).await;
    assert_eq!((code, &*out), (Some(0), "1 replayed, 0 left\n"), "{err}");
    let document = system.until_status("jane=40example.com", "COMPLETED").await;
    assert_eq!(document["enrollments"][0]["sequence"], "later");

    let timer = listed(&system, &["--code", "invalid_timer"]).await[0]["sequence"].to_string();
    let (code, out, err) = system.run(&["rejected", "replay", &timer]).await;
    assert_eq!((code, &*out), (Some(1), "0 replayed, 1 left\n"));
    assert!(err.contains("only leads are replayed"), "{err}");
    let (code, out, err) = system.run(&["rejected", "drop", "--all"]).await;
    assert_eq!((code, &*out), (Some(0), "2 dropped\n"), "{err}");
    assert!(listed(&system, &[]).await.is_empty());
    assert_eq!(system.summary().await.accepted, 1);
}

#[tokio::test]
async fn a_message_that_is_not_there_and_a_command_that_names_none_are_errors_that_say_so() {
    let system = System::new("resend").await;
    assert_eq!(system.run(&["topology", "apply"]).await.0, Some(0));
    for command in ["show", "drop"] {
        let (code, out, err) = system.run(&["rejected", command, "7"]).await;
        assert_eq!((code, &*out), (Some(1), ""), "{err}");
        assert!(err.contains("there is no message 7"), "{err}");
    }
    let (code, _, err) = system.run(&["rejected", "replay", "7"]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("there is no message 7"), "{err}");
    let (code, _, err) = system.run(&["rejected", "replay"]).await;
    assert_eq!(code, Some(2));
    assert!(err.contains("--all"), "{err}");
}
