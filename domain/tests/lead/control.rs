//! What an operator's hand makes of a lead.
use std::collections::HashMap;
use std::time::Duration;

use super::world::{self, DAY, START, World, accepted, sequence, suppressed, timer};
use dripline_domain::{
    Address, Arrival, Context, Effect, Event, Lead, LeadIdKey, LeadStatus, Operator, OperatorAction, OperatorError,
    Outcome, Profile, Reentry, Refusal, RequestId, Sequence, SmolStr, State, StepEvent, StopReason, Suppression,
    SuppressionCause, Timestamp, Transition, What, erase,
};
use proptest::prelude::*;

fn operator() -> Operator {
    Operator::new("ann", "asked by phone").unwrap()
}

/// Each call is another request.
fn operate(world: &mut World, action: OperatorAction<'_>) -> Result<Transition, Refusal> {
    world.arrivals += 1;
    let request = RequestId::parse(&format!("request-{}", world.arrivals)).unwrap();
    operate_as(world, action, &request)
}

fn operate_as(world: &mut World, action: OperatorAction<'_>, request: &RequestId) -> Result<Transition, Refusal> {
    world.apply(Event::Operator { action, operator: &operator(), request })
}

fn enrolling<'a>(sequence: &'a Sequence, suppression: &Suppression) -> OperatorAction<'a> {
    let address = Address::parse("jane@example.com").unwrap();
    OperatorAction::Enroll {
        lead_id: LeadIdKey::new("key").lead_id(&address),
        arrival: Box::new(Arrival { address, profile: Profile::default(), sequence: None }),
        sequence,
        suppression: suppression.clone(),
    }
}

fn second_version() -> Sequence {
    let mut second = sequence(Reentry::Ignore);
    second.version = 2;
    second.steps.swap(1, 2);
    second
}

#[derive(Debug, Clone, Copy)]
enum Do {
    Pause,
    Resume,
    Move,
    Migrate,
    Restart,
    Stop,
    Enroll,
    ResolveSent,
    ResolveNotSent,
}

fn act(world: &mut World, action: Do) -> Result<Transition, Refusal> {
    let (first, second, bucket) = (sequence(Reentry::Ignore), second_version(), world.bucket.clone());
    let action = match action {
        Do::Pause => OperatorAction::Pause,
        Do::Resume => OperatorAction::Resume,
        Do::Move => OperatorAction::Move { to: &first, step: "case", at: None },
        Do::Migrate => OperatorAction::Migrate { from: &first, to: &second },
        Do::Restart => OperatorAction::Restart { sequence: &first, suppression: bucket },
        Do::Stop => OperatorAction::Stop { sequence: Some("nurture") },
        Do::Enroll => enrolling(&first, &bucket),
        Do::ResolveSent => OperatorAction::Resolve { sequence: &first, sent: true },
        Do::ResolveNotSent => OperatorAction::Resolve { sequence: &first, sent: false },
    };
    operate(world, action)
}

/// The name of a state and how to get there; then for each action the lead's status and the newest enrolment's.
type Row = (&'static str, fn(&mut World), [(Do, Result<(LeadStatus, &'static str), Refusal>); 9]);

