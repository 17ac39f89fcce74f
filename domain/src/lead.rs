use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use sha2::Sha256;
use smol_str::SmolStr;
use strum::{EnumString, IntoStaticStr, VariantNames};

use crate::{
    Address, Enrolment, EnrolmentId, Hold, Profile, RequestId, SOFT_BOUNCES_KEPT, State, Suppression, SuppressionCause,
    SuppressionMark, Timestamp,
};

/// The version of the document's layout. A document with a higher one is left alone.
pub const SCHEMA: u32 = 1;

/// The document holds so many history entries, the newest; all of them are in the journal.
pub const HISTORY_LIMIT: usize = 20;

/// A person, by address, with every sequence they are in: the whole of what is known, in one document.
#[derive(Debug, Clone, PartialEq)]
pub struct Lead {
    /// Opaque; says nothing of the person.
    pub lead_id: LeadId,
    /// Whom to mail.
    pub address: Address,
    /// What the sources told.
    pub profile: Arc<Profile>,
    /// Why this address must not be mailed, if it must not: the strongest that the bucket `suppressions` held when this
    /// lead last looked.
    pub suppressed: Option<Suppressed>,
    /// What providers and the person told us against mailing this address, and for it: by it an event that is repeated is
    /// known. Who else is on the bucket's list is not in it.
    pub told: Suppression,
    /// The emails that did not arrive for a reason that may pass, one entry an email, by time; the latest
    /// [`SOFT_BOUNCES_KEPT`].
    pub soft_bounces: Vec<SoftBounce>,
    /// An operator holds it back: nothing of it is sent.
    pub paused: Option<Hold>,
    /// The ids of the operators' requests that changed it, the newest last; at most 16.
    pub requests: Vec<RequestId>,
    /// Grows each time the lead's next time is set anew: an older timer is recognised by it.
    pub generation: u64,
    /// When the first arrival was processed.
    pub created_at: Timestamp,
    /// In the order they began.
    pub enrolments: Vec<Enrolment>,
    /// The newest entries, oldest first; at most [`HISTORY_LIMIT`].
    ///
    /// Shared with the lead's earlier states, as the profile is: a decision copies the lead.
    pub history: Vec<Arc<Entry>>,
}

/// Why a lead must not be mailed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppressed {
    /// What kind of reason.
    pub cause: SuppressionCause,
    /// For people.
    pub reason: String,
}

impl From<(SuppressionCause, &SuppressionMark)> for Suppressed {
    fn from((cause, mark): (SuppressionCause, &SuppressionMark)) -> Self {
        Self { cause, reason: mark.reason.clone() }
    }
}

/// An email that did not arrive, for a reason that may pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SoftBounce {
    /// When it first bounced.
    pub timestamp: Timestamp,
    /// Which email: its send key, else the provider's id of the message or of the event.
    pub email: SmolStr,
}

impl SoftBounce {
    /// Adds a soft bounce, in the order of time; of one email the earliest counts. Whether anything changed.
    pub(crate) fn remember(bounces: &mut Vec<Self>, bounce: Self) -> bool {
        match bounces.iter().position(|known| known.email == bounce.email) {
            Some(place) if bounces[place].timestamp <= bounce.timestamp => return false,
            Some(place) => drop(bounces.remove(place)),
            None => {}
        }
        let place =
            bounces.partition_point(|known| (known.timestamp, &known.email) < (bounce.timestamp, &bounce.email));
        if place == 0 && bounces.len() >= SOFT_BOUNCES_KEPT {
            return false;
        }
        bounces.insert(place, bounce);
        let surplus = bounces.len().saturating_sub(SOFT_BOUNCES_KEPT);
        bounces.drain(..surplus);
        true
    }
}

/// A lead's opaque id: `ld_` and 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeadId(SmolStr);

impl LeadId {
    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&LeadId> for SmolStr {
    fn from(id: &LeadId) -> Self {
        id.0.clone()
    }
}

/// Makes the lead ids of one installation. Whoever has the key can compute a lead's id from its address; nobody can read
/// the address from the id.
#[derive(Clone)]
pub struct LeadIdKey(Vec<u8>);

impl LeadIdKey {
    /// From this installation's secret.
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(secret.into())
    }

