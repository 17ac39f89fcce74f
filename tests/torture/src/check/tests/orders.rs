use super::*;
use crate::history::{Answer, Done, LeftHeld, Order, Pause, Verb};
use crate::orders::OPERATOR;
use crate::plan::Held;

fn lead() -> Held {
    Held::Lead(JANE.to_owned())
}

fn welcome() -> Held {
    Held::Sequence("welcome".to_owned())
}

fn stop() -> Verb {
    Verb::Stop(JANE.to_owned(), Some("welcome".to_owned()))
}

fn restart() -> Verb {
    Verb::Restart(JANE.to_owned(), "welcome".to_owned())
}

/// Acknowledged 10 ms after it was sent.
fn order(id: &str, verb: Verb, at: u64) -> Order {
    let answer = Some(Answer { at: at + 10, refused: None });
    Order { id: id.to_owned(), verb, first_sent: at, tries: 1, answer, repeat: None }
}

fn refused(order: Order, code: &str) -> Order {
    let answer = order.answer.map(|answer| Answer { refused: Some(code.to_owned()), ..answer });
    Order { answer, ..order }
}

/// What an order does, as the journal has it, after the last line that is earlier.
fn trace(history: &mut History, id: &str, event: &str, sequence: Option<&str>, timestamp: u64) {
    let traced = Line {
        sequence: sequence.map(str::to_owned),
        reason: Some(id.to_owned()),
        by: Some(OPERATOR.to_owned()),
        ..line(event, None, timestamp)
    };
    let place = history.journal.partition_point(|line| line.timestamp <= timestamp);
    history.journal.insert(place, traced);
}

/// Jane is paused between her first email and her second, which waits until she is resumed.
fn paused() -> History {
    let mut history = good();
    for at in history.accepted.iter_mut().skip(1).map(|email| &mut email.at) {
        *at += 5_000;
    }
    for line in history.journal.iter_mut().filter(|line| line.timestamp > 1_500) {
        line.timestamp += 5_000;
    }
    history.orders.push(order("p", Verb::Pause(lead()), 1_500));
    trace(&mut history, "p", "paused", None, 1_505);
    history.orders.push(order("r", Verb::Resume(lead()), 7_000));
    trace(&mut history, "r", "resumed", None, 7_005);
    history
}

/// The same of her sequence, or of the provider. The journal tells of it beforehand, and of no lead.
fn held(held: &Held, event: &str) -> History {
    let mut history = paused();
    for (order, verb) in history.orders.iter_mut().zip([Verb::Pause(held.clone()), Verb::Resume(held.clone())]) {
        order.verb = verb;
    }
    for line in history.journal.iter_mut().filter(|line| line.by.is_some()) {
        line.event = line.event.replace("paused", event).replace("resumed", &event.replace("paused", "resumed"));
        line.lead_id.clear();
    }
    history
}

/// Jane is stopped after her first email.
fn stopped() -> History {
    let mut history = good();
    history.accepted.truncate(1);
    history.journal.truncate(3);
    history.documents[0].enrollments[0] =
        Enrolment { status: "STOPPED".to_owned(), step: 1, reason: Some("stopped: s".to_owned()), ..enrolment(1) };
    history.orders.push(order("s", stop(), 1_500));
    trace(&mut history, "s", "stopped", Some("welcome"), 1_505);
    history
}

/// Jane begins anew after her first enrolment.
fn restarted() -> History {
    let mut history = good();
    history.orders.push(order("a", restart(), 4_000));
    trace(&mut history, "a", "enrolled", Some("welcome"), 4_005);
    history.documents[0].enrollments.push(Enrolment { began_at: 4_005, ..enrolment(2) });
    for (step, at) in [("one", 4_100), ("two", 5_200), ("three", 6_300)] {
        history.journal.push(line("sending", Some(step), at - 10));
        history.accepted.push(email(step, 2, at));
    }
    history
}

#[test]
fn orders_that_are_obeyed_are_no_violation() {
    for history in [
        paused(),
        held(&welcome(), "sequence_paused"),
        held(&Held::Provider, "provider_paused"),
        stopped(),
        restarted(),
    ] {
        assert_eq!(check(&history, Rules::default()), []);
    }
}

