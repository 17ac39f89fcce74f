//! What was accepted and what was refused.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::vendor::{IdempotencyKey, Letter, Vendor};

/// How many refused requests are kept whole.
const REFUSALS_KEPT: usize = 100;

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

/// A request to be accepted.
pub struct Entry<'a> {
    /// Whose call it is.
    pub provider: Vendor,
    /// Its emails.
    pub letters: Vec<Letter>,
    /// Under which it is accepted once.
    pub idempotency: Option<IdempotencyKey<'a>>,
    /// The id of all its emails.
    pub message_id: Arc<str>,
    /// Now, in milliseconds since 1970.
    pub at: u64,
    /// When the answer will be given: until then its idempotency key is busy.
    pub answered_at: u64,
}

/// What became of an entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered {
    /// Accepted, or accepted before under the same idempotency key, with this id.
    Accepted(Arc<str>),
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
    send_keys: HashSet<Arc<str>>,
    by_step: BTreeMap<Box<str>, usize>,
    seen: HashMap<Box<str>, Seen>,
    refused: usize,
    refusals: Vec<Refusal>,
    faulted: usize,
}

/// The first request of an idempotency key.
struct Seen {
    body: u64,
    message_id: Arc<str>,
    answered_at: u64,
}

impl Ledger {
    /// Accepts the letters of one request, unless its idempotency key was seen before.
    pub fn accept(&self, entry: Entry<'_>) -> Entered {
        let Entry { provider, letters, idempotency, message_id, at, answered_at } = entry;
        let mut inner = self.lock();
        if let Some(IdempotencyKey { key, body }) = idempotency {
            let body = fingerprint(body);
            match inner.seen.get(key) {
                Some(seen) if seen.body != body => return Entered::BodyDiffers,
                Some(seen) if seen.answered_at > at => return Entered::InProgress,
                Some(seen) => return Entered::Accepted(seen.message_id.clone()),
                None => {}
            }
            let message_id = message_id.clone();
            inner.seen.insert(key.into(), Seen { body, message_id, answered_at });
        }
        for letter in letters {
            inner.record(provider, letter, message_id.clone(), at);
        }
        Entered::Accepted(message_id)
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
        let Letter { send_key, lead_id, to, sequence, step, subject } = letter;
        let send_key: Arc<str> = send_key.into();
        match self.by_step.get_mut(&step) {
            Some(count) => *count += 1,
            None => drop(self.by_step.insert(step.clone(), 1)),
        }
        self.send_keys.insert(send_key.clone());
        let accepted = Accepted { provider, send_key, lead_id, to, sequence, step, subject, message_id, at };
        self.accepted.push(Arc::new(accepted));
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
        }
    }

    fn accept(ledger: &Ledger, letter: Letter, key: Option<(&str, &str)>, at: u64, answered_at: u64) -> Entered {
        ledger.accept(Entry {
            provider: Vendor::Resend,
            letters: vec![letter],
            idempotency: key.map(|(key, body)| IdempotencyKey { key, body: body.as_bytes() }),
            message_id: format!("id-{at}").into(),
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
        assert_eq!(accept(&ledger, letter("a", "one"), Some(("k", "body")), 1, 1), Entered::Accepted("id-1".into()));
        assert_eq!(accept(&ledger, letter("a", "one"), Some(("k", "body")), 2, 2), Entered::Accepted("id-1".into()));
        assert_eq!(accept(&ledger, letter("a", "one"), Some(("k", "other")), 3, 3), Entered::BodyDiffers);
        assert_eq!(ledger.summary().accepted, 1);
    }

    #[test]
    fn an_idempotency_key_is_busy_until_its_first_request_is_answered() {
        let ledger = Ledger::default();
        accept(&ledger, letter("a", "one"), Some(("k", "body")), 1, 50);
        assert_eq!(accept(&ledger, letter("a", "one"), Some(("k", "body")), 49, 49), Entered::InProgress);
        assert_eq!(accept(&ledger, letter("a", "one"), Some(("k", "body")), 50, 50), Entered::Accepted("id-1".into()));
    }
}
