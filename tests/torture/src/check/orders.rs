//! Orders of operators: an acknowledged one holds, does what it does once, and nothing is done that nobody ordered.
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::suppressions::was_being_written;
use super::{Facts, Found, Kind, Rules};
use crate::history::{Enrolment, History, Line, Order, Verb};
use crate::orders::OPERATOR;
use crate::plan::Held;

/// Every promise about orders.
pub(super) fn check(history: &History, facts: &Facts<'_>, rules: Rules, found: &mut Found) {
    let mut traces: HashMap<&str, Vec<&Line>> = HashMap::new();
    for line in history.journal.iter().filter(|line| line.by.is_some()) {
        traces.entry(line.reason.as_deref().unwrap_or_default()).or_default().push(line);
    }
    for order in &history.orders {
        let lines = traces.get(order.id.as_str()).map(Vec::as_slice).unwrap_or_default();
        traced(history, facts, order, lines, found);
        let Some(acknowledged) = order.acknowledged() else { continue };
        again(history, order, lines, found);
        match &order.verb {
            Verb::Pause(held) => paused(history, facts, order, held, acknowledged, rules, found),
            Verb::Stop(address, sequence) => {
                let stop = Stop { address, sequence: sequence.as_deref(), lines, since: acknowledged + rules.grace_ms };
                stop.check(history, facts, found);
            }
            Verb::Resume(_) | Verb::Restart(..) => {}
        }
    }
    unordered(history, facts, found);
    intents(history, facts, found);
    left_held(history, found);
}

/// So many enrolments in a sequence are by an operator's restart: at least, and at most.
pub(super) fn restarts(history: &History) -> HashMap<(&str, &str), (usize, usize)> {
    let mut restarts: HashMap<_, (usize, usize)> = HashMap::new();
    for order in &history.orders {
        let Verb::Restart(address, sequence) = &order.verb else { continue };
        let (least, most) = restarts.entry((address.as_str(), sequence.as_str())).or_default();
        *least += usize::from(order.acknowledged().is_some());
        *most += usize::from(!order.came_to_nothing());
    }
    restarts
}

/// What an order did, as the journal tells: at once and once, if it was acknowledged; nothing, if it was refused.
fn traced(history: &History, facts: &Facts<'_>, order: &Order, lines: &[&Line], found: &mut Found) {
    // A pause of a sequence, or of the provider, is journalled before it is written, and so perhaps more often.
    let Some(address) = order.verb.address() else { return };
    let at = Some(order.first_sent);
    let told = || {
        let told = lines.iter().map(|line| format!("{} at {}", line.event, line.timestamp));
        format!("[{}] for {order}", told.collect::<Vec<_>>().join(", "))
    };
    let is_told = lines.iter().any(|line| line.event == order.verb.event());
    if let Some(acknowledged) = order.acknowledged()
        && !is_told
        && !(matches!(order.verb, Verb::Pause(_)) && is_paused(history, facts, address, acknowledged))
    {
        let expected = format!("`{}` in the journal: it was acknowledged", order.verb.event());
        found.add(Kind::NotObeyed, address, at, expected, told());
    }
    if order.came_to_nothing() && !lines.is_empty() {
        found.add(Kind::NotObeyed, address, at, "nothing in the journal: it was refused", told());
    }
    let times: BTreeSet<_> = lines.iter().map(|line| line.timestamp).collect();
    let parts: BTreeSet<_> = lines.iter().map(|line| (&line.event, &line.sequence)).collect();
    if times.len() > 1 || parts.len() < lines.len() {
        found.add(Kind::OrderedTwice, address, at, "one change, at once", told());
    }
    if let (Some(_), Some(code)) = (order.acknowledged(), order.repeat.as_ref().and_then(|it| it.refused.as_ref())) {
        found.add(
            Kind::OrderedTwice,
            address,
            at,
            "an acknowledgement for its repeat, too",
            format!("{code}: {order}"),
        );
    }
}

/// Whether the lead was paused at that time by whatever order: another pause changes nothing then. An engine that stood still
/// carries out what it was sent long ago.
fn is_paused(history: &History, facts: &Facts<'_>, address: &str, at: u64) -> bool {
    let Some(document) = facts.documents.get(address) else { return false };
    let of_lead = history.journal.iter().filter(|line| line.lead_id == document.lead_id && line.timestamp <= at);
    let by_hand = of_lead.filter(|line| line.by.is_some() && matches!(line.event.as_str(), "paused" | "resumed"));
    by_hand.max_by_key(|line| line.timestamp).is_some_and(|last| last.event == "paused")
}

/// A sequence or the provider is not paused, or resumed, by an order after the next one about it was acknowledged.
fn again(history: &History, order: &Order, lines: &[&Line], found: &mut Found) {
    let (Verb::Pause(held) | Verb::Resume(held)) = &order.verb else { return };
    let is_next = |later: &&Order| {
        let (Verb::Pause(it) | Verb::Resume(it)) = &later.verb else { return false };
        it == held && later.first_sent > order.first_sent
    };
    let next = history.orders.iter().filter(is_next).filter_map(Order::acknowledged).min();
    for line in lines.iter().filter(|line| next.is_some_and(|next| line.timestamp > next)) {
        if order.verb.address().is_none() {
            let expected = format!("nothing of {order} any more");
            found.add(Kind::OrderedTwice, "", Some(line.timestamp), expected, format!("`{}`", line.event));
        }
    }
}

