//! Tables of transitions: what each state makes of each event.
use std::time::Duration;

use super::world::{self, DAY, START, World, accepted, suppressed, timer};
use dripline_domain::{
    Effect, LeadStatus, Outcome, Reentry, Refusal, RetryPolicy, State, StepEvent, SuppressionCause, Timestamp, What,
};

fn reason(text: &str) -> String {
    text.to_owned()
}

fn answered(number: u32) -> StepEvent {
    StepEvent::Answered { send_key: "none".into(), attempt: number, outcome: accepted() }
}

#[test]
fn a_new_lead_waits_for_its_first_email_and_has_a_timer_for_it() {
    let mut world = World::new(Reentry::Ignore);
    let decided = world.arrive().unwrap();
    assert_eq!(world.lead.as_ref().unwrap().status(), LeadStatus::New);
    assert_eq!(timer(&decided), Some((START, 1)));
    assert_eq!(decided.journal.iter().map(|entry| entry.event).collect::<Vec<_>>(), [What::Enrolled]);
}

#[test]
fn a_lead_walks_through_its_sequence_at_the_pace_of_its_actual_sends() {
    let mut world = World::enrolled(Reentry::Ignore);
    for (step, delay) in [(0, 2 * DAY), (1, 3 * DAY)] {
        // A late start: an outage of five hours.
        world.now = world.now.plus(Duration::from_hours(5));
        let decided = world.begin().unwrap();
        assert!(matches!(&decided.effects[..], [Effect::Send(attempt)] if attempt.number == 1), "{decided:?}");
        let decided = world.answer(accepted()).unwrap();
        assert_eq!(timer(&decided).unwrap().0, world.now.plus(delay), "after step {step}");
        assert_eq!(world.lead.as_ref().unwrap().status(), LeadStatus::Active);
        world.now = world.now.plus(delay);
    }
    world.begin().unwrap();
    let decided = world.answer(accepted()).unwrap();
    assert_eq!(*world.state(), State::Completed);
    assert_eq!(world.lead.as_ref().unwrap().status(), LeadStatus::Completed);
    assert_eq!(timer(&decided), None);
}

/// The state's name, how to get there, the event, and the status it leads to.
type Row = (&'static str, fn(&mut World), StepEvent, Result<&'static str, Refusal>);

#[test]
fn every_state_answers_every_step_event() {
    let waiting: fn(&mut World) = |_| {};
    let sending: fn(&mut World) = |world| drop(world.begin().unwrap());
    let in_doubt: fn(&mut World) = |world| {
        world.begin().unwrap();
        world.step(StepEvent::AnswerLost).unwrap();
    };
    let parked: fn(&mut World) = |world| drop(world.step(StepEvent::Fail(reason("why"))).unwrap());
    let stopped: fn(&mut World) = |world| drop(world.suppress().unwrap());
    let completed: fn(&mut World) = |world| {
        for _ in 0..3 {
            world.begin().unwrap();
            world.answer(accepted()).unwrap();
            world.now = world.now.plus(9 * DAY);
        }
    };
    let fail = || StepEvent::Fail(reason("why"));
    let unresolved = || StepEvent::Unresolved { reason: reason("no answer"), ask_again: true };
    let table: Vec<Row> = vec![
        ("waiting", waiting, world::begin(), Ok("SENDING")),
        ("waiting", waiting, answered(1), Err(Refusal::NoSuchAttempt)),
        ("waiting", waiting, StepEvent::AnswerLost, Err(Refusal::NoSuchAttempt)),
        ("waiting", waiting, StepEvent::NotSent, Err(Refusal::NoSuchAttempt)),
        ("waiting", waiting, unresolved(), Err(Refusal::NoSuchAttempt)),
        ("waiting", waiting, fail(), Ok("PARKED")),
        ("sending", sending, world::begin(), Err(Refusal::AttemptOpen)),
        ("sending", sending, answered(1), Err(Refusal::NoSuchAttempt)),
        ("sending", sending, StepEvent::AnswerLost, Ok("IN_DOUBT")),
        ("sending", sending, StepEvent::NotSent, Err(Refusal::AttemptOpen)),
        ("sending", sending, unresolved(), Err(Refusal::AttemptOpen)),
        ("sending", sending, fail(), Ok("IN_DOUBT")),
        ("in doubt", in_doubt, world::begin(), Err(Refusal::AttemptOpen)),
        ("in doubt", in_doubt, answered(1), Err(Refusal::NoSuchAttempt)),
        ("in doubt", in_doubt, StepEvent::AnswerLost, Err(Refusal::AttemptOpen)),
        ("in doubt", in_doubt, StepEvent::NotSent, Ok("WAITING")),
        ("in doubt", in_doubt, unresolved(), Ok("IN_DOUBT")),
        ("in doubt", in_doubt, fail(), Ok("IN_DOUBT")),
        ("parked", parked, world::begin(), Err(Refusal::Ended)),
        ("parked", parked, answered(1), Err(Refusal::Ended)),
        ("parked", parked, StepEvent::AnswerLost, Err(Refusal::Ended)),
        ("parked", parked, StepEvent::NotSent, Err(Refusal::Ended)),
        ("parked", parked, unresolved(), Err(Refusal::Ended)),
        ("parked", parked, fail(), Err(Refusal::Ended)),
        ("stopped", stopped, world::begin(), Err(Refusal::Ended)),
        ("stopped", stopped, answered(1), Err(Refusal::Ended)),
        ("stopped", stopped, StepEvent::AnswerLost, Err(Refusal::Ended)),
        ("stopped", stopped, StepEvent::NotSent, Err(Refusal::Ended)),
        ("stopped", stopped, unresolved(), Err(Refusal::Ended)),
        ("stopped", stopped, fail(), Err(Refusal::Ended)),
        ("completed", completed, world::begin(), Err(Refusal::Ended)),
        ("completed", completed, answered(1), Err(Refusal::Ended)),
        ("completed", completed, StepEvent::AnswerLost, Err(Refusal::Ended)),
        ("completed", completed, StepEvent::NotSent, Err(Refusal::Ended)),
        ("completed", completed, unresolved(), Err(Refusal::Ended)),
        ("completed", completed, fail(), Err(Refusal::Ended)),
    ];
    for (name, prepare, event, expected) in table {
        let mut world = World::enrolled(Reentry::Ignore);
        prepare(&mut world);
        let before = world.lead.clone();
        let got = world.step(event.clone()).map(|decided| decided.lead.enrolments[0].state.name());
        assert_eq!(got, expected, "{name}, {event:?}");
        if got.is_err() {
            assert_eq!(world.lead, before, "{name}, {event:?}: a refusal changes nothing");
        }
    }
}

