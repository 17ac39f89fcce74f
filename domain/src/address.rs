use std::borrow::Cow;
use std::fmt;

use email_address::EmailAddress;
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use unicode_normalization::UnicodeNormalization;

/// The longest address that fits a forward path (RFC 5321 §4.5.3.1.3), in bytes.
const MAX_BYTES: usize = 254;

/// The longest local part (RFC 5321 §4.5.3.1.1), in bytes.
const MAX_LOCAL_BYTES: usize = 64;

/// An email address, normalised: trimmed, NFC, lower case, its domain in ASCII (IDNA A-labels, UTS #46).
///
/// What looks the same is the same: two texts that normalise alike are one lead. The local part may hold UTF-8
/// (RFC 6531). Invariants: exactly one `@`; a dot in the domain; no space, control or invisible character; at most 254
/// bytes; parsing it again gives it back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "SmolStr")]
pub struct Address(SmolStr);

/// Why a text is not an address we can mail. The sentences never repeat the text, so that they can be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing but white space.
    #[error("the address is empty")]
    Empty,
    /// Over 254 bytes, normalised.
    #[error("the address is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Over 64 bytes before the `@`.
    #[error("the part before the @ is longer than {MAX_LOCAL_BYTES} bytes")]
    LocalPartTooLong,
    /// A control character, or one that cannot be seen (zero width, direction mark).
    #[error("the address holds a control character or an invisible one")]
    Unprintable,
    /// White space between its ends.
    #[error("the address holds a space")]
    Space,
    /// A comma, a semicolon, or a second `@`.
    #[error("this is more than one address; give one, such as jane@example.com")]
    Several,
    /// `Jane <jane@example.com>`.
    #[error("only the address is wanted, such as jane@example.com, without a name or angle brackets")]
    DisplayName,
    /// `"jane doe"@example.com`.
    #[error("a quoted part before the @ is not supported")]
    Quoted,
    /// No `@`, or nothing on one side of it.
    #[error("an address has a part before and a part after an @, such as jane@example.com")]
    Incomplete,
    /// The part before the `@` is not a dot-atom (RFC 5322 §3.2.3).
    #[error("the part before the @ holds a character that is not allowed there, or a dot in the wrong place")]
    LocalPart,
    /// The part after the `@` has no dot.
    #[error("the domain has no dot; write it in full, such as example.com")]
    DomainWithoutDot,
    /// The part after the `@` is not a domain name.
    #[error("the part after the @ is not a domain name, such as example.com")]
    Domain,
}

impl Address {
    /// Normalises and checks.
    ///
    /// Quoted local parts and domain literals are legal (RFC 5321 §4.1.2) but refused: in the field they are mistakes.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        // Before any work on it: normalising shortens no address that much.
        if text.len() > 8 * MAX_BYTES {
            return Err(AddressError::TooLong);
        }
        refuse_what_is_no_single_address(text)?;

        let (local, domain) = text.split_once('@').ok_or(AddressError::Incomplete)?;
        if local.is_empty() || domain.is_empty() {
            return Err(AddressError::Incomplete);
        }
        let local = normalise_local(local);
        if local.len() > MAX_LOCAL_BYTES {
            return Err(AddressError::LocalPartTooLong);
        }
        if !EmailAddress::is_valid_local_part(&local) {
            return Err(AddressError::LocalPart);
        }
        let address = Self([&*local, "@", &*normalise_domain(domain)?].concat().into());
        if address.0.len() > MAX_BYTES {
            return Err(AddressError::TooLong);
        }
        Ok(address)
    }

    /// The normalised address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the `@`.
    pub fn local(&self) -> &str {
        self.split().0
    }

    /// The part after the `@`: ASCII, lower case.
    pub fn domain(&self) -> &str {
        self.split().1
    }

    /// `j***@example.com`: enough to recognise in a log, not to mail.
    pub fn masked(&self) -> String {
        let (local, domain) = self.split();
        let first = local.chars().take(1).collect::<String>();
        format!("{first}***@{domain}")
    }

    fn split(&self) -> (&str, &str) {
        self.0.split_once('@').unwrap_or((&self.0, ""))
    }
}

impl fmt::Display for Address {
    /// The whole address; see [`Address::masked`] for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<SmolStr> for Address {
    type Error = AddressError;

