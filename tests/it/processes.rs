//! Several engines at the same work.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dripline_actors::ports::{Beat, Presence, StoreError};
use dripline_test_support::{Dripline, until};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::json;

use crate::engine::start;
use crate::system::System;

const RATE: usize = 100;

async fn queue_leads(system: &System, count: usize) {
    let (code, _, err) = system.run(&["topology", "apply"]).await;
    assert_eq!(code, Some(0), "{err}");
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    for number in 0..count {
        let lead = json!({"email": format!("lead-{number}@example.com")}).to_string();
        context.publish("leads.new", lead.into()).await.unwrap().await.unwrap();
    }
}

/// The engines that are alive, as any client sees them.
async fn alive(system: &System) -> usize {
    let names = system.server.cli(["kv", "ls", "engines"]).await.unwrap_or_default();
    names.lines().filter(|line| line.contains('.')).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_that_come_and_go_never_exceed_the_rate_together_and_mail_nobody_twice() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_LOG__LEVEL", "info,dripline_actors::leads=warn");
    system.set("DRIPLINE_ESP__RATE", &RATE.to_string());
    system.sequence("welcome", &[("first", "0s")]);
    let leads = 3_000;
    queue_leads(&system, leads).await;
    let mut engines: Vec<Dripline> = vec![system.start("engine").await];
    system.until_accepted(RATE).await;
    // Joins, crashes and orderly leaves, in a fixed order; never none alive.
    for change in ["join", "join", "kill", "join", "leave", "join", "kill", "join", "leave", "kill"] {
        let before = system.summary().await.accepted;
        system.until_accepted(before + RATE).await;
        match change {
            "join" => engines.push(system.start("engine").await),
            "kill" => engines.remove(0).kill().await.unwrap(),
            _ => assert_eq!(engines.remove(0).stop().await.unwrap(), Some(0)),
        }
    }
    system.until_accepted(leads).await;
    let summary = system.summary().await;
    assert_eq!((summary.duplicates, summary.distinct_send_keys), (0, leads));
    assert!(summary.peak_5s <= RATE * 5 * 105 / 100, "{} emails within five seconds", summary.peak_5s);
    system.until_all(leads, "COMPLETED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_an_engine_that_died_is_used_by_the_others_within_seconds() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ESP__RATE", "40");
    system.sequence("welcome", &[("first", "0s")]);
    let first = system.start("engine").await;
    let mut second = system.start("engine").await;
    until("both are known to be alive", async || alive(&system).await == 2).await.unwrap();
    let shares = |share: &str| {
        let log = system.log();
        log.lines().filter(|line| line.contains("share of the rate") && line.contains(share)).count()
    };
    until("each has its half", async || shares("\"share\":0.5") >= 2).await.unwrap();
    let began = std::time::Instant::now();
    second.kill().await.unwrap();
    let whole = shares("\"share\":1.0");
    until("the other has the whole", async || shares("\"share\":1.0") > whole).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_was_paused_for_long_does_not_send_what_another_has_taken_over() {
    let mut system = System::new("sendgrid").await;
    // What is not known to be sent is sent again: a late call would be a duplicate.
    system.set("DRIPLINE_ESP__IN_DOUBT", "resend");
    system.set("DRIPLINE_ESP__IN_DOUBT_WAIT", "2s");
    let leads = 400;
    queue_leads(&system, leads).await;
    let paused = system.start("engine").await;
    system.until_accepted(50).await;
    paused.signal("STOP").await.unwrap();
    let stood_still = system.summary().await.accepted;
    let _other = system.start("engine").await;
    // All that the paused one held included: its messages come again, and its attempts are lost for the others.
    system.until_all(leads, "COMPLETED").await;
    let before = system.summary().await;
    assert!(before.accepted > stood_still, "{before:?}");
    paused.signal("CONT").await.unwrap();
    system.publish("leads.new", r#"{"email": "later@example.com"}"#).await;
    system.until_all(leads + 1, "COMPLETED").await;
    // A call that was in the provider's hands at the pause may have been taken, and then the setting has it sent twice:
    // before, not now. Each thread of the engine may have been stopped between its last look at the clock and its
    // write, which nobody can close from this side; without that look, all that waited for a connection came late.
    let after = system.summary().await;
    let threads = std::thread::available_parallelism().unwrap().get();
    assert!(after.duplicates - before.duplicates <= threads, "{before:?}, then {after:?}");
    assert_eq!(after.distinct_send_keys, (leads + 1) * 3);
}

/// The bucket `engines`, whose watcher is served by nobody once it is deaf.
struct Deaf {
    bucket: Arc<dyn Presence>,
    is_deaf: Arc<AtomicBool>,
}

#[async_trait]
impl Presence for Deaf {
    async fn announce(&self, beat: &Beat) -> Result<(), StoreError> {
        self.bucket.announce(beat).await
    }

    async fn leave(&self, owner: &str) -> Result<(), StoreError> {
        self.bucket.leave(owner).await
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<Result<Beat, String>, StoreError>>, StoreError> {
        let is_deaf = Arc::clone(&self.is_deaf);
        let heard = move |_: &_| std::future::ready(!is_deaf.load(Ordering::Relaxed));
        Ok(self.bucket.watch().await?.filter(heard).boxed())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_no_longer_hears_itself_leaves_the_emails_to_the_others() {
    const LEADS: usize = 20;
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ESP__RATE", "100");
    system.sequence("welcome", &[("first", "0s")]);
    let is_deaf = Arc::new(AtomicBool::new(false));
    // Its provider is another: the stand-in sees the emails of the other engine alone.
    let engine = start(&system, |ports, _| {
        let (bucket, is_deaf) = (Arc::clone(&ports.presence), Arc::clone(&is_deaf));
        ports.presence = Arc::new(Deaf { bucket, is_deaf });
    })
    .await;
    let _other = system.start("engine").await;
    let mut groups = 0;
    let mut of_the_other = async || {
        groups += 1;
        let before = system.summary().await.accepted;
        let lead = format!(r#"{{"email": "lead-{groups}-{{{{Count}}}}@example.com"}}"#);
        let count = LEADS.to_string();
        system.server.cli(["pub", "-J", "leads.new", &lead, "--count", &count]).await.unwrap();
        system.until_all(groups * LEADS, "COMPLETED").await;
        system.summary().await.accepted - before
    };
    until("both send", async || (1..LEADS).contains(&of_the_other().await)).await.unwrap();
    is_deaf.store(true, Ordering::Relaxed);
    until("the other one sends all", async || of_the_other().await == LEADS).await.unwrap();
    assert_eq!(of_the_other().await, LEADS);
    engine.stop(Duration::from_secs(5)).await;
}
