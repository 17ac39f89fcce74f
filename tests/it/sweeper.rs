//! Timers are lost, and set again: by whom, and what of it a failure of the server or of an engine changes.
use std::path::Path;
use std::time::Duration;

use dripline_actors::ports::{BatchResult, JournalLines, LeadStore, Put};
use dripline_domain::{Address, LeadKey, LeadStatus, Timestamp};
use dripline_nats::{Connections, JetStreamLeadStore, Login, topology};
use dripline_test_support::{Dripline, free_port, until};
use serde_json::{Value, json};

use crate::system::System;

/// So many leads, as a scan sees them, that wait for something in the far future and have no timer.
async fn leads_without_timers(system: &System, count: usize) {
    const BATCH: usize = 990;
    let (code, _, err) = system.run(&["topology", "apply"]).await;
    assert_eq!(code, Some(0), "{err}");
    let connections = dripline_nats::connect(&system.server.url(), &Login::None, "test").await.unwrap();
    let context = Connections::jetstream(&connections.general);
    let bucket = context.get_stream_no_info(topology::LEADS_BUCKET).await.unwrap();
    let store = JetStreamLeadStore::new(bucket, connections.commits.clone());
    let put = |number: usize| Put {
        key: LeadKey::of(&Address::parse(&format!("lead-{number}@example.com")).unwrap()),
        expected: 0,
        document: Some("{}".into()),
        next_action: Some(Timestamp::from_millis(4_000_000_000_000)),
        generation: 1,
        status: Some(LeadStatus::Active),
        write: number as u64,
    };
    let puts: Vec<_> = (0..count).map(put).collect();
    for batch in puts.chunks(BATCH) {
        assert!(matches!(store.write(batch, JournalLines::default()).await, BatchResult::Written(_)));
    }
}

