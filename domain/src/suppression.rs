use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Why an address must not be mailed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionCause {
    /// The person reported an email as spam.
    Complaint,
    /// The address does not exist.
    HardBounce,
    /// Too many emails did not arrive in too short a time.
    SoftBounces,
    /// An operator, or a list that was imported.
    Manual,
    /// The person wants no more. The one cause that transactional emails ignore, and that the person can take back.
    Unsubscribe,
}

/// One thing that speaks against mailing an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SuppressionMark {
    /// Since when.
    pub timestamp: Timestamp,
    /// Who or what said so: `sendgrid`, `unsubscribe-page`, an operator's name.
    pub source: String,
    /// For people.
    pub reason: String,
}
