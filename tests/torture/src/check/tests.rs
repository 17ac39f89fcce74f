#![allow(clippy::unwrap_used)]
use dripline_stand_in::Vendor;
use serde_json::json;

use super::*;
use crate::history::{Hindered, Promise, Rejected, Submission, Suppression};
use crate::plan::{Cause, Step};

mod orders;
mod suppressions;

const JANE: &str = "jane@example.com";

/// A history that keeps every promise, to be spoilt in one place by each test: Jane in a sequence of three steps, a
/// second apart, which restarts if `restarts`.
fn good() -> History {
    let steps = ["one", "two", "three"];
    let mut history = History {
        sequences: vec![Sequence {
            name: "welcome".to_owned(),
            restarts: false,
            steps: steps.map(|id| Step { id: id.to_owned(), after_ms: if id == "one" { 0 } else { 1_000 } }).into(),
        }],
        submissions: vec![submission("jane-1")],
        documents: vec![Document {
            lead_id: "ld_jane".to_owned(),
            email: JANE.to_owned(),
            status: "COMPLETED".to_owned(),
            next_action_timestamp: None,
            suppressed: None,
            paused: None,
            enrollments: vec![enrolment(1)],
        }],
        ..History::default()
    };
    history.journal.push(line("enrolled", None, 900));
    for (step, at) in steps.into_iter().zip([1_000, 2_100, 3_200]) {
        history.journal.push(line("sending", Some(step), at - 10));
        history.accepted.push(email(step, 1, at));
        history.journal.push(line("sent", Some(step), at + 10));
    }
    history.journal.push(line("completed", None, 3_210));
    history
}

fn submission(key: &str) -> Submission {
    Submission {
        address: JANE.to_owned(),
        sequence: "welcome".to_owned(),
        key: key.to_owned(),
        first_tried: 800,
        last_tried: 800,
        tries: 1,
        promise: Some(Promise { at: 850, lead_id: "ld_jane".to_owned() }),
        refused: None,
    }
}

fn enrolment(number: u32) -> Enrolment {
    Enrolment {
        sequence: "welcome".to_owned(),
        number,
        step: 3,
        status: "COMPLETED".to_owned(),
        began_at: 900,
        reason: None,
        send_keys: ["one", "two", "three"].map(|step| format!("{step}/{number}")).into(),
    }
}

fn email(step: &str, number: u32, at: u64) -> Accepted {
    let email = json!({
        "provider": Vendor::Postmark, "send_key": format!("{step}/{number}"), "lead_id": "ld_jane", "to": JANE,
        "sequence": "welcome", "step": step, "subject": "Hello", "message_id": "m", "at": at,
    });
    serde_json::from_value(email).unwrap()
}

fn line(event: &str, step: Option<&str>, timestamp: u64) -> Line {
    Line {
        lead_id: "ld_jane".to_owned(),
        timestamp,
        event: event.to_owned(),
        sequence: Some("welcome".to_owned()),
        step: step.map(str::to_owned),
        attempt: None,
        reason: None,
        by: None,
    }
}

fn kinds_under(history: &History, in_doubt: InDoubt) -> Vec<Kind> {
    let mut kinds: Vec<_> =
        check(history, Rules { in_doubt, ..Rules::default() }).iter().map(|violation| violation.kind).collect();
    kinds.sort_unstable();
    kinds
}

fn kinds(history: &History) -> Vec<Kind> {
    kinds_under(history, InDoubt::Hold)
}

/// Jane's enrolment is held at step `two`, whose attempt was declared in doubt; `accepted` says how often it went.
fn in_doubt(accepted: usize) -> History {
    let mut history = good();
    history.accepted.truncate(1);
    history.accepted.extend((0..accepted).map(|n| email("two", 1, 2_100 + 500 * n as u64)));
    history.journal.truncate(4);
    history.journal.push(line("in_doubt", Some("two"), 2_120));
    let document = &mut history.documents[0];
    document.status = "IN_DOUBT".to_owned();
    document.enrollments[0].status = "IN_DOUBT".to_owned();
    document.enrollments[0].step = 1;
    history
}

#[test]
fn a_history_that_keeps_every_promise_has_no_violation() {
    assert_eq!(check(&good(), Rules::default()), []);
}

