use bytes::Bytes;
use dripline_actors::ports::FeedbackError;
use dripline_domain::{Address, Feedback, FeedbackKind, SmolStr, Timestamp};
use serde::{Deserialize, Serialize};

/// The last part of the subject `feedback.unsubscribe`.
pub const UNSUBSCRIBE: &str = "unsubscribe";

/// Who told it, as journal and suppressions name our page.
const PAGE: &str = "unsubscribe-page";

/// The longest id, in characters.
const ID_LIMIT: usize = 200;

/// What a person said on our own unsubscribe page, or by one click in their mail program (RFC 8058): JSON on
/// `feedback.unsubscribe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnsubscribeEvent {
    /// The same each time this one is repeated. 1 to 200 characters.
    pub id: String,
    /// What they want.
    pub kind: UnsubscribeKind,
    /// When they said so, in Unix milliseconds.
    pub occurred_at: Timestamp,
    /// Who they are.
    pub address: Address,
    /// The email whose link they followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_key: Option<SmolStr>,
}

/// What a person wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnsubscribeKind {
    /// No more.
    Unsubscribed,
    /// More again.
    Resubscribed,
}

impl UnsubscribeEvent {
    /// As it is published.
    ///
    /// # Errors
    /// Never; serde's signature.
    pub fn to_payload(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }
}

pub(super) fn read(payload: &[u8]) -> Result<Vec<Feedback>, FeedbackError> {
    let UnsubscribeEvent { id, kind, occurred_at, address, send_key } = serde_json::from_slice(payload)
        .map_err(|error| FeedbackError(format!("not an event of the unsubscribe page: {error}")))?;
    if id.is_empty() || id.chars().count() > ID_LIMIT {
        return Err(FeedbackError(format!("`id` must have 1 to {ID_LIMIT} characters")));
    }
    let kind = match kind {
        UnsubscribeKind::Unsubscribed => FeedbackKind::Unsubscribed,
        UnsubscribeKind::Resubscribed => FeedbackKind::Resubscribed,
    };
    Ok(vec![Feedback {
        provider: PAGE.into(),
        id,
        kind,
        occurred_at,
        address,
        send_key,
        sequence: None,
        step: None,
        message_id: None,
        reason: None,
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_what_is_read() {
        let event = UnsubscribeEvent {
            id: "e-1".to_owned(),
            kind: UnsubscribeKind::Resubscribed,
            occurred_at: Timestamp::from_millis(5),
            address: Address::parse("Jane@Example.com").unwrap(),
            send_key: Some("k".into()),
        };
        let payload = event.to_payload().unwrap();
        assert_eq!(
            payload,
            r#"{"id":"e-1","kind":"resubscribed","occurredAt":5,"address":"jane@example.com","sendKey":"k"}"#
        );
        let told = read(&payload).unwrap();
        let [Feedback { provider, id, kind, occurred_at, address, send_key, .. }] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!((&**provider, id, *kind, send_key), (PAGE, &event.id, FeedbackKind::Resubscribed, &event.send_key));
        assert_eq!((*occurred_at, address), (event.occurred_at, &event.address));
    }

    #[test]
    fn a_wrong_event_is_answered_with_what_is_wrong() {
        for (payload, says) in [
            ("", "not an event of the unsubscribe page"),
            (r#"{"id":"1","kind":"paused","occurredAt":5,"address":"jane@example.com"}"#, "unknown variant `paused`"),
            (r#"{"id":"1","kind":"unsubscribed","occurredAt":5,"address":"jane"}"#, "not an event"),
            (r#"{"id":"","kind":"unsubscribed","occurredAt":5,"address":"jane@example.com"}"#, "`id` must have"),
        ] {
            let error = read(payload.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{payload}: {error}");
        }
    }
}
