use crate::{Address, SuppressionCause, Timestamp};

/// What a provider tells of one email that it took, or of the person it went to: its event in our terms.
///
/// Events repeat and come in any order; what they make of a lead depends on the set of them alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feedback {
    /// Who tells: `sendgrid`, `ses`, …; `unsubscribe-page` for our own page.
    pub provider: String,
    /// The provider's own id of this event, the same each time it is repeated. At most 200 characters.
    pub id: String,
    /// What happened.
    pub kind: FeedbackKind,
    /// When it happened, as the provider says.
    pub occurred_at: Timestamp,
    /// To whom.
    pub address: Address,
    /// Which email: its step's send key, where the provider handed it back.
    pub send_key: Option<String>,
    /// The sequence that was handed back beside the send key.
    pub sequence: Option<String>,
    /// The step that was handed back beside the send key.
    pub step: Option<String>,
    /// Which email: the provider's id of the message, in the form its answer to the call had.
    pub message_id: Option<String>,
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