#[test]
fn every_state_answers_every_action_of_an_operator() {
    use LeadStatus::{Active, Completed, InDoubt, New, Parked, Paused, Sending, Unsubscribed};
    use Refusal::{AlreadyEnrolled, AttemptOpen, Ended, MustNotBeMailed, NoSuchAttempt, NotInSequence, NotPaused};

    let in_doubt: fn(&mut World) = |world| {
        world.begin().unwrap();
        world.step(StepEvent::AnswerLost).unwrap();
    };
    let completed: fn(&mut World) = |world| {
        for _ in 0..3 {
            world.now = world.now.plus(3 * DAY);
            world.begin().unwrap();
            world.answer(accepted()).unwrap();
        }
    };
    let unsubscribed: fn(&mut World) = |world| {
        world.bucket.merge(&suppressed(SuppressionCause::Unsubscribe, world.now));
        world.apply(Event::Suppressed(world.bucket.clone())).unwrap();
    };
    let rows: [Row; 7] = [
        (
            "waiting",
            |_| {},
            [
                (Do::Pause, Ok((Paused, "WAITING"))),
                (Do::Resume, Err(NotPaused)),
                (Do::Move, Ok((Active, "WAITING"))),
                (Do::Migrate, Ok((New, "WAITING"))),
                (Do::Restart, Ok((New, "WAITING"))),
                (Do::Stop, Ok((Completed, "STOPPED"))),
                (Do::Enroll, Err(AlreadyEnrolled)),
                (Do::ResolveSent, Err(NoSuchAttempt)),
                (Do::ResolveNotSent, Err(NoSuchAttempt)),
            ],
        ),
        (
            "sending",
            |world| drop(world.begin().unwrap()),
            [
                (Do::Pause, Ok((Sending, "SENDING"))),
                (Do::Resume, Err(NotPaused)),
                (Do::Move, Err(AttemptOpen)),
                (Do::Migrate, Err(AttemptOpen)),
                (Do::Restart, Ok((New, "WAITING"))),
                (Do::Stop, Ok((Completed, "STOPPED"))),
                (Do::Enroll, Err(AlreadyEnrolled)),
                (Do::ResolveSent, Err(NoSuchAttempt)),
                (Do::ResolveNotSent, Err(NoSuchAttempt)),
            ],
        ),
        (
            "in doubt",
            in_doubt,
            [
                (Do::Pause, Ok((InDoubt, "IN_DOUBT"))),
                (Do::Resume, Err(NotPaused)),
                (Do::Move, Err(AttemptOpen)),
                (Do::Migrate, Err(AttemptOpen)),
                (Do::Restart, Ok((New, "WAITING"))),
                (Do::Stop, Ok((Completed, "STOPPED"))),
                (Do::Enroll, Err(AlreadyEnrolled)),
                (Do::ResolveSent, Ok((Active, "WAITING"))),
                (Do::ResolveNotSent, Ok((New, "WAITING"))),
            ],
        ),
        (
            "parked",
            |world| drop(world.step(StepEvent::Fail("why".to_owned())).unwrap()),
            [
                (Do::Pause, Ok((Parked, "PARKED"))),
                (Do::Resume, Ok((New, "WAITING"))),
                (Do::Move, Ok((Active, "WAITING"))),
                (Do::Migrate, Ok((Parked, "PARKED"))),
                (Do::Restart, Ok((New, "WAITING"))),
                (Do::Stop, Ok((Completed, "STOPPED"))),
                (Do::Enroll, Err(AlreadyEnrolled)),
                (Do::ResolveSent, Err(NoSuchAttempt)),
                (Do::ResolveNotSent, Err(NoSuchAttempt)),
            ],
        ),
        (
            "completed",
            completed,
            [
                (Do::Pause, Ok((Paused, "COMPLETED"))),
                (Do::Resume, Err(NotPaused)),
                (Do::Move, Err(Ended)),
                (Do::Migrate, Err(NotInSequence)),
                (Do::Restart, Ok((Active, "WAITING"))),
                (Do::Stop, Err(Ended)),
                (Do::Enroll, Err(AlreadyEnrolled)),
                (Do::ResolveSent, Err(NoSuchAttempt)),
                (Do::ResolveNotSent, Err(NoSuchAttempt)),
            ],
        ),
        (
            "suppressed",
            unsubscribed,
            [
                (Do::Pause, Ok((Unsubscribed, "STOPPED"))),
                (Do::Resume, Err(NotPaused)),
                (Do::Move, Err(Ended)),
                (Do::Migrate, Err(NotInSequence)),
                (Do::Restart, Err(MustNotBeMailed)),
                (Do::Stop, Err(Ended)),
                (Do::Enroll, Err(MustNotBeMailed)),
                (Do::ResolveSent, Err(NoSuchAttempt)),
                (Do::ResolveNotSent, Err(NoSuchAttempt)),
            ],
        ),
        (
            "stopped with an attempt in doubt",
            |world| {
                world.begin().unwrap();
                world.step(StepEvent::AnswerLost).unwrap();
                act(world, Do::Stop).unwrap();
            },
            [
                (Do::Pause, Ok((Paused, "STOPPED"))),
                (Do::Resume, Err(NotPaused)),
                (Do::Move, Err(Ended)),
                (Do::Migrate, Err(NotInSequence)),
                (Do::Restart, Ok((New, "WAITING"))),
                (Do::Stop, Err(Ended)),
                (Do::Enroll, Err(AlreadyEnrolled)),
                (Do::ResolveSent, Ok((Completed, "STOPPED"))),
                (Do::ResolveNotSent, Ok((Completed, "STOPPED"))),
            ],
        ),
    ];
    for (name, arrange, actions) in rows {
        for (action, expected) in actions {
            let mut world = World::enrolled(Reentry::Ignore);
            arrange(&mut world);
            let before = world.lead.clone();
            let done = act(&mut world, action);
            let found = done.as_ref().map(|decided| (decided.lead.status(), world.state().name()));
            assert_eq!(found.map_err(|refusal| *refusal), expected, "{name} × {action:?}");
            let Ok(decided) = done else {
                assert_eq!(world.lead, before, "{name} × {action:?}: a refusal changes nothing");
                continue;
            };
            // Who and why is on record, and the timer is what the lead waits for now.
            assert!(decided.journal.iter().all(|entry| entry.by.as_deref() == Some("ann")), "{decided:?}");
            assert!(
                decided
                    .journal
                    .iter()
                    .any(|entry| entry.reason.as_deref().is_some_and(|reason| reason.ends_with("asked by phone"))),
                "{name} × {action:?}: {decided:?}"
            );
            if decided.lead.generation != before.unwrap().generation {
                assert_eq!(timer(&decided).map(|(at, _)| at), decided.lead.next_action(), "{name} × {action:?}");
            }
            assert_eq!(Lead::from_json(&decided.lead.to_json().unwrap()).unwrap(), decided.lead);
        }
    }
}