#[test]
fn every_outcome_settles_an_attempt_and_the_one_in_doubt_alike() {
    let until = START.plus(Duration::from_secs(90));
    let first = RetryPolicy::default().first;
    let at = |time: Timestamp| Some(time);
    let table = [
        (accepted(), "WAITING", at(START.plus(2 * DAY))),
        (Outcome::RateLimited { until: Some(until) }, "WAITING", at(until.plus(first / 2))),
        (Outcome::RateLimited { until: None }, "WAITING", at(START.plus(first / 2))),
        (Outcome::Transient { reason: reason("503") }, "WAITING", at(START.plus(first / 2))),
        (Outcome::Misconfigured { reason: reason("key revoked") }, "WAITING", at(START.plus(first / 2))),
        (Outcome::Refused { reason: reason("no such mailbox") }, "PARKED", None),
        (Outcome::Unknown { reason: reason("timed out") }, "IN_DOUBT", at(START)),
    ];
    for in_doubt in [false, true] {
        for (outcome, status, due) in table.clone() {
            let mut world = World::enrolled(Reentry::Ignore);
            world.begin().unwrap();
            if in_doubt {
                world.step(StepEvent::AnswerLost).unwrap();
            }
            let decided = world.answer(outcome.clone()).unwrap();
            assert_eq!(world.state().name(), status, "{outcome:?}");
            assert_eq!(timer(&decided).map(|(at, _)| at), due, "{outcome:?}");
        }
    }
}

#[test]
fn a_step_that_keeps_failing_is_parked_and_a_rate_limit_never_counts() {
    let mut world = World::enrolled(Reentry::Ignore);
    let most = RetryPolicy::default().max_failures;
    for attempt in 1..=most {
        for outcome in [Outcome::RateLimited { until: None }, Outcome::Transient { reason: reason("503") }] {
            world.now = world.now.plus(DAY);
            world.begin().unwrap();
            world.answer(outcome).unwrap();
        }
        let expected = if attempt < most { "WAITING" } else { "PARKED" };
        assert_eq!(world.state().name(), expected, "after {attempt} failures");
    }
}

#[test]
fn the_send_key_is_the_same_on_every_attempt_and_differs_between_steps_and_enrolments() {
    let mut world = World::enrolled(Reentry::Restart);
    let mut keys = Vec::new();
    for outcome in [Outcome::Transient { reason: reason("503") }, accepted(), accepted()] {
        world.now = world.now.plus(9 * DAY);
        let decided = world.begin().unwrap();
        let Some(Effect::Send(attempt)) = decided.effects.first() else { panic!("no send: {decided:?}") };
        keys.push(attempt.send_key.clone());
        world.answer(outcome).unwrap();
    }
    world.arrive().unwrap();
    let decided = world.begin().unwrap();
    let Some(Effect::Send(attempt)) = decided.effects.first() else { panic!("no send: {decided:?}") };
    keys.push(attempt.send_key.clone());
    assert_eq!(keys[0], keys[1], "a retry");
    assert_ne!(keys[1], keys[2], "another step");
    assert_ne!(keys[0], keys[3], "another enrolment");
}