/// Nothing goes of what is paused, from the acknowledgement until its end is ordered.
fn paused(
    history: &History,
    facts: &Facts<'_>,
    order: &Order,
    held: &Held,
    acknowledged: u64,
    rules: Rules,
    found: &mut Found,
) {
    let since = acknowledged + rules.grace_ms;
    let is_end = |later: &&Order| matches!(&later.verb, Verb::Resume(it) if it == held);
    let end = history.orders.iter().filter(|later| later.first_sent >= acknowledged).find(is_end);
    let until = end.map_or(u64::MAX, |end| end.first_sent);
    for email in history.accepted.iter().filter(|email| since < email.at && email.at < until) {
        let is_held = match held {
            Held::Lead(address) => **address == *email.to,
            Held::Sequence(name) => **name == *email.sequence,
            Held::Provider => true,
        };
        if is_held && !was_being_written(history, facts, email, since, rules) {
            let expected = format!("no email between {since} and {until}, as {order}");
            let seen = format!("step `{}` of `{}` {} ms after it", email.step, email.sequence, email.at - acknowledged);
            found.add(Kind::WhilePaused, &email.to, Some(email.at), expected, seen);
        }
    }
}

/// An acknowledged stop.
struct Stop<'a> {
    address: &'a str,
    sequence: Option<&'a str>,
    lines: &'a [&'a Line],
    since: u64,
}

impl Stop<'_> {
    /// Nothing goes of the enrolments that had begun.
    fn check(&self, history: &History, facts: &Facts<'_>, found: &mut Found) {
        let Self { address, sequence, lines, since } = self;
        let Some(stopped) = lines.iter().map(|line| line.timestamp).min() else { return };
        let Some(document) = facts.documents.get(address) else { return };
        let had_begun = |enrolment: &&Enrolment| {
            sequence.is_none_or(|sequence| enrolment.sequence == sequence) && enrolment.began_at < stopped
        };
        for enrolment in document.enrollments.iter().filter(had_begun) {
            for email in &history.accepted {
                if email.at > *since && enrolment.send_keys.iter().any(|key| **key == *email.send_key) {
                    let (number, name) = (enrolment.number, &enrolment.sequence);
                    let expected = format!("no email of enrolment {number} in `{name}` after {since}: it was stopped");
                    found.add(Kind::AfterStop, address, Some(email.at), expected, format!("step `{}`", email.step));
                }
            }
        }
    }
}

/// What the journal has as somebody's doing was ordered, of this lead.
fn unordered(history: &History, facts: &Facts<'_>, found: &mut Found) {
    let orders: HashMap<_, _> = history.orders.iter().map(|order| (order.id.as_str(), order)).collect();
    for line in history.journal.iter().filter(|line| line.by.is_some()) {
        let order = line.reason.as_deref().and_then(|reason| orders.get(reason));
        let address = facts.addresses.get(line.lead_id.as_str()).copied();
        let is_ordered = line.by.as_deref() == Some(OPERATOR)
            && order.is_some_and(|order| {
                let is_its = match &order.verb {
                    // What begins anew ends first.
                    Verb::Restart(..) => matches!(line.event.as_str(), "restarted" | "enrolled"),
                    verb => line.event == verb.event(),
                };
                is_its && order.verb.address() == address
            });
        if !is_ordered {
            let Line { event, timestamp, reason, by, .. } = line;
            let seen = format!("`{event}` by {by:?}, reason {reason:?}");
            let address = address.unwrap_or_default();
            found.add(Kind::Unordered, address, Some(*timestamp), "nothing that nobody ordered", seen);
        }
    }
}

/// In the order in which it was written: no step begins of what is paused or stopped.
fn intents(history: &History, facts: &Facts<'_>, found: &mut Found) {
    let mut paused: BTreeMap<&str, &Line> = BTreeMap::new();
    let mut stopped: BTreeMap<(&str, &str), &Line> = BTreeMap::new();
    for line in &history.journal {
        let lead = line.lead_id.as_str();
        match (line.event.as_str(), line.sequence.as_deref()) {
            ("paused", None) => drop(paused.insert(lead, line)),
            ("resumed", None) => drop(paused.remove(lead)),
            ("stopped", Some(sequence)) => drop(stopped.insert((lead, sequence), line)),
            ("enrolled", Some(sequence)) => drop(stopped.remove(&(lead, sequence))),
            ("sending", Some(sequence)) => {
                let held = paused.get(lead).map(|since| (Kind::WhilePaused, since));
                let ended = stopped.get(&(lead, sequence)).map(|since| (Kind::AfterStop, since));
                for (kind, since) in [held, ended].into_iter().flatten() {
                    let address = facts.addresses.get(lead).copied().unwrap_or_default();
                    let expected = format!("no intent after `{}` at {}", since.event, since.timestamp);
                    let seen = format!("one of step `{}` in `{sequence}`", line.step.as_deref().unwrap_or_default());
                    found.add(kind, address, Some(line.timestamp), expected, seen);
                }
            }
            _ => {}
        }
    }
}

/// What was resumed is not held back again by the order that was answered before.
fn left_held(history: &History, found: &mut Found) {
    for left in &history.left_held {
        let order = history.orders.iter().find(|order| order.id == left.reason);
        let acknowledged = order.and_then(Order::acknowledged);
        let is_resumed = |order: &Order| {
            matches!(&order.verb, Verb::Resume(held) if *held == left.held)
                && acknowledged.is_some_and(|acknowledged| order.first_sent >= acknowledged)
                && order.answer.as_ref().is_some_and(|answer| answer.at <= left.at)
        };
        if history.orders.iter().any(is_resumed) {
            let address = match &left.held {
                Held::Lead(address) => address,
                Held::Sequence(_) | Held::Provider => "",
            };
            let order = order.map_or_else(|| left.reason.clone(), ToString::to_string);
            let seen = format!("{} is held back again by {order}", left.held);
            found.add(Kind::OrderedTwice, address, None, "what was resumed goes on", seen);
        }
    }
}
