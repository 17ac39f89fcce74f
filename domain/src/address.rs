/// An email address, normalised: trimmed, NFC, lower case, its domain in ASCII (IDNA A-labels).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(String);

/// Why a text is not an address we can mail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct AddressError { reason: String }

impl Address {
    /// Normalises and checks.
    pub fn parse(text: &str) -> Result<Self, AddressError> { todo!() }
    /// The normalised address.
    pub fn as_str(&self) -> &str { &self.0 }
    /// `j***@example.com`: enough to recognise in a log, not to mail.
    pub fn masked(&self) -> String { todo!() }
}
