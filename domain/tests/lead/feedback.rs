//! What providers and people tell us, and what it makes of a lead.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::world::{DAY, START, World, accepted, suppressed, timer};
use dripline_domain::{
    Address, Effect, Event, Feedback, FeedbackKind, LeadStatus, Outcome, Reentry, SOFT_BOUNCES_KEPT, SmolStr,
    SoftBounce, State, StepEvent, StopReason, Suppressed, SuppressionCause, Timestamp, What, send_key,
};
use proptest::prelude::*;

const STEPS: [&str; 3] = ["welcome", "tips", "case"];

/// Of the person alone.
fn feedback(kind: FeedbackKind, after: Duration) -> Feedback {
    Feedback {
        provider: "sendgrid".into(),
        id: "e-1".to_owned(),
        kind,
        occurred_at: START.plus(after),
        address: Address::parse("jane@example.com").unwrap(),
        send_key: None,
        sequence: None,
        step: None,
        message_id: None,
        reason: None,
    }
}

/// Of the email of this step of the newest enrolment.
fn of_step(world: &World, kind: FeedbackKind, step: &str) -> Feedback {
    let lead = world.lead.as_ref().unwrap();
    let enrolment = lead.enrolments.last().unwrap();
    Feedback {
        send_key: Some(send_key(&lead.lead_id, enrolment, step)),
        sequence: Some(enrolment.sequence.name.clone()),
        step: Some(step.into()),
        message_id: Some("m-1".into()),
        ..feedback(kind, Duration::ZERO)
    }
}

fn status(world: &World) -> LeadStatus {
    world.lead.as_ref().unwrap().status()
}

fn events(world: &World) -> Vec<What> {
    world.lead.as_ref().unwrap().history.iter().map(|entry| entry.event).collect()
}

/// A world whose first email is out.
fn sent() -> World {
    let mut world = World::enrolled(Reentry::Ignore);
    world.begin().unwrap();
    world.answer(accepted()).unwrap();
    world
}

#[test]
fn what_forbids_mail_ends_the_lead_and_its_timer_and_what_does_not_changes_nothing_of_it() {
    let ends = |kind, status| (kind, status, "STOPPED");
    let table = [
        ends(FeedbackKind::HardBounced, LeadStatus::HardBounce),
        ends(FeedbackKind::Complained, LeadStatus::Complained),
        ends(FeedbackKind::Unsubscribed, LeadStatus::Unsubscribed),
        ends(FeedbackKind::Dropped { because: Some(SuppressionCause::HardBounce) }, LeadStatus::HardBounce),
        (FeedbackKind::Dropped { because: None }, LeadStatus::Active, "WAITING"),
        (FeedbackKind::Accepted, LeadStatus::Active, "WAITING"),
        (FeedbackKind::Delivered, LeadStatus::Active, "WAITING"),
        (FeedbackKind::Opened, LeadStatus::Active, "WAITING"),
        (FeedbackKind::Clicked, LeadStatus::Active, "WAITING"),
        (FeedbackKind::Deferred, LeadStatus::Active, "WAITING"),
        (FeedbackKind::SoftBounced, LeadStatus::Active, "WAITING"),
        (FeedbackKind::Resubscribed, LeadStatus::Active, "WAITING"),
    ];
    for (kind, expected, state) in table {
        let mut world = sent();
        let told = of_step(&world, kind, "welcome");
        let decided = world.tell(&told).unwrap();
        assert_eq!((status(&world), world.state().name()), (expected, state), "{kind:?}");
        assert_eq!(decided.effects, [], "{kind:?}");
        assert_eq!(decided.lead.next_action().is_none(), state == "STOPPED", "{kind:?}");
        if kind != FeedbackKind::Accepted {
            let first = decided.journal.first().unwrap();
            assert_eq!((first.event, first.step.as_deref()), (kind.what(), Some("welcome")), "{kind:?}");
            assert_eq!((first.provider.as_deref(), first.version), (Some("sendgrid"), Some(1)), "{kind:?}");
        }
        let before = world.lead.clone();
        let again = world.tell(&told).unwrap();
        assert!(again.journal.is_empty(), "{kind:?}: repeated, it is nothing to write: {again:?}");
        assert_eq!(world.lead, before, "{kind:?}");
    }
}

