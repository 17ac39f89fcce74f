//! What was accepted and what was refused.
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::vendor::{IdempotencyKey, Letter, Search, Vendor};

/// How many refused requests are kept whole.
const REFUSALS_KEPT: usize = 100;

/// The window of [`Summary::peak_5s`], in milliseconds.
const PEAK_WINDOW: u64 = 5_000;

/// An email that a vendor would now deliver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Whose call it came by.
    pub provider: Vendor,
    /// Our name for this step of this enrolment of this lead.
    pub send_key: Arc<str>,
    /// The lead's opaque id.
    pub lead_id: Box<str>,
    /// The bare address.
    pub to: Box<str>,
    /// The sequence's name.
    pub sequence: Box<str>,
    /// The step's id.
    pub step: Box<str>,
    /// As sent.
    pub subject: Box<str>,
    /// Mailgun's domain, Postmark's message stream; empty for others.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub via: Box<str>,
    /// Postmark's `List-Unsubscribe`, as sent; empty for others.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub unsubscribe: Box<str>,
    /// The vendor's id, as answered.
    pub message_id: Arc<str>,
    /// When it was accepted, in milliseconds since 1970.
    pub at: u64,
}

/// The ledger in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Emails accepted.
    pub accepted: usize,
    /// Different send keys among them.
    pub distinct_send_keys: usize,
    /// `accepted` less `distinct_send_keys`: emails that someone got twice.
    pub duplicates: usize,
    /// Requests refused for not being what the vendor documents.
    pub refused: usize,
    /// Requests that met a [`crate::Fault`].
    pub faulted: usize,
    /// The most emails accepted within any 5 seconds.
    pub peak_5s: usize,
    /// Requests that asked for an email, and were answered.
    pub look_ups: usize,
    /// Emails accepted, by step id.
    pub by_step: BTreeMap<Box<str>, usize>,
    /// When the first was accepted, in milliseconds since 1970.
    pub first_at: Option<u64>,
    /// When the last was.
    pub last_at: Option<u64>,
}

/// A request that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Whose call it was; none if the path is nobody's.
    pub provider: Option<Vendor>,
    /// Method and path.
    pub request: String,
    /// What the vendor's documentation says otherwise.
    pub reason: String,
    /// As received.
    pub body: String,
}

/// What a vendor calls the emails of one request.
pub type MessageIds = Arc<[Arc<str>]>;

/// A request to be accepted.
pub struct Entry<'a> {
    /// Whose call it is.
    pub provider: Vendor,
    /// Its emails.
    pub letters: Vec<Letter>,
    /// Under which it is accepted once.
    pub idempotency: Option<IdempotencyKey<'a>>,
    /// The ids of its emails, or one for all of them.
    pub message_ids: MessageIds,
    /// Now, in milliseconds since 1970.
    pub at: u64,
    /// When the answer will be given: until then its idempotency key is busy.
    pub answered_at: u64,
}

/// What became of an entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered {
    /// Accepted, or accepted before under the same idempotency key, with these ids.
    Accepted(MessageIds),
    /// The idempotency key belongs to another body.
    BodyDiffers,
    /// The first request with this idempotency key is not answered yet.
    InProgress,
}

/// Everything that happened, behind one lock that is held for a few map insertions.
#[derive(Default)]
pub struct Ledger {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    accepted: Vec<Arc<Accepted>>,
    /// Where in `accepted` the last 5 seconds begin.
    window: usize,
    peak: usize,
    /// Where in `accepted` each first stands.
    send_keys: HashMap<Arc<str>, usize>,
    by_step: BTreeMap<Box<str>, usize>,
    seen: HashMap<Box<str>, Seen>,
    refused: usize,
    refusals: Vec<Refusal>,
    faulted: usize,
    look_ups: usize,
}

/// The first request of an idempotency key.
struct Seen {
    body: u64,
    message_ids: MessageIds,
    answered_at: u64,
}

