use serde_json::{Value, json};

use super::*;
use crate::{QueueState, Reentry, Send, Step};

const START: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(START + seconds * 1_000)
}

fn rules() -> CanaryRules {
    CanaryRules {
        sequence: "canary".to_owned(),
        interval: Duration::from_hours(1),
        retry: Duration::from_mins(5),
        deadline: Duration::from_mins(1),
    }
}

fn run() -> CanaryRun {
    CanaryRun {
        id: "r1".to_owned(),
        address: Address::parse("canary+r1@example.com").unwrap(),
        started: at(0),
        accepted: Some(at(0)),
        steps: Vec::new(),
        owner: "a".to_owned(),
        lease: at(15),
    }
}

/// Two steps, 30 seconds apart.
fn sequence() -> Sequence {
    let step = |id: &str, seconds| Step {
        id: id.into(),
        after: Duration::from_secs(seconds),
        send: Send { subject: "s".to_owned(), template: "t".to_owned() },
    };
    Sequence {
        name: "canary".into(),
        version: 1,
        from: "a@acme.example".into(),
        reentry: Reentry::Ignore,
        steps: vec![step("first", 0), step("second", 30)],
        ..Sequence::default()
    }
}

/// Enrolled at second 1, with this enrolment and history.
fn lead(more: &Value, history: &Value) -> Lead {
    let mut enrolment = json!({
        "sequence": "canary", "version": 1, "number": 1, "step": 0, "status": "WAITING", "generation": 1,
        "nextActionTimestamp": START, "beganAt": START + 1_000, "arrival": "1@1", "attempts": 0, "failures": 0,
    });
    enrolment.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let document = json!({
        "schema": 1, "leadId": "ld_1", "email": "canary+r1@example.com", "status": "ACTIVE", "generation": 1,
        "createdAt": START + 1_000, "enrollments": [enrolment], "history": history,
    });
    Lead::from_json(&serde_json::to_vec(&document).unwrap()).unwrap()
}

fn entry(event: &str, step: &str, seconds: i64) -> Value {
    json!({"timestamp": START + seconds * 1_000, "event": event, "sequence": "canary", "step": step,
           "reason": "503 from it"})
}

fn arrived(step: &str, seconds: i64) -> Arrived {
    Arrived { step: Some(step.into()), at: Some(at(seconds)) }
}

fn look(run: &mut CanaryRun, lead: Option<&Lead>, arrived: &[Arrived], now: i64) -> Progress {
    let sequence = sequence();
    let sequence = lead.is_some().then_some(&sequence);
    run.look(Sighting { lead, sequence, arrived }, &rules(), at(now))
}

fn both_sent() -> Lead {
    lead(&json!({"status": "COMPLETED", "step": 2}), &json!([entry("sent", "first", 2), entry("sent", "second", 33)]))
}

#[test]
fn a_run_whose_emails_arrive_passes_when_the_last_one_did() {
    let mut run = run();
    assert_eq!(look(&mut run, None, &[], 1), Progress::Going);
    let enrolled = lead(&json!({}), &json!([]));
    assert_eq!(look(&mut run, Some(&enrolled), &[], 2), Progress::Going);
    let sent = lead(&json!({"step": 1}), &json!([entry("sent", "first", 2)]));
    assert_eq!(look(&mut run, Some(&sent), &[arrived("first", 3)], 4), Progress::Going);
    assert_eq!(look(&mut run, Some(&both_sent()), &[arrived("first", 3)], 34), Progress::Going);
    let all = [arrived("first", 3), arrived("second", 34)];
    assert_eq!(look(&mut run, Some(&both_sent()), &all, 35), Progress::Passed);
    let seen: Vec<_> = run.steps.iter().map(|step| (step.sent, step.arrived)).collect();
    assert_eq!(seen, [(Some(at(2)), Some(at(3))), (Some(at(33)), Some(at(34)))]);
}