#[test]
fn deliveries_opens_and_clicks_are_in_the_journal_and_not_in_the_history() {
    let mut world = sent();
    let before = events(&world);
    for kind in [FeedbackKind::Delivered, FeedbackKind::Opened, FeedbackKind::Clicked, FeedbackKind::Deferred] {
        let told = of_step(&world, kind, "welcome");
        assert_eq!(world.tell(&told).unwrap().journal.len(), 1);
    }
    assert_eq!(events(&world), before);
    let enrolment = &world.lead.as_ref().unwrap().enrolments[0];
    assert_eq!(enrolment.emails[0].seen, [What::Delivered, What::Opened, What::Clicked, What::Deferred]);
}

#[test]
fn an_event_is_matched_by_send_key_then_by_message_id_then_by_address() {
    let matched = |strip: fn(&mut Feedback)| {
        let mut world = sent();
        let mut told = of_step(&world, FeedbackKind::Delivered, "welcome");
        strip(&mut told);
        let decided = world.tell(&told).unwrap();
        decided.journal.first().and_then(|entry| entry.step.clone())
    };
    let welcome = Some("welcome".into());
    assert_eq!(matched(|_| {}), welcome);
    assert_eq!(matched(|told| told.message_id = None), welcome);
    // As our own page knows it: by the send key alone.
    assert_eq!(matched(|told| (told.step, told.sequence, told.message_id) = (None, None, None)), welcome);
    assert_eq!(matched(|told| told.send_key = None), welcome);
    assert_eq!(matched(|told| told.send_key = Some("of another system".into())), welcome);
    assert_eq!(matched(|told| (told.send_key, told.message_id) = (None, None)), None);
    assert_eq!(matched(|told| (told.send_key, told.message_id) = (None, Some("m-2".into()))), None);
    assert_eq!(matched(|told| (told.send_key, told.message_id) = (None, Some(SmolStr::default()))), None);
}

#[test]
fn an_email_of_an_earlier_life_of_the_lead_is_not_taken_for_one_of_this() {
    let mut world = World::enrolled(Reentry::Ignore);
    // The document was deleted, and the same address came again: the send key is the same, and was not used yet.
    let told = of_step(&world, FeedbackKind::Opened, "welcome");
    assert!(world.tell(&told).unwrap().journal.is_empty());
    let decided = world.begin().unwrap();
    assert!(matches!(&decided.effects[..], [Effect::Send(_)]), "{decided:?}");
    world.step(StepEvent::AnswerLost).unwrap();
    assert_eq!(world.state().name(), "IN_DOUBT");
}

#[test]
fn whatever_is_told_of_an_email_in_doubt_settles_that_it_went_out() {
    for kind in [
        FeedbackKind::Accepted,
        FeedbackKind::Delivered,
        FeedbackKind::Deferred,
        FeedbackKind::SoftBounced,
        FeedbackKind::Dropped { because: None },
    ] {
        let mut world = World::enrolled(Reentry::Ignore);
        world.begin().unwrap();
        world.step(StepEvent::AnswerLost).unwrap();
        let told = of_step(&world, kind, "welcome");
        let decided = world.tell(&told).unwrap();
        let told: Vec<_> = decided.journal.iter().map(|entry| entry.event).collect();
        assert_eq!(told, [kind.what(), What::Resolved, What::Sent], "{kind:?}");
        assert_eq!(decided.journal[2].message_id.as_deref(), Some("m-1"));
        assert_eq!(decided.journal[2].provider.as_deref(), Some("resend"), "whom we called");
        assert_eq!(timer(&decided).unwrap().0, START.plus(2 * DAY), "the next step");
    }
}

#[test]
fn an_event_that_comes_before_the_answer_leaves_it_to_the_answer_and_settles_a_lost_one() {
    let early = |kind| {
        let mut world = World::enrolled(Reentry::Ignore);
        world.begin().unwrap();
        let told = of_step(&world, kind, "welcome");
        world.tell(&told).unwrap();
        assert_eq!(world.state().name(), "SENDING", "{kind:?}");
        world
    };
    for kind in [FeedbackKind::Accepted, FeedbackKind::Delivered] {
        let mut world = early(kind);
        world.answer(accepted()).unwrap();
        assert_eq!(events(&world), [What::Enrolled, What::Sent], "{kind:?}");

        let mut world = early(kind);
        world.step(StepEvent::AnswerLost).unwrap();
        assert_eq!(events(&world), [What::Enrolled, What::Resolved, What::Sent], "{kind:?}");

        // The answer says one thing and the event another: it is not sent again.
        let mut world = early(kind);
        world.answer(Outcome::Transient { reason: "503".to_owned() }).unwrap();
        world.now = world.now.plus(DAY);
        let decided = world.begin().unwrap();
        assert!(!decided.effects.iter().any(|effect| matches!(effect, Effect::Send(_))), "{decided:?}");
        assert_eq!(world.lead.as_ref().unwrap().enrolments[0].step, 1, "{kind:?}");
    }
    // Nobody waits for the answer any more.
    let mut world = World::enrolled(Reentry::Ignore);
    world.begin().unwrap();
    world.now = world.now.plus(Duration::from_mins(1));
    let told = of_step(&world, FeedbackKind::Delivered, "welcome");
    world.tell(&told).unwrap();
    assert_eq!(events(&world), [What::Enrolled, What::Resolved, What::Sent]);
}

