/// Why a text is not a phone number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PhoneError { reason: String }

/// E.164.
pub fn normalise_phone(text: &str, default_region: &str) -> Result<String, PhoneError> { todo!() }
