//! What becomes of an attempt whose answer was lost.
use std::time::Duration;

use super::world::{DAY, START, World, accepted, timer};
use dripline_domain::{DoubtEnd, DoubtPolicy, Effect, Outcome, Profile, Reentry, State, StepEvent, What};

const WAIT: Duration = Duration::from_hours(1);

/// A world in which the first attempt is in doubt since [`START`].
fn in_doubt(then: DoubtEnd) -> World {
    let mut world = World::enrolled(Reentry::Ignore);
    world.doubt = DoubtPolicy { wait: WAIT, then };
    world.begin().unwrap();
    let decided = world.step(StepEvent::AnswerLost).unwrap();
    assert_eq!(timer(&decided).unwrap().0, START, "it is looked into at once");
    world
}

fn unresolved(ask_again: bool) -> StepEvent {
    StepEvent::Unresolved { reason: "no answer".to_owned(), ask_again }
}

/// The events in the lead's history, in order.
fn history(world: &World) -> Vec<What> {
    world.lead.as_ref().unwrap().history.iter().map(|entry| entry.event).collect()
}

#[test]
fn what_the_provider_says_settles_it_and_is_in_the_history() {
    let mut world = in_doubt(DoubtEnd::Hold);
    world.answer(accepted()).unwrap();
    assert_eq!(history(&world), [What::Enrolled, What::InDoubt, What::Resolved, What::Sent]);
    let State::Waiting { due, attempts: 0, .. } = world.state() else { panic!("{:?}", world.state()) };
    assert_eq!(*due, START.plus(2 * DAY), "the next step");

    let mut world = in_doubt(DoubtEnd::Hold);
    world.step(StepEvent::NotSent).unwrap();
    assert_eq!(history(&world), [What::Enrolled, What::InDoubt, What::Resolved, What::Retrying]);
    let decided = world.begin().unwrap();
    assert!(matches!(&decided.effects[..], [Effect::Send(attempt)] if attempt.number == 2), "{decided:?}");

    let mut world = in_doubt(DoubtEnd::Hold);
    world.answer(Outcome::Refused { reason: "no such mailbox".to_owned() }).unwrap();
    assert_eq!(history(&world), [What::Enrolled, What::InDoubt, What::Resolved, What::Parked]);
}

#[test]
fn it_is_asked_for_again_ever_more_rarely_until_its_time_is_over() {
    let mut world = in_doubt(DoubtEnd::Hold);
    let mut pauses = Vec::new();
    while world.state().next_action().is_some() && pauses.len() < 100 {
        let decided = world.step(unresolved(true)).unwrap();
        if let Some((next, _)) = timer(&decided) {
            pauses.push(next.since(world.now));
            world.now = next;
        }
    }
    assert!(pauses.len() < 20, "{pauses:?}");
    assert!(pauses.windows(2).take(5).all(|pair| pair[0] <= pair[1]), "{pauses:?}");
    assert_eq!(world.now, START.plus(WAIT), "asked once more at the end");
    assert_eq!(world.state().name(), "IN_DOUBT", "held");
    // The many questions are in the journal, not in the document.
    assert_eq!(history(&world), [What::Enrolled, What::InDoubt, What::Resolved, What::InDoubt]);
}

#[test]
fn where_only_a_webhook_can_tell_it_waits_for_one_as_long_as_configured() {
    let mut world = in_doubt(DoubtEnd::Skip);
    let decided = world.step(unresolved(false)).unwrap();
    assert_eq!(timer(&decided).unwrap().0, START.plus(WAIT));
    world.answer(accepted()).unwrap();
    assert_eq!(history(&world), [What::Enrolled, What::InDoubt, What::Resolved, What::Sent]);
}

#[test]
fn what_nobody_can_find_out_is_settled_as_configured() {
    for (then, state, step, events) in [
        (DoubtEnd::Resend, "WAITING", 0, &[What::Resolved, What::Retrying][..]),
        (DoubtEnd::Skip, "WAITING", 1, &[What::Resolved]),
        (DoubtEnd::Hold, "IN_DOUBT", 0, &[What::Resolved, What::InDoubt]),
    ] {
        let mut world = in_doubt(then);
        world.now = START.plus(WAIT);
        let decided = world.step(unresolved(false)).unwrap();
        assert_eq!(world.state().name(), state, "{then:?}");
        assert_eq!(decided.lead.enrolments[0].step, step, "{then:?}");
        assert_eq!(history(&world)[2..], *events, "{then:?}");
        let reason = decided.lead.history[2].reason.as_deref().unwrap();
        assert!(reason.contains("no answer") && reason.contains("as configured"), "{reason}");
    }
}

#[test]
fn a_held_one_still_takes_its_answer() {
    let mut world = in_doubt(DoubtEnd::Hold);
    world.now = START.plus(WAIT);
    world.step(unresolved(false)).unwrap();
    assert_eq!(world.state().next_action(), None);
    world.answer(accepted()).unwrap();
    assert_eq!(world.state().name(), "WAITING");
}

#[test]
fn an_open_attempt_keeps_the_profile_its_email_was_rendered_with() {
    let mut world = in_doubt(DoubtEnd::Hold);
    let kept = |world: &World| match world.state() {
        State::InDoubt { attempt, .. } => {
            attempt.profile.as_deref().and_then(|profile: &Profile| profile.first_name.clone())
        }
        state => panic!("{state:?}"),
    };
    assert_eq!(kept(&world), None, "the lead's own");
    for _ in 0..2 {
        world.arrive().unwrap();
        assert_eq!(kept(&world).as_deref(), Some("Jane 1"));
    }
    assert_eq!(world.lead.as_ref().unwrap().profile.first_name.as_deref(), Some("Jane 3"));
}
