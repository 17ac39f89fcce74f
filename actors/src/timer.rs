use std::io::Cursor;

use bytes::Bytes;
use dripline_domain::{KeyError, LeadKey, Timestamp};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A timer of a lead: what is set, and what comes back when its time has come. Timers travel in groups, one message for
/// many, as MessagePack values one after the other: a part of a group that begins and ends with a timer is a group, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// Whose.
    pub key: LeadKey,
    /// When.
    pub at: Timestamp,
    /// The lead's generation when it was set. When the timer fires and the lead is at a later one, the timer is of no use
    /// any more: whoever brought the lead there has set another.
    pub generation: u64,
    /// Whether that other one may be missing: the timer fired before, and what came of it is not known.
    pub again: bool,
    /// The trace that it belongs to, by its header [`crate::trace::HEADER`].
    pub trace: Option<String>,
}

/// Not what [`Timer::write`] wrote.
#[derive(Debug, thiserror::Error)]
pub enum NotATimer {
    /// It is not MessagePack, or of another form.
    #[error("it cannot be read as a timer: {0}")]
    Form(#[from] rmp_serde::decode::Error),
    /// Something follows it.
    #[error("it is more than a timer")]
    More,
    /// It is for what is no lead.
    #[error("it is for no lead: {0}")]
    Key(#[from] KeyError),
}

/// The fields in their order.
type Fields<K, T> = (K, i64, u64, bool, T);
/// How MessagePack begins them.
const ARRAY_OF_FIVE: u8 = 0x95;

impl Timer {
    /// One that is set for the first time.
    pub fn new(key: LeadKey, at: Timestamp, generation: u64) -> Self {
        Self { key, at, generation, again: false, trace: None }
    }

    /// Appends it to a group.
    ///
    /// # Errors
    /// None that is known: every field has a form in MessagePack.
    pub fn write(&self, group: &mut Vec<u8>) -> Result<(), rmp_serde::encode::Error> {
        let Self { key, at, generation, again, trace } = self;
        let fields: Fields<&str, Option<&str>> = (key.as_str(), at.as_millis(), *generation, *again, trace.as_deref());
        rmp_serde::encode::write(group, &fields)
    }

    /// Reads a group of one.
    ///
    /// # Errors
    /// It is something else.
    pub fn read(bytes: &[u8]) -> Result<Self, NotATimer> {
        let mut cursor = Cursor::new(bytes);
        let (key, at, generation, again, trace): Fields<String, Option<String>> = rmp_serde::from_read(&mut cursor)?;
        if cursor.position() < bytes.len() as u64 {
            return Err(NotATimer::More);
        }
        Ok(Self { key: LeadKey::parse(&key)?, at: Timestamp::from_millis(at), generation, again, trace })
    }

    /// The bytes of each timer in a group; what is no group comes back whole.
    pub fn split(group: &Bytes) -> Vec<Bytes> {
        let mut cursor = Cursor::new(&group[..]);
        let mut parts = Vec::new();
        let mut begin = 0;
        while begin < group.len() {
            let is_timer = group[begin] == ARRAY_OF_FIVE
                && IgnoredAny::deserialize(&mut rmp_serde::Deserializer::new(&mut cursor)).is_ok();
            if !is_timer {
                return vec![group.clone()];
            }
            let end = usize::try_from(cursor.position()).unwrap_or(group.len());
            parts.push(group.slice(begin..end));
            begin = end;
        }
        if parts.is_empty() { vec![group.clone()] } else { parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(name: &str, generation: u64) -> Timer {
        let key = LeadKey::parse(&format!("{name}=40example.com")).unwrap();
        let trace = generation.is_multiple_of(2).then(|| "00-trace".to_owned());
        Timer { key, at: Timestamp::from_millis(1_700_000_000_123), generation, again: generation > 1, trace }
    }

    #[test]
    fn each_part_of_a_group_is_a_group() {
        let timers = [timer("jane", 1), timer("joe", 2), timer("jo", u64::MAX)];
        let mut group = Vec::new();
        for timer in &timers {
            timer.write(&mut group).unwrap();
        }
        let parts = Timer::split(&group.into());
        assert_eq!(parts.iter().map(|part| Timer::read(part).unwrap()).collect::<Vec<_>>(), timers);
        for part in parts {
            assert_eq!(Timer::split(&part), [part]);
        }
    }

    #[test]
    fn what_is_no_group_stays_whole_and_is_no_timer() {
        let mut cut = Vec::new();
        timer("jane", 1).write(&mut cut).unwrap();
        timer("joe", 1).write(&mut cut).unwrap();
        cut.pop();
        for bytes in [&b""[..], b"no timer", b"\x91\x01", b"\xc1", b"\x95", &cut] {
            let bytes = Bytes::copy_from_slice(bytes);
            assert_eq!(Timer::split(&bytes), std::slice::from_ref(&bytes));
            assert!(Timer::read(&bytes).is_err(), "{bytes:?}");
        }
    }
}