#[test]
fn an_email_of_a_paused_lead_is_found_but_not_within_the_grace() {
    let mut history = paused();
    history.accepted[0].at = 2_510;
    assert_eq!(kinds(&history), [], "it was under way");
    history.accepted[0].at = 2_511;
    assert_eq!(kinds(&history), [Kind::WhilePaused]);
    // Another's pause says nothing of her.
    history.orders[0].verb = Verb::Pause(Held::Lead("joe@example.com".to_owned()));
    assert!(!kinds(&history).contains(&Kind::WhilePaused));
    // Nor does one that was refused, or never answered.
    for answer in [None, Some(Answer { at: 1_510, refused: Some("no_such_lead".to_owned()) })] {
        let mut history = paused();
        history.accepted[0].at = 2_511;
        history.orders[0].answer = answer;
        assert!(!kinds(&history).contains(&Kind::WhilePaused));
    }
}

#[test]
fn a_step_that_begins_while_its_lead_is_paused_is_found() {
    let mut history = paused();
    history.journal.insert(4, line("sending", Some("two"), 1_506));
    assert_eq!(kinds(&history), [Kind::WhilePaused], "within the grace, too: it was not under way");
}

#[test]
fn an_email_of_a_paused_sequence_or_provider_is_found() {
    for (what, event) in [(welcome(), "sequence_paused"), (Held::Provider, "provider_paused")] {
        let mut history = held(&what, event);
        history.accepted[0].at = 2_510;
        assert_eq!(kinds(&history), [], "{what:?}");
        history.accepted[0].at = 2_511;
        assert_eq!(kinds(&history), [Kind::WhilePaused], "{what:?}");
    }
    let mut history = held(&welcome(), "sequence_paused");
    history.accepted[0].at = 2_511;
    history.accepted[0].sequence = "news".into();
    assert!(!kinds(&history).contains(&Kind::WhilePaused), "of another sequence");
}

#[test]
fn an_engine_that_was_hindered_is_no_excuse_for_an_email_of_what_is_paused_but_for_the_write_at_which_it_stood_still() {
    let is_found = |mut history: History, hinders, at| {
        history.accepted[0].at = at;
        // Not what is looked at here.
        history.accepted.truncate(1);
        history.deeds.push(Done { from: 1_400, to: 3_000, hinders, what: "pause engine 1".to_owned() });
        kinds(&history).contains(&Kind::WhilePaused)
    };
    // The pause is acknowledged at 1,510, its end is ordered at 7,000, and the grace is a second.
    for history in [held(&welcome(), "sequence_paused"), held(&Held::Provider, "provider_paused"), paused()] {
        for hinders in [Some(Hindered::Server), Some(Hindered::Ended), None] {
            assert!(is_found(history.clone(), hinders, 3_100), "{hinders:?}");
        }
        assert!(!is_found(history.clone(), Some(Hindered::StoodStill), 3_100));
        assert!(is_found(history, Some(Hindered::StoodStill), 4_001));
    }
}

#[test]
fn an_email_of_a_stopped_enrolment_is_found_but_not_within_the_grace() {
    let mut history = stopped();
    history.accepted[0].at = 2_510;
    assert_eq!(kinds(&history), []);
    history.accepted[0].at = 2_511;
    assert_eq!(kinds(&history), [Kind::AfterStop]);
    // Of all its sequences.
    history.orders[0].verb = Verb::Stop(JANE.to_owned(), None);
    assert_eq!(kinds(&history), [Kind::AfterStop]);
    history.orders[0].verb = Verb::Stop(JANE.to_owned(), Some("news".to_owned()));
    assert!(!kinds(&history).contains(&Kind::AfterStop));
}