    /// The id of this address: HMAC-SHA-256 (RFC 2104), cut to 128 bits.
    pub fn lead_id(&self, address: &Address) -> LeadId {
        LeadId(format!("ld_{}", hex(&self.mac(address.as_str())[..16])).into())
    }

    /// Another secret of this installation, for this purpose alone: HMAC-SHA-256. A purpose is no address.
    pub fn derived(&self, purpose: &str) -> [u8; 32] {
        self.mac(purpose)
    }

    fn mac(&self, text: &str) -> [u8; 32] {
        // HMAC takes a key of any length, so the other arm is never reached.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| Hmac::new(&[0; 64].into()));
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for LeadIdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeadIdKey(***)")
    }
}

impl fmt::Display for LeadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// Names one arrival for good: its place in the queue, the time the queue took it, and what its sender called it. A
/// redelivery has the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ArrivalId(SmolStr);

impl ArrivalId {
    /// From a message's stream sequence and the time its stream took it. The time tells a stream from one that was
    /// made anew and counts from 1 again. `sent_as` is what its sender says makes two messages one.
    pub fn new(sequence: u64, published: Timestamp, sent_as: Option<&str>) -> Self {
        let place = format!("{sequence}@{}", published.as_millis());
        Self(sent_as.map_or_else(|| place.as_str().into(), |name| format!("{place}#{name}").into()))
    }

    /// Whether both are one arrival: the same message, or two that their sender gave one name shortly after each other.
    /// The queue knows names for as long, too, but forgets them when its server is killed.
    pub fn is(&self, other: &Self) -> bool {
        self == other
            || self
                .sent_as()
                .zip(other.sent_as())
                .is_some_and(|(one, other)| one.0 == other.0 && one.1.abs_diff(other.1) <= SENT_AS_MILLIS)
    }

    /// Of an operator's request, which is in no queue.
    pub fn by_request(request: &RequestId, at: Timestamp) -> Self {
        Self::new(0, at, Some(request.as_str()))
    }

    /// What its sender called it, and when the queue took it, in Unix milliseconds.
    fn sent_as(&self) -> Option<(&str, i64)> {
        let (place, name) = self.0.split_once('#')?;
        Some((name, place.split_once('@')?.1.parse().ok()?))
    }
}

/// Two messages of one name are one arrival within this: the queue's own window (`duplicate_window`, 2 minutes).
const SENT_AS_MILLIS: u64 = 120_000;

/// Where a lead is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr, EnumString, VariantNames)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum LeadStatus {
    /// Waits for its first email.
    New,
    /// Has had at least one email and waits for the next.
    Active,
    /// An email is being sent.
    Sending,
    /// The answer to an attempt was lost.
    InDoubt,
    /// An enrolment cannot go on by itself.
    Parked,
    /// An operator holds it back.
    Paused,
    /// Every enrolment ended.
    Completed,
    /// The address does not exist.
    HardBounce,
    /// Reported an email as spam.
    Complained,
    /// Wants no more. Transactional sequences go on.
    Unsubscribed,
    /// Must not be mailed for another reason: too many soft bounces, or an operator's.
    Suppressed,
}

impl LeadStatus {
    /// As in the document and its header.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether its address must not be mailed, as [`Lead::suppressed`] says.
    pub fn forbids_mail(self) -> bool {
        match self {
            Self::HardBounce | Self::Complained | Self::Unsubscribed | Self::Suppressed => true,
            Self::New
            | Self::Active
            | Self::Sending
            | Self::InDoubt
            | Self::Parked
            | Self::Paused
            | Self::Completed => false,
        }
    }
}

/// Something that happened to a lead. A line of the journal, and of the document's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When.
    pub timestamp: Timestamp,
    /// What.
    pub event: What,
    /// In which sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<SmolStr>,
    /// At which version of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// At which step, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<SmolStr>,
    /// Which attempt at the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The provider's id of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<SmolStr>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the next try is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The provider that was called, or that told us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<SmolStr>,
    /// The operator who did it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<SmolStr>,
}

impl Entry {
    /// Says only when and what.
    pub(crate) fn new(timestamp: Timestamp, event: What) -> Self {
        Self {
            timestamp,
            event,
            sequence: None,
            version: None,
            step: None,
            attempt: None,
            message_id: None,
            reason: None,
            until: None,
            provider: None,
            by: None,
        }
    }
}

