use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use dripline_actors::ports::FeedbackError;
use dripline_domain::FeedbackKind::{
    Accepted, Clicked, Complained, Deferred, Delivered, Dropped, HardBounced, Opened, SoftBounced,
};
use dripline_domain::{Feedback, FeedbackKind, SuppressionCause, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::HeaderMap;
use serde_json::Value;
use sha2::Sha256;

use super::bridge::{WebhookError, fresh_seconds, header, unauthentic};
use super::event::Event;
use super::settings::ResendSettings;
use crate::BuildError;

/// Svix: HMAC-SHA256 over id, timestamp and body, with a dot between them. While a secret is being replaced there are
/// several signatures, separated by spaces, one of which must be ours.
/// <https://docs.svix.com/receiving/verifying-payloads/how-manual>
pub(super) struct Verifier {
    /// None where everything is taken.
    key: Option<Hmac<Sha256>>,
    max_age: Duration,
}

impl Verifier {
    pub fn new(settings: &ResendSettings) -> Result<Self, BuildError> {
        const SETTING: &str = "webhooks.resend.signing_secret";
        let key = if settings.insecure {
            None
        } else {
            let secret = BuildError::unless_set(settings.signing_secret.expose(), SETTING)?;
            let reason = "is not a webhook's signing secret: whsec_ and base64 after it";
            let invalid = || BuildError::Invalid { setting: SETTING, reason: reason.to_owned() };
            let bytes = secret.trim().strip_prefix("whsec_").ok_or_else(invalid)?;
            let bytes = BASE64_STANDARD.decode(bytes).map_err(|_| invalid())?;
            Some(Hmac::new_from_slice(&bytes).map_err(|_| invalid())?)
        };
        Ok(Self { key, max_age: settings.max_age })
    }

    pub fn verify(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), WebhookError> {
        let Some(key) = &self.key else { return Ok(()) };
        let (id, timestamp) = (header(headers, "svix-id")?, header(headers, "svix-timestamp")?);
        fresh_seconds(timestamp, now, self.max_age)?;
        let mac = key.clone().chain_update(id).chain_update(".").chain_update(timestamp).chain_update(".");
        let mac = mac.chain_update(body);
        let signatures = header(headers, "svix-signature")?.split(' ');
        let mut decoded = signatures.filter_map(|one| BASE64_STANDARD.decode(one.strip_prefix("v1,")?).ok());
        if decoded.any(|signature| mac.clone().verify_slice(&signature).is_ok()) {
            Ok(())
        } else {
            Err(unauthentic("none of the signatures is Resend's"))
        }
    }
}

/// <https://resend.com/docs/webhooks/event-types>
pub(super) fn read(event: &Event) -> Result<Vec<Feedback>, FeedbackError> {
    let name = event.text("/type")?;
    let kind = match name {
        "email.sent" => Accepted,
        "email.delivered" => Delivered,
        "email.delivery_delayed" => Deferred,
        "email.bounced" => bounce(event),
        "email.complained" => Complained,
        "email.opened" => Opened,
        "email.clicked" => Clicked,
        "email.failed" => Dropped { because: None },
        // It does not say what put the address onto the list.
        "email.suppressed" => Dropped { because: Some(SuppressionCause::Manual) },
        "suppression.added" => return listed(event, name),
        _ => return Ok(Vec::new()),
    };
    if event.list("/data/to")?.len() != 1 {
        let what = "`data.to` names several people or none, so that it cannot be told whom this is about";
        return Err(FeedbackError(what.to_owned()));
    }
    let message_id = event.text("/data/email_id")?;
    let words = ["/data/bounce/message", "/data/suppressed/message", "/data/failed/reason"];
    let words = words.into_iter().find_map(|path| event.some_text(path));
    // The id that Svix gives an event stays in a header. The time is the event's own, not the email's.
    let id = format!("{name}:{message_id}:{}", event.text("/created_at")?);
    let said =
        event.says(kind, id, event.time("/created_at")?)?.of_message(Some(message_id)).with_ids(|id| tag(event, id));
    Ok(vec![said.about(event.address("/data/to/0")?, words)])
}

/// An address that came onto the suppression list, <https://resend.com/docs/webhooks/suppressions/added>.
fn listed(event: &Event, name: &str) -> Result<Vec<Feedback>, FeedbackError> {
    let kind = match event.text("/data/origin")? {
        "bounce" => HardBounced,
        "complaint" => Complained,
        _ => Dropped { because: Some(SuppressionCause::Manual) },
    };
    let id = format!("{name}:{}", event.text("/data/id")?);
    let said = event.says(kind, id, event.time("/created_at")?)?.of_message(event.some_text("/data/source_id"));
    Ok(vec![said.about(event.address("/data/email")?, None)])
}

/// The words of SES, on which Resend stands, see [`super::ses`]; older events have nothing but a message, and are of hard
/// bounces. <https://resend.com/docs/dashboard/emails/email-bounces>
fn bounce(event: &Event) -> FeedbackKind {
    match (event.some_text("/data/bounce/type"), event.some_text("/data/bounce/subType")) {
        (_, Some("Suppressed" | "OnAccountSuppressionList")) => Dropped { because: Some(SuppressionCause::HardBounce) },
        (Some("Permanent") | None, _) => HardBounced,
        (Some(_), _) => SoftBounced,
    }
}

/// Tags are an object by the documentation, and a list of names and values as we sent them.
fn tag<'a>(event: &'a Event, name: &str) -> Option<&'a str> {
    match event.value("/data/tags")? {
        Value::Object(tags) => tags.get(name)?.as_str(),
        Value::Array(tags) => tags.iter().find(|tag| tag["name"] == name)?["value"].as_str(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}
