use std::time::Duration;

use smol_str::SmolStr;

use crate::{Address, Entry, Suppression, SuppressionCause, SuppressionMark, Timestamp, What};

/// What a provider tells of one email that it took, or of the person it went to: its event in our terms.
///
/// Events repeat and come in any order; what they make of a lead depends on the set of them alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feedback {
    /// Who tells: `sendgrid`, `ses`, …; `unsubscribe-page` for our own page.
    pub provider: SmolStr,
    /// The provider's own id of this event, the same each time it is repeated. At most 200 characters.
    pub id: String,
    /// What happened.
    pub kind: FeedbackKind,
    /// When it happened, as the provider says.
    pub occurred_at: Timestamp,
    /// To whom.
    pub address: Address,
    /// Which email: its step's send key, where the provider handed it back.
    pub send_key: Option<SmolStr>,
    /// The sequence that was handed back beside the send key.
    pub sequence: Option<SmolStr>,
    /// The step that was handed back beside the send key.
    pub step: Option<SmolStr>,
    /// Which email: the provider's id of the message, in the form its answer to the call had.
    pub message_id: Option<SmolStr>,
    /// In the provider's words, for people: at most 300 characters, and no address in it.
    pub reason: Option<String>,
}

/// The kinds of [`Feedback`], a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeedbackKind {
    /// The provider took the email. Evidence for an attempt whose answer was lost, and otherwise nothing new.
    Accepted,
    /// The receiving server took it.
    Delivered,
    /// The person opened it, or a machine did.
    Opened,
    /// A link in it was followed.
    Clicked,
    /// The receiving server wants it later; the provider is still trying.
    Deferred,
    /// It did not arrive, for a reason that may pass.
    SoftBounced,
    /// It did not arrive, and never will.
    HardBounced,
    /// The person reported it as spam.
    Complained,
    /// The person wants no more.
    Unsubscribed,
    /// The person wants more again.
    Resubscribed,
    /// The provider took it and did not mail it, because it has reasons of its own not to.
    Dropped {
        /// What the provider has against the address, where that forbids us to mail it as well.
        because: Option<SuppressionCause>,
    },
}

/// How many soft bounces in how short a time are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoftBouncePolicy {
    /// So many emails that did not arrive; from 1 to [`SOFT_BOUNCES_KEPT`].
    pub count: usize,
    /// Within this time.
    pub within: Duration,
}

/// A lead remembers so many soft bounces, the latest.
pub const SOFT_BOUNCES_KEPT: usize = 50;

impl Default for SoftBouncePolicy {
    fn default() -> Self {
        Self { count: 3, within: Duration::from_hours(30 * 24) }
    }
}

impl SoftBouncePolicy {
    /// What these soft bounces, one an email and in the order of time, say against the address. The earliest moment at
    /// which they were too many counts, so that more of them, in whatever order they come, change nothing.
    pub(crate) fn judge(&self, times: impl Iterator<Item = Timestamp>) -> Option<Suppression> {
        let times: Vec<_> = times.collect();
        let too_many = |window: &&[Timestamp]| window[window.len() - 1].since(window[0]) <= self.within;
        let window = times.windows(self.count.max(1)).find(too_many)?;
        let (first, last) = (window[0], window[window.len() - 1]);
        let reason = format!("{} soft bounces from {first} to {last}", window.len());
        let mark = SuppressionMark { timestamp: last, source: "soft bounces".to_owned(), reason };
        Some(Suppression::of(SuppressionCause::SoftBounces, mark))
    }
}

impl Feedback {
    /// What this event alone says against mailing the address, or for mailing it again; none where it says neither.
    pub fn suppression(&self) -> Option<Suppression> {
        let (cause, what) = match self.kind {
            FeedbackKind::HardBounced => (SuppressionCause::HardBounce, "hard bounce"),
            FeedbackKind::Complained => (SuppressionCause::Complaint, "complaint"),
            FeedbackKind::Unsubscribed => (SuppressionCause::Unsubscribe, "unsubscribed"),
            FeedbackKind::Dropped { because: Some(cause) } => (cause, "on the provider's own list"),
            FeedbackKind::Resubscribed => return Some(Suppression::resubscribed(self.occurred_at)),
            FeedbackKind::Accepted
            | FeedbackKind::Delivered
            | FeedbackKind::Opened
            | FeedbackKind::Clicked
            | FeedbackKind::Deferred
            | FeedbackKind::SoftBounced
            | FeedbackKind::Dropped { because: None } => return None,
        };
        let reason = self.reason.as_ref().map_or_else(|| what.to_owned(), |reason| format!("{what}: {reason}"));
        let mark = SuppressionMark { timestamp: self.occurred_at, source: self.provider.to_string(), reason };
        Some(Suppression::of(cause, mark))
    }

    /// The journal's line of it, for an address that no lead has.
    pub fn entry(&self, now: Timestamp) -> Entry {
        Entry {
            message_id: self.message_id.clone(),
            reason: self.reason.clone(),
            provider: Some(self.provider.clone()),
            ..Entry::new(now, self.kind.what())
        }
    }
}

impl FeedbackKind {
    /// As the journal and the document name it.
    pub fn what(self) -> What {
        match self {
            Self::Accepted => What::Accepted,
            Self::Delivered => What::Delivered,
            Self::Opened => What::Opened,
            Self::Clicked => What::Clicked,
            Self::Deferred => What::Deferred,
            Self::SoftBounced => What::SoftBounced,
            Self::HardBounced => What::HardBounced,
            Self::Complained => What::Complained,
            Self::Unsubscribed => What::Unsubscribed,
            Self::Resubscribed => What::Resubscribed,
            Self::Dropped { .. } => What::Dropped,
        }
    }

    /// Whether the document's history shows it; the others are many, and in the journal only.
    pub(crate) fn is_history(self) -> bool {
        match self {
            Self::SoftBounced
            | Self::HardBounced
            | Self::Complained
            | Self::Unsubscribed
            | Self::Resubscribed
            | Self::Dropped { .. } => true,
            Self::Accepted | Self::Delivered | Self::Opened | Self::Clicked | Self::Deferred => false,
        }
    }
}