/// What the sweeper has said of each sweep, or part of one.
fn sweeps(system: &System) -> Vec<Value> {
    let log = system.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
    lines.filter(|line: &Value| line["target"] == "dripline_actors::sweeper" && line["leads"].is_u64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_the_server_interrupts_goes_on_where_it_was_and_then_nothing_is_without_a_timer() {
    let leads = 30_000;
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_LOG__LEVEL", "info,dripline_actors::sweeper=debug");
    // Only because of the restarts, never because its time has come.
    system.set("DRIPLINE_ENGINE__SWEEP_EVERY", "1h");
    leads_without_timers(&system, leads).await;
    // One connection: a new one for each look would take too long.
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    let timers = context.get_stream(topology::TIMERS).await.unwrap();
    let mut engine = system.start("engine").await;
    until("the sweep is under way", async || timers.get_info().await.unwrap().state.messages >= 50).await.unwrap();
    // It stands still, so that it is not at its end before the server is gone.
    engine.signal("STOP").await.unwrap();
    assert!(system.with_timer().await.len() < leads, "the sweep was too fast to show anything");
    system.server.kill().await.unwrap();
    engine.signal("CONT").await.unwrap();
    until("the sweep is interrupted", async || !sweeps(&system).is_empty()).await.unwrap();
    system.server.restart().await.unwrap();
    let ended = until("the sweep has ended", async || sweeps(&system).iter().any(|sweep| sweep["level"] != "WARN"));
    ended.await.unwrap_or_else(|error| panic!("{error}\n{}", system.log()));
    let said = sweeps(&system);
    let end = said.iter().position(|sweep| sweep["level"] != "WARN").unwrap();
    let parts = &said[..=end];
    assert!(parts.len() > 1 && parts[0]["leads"].as_u64().unwrap() > 0, "it was interrupted on its way: {said:#?}");
    let looked_at: u64 = parts.iter().map(|part| part["leads"].as_u64().unwrap()).sum();
    assert_eq!(looked_at, leads as u64, "no lead twice: {said:#?}");
    // What the server had not written down when it was killed is set by the sweep for the reconnect.
    until("a whole sweep follows", async || sweeps(&system).len() > parts.len()).await.unwrap();
    assert_eq!(system.with_timer().await.len(), leads);
    assert!(engine.runs().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_engines_the_stream_of_timers_is_deleted_under_load_and_every_lead_gets_its_emails_once() {
    let mut system = System::new("resend").await;
    // Both sweep because of the deletion, and one of them on the interval: an answer to a message of the old stream that
    // comes late settles the new one's message of the same number.
    system.set("DRIPLINE_ENGINE__SWEEP_EVERY", "5s");
    let _engines = [system.start("run").await, system.start("engine").await];
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    for number in 0..200 {
        let lead = json!({"email": format!("lead-{number}@example.com")}).to_string();
        context.publish("leads.new", lead.into()).await.unwrap().await.unwrap();
    }
    system.until_accepted(240).await;
    system.server.cli(["stream", "rm", "TIMERS", "-f"]).await.unwrap();
    system.until_all(200, "COMPLETED").await;
    let mended = sweeps(&system).iter().filter_map(|sweep| sweep["mended"].as_u64()).sum::<u64>();
    assert!(mended > 0, "the deletion was too late to show anything");
    let summary = system.summary().await;
    assert_eq!((summary.accepted, summary.duplicates, summary.distinct_send_keys), (600, 0, 600));
}

/// An engine, and where it is measured.
async fn measured_engine(system: &mut System) -> (Dripline, u16) {
    let port = free_port().unwrap();
    system.set("DRIPLINE_METRICS__LISTEN", &format!("127.0.0.1:{port}"));
    (system.start("engine").await, port)
}

/// A figure of an engine; none where it is not there.
async fn figure(system: &System, port: u16, series: &str) -> Option<f64> {
    let page = system.http.get(format!("http://127.0.0.1:{port}/metrics")).send().await.ok()?.text().await.ok()?;
    page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

const SWEPT: &str = "dripline_last_sweep_timestamp_seconds ";
const ACTIVE: &str = "dripline_leads{status=\"ACTIVE\"} ";

#[tokio::test(flavor = "multi_thread")]
async fn on_the_interval_one_engine_sweeps_and_counts_and_another_does_when_it_is_killed() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ENGINE__SWEEP_EVERY", "1s");
    leads_without_timers(&system, 10).await;
    let mut engines = [measured_engine(&mut system).await, measured_engine(&mut system).await];
    let counts = async |port| figure(&system, port, ACTIVE).await;
    let mut first = None;
    let decided = until("one of both counts the leads, and the other does not", async || {
        let [one, other] = [engines[0].1, engines[1].1];
        // In this order: at its start each of them sweeps, and counts until it knows of the other.
        let knows = async |port| figure(&system, port, "dripline_engines ").await == Some(2.0);
        let swept = async |port| figure(&system, port, SWEPT).await > Some(0.0);
        if !(knows(one).await && knows(other).await && swept(one).await && swept(other).await) {
            return false;
        }
        first = match (counts(one).await, counts(other).await) {
            (Some(10.0), Some(other)) if other.is_nan() => Some(0),
            (Some(one), Some(10.0)) if one.is_nan() => Some(1),
            _ => None,
        };
        first.is_some()
    });
    decided.await.unwrap_or_else(|error| panic!("{error}\n{}", system.log()));
    let first = first.unwrap();
    let [sweeping, resting] = [engines[first].1, engines[1 - first].1];
    let rested = figure(&system, resting, SWEPT).await.unwrap();
    let swept = figure(&system, sweeping, SWEPT).await.unwrap();
    let on = until("it sweeps again and again", async || {
        figure(&system, sweeping, SWEPT).await.is_some_and(|now| now > swept + 3.0)
    });
    on.await.unwrap_or_else(|error| panic!("{error}\n{}", system.log()));
    assert_eq!(figure(&system, resting, SWEPT).await, Some(rested), "the other one does not");

    engines[first].0.kill().await.unwrap();
    let killed = std::time::Instant::now();
    system.server.cli(["stream", "purge", "TIMERS", "-f"]).await.unwrap();
    until("the timers are set again", async || system.with_timer().await.len() == 10).await.unwrap();
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    until("it counts, too", async || counts(resting).await == Some(10.0)).await.unwrap();
}

/// Copies the files of one folder into another.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_timer_that_was_settled_and_stands_there_again_after_a_crash_does_not_pass_for_a_leads_own() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ENGINE__SWEEP_EVERY", "1s");
    system.sequence("welcome", &[("first", "3s")]);
    let mut engine = system.start("run").await;
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    system.until_status("jane=40example.com", "NEW").await;
    let order = |verb| ["sequence", verb, "welcome", "--by", "ann", "--reason", "a test"];
    assert_eq!(system.run(&order("pause")).await.0, Some(0), "{}", system.log());
    engine.kill().await.unwrap();
    until("her timer has fired", async || system.waiting("TIMERS", "due").await == 1).await.unwrap();
    system.server.stop().await.unwrap();
    let (messages, before) = (system.server.stream("TIMERS").join("msgs"), system.dir().join("before"));
    copy(&messages, &before);

    // While her sequence is paused, its settling sets another of the same generation.
    system.server.restart().await.unwrap();
    let mut engine = system.start("run").await;
    until("it is settled", async || system.waiting("TIMERS", "due").await == 0).await.unwrap();
    engine.kill().await.unwrap();
    system.server.stop().await.unwrap();
    // What a crash may do to a stream that is written without fsync: it is as before. The consumer is not.
    std::fs::remove_dir_all(&messages).unwrap();
    copy(&before, &messages);
    system.server.restart().await.unwrap();
    assert_eq!(system.depth("TIMERS").await, 1);
    assert_eq!(system.waiting("TIMERS", "due").await, 0);

    let _dripline = system.start("run").await;
    assert_eq!(system.run(&order("resume")).await.0, Some(0), "{}", system.log());
    system.until_status("jane=40example.com", "COMPLETED").await;
    assert_eq!(system.steps_of("jane@example.com").await, ["first"]);
}
