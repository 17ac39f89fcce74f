//! What stands on the server, as an operator sees it with the `nats` CLI.
use std::collections::BTreeSet;

use dripline_test_support::until;
use serde_json::{Value, json};

use crate::system::System;

async fn apply(system: &System) -> Vec<Value> {
    let (code, out, err) = system.run(&["topology", "apply", "--json"]).await;
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).unwrap()
}

async fn stream(system: &System, name: &str) -> Value {
    serde_json::from_str(&system.server.cli(["stream", "info", name, "--json"]).await.unwrap()).unwrap()
}

async fn consumer(system: &System, stream: &str, name: &str) -> Value {
    let text = system.server.cli(["consumer", "info", stream, name, "--json"]).await.unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Each of these settings, and what the server leaves out of its answer is false or nothing.
fn assert_settings(what: &str, found: &Value, wanted: &Value) {
    for (setting, wanted) in wanted.as_object().unwrap() {
        let found = &found["config"][setting];
        let absent = found.is_null() && (wanted == &json!(false) || wanted.is_null());
        assert!(absent || found == wanted, "{what}: {setting} is {found}, not {wanted}");
    }
}

#[tokio::test]
async fn streams_and_consumers_are_as_designed() {
    let system = System::new("resend").await;
    apply(&system).await;
    let queue = json!({
        "retention": "limits", "discard": "new", "storage": "file", "num_replicas": 1,
        "allow_atomic": true, "allow_rollup_hdrs": false, "allow_msg_schedules": false, "persist_mode": null,
    });
    let bucket = json!({
        "retention": "limits", "discard": "new", "storage": "file", "max_msgs_per_subject": 1,
        "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true, "persist_mode": null,
    });
    for (name, subjects, settings) in [
        ("LEADS", json!(["leads.new", "leads.new.*"]), &queue),
        ("FEEDBACK", json!(["feedback.*"]), &queue),
        ("KV_leads", json!(["$KV.leads.>", "journal.>"]), &bucket),
        ("KV_suppressions", json!(["$KV.suppressions.>"]), &bucket),
        ("KV_sequences", json!(["$KV.sequences.>"]), &bucket),
        ("KV_engines", json!(["$KV.engines.>"]), &bucket),
        ("KV_statistics", json!(["$KV.statistics.>"]), &bucket),
        ("KV_controls", json!(["$KV.controls.>"]), &bucket),
        ("KV_outgoing", json!(["$KV.outgoing.>"]), &bucket),
        (
            "TIMERS",
            json!(["timers.at.>", "timers.due.>"]),
            &json!({
                "retention": "workqueue", "discard": "old", "storage": "file", "max_msgs_per_subject": 1,
                "allow_rollup_hdrs": true, "allow_msg_schedules": true, "persist_mode": "async",
            }),
        ),
        (
            "REJECTED",
            json!(["rejected.*"]),
            &json!({"retention": "limits", "storage": "file", "persist_mode": null, "max_age": 0}),
        ),
        ("JOURNAL", Value::Null, &json!({"retention": "limits", "storage": "file", "persist_mode": "async"})),
    ] {
        let found = stream(&system, name).await;
        assert_settings(name, &found, settings);
        assert_settings(name, &found, &json!({"subjects": subjects}));
    }
    // State and journal go into one batch; the journal's copy lies in a stream of its own.
    let leads = stream(&system, "KV_leads").await;
    assert_settings("KV_leads", &leads, &json!({"allow_atomic": true, "allow_msg_ttl": true}));
    let journal = stream(&system, "JOURNAL").await;
    assert_eq!(journal["config"]["sources"][0]["name"], "KV_leads");
    assert_eq!(journal["config"]["sources"][0]["filter_subject"], "journal.>");

    let settings = json!({"ack_policy": "explicit", "max_ack_pending": 100_000, "ack_wait": 4_000_000_000_u64});
    for (stream, name, filter) in
        [("LEADS", "intake", None), ("FEEDBACK", "feedback", None), ("TIMERS", "due", Some("timers.due.>"))]
    {
        let found = consumer(&system, stream, name).await;
        assert_settings(name, &found, &settings);
        assert_eq!(found["config"]["filter_subject"].as_str(), filter, "{name}");
    }
}

#[tokio::test]
async fn the_plain_cli_sees_the_buckets() {
    let system = System::new("resend").await;
    apply(&system).await;
    let names = system.server.cli(["kv", "ls", "--names"]).await.unwrap();
    let names: BTreeSet<&str> = names.split_whitespace().collect();
    let ours = "alerts canary controls engines leads outgoing sequences statistics suppressions";
    assert_eq!(names, ours.split(' ').collect());
    // And the sequences in them, once an engine has read its folder.
    let _dripline = system.start("run").await;
    let keys = system.server.cli(["kv", "ls", "sequences"]).await.unwrap();
    assert_eq!(keys.trim(), "welcome.1");
}

#[tokio::test]
async fn a_stream_that_cannot_be_mended_without_loss_is_refused_and_left_alone() {
    let system = System::new("resend").await;
    let subjects = "--subjects=leads.new,leads.new.*";
    let add = ["stream", "add", "LEADS", subjects, "--retention=work", "--discard=new", "--storage=file", "--defaults"];
    system.server.cli(add).await.unwrap();
    system.publish("leads.new", "{}").await;
    let before = stream(&system, "LEADS").await;
    for arguments in [&["topology", "apply"][..], &["run"]] {
        let (code, _, err) = system.run(arguments).await;
        assert_eq!(code, Some(1), "{arguments:?}: {err}");
        for part in ["stream LEADS", "`retention`", "limits", "workqueue"] {
            assert!(err.contains(part), "{arguments:?}: no `{part}` in {err}");
        }
    }
    let after = stream(&system, "LEADS").await;
    assert_eq!(after["config"], before["config"]);
    assert_eq!(after["state"]["messages"], 1);
}

#[tokio::test]
async fn a_changed_setting_is_changed_on_the_server_and_named() {
    let mut system = System::new("resend").await;
    apply(&system).await;
    system.publish("leads.new", "{}").await;
    system.set("DRIPLINE_ENGINE__ACK_WAIT", "7s");
    system.set("DRIPLINE_NATS__MAX_LEADS", "1000");
    for row in apply(&system).await {
        let expected = match row["what"].as_str().unwrap() {
            "stream LEADS" => json!({"what": "stream LEADS", "action": "updated", "settings": ["max_msgs"]}),
            what if what.starts_with("consumer ") => {
                json!({"what": what, "action": "updated", "settings": ["ack_wait"]})
            }
            what => json!({"what": what, "action": "unchanged"}),
        };
        assert_eq!(row, expected);
    }
    assert_eq!(consumer(&system, "LEADS", "intake").await["config"]["ack_wait"], 7_000_000_000_u64);
    assert_eq!(consumer(&system, "TIMERS", "due").await["config"]["ack_wait"], 7_000_000_000_u64);
    assert_eq!(stream(&system, "LEADS").await["config"]["max_msgs"], 1000);
    assert_eq!(system.waiting_leads().await, 1, "what waits is kept");
}

#[tokio::test]
async fn what_an_operator_set_by_hand_is_left_as_it_is() {
    let system = System::new("resend").await;
    apply(&system).await;
    system.server.cli(["stream", "edit", "REJECTED", "--max-age=30d", "-f"]).await.unwrap();
    let before = stream(&system, "REJECTED").await;
    assert_ne!(before["config"]["max_age"], 0);
    assert!(apply(&system).await.iter().all(|row| row["action"] == "unchanged"));
    assert_eq!(stream(&system, "REJECTED").await["config"], before["config"]);
}

#[tokio::test]
async fn a_sequence_that_changed_without_a_new_version_does_not_start() {
    let system = System::new("resend").await;
    let mut dripline = system.start("run").await;
    assert_eq!(dripline.stop().await.unwrap(), Some(0));
    let published = system.server.cli(["kv", "get", "sequences", "welcome.1", "--raw"]).await.unwrap();
    system.sequence("welcome", &[("first", "0s"), ("second", "5s")]);
    let (code, _, err) = system.run(&["engine"]).await;
    assert!(matches!(code, Some(1..)), "{code:?}: {err}");
    let told = err.lines().last().unwrap();
    assert!(told.contains("`welcome` version 1") && told.contains("raise `version`"), "{err}");
    let kept = system.server.cli(["kv", "get", "sequences", "welcome.1", "--raw"]).await.unwrap();
    assert_eq!(kept, published);

    // As it says.
    let file = system.dir().join("sequences/welcome/sequence.toml");
    let toml = std::fs::read_to_string(&file).unwrap().replace("version = 1", "version = 2");
    std::fs::write(&file, toml).unwrap();
    let _dripline = system.start("run").await;
    let keys = system.server.cli(["kv", "ls", "sequences"]).await.unwrap();
    assert_eq!(keys.split_whitespace().collect::<BTreeSet<_>>(), ["welcome.1", "welcome.2"].into());
}

#[tokio::test]
async fn the_journal_holds_every_transition_by_lead_id_and_no_address() {
    let system = System::new("resend").await;
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "jane@example.com", "firstName": "Jane"}"#).await;
    let lead = system.until_status("jane=40example.com", "COMPLETED").await;

    let mut text = String::new();
    let read = until("the journal says that she has had everything", async || {
        text = system.journal().await;
        text.contains("\"completed\"")
    });
    read.await.unwrap();
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let sent = ["sending", "sent"];
    assert_eq!(events, [&["enrolled"][..], &sent, &sent, &sent, &["completed"]].concat());
    assert!(lines.iter().all(|line| line["leadId"] == lead["leadId"]), "{text}");
    assert!(lines.iter().all(|line| line["timestamp"].is_i64() && line["sequence"] == "welcome"), "{text}");
    let lowercase = text.to_lowercase();
    for personal in ["@", "=40", "jane", "example.com"] {
        assert!(!lowercase.contains(personal), "`{personal}` in {text}");
    }
}
