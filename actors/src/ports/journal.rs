//! The journal, what is counted of it, and who is told of it.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use dripline_domain::{SmolStr, Statistics, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Revision, SaveError, StoreError};

/// A place in the journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalPosition {
    /// The sequence in `JOURNAL`; 0 is before the first message.
    pub sequence: u64,
    /// The sequence that the message had in the stream behind `leads`, where it was committed. `JOURNAL` can be made
    /// anew from there, and then counts from 1 again: by this a message is known.
    pub origin: u64,
}

/// The lines of one committed batch.
#[derive(Debug, Clone)]
pub struct JournalMessage {
    /// Where it stands.
    pub position: JournalPosition,
    /// JSON, a line each.
    pub payload: Bytes,
}

impl JournalMessage {
    /// Its lines.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        journal_lines(&self.payload)
    }
}

/// Lines to be written to the journal: JSON, each with its line end.
#[derive(Debug, Clone, Default)]
pub struct JournalLines(Vec<u8>);

impl JournalLines {
    /// Adds a line.
    ///
    /// # Errors
    /// It cannot be written as JSON, and is not added.
    pub fn push(&mut self, line: &impl Serialize) -> Result<(), serde_json::Error> {
        let before = self.0.len();
        self.0.reserve(USUAL_LINE);
        serde_json::to_writer(&mut self.0, line).inspect_err(|_| self.0.truncate(before))?;
        self.0.push(b'\n');
        Ok(())
    }

    /// Adds these lines.
    pub fn append(&mut self, lines: &Self) {
        self.0.extend_from_slice(&lines.0);
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<JournalLines> for Bytes {
    fn from(lines: JournalLines) -> Self {
        lines.0.into()
    }
}

/// Room for most lines, in bytes.
const USUAL_LINE: usize = 320;

/// The lines of a journal message's payload.
pub fn journal_lines(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// The journal, read in order.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// From where on to read what comes after this place. What was read before may come again: its origin tells.
    async fn seek(&self, after: JournalPosition) -> Result<u64, StoreError>;
    /// The first message at this sequence of `JOURNAL` or after it; none at the end.
    async fn read(&self, from: u64) -> Result<Option<JournalMessage>, StoreError>;
    /// The sequence of the newest message; 0 where there is none.
    async fn last(&self) -> Result<u64, StoreError>;
}

/// The counts, and how much of the journal is in them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// The counts.
    pub statistics: Statistics,
    /// Up to here.
    pub position: JournalPosition,
    /// What the next [`StatisticsStore::save`] must expect; 0 where nothing was ever stored.
    pub revision: Revision,
}

/// Where the counts are kept.
#[async_trait]
pub trait StatisticsStore: Send + Sync + 'static {
    /// All of it, as of one moment.
    async fn load(&self) -> Result<Tally, StoreError>;
    /// How far it is counted, and the revision.
    async fn progress(&self) -> Result<(JournalPosition, Revision), StoreError>;
    /// Stores the position and these sequences' counts, all or nothing, if the revision is still the expected one; gives
    /// the new revision. At most [`MOST_CHANGED`] sequences.
    async fn save(&self, tally: &Tally, changed: &BTreeSet<SmolStr>) -> Result<Revision, SaveError>;
}

/// Sequences whose counts are stored at a time.
pub const MOST_CHANGED: usize = 500;

/// One subscriber to the journal's events.
#[async_trait]
pub trait OutgoingWebhook: Send + Sync + 'static {
    /// As configured.
    fn name(&self) -> &str;
    /// One POST, bounded in time. `id` is the same each time an event is posted.
    async fn post(&self, id: &str, body: Bytes, now: Timestamp) -> Posted;
}

/// What a POST came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Posted {
    /// The subscriber has it.
    Taken,
    /// The subscriber wants no more (410).
    Gone,
    /// It refused this one.
    Refused {
        /// For people.
        reason: String,
    },
    /// It is away, or cannot cope: no other event would fare better.
    Away {
        /// For people.
        reason: String,
    },
}

/// Which events of a journal message a subscriber does not have yet, where an attempt at it was not wholly in vain.
#[async_trait]
pub trait Leftovers: Send + Sync + 'static {
    /// The numbers of its lines, counted from 0; none where it was not tried yet.
    async fn load(&self, webhook: &str, message: &str) -> Result<Option<BTreeSet<usize>>, StoreError>;
    /// Keeps them.
    async fn save(&self, webhook: &str, message: &str, lines: &BTreeSet<usize>) -> Result<(), StoreError>;
}
