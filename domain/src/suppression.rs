use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The longest source of a mark, in characters.
const SOURCE_LIMIT: usize = 100;
/// The longest reason of a mark, in characters.
const REASON_LIMIT: usize = 300;

/// Why an address must not be mailed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionCause {
    /// The person reported an email as spam.
    Complaint,
    /// The address does not exist.
    HardBounce,
    /// Too many emails did not arrive in too short a time.
    SoftBounces,
    /// An operator, or a list that was imported.
    Manual,
    /// The person wants no more. The one cause that transactional emails ignore, and that the person can take back.
    Unsubscribe,
}

impl SuppressionCause {
    /// As in the bucket and in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complaint => "complaint",
            Self::HardBounce => "hard_bounce",
            Self::SoftBounces => "soft_bounces",
            Self::Manual => "manual",
            Self::Unsubscribe => "unsubscribe",
        }
    }
}

/// One thing that speaks against mailing an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SuppressionMark {
    /// Since when.
    pub timestamp: Timestamp,
    /// Who or what said so: `sendgrid`, `unsubscribe-page`, an operator's name.
    pub source: String,
    /// For people.
    pub reason: String,
}

/// All that is known against mailing one address, and the value of its key in the bucket `suppressions`.
///
/// Merging is commutative, associative and idempotent: what events that repeat and come in any order make of it depends
/// on the set of them alone. At most one mark a cause is kept, the earliest; of an unsubscribe the latest, since the
/// person can take it back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppression {
    #[serde(flatten)]
    marks: BTreeMap<SuppressionCause, SuppressionMark>,
    /// When the person last wanted more again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resubscribed: Option<Timestamp>,
}

/// As earlier versions wrote an entry, and as people do.
#[derive(Deserialize)]
struct Plain {
    reason: String,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    timestamp: Option<Timestamp>,
}

/// The source of an entry that names none.
const BY_HAND: &str = "by hand";

impl Suppression {
    /// What this one mark says. Its source is cut to 100 characters, its reason to 300.
    pub fn of(cause: SuppressionCause, mark: SuppressionMark) -> Self {
        let SuppressionMark { timestamp, source, reason } = mark;
        let mark =
            SuppressionMark { timestamp, source: cut(&source, SOURCE_LIMIT), reason: cut(&reason, REASON_LIMIT) };
        Self { marks: [(cause, mark)].into(), resubscribed: None }
    }

    /// The person wanted more again at this time: what they said before is taken back.
    pub fn resubscribed(at: Timestamp) -> Self {
        Self { marks: BTreeMap::new(), resubscribed: Some(at) }
    }

    /// Reads an entry of the bucket that was written at `written`.
    ///
    /// One that is not of our form was put there by hand, and certainly to stop our mail: it counts as
    /// [`SuppressionCause::Manual`], with its text as the reason.
    pub fn parse(value: &[u8], written: Timestamp) -> Self {
        let manual = |timestamp: Option<Timestamp>, source: Option<String>, reason: String| {
            let source = source.unwrap_or_else(|| BY_HAND.to_owned());
            let timestamp = timestamp.unwrap_or(written);
            Self::of(SuppressionCause::Manual, SuppressionMark { timestamp, source, reason })
        };
        match serde_json::from_slice::<Self>(value) {
            Ok(read) if !read.is_empty() => read,
            Ok(_) | Err(_) => match serde_json::from_slice::<Plain>(value) {
                Ok(Plain { reason, source, timestamp }) => manual(timestamp, source, reason),
                Err(_) => manual(None, None, String::from_utf8_lossy(value).into_owned()),
            },
        }
    }

    /// The entry as it stands in the bucket.
    ///
    /// # Errors
    /// Never; serde's signature.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Takes over what the other knows.
    pub fn merge(&mut self, other: &Self) {
        for (cause, mark) in &other.marks {
            let kept = self.marks.entry(*cause).or_insert_with(|| mark.clone());
            let wins = match cause {
                SuppressionCause::Unsubscribe => mark > kept,
                SuppressionCause::Complaint
                | SuppressionCause::HardBounce
                | SuppressionCause::SoftBounces
                | SuppressionCause::Manual => mark < kept,
            };
            if wins {
                kept.clone_from(mark);
            }
        }
        self.resubscribed = self.resubscribed.max(other.resubscribed);
    }