#[test]
fn a_source_without_a_202_is_found() {
    let mut history = good();
    history.submissions[0].promise = None;
    assert_eq!(kinds(&history), [Kind::NeverTaken]);
}

#[test]
fn a_lead_without_a_document_is_lost() {
    let mut history = good();
    history.documents.clear();
    history.accepted.clear();
    assert_eq!(kinds(&history), [Kind::LostLead]);
}

#[test]
fn another_id_than_promised_is_found() {
    let mut history = good();
    history.submissions[0].promise.as_mut().unwrap().lead_id = "ld_joe".to_owned();
    assert_eq!(kinds(&history), [Kind::OtherId]);
}

#[test]
fn a_promise_that_led_to_no_enrolment_is_found_unless_the_address_is_suppressed() {
    let mut history = good();
    history.accepted.clear();
    history.documents[0].enrollments.clear();
    assert_eq!(kinds(&history), [Kind::NotEnrolled]);
    history.documents[0].suppressed = Some("asked by phone".to_owned());
    assert_eq!(kinds(&history), []);
}

#[test]
fn one_arrival_begins_one_enrolment() {
    let mut history = good();
    history.documents[0].enrollments.push(enrolment(2));
    history.journal.push(line("enrolled", None, 900));
    for (step, at) in [("one", 4_000), ("two", 5_000), ("three", 6_000)] {
        history.journal.push(line("sending", Some(step), at));
        history.accepted.push(email(step, 2, at));
    }
    assert_eq!(kinds(&history), [Kind::EnrolledTooOften]);
    // A second arrival, where the sequence restarts, is the reason for it.
    history.submissions.push(submission("jane-2"));
    assert_eq!(kinds(&history), [Kind::EnrolledTooOften]);
    history.sequences[0].restarts = true;
    assert_eq!(kinds(&history), []);
    // And a third one must begin a third.
    history.submissions.push(submission("jane-3"));
    assert_eq!(kinds(&history), [Kind::NotEnrolled]);
}

#[test]
fn a_completed_enrolment_without_one_of_its_emails_is_found() {
    for missing in 0..3 {
        let mut history = good();
        history.accepted.remove(missing);
        assert_eq!(kinds(&history), [Kind::Missing], "{missing}");
    }
}

#[test]
fn an_email_that_went_twice_is_found() {
    for step in 0..3 {
        let mut history = good();
        let again = Accepted { at: 9_000, ..history.accepted[step].clone() };
        history.accepted.push(again);
        assert_eq!(kinds(&history), [Kind::Twice], "{step}");
    }
}

#[test]
fn an_attempt_in_doubt_may_have_gone_once() {
    assert_eq!(kinds(&in_doubt(0)), []);
    assert_eq!(kinds(&in_doubt(1)), []);
    assert_eq!(kinds(&in_doubt(2)), [Kind::Twice]);
}

#[test]
fn an_attempt_in_doubt_may_go_once_more_where_that_is_the_policy() {
    assert_eq!(kinds_under(&in_doubt(2), InDoubt::Resend), []);
    assert_eq!(kinds_under(&in_doubt(3), InDoubt::Resend), [Kind::Twice]);
}

#[test]
fn an_attempt_in_doubt_may_be_passed_over_where_that_is_the_policy() {
    let mut history = good();
    history.journal.push(line("in_doubt", Some("two"), 2_120));
    history.accepted.remove(1);
    assert_eq!(kinds_under(&history, InDoubt::Skip), []);
    assert_eq!(kinds_under(&history, InDoubt::Hold), [Kind::Missing]);
    assert_eq!(kinds_under(&history, InDoubt::Resend), [Kind::Missing]);
}

#[test]
fn an_email_before_its_turn_is_found() {
    let mut history = in_doubt(1);
    history.journal.push(line("sending", Some("three"), 3_100));
    history.accepted.push(email("three", 1, 3_200));
    assert_eq!(kinds(&history), [Kind::Ahead]);
    // Parked before its second email, which yet went out.
    let mut history = in_doubt(1);
    history.journal.retain(|line| line.event != "in_doubt");
    history.journal.push(line("parked", Some("two"), 2_000));
    history.documents[0].enrollments[0].status = "PARKED".to_owned();
    assert_eq!(kinds(&history), [Kind::Ahead, Kind::Parked]);
}