#[test]
fn a_lead_without_a_document_can_only_be_enrolled() {
    for action in [Do::Pause, Do::Resume, Do::Move, Do::Migrate, Do::Restart, Do::Stop, Do::ResolveSent] {
        let mut world = World::new(Reentry::Ignore);
        assert_eq!(act(&mut world, action), Err(Refusal::NoSuchLead), "{action:?}");
    }
    let mut world = World::new(Reentry::Ignore);
    let decided = act(&mut world, Do::Enroll).unwrap();
    assert_eq!((decided.lead.status(), timer(&decided).unwrap().0), (LeadStatus::New, START));
}

#[test]
fn a_request_that_is_repeated_changes_nothing_and_the_newest_sixteen_are_known() {
    let mut world = World::enrolled(Reentry::Ignore);
    let request = |number: usize| RequestId::parse(&format!("r-{number}")).unwrap();
    let at = |world: &World| world.now.plus(DAY);
    let to = sequence(Reentry::Ignore);
    for number in 0..20 {
        let action = OperatorAction::Move { to: &to, step: "tips", at: Some(at(&world)) };
        operate_as(&mut world, action, &request(number)).unwrap();
    }
    let before = world.lead.clone();
    world.now = world.now.plus(DAY);
    for number in 4..20 {
        let action = OperatorAction::Move { to: &to, step: "case", at: None };
        let decided = operate_as(&mut world, action, &request(number)).unwrap();
        assert_eq!((decided.journal.len(), decided.effects.len()), (0, 0), "r-{number}");
    }
    assert_eq!(world.lead, before);
    let action = OperatorAction::Move { to: &to, step: "case", at: None };
    assert_eq!(operate_as(&mut world, action, &request(3)).unwrap().journal.len(), 1, "forgotten by now");
}

