//! What a violation is understood by.
use std::collections::BTreeSet;

use crate::history::{Answer, History, Line, Order, Suppression};

/// Everything that was seen of one lead, and what was done to the system meanwhile, in order of time.
pub fn story(history: &History, address: &str) -> String {
    let lead_id = history.documents.iter().find(|document| document.email == address).map(|it| it.lead_id.as_str());
    let mut lines: BTreeSet<(u64, String)> = BTreeSet::new();
    for submission in history.submissions.iter().filter(|submission| submission.address == address) {
        let (key, tries) = (&submission.key, submission.tries);
        lines.insert((
            submission.first_tried,
            format!("source     {key} into `{}`, {tries} tries", submission.sequence),
        ));
        if tries > 1 {
            lines.insert((submission.last_tried, format!("source     {key} for the last time")));
        }
        if let Some(promise) = &submission.promise {
            lines.insert((promise.at, format!("gateway    202 for {key}, {}", promise.lead_id)));
        }
    }
    for Suppression { acknowledged, cause, .. } in history.suppressions.iter().filter(|it| it.address == address) {
        lines.insert((*acknowledged, format!("against    {cause:?} acknowledged")));
    }
    for order in history.orders.iter().filter(|order| order.verb.address() == Some(address)) {
        lines.extend(told(order));
    }
    for email in history.accepted.iter().filter(|email| *email.to == *address) {
        lines.insert((email.at, format!("provider   accepted `{}`, send key {}", email.step, email.send_key)));
    }
    for line in history.journal.iter().filter(|line| Some(line.lead_id.as_str()) == lead_id) {
        lines.insert((line.timestamp, journalled(line)));
    }
    // What was done to all meanwhile.
    let (first, last) = (lines.first().map_or(0, |line| line.0), lines.last().map_or(0, |line| line.0));
    let orders = history.orders.iter().filter(|order| order.verb.address().is_none()).flat_map(told);
    let controls = history.journal.iter().filter(|line| line.lead_id.is_empty());
    let meanwhile = orders.chain(controls.map(|line| (line.timestamp, journalled(line))));
    lines.extend(meanwhile.filter(|(at, _)| (first..=last).contains(at)));
    for deed in history.deeds.iter().filter(|deed| deed.from <= last && deed.to >= first) {
        lines.insert((deed.from, format!("torture    {} until {}", deed.what, deed.to)));
    }
    lines.into_iter().fold(String::new(), |story, (at, line)| story + &format!("  {at}  {line}\n"))
}

/// An order and its answers, each at its time.
fn told(order: &Order) -> Vec<(u64, String)> {
    let Order { id, verb, first_sent, tries, answer, repeat } = order;
    let mut lines = vec![(*first_sent, format!("operator   {id}: {verb}, {tries} tries"))];
    for (answer, which) in [(answer, ""), (repeat, ", asked again,")] {
        let Some(Answer { at, refused }) = answer else { continue };
        let said = refused.as_ref().map_or("acknowledged".to_owned(), |code| format!("refused: {code}"));
        lines.push((*at, format!("operator   {id}{which} {said}")));
    }
    lines
}

fn journalled(line: &Line) -> String {
    let Line { event, sequence, step, attempt, reason, .. } = line;
    let parts = [sequence.clone(), step.clone(), attempt.map(|it| format!("attempt {it}")), reason.clone()];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    format!("journal    {event}: {}", parts.join(", "))
}