impl Ledger {
    /// Accepts the letters of one request, unless its idempotency key was seen before.
    pub fn accept(&self, entry: Entry<'_>) -> Entered {
        let Entry { provider, letters, idempotency, message_ids, at, answered_at } = entry;
        let mut inner = self.lock();
        if let Some(IdempotencyKey { key, body }) = idempotency {
            let body = fingerprint(body);
            match inner.seen.get(key) {
                Some(seen) if seen.body != body => return Entered::BodyDiffers,
                Some(seen) if seen.answered_at > at => return Entered::InProgress,
                Some(seen) => return Entered::Accepted(seen.message_ids.clone()),
                None => {}
            }
            let message_ids = message_ids.clone();
            inner.seen.insert(key.into(), Seen { body, message_ids, answered_at });
        }
        for (letter, message_id) in letters.into_iter().zip(message_ids.iter().cycle()) {
            inner.record(provider, letter, message_id.clone(), at);
        }
        Entered::Accepted(message_ids)
    }

    /// The accepted emails that are searched for and that the vendor's index knows of. By send key, only the first.
    pub fn search(
        &self,
        provider: Vendor,
        search: &Search<'_>,
        indexed: impl Fn(&Accepted) -> bool,
    ) -> Vec<Arc<Accepted>> {
        let mut inner = self.lock();
        inner.look_ups += 1;
        let range = match &search.send_key {
            Some(send_key) => inner.send_keys.get(&**send_key).map_or(0..0, |first| *first..first + 1),
            None => inner.accepted.partition_point(|email| email.at < search.since)..inner.accepted.len(),
        };
        let found = |email: &&Arc<Accepted>| email.provider == provider && search.wants(email) && indexed(email);
        inner.accepted[range].iter().filter(found).cloned().collect()
    }

    /// Counts a refused request, and keeps it if it is one of the first.
    pub fn refuse(&self, refusal: impl FnOnce() -> Refusal) {
        let mut inner = self.lock();
        inner.refused += 1;
        if inner.refusals.len() < REFUSALS_KEPT {
            inner.refusals.push(refusal());
        }
    }

    /// Counts a request that met a fault.
    pub fn count_fault(&self) {
        self.lock().faulted += 1;
    }

    /// Every accepted email, in order.
    pub fn accepted(&self) -> Vec<Arc<Accepted>> {
        self.lock().accepted.clone()
    }

    /// The first refused requests, in order.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.lock().refusals.clone()
    }

    /// The numbers as they are now.
    pub fn summary(&self) -> Summary {
        let inner = self.lock();
        Summary {
            accepted: inner.accepted.len(),
            distinct_send_keys: inner.send_keys.len(),
            duplicates: inner.accepted.len() - inner.send_keys.len(),
            refused: inner.refused,
            faulted: inner.faulted,
            peak_5s: inner.peak,
            look_ups: inner.look_ups,
            by_step: inner.by_step.clone(),
            first_at: inner.accepted.first().map(|first| first.at),
            last_at: inner.accepted.last().map(|last| last.at),
        }
    }

    /// Forgets everything.
    pub fn reset(&self) {
        *self.lock() = Inner::default();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn record(&mut self, provider: Vendor, letter: Letter, message_id: Arc<str>, at: u64) {
        let Letter { send_key, lead_id, to, sequence, step, subject, via, unsubscribe } = letter;
        let send_key: Arc<str> = send_key.into();
        match self.by_step.get_mut(&step) {
            Some(count) => *count += 1,
            None => drop(self.by_step.insert(step.clone(), 1)),
        }
        self.send_keys.entry(send_key.clone()).or_insert(self.accepted.len());
        let accepted =
            Accepted { provider, send_key, lead_id, to, sequence, step, subject, via, unsubscribe, message_id, at };
        self.accepted.push(Arc::new(accepted));
        while self.accepted[self.window].at + PEAK_WINDOW <= at {
            self.window += 1;
        }
        self.peak = self.peak.max(self.accepted.len() - self.window);
    }
}

