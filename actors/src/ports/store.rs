//! What stands in the buckets: the leads and their timers, who must not be mailed, what is held back.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use dripline_domain::{Address, Lead, LeadId, LeadKey, LeadStatus, RequestId, Suppression, Timestamp};
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::{JournalLines, Source, StoreError};
use crate::timer::Timer;

/// The revision of a lead's document: the sequence number of its newest message; 0 when it has none.
pub type Revision = u64;

/// The truth: one document a lead.
#[async_trait]
pub trait LeadStore: Send + Sync + 'static {
    /// The newest document, if there is one, and the revision the next write must expect. Any copy of the store may answer,
    /// and one that is behind is found out by the next write.
    async fn load(&self, key: &LeadKey) -> Result<(Option<Lead>, Revision), StoreError>;

    /// The same of the stream's leader, for whoever would leave something undone by it.
    async fn load_newest(&self, key: &LeadKey) -> Result<(Option<Lead>, Revision), StoreError>;

    /// Writes all puts and the journal lines, or nothing. One fsync.
    async fn write(&self, puts: &[Put], journal: JournalLines) -> BatchResult;

    /// What became of each put of a batch that was refused or not answered, read from the store.
    async fn examine(&self, puts: &[Put]) -> Result<Vec<Fate>, StoreError>;
}

/// One document to be written if its revision is still the expected one.
#[derive(Debug, Clone)]
pub struct Put {
    /// Whose.
    pub key: LeadKey,
    /// What it must still be; 0 for "no document yet".
    pub expected: Revision,
    /// The document; none where it is erased, and nothing of it stays.
    pub document: Option<Bytes>,
    /// Copied into a header, so that a scan need not read documents.
    pub next_action: Option<Timestamp>,
    /// Copied into a header likewise.
    pub generation: u64,
    /// Copied into a header likewise.
    pub status: Option<LeadStatus>,
    /// Unique among all writes to this document: tells ours from another's when an answer is lost.
    pub write: u64,
}

/// What a batch came to.
#[derive(Debug)]
pub enum BatchResult {
    /// All on disk; the new revision of each put, in order.
    Written(Vec<Revision>),
    /// Nothing was written: at least one revision was no longer the expected one.
    Refused,
    /// No answer, or one that says nothing of the members: look before trying again.
    Unanswered(Source),
}

/// What became of one put, as read afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is on disk, at this revision.
    Written(Revision),
    /// It is not, and its expected revision still holds: it may be tried again.
    Open,
    /// Another write came first.
    Lost,
}

/// Timers that outlive the process.
#[async_trait]
pub trait Timers: Send + Sync + 'static {
    /// Sets a timer, beside any earlier one of its lead. A time in the past fires at once. It may fire early by half a
    /// second at most: the lead waits out the rest.
    async fn set(&self, timer: Timer) -> Result<(), TimerError>;
    /// Removes the address from all timers that are still to fire: its lead was erased.
    async fn forget(&self, key: &LeadKey) -> Result<(), TimerError>;
}

/// A timer could not be set. The sweeper sets it later.
#[derive(Debug, thiserror::Error)]
#[error("the timer could not be set")]
pub struct TimerError(#[source] pub Source);

/// Who must not be mailed.
#[async_trait]
pub trait Suppressions: Send + Sync + 'static {
    /// What is known against the address of this lead, asked before each email: a look into memory, while it can be trusted. A
    /// change by another process is seen within moments.
    async fn get(&self, key: &LeadKey, lead_id: &LeadId) -> Result<Suppression, StoreError>;
    /// The same, as it stands at this moment.
    async fn read(&self, address: &Address) -> Result<Suppression, StoreError>;
    /// Merges this into what is known. On disk when it returns what it then is, and seen by [`Suppressions::get`] of this
    /// process. Writes nothing where it is known already.
    async fn record(&self, address: &Address, known: &Suppression) -> Result<Suppression, StoreError>;
    /// Keeps what is known under a name that says nothing of the address, and by which only who has the address finds it.
    async fn anonymise(&self, address: &Address) -> Result<(), StoreError>;
}

/// What stands in the buckets and the timers, for the sweeper.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Every lead whose newest document has a later revision than this one, in the order of revisions; 0 for every lead.
    /// No more than there are now: one that changes while this is read comes at its new revision, or not. A timer whose
    /// time is before `fired_by` has surely fired: one that has not never will.
    async fn scan(
        &self,
        after: Revision,
        fired_by: Timestamp,
    ) -> Result<BoxStream<'static, Result<Scanned, StoreError>>, StoreError>;
    /// Resolves when the connection to the server was lost and came back.
    async fn reconnected(&self);
}

/// What a scan sees of one lead.
#[derive(Debug, Clone)]
pub struct Scanned {
    /// Whose.
    pub key: LeadKey,
    /// Of its document.
    pub revision: Revision,
    /// Its next time; none when it waits for nothing.
    pub next_action: Option<Timestamp>,
    /// Its generation, for the timer.
    pub generation: u64,
    /// Where it is; none where another client wrote the document.
    pub status: Option<LeadStatus>,
    /// Whether it has a timer of its generation, in the queue or still to fire, or is changing just now: then whoever
    /// changes it sets one.
    pub has_timer: bool,
}

/// What an operator or a guard can hold back, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controlled<'a> {
    /// No step of this sequence is sent; leads still enter it.
    Sequence(&'a str),
    /// Nothing is sent by this provider.
    Provider(&'a str),
    /// Nothing is posted to this outgoing webhook.
    OutgoingWebhook(&'a str),
}

/// As the bucket `controls` names it: `sequence.welcome`.
impl fmt::Display for Controlled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequence(name) => write!(f, "sequence.{name}"),
            Self::Provider(name) => write!(f, "provider.{name}"),
            Self::OutgoingWebhook(name) => write!(f, "outgoing.{name}"),
        }
    }
}

/// That something is held back, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Whether it is held back.
    pub paused: bool,
    /// Why, for people.
    pub reason: String,
    /// Who or what decided it.
    pub by: String,
    /// When.
    pub timestamp: Timestamp,
}

/// What is held back now.
#[async_trait]
pub trait Controls: Send + Sync + 'static {
    /// Why this is held back, if it is: a look into memory. A change is here shortly after it is on disk.
    fn paused(&self, what: Controlled<'_>) -> Option<Control>;
    /// The same, asked before each email: of the bucket itself while memory cannot be trusted, as after the process stood still.
    async fn paused_now(&self, what: Controlled<'_>) -> Result<Option<Control>, StoreError>;
    /// All that is held back, as the bucket names it.
    fn all_paused(&self) -> Vec<(String, Control)>;
    /// Holds it back, or lets it go on; whether that changed anything. In the journal, then on disk when it returns. A
    /// request that changed it changes nothing more, however often and however late it comes again: its answer is the same.
    async fn change(
        &self,
        what: Controlled<'_>,
        control: &Control,
        request: Option<&RequestId>,
    ) -> Result<bool, StoreError>;
    /// The same, unless somebody has changed it since this control's time.
    async fn change_unless_newer(&self, what: Controlled<'_>, control: &Control) -> Result<bool, StoreError>;
}