#[test]
fn each_thing_that_is_late_is_told_by_what_it_is() {
    let enrolled = lead(&json!({}), &json!([]));
    let untouched = Missing::Sending { step: "first".into(), due: at(1), standstill: Standstill::Untouched };
    let refusing = lead(&json!({}), &json!([entry("retrying", "first", 2)]));
    let refused = Missing::Sending {
        step: "first".into(),
        due: at(1),
        standstill: Standstill::Refused("503 from it".to_owned()),
    };
    let sent = lead(&json!({"step": 1}), &json!([entry("sent", "first", 2)]));
    let second = Missing::Sending { step: "second".into(), due: at(32), standstill: Standstill::Untouched };
    let silent = |told| Missing::Arrival { step: "first".into(), sent: at(2), told };
    let bounced = lead(
        &json!({"step": 1, "emails": [{"step": "first", "seen": ["hard_bounced"]}]}),
        &json!([entry("sent", "first", 2)]),
    );
    let there = [arrived("first", 3)];
    for (lead, arrived, last, missing) in [
        (None, &[][..], 60, Missing::Enrolment { accepted: at(0) }),
        (Some(&enrolled), &[], 61, untouched),
        (Some(&refusing), &[], 61, refused),
        (Some(&sent), &there, 92, second),
        (Some(&sent), &[], 62, silent(None)),
        (Some(&bounced), &[], 62, silent(Some(What::HardBounced))),
    ] {
        let mut run = run();
        assert_eq!(look(&mut run, lead, arrived, last), Progress::Going, "{missing:?}");
        assert_eq!(look(&mut run, lead, arrived, last + 1), Progress::Failed(missing));
    }
}

#[test]
fn a_parked_lead_is_not_waited_for() {
    let parked = lead(&json!({"status": "PARKED", "reason": "no template"}), &json!([]));
    let Progress::Failed(missing) = look(&mut run(), Some(&parked), &[], 2) else { panic!("it goes on") };
    let finding = missing.diagnose(&Surroundings::default());
    assert!(finding.link == Link::Engine && finding.summary.contains("no template"), "{finding:?}");
}

#[test]
fn emails_out_of_order_and_emails_that_come_twice_are_found() {
    let swapped = [arrived("first", 40), arrived("second", 35)];
    let order = Missing::Order { step: "second".into() };
    assert_eq!(look(&mut run(), Some(&both_sent()), &swapped, 41), Progress::Failed(order));
    let twice = [arrived("first", 3), arrived("first", 4)];
    let once = Missing::Once { step: "first".into() };
    assert_eq!(look(&mut run(), Some(&both_sent()), &twice, 41), Progress::Failed(once));
    // What webhooks tell comes in any order.
    let mut run = run();
    let told = |step: &str| Arrived { step: Some(step.into()), at: None };
    assert_eq!(look(&mut run, Some(&both_sent()), &[told("second")], 40), Progress::Going);
    assert_eq!(look(&mut run, Some(&both_sent()), &[told("second"), told("first")], 41), Progress::Passed);
}

#[test]
fn emails_that_do_not_say_which_they_are_count_in_their_order() {
    let unnamed = |seconds| Arrived { step: None, at: Some(at(seconds)) };
    let mut run = run();
    assert_eq!(look(&mut run, Some(&both_sent()), &[unnamed(3)], 34), Progress::Going);
    assert_eq!(look(&mut run, Some(&both_sent()), &[unnamed(3), unnamed(34)], 35), Progress::Passed);
}

