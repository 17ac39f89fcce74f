//! What the actors need of the world, as traits. `nats` and `esp` implement them; tests may too.
use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dripline_domain::{
    Address, Alert, Arrived, Canary, Email, Feedback, Installation, Lead, LeadId, LeadKey, LeadStatus, NoticeKind,
    Outcome, RequestId, Sequence, SmolStr, Statistics, Suppression, Timestamp,
};
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::timer::Timer;

/// The cause of a port's failure, kept for the log.
pub type Source = Box<dyn StdError + Send + Sync>;

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

/// The store could not be asked, or holds what cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Passing: the server is away, or did not answer in time.
    #[error("the lead store is unavailable")]
    Unavailable(#[source] Source),
    /// The document of this lead is not one of ours.
    #[error("the document of a lead cannot be read")]
    Unreadable(#[source] Source),
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
    /// What is known against the address of this lead, asked before each email: a change by another process is seen within
    /// moments.
    async fn get(&self, key: &LeadKey, lead_id: &LeadId) -> Result<Suppression, StoreError>;
    /// The same, as it stands at this moment.
    async fn read(&self, address: &Address) -> Result<Suppression, StoreError>;
    /// Merges this into what is known. On disk when it returns what it then is, and seen by [`Suppressions::get`] of this
    /// process. Writes nothing where it is known already.
    async fn record(&self, address: &Address, known: &Suppression) -> Result<Suppression, StoreError>;
    /// Keeps what is known under a name that says nothing of the address, and by which only who has the address finds it.
    async fn anonymise(&self, address: &Address) -> Result<(), StoreError>;
}

/// The sequences, by name and version.
#[async_trait]
pub trait Sequences: Send + Sync + 'static {
    /// The version new leads enter.
    fn current(&self, name: &str) -> Option<Arc<Sequence>>;
    /// The sequence for a lead that names none, from this source (`leads.new.<source>`).
    fn for_source(&self, source: Option<&str>) -> Option<Arc<Sequence>>;
    /// One version, also of a sequence that is no longer in the folder.
    async fn version(&self, name: &str, version: u32) -> Result<Option<Arc<Sequence>>, StoreError>;
}

/// Turns a step of a sequence into an email for one lead.
pub trait Composer: Send + Sync + 'static {
    /// Renders subject and bodies.
    ///
    /// # Errors
    /// The template fails for this lead: a missing field, a subject of two lines.
    fn compose(
        &self,
        sequence: &Arc<Sequence>,
        step: usize,
        lead: &Lead,
        send_key: SmolStr,
    ) -> Result<Email, ComposeError>;
}

/// Why an email could not be rendered: for people, naming the template and the line.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ComposeError(pub String);

/// An email service provider.
#[async_trait]
pub trait Esp: Send + Sync + 'static {
    /// Recorded with each attempt: `sendgrid`, `outbox`, …; `resend-batch` where calls carry many emails and an answer
    /// that was lost is another matter than after a call for one.
    fn name(&self) -> &'static str;
    /// One call, bounded in time. Never an error: what went wrong is an [`Outcome`].
    async fn send(&self, email: &Email) -> Outcome;
    /// The most emails that one call may carry; 1 where calls are made one by one.
    fn batch_limit(&self) -> usize {
        1
    }
    /// One call for all of them, at most [`Esp::batch_limit`]; an outcome for each, in order. An email that is refused
    /// changes nothing for the others. Bounded in time like one [`Esp::send`].
    async fn send_batch(&self, emails: &[Email]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(emails.len());
        for email in emails {
            outcomes.push(self.send(email).await);
        }
        outcomes
    }
    /// How the fate of an attempt can be found out whose answer was lost.
    fn after_lost_answer(&self) -> AfterLostAnswer {
        AfterLostAnswer::Evidence
    }
    /// Asks for an email by its send key. Only for [`AfterLostAnswer::LookUp`].
    async fn look_up(&self, email: &Email, attempted_at: Timestamp) -> LookUp {
        let _ = (email, attempted_at);
        LookUp::Unclear { reason: "this provider cannot be asked".to_owned() }
    }
}

/// What a provider can do about an attempt whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterLostAnswer {
    /// The same call again mails nothing if the first was accepted, for so long after the first.
    Idempotent {
        /// From the attempt on.
        within: Duration,
    },
    /// It can be asked for an email by its send key.
    LookUp {
        /// An email that is not found so long after the attempt was not sent: providers index with a delay.
        settled_after: Duration,
    },
    /// Only a webhook can tell.
    Evidence,
}

/// What a provider says about an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookUp {
    /// It has the email.
    Found {
        /// Its own id of it.
        message_id: SmolStr,
    },
    /// It knows of no such email.
    NotFound,
    /// It does not say, or cannot be reached.
    Unclear {
        /// For people.
        reason: String,
    },
}

