use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;
use dripline_actors::ports::FeedbackError;
use dripline_domain::FeedbackKind::{
    Accepted, Clicked, Complained, Deferred, Delivered, Dropped, HardBounced, Opened, SoftBounced, Unsubscribed,
};
use dripline_domain::{Feedback, FeedbackKind, SuppressionCause, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::Sha256;

use super::bridge::{AHEAD, WebhookError, fresh_seconds, malformed, unauthentic};
use super::event::Event;
use super::settings::MailgunSettings;
use super::tokens::UsedTokens;
use crate::BuildError;

/// Most tokens remembered of one generation. Two together take about 40 MB.
const TOKENS: usize = 500_000;

/// HMAC-SHA256 in hex over the timestamp and the token, all of which stand in the body.
/// <https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks>
///
/// The event itself is not signed: whoever has one delivery could put another event under its signature. So a token is
/// good for the event that it first came with, and for no other. That event may come again, as Mailgun sends it again
/// when our answer was lost: were its repeat refused, an event whose first delivery never reached the queue would be lost.
pub(super) struct Verifier {
    /// None where everything is taken.
    key: Option<Hmac<Sha256>>,
    max_age: Duration,
    used: UsedTokens,
}

#[derive(Deserialize)]
struct Delivery<'a> {
    #[serde(borrow)]
    signature: Signed<'a>,
    #[serde(borrow, rename = "event-data")]
    event: &'a RawValue,
}

#[derive(Deserialize)]
struct Signed<'a> {
    /// A text in the examples, a number in the table beside them.
    #[serde(borrow)]
    timestamp: &'a RawValue,
    token: &'a str,
    signature: &'a str,
    /// Of the account that a subaccount belongs to.
    #[serde(rename = "parent-signature")]
    parent: Option<&'a str>,
}

impl Verifier {
    pub fn new(settings: &MailgunSettings) -> Result<Self, BuildError> {
        const SETTING: &str = "webhooks.mailgun.signing_key";
        let key = if settings.insecure {
            None
        } else {
            let key = BuildError::unless_set(settings.signing_key.expose(), SETTING)?;
            Hmac::new_from_slice(key.as_bytes()).ok()
        };
        Ok(Self { key, max_age: settings.max_age, used: UsedTokens::new(settings.max_age + AHEAD, TOKENS) })
    }

    pub fn verify(&self, body: &[u8], now: Timestamp) -> Result<(), WebhookError> {
        let Delivery { signature, event } = serde_json::from_slice(body)
            .map_err(|error| malformed("an object with `signature` and `event-data`", &error))?;
        let Some(key) = &self.key else { return Ok(()) };
        let timestamp = signature.timestamp.get().trim_matches('"');
        fresh_seconds(timestamp, now, self.max_age)?;
        let made_by_mailgun = [Some(signature.signature), signature.parent].into_iter().flatten().any(|hex| {
            let mac = key.clone().chain_update(timestamp).chain_update(signature.token);
            HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).is_ok_and(|bytes| mac.verify_slice(&bytes).is_ok())
        });
        if !made_by_mailgun {
            return Err(unauthentic("the signature is not Mailgun's"));
        }
        if !self.used.claim(signature.token, event.get().as_bytes(), now) {
            return Err(unauthentic("its token came before, with another event"));
        }
        Ok(())
    }
}

/// <https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads>
pub(super) fn read(event: &Event) -> Result<Vec<Feedback>, FeedbackError> {
    let kind = match event.text("/event-data/event")? {
        "accepted" => Accepted,
        "rejected" => Dropped { because: None },
        "delivered" => Delivered,
        "failed" => failure(event)?,
        "opened" => Opened,
        "clicked" => Clicked,
        "unsubscribed" => Unsubscribed,
        "complained" => Complained,
        _ => return Ok(Vec::new()),
    };
    let words =
        ["/event-data/delivery-status/message", "/event-data/delivery-status/description", "/event-data/reject/reason"]
            .into_iter()
            .find_map(|path| event.some_text(path));
    // What was rejected has no recipient but in its headers.
    let recipient = ["/event-data/recipient", "/event-data/message/headers/to"]
        .into_iter()
        .find(|path| event.some_text(path).is_some())
        .unwrap_or("/event-data/recipient");
    let message_id = event.some_text("/event-data/message/headers/message-id");
    let said = event
        .says(kind, event.text("/event-data/id")?.to_owned(), event.seconds("/event-data/timestamp")?)?
        .of_message(message_id.map(|id| id.trim_matches(['<', '>'])))
        .with_ids(|name| event.some_text(&format!("/event-data/user-variables/{name}")));
    Ok(vec![said.about(event.address(recipient)?, words)])
}

/// <https://documentation.mailgun.com/docs/mailgun/user-manual/events/event-structure>
fn failure(event: &Event) -> Result<FeedbackKind, FeedbackError> {
    let reason = event.some_text("/event-data/reason").unwrap_or_default();
    Ok(match (event.text("/event-data/severity")?, reason) {
        ("temporary", _) => Deferred,
        (_, "suppress-bounce") => Dropped { because: Some(SuppressionCause::HardBounce) },
        (_, "suppress-complaint") => Dropped { because: Some(SuppressionCause::Complaint) },
        (_, "suppress-unsubscribe") => Dropped { because: Some(SuppressionCause::Unsubscribe) },
        // Tried for eight hours, or refused because of us: it says nothing against the address.
        (_, "old" | "espblock" | "greylisted") => SoftBounced,
        (_, _) => HardBounced,
    })
}
