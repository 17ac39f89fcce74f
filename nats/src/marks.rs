use std::fmt;

use async_nats::HeaderMap;
use async_nats::header::HeaderName;
use dripline_domain::{LeadStatus, Timestamp};

/// The header of a document that says what a scan needs to know, so that it need not read the document:
/// `ACTIVE generation=4 next=1795546430018 write=5d1c0f2a9be37718`. One, since the server and the client look through all
/// headers of a message many times.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("Dripline");

/// What the header of a document says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Where the lead is; none where another client wrote the document.
    pub status: Option<LeadStatus>,
    /// By which its timer is known.
    pub generation: u64,
    /// Its next time, if it waits for something.
    pub next_action: Option<Timestamp>,
    /// Unique among all writes to this document: tells ours from another's when an answer is lost.
    pub(crate) write: u64,
}

impl Marks {
    /// Of a document's headers; of one that another client wrote, what can be read.
    pub fn read(headers: Option<&HeaderMap>) -> Self {
        let text = headers.and_then(|headers| headers.get(HEADER)).map_or("", |value| value.as_str());
        let mut words = text.split(' ');
        let mut marks = Self {
            status: words.next().and_then(|status| status.parse().ok()),
            generation: 0,
            next_action: None,
            write: 0,
        };
        for word in words {
            match word.split_once('=') {
                Some(("generation", number)) => marks.generation = number.parse().unwrap_or(0),
                Some(("next", millis)) => marks.next_action = millis.parse().ok().map(Timestamp::from_millis),
                Some(("write", digits)) => marks.write = u64::from_str_radix(digits, 16).unwrap_or(0),
                // Of a later version.
                Some(_) | None => {}
            }
        }
        marks
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, generation, next_action, write } = self;
        write!(f, "{} generation={generation}", status.map_or("", LeadStatus::name))?;
        if let Some(next) = next_action {
            write!(f, " next={}", next.as_millis())?;
        }
        write!(f, " write={write:x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Marks {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, text);
        Marks::read(Some(&headers))
    }

    #[test]
    fn what_was_written_is_read_again() {
        let at = Timestamp::from_millis(1_795_546_430_018);
        let marks = Marks { status: Some(LeadStatus::InDoubt), generation: 7, next_action: Some(at), write: u64::MAX };
        assert_eq!(read(&marks.to_string()), marks);
        let asleep = Marks { status: Some(LeadStatus::Completed), generation: 0, next_action: None, write: 1 };
        assert_eq!(read(&asleep.to_string()), asleep);
    }

    #[test]
    fn what_is_not_ours_says_nothing() {
        let nothing = Marks { status: None, generation: 0, next_action: None, write: 0 };
        assert_eq!(Marks::read(None), nothing);
        for text in ["", "generation", "generation=x next= write=zz", "no=such=thing"] {
            assert_eq!(read(text), nothing, "{text}");
        }
    }
}
