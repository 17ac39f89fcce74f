use proptest::prelude::*;
use serde_json::json;

use super::*;

fn line(event: &str, sequence: &str, version: u32, step: Option<&str>) -> JournalLine {
    let line = json!({
        "leadId": "ld_1", "generation": 3, "timestamp": 1_700_000_000_000_i64, "event": event,
        "sequence": sequence, "version": version, "step": step, "provider": "sendgrid",
    });
    JournalLine::from_json(line.to_string().as_bytes()).unwrap()
}

fn counted(lines: &[JournalLine]) -> Statistics {
    let mut statistics = Statistics::default();
    for line in lines {
        statistics.count(line, &CountingRules::default());
    }
    statistics
}

#[test]
fn each_event_counts_at_its_sequence_version_and_step() {
    let events = [
        "sent",
        "delivered",
        "opened",
        "clicked",
        "deferred",
        "soft_bounced",
        "hard_bounced",
        "dropped",
        "complained",
        "unsubscribed",
        "in_doubt",
        "parked",
    ];
    let lines: Vec<_> = events.iter().map(|event| line(event, "welcome", 2, Some("first"))).collect();
    let statistics = counted(&lines);
    let step = serde_json::to_value(statistics.sequences["welcome"].versions[&2].steps["first"]).unwrap();
    let counts = step.as_object().unwrap();
    assert_eq!(counts.len(), events.len());
    assert!(counts.values().all(|count| count == 1), "{step}");
}

#[test]
fn an_enrolments_end_counts_at_its_version() {
    let events = ["enrolled", "enrolled", "completed", "suppressed", "restarted", "stopped"];
    let lines: Vec<_> = events.iter().map(|event| line(event, "welcome", 1, None)).collect();
    let version = &counted(&lines).sequences["welcome"].versions[&1];
    let counts = EnrolmentCounts { enrolled: 2, completed: 1, suppressed: 1, restarted: 1, stopped: 1 };
    assert_eq!((version.enrolments, version.steps.len()), (counts, 0));
}

#[test]
fn what_is_no_event_of_an_email_leaves_no_trace_and_neither_does_what_is_excluded() {
    let rules = CountingRules { exclude: vec!["canary".to_owned()], ..CountingRules::default() };
    let mut statistics = Statistics::default();
    for line in [
        line("sending", "welcome", 1, Some("first")),
        line("sequence_paused", "welcome", 1, None),
        line("invented_by_a_later_version", "welcome", 1, None),
        line("sent", "canary", 1, Some("first")),
    ] {
        assert_eq!(statistics.count(&line, &rules), Counted::Nothing, "{line:?}");
    }
    assert_eq!(statistics, Statistics::default());
}

#[test]
fn a_complaint_of_nobody_knows_which_email_is_counted_apart() {
    let mut complaint = line("complained", "", 1, None);
    complaint.sequence = None;
    assert_eq!(counted(&[complaint]).unattributed, EmailCounts { complained: 1, ..EmailCounts::default() });
}

#[test]
fn bounces_after_a_batch_count_against_the_provider_and_a_resume_begins_anew() {
    let mut statistics = Statistics::default();
    let rules = CountingRules::default();
    let mut sent = line("sent", "welcome", 1, Some("first"));
    sent.provider = Some("sendgrid-batch".into());
    for _ in 0..100 {
        statistics.count(&sent, &rules);
    }
    let bounced = line("hard_bounced", "welcome", 1, Some("first"));
    let mut stops = (0..6).map(|_| statistics.count(&bounced, &rules)).filter_map(|counted| match counted {
        Counted::Sequence { must_stop } => must_stop,
        Counted::Nothing | Counted::Unattributed => None,
    });
    let why = stops.next().unwrap();
    assert!(why.starts_with("by sendgrid: 6 of 100 emails bounced"), "{why}");
    assert_eq!(stops.next(), None);
    statistics.count(&line("sequence_resumed", "welcome", 1, None), &rules);
    assert_eq!(statistics.count(&bounced, &rules), Counted::Sequence { must_stop: None });
    let step = &statistics.sequences["welcome"].versions[&1].steps["first"];
    assert_eq!((step.sent, step.hard_bounced), (100, 7), "the counts stay");
}

#[test]
fn many_versions_of_many_steps_are_added_up_and_nothing_is_lost() {
    let mut lines = Vec::new();
    for version in 1..=60 {
        for step in 0..100 {
            lines.push(line("sent", "welcome", version, Some(&format!("step-{step}"))));
        }
    }
    let statistics = counted(&lines);
    let welcome = &statistics.sequences["welcome"];
    let kept: u64 = welcome.versions.values().map(|version| version.emails().sent).sum();
    assert_eq!(kept + welcome.earlier.as_ref().unwrap().emails().sent, 6_000);
    assert!(welcome.versions.contains_key(&60) && !welcome.versions.contains_key(&1));
    assert!(serde_json::to_vec(welcome).unwrap().len() < 700_000);
}

#[test]
fn a_stored_sequence_reads_as_it_was() {
    let lines = [
        line("sent", "welcome", 1, Some("b")),
        line("sent", "welcome", 1, Some("a")),
        line("enrolled", "welcome", 2, None),
    ];
    let welcome = counted(&lines).sequences.remove("welcome").unwrap();
    let stored = serde_json::to_vec(&welcome).unwrap();
    let read: SequenceStatistics = serde_json::from_slice(&stored).unwrap();
    assert_eq!(read, welcome);
    assert_eq!(read.versions[&1].steps.keys().collect::<Vec<_>>(), ["b", "a"], "in order of first sending");
}

proptest! {
    /// Stored and read again after any line, it goes on as if nothing had been: what a crash leaves.
    #[test]
    fn going_on_from_what_was_stored_gives_the_same_numbers(
        events in prop::collection::vec((0..5_usize, 1..4_u32, 0..3_usize), 0..200), cut in 0..200_usize
    ) {
        let names = ["sent", "hard_bounced", "complained", "enrolled", "sequence_resumed"];
        let lines: Vec<_> = events
            .iter()
            .map(|&(event, version, step)| line(names[event], "welcome", version, Some(["a", "b", "c"][step])))
            .collect();
        let whole = counted(&lines);
        let (before, after) = lines.split_at(cut.min(lines.len()));
        let mut again = counted(before);
        for sequence in again.sequences.values_mut() {
            *sequence = serde_json::from_slice(&serde_json::to_vec(sequence).unwrap()).unwrap();
        }
        for line in after {
            again.count(line, &CountingRules::default());
        }
        prop_assert_eq!(&again, &whole);
        prop_assert!(again.same_counts(&whole));
    }
}
