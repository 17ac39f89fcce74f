use std::sync::Once;

use phonenumber::country::{Id, Source};
use phonenumber::metadata::DATABASE;
use phonenumber::{ParseError, PhoneNumber};

use crate::arrival::excerpt;

/// The longest E.164 number: 15 digits and the plus (ITU-T E.164 §6.2.1).
const MAX_BYTES: usize = 16;

/// Why a text is not a phone number we can write down as E.164.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhoneError {
    /// The region is none that has phone numbers.
    #[error("`{0}` is not a region; write two capital letters, such as \"US\" or \"DE\" (ISO 3166-1 alpha-2)")]
    UnknownRegion(String),
    /// No number that could be called, or one of a region that we cannot tell.
    #[error("not a phone number; write it as +1 415 555 2671")]
    NotANumber,
    /// A number with an extension: E.164 has no room for it, and without it the number is another.
    #[error("a phone number with an extension cannot be written as E.164")]
    Extension,
}

/// The number as E.164: `+` and up to 15 digits, such as `+14155552671`.
///
/// `default_region` is the one whose national notation is understood besides the international one, as two letters
/// (ISO 3166-1 alpha-2), such as `US`. A number counts only if its region has such numbers; idempotent.
pub fn normalise_phone(text: &str, default_region: &str) -> Result<String, PhoneError> {
    e164(text, Some(region(default_region)?))
}

/// Like [`normalise_phone`], but understands the international notation alone.
pub(crate) fn normalise_international_phone(text: &str) -> Result<String, PhoneError> {
    e164(text, None)
}

/// Whether [`normalise_phone`] knows this region; for checking a configuration at start.
pub fn check_region(region_code: &str) -> Result<(), PhoneError> {
    region(region_code).map(|_| ())
}

fn region(code: &str) -> Result<Id, PhoneError> {
    let known = code.parse::<Id>().ok().filter(|id| DATABASE.by_id(id.as_ref()).is_some());
    known.ok_or_else(|| PhoneError::UnknownRegion(excerpt(code)))
}

fn e164(text: &str, region: Option<Id>) -> Result<String, PhoneError> {
    widen_pattern_cache();
    let number = read(text, region).map_err(|_| PhoneError::NotANumber)?;
    if number.extension().is_some() {
        return Err(PhoneError::Extension);
    }
    let e164 = format!("+{}{}", number.code().value(), number.national());
    if number.is_valid() && e164.len() <= MAX_BYTES { Ok(e164) } else { Err(PhoneError::NotANumber) }
}

/// The library (0.3.10) strips the *default* region's trunk prefix from foreign numbers too: `+55 11 91234-5678` loses
/// its 11 in the US. So it is told of the default region only for numbers of that region.
fn read(text: &str, region: Option<Id>) -> Result<PhoneNumber, ParseError> {
    let first = text.chars().find(|c| matches!(c, '+' | '＋') || c.is_numeric());
    if region.is_none() || matches!(first, Some('+' | '＋')) {
        return phonenumber::parse(None, text);
    }
    let number = phonenumber::parse(region, text)?;
    let (Source::Idd, Some(region)) = (number.code().source(), region) else {
        return Ok(number);
    };
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let dialled = DATABASE.by_id(region.as_ref()).and_then(|region| region.international_prefix()?.find(&digits));
    let prefix = dialled.map_or(0, |dialled| dialled.end());
    phonenumber::parse(None, format!("+{}", &digits[prefix..]))
}

/// Room for the patterns of some sixty regions (50 MB at the very most): the library keeps a dozen's, and compiles
/// anew, 2 ms a number instead of 20 µs, where more are in use.
fn widen_pattern_cache() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(mut cache) = DATABASE.cache().lock() {
            cache.set_capacity(400);
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_as_people_write_it() {
        for (region, written, e164) in [
            ("US", "(415) 555-2671", "+14155552671"),
            ("US", " 1-415-555-2671 ", "+14155552671"),
            ("US", "+1 415.555.2671", "+14155552671"),
            ("US", "tel:+1-415-555-2671", "+14155552671"),
            ("US", "1-800-FLOWERS", "+18003569377"),
            ("US", "+44 20 7946 0958", "+442079460958"),
            ("US", "(+44) 20 7946 0958", "+442079460958"),
            ("US", "＋44 20 7946 0958", "+442079460958"),
            ("US", "+55 11 91234-5678", "+5511912345678"),
            ("US", "011 55 11 91234-5678", "+5511912345678"),
            ("GB", "020 7946 0958", "+442079460958"),
            ("GB", "00 1 415 555 2671", "+14155552671"),
            ("DE", "030/901820", "+4930901820"),
            ("DE", "0039 06 698 12345", "+390669812345"),
            ("FR", "+33 (0)6 31 96 65 43", "+33631966543"),
            ("IT", "06 698 12345", "+390669812345"),
            ("AR", "011 15 2345-6789", "+5491123456789"),
        ] {
            assert_eq!(normalise_phone(written, region).as_deref(), Ok(e164), "{region} {written}");
        }
    }

    #[test]
    fn what_cannot_be_called_is_refused() {
        use PhoneError::{Extension, NotANumber};
        for (written, error) in [
            ("", NotANumber),
            ("n/a", NotANumber),
            ("call me", NotANumber),
            ("123", NotANumber),
            ("+", NotANumber),
            ("+999 123 456 789", NotANumber),
            ("415 555 2671 or 415 555 2672", NotANumber),
            ("415 555 26712345678901234567890", NotANumber),
            ("415 555 2671 ext. 12", Extension),
            ("tel:+1-415-555-2671;ext=12", Extension),
        ] {
            assert_eq!(normalise_phone(written, "US"), Err(error), "{written}");
        }
    }

    #[test]
    fn without_a_region_only_the_international_notation_is_understood() {
        assert_eq!(normalise_international_phone("+1 415 555 2671").as_deref(), Ok("+14155552671"));
        assert_eq!(normalise_international_phone("415 555 2671"), Err(PhoneError::NotANumber));
    }

    #[test]
    fn a_wrong_region_in_the_configuration_is_told() {
        for region in ["US", "DE", "XK", "GG"] {
            assert_eq!(check_region(region), Ok(()), "{region}");
        }
        for region in ["", "us", "USA", "ZZ", "UK", "001", "\u{1b}[2J"] {
            let error = check_region(region).unwrap_err();
            assert_eq!(normalise_phone("+1 415 555 2671", region), Err(error.clone()), "{region:?}");
            assert!(!error.to_string().contains(char::is_control));
        }
    }

    fn any_region() -> impl Strategy<Value = String> {
        let mut ids: Vec<String> = DATABASE.iter().map(|region| region.id().to_owned()).collect();
        ids.sort();
        proptest::sample::select(ids)
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), numberish in "[+0-9 ()x;=.,*#-]{0,20}", region in any_region()) {
            for text in [text, numberish] {
                let _ = normalise_phone(&text, &region);
                let _ = normalise_international_phone(&text);
            }
        }

        #[test]
        fn normalised_stays_normalised(text in "(00|011|0|\\+)?[0-9]{7,13}", region in any_region(), other in any_region()) {
            if let Ok(once) = normalise_phone(&text, &region) {
                prop_assert_eq!(normalise_phone(&once, &region), Ok(once.clone()));
                // Unless its own region is none (a freephone number for the whole world).
                if check_region(&other).is_ok() {
                    prop_assert_eq!(normalise_phone(&once, &other), Ok(once));
                }
            }
        }
    }
}