fn fingerprint(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(send_key: &str, step: &str) -> Letter {
        Letter {
            send_key: send_key.into(),
            lead_id: "lead".into(),
            to: "jane@example.com".into(),
            sequence: "welcome".into(),
            step: step.into(),
            subject: "Hello".into(),
            via: "".into(),
            unsubscribe: "".into(),
        }
    }

    fn ids(id: &str) -> MessageIds {
        [id.into()].into()
    }

    fn accept(ledger: &Ledger, letter: Letter, key: Option<(&str, &str)>, at: u64, answered_at: u64) -> Entered {
        ledger.accept(Entry {
            provider: Vendor::Resend,
            letters: vec![letter],
            idempotency: key.map(|(key, body)| IdempotencyKey { key, body: body.as_bytes() }),
            message_ids: ids(&format!("id-{at}")),
            at,
            answered_at,
        })
    }

    #[test]
    fn an_email_accepted_twice_is_a_duplicate() {
        let ledger = Ledger::default();
        accept(&ledger, letter("a", "one"), None, 1, 1);
        accept(&ledger, letter("b", "one"), None, 2, 2);
        accept(&ledger, letter("a", "two"), None, 3, 3);
        let summary = ledger.summary();
        assert_eq!((summary.accepted, summary.distinct_send_keys, summary.duplicates), (3, 2, 1));
        assert_eq!(summary.by_step, BTreeMap::from([("one".into(), 2), ("two".into(), 1)]));
        assert_eq!((summary.first_at, summary.last_at), (Some(1), Some(3)));
    }

    #[test]
    fn an_idempotency_key_is_accepted_once_and_answered_alike() {
        let ledger = Ledger::default();
        assert_eq!(accept(&ledger, letter("a", "one"), Some(("k", "body")), 1, 1), Entered::Accepted(ids("id-1")));
        assert_eq!(accept(&ledger, letter("a", "one"), Some(("k", "body")), 2, 2), Entered::Accepted(ids("id-1")));
        assert_eq!(accept(&ledger, letter("a", "one"), Some(("k", "other")), 3, 3), Entered::BodyDiffers);
        assert_eq!(ledger.summary().accepted, 1);
    }

    #[test]
    fn an_idempotency_key_is_busy_until_its_first_request_is_answered() {
        let ledger = Ledger::default();
        accept(&ledger, letter("a", "one"), Some(("k", "body")), 1, 50);
        assert_eq!(accept(&ledger, letter("a", "one"), Some(("k", "body")), 49, 49), Entered::InProgress);
        assert_eq!(accept(&ledger, letter("a", "one"), Some(("k", "body")), 50, 50), Entered::Accepted(ids("id-1")));
    }

    #[test]
    fn the_peak_is_of_any_five_seconds() {
        let ledger = Ledger::default();
        for at in [1_000, 2_000, 5_999, 6_000, 6_999, 7_000, 20_000, 20_000, 40_000] {
            accept(&ledger, letter("a", "one"), None, at, at);
        }
        assert_eq!(ledger.summary().peak_5s, 4, "from 2,000 to 6,999");
    }

    #[test]
    fn each_email_of_a_request_has_its_own_id_or_the_one_of_all() {
        for (message_ids, expected) in [(vec!["x"], ["x", "x"]), (vec!["x", "y"], ["x", "y"])] {
            let ledger = Ledger::default();
            ledger.accept(Entry {
                provider: Vendor::Postmark,
                letters: vec![letter("a", "one"), letter("b", "one")],
                idempotency: None,
                message_ids: message_ids.into_iter().map(Into::into).collect(),
                at: 1,
                answered_at: 1,
            });
            let accepted = ledger.accepted();
            assert_eq!([&*accepted[0].message_id, &*accepted[1].message_id], expected);
        }
    }
}
