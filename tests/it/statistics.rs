//! What `dripline stats` shows, and that it is exact whatever crashes.
use std::collections::BTreeMap;
use std::time::Instant;

use dripline_test_support::{PATIENCE, until};
use serde_json::{Value, json};

use crate::system::System;

async fn stats(system: &System, arguments: &[&str]) -> Value {
    let (code, out, err) = system.run(&[&["stats", "--json"], arguments].concat()).await;
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).unwrap()
}

/// Waits until everything in the journal is counted; gives the statistics.
pub async fn until_counted(system: &System) -> Value {
    let mut counted = Value::Null;
    let done = until("the whole journal is counted", async || {
        counted = stats(system, &[]).await;
        counted["journalSequence"] == last_of(system, "JOURNAL").await
    });
    if let Err(error) = done.await {
        panic!("{error}; {counted:#}\n{}", system.log());
    }
    counted
}

async fn last_of(system: &System, stream: &str) -> u64 {
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    context.get_stream(stream).await.unwrap().cached_info().state.last_sequence
}

/// How often each event stands at each step of `welcome`, read from where the journal is committed.
async fn committed(system: &System) -> BTreeMap<(String, String), u64> {
    use async_nats::jetstream::stream::DirectGetErrorKind;

    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    let stream = context.get_stream("KV_leads").await.unwrap();
    let (mut from, mut events) = (1, BTreeMap::new());
    loop {
        let message = match stream.direct_get_next_for_subject("journal.>", Some(from)).await {
            Ok(message) => message,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return events,
            Err(error) => panic!("{error}"),
        };
        from = message.sequence + 1;
        for line in std::str::from_utf8(&message.payload).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            *events.entry((text("step"), text("event"))).or_default() += 1;
        }
    }
}

