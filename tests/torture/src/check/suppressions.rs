//! No email after no, whoever said it.
use std::collections::HashMap;

use dripline_stand_in::Accepted;

use super::{CLOCK_MS, Facts, Found, Kind, Rules};
use crate::history::{Hindered, History, Suppression};
use crate::plan::Cause;

/// What an engine had in its hands is delivered again within this time, and all connections to a server that is back are made.
const DELIVERED_MS: u64 = 5_000;

pub(super) fn check(history: &History, facts: &Facts<'_>, rules: Rules, found: &mut Found) {
    let mut heeded: HashMap<(&str, &str), u64> = HashMap::new();
    for line in &history.journal {
        let first = heeded.entry((&line.lead_id, &line.event)).or_insert(line.timestamp);
        *first = (*first).min(line.timestamp);
    }
    for suppression in &history.suppressions {
        let Suppression { address, cause, acknowledged } = suppression;
        let (kind, event) = match cause {
            // In the bucket itself, which every engine watches.
            Cause::Operator => (Kind::AfterSuppression, None),
            Cause::Unsubscribe => (Kind::AfterUnsubscribe, Some("unsubscribed")),
            Cause::Complaint => (Kind::AfterFeedback, Some("complained")),
            Cause::HardBounce => (Kind::AfterFeedback, Some("hard_bounced")),
        };
        // The others are in a queue: what counts is when an engine has read it, and that has its time.
        let known = match event {
            None => *acknowledged,
            Some(event) => {
                let lead_id = facts.documents.get(address.as_str()).map(|it| it.lead_id.as_str());
                let heeded = lead_id.and_then(|lead_id| heeded.get(&(lead_id, event)));
                if heeded.is_none() {
                    let expected = format!("`{event}` in the journal");
                    found.add(Kind::Unheeded, address, Some(*acknowledged), expected, "nothing");
                }
                let in_time = read_by(history, *acknowledged, rules);
                heeded.map_or(in_time, |heeded| in_time.min((*heeded).max(*acknowledged)))
            }
        };
        let since = known + rules.grace_ms;
        for email in history.accepted.iter().filter(|email| *email.to == **address && email.at > since) {
            if was_being_written(history, facts, email, since, rules) {
                continue;
            }
            let seen = format!("step `{}` accepted {} ms after {cause:?}", email.step, email.at - acknowledged);
            let expected = format!("no email after {since}, {} ms after it was known", rules.grace_ms);
            found.add(kind, address, Some(email.at), expected, seen);
        }
    }
}

/// By when an engine has read what waits for it since then: within the grace, but for what is hindered meanwhile, and for so
/// long after that.
fn read_by(history: &History, acknowledged: u64, rules: Rules) -> u64 {
    let hindered = history.deeds.iter().filter(|deed| deed.hinders.is_some());
    let mut hindrances: Vec<_> = hindered.map(|deed| (deed.from, deed.to + DELIVERED_MS)).collect();
    hindrances.sort_unstable();
    let told = acknowledged + rules.grace_ms;
    hindrances
        .iter()
        .fold(acknowledged, |known, &(from, over)| if from <= known.max(told) { known.max(over) } else { known })
}

/// Whether the call was under way when an engine stood still, before the no counted, and went on with it: a thread that is
/// stopped between its last look at the clock and its write ends that one write when it goes on. No client can close that.
pub(super) fn was_being_written(
    history: &History,
    facts: &Facts<'_>,
    email: &Accepted,
    since: u64,
    rules: Rules,
) -> bool {
    let Some(document) = facts.documents.get(&*email.to) else { return false };
    let intents = history.journal.iter().filter(|line| {
        line.lead_id == document.lead_id
            && line.event == "sending"
            && line.step.as_deref() == Some(&*email.step)
            && line.timestamp <= email.at + CLOCK_MS
    });
    let Some(intended) = intents.map(|line| line.timestamp).max() else { return false };
    history.deeds.iter().any(|deed| {
        deed.hinders == Some(Hindered::StoodStill)
            && (intended..=since).contains(&deed.from)
            && (deed.to.saturating_sub(CLOCK_MS)..=deed.to + rules.grace_ms).contains(&email.at)
    })
}
