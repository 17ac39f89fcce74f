//! What the actors need of the world, as traits. `nats` and `esp` implement them; tests may too.
use std::error::Error as StdError;
use std::time::Duration;

use async_trait::async_trait;
use dripline_domain::Timestamp;
use futures_util::stream::BoxStream;

mod journal;
mod queue;
mod sending;
mod store;
mod watching;

pub use journal::{
    Journal, JournalLines, JournalMessage, JournalPosition, Leftovers, MOST_CHANGED, OutgoingWebhook, Posted,
    StatisticsStore, Tally, journal_lines,
};
pub use queue::{
    Acknowledge, Delivery, FeedbackDoor, FeedbackError, FeedbackReader, FrontDoor, FrontDoorError, Inbox, RawFeedback,
    Rejected, Rejection, Settle, Settlement, Submission,
};
pub use sending::{AfterLostAnswer, ComposeError, Composer, Esp, LookUp, Sequences};
pub use store::{
    BatchResult, Control, Controlled, Controls, Fate, LeadStore, Ledger, Put, Revision, Scanned, Suppressions,
    TimerError, Timers,
};
pub use watching::{AlertChannel, AlertStore, CanaryStore, ChannelError, Mailbox, MailboxError, Surveyor};

/// The cause of a port's failure, kept for the log.
pub type Source = Box<dyn StdError + Send + Sync>;

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
    /// How long the process had run when it began to announce itself: it dates its own announcements by it.
    pub uptime: Duration,
    /// No email leaves before this: a provider asked for a pause.
    pub paused_until: Option<Timestamp>,
}

/// The time.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

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
