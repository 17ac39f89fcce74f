use smol_str::SmolStr;
use strum::{IntoStaticStr, VariantNames};

use crate::Timestamp;

/// What came of one call to an email provider. A closed set: every adapter maps every answer onto it.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// The provider took the email; it is mailed, as far as we are concerned.
    Accepted {
        /// The provider's own id of the message, by which its webhooks name it; empty when it gives none.
        message_id: SmolStr,
    },
    /// Too fast for the provider: nothing was mailed, try again from `until`. Not a failure of this lead.
    RateLimited {
        /// The earliest time of the next call, as the provider says; none when it does not say.
        until: Option<Timestamp>,
    },
    /// Surely not mailed, and worth another try: a 5xx with an answer, a refused connection.
    Transient {
        /// For people.
        reason: String,
    },
    /// Refused for this recipient or this content: another try would be refused too.
    Refused {
        /// For people.
        reason: String,
    },
    /// Refused whatever the lead: key revoked, domain unverified, account suspended. Keep every lead.
    Misconfigured {
        /// For people.
        reason: String,
    },
    /// The request went out and no clear answer came back: it may or may not have been mailed.
    Unknown {
        /// For people.
        reason: String,
    },
}

impl Outcome {
    /// The outcome's name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        self.into()
    }
}