/// Where messages come from.
#[async_trait]
pub trait Inbox: Send + Sync + 'static {
    /// Asks for up to `most` messages, waits a moment for them, and hands each over as it arrives.
    /// Returns how many there were.
    async fn pull(&self, most: usize, deliver: &mut (dyn FnMut(Delivery) + Send)) -> Result<usize, StoreError>;
}

/// One message handed to us, to be settled exactly once.
pub struct Delivery {
    /// The subject it was published to.
    pub subject: String,
    /// Its bytes.
    pub payload: Bytes,
    /// Its `Content-Type` header.
    pub content_type: Option<String>,
    /// Its `Nats-Msg-Id`: what its sender says makes two messages one.
    pub message_id: Option<String>,
    /// The trace that it belongs to, by its header [`crate::trace::HEADER`].
    pub trace: Option<String>,
    /// Its sequence number in its stream.
    pub sequence: u64,
    /// When its stream took it.
    pub published: Timestamp,
    /// How often it was delivered, this time included.
    pub deliveries: u64,
    /// How it is settled.
    pub settlement: Settlement,
}

impl Delivery {
    /// Answers for it.
    pub fn settle(self, how: Settle) {
        self.settlement.settle(how);
    }
}

/// The duty to answer for one message. Dropped without an answer (a panic), it asks for redelivery.
pub struct Settlement(Option<Box<dyn Acknowledge>>);

/// How a message is answered for; the client's side of a [`Settlement`].
pub trait Acknowledge: Send + Sync + 'static {
    /// Sends the answer; must not block.
    fn settle(self: Box<Self>, how: Settle);
    /// Says that it is still ours, so that it is not delivered again yet; must not block.
    fn in_progress(&self);
}

/// The closed set of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// Done: the next state is on disk.
    Ack,
    /// Deliver again, no sooner than this.
    Retry(Duration),
    /// Never deliver again: it is in `REJECTED`.
    Terminate,
}

impl Settlement {
    /// Wraps the client's side.
    pub fn new(acknowledge: impl Acknowledge) -> Self {
        Self(Some(Box::new(acknowledge)))
    }

    /// Says that it will be answered later.
    pub fn in_progress(&self) {
        if let Some(acknowledge) = &self.0 {
            acknowledge.in_progress();
        }
    }

    /// Answers.
    pub fn settle(mut self, how: Settle) {
        if let Some(acknowledge) = self.0.take() {
            acknowledge.settle(how);
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        if let Some(acknowledge) = self.0.take() {
            acknowledge.settle(Settle::Retry(Duration::from_secs(1)));
        }
    }
}

/// Where what cannot be processed is kept, with the reason.
#[async_trait]
pub trait Rejected: Send + Sync + 'static {
    /// Keeps subject, bytes and reason; on disk when it returns.
    async fn keep(&self, rejection: Rejection) -> Result<(), StoreError>;
}

/// A message that cannot be processed.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// A word for metrics: `invalid_email`, `unknown_sequence`, `failed_repeatedly`, …
    pub code: &'static str,
    /// For people.
    pub reason: String,
    /// The original subject.
    pub subject: String,
    /// The original bytes.
    pub payload: Bytes,
    /// The original content type.
    pub content_type: Option<String>,
}

impl Rejection {
    /// Rejects this message.
    pub fn of(code: &'static str, reason: impl Into<String>, delivery: &Delivery) -> Self {
        Self {
            code,
            reason: reason.into(),
            subject: delivery.subject.clone(),
            payload: delivery.payload.clone(),
            content_type: delivery.content_type.clone(),
        }
    }
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

/// Which engine processes are alive.
#[async_trait]
pub trait Presence: Send + Sync + 'static {
    /// Tells the others that this process is alive, and what they should know; they see it once this returns.
    async fn announce(&self, beat: &Beat) -> Result<(), StoreError>;
    /// Tells them that it sends nothing any more.
    async fn leave(&self, owner: &str) -> Result<(), StoreError>;
    /// Every announcement from now on, and before them the newest of each process that is alive; `Ok(Err(owner))` where
    /// one has left. Our own are among them.
    async fn watch(&self) -> Result<BoxStream<'static, Result<Result<Beat, String>, StoreError>>, StoreError>;
}

/// What a process tells the others every second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Names the process.
    pub owner: String,
    /// No email leaves before this: a provider asked for a pause.
    pub paused_until: Option<Timestamp>,
}

/// The time.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The way in for the gateway and importers: what is taken is on disk.
#[async_trait]
pub trait FrontDoor: Send + Sync + 'static {
    /// Puts one lead into the queue and waits until it is on disk. Calls that arrive together share one batch.
    async fn submit(&self, lead: Submission) -> Result<(), FrontDoorError>;
    /// Whether the queue can be reached now.
    async fn ready(&self) -> Result<(), FrontDoorError>;
}