/// The kinds of [`Entry`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, IntoStaticStr, VariantNames,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum What {
    /// Began a sequence.
    Enrolled,
    /// Arrived again, and the sequence says that this changes nothing but the profile.
    ArrivedAgain,
    /// Arrived, but must not be mailed.
    NotEnrolled,
    /// The intent to send was written. In the journal only: the document shows it as the open attempt.
    Sending,
    /// The provider took the email.
    Sent,
    /// Try again: the provider was too fast for us.
    RateLimited,
    /// Try again: a passing failure.
    Retrying,
    /// Try again: the provider refuses everything until its configuration is mended.
    Misconfigured,
    /// The answer to an attempt was lost.
    InDoubt,
    /// In doubt still: the provider was asked and did not know. In the journal only.
    Asked,
    /// In doubt no more, or given up to find out; the reason says how.
    Resolved,
    /// Cannot go on by itself.
    Parked,
    /// The last step was sent.
    Completed,
    /// Ended: must not be mailed.
    Suppressed,
    /// Ended: arrived again, and began anew.
    Restarted,
    /// The provider told us that it took an email, while its answer to the call was still open. In the journal only.
    Accepted,
    /// The receiving server took an email. In the journal only, like the next three.
    Delivered,
    /// An email was opened.
    Opened,
    /// A link in an email was followed.
    Clicked,
    /// The receiving server wants an email later.
    Deferred,
    /// An email did not arrive, for a reason that may pass.
    SoftBounced,
    /// An email did not arrive, and never will.
    HardBounced,
    /// An email was reported as spam.
    Complained,
    /// Wants no more.
    Unsubscribed,
    /// Wants more again.
    Resubscribed,
    /// The provider took an email and did not mail it.
    Dropped,
    /// An operator stopped the clock.
    Paused,
    /// Goes on where it was: an operator let it, or the person wants more again.
    Resumed,
    /// An operator put it at another step, or on another version.
    Moved,
    /// An operator ended it.
    Stopped,
    /// An operator had the lead's data erased. In the journal only.
    Erased,
}

impl Lead {
    /// Where it is, in one word: what most needs a person's eye comes first.
    pub fn status(&self) -> LeadStatus {
        if let Some(suppressed) = &self.suppressed {
            return match suppressed.cause {
                SuppressionCause::Complaint => LeadStatus::Complained,
                SuppressionCause::HardBounce => LeadStatus::HardBounce,
                SuppressionCause::Unsubscribe => LeadStatus::Unsubscribed,
                SuppressionCause::SoftBounces | SuppressionCause::Manual => LeadStatus::Suppressed,
            };
        }
        let any = |of: fn(&State) -> bool| self.enrolments.iter().any(|enrolment| of(&enrolment.state));
        if any(|state| matches!(state, State::InDoubt { .. })) {
            LeadStatus::InDoubt
        } else if any(|state| matches!(state, State::Parked { .. })) {
            LeadStatus::Parked
        } else if any(|state| matches!(state, State::Sending { .. })) {
            LeadStatus::Sending
        } else if self.paused.is_some() {
            LeadStatus::Paused
        } else if !any(|state| matches!(state, State::Waiting { .. })) {
            LeadStatus::Completed
        } else if self.enrolments.iter().all(|enrolment| enrolment.step == 0) {
            LeadStatus::New
        } else {
            LeadStatus::Active
        }
    }

    /// One of its enrolments.
    pub fn enrolment(&self, id: &EnrolmentId) -> Option<&Enrolment> {
        self.enrolments.iter().find(|enrolment| enrolment.is(id))
    }

    /// Its newest enrolment in this sequence.
    pub fn newest_enrolment(&self, sequence: &str) -> Option<&Enrolment> {
        self.enrolments.iter().rfind(|enrolment| enrolment.sequence.name == sequence)
    }

    /// Its newest enrolment in this sequence of which an attempt is in doubt, be it that it has ended meanwhile.
    pub fn in_doubt(&self, sequence: &str) -> Option<&Enrolment> {
        self.enrolments.iter().rfind(|enrolment| {
            enrolment.sequence.name == sequence && matches!(enrolment.state.in_progress(), State::InDoubt { .. })
        })
    }

