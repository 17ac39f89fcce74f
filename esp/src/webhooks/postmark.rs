use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use dripline_actors::ports::FeedbackError;
use dripline_domain::FeedbackKind::{
    Clicked, Complained, Delivered, Dropped, HardBounced, Opened, Resubscribed, SoftBounced, Unsubscribed,
};
use dripline_domain::{Feedback, FeedbackKind, SuppressionCause};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use subtle::ConstantTimeEq;

use super::bridge::{WebhookError, unauthentic};
use super::event::Event;
use super::settings::PostmarkSettings;
use crate::{BuildError, Secret};

/// The header of ours that may carry the secret.
pub const TOKEN_HEADER: &str = "x-dripline-webhook-token";

/// Postmark signs nothing: it calls with a user and a password, or with a header, that we gave it.
/// <https://postmarkapp.com/developer/webhooks/webhooks-overview>
pub(super) struct Verifier {
    /// What basic authentication must hold, `user:password`.
    credentials: Option<String>,
    token: Option<Secret>,
    insecure: bool,
}

impl Verifier {
    pub fn new(settings: &PostmarkSettings) -> Result<Self, BuildError> {
        let PostmarkSettings { username, password, token, insecure } = settings;
        let credentials = match (username.is_empty(), password.is_empty()) {
            (true, true) => None,
            (true, false) => return Err(BuildError::Missing { setting: "webhooks.postmark.username" }),
            (false, true) => return Err(BuildError::Missing { setting: "webhooks.postmark.password" }),
            (false, false) => Some(format!("{username}:{}", password.expose())),
        };
        let token = (!token.is_empty()).then(|| token.clone());
        if credentials.is_none() && token.is_none() && !insecure {
            return Err(BuildError::Missing { setting: "webhooks.postmark.password (or webhooks.postmark.token)" });
        }
        Ok(Self { credentials, token, insecure: *insecure })
    }

    pub fn verify(&self, headers: &HeaderMap) -> Result<(), WebhookError> {
        let is = |known: &str, given: &[u8]| bool::from(known.as_bytes().ct_eq(given));
        let by_password = self.credentials.as_ref().zip(basic(headers)).is_some_and(|(known, given)| is(known, &given));
        let by_token = self.token.as_ref().zip(headers.get(TOKEN_HEADER));
        let by_token = by_token.is_some_and(|(known, given)| is(known.expose(), given.as_bytes()));
        if by_password || by_token || self.insecure {
            Ok(())
        } else {
            Err(unauthentic("neither the user and password nor the token that Postmark was given"))
        }
    }
}

fn basic(headers: &HeaderMap) -> Option<Vec<u8>> {
    let (scheme, credentials) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(credentials.trim()).ok()).flatten()
}

/// <https://postmarkapp.com/developer/webhooks/webhooks-overview>
pub(super) fn read(event: &Event) -> Result<Vec<Feedback>, FeedbackError> {
    let record = event.text("/RecordType")?;
    let (kind, time, recipient) = match record {
        "Delivery" => (Delivered, "/DeliveredAt", "/Recipient"),
        "Open" => (Opened, "/ReceivedAt", "/Recipient"),
        "Click" => (Clicked, "/ReceivedAt", "/Recipient"),
        "SpamComplaint" => (Complained, "/BouncedAt", "/Email"),
        "SubscriptionChange" => (change(event)?, "/ChangedAt", "/Recipient"),
        "Bounce" => match bounce(event.text("/Type")?) {
            Some(kind) => (kind, "/BouncedAt", "/Email"),
            None => return Ok(Vec::new()),
        },
        _ => return Ok(Vec::new()),
    };
    let message_id = event.some_text("/MessageID");
    // Bounces have an id. The others have nothing but the email and the time.
    let id = match record {
        "Bounce" | "SpamComplaint" => format!("{record}:{}", event.number("/ID")?),
        _ => format!("{record}:{}:{}", message_id.unwrap_or_default(), event.text(time)?),
    };
    let words = ["/Details", "/Description", "/SuppressionReason"].into_iter().find_map(|path| event.some_text(path));
    let said = event
        .says(kind, id, event.time(time)?)?
        .of_message(message_id)
        .with_ids(|name| event.some_text(&format!("/Metadata/{name}")));
    Ok(vec![said.about(event.address(recipient)?, words)])
}

/// None where it is no bounce at all: somebody's holiday reply, a change of address.
/// <https://postmarkapp.com/developer/api/bounce-api#bounce-types>
fn bounce(kind: &str) -> Option<FeedbackKind> {
    match kind {
        "HardBounce" | "BadEmailAddress" | "ManuallyDeactivated" => Some(HardBounced),
        "SpamComplaint" => Some(Complained),
        "Unsubscribe" => Some(Unsubscribed),
        "Subscribe" => Some(Resubscribed),
        "SMTPApiError" | "TemplateRenderingFailed" => Some(Dropped { because: None }),
        "AutoResponder" | "AddressChange" | "ChallengeVerification" | "OpenRelayTest" | "InboundError" => None,
        // `SoftBounce`, `Transient`, `DnsError`, `Blocked`, `SpamNotification`, `DMARCPolicy`, … and any to come.
        _ => Some(SoftBounced),
    }
}

/// An address that came onto the list of a stream, or off it, for whatever reason.
/// <https://postmarkapp.com/developer/webhooks/subscription-change-webhook>
fn change(event: &Event) -> Result<FeedbackKind, FeedbackError> {
    if !event.truth("/SuppressSending")? {
        return Ok(Resubscribed);
    }
    let manual = Dropped { because: Some(SuppressionCause::Manual) };
    Ok(match (event.text("/SuppressionReason")?, event.some_text("/Origin")) {
        ("HardBounce", _) => HardBounced,
        ("SpamComplaint", _) => Complained,
        ("ManualSuppression", Some("Recipient")) => Unsubscribed,
        (_, _) => manual,
    })
}