#[test]
fn a_later_enrolment_goes_on_after_a_stop() {
    let mut history = stopped();
    history.orders.push(order("a", restart(), 4_000));
    trace(&mut history, "a", "enrolled", Some("welcome"), 4_005);
    history.documents[0].enrollments.push(Enrolment { began_at: 4_005, ..enrolment(2) });
    for (step, at) in [("one", 4_100), ("two", 5_200), ("three", 6_300)] {
        history.journal.push(line("sending", Some(step), at - 10));
        history.accepted.push(email(step, 2, at));
    }
    history.journal.push(line("completed", None, 6_310));
    assert_eq!(check(&history, Rules::default()), []);
}

#[test]
fn a_step_that_begins_after_its_stop_is_found() {
    let mut history = stopped();
    history.journal.push(line("sending", Some("two"), 1_506));
    assert_eq!(kinds(&history), [Kind::AfterStop]);
}

#[test]
fn a_restart_begins_one_enrolment_whose_steps_come_in_order() {
    // None came of it.
    let mut history = restarted();
    history.documents[0].enrollments.pop();
    history.accepted.truncate(3);
    history.journal.truncate(8);
    assert_eq!(kinds(&history), [Kind::NotEnrolled, Kind::NotObeyed]);
    // Two did.
    let mut history = restarted();
    history.documents[0].enrollments.push(Enrolment { began_at: 7_000, step: 0, ..enrolment(3) });
    assert_eq!(kinds(&history), [Kind::EnrolledTooOften]);
    // Its steps are those of any other.
    let mut history = restarted();
    history.accepted.remove(4);
    assert_eq!(kinds(&history), [Kind::Missing]);
    let mut history = restarted();
    history.accepted[4].at = 5_000;
    history.journal.iter_mut().for_each(|line| line.timestamp = line.timestamp.min(4_990));
    assert!(kinds(&history).contains(&Kind::TooEarly));
}

#[test]
fn a_restart_that_was_never_answered_may_have_been_carried_out() {
    for answer in [None, Some(Answer { at: 9_000, refused: Some("must_not_be_mailed".to_owned()) })] {
        let mut history = restarted();
        history.orders[0].answer = answer.clone();
        history.orders[0].tries = 2;
        assert_eq!(kinds(&history), []);
        let mut history = good();
        history.orders.push(Order { answer, tries: 2, ..order("a", restart(), 4_000) });
        assert_eq!(kinds(&history), []);
    }
    // Sent once and refused, it was not.
    let mut history = restarted();
    history.orders[0] = refused(history.orders[0].clone(), "must_not_be_mailed");
    assert_eq!(kinds(&history), [Kind::EnrolledTooOften, Kind::NotObeyed]);
}

#[test]
fn an_acknowledged_order_of_which_the_journal_knows_nothing_is_found() {
    for (mut history, event) in [(paused(), "paused"), (paused(), "resumed"), (stopped(), "stopped")] {
        history.journal.retain(|line| line.event != event);
        // Of a resumption that is not there, nor are the steps that follow it.
        assert!(kinds(&history).contains(&Kind::NotObeyed), "{event}");
    }
}

#[test]
fn a_pause_of_a_lead_that_an_older_order_paused_meanwhile_need_not_be_in_the_journal() {
    let mut history = paused();
    let late = Order { tries: 2, ..refused(order("late", Verb::Pause(lead()), 1_000), "no_such_lead") };
    history.orders.push(late);
    for line in history.journal.iter_mut().filter(|line| line.event == "paused") {
        line.reason = Some("late".to_owned());
    }
    assert_eq!(kinds(&history), []);
    // But where it was let go in between.
    trace(&mut history, "other", "resumed", None, 1_506);
    assert!(kinds(&history).contains(&Kind::NotObeyed));
}

#[test]
fn an_order_that_is_carried_out_twice_is_found() {
    let mut history = paused();
    // Again after its end.
    trace(&mut history, "p", "paused", None, 9_000);
    assert_eq!(kinds(&history), [Kind::OrderedTwice]);
    let mut history = restarted();
    trace(&mut history, "a", "enrolled", Some("welcome"), 4_005);
    assert!(kinds(&history).contains(&Kind::OrderedTwice), "at once, but twice");
    // One stop may end several sequences, at once.
    let mut history = stopped();
    history.orders[0].verb = Verb::Stop(JANE.to_owned(), None);
    trace(&mut history, "s", "stopped", Some("news"), 1_505);
    assert_eq!(kinds(&history), []);
}

