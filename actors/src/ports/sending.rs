//! What an email is made of, and who takes it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dripline_domain::{Email, Lead, Outcome, Sequence, SmolStr, Timestamp};

use super::StoreError;

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
