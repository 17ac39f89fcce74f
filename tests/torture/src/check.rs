//! Whether a history keeps the promises. Nothing here knows how a step is carried out: it compares what was promised with
//! what was seen.
mod orders;
mod story;
mod suppressions;

use std::collections::{HashMap, HashSet};
use std::fmt;

use dripline_stand_in::Accepted;
use serde::{Deserialize, Serialize};

use crate::history::{Document, Enrolment, History, Line};
use crate::plan::Sequence;

pub use story::story;

/// Clocks are read before a thing happens, and in whole milliseconds.
const CLOCK_MS: u64 = 20;

/// The queue knows an idempotency key for two minutes. A source that needed about as long may be a second arrival.
const KEY_HOLDS_MS: u64 = 110_000;

/// What is done about an attempt whose answer is lost, as configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum InDoubt {
    /// Nothing: it is held.
    #[default]
    Hold,
    /// The email may go once more.
    Resend,
    /// The next step comes; the email may not have gone at all.
    Skip,
}

/// What counts as kept.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// So long after a suppression, a pause or a stop was acknowledged an email may still be accepted.
    pub grace_ms: u64,
    /// As configured.
    pub in_doubt: InDoubt,
}

impl Default for Rules {
    fn default() -> Self {
        Self { grace_ms: 1_000, in_doubt: InDoubt::Hold }
    }
}

/// What was promised and not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A source tried to the end and has no 202.
    NeverTaken,
    /// A 202 without a document.
    LostLead,
    /// A document under another id than the source was told.
    OtherId,
    /// A 202 that led to no enrolment, though the address is not suppressed.
    NotEnrolled,
    /// More enrolments in a sequence than arrivals and restarts.
    EnrolledTooOften,
    /// A step that is over, and no email of it was accepted.
    Missing,
    /// An email accepted more often than it may be.
    Twice,
    /// An email of a step that had not been its turn yet.
    Ahead,
    /// Emails of one enrolment in another order than their steps.
    OutOfOrder,
    /// Sooner than its delay after the email before it.
    TooEarly,
    /// Accepted although an operator had suppressed the address.
    AfterSuppression,
    /// Accepted although the person had unsubscribed.
    AfterUnsubscribe,
    /// Accepted although the provider had told of a complaint, or of a hard bounce.
    AfterFeedback,
    /// A person's wish or a provider's word got its 200, and nothing came of it.
    Unheeded,
    /// Accepted, or begun, while an operator held it back.
    WhilePaused,
    /// Accepted, or begun, after an operator had stopped it.
    AfterStop,
    /// An order that was acknowledged and not carried out, or refused and carried out.
    NotObeyed,
    /// An order that was carried out once more.
    OrderedTwice,
    /// Done in an operator's name, and not ordered.
    Unordered,
    /// An email that belongs to no promise, or to no enrolment.
    Stray,
    /// Accepted before, or without, an intent in the journal.
    NoIntent,
    /// A document's state is not in the journal.
    NotInJournal,
    /// A good lead in `REJECTED`.
    Rejected,
    /// Parked, though nothing was done that parks a lead.
    Parked,
    /// Did not come to rest.
    Stuck,
    /// Anything else.
    Odd,
}

/// One promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which promise.
    pub kind: Kind,
    /// Whose; empty where it is nobody's in particular.
    pub address: String,
    /// When, where there is such a moment.
    pub at: Option<u64>,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub seen: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, address, at, expected, seen } = self;
        write!(f, "{kind:?} {address}")?;
        if let Some(at) = at {
            write!(f, " at {at}")?;
        }
        write!(f, ": expected {expected}; saw {seen}")
    }
}

/// Attempts that were declared as in doubt.
pub fn doubts(history: &History) -> usize {
    history.journal.iter().filter(|line| line.event == "in_doubt").count()
}

