//! What looks at the whole installation, and tells people.

use async_trait::async_trait;
use dripline_domain::{Address, Alert, Arrived, Canary, Installation, Lead, LeadKey, NoticeKind, Sequence};

use super::{Revision, SaveError, StoreError};

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