    fn try_from(text: SmolStr) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

/// Names the usual mistakes, so that whoever typed one is told which.
fn refuse_what_is_no_single_address(text: &str) -> Result<(), AddressError> {
    if text.chars().any(|c| c.is_control() || is_invisible(c)) {
        return Err(AddressError::Unprintable);
    }
    if text.contains(['<', '>']) {
        return Err(AddressError::DisplayName);
    }
    if text.contains('"') {
        return Err(AddressError::Quoted);
    }
    if text.contains([',', ';']) || text.matches('@').count() > 1 {
        return Err(AddressError::Several);
    }
    if text.contains(char::is_whitespace) {
        return Err(AddressError::Space);
    }
    Ok(())
}

/// Characters that take no room on a screen and come along when an address is copied (default ignorable code points
/// and noncharacters, Unicode §5.21 and §23.7). With them, two addresses that look alike would be two leads.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}'
        | '\u{FDD0}'..='\u{FDEF}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFF}'
        | '\u{E0000}'..='\u{E0FFF}')
        || u32::from(c) & 0xFFFE == 0xFFFE
}

/// NFC before, for the lower case of a decomposed letter; and after, as lower case can come out decomposed (`İ`).
fn normalise_local(local: &str) -> String {
    if local.is_ascii() {
        return local.to_ascii_lowercase();
    }
    local.nfc().collect::<String>().to_lowercase().nfc().collect()
}