/// Everything that does not hold, in no particular order.
pub fn check(history: &History, rules: Rules) -> Vec<Violation> {
    let facts = Facts::of(history);
    let mut found = Found(Vec::new());
    promises(history, &facts, &mut found);
    for document in &history.documents {
        for enrolment in &document.enrollments {
            if let Some(sequence) = facts.sequences.get(enrolment.sequence.as_str()) {
                let subject = Subject { document, enrolment, sequence, facts: &facts, rules };
                subject.counts(&mut found);
                subject.order(&mut found);
                subject.state(&mut found);
            }
        }
    }
    strays(history, &facts, &mut found);
    suppressions::check(history, &facts, rules, &mut found);
    orders::check(history, &facts, rules, &mut found);
    for rejected in &history.rejected {
        let seen = format!("{} ({}): {}", rejected.subject, rejected.reason, rejected.payload);
        found.add(Kind::Rejected, "", None, "no good lead in REJECTED", seen);
    }
    for stuck in &history.stuck {
        found.add(Kind::Stuck, "", None, "rest, once nothing goes wrong any more", stuck);
    }
    for odd in &history.odd {
        found.add(Kind::Odd, "", None, "nothing of the kind", odd);
    }
    found.0
}

struct Found(Vec<Violation>);

impl Found {
    fn add(
        &mut self,
        kind: Kind,
        address: &str,
        at: Option<u64>,
        expected: impl Into<String>,
        seen: impl Into<String>,
    ) {
        let (address, expected, seen) = (address.to_owned(), expected.into(), seen.into());
        self.0.push(Violation { kind, address, at, expected, seen });
    }
}

/// A step of an enrolment: lead id, sequence, number of the enrolment, step id.
type Place<'a> = (&'a str, &'a str, u32, &'a str);

/// The history, as it is asked.
struct Facts<'a> {
    sequences: HashMap<&'a str, &'a Sequence>,
    documents: HashMap<&'a str, &'a Document>,
    /// By lead id.
    addresses: HashMap<&'a str, &'a str>,
    /// By send key, in order of time.
    accepted: HashMap<&'a str, Vec<&'a Accepted>>,
    doubted: HashSet<Place<'a>>,
    /// When the first intent was written.
    intents: HashMap<Place<'a>, u64>,
    /// Lead id, sequence, event.
    events: HashSet<(&'a str, &'a str, &'a str)>,
}

impl<'a> Facts<'a> {
    fn of(history: &'a History) -> Self {
        let mut accepted: HashMap<_, Vec<_>> = HashMap::new();
        for email in &history.accepted {
            accepted.entry(&*email.send_key).or_default().push(email);
        }
        let (mut doubted, mut intents, mut events) = (HashSet::new(), HashMap::new(), HashSet::new());
        // The journal does not number enrolments, but has them in order: intents and doubts belong to the newest.
        let mut numbers: HashMap<(&str, &str), u32> = HashMap::new();
        for Line { lead_id, timestamp, event, sequence, step, .. } in &history.journal {
            let Some(sequence) = sequence.as_deref() else { continue };
            let number = numbers.entry((lead_id, sequence)).or_default();
            if event == "enrolled" {
                *number += 1;
            }
            events.insert((lead_id.as_str(), sequence, event.as_str()));
            let Some(step) = step.as_deref() else { continue };
            let place = (lead_id.as_str(), sequence, *number, step);
            match event.as_str() {
                "in_doubt" => drop(doubted.insert(place)),
                "sending" => {
                    let first: &mut u64 = intents.entry(place).or_insert(*timestamp);
                    *first = (*first).min(*timestamp);
                }
                _ => {}
            }
        }
        Self {
            sequences: history.sequences.iter().map(|sequence| (sequence.name.as_str(), sequence)).collect(),
            documents: history.documents.iter().map(|document| (document.email.as_str(), document)).collect(),
            addresses: history.documents.iter().map(|it| (it.lead_id.as_str(), it.email.as_str())).collect(),
            accepted,
            doubted,
            intents,
            events,
        }
    }
}