/// A raw lead on its way into the queue.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The last part of `leads.new.<source>`; none for `leads.new`.
    pub source: Option<String>,
    /// As the source sent it.
    pub payload: Bytes,
    /// `application/json` or `application/msgpack`.
    pub content_type: &'static str,
    /// Two submissions with the same id, minutes apart, are one (`Nats-Msg-Id`).
    pub id: Option<String>,
    /// The trace that it belongs to; see [`crate::trace::current`].
    pub trace: Option<String>,
}

/// Why a lead or an event was not taken: unless it is too large, the source must try again.
#[derive(Debug, thiserror::Error)]
pub enum FrontDoorError {
    /// The queue is at its limit (discard new). Nothing was kept.
    #[error("the queue is full")]
    Full,
    /// More than the queue takes as one message. Nothing was kept.
    #[error("{bytes} bytes are more than the {most} that the queue takes")]
    TooLarge {
        /// It has so many.
        bytes: usize,
        /// It may have so many.
        most: usize,
    },
    /// The queue cannot be reached, or did not answer in time: then what was sent may be in it all the same.
    #[error("the queue is unavailable")]
    Unavailable(#[source] Source),
}

/// The way in for the webhook bridge: what is taken is on disk in `FEEDBACK`.
#[async_trait]
pub trait FeedbackDoor: Send + Sync + 'static {
    /// Puts these events into the queue, in order, and waits until all are on disk. Calls that arrive together share a
    /// batch.
    async fn submit(&self, events: Vec<RawFeedback>) -> Result<(), FrontDoorError>;
}

/// One event of a provider on its way into the queue: verified, not interpreted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFeedback {
    /// The last part of `feedback.<provider>`.
    pub provider: String,
    /// The event as the provider sent it.
    pub payload: Bytes,
}

/// Reads the events of every provider, as they stand in `FEEDBACK`.
pub trait FeedbackReader: Send + Sync + 'static {
    /// What an event says, in our terms; one for each person it speaks of, none where it says nothing that we need.
    ///
    /// # Errors
    /// It is not an event of this provider, or there is no such provider.
    fn read(&self, provider: &str, payload: &[u8]) -> Result<Vec<Feedback>, FeedbackError>;
}

/// An event that cannot be read: for people, naming the field. It is kept in `REJECTED`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FeedbackError(pub String);

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

/// Something was not stored, or not surely.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Another process has stored its own.
    #[error("another process was first")]
    Conflict,
    /// The store is away: whether it was stored is seen when it is back.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Looks at the installation as a whole.
#[async_trait]
pub trait Surveyor: Send + Sync + 'static {
    /// Queues, engines and counts, as they are now.
    async fn look(&self) -> Result<Installation, StoreError>;
}

/// The alerts of all processes, one record each. Whoever writes a change first acts upon it.
#[async_trait]
pub trait AlertStore: Send + Sync + 'static {
    /// All of them.
    async fn all(&self) -> Result<Vec<(Alert, Revision)>, StoreError>;
    /// One of them.
    async fn load(&self, key: &str) -> Result<Option<(Alert, Revision)>, StoreError>;
    /// Writes one, if its revision is still the expected one; 0 where there is none.
    async fn save(&self, alert: &Alert, expected: Revision) -> Result<Revision, SaveError>;
    /// Removes one that is over, if its revision is still the expected one.
    async fn remove(&self, key: &str, expected: Revision) -> Result<(), SaveError>;
}

/// A way to tell people.
#[async_trait]
pub trait AlertChannel: Send + Sync + 'static {
    /// Unique among the channels: `webhook`, `slack`, `email`.
    fn name(&self) -> &'static str;
    /// Tells them; bounded in time.
    async fn tell(&self, alert: &Alert, kind: NoticeKind) -> Result<(), ChannelError>;
}

/// People were not told. For the log; names no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ChannelError(pub String);

/// Where the canary's state is kept, and what it needs of the other buckets.
#[async_trait]
pub trait CanaryStore: Send + Sync + 'static {
    /// The state; an empty one where there never was a run.
    async fn load(&self) -> Result<(Canary, Revision), StoreError>;
    /// Writes it, if its revision is still the expected one.
    async fn save(&self, canary: &Canary, expected: Revision) -> Result<Revision, SaveError>;
    /// The document of a lead.
    async fn lead(&self, key: &LeadKey) -> Result<Option<Lead>, StoreError>;
    /// One version of a sequence.
    async fn sequence(&self, name: &str, version: u32) -> Result<Option<Sequence>, StoreError>;
    /// Removes a lead's document and its timer.
    async fn erase(&self, key: &LeadKey) -> Result<(), StoreError>;
}

/// The mailbox that the canary's emails go to.
#[async_trait]
pub trait Mailbox: Send + Sync + 'static {
    /// The emails to this address, in the order in which they came; bounded in number and in time.
    async fn arrived(&self, address: &Address) -> Result<Vec<Arrived>, MailboxError>;
    /// Removes them.
    async fn remove(&self, address: &Address) -> Result<(), MailboxError>;
}

/// The mailbox could not be asked: for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MailboxError(pub String);

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