#[test]
fn a_second_arrival_does_what_the_sequence_says() {
    let table = [
        ("ignore", Reentry::Ignore, Duration::ZERO, 1),
        ("restart", Reentry::Restart, Duration::ZERO, 2),
        ("after, too soon", Reentry::After(90 * DAY), 89 * DAY, 1),
        ("after, still under way", Reentry::After(90 * DAY), 91 * DAY, 1),
    ];
    for (name, reentry, later, enrolments) in table {
        let mut world = World::enrolled(reentry);
        world.now = world.now.plus(later);
        world.arrive().unwrap();
        let lead = world.lead.as_ref().unwrap();
        assert_eq!(lead.enrolments.len(), enrolments, "{name}");
        assert_eq!(lead.profile.first_name.as_deref(), Some("Jane 2"), "{name}: the profile is merged");
    }
}

#[test]
fn a_lead_begins_again_after_a_time_once_it_has_finished() {
    let mut world = World::enrolled(Reentry::After(90 * DAY));
    for _ in 0..3 {
        world.begin().unwrap();
        world.answer(accepted()).unwrap();
        world.now = world.now.plus(9 * DAY);
    }
    world.arrive().unwrap();
    assert_eq!(world.lead.as_ref().unwrap().enrolments.len(), 1, "too soon");
    world.now = world.now.plus(90 * DAY);
    world.arrive().unwrap();
    assert_eq!(world.lead.as_ref().unwrap().enrolments.len(), 2);
    assert_eq!(world.state().name(), "WAITING");
}

#[test]
fn an_arrival_that_is_delivered_twice_restarts_once() {
    let mut world = World::enrolled(Reentry::Restart);
    world.arrive_as(2).unwrap();
    let before = world.lead.clone();
    let decided = world.arrive_as(2).unwrap();
    assert!(decided.journal.is_empty(), "nothing to write: {decided:?}");
    assert_eq!(world.lead, before);
}

#[test]
fn a_restart_ends_the_open_attempt_and_its_late_answer_is_still_recorded() {
    let mut world = World::enrolled(Reentry::Restart);
    world.begin().unwrap();
    let first = world.lead.as_ref().unwrap().enrolments[0].clone();
    let State::Sending { attempt, .. } = &first.state else { panic!("{first:?}") };
    let late = StepEvent::Answered { send_key: attempt.send_key.clone(), attempt: 1, outcome: accepted() };
    world.arrive().unwrap();
    let decided = world.step_of(first.id(), late).unwrap();
    assert_eq!(decided.lead.enrolments[0].state.name(), "STOPPED");
    assert!(decided.journal.iter().any(|entry| entry.event == What::Sent), "{decided:?}");
}

#[test]
fn a_suppressed_address_is_never_enrolled_and_its_enrolments_end() {
    let mut world = World::enrolled(Reentry::Restart);
    let decided = world.suppress().unwrap();
    assert_eq!((decided.effects, decided.lead.next_action()), (vec![], None));
    world.arrive().unwrap();
    let lead = world.lead.as_ref().unwrap();
    assert_eq!((lead.status(), lead.enrolments.len()), (LeadStatus::Suppressed, 1));

    let mut world = World::new(Reentry::Ignore);
    world.bucket = suppressed(SuppressionCause::Complaint, START);
    let decided = world.arrive_as(1).unwrap();
    assert_eq!(decided.lead.status(), LeadStatus::Complained);
    assert_eq!(world.lead.as_ref().unwrap().enrolments, []);
    assert_eq!(decided.effects, []);
}

#[test]
fn an_email_is_not_begun_before_its_time() {
    let mut world = World::enrolled(Reentry::Ignore);
    world.begin().unwrap();
    world.answer(accepted()).unwrap();
    assert_eq!(world.begin().unwrap_err(), Refusal::NotDue(START.plus(2 * DAY)));
}

#[test]
fn a_document_reads_as_the_article_has_it() {
    let world = World::enrolled(Reentry::Ignore);
    let json: serde_json::Value = serde_json::from_slice(&world.lead.unwrap().to_json().unwrap()).unwrap();
    assert_eq!(json["email"], "jane@example.com");
    assert_eq!(json["firstName"], "Jane 1");
    assert_eq!(json["status"], "NEW");
    assert_eq!(json["nextActionTimestamp"], START.as_millis());
    assert_eq!(json["createdAt"], START.as_millis());
    assert_eq!(json["enrollments"][0]["sequence"], "nurture");
    assert_eq!(json["enrollments"][0]["step"], 0);
    assert_eq!(json["enrollments"][0]["status"], "WAITING");
    assert_eq!(json["history"][0]["event"], "enrolled");
    assert!(json["leadId"].as_str().unwrap().starts_with("ld_"));
}
