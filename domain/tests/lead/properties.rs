//! What holds after any sequence of events, however unlikely.
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::world::{self, World, accepted, begin};
use dripline_domain::{DoubtEnd, DoubtPolicy, Effect, Lead, Outcome, Reentry, SmolStr, StepEvent};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Happening {
    Arrive,
    ArriveAgain(u64),
    Suppress,
    Begin,
    Answer(Outcome),
    AnswerToAnother(Outcome),
    AnswerLost,
    NotSent,
    Unresolved(bool),
    Fail,
    TimePasses(u64),
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let reason = || "why".to_owned();
    prop_oneof![
        4 => Just(accepted()),
        1 => Just(Outcome::RateLimited { until: None }),
        1 => Just(Outcome::Transient { reason: reason() }),
        1 => Just(Outcome::Refused { reason: reason() }),
        1 => Just(Outcome::Misconfigured { reason: reason() }),
        1 => Just(Outcome::Unknown { reason: reason() }),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        2 => Just(Happening::Arrive),
        1 => (1_u64..6).prop_map(Happening::ArriveAgain),
        1 => Just(Happening::Suppress),
        8 => Just(Happening::Begin),
        8 => outcome().prop_map(Happening::Answer),
        1 => outcome().prop_map(Happening::AnswerToAnother),
        1 => Just(Happening::AnswerLost),
        1 => Just(Happening::NotSent),
        2 => proptest::bool::ANY.prop_map(Happening::Unresolved),
        1 => Just(Happening::Fail),
        6 => (0_u64..10 * 86_400).prop_map(Happening::TimePasses),
    ]
}

fn doubt() -> impl Strategy<Value = DoubtPolicy> {
    let end = prop_oneof![Just(DoubtEnd::Resend), Just(DoubtEnd::Skip), Just(DoubtEnd::Hold)];
    (0_u64..5 * 86_400, end).prop_map(|(seconds, then)| DoubtPolicy { wait: Duration::from_secs(seconds), then })
}

fn reentry() -> impl Strategy<Value = Reentry> {
    prop_oneof![
        Just(Reentry::Ignore),
        Just(Reentry::Restart),
        (0_u64..20 * 86_400).prop_map(|seconds| Reentry::After(Duration::from_secs(seconds))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_history_keeps_the_promises(
        reentry in reentry(),
        doubt in doubt(),
        random in 0.0_f64..1.0,
        happenings in proptest::collection::vec(happening(), 1..80),
    ) {
        let mut world = World::enrolled(reentry);
        world.random = random;
        world.doubt = doubt;
        // Per enrolment: the step each accepted email belonged to, in order.
        let mut sent: HashMap<(SmolStr, u32), Vec<usize>> = HashMap::new();
        let mut accepted_keys = HashSet::new();
        for happening in happenings {
            let before = world.lead.clone().unwrap();
            let decided = match happening.clone() {
                Happening::Arrive => world.arrive(),
                Happening::ArriveAgain(number) => world.arrive_as(number),
                Happening::Suppress => world.suppress(),
                Happening::Begin => world.step(begin()),
                Happening::Answer(outcome) => world.answer(outcome),
                Happening::AnswerToAnother(outcome) => {
                    world.step(StepEvent::Answered { send_key: "another".into(), attempt: 1, outcome })
                }
                Happening::AnswerLost => world.step(StepEvent::AnswerLost),
                Happening::NotSent => world.step(StepEvent::NotSent),
                Happening::Unresolved(ask_again) => {
                    world.step(StepEvent::Unresolved { reason: "why".to_owned(), ask_again })
                }
                Happening::Fail => world.step(StepEvent::Fail("why".to_owned())),
                Happening::TimePasses(seconds) => {
                    world.now = world.now.plus(Duration::from_secs(seconds));
                    continue;
                }
            };
            let after = world.lead.clone().unwrap();
            let Ok(decided) = decided else {
                prop_assert_eq!(before, after, "a refusal changes nothing");
                continue;
            };
            // `generation` only grows.
            prop_assert!(after.generation >= before.generation);
            for effect in &decided.effects {
                match effect {
                    Effect::Send(attempt) => {
                        // No send from a terminal state, nor to a suppressed lead, nor beside an open attempt.
                        prop_assert!(before.suppressed.is_none());
                        let enrolment = before.enrolments.last().unwrap();
                        prop_assert_eq!(enrolment.state.name(), "WAITING");
                        // Nothing that was accepted is sent again.
                        prop_assert!(!accepted_keys.contains(&attempt.send_key));
                    }
                    Effect::SetTimer { at, generation } => {
                        prop_assert_eq!(Some(*at), after.next_action());
                        prop_assert_eq!(*generation, after.generation);
                        prop_assert!(*generation > before.generation, "a new timer has a new generation");
                    }
                }
            }
            // A lead that waits has a timer: the one of this decision, or an earlier one for the same time.
            if after.generation != before.generation && after.next_action().is_some() {
                prop_assert!(world::timer(&decided).is_some());
            }
            // No step is skipped or repeated.
            for enrolment in &after.enrolments {
                let was = before.enrolments.iter().find(|it| it.is(&enrolment.id()));
                let step_before = was.map_or(0, |it| it.step);
                prop_assert!(enrolment.step == step_before || enrolment.step == step_before + 1);
                if enrolment.step == step_before + 1 {
                    let key = (enrolment.sequence.name.clone(), enrolment.number);
                    sent.entry(key).or_default().push(step_before);
                    if let Some(was) = was {
                        accepted_keys.insert(dripline_domain::send_key(
                            &after.lead_id, was, &world.sequence.steps[step_before].id,
                        ));
                    }
                }
            }
            for steps in sent.values() {
                prop_assert_eq!(steps, &(0..steps.len()).collect::<Vec<_>>());
            }
            // Terminal is terminal.
            for was in before.enrolments.iter().filter(|it| it.state.is_terminal()) {
                if let Some(is) = after.enrolment(&was.id()) {
                    prop_assert_eq!(is.state.name(), was.state.name());
                    // But for the answer to an attempt that was open.
                    prop_assert!(is.step == was.step || was.state.open_attempt().is_some());
                }
            }
            // Any document round-trips.
            prop_assert_eq!(&Lead::from_json(&after.to_json().unwrap()).unwrap(), &after);
        }
    }
}
