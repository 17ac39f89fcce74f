use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Vendor;
use crate::Secret;

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

impl WebhookSettings {
    /// The vendors that are taken at their word.
    pub(super) fn insecure(&self) -> impl Iterator<Item = Vendor> {
        let insecure = |vendor| match vendor {
            Vendor::Sendgrid => self.sendgrid.as_ref().is_some_and(|set| set.insecure),
            Vendor::Mailgun => self.mailgun.as_ref().is_some_and(|set| set.insecure),
            Vendor::Postmark => self.postmark.as_ref().is_some_and(|set| set.insecure),
            Vendor::Resend => self.resend.as_ref().is_some_and(|set| set.insecure),
            Vendor::Ses => self.ses.as_ref().is_some_and(|set| set.insecure),
        };
        Vendor::ALL.into_iter().filter(move |vendor| insecure(*vendor))
    }
}

/// `[webhooks.sendgrid]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SendgridSettings {
    /// The verification key that SendGrid shows for its signed event webhook: base64.
    pub public_key: Secret,
    /// A delivery signed longer ago is refused. By default 24 hours: so long SendGrid tries, and it does not say that it
    /// signs each attempt anew.
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
    /// A delivery signed longer ago is refused. By default 9 hours: Mailgun tries for eight, and does not say that it
    /// signs each attempt anew.
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
    /// A delivery signed longer ago is refused. By default 5 minutes, as Svix has it: each attempt is signed anew.
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
    /// A notification published longer ago is refused. By default 1 hour: so long SNS tries at the most.
    #[serde(with = "age")]
    pub max_age: Duration,
    /// Take deliveries of anyone, unverified.
    pub insecure: bool,
}

impl Default for SendgridSettings {
    fn default() -> Self {
        Self { public_key: Secret::default(), max_age: Duration::from_hours(24), insecure: false }
    }
}

impl Default for MailgunSettings {
    fn default() -> Self {
        Self { signing_key: Secret::default(), max_age: Duration::from_hours(9), insecure: false }
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