#[test]
fn a_paused_lead_gets_nothing_and_goes_on_where_it_was() {
    let mut world = World::enrolled(Reentry::Ignore);
    let decided = act(&mut world, Do::Pause).unwrap();
    assert_eq!((decided.effects, decided.lead.next_action()), (vec![], None));
    world.now = world.now.plus(5 * DAY);
    assert_eq!(world.begin(), Err(Refusal::Paused));
    // Paused once more: the first reason stays, and there is nothing to write.
    assert!(act(&mut world, Do::Pause).unwrap().journal.is_empty());
    // What arrives meanwhile waits, too.
    let receipts = world.receipts.clone();
    let decided = world.arrive_in(&receipts, 50).unwrap();
    assert_eq!((timer(&decided), decided.lead.status()), (None, LeadStatus::Paused));
    assert_eq!(decided.lead.enrolments.len(), 2);

    let decided = act(&mut world, Do::Resume).unwrap();
    assert_eq!(timer(&decided).unwrap().0, world.now, "overdue: now, and not before");
    world.begin().unwrap();
    assert_eq!(world.lead.as_ref().unwrap().paused, None);
}

#[test]
fn a_pause_while_an_email_is_under_way_holds_back_the_next() {
    let mut world = World::enrolled(Reentry::Ignore);
    world.begin().unwrap();
    act(&mut world, Do::Pause).unwrap();
    let decided = world.answer(accepted()).unwrap();
    assert_eq!((decided.lead.status(), decided.lead.next_action()), (LeadStatus::Paused, None));
    let due = world.now.plus(2 * DAY);
    let decided = act(&mut world, Do::Resume).unwrap();
    assert_eq!(timer(&decided).unwrap().0, due, "a short pause changes no time");
}

#[test]
fn what_was_parked_after_failures_is_tried_anew_and_not_where_the_email_is_known_to_be_out() {
    let mut world = World::enrolled(Reentry::Ignore);
    world.begin().unwrap();
    world.answer(Outcome::Refused { reason: "no".to_owned() }).unwrap();
    let State::Parked { attempts: 1, .. } = world.state() else { panic!("{:?}", world.state()) };
    act(&mut world, Do::Resume).unwrap();
    let decided = world.begin().unwrap();
    assert!(matches!(&decided.effects[..], [Effect::Send(attempt)] if attempt.number == 2), "{decided:?}");
}