#[test]
fn a_pause_that_is_carried_out_again_after_its_end_is_found() {
    for (what, event) in [(welcome(), "sequence_paused"), (Held::Provider, "provider_paused")] {
        let mut history = held(&what, event);
        let line = history.journal.iter().find(|line| line.event == event).cloned().unwrap();
        // It is journalled before it is written: twice where the answer was lost.
        history.journal.push(Line { timestamp: 1_508, ..line.clone() });
        assert_eq!(kinds(&history), []);
        history.journal.push(Line { timestamp: 7_011, ..line });
        assert_eq!(kinds(&history), [Kind::OrderedTwice]);
        // It was never answered, so it may come whenever it does.
        history.orders[0].answer = None;
        assert_eq!(kinds(&history), []);
    }
}

#[test]
fn the_repeat_of_an_acknowledged_order_is_acknowledged() {
    let mut history = stopped();
    history.orders[0].repeat = Some(Answer { at: 3_000, refused: None });
    assert_eq!(kinds(&history), []);
    history.orders[0].repeat = Some(Answer { at: 3_000, refused: Some("ended".to_owned()) });
    assert_eq!(kinds(&history), [Kind::OrderedTwice]);
    // As it was refused at first.
    history.orders[0] = refused(history.orders[0].clone(), "ended");
    history.journal.retain(|line| line.by.is_none());
    assert_eq!(kinds(&history), []);
}

#[test]
fn what_nobody_ordered_is_found() {
    let spoil: [fn(&mut Line); 4] = [
        |line| line.by = Some("guard".to_owned()),
        |line| line.reason = Some("another".to_owned()),
        |line| line.event = "resumed".to_owned(),
        |line| line.lead_id = "ld_joe".to_owned(),
    ];
    for (number, spoil) in spoil.into_iter().enumerate() {
        let mut history = paused();
        trace(&mut history, "p", "paused", None, 1_505);
        let added = history.journal.iter_mut().rfind(|line| line.event == "paused").unwrap();
        spoil(added);
        assert!(kinds(&history).contains(&Kind::Unordered), "{number}");
    }
}

#[test]
fn what_is_held_back_again_after_all_was_resumed_is_found() {
    for what in [lead(), welcome(), Held::Provider] {
        let mut history = paused();
        history.orders[0].verb = Verb::Pause(what.clone());
        history.orders[1].verb = Verb::Resume(what.clone());
        history.left_held.push(LeftHeld { at: 8_000, held: what, reason: "p".to_owned() });
        let is_found = |history: &History| kinds(history).contains(&Kind::OrderedTwice);
        assert!(is_found(&history));
        // Nobody said that it goes on, or that it is paused.
        for number in [0, 1] {
            let mut history = history.clone();
            history.orders[number].answer = None;
            assert!(!is_found(&history), "{number}");
        }
    }
}

#[test]
fn a_story_tells_the_orders_about_a_lead_and_about_all() {
    let mut history = paused();
    history.orders[0].repeat = Some(Answer { at: 7_100, refused: None });
    history.orders.push(order("w", Verb::Pause(welcome()), 2_000));
    history.orders.push(order("later", Verb::Pause(Held::Provider), 90_000));
    history.orders.push(order("joe", Verb::Pause(Held::Lead("joe@example.com".to_owned())), 2_000));
    let told = story(&history, JANE);
    for expected in
        ["p: lead.pause", "p acknowledged", "p, asked again, acknowledged", "w: sequence.pause", "journal    paused"]
    {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert!(!told.contains("later") && !told.contains("joe"), "{told}");
}

#[test]
fn a_document_says_that_its_lead_is_paused() {
    let json = json!({
        "leadId": "ld_jane", "email": JANE, "status": "PAUSED", "nextActionTimestamp": null, "enrollments": [],
        "paused": {"by": "ann", "reason": "p", "timestamp": 5}
    });
    let document: Document = serde_json::from_value(json).unwrap();
    assert_eq!(document.paused, Some(Pause { reason: "p".to_owned() }));
}