#[tokio::test]
async fn stats_show_what_was_sent_and_what_became_of_it() {
    let system = System::new("resend").await;
    let _dripline = system.start("run").await;
    for name in ["ann", "bob"] {
        system.publish("leads.new", &format!(r#"{{"email": "{name}@example.com"}}"#)).await;
    }
    system.until_all(2, "COMPLETED").await;
    let line = |event: &str| json!({"leadId": "ld_1", "timestamp": 1, "event": event, "sequence": "welcome", "version": 1, "step": "first"});
    let unknown = json!({"leadId": "ld_1", "timestamp": 1, "event": "complained"});
    let lines = format!("{}\n{}\n{unknown}\nno json\n", line("delivered"), line("opened"));
    system.server.cli(["pub", "-J", "journal.by-hand", &lines]).await.unwrap();

    let counted = until_counted(&system).await;
    let version = &counted["sequences"]["welcome"]["versions"]["1"];
    assert_eq!((&version["enrolments"]["enrolled"], &version["enrolments"]["completed"]), (&json!(2), &json!(2)));
    let steps = version["steps"].as_object().unwrap();
    assert_eq!(steps.keys().collect::<Vec<_>>(), ["first", "second", "third"]);
    assert!(steps.values().all(|step| step["sent"] == 2), "{version:#}");
    assert_eq!((&steps["first"]["delivered"], &steps["first"]["opened"]), (&json!(1), &json!(1)));
    assert_eq!(counted["unattributed"]["complained"], 1);
    assert!(system.log().contains("a line of JOURNAL cannot be read"), "{}", system.log());

    // The same for a program that asks, of all or of one; and for people.
    let ask = async |request: &str| -> Value {
        let answer = system.server.cli(["req", "dripline.stats", request, "--raw"]).await.unwrap();
        serde_json::from_str(&answer).unwrap()
    };
    assert_eq!(ask("{}").await, counted);
    assert_eq!(ask(r#"{"sequence": "other"}"#).await["sequences"], json!({}));
    assert!(ask("welcome").await["error"].as_str().unwrap().contains(r#"{"sequence": "name"}"#));
    let (code, table, _) = system.run(&["stats", "--sequence", "welcome"]).await;
    assert_eq!(code, Some(0));
    assert!(table.contains("welcome version 1: 2 enrolled, 2 completed"), "{table}");
    assert!(table.lines().any(|line| line.trim_start().starts_with("first") && line.contains("1 (50.0 %)")), "{table}");
    let (code, _, err) = system.run(&["stats", "--sequence", "nowhere"]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("`nowhere`"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_are_exact_after_engines_and_server_are_killed_and_a_replay_gives_the_same() {
    const LEADS: usize = 400;
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_LOG__LEVEL", "warn");
    system.set("DRIPLINE_ESP__RATE", "150");
    let began = Instant::now();
    let gateway = system.start("gateway").await;
    let mut engines = [system.start("engine").await, system.start("engine").await];
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    for number in 0..LEADS {
        let lead = format!(r#"{{"email": "lead-{number}@example.com"}}"#);
        context.publish("leads.new", lead.into()).await.unwrap().await.unwrap();
    }
    for (accepted, place) in [(150, 0), (350, 1), (550, 0), (750, 1)] {
        system.until_accepted(accepted).await;
        engines[place].kill().await.unwrap();
        if place == 1 {
            system.server.restart().await.unwrap();
        }
        engines[place] = system.start("engine").await;
    }
    let completed = async || {
        let leads = system.documents().await;
        leads.len() == LEADS && leads.iter().all(|lead| lead["status"] == "COMPLETED")
    };
    // A lost answer is asked for again only after a while.
    while until("every lead is completed", completed).await.is_err() {
        assert!(began.elapsed() < 4 * PATIENCE, "{}", system.log());
    }
    system.server.restart().await.unwrap();

    let counted = until_counted(&system).await;
    let committed = committed(&system).await;
    let version = &counted["sequences"]["welcome"]["versions"]["1"];
    for step in ["first", "second", "third"] {
        let of = |event: &str| committed.get(&(step.to_owned(), event.to_owned())).copied().unwrap_or_default();
        assert_eq!(version["steps"][step]["sent"], of("sent"), "{step}");
        assert_eq!(version["steps"][step]["inDoubt"], of("in_doubt"), "{step}");
        assert!(of("sent") <= LEADS as u64 && of("sent") > 0, "{step}: {}", of("sent"));
    }
    assert_eq!(version["enrolments"]["enrolled"], LEADS);
    assert_eq!(version["enrolments"]["completed"], LEADS);
    assert_eq!(stats(&system, &["--verify"]).await, counted);
    drop((gateway, engines));

    // Numbers that somebody spoilt are found, and mended.
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    let bucket = context.get_key_value("statistics").await.unwrap();
    let spoilt = r#"{"versions": {"1": {"steps": {"first": {"sent": 7}}}}}"#;
    bucket.put("sequence.welcome", spoilt.into()).await.unwrap();
    let (code, _, err) = system.run(&["stats", "--verify"]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("--rebuild"), "{err}");
    assert_eq!(stats(&system, &["--rebuild"]).await, counted);
    assert_eq!(stats(&system, &["--verify"]).await, counted);
}

#[tokio::test]
async fn a_journal_that_was_made_anew_is_not_counted_twice() {
    let system = System::new("resend").await;
    let mut dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "ann@example.com"}"#).await;
    system.until_status("ann=40example.com", "COMPLETED").await;
    let before = until_counted(&system).await;
    assert_eq!(dripline.stop().await.unwrap(), Some(0));
    // Its messages get other numbers: the first is gone, as after its time.
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    context.delete_stream("JOURNAL").await.unwrap();
    let leads = context.get_stream("KV_leads").await.unwrap();
    let first = leads.direct_get_next_for_subject("journal.>", Some(1)).await.unwrap();
    leads.purge().filter(first.subject.to_string()).await.unwrap();

    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "bob@example.com"}"#).await;
    system.until_status("bob=40example.com", "COMPLETED").await;
    let after = until_counted(&system).await;
    let version = |counted: &Value| counted["sequences"]["welcome"]["versions"]["1"].clone();
    assert_eq!(version(&before)["enrolments"]["completed"], 1);
    assert_eq!(version(&after)["enrolments"]["completed"], 2);
    assert_eq!(version(&after)["enrolments"]["enrolled"], 2);
    assert!(version(&after)["steps"].as_object().unwrap().values().all(|step| step["sent"] == 2), "{after:#}");
}