#[test]
fn emails_in_another_order_are_found() {
    let mut history = good();
    history.accepted[1].at = 3_200;
    history.accepted[2].at = 2_995;
    history.journal.iter_mut().for_each(|line| line.timestamp = line.timestamp.min(2_000));
    assert_eq!(kinds(&history), [Kind::OutOfOrder]);
}

#[test]
fn an_email_sooner_than_its_delay_is_found() {
    let mut history = good();
    history.accepted[1].at = 1_900;
    history.journal.iter_mut().for_each(|line| line.timestamp = line.timestamp.min(1_890));
    assert_eq!(kinds(&history), [Kind::TooEarly]);
}

#[test]
fn an_email_after_a_suppression_is_found_but_not_within_the_grace() {
    let mut history = good();
    history.suppressions.push(Suppression { address: JANE.to_owned(), cause: Cause::Operator, acknowledged: 2_300 });
    history.accepted[2].at = 3_300;
    assert_eq!(kinds(&history), []);
    history.accepted[2].at = 3_301;
    assert_eq!(kinds(&history), [Kind::AfterSuppression]);
    history.suppressions[0].address = "joe@example.com".to_owned();
    assert_eq!(kinds(&history), []);
}

#[test]
fn an_email_to_one_who_never_came_is_found() {
    let mut history = good();
    history.accepted.push(Accepted { to: "joe@example.com".into(), ..email("one", 7, 1_000) });
    assert_eq!(kinds(&history), [Kind::Stray]);
    let mut history = good();
    history.submissions.clear();
    assert_eq!(kinds(&history), [Kind::Stray; 4], "the document and each email");
}

#[test]
fn an_email_of_no_enrolment_is_found() {
    let mut history = good();
    history.accepted.push(email("one", 7, 1_000));
    assert_eq!(kinds(&history), [Kind::Stray]);
}

#[test]
fn an_email_without_an_intent_before_it_is_found() {
    let mut history = good();
    history.journal.retain(|line| line.event != "sending" || line.step.as_deref() != Some("two"));
    assert_eq!(kinds(&history), [Kind::NoIntent]);
    let mut history = good();
    history.accepted[0].at = 900;
    assert_eq!(kinds(&history), [Kind::NoIntent]);
}

#[test]
fn a_state_that_the_journal_does_not_know_is_found() {
    let mut history = good();
    history.journal.retain(|line| line.event != "completed");
    assert_eq!(kinds(&history), [Kind::NotInJournal]);
}

#[test]
fn what_is_rejected_stuck_or_odd_is_found() {
    let mut history = good();
    let rejected = Rejected { subject: "rejected.not_json".into(), reason: "no".into(), payload: "{}".into() };
    history.rejected.push(rejected);
    history.stuck.push("jane@example.com is ACTIVE".to_owned());
    history.odd.push("engine-0 ended with 1".to_owned());
    assert_eq!(kinds(&history), [Kind::Rejected, Kind::Stuck, Kind::Odd]);
}

#[test]
fn a_stopped_enrolment_may_have_sent_its_open_step_and_none_after_it() {
    let mut history = in_doubt(1);
    history.documents[0].suppressed = Some("asked by phone".to_owned());
    history.documents[0].enrollments[0].status = "STOPPED".to_owned();
    assert_eq!(kinds(&history), []);
    history.journal.push(line("sending", Some("three"), 3_000));
    history.accepted.push(email("three", 1, 3_200));
    assert_eq!(kinds(&history), [Kind::Ahead]);
}

#[test]
fn a_story_tells_everything_of_one_lead_in_order() {
    let mut history = good();
    history.deeds.push(crate::history::Done {
        from: 2_000,
        to: 2_050,
        hinders: Some(Hindered::StoodStill),
        what: "kill engine 1".to_owned(),
    });
    history.deeds.push(crate::history::Done { from: 9_000, to: 9_050, hinders: None, what: "kill gateway".to_owned() });
    let told = story(&history, JANE);
    let lines: Vec<_> = told.lines().map(|line| line.trim().split_once(' ').unwrap()).collect();
    assert!(lines.windows(2).all(|pair| pair[0].0.parse::<u64>().unwrap() <= pair[1].0.parse().unwrap()), "{told}");
    assert!(told.contains("202 for jane-1") && told.contains("accepted `three`") && told.contains("kill engine 1"));
    assert!(!told.contains("kill gateway"), "that was later: {told}");
}