fn key_of(decided: &Transition) -> SmolStr {
    match &decided.effects[..] {
        [Effect::Send(attempt)] => attempt.send_key.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lead_that_was_erased_and_comes_again_has_send_keys_of_its_own() {
    let mut world = World::enrolled(Reentry::Ignore);
    let first = key_of(&world.begin().unwrap());
    world.lead = None;
    world.now = START.plus(Duration::from_secs(1));
    world.arrive().unwrap();
    let decided = world.begin().unwrap();
    assert_eq!(decided.lead.enrolments[0].number, 1);
    assert_ne!(key_of(&decided), first);
}

#[test]
fn a_move_goes_on_under_send_keys_of_its_own() {
    let mut world = World::enrolled(Reentry::Ignore);
    let first = key_of(&world.begin().unwrap());
    world.answer(accepted()).unwrap();
    let to = sequence(Reentry::Ignore);
    let decided = operate(&mut world, OperatorAction::Move { to: &to, step: "welcome", at: None }).unwrap();
    let lead = &decided.lead;
    assert!(matches!(&lead.enrolments[0].state, State::Stopped { reason: StopReason::Moved, before: None }));
    assert_eq!((lead.enrolments[1].step, lead.enrolments[1].number, lead.enrolments[1].began), (0, 2, START));
    assert_ne!(key_of(&world.begin().unwrap()), first);

    // At a time of one's own, not in the past; and to a step that there is.
    let mut world = World::enrolled(Reentry::Ignore);
    for (at, due) in [(START.plus(DAY), START.plus(DAY)), (Timestamp::from_millis(1), START)] {
        let action = OperatorAction::Move { to: &to, step: "case", at: Some(at) };
        assert_eq!(timer(&operate(&mut world, action).unwrap()).unwrap().0, due);
    }
    let nowhere = OperatorAction::Move { to: &to, step: "nowhere", at: None };
    assert_eq!(operate(&mut world, nowhere), Err(Refusal::NoSuchStep));
    let receipts = world.receipts.clone();
    let elsewhere = OperatorAction::Move { to: &receipts, step: "tips", at: None };
    assert_eq!(operate(&mut world, elsewhere), Err(Refusal::NotInSequence));
}

#[test]
fn a_migration_goes_on_at_the_same_step_and_time_in_the_other_version() {
    let mut world = World::enrolled(Reentry::Ignore);
    world.begin().unwrap();
    world.answer(accepted()).unwrap();
    let due = world.lead.as_ref().unwrap().next_action();
    let decided = act(&mut world, Do::Migrate).unwrap();
    let newest = decided.lead.enrolments.last().unwrap();
    // The second version has its second and third step swapped.
    assert_eq!((newest.sequence.version, newest.step, decided.lead.next_action()), (2, 2, due));
    let entry = decided.journal.last().unwrap();
    assert_eq!((entry.event, entry.version, entry.step.as_deref()), (What::Moved, Some(2), Some("tips")));
    assert_eq!(act(&mut world, Do::Migrate), Err(Refusal::NotInSequence), "nothing is on the first version now");

    let mut world = World::enrolled(Reentry::Ignore);
    let (from, mut to) = (sequence(Reentry::Ignore), second_version());
    to.steps.remove(0);
    assert_eq!(operate(&mut world, OperatorAction::Migrate { from: &from, to: &to }), Err(Refusal::NoSuchStep));
    // A step that was tried, and failed for now, has send keys that a provider may know.
    world.begin().unwrap();
    world.answer(Outcome::Transient { reason: "busy".to_owned() }).unwrap();
    assert_eq!(act(&mut world, Do::Migrate), Err(Refusal::AttemptOpen));
}

#[test]
fn an_attempt_in_doubt_is_settled_by_hand() {
    for (sent, step, events) in
        [(true, 1, vec![What::Resolved, What::Sent]), (false, 0, vec![What::Resolved, What::Retrying])]
    {
        let mut world = World::enrolled(Reentry::Ignore);
        world.begin().unwrap();
        world.step(StepEvent::AnswerLost).unwrap();
        let first = sequence(Reentry::Ignore);
        let decided = operate(&mut world, OperatorAction::Resolve { sequence: &first, sent }).unwrap();
        assert_eq!(decided.lead.enrolments[0].step, step);
        assert_eq!(decided.journal.iter().map(|entry| entry.event).collect::<Vec<_>>(), events);
    }
}

#[test]
fn an_erasure_waits_for_an_email_that_is_under_way_and_for_nothing_else() {
    let erased = |world: &World| {
        let context: Context = world.context();
        erase(world.lead.as_ref().unwrap(), &operator(), &context).map(|entry| entry.event)
    };
    let mut world = World::enrolled(Reentry::Ignore);
    assert_eq!(erased(&world), Ok(What::Erased));
    world.begin().unwrap();
    assert_eq!(erased(&world), Err(Refusal::AttemptOpen));
    act(&mut world, Do::Stop).unwrap();
    assert_eq!(erased(&world), Err(Refusal::AttemptOpen), "stopped, and the answer is yet to come");
    let mut world = World::enrolled(Reentry::Ignore);
    world.begin().unwrap();
    world.step(StepEvent::AnswerLost).unwrap();
    assert_eq!(erased(&world), Ok(What::Erased));
}

#[test]
fn who_and_why_are_a_line_each_and_a_request_is_named_in_a_word() {
    for (by, reason, wrong) in [
        ("", "why", OperatorError::Missing("by")),
        ("ann", " ", OperatorError::Missing("reason")),
        ("ann", "two\nlines", OperatorError::NotALine("reason")),
        (&"x".repeat(101), "why", OperatorError::TooLong { field: "by", limit: 100 }),
    ] {
        assert_eq!(Operator::new(by, reason), Err(wrong));
    }
    for text in ["", "a b", "ä", &"x".repeat(65)] {
        assert_eq!(RequestId::parse(text), Err(OperatorError::RequestId), "{text}");
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Pause,
    Resume,
    Begin,
    Answer(Outcome),
    AnswerLost,
    NotSent,
    TimePasses(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let reason = || "why".to_owned();
    prop_oneof![
        3 => Just(Happening::Pause),
        3 => Just(Happening::Resume),
        6 => Just(Happening::Begin),
        4 => Just(Happening::Answer(accepted())),
        1 => Just(Happening::Answer(Outcome::Transient { reason: reason() })),
        1 => Just(Happening::Answer(Outcome::Refused { reason: reason() })),
        1 => Just(Happening::AnswerLost),
        1 => Just(Happening::NotSent),
        6 => (0_u64..4 * 86_400).prop_map(Happening::TimePasses),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn pauses_at_random_neither_lose_nor_repeat_a_step(
        happenings in proptest::collection::vec(happening(), 1..120),
    ) {
        let mut world = World::enrolled(Reentry::Ignore);
        let mut taken: HashMap<SmolStr, usize> = HashMap::new();
        let mut steps = Vec::new();
        let mut last = None;
        let mut happen = |world: &mut World, happening: Happening| {
            let before = world.lead.clone().unwrap();
            let is_answer = matches!(&happening, Happening::Answer(Outcome::Accepted { .. }));
            let decided = match happening {
                Happening::Pause => act(world, Do::Pause),
                Happening::Resume => act(world, Do::Resume),
                Happening::Begin => world.begin(),
                Happening::Answer(outcome) => world.answer(outcome),
                Happening::AnswerLost => world.step(StepEvent::AnswerLost),
                Happening::NotSent => world.step(StepEvent::NotSent),
                Happening::TimePasses(seconds) => {
                    world.now = world.now.plus(Duration::from_secs(seconds));
                    return;
                }
            };
            let Ok(decided) = decided else { return };
            for effect in &decided.effects {
                if let Effect::Send(attempt) = effect {
                    assert!(before.paused.is_none(), "nothing is sent while it is held back");
                    assert!(!taken.contains_key(&attempt.send_key), "nothing that was taken is sent again");
                }
            }
            if is_answer && let Some(attempt) = before.enrolments[0].state.open_attempt() {
                taken.insert(attempt.send_key.clone(), before.enrolments[0].step);
                steps.push(before.enrolments[0].step);
                let gap = [Duration::ZERO, 2 * DAY, 3 * DAY][before.enrolments[0].step];
                assert!(last.is_none_or(|last: Timestamp| world.now >= last.plus(gap)), "each after its delay");
                last = Some(world.now);
            }
            let after = &decided.lead;
            if after.generation != before.generation {
                assert_eq!(world::timer(&decided).map(|(at, _)| at), after.next_action(), "it has its timer");
            }
        };
        for it in happenings {
            happen(&mut world, it);
        }
        // Left alone and resumed, it gets all that is still to come.
        for _ in 0..8 {
            for it in [
                Happening::NotSent, Happening::AnswerLost, Happening::NotSent, Happening::Resume,
                Happening::TimePasses(4 * 86_400), Happening::Begin, Happening::Answer(accepted()),
            ] {
                happen(&mut world, it);
            }
        }
        prop_assert_eq!(steps, vec![0, 1, 2]);
        prop_assert_eq!(world.state(), &State::Completed);
    }
}