/// To A-labels. Stricter than a browser: letters, digits and hyphens, as a mail domain must be (RFC 5321 §2.3.5).
fn normalise_domain(domain: &str) -> Result<Cow<'_, str>, AddressError> {
    let domain = Uts46::new()
        .to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
        .map_err(|_| AddressError::Domain)?;
    let (_, top) = domain.rsplit_once('.').ok_or(AddressError::DomainWithoutDot)?;
    // No top-level domain is a number (RFC 3696 §2), so that 192.0.2.1 is not taken for a name.
    if top.bytes().all(|byte| byte.is_ascii_digit()) || !EmailAddress::is_valid_domain(&domain) {
        return Err(AddressError::Domain);
    }
    Ok(domain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_person_writes_their_address_in_many_ways() {
        for (written, normalised) in [
            ("jane@example.com", "jane@example.com"),
            ("  Jane.Doe+News@Example.COM\r\n", "jane.doe+news@example.com"),
            ("\u{3000}jane@example.com\u{a0}", "jane@example.com"),
            ("jane@b\u{fc}cher.example", "jane@xn--bcher-kva.example"),
            ("jane@BU\u{308}CHER.example", "jane@xn--bcher-kva.example"),
            ("jane@XN--BCHER-KVA.example", "jane@xn--bcher-kva.example"),
            ("jane@example\u{3002}com", "jane@example.com"),
            ("Zoe\u{308}@example.com", "zo\u{eb}@example.com"),
            ("ZO\u{cb}@example.com", "zo\u{eb}@example.com"),
            ("用户@例子.中国", "用户@xn--fsqu00a.xn--fiqs8s"),
            ("o'neil@example.com", "o'neil@example.com"),
            ("a@b--c.example", "a@b--c.example"),
            ("1@2.example", "1@2.example"),
        ] {
            assert_eq!(Address::parse(written).unwrap().as_str(), normalised, "{written:?}");
        }
    }

    #[test]
    fn a_wrong_address_is_told_what_is_wrong() {
        use AddressError as E;
        for (written, error) in [
            ("", E::Empty),
            (" \t\r\n", E::Empty),
            ("jane", E::Incomplete),
            ("@example.com", E::Incomplete),
            ("jane@", E::Incomplete),
            ("jane@localhost", E::DomainWithoutDot),
            ("jane@example", E::DomainWithoutDot),
            ("jane@example.com.", E::Domain),
            ("jane@.example.com", E::Domain),
            ("jane@example..com", E::Domain),
            ("jane@-example.com", E::Domain),
            ("jane@exa_mple.com", E::Domain),
            ("jane@exa(x)mple.com", E::Domain),
            ("jane@192.0.2.1", E::Domain),
            ("jane@[192.0.2.1]", E::Domain),
            ("jane@xn--zzzzzzzz.example", E::Domain),
            (".jane@example.com", E::LocalPart),
            ("jane.@example.com", E::LocalPart),
            ("ja..ne@example.com", E::LocalPart),
            ("jane(work)@example.com", E::LocalPart),
            ("ja\\ne@example.com", E::LocalPart),
            ("jane doe@example.com", E::Space),
            ("jane@exam\u{2028}ple.com", E::Space),
            ("jane@example.com joe@example.com", E::Several),
            ("jane@example.com,joe@example.com", E::Several),
            ("jane@example.com;", E::Several),
            ("jane@x@example.com", E::Several),
            ("Jane <jane@example.com>", E::DisplayName),
            ("<jane@example.com>", E::DisplayName),
            ("\"jane doe\"@example.com", E::Quoted),
            ("jane@example.com\r\nBcc: joe@example.com", E::Unprintable),
            ("ja\0ne@example.com", E::Unprintable),
            ("ja\u{200b}ne@example.com", E::Unprintable),
            ("jane@example\u{202e}.com", E::Unprintable),
        ] {
            assert_eq!(Address::parse(written), Err(error), "{written:?}");
        }
    }

    #[test]
    fn an_address_no_server_takes_is_refused() {
        let domain = |bytes: usize| format!("{}.example", vec!["a"; (bytes - 7) / 2].join("."));
        assert!(Address::parse(&format!("{}@example.com", "a".repeat(64))).is_ok());
        assert_eq!(Address::parse(&format!("{}@example.com", "a".repeat(65))), Err(AddressError::LocalPartTooLong));
        // 33 characters, but 66 bytes.
        assert_eq!(Address::parse(&format!("{}@example.com", "é".repeat(33))), Err(AddressError::LocalPartTooLong));
        assert_eq!(Address::parse(&format!("{}@{}", "a".repeat(64), domain(189))).unwrap().as_str().len(), 254);
        assert_eq!(Address::parse(&format!("{}@{}", "a".repeat(64), domain(191))), Err(AddressError::TooLong));
        assert_eq!(Address::parse(&format!("a@{}.example", "b".repeat(64))), Err(AddressError::Domain));
        assert_eq!(Address::parse(&"a".repeat(1 << 20)), Err(AddressError::TooLong));
    }

    #[test]
    fn a_log_shows_enough_to_recognise_and_not_to_mail() {
        for (address, masked) in [
            ("jane.doe@example.com", "j***@example.com"),
            ("j@example.com", "j***@example.com"),
            ("ëva@example.com", "ë***@example.com"),
        ] {
            assert_eq!(Address::parse(address).unwrap().masked(), masked);
        }
    }

    #[test]
    fn its_parts() {
        let address = Address::parse("Jane.Doe@Example.com").unwrap();
        assert_eq!((address.local(), address.domain()), ("jane.doe", "example.com"));
        assert_eq!(address.to_string(), "jane.doe@example.com");
    }

    #[test]
    fn in_json_it_is_a_string_and_is_checked_when_read() {
        let address = Address::parse("jane@example.com").unwrap();
        assert_eq!(serde_json::to_string(&address).unwrap(), r#""jane@example.com""#);
        assert_eq!(serde_json::from_str::<Address>(r#"" Jane@example.com""#).unwrap(), address);
        let error = serde_json::from_str::<Address>(r#""jane@localhost""#).unwrap_err().to_string();
        assert!(error.contains("no dot"), "{error}");
    }

    #[test]
    fn every_character_normalises_once_and_for_all() {
        // Every letter that has a case or is composed is among these; ideographs are not.
        for c in ('\0'..='\u{33FF}').chain('\u{A000}'..='\u{ABFF}').chain('\u{F900}'..='\u{1EFFF}') {
            for text in [format!("ab{c}@example.com"), format!("a@{c}.example")] {
                let Ok(once) = Address::parse(&text) else { continue };
                assert_eq!(Address::parse(once.as_str()).as_ref(), Ok(&once), "{c:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = Address::parse(&text);
        }

        #[test]
        fn normalised_stays_normalised(text in "[ -~À-ʯ\u{300}-\u{36f}Ͱ-Ͽא-ת一-三İK]{1,8}@[a-zA-ZÀ-ʯ\u{300}-\u{30f}Ͱ-Ͽא-ת一-三.-]{1,9}\\.(com|рф)") {
            if let Ok(once) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(once.as_str()), Ok(once));
            }
        }

        #[test]
        fn an_error_repeats_nothing(text in "\\PC{81,200}") {
            if let Err(error) = Address::parse(&text) {
                let sentence = error.to_string();
                prop_assert!(!sentence.contains(&text) && !sentence.contains(char::is_control));
            }
        }
    }
}
