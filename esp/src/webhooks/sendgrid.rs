use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use dripline_actors::ports::FeedbackError;
use dripline_domain::FeedbackKind::{
    Accepted, Clicked, Complained, Deferred, Delivered, Dropped, HardBounced, Opened, Resubscribed, SoftBounced,
    Unsubscribed,
};
use dripline_domain::{Feedback, SuppressionCause, Timestamp};
use reqwest::header::HeaderMap;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde_json::value::RawValue;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::bridge::{WebhookError, fresh_seconds, header, malformed, unauthentic};
use super::event::Event;
use super::settings::SendgridSettings;
use crate::BuildError;

const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";

/// `prime256v1`, RFC 5480 §2.1.1.1.
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");

/// ECDSA on P-256 with SHA-256 over the timestamp and the raw body; the signature is base64 of its DER, the key base64 of
/// its `SubjectPublicKeyInfo`.
/// <https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features>
pub(super) struct Verifier {
    /// None where everything is taken.
    key: Option<UnparsedPublicKey<Vec<u8>>>,
    max_age: Duration,
}

impl Verifier {
    pub fn new(settings: &SendgridSettings) -> Result<Self, BuildError> {
        const SETTING: &str = "webhooks.sendgrid.public_key";
        let key = if settings.insecure {
            None
        } else {
            let text = BuildError::unless_set(settings.public_key.expose(), SETTING)?;
            let reason = "is not the verification key of a signed event webhook: base64, beginning with MFkw";
            let point =
                point(text).ok_or_else(|| BuildError::Invalid { setting: SETTING, reason: reason.to_owned() })?;
            Some(UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point))
        };
        Ok(Self { key, max_age: settings.max_age })
    }

    pub fn verify(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), WebhookError> {
        let Some(key) = &self.key else { return Ok(()) };
        let timestamp = header(headers, TIMESTAMP)?;
        fresh_seconds(timestamp, now, self.max_age)?;
        let signature = BASE64_STANDARD
            .decode(header(headers, SIGNATURE)?)
            .map_err(|_| unauthentic("the signature is not base64"))?;
        let signed = [timestamp.as_bytes(), body].concat();
        key.verify(&signed, &signature).map_err(|_| unauthentic("the signature is not SendGrid's"))
    }
}

/// The point of an elliptic curve, as the verification takes it.
fn point(public_key: &str) -> Option<Vec<u8>> {
    let der = BASE64_STANDARD.decode(public_key.trim()).ok()?;
    let key = SubjectPublicKeyInfoRef::from_der(&der).ok()?;
    let curve = key.algorithm.parameters?.decode_as::<ObjectIdentifier>().ok()?;
    let point = key.subject_public_key.as_bytes()?;
    // Uncompressed, SEC 1 §2.3.3.
    (curve == P256 && point.len() == 65 && point[0] == 4).then(|| point.to_vec())
}

/// The elements of the array, byte for byte as they came, whatever they are: one that cannot be read must not cost us the
/// others.
pub(super) fn split(body: &Bytes) -> Result<Vec<Bytes>, WebhookError> {
    let events: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| malformed("a JSON array", &error))?;
    Ok(events.into_iter().map(|event| body.slice_ref(event.get().as_bytes())).collect())
}

/// <https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event>
pub(super) fn read(event: &Event) -> Result<Vec<Feedback>, FeedbackError> {
    let kind = match event.text("/event")? {
        "processed" => Accepted,
        "deferred" => Deferred,
        "delivered" => Delivered,
        // `blocked` is a server that takes nothing from us now; of an address that does not exist nothing else is said.
        "bounce" if event.some_text("/type") == Some("bounce") => HardBounced,
        "bounce" => SoftBounced,
        "dropped" => Dropped { because: event.some_text("/reason").and_then(cause) },
        "open" => Opened,
        "click" => Clicked,
        "spamreport" => Complained,
        "unsubscribe" | "group_unsubscribe" => Unsubscribed,
        "group_resubscribe" => Resubscribed,
        _ => return Ok(Vec::new()),
    };
    let words = event.some_text("/reason").or_else(|| event.some_text("/response"));
    // The id of the message and, after a dot, of its way through SendGrid's filters.
    let message_id = event.some_text("/sg_message_id").and_then(|id| id.split('.').next());
    let said = event
        .says(kind, event.text("/sg_event_id")?.to_owned(), event.seconds("/timestamp")?)?
        .of_message(message_id)
        .with_ids(|name| event.some_text(&format!("/{name}")));
    Ok(vec![said.about(event.address("/email")?, words)])
}

/// What the address has done, by the reason for which an email to it was dropped.
fn cause(reason: &str) -> Option<SuppressionCause> {
    match reason.to_ascii_lowercase().as_str() {
        "bounced address" | "invalid" => Some(SuppressionCause::HardBounce),
        "spam reporting address" => Some(SuppressionCause::Complaint),
        "unsubscribed address" => Some(SuppressionCause::Unsubscribe),
        _ => None,
    }
}
