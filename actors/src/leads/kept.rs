use std::time::Instant;

use bytes::Bytes;
use dripline_domain::LeadKey;
use lru::LruCache;

use crate::ports::Revision;

/// Beyond it, those that were let go first are forgotten.
const MOST_BYTES: usize = 128 * 1024 * 1024;

/// A document as this process stored it, and at which revision.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) document: Bytes,
    pub(crate) revision: Revision,
}

/// The documents of leads that had to make room for others: a tenth of an actor's memory each, and for a lead that comes
/// back soon a read less. Another process may write meanwhile, as it may to a lead in memory: the revision tells.
pub(super) struct KeptDocuments {
    documents: LruCache<LeadKey, (Stored, Instant)>,
    bytes: usize,
}

impl KeptDocuments {
    pub(super) fn new() -> Self {
        Self { documents: LruCache::unbounded(), bytes: 0 }
    }

    pub(super) fn keep(&mut self, key: LeadKey, stored: Stored) {
        self.bytes += stored.document.len();
        if let Some((older, _)) = self.documents.put(key, (stored, Instant::now())) {
            self.bytes -= older.document.len();
        }
        while self.bytes > MOST_BYTES {
            self.forget_oldest();
        }
    }

    pub(super) fn take(&mut self, key: &LeadKey) -> Option<Stored> {
        let (stored, _) = self.documents.pop(key)?;
        self.bytes -= stored.document.len();
        Some(stored)
    }

    /// Forgets what was kept before.
    pub(super) fn forget_before(&mut self, time: Instant) {
        while self.documents.peek_lru().is_some_and(|(_, (_, since))| *since < time) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        match self.documents.pop_lru() {
            Some((_, (stored, _))) => self.bytes -= stored.document.len(),
            None => self.bytes = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dripline_domain::Address;

    use super::*;

    fn key(number: usize) -> LeadKey {
        LeadKey::of(&Address::parse(&format!("lead{number}@example.com")).unwrap())
    }

    fn stored(bytes: usize, revision: Revision) -> Stored {
        Stored { document: vec![0; bytes].into(), revision }
    }

    #[test]
    fn beyond_the_most_bytes_the_oldest_is_forgotten() {
        let mut kept = KeptDocuments::new();
        for number in 0..5 {
            kept.keep(key(number), stored(MOST_BYTES / 4, number as u64));
        }
        assert!(kept.take(&key(0)).is_none());
        assert_eq!(kept.take(&key(1)).unwrap().revision, 1);
        assert!(kept.take(&key(1)).is_none(), "taken");
        assert_eq!(kept.bytes, 3 * (MOST_BYTES / 4));
    }

    #[test]
    fn a_later_revision_takes_the_place_of_an_earlier_one() {
        let mut kept = KeptDocuments::new();
        kept.keep(key(1), stored(10, 1));
        kept.keep(key(1), stored(20, 2));
        assert_eq!((kept.bytes, kept.documents.len()), (20, 1));
        assert_eq!(kept.take(&key(1)).unwrap().revision, 2);
        assert_eq!(kept.bytes, 0);
    }

    #[test]
    fn what_was_kept_for_long_is_forgotten() {
        let mut kept = KeptDocuments::new();
        kept.keep(key(1), stored(10, 1));
        kept.forget_before(Instant::now().checked_sub(Duration::from_mins(1)).unwrap());
        assert_eq!(kept.bytes, 10);
        kept.forget_before(Instant::now() + Duration::from_mins(1));
        assert_eq!((kept.bytes, kept.documents.len()), (0, 0));
    }
}
