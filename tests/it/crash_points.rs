//! A crash at each line of the protocol: the rows of the table in ARCHITECTURE.md, one by one.
use std::time::Duration;

use dripline_test_support::{Dripline, until};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::feedback::said;
use crate::system::System;

const STEPS: [&str; 2] = ["first", "second"];
/// Systems at a time: each has a server and a process of its own.
const AT_ONCE: usize = 4;

/// Where it crashes, in the words of the table, and whether its first email is in doubt afterwards.
const ROWS: [(&str, &str, bool); 19] = [
    ("taken:1", "arrival pulled, document not committed", false),
    ("batch-filled:1", "arrival's batch not stored", false),
    ("batch-stored:1", "arrival's batch stored, not answered", false),
    ("committed:1", "arrival committed, timer not set", false),
    ("timer-set:1", "arrival's timer set, not acknowledged", false),
    ("settled:1", "arrival acknowledged", false),
    ("taken:2", "due message pulled", false),
    ("permitted:1", "place and permit taken, no intent", false),
    ("batch-filled:2", "intent's batch not stored", false),
    ("batch-stored:2", "intent's batch stored, not answered", true),
    ("committed:2", "intent committed", true),
    ("calling:1", "intent committed, before the call", true),
    ("answered:1", "call answered, outcome not committed", true),
    ("batch-filled:3", "outcome's batch not stored", true),
    ("batch-stored:3", "outcome's batch stored, not answered", false),
    ("committed:3", "outcome committed, timer not set", false),
    ("timer-set:2", "timer set, due message not acknowledged", false),
    ("settled:2", "due message acknowledged", false),
    ("committed:5", "last outcome committed, not acknowledged", false),
];

/// Starts an engine that will crash there.
async fn doomed(system: &mut System, at: &str) -> Dripline {
    system.set("CRASH_AT", at);
    let engine = system.start("engine").await;
    system.set("CRASH_AT", "nowhere:1");
    engine
}

async fn crashed(system: &System, mut engine: Dripline, at: &str) {
    let ended = until(format!("the engine crashes at {at}"), async || !engine.runs().unwrap());
    ended.await.unwrap_or_else(|error| panic!("{error}\n{}", system.log()));
}

