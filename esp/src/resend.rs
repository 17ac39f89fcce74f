//! Resend, by its emails API.
//!
//! <https://resend.com/docs/api-reference/emails/send-email>
use std::borrow::Cow;
use std::time::Duration;

use async_trait::async_trait;
use dripline_actors::ports::{AfterLostAnswer, Esp};
use dripline_domain::{Email, Outcome, split_mailbox};
use reqwest::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};

use crate::answer::{Answer, now};
use crate::http::{Endpoint, Http};
use crate::wire::{HeaderObject, Ids, not_a_mailbox, text};
use crate::{BuildError, Secret};

/// When to ask again once the day's quota is used up and Resend does not say when it is renewed.
const QUOTA_PROBE: Duration = Duration::from_hours(1);

/// How long after an attempt its idempotency key still holds: 24 hours by the documentation
/// (<https://resend.com/docs/dashboard/emails/idempotency-keys>), less an hour for clocks, for time in transit, and for
/// the doubt whether those hours are counted from the call's beginning.
const KEY_HOLDS: Duration = Duration::from_hours(23);

/// `[esp.resend]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `https://api.resend.com`
    pub base_url: String,
    /// "Sending access" is enough.
    pub api_key: Secret,
}

impl Default for Config {
    fn default() -> Self {
        Self { base_url: "https://api.resend.com".to_owned(), api_key: Secret::default() }
    }
}

/// `POST /emails`, idempotent: for 24 hours a second call with the same send key mails nothing and answers the first
/// one's id (<https://resend.com/docs/dashboard/emails/idempotency-keys>).
///
/// Accepted is 200 with an `id`. Our `Message-ID` is sent, though Resend has been seen to replace it.
pub struct Resend {
    http: Http,
}

impl Resend {
    /// `timeout` is for a whole call; `connections` is the most calls in flight.
    ///
    /// # Errors
    /// No API key, an unusable URL, no CA certificates.
    pub fn new(config: &Config, timeout: Duration, connections: usize) -> Result<Self, BuildError> {
        let key = BuildError::unless_set(config.api_key.expose(), "esp.resend.api_key")?;
        let http = Http::new(Endpoint {
            vendor: "Resend",
            setting: "esp.resend.base_url",
            base_url: &config.base_url,
            header: AUTHORIZATION,
            credentials: &format!("Bearer {key}"),
            credentials_setting: "esp.resend.api_key",
            timeout,
            connections,
        })?;
        Ok(Self { http })
    }
}

#[async_trait]
impl Esp for Resend {
    fn name(&self) -> &'static str {
        "resend"
    }

    async fn send(&self, email: &Email) -> Outcome {
        let Some(from) = unquoted(&email.from) else {
            return not_a_mailbox("from", &email.from);
        };
        let reply_to = match email.reply_to.as_deref().map(unquoted) {
            None => None,
            Some(Some(reply_to)) => Some(reply_to),
            Some(None) => return not_a_mailbox("reply_to", email.reply_to.as_deref().unwrap_or_default()),
        };
        let body = Body {
            from: &from,
            to: [email.to.as_str()],
            subject: &email.subject,
            text: text(email),
            html: email.html.as_deref(),
            reply_to: reply_to.as_deref(),
            headers: HeaderObject(email),
            tags: Ids::of(email).pairs().map(|(name, value)| Tag { name, value }),
        };
        let request = self.http.post("/emails").header("idempotency-key", &email.send_key).json(&body);
        match self.http.call(request, &email.to).await {
            Ok(answer) => outcome(&answer, email),
            Err(outcome) => outcome,
        }
    }

    fn after_lost_answer(&self) -> AfterLostAnswer {
        AfterLostAnswer::Idempotent { within: KEY_HOLDS }
    }
}

/// Resend refuses names in double quotes, correct though they are (`"Acme, Inc." <mail@acme.example>`): without them.
fn unquoted(mailbox: &str) -> Option<Cow<'_, str>> {
    if !mailbox.contains('"') {
        return Some(mailbox.into());
    }
    let (name, address) = split_mailbox(mailbox)?;
    Some(name.map_or_else(|| address.as_str().to_owned(), |name| format!("{name} <{}>", address.as_str())).into())
}

/// By error name, <https://resend.com/docs/api-reference/errors>; by status where it adds nothing.
fn outcome(answer: &Answer, email: &Email) -> Outcome {
    if let (200 | 201, Some(Taken { id })) = (answer.status.as_u16(), answer.json()) {
        return Outcome::Accepted { message_id: id };
    }
    let told = answer.json::<Error>().unwrap_or_default();
    let reason = answer.reason(Some(told.message.as_str()).filter(|said| !said.is_empty()), &email.to);
    match told.name.as_str() {
        // The first call with this key is still at work; the next one will get its id.
        "concurrent_idempotent_requests" => Outcome::Transient { reason },
        // An earlier call with this key, and with another text (the lead's data changed in between), was taken: this
        // step may well have been mailed. Another key would mail it again, so it is not for us to choose.
        "invalid_idempotent_request" => Outcome::Unknown { reason },
        "daily_quota_exceeded" => {
            Outcome::RateLimited { until: Some(answer.until().unwrap_or_else(|| now().plus(QUOTA_PROBE))) }
        }
        // A month's quota: up to a month away, or a larger plan. A person should know.
        "monthly_quota_exceeded" | "invalid_from_address" => Outcome::Misconfigured { reason },
        "validation_error" | "missing_required_field" if told.message.contains("`from`") => {
            Outcome::Misconfigured { reason }
        }
        _ => answer.by_status(reason),
    }
}

#[derive(Serialize)]
struct Body<'a> {
    from: &'a str,
    to: [&'a str; 1],
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<&'a str>,
    headers: HeaderObject<'a>,
    tags: [Tag<'a>; 4],
}

#[derive(Serialize)]
struct Tag<'a> {
    name: &'static str,
    value: &'a str,
}

#[derive(Deserialize)]
struct Taken {
    id: String,
}

#[derive(Default, Deserialize)]
struct Error {
    #[serde(default)]
    name: String,
    #[serde(default)]
    message: String,
}
