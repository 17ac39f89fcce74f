//! The link by which a person unsubscribes: what each email carries, and what the gateway reads.
use std::fmt;

use aes_siv::siv::Aes256Siv;
use aes_siv::{Key, KeyInit};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dripline_domain::{Address, SmolStr};
use hkdf::Hkdf;
use sha2::Sha512;

/// The path of the gateway below which the links are.
const PATH: &str = "/unsubscribe/";

/// Keeps these keys apart from any other that is derived from the same secret.
const PURPOSE: &[u8] = b"dripline unsubscribe token 1";

/// Longer than any token of ours: an address has at most 254 bytes.
const LONGEST_TOKEN: usize = 600;

/// Whom a link is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The person.
    pub address: Address,
    /// The email that carried the link; see [`dripline_domain::send_key`].
    pub send_key: SmolStr,
}

/// Makes unsubscribe links, and tells its own from forged ones.
///
/// A link ends in a token: the recipient, sealed by AES-SIV (RFC 5297), in URL-safe Base64 (RFC 4648 §5). Nobody reads
/// the address from it without the key, and nobody alters or makes one. It never expires. The same recipient has the same
/// token each time, so that an attempt that is repeated is the same email to the byte, as idempotent providers demand.
#[derive(Clone)]
pub struct UnsubscribeLinks {
    base_url: String,
    current: Key<Aes256Siv>,
    former: Vec<Key<Aes256Siv>>,
}

impl UnsubscribeLinks {
    /// Links below `base_url`, without a slash at its end. They are sealed with `current`; those sealed with a secret
    /// that was current before stay good while it is among `former`.
    pub fn new<'a>(base_url: &str, current: &[u8], former: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self { base_url: base_url.to_owned(), current: key(current), former: former.into_iter().map(key).collect() }
    }

    /// The link that ends all email to this person.
    ///
    /// # Errors
    /// Never for an address and a send key of ours: the cipher takes gigabytes.
    pub fn url(&self, recipient: &Recipient) -> Result<String, SealError> {
        let plain = [&*recipient.send_key, " ", recipient.address.as_str()].concat();
        let sealed = Aes256Siv::new(&self.current).encrypt(NO_HEADERS, plain.as_bytes()).map_err(SealError)?;
        Ok([&*self.base_url, PATH, &*URL_SAFE_NO_PAD.encode(sealed)].concat())
    }

    /// Whom this token is for; none when it is not one of ours. Takes as long for one that is almost right as for any
    /// other of its length.
    pub fn open(&self, token: &str) -> Option<Recipient> {
        if token.len() > LONGEST_TOKEN {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(token).ok()?;
        let mut keys = std::iter::once(&self.current).chain(&self.former);
        let plain = keys.find_map(|key| Aes256Siv::new(key).decrypt(NO_HEADERS, &sealed).ok())?;
        let (send_key, address) = std::str::from_utf8(&plain).ok()?.split_once(' ')?;
        Some(Recipient { address: Address::parse(address).ok()?, send_key: send_key.into() })
    }
}

impl fmt::Debug for UnsubscribeLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnsubscribeLinks({}, ***)", self.base_url)
    }
}

/// A recipient could not be sealed.
#[derive(Debug, thiserror::Error)]
#[error("the unsubscribe link could not be sealed")]
pub struct SealError(#[source] aes_siv::Error);

/// The cipher binds no further data.
const NO_HEADERS: [&[u8]; 0] = [];

/// HKDF-Extract (RFC 5869 §2.2): as many bytes as two AES-256 keys, from a secret of any length.
fn key(secret: &[u8]) -> Key<Aes256Siv> {
    Hkdf::<Sha512>::extract(Some(PURPOSE), secret).0
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &[u8] = b"the secret of last year, 32 chars";
    const NEW: &[u8] = b"the secret of this year, 32 chars";

    fn jane() -> Recipient {
        let address = Address::parse("jane.doe+trial@example.com").unwrap();
        Recipient { address, send_key: "cb082a52804fa071481396d5e9130456".into() }
    }

    fn links(current: &[u8]) -> UnsubscribeLinks {
        UnsubscribeLinks::new("https://mail.acme.example", current, [])
    }

    fn token(links: &UnsubscribeLinks) -> String {
        let url = links.url(&jane()).unwrap();
        url.strip_prefix("https://mail.acme.example/unsubscribe/").unwrap().to_owned()
    }

    #[test]
    fn a_link_names_its_recipient_to_whoever_has_the_key_and_nobody_else() {
        let token = token(&links(NEW));
        assert_eq!(links(NEW).open(&token), Some(jane()));
        assert_eq!(links(OLD).open(&token), None);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{token}");
        assert!(token.len() < 120, "{token}");
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("jane"), "the address can be read");
    }

    #[test]
    fn the_same_email_has_the_same_link_each_time() {
        assert_eq!(token(&links(NEW)), token(&links(NEW)));
    }

    #[test]
    fn a_link_of_a_former_key_stays_good() {
        let rotated = UnsubscribeLinks::new("https://mail.acme.example", NEW, [OLD]);
        assert_eq!(rotated.open(&token(&links(OLD))), Some(jane()));
        assert_eq!(token(&rotated), token(&links(NEW)), "the new key seals");
    }

    #[test]
    fn an_altered_link_is_none() {
        let links = links(NEW);
        let token = token(&links);
        for at in 0..token.len() {
            let other = if &token[at..=at] == "A" { "B" } else { "A" };
            let altered = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            assert_eq!(links.open(&altered), None, "{altered}");
        }
        for garbled in ["", "A", "jane@example.com", &token[1..], &format!("{token}A"), &"A".repeat(100_000)] {
            assert_eq!(links.open(garbled), None, "{garbled}");
        }
    }

    #[test]
    fn the_longest_address_has_a_link() {
        let label = "y".repeat(62);
        let address = format!("{}@{label}.{label}.{}.de", "x".repeat(64), &label[..60]);
        assert_eq!(address.len(), 254);
        let address = Address::parse(&address).unwrap();
        let long = Recipient { address, ..jane() };
        let url = links(NEW).url(&long).unwrap();
        assert_eq!(links(NEW).open(url.rsplit('/').next().unwrap()), Some(long));
    }

    #[test]
    fn a_key_is_never_printed() {
        let printed = format!("{:?}", links(NEW));
        assert_eq!(printed, "UnsubscribeLinks(https://mail.acme.example, ***)");
    }
}