#[test]
fn the_finding_names_the_broken_link() {
    let queue = |stream: &str, waiting| QueueState { stream: stream.to_owned(), waiting, ..QueueState::default() };
    let alive = Installation {
        engines: 1,
        leads: queue("LEADS", 0),
        timers: queue("TIMERS", 0),
        feedback: queue("FEEDBACK", 0),
        ..Installation::default()
    };
    let dead = Installation { engines: 0, ..alive.clone() };
    let blocked = |stream: &str| {
        let waits = |name| if stream == name { queue(name, 3) } else { queue(name, 0) };
        Installation { leads: waits("LEADS"), timers: waits("TIMERS"), feedback: waits("FEEDBACK"), ..alive.clone() }
    };
    let others = Installation { feedback: QueueState { newest: Some(at(9)), ..queue("FEEDBACK", 0) }, ..alive.clone() };
    let enrolment = || Missing::Enrolment { accepted: at(0) };
    let sending = |standstill| Missing::Sending { step: "first".into(), due: at(1), standstill };
    let arrival = || Missing::Arrival { step: "first".into(), sent: at(2), told: None };
    let away = || "connection refused".to_owned();
    let refused = || Standstill::Refused("401".to_owned());
    for (missing, installation, evidence, link, says) in [
        (Missing::Acceptance { reason: away() }, &alive, EvidenceState::Webhooks, Link::FrontDoor, "refused"),
        (enrolment(), &dead, EvidenceState::Webhooks, Link::Engine, "no engine is alive"),
        (enrolment(), &blocked("LEADS"), EvidenceState::Webhooks, Link::Queue, "waiting in LEADS: 3"),
        (enrolment(), &alive, EvidenceState::Webhooks, Link::Engine, "REJECTED"),
        (sending(refused()), &alive, EvidenceState::Webhooks, Link::Provider, "401"),
        (sending(refused()), &dead, EvidenceState::Webhooks, Link::Engine, "no engine is alive"),
        (sending(Standstill::Untouched), &blocked("TIMERS"), EvidenceState::Webhooks, Link::Timers, "TIMERS"),
        (sending(Standstill::Untouched), &alive, EvidenceState::Webhooks, Link::Engine, "paused?"),
        (arrival(), &alive, EvidenceState::GatewayAway { reason: away() }, Link::Bridge, "bridge is down"),
        (arrival(), &blocked("FEEDBACK"), EvidenceState::GatewayReached, Link::Feedback, "FEEDBACK"),
        (arrival(), &others, EvidenceState::GatewayReached, Link::Delivery, "other events arrive"),
        (arrival(), &alive, EvidenceState::GatewayReached, Link::Delivery, "does not deliver, or its webhooks"),
        (arrival(), &alive, EvidenceState::Webhooks, Link::Delivery, "or the webhook bridge is down"),
        (arrival(), &alive, EvidenceState::Mailbox, Link::Delivery, "not in the mailbox"),
        (arrival(), &alive, EvidenceState::MailboxAway { reason: away() }, Link::Mailbox, "cannot be asked"),
    ] {
        let around = Surroundings { installation: Some(installation.clone()), provider: None, evidence };
        let finding = missing.diagnose(&around);
        assert!(finding.link == link && finding.summary.contains(says), "{missing:?}: {finding:?}");
    }
    let stopped = Surroundings {
        installation: Some(blocked("TIMERS")),
        provider: Some("the provider `smtp` is stopped".to_owned()),
        ..Surroundings::default()
    };
    assert_eq!(sending(Standstill::Untouched).diagnose(&stopped).link, Link::Provider);
}

#[test]
fn the_next_run_begins_after_the_interval_or_sooner_after_a_failure() {
    let mut canary = Canary { run: Some(run()), ..Canary::default() };
    canary.end(None, &rules(), at(40));
    assert_eq!((canary.next, &canary.failure), (Some(at(3_600)), &None));
    let failure = Finding { link: Link::Queue, summary: "blocked".to_owned() };
    for _ in 0..100 {
        canary.run = Some(run());
        canary.end(Some(failure.clone()), &rules(), at(100));
    }
    assert_eq!((canary.next, &canary.failure), (Some(at(400)), &Some(failure)));
    assert_eq!((canary.results.len(), canary.leftovers.len()), (CANARY_RESULTS, CANARY_LEFTOVERS));
}