/// No lead is lost, and none is two.
fn promises(history: &History, facts: &Facts<'_>, found: &mut Found) {
    let mut arrivals: HashMap<(&str, &str), (usize, bool)> = HashMap::new();
    for submission in &history.submissions {
        let (address, sequence) = (submission.address.as_str(), submission.sequence.as_str());
        let (count, slow) = arrivals.entry((address, sequence)).or_default();
        *count += 1;
        let Some(promise) = &submission.promise else {
            *slow = true;
            let refused = submission.refused.as_deref().unwrap_or("no answer, or none that is clear");
            let seen = format!("no 202 for {} after {} tries; {refused}", submission.key, submission.tries);
            found.add(Kind::NeverTaken, address, Some(submission.first_tried), "202", seen);
            continue;
        };
        *slow |= submission.last_tried > submission.first_tried + KEY_HOLDS_MS;
        let Some(document) = facts.documents.get(address) else {
            found.add(Kind::LostLead, address, Some(promise.at), "a document", "none");
            continue;
        };
        if document.lead_id != promise.lead_id {
            found.add(Kind::OtherId, address, Some(promise.at), &promise.lead_id, &document.lead_id);
        }
        let enrolled = document.enrollments.iter().any(|enrolment| enrolment.sequence == sequence);
        if !enrolled && document.suppressed.is_none() {
            let seen = format!("no enrolment; the document is {}", document.status);
            found.add(Kind::NotEnrolled, address, Some(promise.at), format!("an enrolment in `{sequence}`"), seen);
        }
    }
    let restarts = orders::restarts(history);
    for ((address, name), (count, slow)) in arrivals {
        let (Some(document), Some(sequence)) = (facts.documents.get(address), facts.sequences.get(name)) else {
            continue;
        };
        let of_it = document.enrollments.iter().filter(|enrolment| enrolment.sequence == name);
        let enrolments = of_it.map(|enrolment| enrolment.number as usize).max().unwrap_or(0);
        let arrived = if sequence.restarts { count } else { 1 };
        let (least, most) = restarts.get(&(address, name)).copied().unwrap_or_default();
        let (least, most) = (arrived + least, arrived + most);
        if enrolments > most && !slow {
            let expected = format!("at most {most} enrolments in `{name}`, of {count} arrivals and its restarts");
            found.add(Kind::EnrolledTooOften, address, None, expected, format!("{enrolments}"));
        } else if enrolments < least && document.suppressed.is_none() && enrolments > 0 && !slow {
            let expected = format!("{least} enrolments in `{name}`, one an arrival and one a restart");
            found.add(Kind::NotEnrolled, address, None, expected, format!("{enrolments}"));
        }
    }
}

/// One enrolment under examination.
struct Subject<'a> {
    document: &'a Document,
    enrolment: &'a Enrolment,
    sequence: &'a Sequence,
    facts: &'a Facts<'a>,
    rules: Rules,
}

