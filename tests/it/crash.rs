//! The process is killed at random moments; the promises hold.
use std::collections::HashMap;

use dripline_test_support::until;
use serde_json::Value;

use crate::system::System;

const LEADS: usize = 2_000;
const STEPS: [&str; 3] = ["first", "second", "third"];

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_random_moments_loses_no_lead_and_mails_nobody_twice() {
    killed_at_random_moments("sendgrid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_random_moments_leaves_nothing_in_doubt_where_calls_are_idempotent() {
    assert_eq!(killed_at_random_moments("resend").await, 0);
}

/// Gives how many leads are in doubt in the end.
async fn killed_at_random_moments(vendor: &str) -> usize {
    let mut system = System::new(vendor).await;
    system.set("DRIPLINE_ESP__IN_FLIGHT", "256");
    system.set("DRIPLINE_LOG__LEVEL", "warn");
    // A window in which answers are in flight when the kill comes.
    system.set("DRIPLINE_ESP__RATE", "900");
    let mut dripline = system.start("run").await;

    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    let mut acks = Vec::new();
    for number in 0..LEADS {
        let lead = format!(r#"{{"email": "lead-{number}@example.com", "firstName": "Lead {number}"}}"#);
        acks.push(context.publish("leads.new", lead.into()).await.unwrap());
    }
    for ack in acks {
        ack.await.unwrap();
    }

    // Seeded by the clock; the moments are printed with a failure.
    let mut random = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    let mut moments = Vec::new();
    for _ in 0..5 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let more = usize::try_from(random % 300).unwrap() + 100;
        let before = system.summary().await.accepted;
        // A moment in the middle of the work: even if every place for a call is in doubt after each kill, there is
        // enough left to send.
        let moved = until("some emails later", async || system.summary().await.accepted >= before + more);
        moved.await.unwrap();
        dripline.kill().await.unwrap();
        moments.push(system.summary().await.accepted);
        dripline = system.start("run").await;
    }

    let settled = |documents: &[Value]| {
        documents.len() == LEADS
            && documents.iter().all(|lead| lead["status"] == "COMPLETED" || waits_for_a_webhook(lead))
    };
    let mut leads = Vec::new();
    let mut done = false;
    for _ in 0..3 {
        let waiting = until("every lead is completed or in doubt", async || {
            leads = system.documents().await;
            settled(&leads)
        });
        if waiting.await.is_ok() {
            done = true;
            break;
        }
    }
    let count = |status: &str| leads.iter().filter(|lead| lead["status"] == status).count();
    let summary = system.summary().await;
    let in_doubt = count("IN_DOUBT");
    let story = format!(
        "killed at {moments:?} accepted; {} leads, {} completed, {in_doubt} in doubt; {summary:?}",
        leads.len(),
        count("COMPLETED")
    );
    assert!(done, "{story}\n{}", tail(&system.log()));
    assert_eq!((summary.duplicates, summary.refused), (0, 0), "{story}");

    let mut sent: HashMap<String, Vec<String>> = HashMap::new();
    for email in system.accepted().await {
        sent.entry(email.to.to_string()).or_default().push(email.step.to_string());
    }
    for lead in &leads {
        let steps = sent.remove(lead["email"].as_str().unwrap()).unwrap_or_default();
        let at = usize::try_from(lead["enrollments"][0]["step"].as_u64().unwrap()).unwrap();
        if lead["status"] == "COMPLETED" {
            assert_eq!(steps, STEPS, "{story}: {lead}");
        } else {
            // All before the one in doubt; that one perhaps; nothing after it.
            assert!(steps == STEPS[..at] || steps == STEPS[..=at], "{story}: {steps:?}, {lead}");
            assert!(lead["enrollments"][0]["attempt"]["sendKey"].is_string(), "{lead}");
        }
    }
    // Only what was between its intent and its answer at one of the five kills, and there are places for 256 of them.
    assert!(in_doubt <= 5 * 256, "{story}");
    println!("{story}");
    assert_eq!(dripline.stop().await.unwrap(), Some(0));
    assert_eq!(system.waiting_leads().await, 0);
    in_doubt
}

/// In doubt, and the provider cannot be asked: no sooner than in an hour it is given up.
fn waits_for_a_webhook(lead: &Value) -> bool {
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let attempt = &lead["enrollments"][0]["attempt"];
    lead["status"] == "IN_DOUBT" && number(&lead["nextActionTimestamp"]) == number(&attempt["startedAt"]) + 3_600_000
}

#[tokio::test(flavor = "multi_thread")]
async fn when_one_of_two_engines_dies_the_other_goes_on_alone() {
    let mut system = System::new("sendgrid").await;
    system.set("DRIPLINE_LOG__LEVEL", "warn");
    let _gateway = system.start("gateway").await;
    let mut first = system.start("engine").await;
    let mut second = system.start("engine").await;
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    for number in 0..300 {
        let lead = format!(r#"{{"email": "lead-{number}@example.com"}}"#);
        context.publish("leads.new", lead.into()).await.unwrap().await.unwrap();
    }
    system.until_accepted(350).await;
    first.kill().await.unwrap();
    let settled = until("every lead is completed or in doubt", async || {
        let leads = system.documents().await;
        leads.len() == 300 && leads.iter().all(|lead| lead["status"] == "COMPLETED" || waits_for_a_webhook(lead))
    });
    if let Err(error) = settled.await {
        panic!("{error}\n{}", tail(&system.log()));
    }
    assert_eq!(system.summary().await.duplicates, 0);
    assert_eq!(second.stop().await.unwrap(), Some(0));
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
