use std::fmt;
use std::sync::Arc;

use crate::{Address, AddressError};

/// The key of a lead's document: its address with every byte outside `[A-Za-z0-9_-]` and inner single dots
/// written `=XX`. `jane.doe+x@example.com` is `jane.doe=2Bx=40example.com`: readable, reversible, and legal both
/// as a KV key and as NATS subject tokens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeadKey(Arc<str>);

/// A text that is not the key of any address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// `=` is not followed by two upper-case hexadecimal digits, or the bytes are not UTF-8.
    #[error("not an encoded address")]
    Encoding,
    /// What it encodes is not an address.
    #[error("the key does not hold an address")]
    Address(#[from] AddressError),
    /// It encodes an address, but in another way than we would.
    #[error("the key is not in its one canonical form")]
    NotCanonical,
}

impl LeadKey {
    /// The key of this address.
    pub fn of(address: &Address) -> Self {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        let bytes = address.as_str().as_bytes();
        let mut key = String::with_capacity(bytes.len() + 8);
        for (i, &byte) in bytes.iter().enumerate() {
            let inner_single_dot =
                byte == b'.' && i > 0 && bytes.get(i + 1).is_some_and(|&next| next != b'.') && bytes[i - 1] != b'.';
            if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' || inner_single_dot {
                key.push(char::from(byte));
            } else {
                key.push('=');
                key.push(char::from(HEX[usize::from(byte >> 4)]));
                key.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
        Self(key.into())
    }

    /// Reads a key as it stands in a subject or a bucket.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let key = Self::of(&decode(text)?);
        if &*key.0 == text { Ok(key) } else { Err(KeyError::NotCanonical) }
    }

    /// The address it is the key of.
    ///
    /// # Errors
    /// Never for a key made by [`LeadKey::of`] or [`LeadKey::parse`].
    pub fn address(&self) -> Result<Address, KeyError> {
        decode(&self.0)
    }

    /// As it stands in a subject or a bucket.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn decode(text: &str) -> Result<Address, KeyError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'=' {
            bytes.push(byte);
            continue;
        }
        let digits = tail.get(..2).ok_or(KeyError::Encoding)?;
        let digits = std::str::from_utf8(digits).map_err(|_| KeyError::Encoding)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| KeyError::Encoding)?);
        rest = &tail[2..];
    }
    let address = String::from_utf8(bytes).map_err(|_| KeyError::Encoding)?;
    Ok(Address::parse(&address)?)
}

impl fmt::Display for LeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_readable_and_reversible() {
        for (address, key) in [
            ("jane@example.com", "jane=40example.com"),
            ("jane.doe+x@example.com", "jane.doe=2Bx=40example.com"),
            ("o'neil@example.com", "o=27neil=40example.com"),
            ("zoë@example.com", "zo=C3=AB=40example.com"),
        ] {
            let encoded = LeadKey::of(&Address::parse(address).unwrap());
            assert_eq!(encoded.as_str(), key);
            assert_eq!(LeadKey::parse(key).unwrap(), encoded);
            assert_eq!(encoded.address().unwrap().as_str(), address);
        }
    }

    #[test]
    fn what_is_no_key_of_ours_is_refused() {
        for text in
            ["", "jane", "jane=4", "jane=ZZexample.com", "jane=40example=2Ecom", "jane@example.com", "=FF=40a.com"]
        {
            assert!(LeadKey::parse(text).is_err(), "{text}");
        }
    }
}