async fn row(at: &str, what: &str, in_doubt: bool) {
    let mut system = System::new("resend").await;
    system.sequence("welcome", &[("first", "0s"), ("second", "1s")]);
    let (code, _, err) = system.run(&["topology", "apply"]).await;
    assert_eq!(code, Some(0), "{err}");
    let engine = doomed(&mut system, at).await;
    system.publish("leads.new", &json!({"email": "jane@example.com"}).to_string()).await;
    crashed(&system, engine, at).await;
    let _engine = system.start("engine").await;
    let jane = system.until_status("jane=40example.com", "COMPLETED").await;
    let events: Vec<&str> =
        jane["history"].as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    assert_eq!(events.contains(&"in_doubt"), in_doubt, "{at}, {what}: {jane:#}");
    assert_eq!(events.contains(&"resolved"), in_doubt, "{at}, {what}: {jane:#}");
    assert_eq!(events.iter().filter(|event| **event == "enrolled").count(), 1, "{at}, {what}: {jane:#}");
    assert_eq!(system.steps_of("jane@example.com").await, STEPS, "{at}, {what}");
    assert_eq!(system.summary().await.duplicates, 0, "{at}, {what}");
    until(format!("{at}, {what}: nothing waits any more"), async || system.waiting_leads().await == 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_line_of_the_protocol_costs_no_email_and_sends_none_twice() {
    let rows = stream::iter(ROWS).map(|(at, what, in_doubt)| row(at, what, in_doubt));
    rows.buffer_unordered(AT_ONCE).collect::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_when_a_suppression_was_found_sends_nothing_afterwards() {
    let mut system = System::new("resend").await;
    system.sequence("welcome", &[("first", "2s"), ("second", "1s")]);
    let (code, _, err) = system.run(&["topology", "apply"]).await;
    assert_eq!(code, Some(0), "{err}");
    let engine = doomed(&mut system, "suppression-found:1").await;
    system.publish("leads.new", &json!({"email": "jane@example.com"}).to_string()).await;
    system.until_status("jane=40example.com", "NEW").await;
    let suppress = ["kv", "put", "suppressions", "jane=40example.com", r#"{"reason": "complaint"}"#];
    system.server.cli(suppress).await.unwrap();
    crashed(&system, engine, "suppression-found:1").await;
    let _engine = system.start("engine").await;
    let jane = system.until_status("jane=40example.com", "SUPPRESSED").await;
    assert_eq!(jane["nextActionTimestamp"], Value::Null);
    assert_eq!(system.summary().await.accepted, 0);
}

/// An engine that stands still there, as a paused machine does, with a lead that it is about to mail. What was said
/// meanwhile, its memory does not have when it goes on.
async fn stands_still(at: &str) -> (System, Dripline) {
    let mut system = System::new("resend").await;
    system.sequence("welcome", &[("first", "0s"), ("second", "1s")]);
    let (code, _, err) = system.run(&["topology", "apply"]).await;
    assert_eq!(code, Some(0), "{err}");
    // Long enough that the call is not given up for its lateness.
    system.set("DRIPLINE_ESP__TIMEOUT", "60s");
    system.set("DRIPLINE_ENGINE__ACK_WAIT", "90s");
    system.set("STOP_AT", at);
    let engine = system.start("engine").await;
    system.publish("leads.new", &json!({"email": "jane@example.com"}).to_string()).await;
    let stands_still = until(format!("the engine stands still at {at}"), async || {
        system.log().contains("the process stands still here") && engine.stands_still()
    });
    stands_still.await.unwrap_or_else(|error| panic!("{error}\n{}", system.log()));
    (system, engine)
}

/// It goes on, as soon as its memory no longer counts.
async fn goes_on(engine: &Dripline) {
    tokio::time::sleep(Duration::from_millis(500)).await;
    engine.signal("CONT").await.unwrap();
}

/// Before its intent, and after it: the arrival is the first commit, the intent the second.
const ABOUT_TO_MAIL: [&str; 2] = ["permitted:1", "committed:2"];

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_stood_still_mails_nobody_who_was_suppressed_meanwhile() {
    for at in ABOUT_TO_MAIL {
        let (system, engine) = stands_still(at).await;
        // Many others first, so that its memory takes a while to have her.
        let others: Vec<_> = (0..3_000).map(|number| format!("lead-{number}@example.com")).collect();
        let file = system.dir().join("others.txt");
        std::fs::write(&file, others.join("\n")).unwrap();
        let import = ["suppression", "import", file.to_str().unwrap(), "--reason", "a list", "--by", "ann"];
        let (code, _, err) = system.run(&import).await;
        assert_eq!(code, Some(0), "{err}");
        let add = ["suppression", "add", "jane@example.com", "--reason", "asked by phone", "--by", "ann"];
        let (code, _, err) = system.run(&add).await;
        assert_eq!(code, Some(0), "{err}");
        goes_on(&engine).await;
        let jane = system.until_status("jane=40example.com", "SUPPRESSED").await;
        assert_eq!(system.summary().await.accepted, 0, "{at}: {jane:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_stood_still_sends_nothing_of_what_was_paused_meanwhile() {
    for (at, paused) in ABOUT_TO_MAIL.into_iter().zip(["sequence.welcome", "provider.resend"]) {
        let (system, engine) = stands_still(at).await;
        let bucket = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
        // Many others first, as above.
        for what in (0..1_000).map(|number| format!("sequence.other-{number}")).chain([paused.to_owned()]) {
            bucket.publish(format!("$KV.controls.{what}"), "wait".into()).await.unwrap().await.unwrap();
        }
        goes_on(&engine).await;
        let not_called = until(format!("{at}: it finds that {paused} is paused"), async || {
            let jane = system.document("jane=40example.com").await;
            jane.is_some_and(|jane| jane["history"].to_string().contains("is paused: wait"))
        });
        not_called.await.unwrap_or_else(|error| panic!("{error}\n{}", system.log()));
        assert_eq!(system.summary().await.accepted, 0, "{at}");
        system.server.cli(["kv", "del", "controls", paused, "--force"]).await.unwrap();
        system.until_status("jane=40example.com", "COMPLETED").await;
        assert_eq!(system.steps_of("jane@example.com").await, STEPS, "{at}");
    }
}

/// The arrival is the first commit, intent and outcome of the first email the second and third, the no the fourth.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_an_unsubscribe_is_taken_in_neither_loses_it_nor_lets_an_email_out() {
    for at in ["suppression-recorded:1", "batch-filled:4", "batch-stored:4", "committed:4"] {
        let mut system = System::new("resend").await;
        system.sequence("welcome", &[("first", "0s"), ("second", "3s")]);
        let (code, _, err) = system.run(&["topology", "apply"]).await;
        assert_eq!(code, Some(0), "{err}");
        let engine = doomed(&mut system, at).await;
        system.publish("leads.new", &json!({"email": "jane@example.com"}).to_string()).await;
        system.until_status("jane=40example.com", "ACTIVE").await;
        system.publish("feedback.unsubscribe", &said("unsubscribed", "jane@example.com")).await;
        crashed(&system, engine, at).await;
        let _engine = system.start("engine").await;
        let jane = system.until_status("jane=40example.com", "UNSUBSCRIBED").await;
        assert_eq!(jane["nextActionTimestamp"], Value::Null, "{at}");
        let settled = until(format!("{at}: nothing waits any more"), async || {
            system.waiting("FEEDBACK", "feedback").await == 0 && system.depth("TIMERS").await == 0
        });
        settled.await.unwrap_or_else(|error| panic!("{error}\n{}", system.log()));
        let jane = system.document("jane=40example.com").await.unwrap();
        let unsubscribed =
            jane["history"].as_array().unwrap().iter().filter(|it| it["event"] == "unsubscribed").count();
        assert_eq!(unsubscribed, 1, "{at}: {jane:#}");
        assert_eq!(system.steps_of("jane@example.com").await, ["first"], "{at}");
    }
}
