use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::json_bytes;

/// A merged profile takes no new attribute beyond so many; those it has are still updated.
const MAX_MERGED_ATTRIBUTES: usize = 128;

/// Nor any attribute that makes them longer than this, serialised, in bytes: a lead's document must stay well below
/// the largest message a server takes (1 MiB unless set otherwise), or the lead could never be written again.
const MAX_MERGED_BYTES: usize = 128 * 1024;

/// What sources told us of a person, cleaned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Profile {
    /// Tidied: NFC, one line, single spaces, at most 100 characters, its case as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    /// Tidied likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_name: Option<String>,
    /// E.164. A number that cannot be written so stands in `attributes` under `phone`, as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// Every field we do not know, as it came, in the order it came.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
}

impl Profile {
    /// Takes over what a later arrival told: its fields win where it has them, its attributes key by key. Says
    /// whether that changed anything.
    ///
    /// Attributes grow to 128 keys and 128 KiB, serialised; one that would exceed that is left out.
    pub fn merge(&mut self, newer: Self) -> bool {
        let mut changed = false;
        for (ours, theirs) in [
            (&mut self.first_name, newer.first_name),
            (&mut self.last_name, newer.last_name),
            (&mut self.phone, newer.phone),
        ] {
            if theirs.is_some() && *ours != theirs {
                *ours = theirs;
                changed = true;
            }
        }
        let mut bytes = json_bytes(&self.attributes);
        for (key, value) in newer.attributes {
            let old = self.attributes.get(&key);
            // An old value makes room for the new one; a new key needs room for itself.
            let room = old.map_or_else(|| json_bytes(&key), |_| 0);
            let grown = bytes + room + json_bytes(&value) - old.map_or(0, json_bytes);
            let one_too_many = old.is_none() && self.attributes.len() >= MAX_MERGED_ATTRIBUTES;
            if old == Some(&value) || one_too_many || grown > MAX_MERGED_BYTES {
                continue;
            }
            bytes = grown;
            self.attributes.insert(key, value);
            changed = true;
        }
        changed
    }
}