    /// Nothing is known of the address.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.resubscribed.is_none()
    }

    /// What forbids mail now, the strongest first. An unsubscribe that was taken back later does not.
    pub fn all_in_force(&self) -> impl Iterator<Item = (SuppressionCause, &SuppressionMark)> {
        self.marks.iter().map(|(cause, mark)| (*cause, mark)).filter(|(cause, mark)| match cause {
            // At the same moment: no is no.
            SuppressionCause::Unsubscribe => self.resubscribed.is_none_or(|taken_back| mark.timestamp >= taken_back),
            SuppressionCause::Complaint
            | SuppressionCause::HardBounce
            | SuppressionCause::SoftBounces
            | SuppressionCause::Manual => true,
        })
    }

    /// The strongest of what forbids mail now: any mail, or, where `transactional`, mail that an unsubscribe does not
    /// stop.
    pub fn in_force(&self, transactional: bool) -> Option<(SuppressionCause, &SuppressionMark)> {
        self.all_in_force().find(|(cause, _)| !(transactional && *cause == SuppressionCause::Unsubscribe))
    }

    /// Whether the person wanted more again, and nothing forbids mail now.
    pub(crate) fn is_lifted(&self) -> bool {
        self.resubscribed.is_some() && self.in_force(false).is_none()
    }
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WRITTEN: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn mark(millis: i64, reason: &str) -> SuppressionMark {
        SuppressionMark {
            timestamp: Timestamp::from_millis(millis),
            source: "test".to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn piece() -> impl Strategy<Value = Suppression> {
        let cause = prop_oneof![
            Just(SuppressionCause::Complaint),
            Just(SuppressionCause::HardBounce),
            Just(SuppressionCause::SoftBounces),
            Just(SuppressionCause::Manual),
            Just(SuppressionCause::Unsubscribe),
        ];
        prop_oneof![
            4 => (cause, 0_i64..4, "[ab]").prop_map(|(cause, at, reason)| Suppression::of(cause, mark(at, &reason))),
            1 => (0_i64..4).prop_map(|at| Suppression::resubscribed(Timestamp::from_millis(at))),
        ]
    }

    fn merged<'a>(pieces: impl IntoIterator<Item = &'a Suppression>) -> Suppression {
        pieces.into_iter().fold(Suppression::default(), |mut all, piece| {
            all.merge(piece);
            all
        })
    }

    proptest! {
        #[test]
        fn merging_depends_on_the_set_alone(
            pieces in proptest::collection::vec(piece(), 0..8),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..24),
            split in any::<prop::sample::Index>(),
        ) {
            let all = merged(&pieces);
            // Any order, with repeats, every piece at least once.
            let repeated = order.iter().filter(|_| !pieces.is_empty()).map(|place| place.get(&pieces));
            prop_assert_eq!(&merged(repeated.chain(pieces.iter().rev())), &all);
            // In two halves.
            let (one, other) = pieces.split_at(split.index(pieces.len() + 1));
            prop_assert_eq!(&merged([&merged(one), &merged(other)]), &all);
            if !all.is_empty() {
                prop_assert_eq!(&Suppression::parse(&all.to_json().unwrap(), WRITTEN), &all);
            }
        }
    }

    #[test]
    fn an_unsubscribe_is_taken_back_by_a_later_resubscribe_and_by_nothing_else() {
        let unsubscribed = |at| Suppression::of(SuppressionCause::Unsubscribe, mark(at, "asked"));
        let back = |at| Suppression::resubscribed(Timestamp::from_millis(at));
        let complaint = Suppression::of(SuppressionCause::Complaint, mark(1, "spam"));
        for (pieces, any_mail, transactional) in [
            (vec![unsubscribed(2)], Some(SuppressionCause::Unsubscribe), None),
            (vec![unsubscribed(2), back(3)], None, None),
            (vec![unsubscribed(2), back(2)], Some(SuppressionCause::Unsubscribe), None),
            (vec![unsubscribed(2), back(3), unsubscribed(4)], Some(SuppressionCause::Unsubscribe), None),
            (vec![back(3)], None, None),
            (
                vec![unsubscribed(2), complaint.clone(), back(3)],
                Some(SuppressionCause::Complaint),
                Some(SuppressionCause::Complaint),
            ),
        ] {
            let all = merged(&pieces);
            assert_eq!(all.in_force(false).map(|(cause, _)| cause), any_mail, "{pieces:?}");
            assert_eq!(all.in_force(true).map(|(cause, _)| cause), transactional, "{pieces:?}");
        }
    }

    #[test]
    fn what_is_not_of_our_form_was_written_by_hand_and_suppresses() {
        for (value, reason, source, at) in [
            (r#"{"reason": "asked by phone"}"#, "asked by phone", BY_HAND, WRITTEN.as_millis()),
            (r#"{"reason": "r", "source": "ann", "timestamp": 5}"#, "r", "ann", 5),
            ("called us", "called us", BY_HAND, WRITTEN.as_millis()),
            ("", "", BY_HAND, WRITTEN.as_millis()),
            ("{}", "{}", BY_HAND, WRITTEN.as_millis()),
            (r#"{"unknown": 1}"#, r#"{"unknown": 1}"#, BY_HAND, WRITTEN.as_millis()),
        ] {
            let read = Suppression::parse(value.as_bytes(), WRITTEN);
            let (cause, mark) = read.in_force(true).unwrap();
            assert_eq!(cause, SuppressionCause::Manual, "{value}");
            assert_eq!((&*mark.reason, &*mark.source, mark.timestamp.as_millis()), (reason, source, at), "{value}");
        }
    }

    #[test]
    fn an_entry_reads_well_and_is_bounded() {
        let mut all = Suppression::of(SuppressionCause::HardBounce, mark(5, "550 no such user"));
        all.merge(&Suppression::resubscribed(Timestamp::from_millis(7)));
        assert_eq!(
            String::from_utf8(all.to_json().unwrap()).unwrap(),
            r#"{"hard_bounce":{"timestamp":5,"source":"test","reason":"550 no such user"},"resubscribed":7}"#
        );
        let long = Suppression::of(SuppressionCause::Manual, mark(5, &"x".repeat(10_000)));
        assert!(long.to_json().unwrap().len() < 500);
    }
}