    /// When it needs us next; none when it waits for nothing.
    pub fn next_action(&self) -> Option<Timestamp> {
        let is_held = |state: &State| self.paused.is_some() && matches!(state, State::Waiting { .. });
        let states = self.enrolments.iter().map(|enrolment| &enrolment.state);
        states.filter(|state| !is_held(state)).filter_map(State::next_action).min()
    }

    /// The document of this lead, as it is stored.
    ///
    /// # Errors
    /// Never for a lead of ours; serde's signature.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut json = Vec::with_capacity(USUAL_BYTES);
        serde_json::to_writer(&mut json, self)?;
        Ok(json)
    }

    /// Reads a stored document.
    ///
    /// # Errors
    /// Not JSON, not of our layout, or of a newer one.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// Room for most documents.
const USUAL_BYTES: usize = 1_024;

/// The stored layout: flat, in the order a person reads.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    schema: u32,
    lead_id: Cow<'a, LeadId>,
    email: Cow<'a, Address>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_name: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_name: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    phone: Option<Cow<'a, str>>,
    // Derived; written for people, not read back.
    #[serde(skip_deserializing)]
    status: &'a str,
    #[serde(skip_deserializing)]
    next_action_timestamp: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suppressed: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suppression_cause: Option<SuppressionCause>,
    #[serde(default, skip_serializing_if = "Suppression::is_empty")]
    told: Cow<'a, Suppression>,
    #[serde(default, skip_serializing_if = "<[SoftBounce]>::is_empty")]
    soft_bounces: Cow<'a, [SoftBounce]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused: Option<Cow<'a, Hold>>,
    #[serde(default, skip_serializing_if = "<[RequestId]>::is_empty")]
    requests: Cow<'a, [RequestId]>,
    generation: u64,
    created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    attributes: Cow<'a, Map<String, Value>>,
    enrollments: Cow<'a, [Enrolment]>,
    history: Cow<'a, [Arc<Entry>]>,
}

impl Serialize for Lead {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Document {
            schema: SCHEMA,
            lead_id: Cow::Borrowed(&self.lead_id),
            email: Cow::Borrowed(&self.address),
            first_name: self.profile.first_name.as_deref().map(Cow::Borrowed),
            last_name: self.profile.last_name.as_deref().map(Cow::Borrowed),
            phone: self.profile.phone.as_deref().map(Cow::Borrowed),
            status: self.status().name(),
            next_action_timestamp: self.next_action(),
            suppressed: self.suppressed.as_ref().map(|suppressed| Cow::Borrowed(&*suppressed.reason)),
            suppression_cause: self.suppressed.as_ref().map(|suppressed| suppressed.cause),
            told: Cow::Borrowed(&self.told),
            soft_bounces: Cow::Borrowed(&self.soft_bounces),
            paused: self.paused.as_ref().map(Cow::Borrowed),
            requests: Cow::Borrowed(&self.requests),
            generation: self.generation,
            created_at: self.created_at,
            attributes: Cow::Borrowed(&self.profile.attributes),
            enrollments: Cow::Borrowed(&self.enrolments),
            history: Cow::Borrowed(&self.history),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Lead {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = Document::deserialize(deserializer)?;
        if document.schema > SCHEMA {
            return Err(serde::de::Error::custom(format!(
                "the document has schema {}, this version reads up to {SCHEMA}: upgrade dripline",
                document.schema
            )));
        }
        Ok(Self {
            lead_id: document.lead_id.into_owned(),
            address: document.email.into_owned(),
            profile: Arc::new(Profile {
                first_name: document.first_name.map(Cow::into_owned),
                last_name: document.last_name.map(Cow::into_owned),
                phone: document.phone.map(Cow::into_owned),
                attributes: document.attributes.into_owned(),
            }),
            // Documents of earlier versions name no cause.
            suppressed: document.suppressed.map(|reason| Suppressed {
                cause: document.suppression_cause.unwrap_or(SuppressionCause::Manual),
                reason: reason.into_owned(),
            }),
            told: document.told.into_owned(),
            soft_bounces: document.soft_bounces.into_owned(),
            paused: document.paused.map(Cow::into_owned),
            requests: document.requests.into_owned(),
            generation: document.generation,
            created_at: document.created_at,
            enrolments: document.enrollments.into_owned(),
            history: document.history.into_owned(),
        })
    }
}