#[test]
fn who_wants_more_again_goes_on_where_they_were_and_gets_nothing_twice() {
    // Stopped while it waited.
    let mut world = sent();
    world.tell(&feedback(FeedbackKind::Unsubscribed, DAY)).unwrap();
    assert_eq!((status(&world), world.state().name()), (LeadStatus::Unsubscribed, "STOPPED"));
    world.now = world.now.plus(30 * DAY);
    let decided = world.tell(&feedback(FeedbackKind::Resubscribed, 2 * DAY)).unwrap();
    assert_eq!(timer(&decided).unwrap().0, world.now, "not before now");
    assert_eq!((status(&world), decided.lead.enrolments[0].step), (LeadStatus::Active, 1));
    assert_eq!(decided.journal.iter().map(|it| it.event).collect::<Vec<_>>(), [What::Resubscribed, What::Resumed]);

    // Stopped while an email was on its way.
    for (outcome, step, state) in [
        (Some(accepted()), 1, "WAITING"),
        (Some(Outcome::Transient { reason: "503".to_owned() }), 0, "WAITING"),
        (Some(Outcome::Refused { reason: "no such mailbox".to_owned() }), 0, "PARKED"),
        (Some(Outcome::Unknown { reason: "timed out".to_owned() }), 0, "IN_DOUBT"),
        (None, 0, "SENDING"),
    ] {
        let mut world = World::enrolled(Reentry::Ignore);
        world.begin().unwrap();
        world.tell(&feedback(FeedbackKind::Unsubscribed, DAY)).unwrap();
        if let Some(outcome) = outcome.clone() {
            let decided = world.answer(outcome).unwrap();
            assert_eq!(decided.effects, [], "it has ended");
            assert_eq!(world.state().name(), "STOPPED");
        }
        world.tell(&feedback(FeedbackKind::Resubscribed, 2 * DAY)).unwrap();
        assert_eq!((world.lead.as_ref().unwrap().enrolments[0].step, world.state().name()), (step, state));
    }
}

#[test]
fn what_an_operator_a_bounce_or_a_complaint_ended_no_resubscribe_brings_back() {
    for cause in [SuppressionCause::Complaint, SuppressionCause::HardBounce, SuppressionCause::Manual] {
        let mut world = sent();
        world.tell(&feedback(FeedbackKind::Unsubscribed, DAY)).unwrap();
        world.bucket.merge(&suppressed(cause, START));
        world.tell(&feedback(FeedbackKind::Resubscribed, 2 * DAY)).unwrap();
        let State::Stopped { reason: StopReason::Suppressed(Suppressed { cause: why, .. }), .. } = world.state() else {
            panic!("{:?}", world.state())
        };
        assert_eq!(*why, cause);
    }
}