impl<'a> Subject<'a> {
    fn place(&self, step: usize) -> Place<'a> {
        let Self { document, enrolment, sequence, .. } = self;
        (&document.lead_id, &enrolment.sequence, enrolment.number, &sequence.steps[step].id)
    }

    fn doubted(&self, step: usize) -> bool {
        self.facts.doubted.contains(&self.place(step))
    }

    fn emails(&self, step: usize) -> &[&'a Accepted] {
        let key = self.enrolment.send_keys.get(step).map(String::as_str).unwrap_or_default();
        self.facts.accepted.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    fn whole(&self, step: usize) -> String {
        let Enrolment { sequence, number, step: at, status, reason, .. } = self.enrolment;
        let reason = reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let doubted = if self.doubted(step) { ", declared in doubt" } else { "" };
        let id = &self.sequence.steps[step].id;
        format!("step `{id}`{doubted}, of enrolment {number} in `{sequence}`, which is {status}{reason} at step {at}")
    }

    /// Each step's email, as often as it may and must have gone.
    fn counts(&self, found: &mut Found) {
        for step in 0..self.sequence.steps.len() {
            let emails = self.emails(step);
            let doubted = self.doubted(step);
            let most = match step.cmp(&self.enrolment.step) {
                std::cmp::Ordering::Greater => 0,
                _ if doubted && self.rules.in_doubt == InDoubt::Resend => 2,
                std::cmp::Ordering::Less => 1,
                std::cmp::Ordering::Equal => match self.enrolment.status.as_str() {
                    // The attempt was open, or may have been when the enrolment was stopped.
                    "IN_DOUBT" | "SENDING" | "STOPPED" => 1,
                    _ => usize::from(doubted),
                },
            };
            let least = usize::from(step < self.enrolment.step && !(doubted && self.rules.in_doubt == InDoubt::Skip));
            let times = || emails.iter().map(|email| email.at.to_string()).collect::<Vec<_>>().join(", ");
            let at = emails.get(most).or(emails.last()).map(|email| email.at);
            if emails.len() > most {
                let kind = if most == 0 { Kind::Ahead } else { Kind::Twice };
                let seen = format!("{} at {}, for {}", emails.len(), times(), self.whole(step));
                found.add(kind, &self.document.email, at, format!("{most} emails at most"), seen);
            } else if emails.len() < least {
                let seen = format!("none for {}", self.whole(step));
                found.add(Kind::Missing, &self.document.email, None, "an email", seen);
            }
            for email in emails {
                let intent = self.facts.intents.get(&self.place(step));
                if intent.is_none_or(|&intent| email.at + CLOCK_MS < intent) {
                    let seen = format!("the first intent at {intent:?}, for {}", self.whole(step));
                    found.add(Kind::NoIntent, &self.document.email, Some(email.at), "an intent before it", seen);
                }
            }
        }
    }

    /// One after the other, each after its delay.
    fn order(&self, found: &mut Found) {
        // When an email in doubt goes is no longer its own decision.
        let steps = 0..self.sequence.steps.len();
        let first: Vec<_> = steps
            .filter(|&step| self.rules.in_doubt == InDoubt::Hold || !self.doubted(step))
            .filter_map(|step| Some((step, self.emails(step).first()?.at)))
            .collect();
        if let [(0, at), ..] = first[..] {
            self.delay(0, self.enrolment.began_at, at, found);
        }
        for pair in first.windows(2) {
            let ((earlier, before), (later, after)) = (pair[0], pair[1]);
            if after < before {
                let expected = format!("step {earlier} before step {later}");
                let seen = format!("{before} and {after}, for {}", self.whole(later));
                found.add(Kind::OutOfOrder, &self.document.email, Some(after), expected, seen);
            } else if earlier + 1 == later {
                self.delay(later, before, after, found);
            }
        }
    }

    fn delay(&self, step: usize, before: u64, at: u64, found: &mut Found) {
        let delay = self.sequence.steps[step].after_ms;
        if at + CLOCK_MS < before + delay {
            let seen = format!("{} ms after {before}, for {}", at.saturating_sub(before), self.whole(step));
            found.add(Kind::TooEarly, &self.document.email, Some(at), format!("{delay} ms"), seen);
        }
    }

    /// Its last state is one that the journal tells of.
    fn state(&self, found: &mut Found) {
        let Enrolment { sequence, status, step, .. } = self.enrolment;
        let told = |event: &str| self.facts.events.contains(&(&*self.document.lead_id, &**sequence, event));
        let missing = match status.as_str() {
            "COMPLETED" if !told("completed") => Some("completed"),
            "IN_DOUBT" if !told("in_doubt") => Some("in_doubt"),
            "PARKED" if !told("parked") => Some("parked"),
            _ if !told("enrolled") => Some("enrolled"),
            _ => None,
        };
        let last = self.sequence.steps.len().saturating_sub(1);
        if let Some(event) = missing {
            let expected = format!("`{event}` in the journal");
            found.add(Kind::NotInJournal, &self.document.email, None, expected, self.whole((*step).min(last)));
        }
        if status == "PARKED" {
            let seen = self.whole((*step).min(last));
            found.add(Kind::Parked, &self.document.email, None, "no reason to park", seen);
        }
    }
}

/// No email without a promise.
fn strays(history: &History, facts: &Facts<'_>, found: &mut Found) {
    let submitted: HashSet<_> =
        history.submissions.iter().map(|it| (it.address.as_str(), it.sequence.as_str())).collect();
    let came: HashSet<_> = submitted.iter().map(|(address, _)| *address).collect();
    let mut keys = HashMap::new();
    for document in &history.documents {
        if !came.contains(document.email.as_str()) {
            found.add(Kind::Stray, &document.email, None, "no document of one who never came", &document.status);
        }
        for enrolment in &document.enrollments {
            keys.extend(enrolment.send_keys.iter().map(|key| (key.as_str(), document)));
        }
    }
    for email in &history.accepted {
        let seen = || format!("an email of step `{}` in `{}`, send key {}", email.step, email.sequence, email.send_key);
        if !submitted.contains(&(&*email.to, &*email.sequence)) {
            found.add(Kind::Stray, &email.to, Some(email.at), "no email to one who never came", seen());
        } else if facts.documents.contains_key(&*email.to)
            && keys.get(&*email.send_key).is_none_or(|document| *document.email != *email.to)
        {
            found.add(Kind::Stray, &email.to, Some(email.at), "a send key of one of its enrolments", seen());
        }
    }
}

#[cfg(test)]
mod tests;
