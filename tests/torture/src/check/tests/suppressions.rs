use super::*;
use crate::history::Done;

const SAID: [(Cause, &str, Kind); 3] = [
    (Cause::Unsubscribe, "unsubscribed", Kind::AfterUnsubscribe),
    (Cause::Complaint, "complained", Kind::AfterFeedback),
    (Cause::HardBounce, "hard_bounced", Kind::AfterFeedback),
];

/// Jane, or the provider, says no between her second email and her third, which does not go. It is heeded so long after its
/// 200.
fn said(cause: Cause, event: &str, after: u64) -> History {
    let mut history = good();
    history.accepted.truncate(2);
    history.journal.truncate(5);
    let document = &mut history.documents[0];
    document.suppressed = Some("wants no more".to_owned());
    document.enrollments[0] = Enrolment { status: "STOPPED".to_owned(), step: 2, ..enrolment(1) };
    history.suppressions.push(Suppression { address: JANE.to_owned(), cause, acknowledged: 2_300 });
    history.journal.push(line(event, Some("one"), 2_300 + after));
    history
}

fn hindered(history: &mut History) {
    let deed = Done { from: 2_000, to: 2_400, hinders: Some(Hindered::StoodStill), what: "pause engine 0".to_owned() };
    history.deeds.push(deed);
}

#[test]
fn a_no_that_is_heeded_is_no_violation() {
    for (cause, event, _) in SAID {
        assert_eq!(check(&said(cause, event, 50), Rules::default()), []);
    }
}

#[test]
fn an_email_after_a_200_is_found_but_not_within_the_grace() {
    for (cause, event, kind) in SAID {
        let mut history = said(cause, event, 0);
        history.accepted[1].at = 3_300;
        assert_eq!(kinds(&history), [], "{cause:?}");
        history.accepted[1].at = 3_301;
        assert_eq!(kinds(&history), [kind], "{cause:?}");
        history.suppressions[0].address = "joe@example.com".to_owned();
        assert!(!kinds(&history).contains(&kind), "{cause:?}");
    }
}

#[test]
fn to_be_heeded_late_is_no_excuse_unless_an_engine_was_hindered() {
    for (cause, event, kind) in SAID {
        let mut history = said(cause, event, 2_000);
        history.accepted[1].at = 3_400;
        assert_eq!(kinds(&history), [kind], "{cause:?}");
        hindered(&mut history);
        assert_eq!(kinds(&history), [], "{cause:?}");
        // From then on it is known, whoever is hindered.
        history.accepted[1].at = 4_300 + 1_001;
        assert_eq!(kinds(&history), [kind], "{cause:?}");
    }
}

#[test]
fn a_200_of_which_nothing_came_is_found() {
    for (cause, event, _) in SAID {
        let mut history = said(cause, event, 50);
        history.journal.retain(|line| line.event != event);
        assert_eq!(kinds(&history), [Kind::Unheeded], "{cause:?}");
    }
}

/// In the history that is good the third email is accepted 10 ms after its intent.
#[test]
fn a_call_that_an_engine_was_writing_when_it_was_stopped_is_no_violation_but_a_later_one_is() {
    let mut history = good();
    let (intended, address) = (history.accepted[2].at - 10, JANE.to_owned());
    history.suppressions.push(Suppression { address, cause: Cause::Operator, acknowledged: intended + 100 });
    let stopped = |from| Done { from, to: from + 4_000, hinders: Some(Hindered::StoodStill), what: String::new() };
    history.accepted[2].at = intended + 4_005;
    let later: Vec<_> = history.journal.iter().map(|line| line.timestamp).collect();
    for (line, at) in history.journal.iter_mut().zip(later) {
        if at > intended {
            line.timestamp = at + 4_000;
        }
    }
    assert_eq!(kinds(&history), [Kind::AfterSuppression]);
    history.deeds.push(stopped(intended + 1));
    assert_eq!(kinds(&history), []);
    // It was stopped before it meant to send, or long after it was to know.
    for from in [intended - 1, intended + 1_200] {
        *history.deeds.last_mut().unwrap() = stopped(from);
        assert_eq!(kinds(&history), [Kind::AfterSuppression], "{from}");
    }
}