#[test]
fn an_unsubscribe_neither_ends_nor_bars_a_transactional_sequence_and_a_bounce_does_both() {
    let mut world = World::enrolled(Reentry::Ignore);
    let receipts = world.receipts.clone();
    world.arrive_in(&receipts, 7).unwrap();
    world.tell(&feedback(FeedbackKind::Unsubscribed, DAY)).unwrap();
    let states =
        |world: &World| world.lead.as_ref().unwrap().enrolments.iter().map(|it| it.state.name()).collect::<Vec<_>>();
    assert_eq!((states(&world), status(&world)), (vec!["STOPPED", "WAITING"], LeadStatus::Unsubscribed));
    assert!(world.lead.as_ref().unwrap().next_action().is_some());
    let json = String::from_utf8(world.lead.as_ref().unwrap().to_json().unwrap()).unwrap();
    assert_eq!(json.matches(r#""transactional":true"#).count(), 1, "{json}");

    let mut late = World::new(Reentry::Ignore);
    late.bucket = suppressed(SuppressionCause::Unsubscribe, START);
    late.arrive().unwrap();
    late.arrive_in(&receipts, 7).unwrap();
    assert_eq!(states(&late), ["WAITING"]);

    world.tell(&feedback(FeedbackKind::HardBounced, DAY)).unwrap();
    assert_eq!((states(&world), status(&world)), (vec!["STOPPED", "STOPPED"], LeadStatus::HardBounce));
    world.arrive_in(&receipts, 8).unwrap();
    assert_eq!(states(&world).len(), 2);
}

#[test]
fn a_suppression_that_an_operator_lifted_no_longer_bars_the_lead() {
    let mut world = World::new(Reentry::Ignore);
    world.bucket = suppressed(SuppressionCause::Manual, START);
    world.arrive().unwrap();
    world.bucket = dripline_domain::Suppression::default();
    world.arrive().unwrap();
    assert_eq!((status(&world), world.state().name()), (LeadStatus::New, "WAITING"));

    // Where it was in the sequence already, the sequence says that a second arrival begins nothing.
    let mut world = sent();
    world.suppress().unwrap();
    world.bucket = dripline_domain::Suppression::default();
    let arrived = world.arrive().unwrap();
    assert_eq!(arrived.journal.first().unwrap().event, What::ArrivedAgain);
    assert_eq!(status(&world), LeadStatus::Completed, "every enrolment ended");
}

#[test]
fn a_no_that_a_step_found_first_is_told_all_the_same() {
    let mut world = sent();
    let told = feedback(FeedbackKind::Unsubscribed, DAY);
    world.bucket.merge(&told.suppression().unwrap());
    world.apply(Event::Suppressed(world.bucket.clone())).unwrap();
    assert_eq!(world.tell(&told).unwrap().journal.len(), 1);
    assert_eq!(events(&world)[2..], [What::Suppressed, What::Suppressed, What::Unsubscribed]);
    assert!(world.tell(&told).unwrap().journal.is_empty(), "repeated");

    // An operator took it off the list, and the event is delivered once more.
    world.bucket = dripline_domain::Suppression::default();
    world.arrive().unwrap();
    assert_eq!(status(&world), LeadStatus::Completed);
    world.tell(&told).unwrap();
    assert_eq!(status(&world), LeadStatus::Unsubscribed);
    assert_eq!(events(&world).last(), Some(&What::Suppressed), "nobody unsubscribed anew");
}

#[test]
fn too_many_soft_bounces_in_too_short_a_time_suppress_and_one_email_counts_once() {
    let bounce = |email: &str, after: Duration| Feedback {
        message_id: Some(email.into()),
        ..feedback(FeedbackKind::SoftBounced, after)
    };
    let table = [
        ("two are not too many", vec![("a", 0), ("b", 1)], false),
        ("one email that bounces again", vec![("a", 0), ("a", 1), ("a", 2), ("b", 3)], false),
        ("three in a month", vec![("a", 0), ("b", 15), ("c", 30)], true),
        ("in any order", vec![("c", 30), ("a", 0), ("b", 15)], true),
        ("three in more than a month", vec![("a", 0), ("b", 15), ("c", 31)], false),
        ("of one email the first counts", vec![("a", 30), ("b", 40), ("c", 60), ("a", 0)], true),
        ("a later month", vec![("a", 0), ("b", 50), ("c", 60), ("d", 80)], true),
    ];
    for (what, bounces, too_many) in table {
        let mut world = sent();
        for (email, day) in bounces {
            world.tell(&bounce(email, day * DAY)).unwrap();
        }
        let expected = if too_many { LeadStatus::Suppressed } else { LeadStatus::Active };
        assert_eq!(status(&world), expected, "{what}");
    }
    // Bounded, whatever comes.
    let mut world = sent();
    for day in 0..200 {
        world.tell(&bounce(&day.to_string(), day * 100 * DAY)).unwrap();
    }
    let bounces: Vec<SoftBounce> = world.lead.unwrap().soft_bounces;
    assert_eq!((bounces.len(), &*bounces[0].email), (SOFT_BOUNCES_KEPT, "150"));
}

#[test]
fn documents_of_earlier_versions_are_read() {
    let json = r#"{"schema":1,"leadId":"ld_1","email":"jane@example.com","suppressed":"asked by phone","generation":3,
        "createdAt":5,"enrollments":[{"sequence":"nurture","version":1,"number":1,"step":0,"status":"STOPPED",
        "generation":3,"nextActionTimestamp":null,"beganAt":5,"arrival":"1@5","reason":"suppressed: asked by phone",
        "attempt":{"sendKey":"k","number":2,"startedAt":6,"lostAt":7,"owner":"o"}}],"history":[]}"#;
    let lead = dripline_domain::Lead::from_json(json.as_bytes()).unwrap();
    let by_hand = Suppressed { cause: SuppressionCause::Manual, reason: "asked by phone".to_owned() };
    assert_eq!(lead.suppressed, Some(by_hand.clone()));
    assert_eq!(lead.status(), LeadStatus::Suppressed);
    let State::Stopped { reason, before } = &lead.enrolments[0].state else { panic!("{lead:?}") };
    assert_eq!(*reason, StopReason::Suppressed(by_hand));
    assert_eq!(before.as_ref().unwrap().open_attempt().unwrap().number, 2);
    assert_eq!(dripline_domain::Lead::from_json(&lead.to_json().unwrap()).unwrap(), lead);
}

// Any set of events, in any order.

#[derive(Debug, Clone)]
struct Told {
    kind: FeedbackKind,
    day: u32,
    /// Of which email: of which enrolment, and at which step; none for the person alone.
    email: Option<(usize, usize)>,
}

fn kind() -> impl Strategy<Value = FeedbackKind> {
    prop_oneof![
        1 => Just(FeedbackKind::Accepted),
        1 => Just(FeedbackKind::Delivered),
        1 => Just(FeedbackKind::Opened),
        1 => Just(FeedbackKind::Deferred),
        2 => Just(FeedbackKind::SoftBounced),
        1 => Just(FeedbackKind::HardBounced),
        1 => Just(FeedbackKind::Complained),
        5 => Just(FeedbackKind::Unsubscribed),
        5 => Just(FeedbackKind::Resubscribed),
        1 => Just(FeedbackKind::Dropped { because: None }),
        1 => Just(FeedbackKind::Dropped { because: Some(SuppressionCause::Unsubscribe) }),
    ]
}

fn told() -> impl Strategy<Value = Told> {
    (kind(), 0_u32..6, proptest::option::of((0_usize..2, 0_usize..2))).prop_map(|(kind, day, email)| Told {
        kind,
        day,
        email,
    })
}

/// How far the emails are when the first event comes.
#[derive(Debug, Clone, Copy)]
enum Now {
    Waiting,
    Sending,
    InDoubt,
}

/// A lead in a sequence and in a transactional one; one email of each is out, the second is this far.
fn under_way(now: Now) -> World {
    let mut world = World::enrolled(Reentry::Ignore);
    let receipts = world.receipts.clone();
    world.arrive_in(&receipts, 7).unwrap();
    for place in 0..2 {
        begin(&mut world, place).unwrap();
        answer(&mut world, place, accepted());
    }
    world.now = START.plus(3 * DAY);
    for place in 0..2 {
        if !matches!(now, Now::Waiting) {
            begin(&mut world, place).unwrap();
        }
        if matches!(now, Now::InDoubt) {
            let id = world.lead.as_ref().unwrap().enrolments[place].id();
            world.step_of(id, StepEvent::AnswerLost).unwrap();
        }
    }
    world
}

fn begin(world: &mut World, place: usize) -> Option<Effect> {
    let id = world.lead.as_ref().unwrap().enrolments[place].id();
    let decided = world.step_of(id, super::world::begin()).ok()?;
    decided.effects.into_iter().find(|effect| matches!(effect, Effect::Send(_)))
}

fn answer(world: &mut World, place: usize, outcome: Outcome) {
    let enrolment = &world.lead.as_ref().unwrap().enrolments[place];
    let Some(attempt) = enrolment.state.open_attempt() else { return };
    let event = StepEvent::Answered { send_key: attempt.send_key.clone(), attempt: attempt.number, outcome };
    world.step_of(enrolment.id(), event).unwrap();
}

fn tell(world: &mut World, told: &Told) {
    let lead = world.lead.as_ref().unwrap();
    let feedback = Feedback {
        id: format!("{told:?}"),
        ..match told.email {
            None => feedback(told.kind, told.day * DAY),
            Some((place, step)) => Feedback {
                send_key: Some(send_key(&lead.lead_id, &lead.enrolments[place], STEPS[step])),
                sequence: Some(lead.enrolments[place].sequence.name.clone()),
                step: Some(STEPS[step].into()),
                ..feedback(told.kind, told.day * DAY)
            },
        }
    };
    world.tell(&feedback).unwrap();
}

/// What must not depend on the order.
#[derive(Debug, PartialEq)]
struct End {
    bucket: dripline_domain::Suppression,
    suppressed: Option<Suppressed>,
    told: dripline_domain::Suppression,
    status: LeadStatus,
    enrolments: Vec<(String, usize, Option<SuppressionCause>)>,
    seen: BTreeMap<(usize, SmolStr), BTreeSet<What>>,
    soft_bounces: Vec<SoftBounce>,
    next_action: Option<Timestamp>,
}

fn end(world: &World) -> End {
    let lead = world.lead.clone().unwrap();
    let seen = lead.enrolments.iter().enumerate().flat_map(|(place, enrolment)| {
        enrolment.emails.iter().map(move |email| ((place, email.step.clone()), email.seen.iter().copied().collect()))
    });
    let enrolments = lead.enrolments.iter().map(|enrolment| {
        let cause = match &enrolment.state {
            State::Stopped { reason: StopReason::Suppressed(Suppressed { cause, .. }), .. } => Some(*cause),
            _ => None,
        };
        (enrolment.state.name().to_owned(), enrolment.step, cause)
    });
    End {
        bucket: world.bucket.clone(),
        status: lead.status(),
        enrolments: enrolments.collect(),
        seen: seen.collect(),
        next_action: lead.next_action(),
        soft_bounces: lead.soft_bounces,
        told: lead.told,
        suppressed: lead.suppressed,
    }
}

fn now() -> impl Strategy<Value = Now> {
    prop_oneof![Just(Now::Waiting), Just(Now::Sending), Just(Now::InDoubt)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn the_end_depends_only_on_the_set_of_events(
        now in now(),
        events in proptest::collection::vec(told(), 1..10),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
        answered in proptest::bool::ANY,
    ) {
        // No `accepted`: once the answer is known it says nothing new, so it is not remembered.
        let events: Vec<_> = events.into_iter().filter(|told| told.kind != FeedbackKind::Accepted).collect();
        let mut straight = under_way(now);
        let mut shuffled = under_way(now);
        for told in &events {
            tell(&mut straight, told);
        }
        let repeated = order.iter().filter(|_| !events.is_empty()).map(|place| place.get(&events));
        for told in repeated.chain(events.iter().rev()) {
            tell(&mut shuffled, told);
            let lead = shuffled.lead.as_ref().unwrap();
            prop_assert_eq!(&dripline_domain::Lead::from_json(&lead.to_json().unwrap()).unwrap(), lead);
        }
        if answered {
            for place in 0..2 {
                answer(&mut straight, place, accepted());
                answer(&mut shuffled, place, accepted());
            }
        }
        prop_assert_eq!(end(&straight), end(&shuffled));
    }

    #[test]
    fn no_email_is_sent_after_a_suppression_and_none_twice(
        now in now(),
        happenings in proptest::collection::vec(prop_oneof![
            told().prop_map(Ok),
            (0_usize..2, proptest::bool::ANY, 0_u64..4).prop_map(Err),
        ], 1..40),
    ) {
        let mut world = under_way(now);
        let mut shown: BTreeSet<SmolStr> = BTreeSet::new();
        for happening in happenings {
            match happening {
                Ok(told) => tell(&mut world, &told),
                Err((place, lost, days)) => {
                    world.now = world.now.plus(Duration::from_secs(days * 86_400));
                    let transactional = world.lead.as_ref().unwrap().enrolments[place].transactional;
                    let forbidden = world.bucket.in_force(transactional).is_some();
                    if let Some(Effect::Send(attempt)) = begin(&mut world, place) {
                        prop_assert!(!forbidden, "{:?}", world.bucket);
                        prop_assert!(!shown.contains(&attempt.send_key), "sent again");
                        if !lost {
                            shown.insert(attempt.send_key);
                            answer(&mut world, place, accepted());
                        }
                    }
                }
            }
            let lead = world.lead.as_ref().unwrap();
            for enrolment in &lead.enrolments {
                for email in &enrolment.emails {
                    shown.insert(send_key(&lead.lead_id, enrolment, &email.step));
                }
                let forbidden = world.bucket.in_force(enrolment.transactional).is_some();
                prop_assert!(!forbidden || enrolment.state.is_terminal(), "{:?}", enrolment);
            }
        }
    }
}
