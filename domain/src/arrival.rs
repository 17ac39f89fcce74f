use serde_json::{Map, Value};
use crate::Address;
/// What a source told us of a person, cleaned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// Tidied first name.
    pub first_name: Option<String>,
    /// Tidied last name.
    pub last_name: Option<String>,
    /// E.164.
    pub phone: Option<String>,
    /// Every field we do not know, as it came.
    pub attributes: Map<String, Value>,
}
/// A lead as a source hands it in, cleaned.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// Whom.
    pub address: Address,
    /// What we know of them.
    pub profile: Profile,
    /// The sequence the lead names, if it does.
    pub sequence: Option<String>,
}
