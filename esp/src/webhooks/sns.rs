//! Amazon SNS, by which SES delivers.
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use dripline_domain::Timestamp;
use reqwest::Url;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RsaParameters, UnparsedPublicKey,
};
use serde::Deserialize;
use tokio::sync::Semaphore;
use x509_cert::Certificate;
use x509_cert::der::DecodePem;

use super::bridge::{WebhookError, fresh, malformed, unauthentic};
use super::fetch::Fetch;
use super::settings::SesSettings;
use crate::BuildError;

/// Most certificates remembered. Amazon has one a region, and replaces it about once a year.
const CERTIFICATES: usize = 16;

/// Most calls to Amazon at a time: whoever invents deliveries must not make us call without end.
const CALLS: usize = 4;

/// What SES says once when it may publish to a topic. No event, and no JSON.
const GREETING: &str = "Successfully validated SNS topic for Amazon SES event publishing.";

/// <https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html>
///
/// RSA over some of the fields; by SHA-1 where a topic is set to `SignatureVersion` 1, as it is unless changed. The
/// certificate is fetched from Amazon's own host by HTTPS, which vouches for it, and remembered.
pub(super) struct Verifier {
    topics: Vec<String>,
    max_age: Duration,
    insecure: bool,
    fetch: Arc<dyn Fetch>,
    calls: Semaphore,
    certificates: Mutex<HashMap<Url, Arc<SigningKey>>>,
}

/// What is left of a certificate.
struct SigningKey {
    public_key: Vec<u8>,
    valid_until: Timestamp,
}

/// <https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html>
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Notice {
    r#type: Kind,
    message_id: String,
    topic_arn: String,
    subject: Option<String>,
    message: String,
    timestamp: String,
    token: Option<String>,
    #[serde(rename = "SubscribeURL")]
    subscribe_url: Option<String>,
    signature_version: String,
    signature: String,
    #[serde(rename = "SigningCertURL")]
    signing_cert_url: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
enum Kind {
    Notification,
    SubscriptionConfirmation,
    UnsubscribeConfirmation,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Notification => "Notification",
            Self::SubscriptionConfirmation => "SubscriptionConfirmation",
            Self::UnsubscribeConfirmation => "UnsubscribeConfirmation",
        }
    }
}

impl Verifier {
    pub fn new(settings: &SesSettings, fetch: Arc<dyn Fetch>) -> Result<Self, BuildError> {
        const SETTING: &str = "webhooks.ses.topic_arns";
        if settings.topic_arns.is_empty() && !settings.insecure {
            return Err(BuildError::Missing { setting: SETTING });
        }
        if let Some(wrong) = settings.topic_arns.iter().find(|arn| region(arn).is_none()) {
            let reason = format!("`{wrong}` is not a topic, such as arn:aws:sns:eu-west-1:123456789012:ses-events");
            return Err(BuildError::Invalid { setting: SETTING, reason });
        }
        Ok(Self {
            topics: settings.topic_arns.clone(),
            max_age: settings.max_age,
            insecure: settings.insecure,
            fetch,
            calls: Semaphore::new(CALLS),
            certificates: Mutex::default(),
        })
    }

    /// The event in a delivery, if there is one in it.
    pub async fn receive(&self, body: &[u8], now: Timestamp) -> Result<Option<Bytes>, WebhookError> {
        let notice: Notice = serde_json::from_slice(body)
            .map_err(|error| malformed("a message of SNS (raw message delivery must be off)", &error))?;
        if !self.insecure {
            self.verify(&notice, now).await?;
        }
        match notice.r#type {
            Kind::Notification if notice.message == GREETING => Ok(None),
            Kind::Notification => Ok(Some(notice.message.into())),
            Kind::SubscriptionConfirmation => {
                self.confirm(&notice).await?;
                tracing::info!(topic = notice.topic_arn, "the subscription to the SNS topic is confirmed");
                Ok(None)
            }
            Kind::UnsubscribeConfirmation => {
                tracing::warn!(topic = notice.topic_arn, "the subscription to the SNS topic has ended: no more events");
                Ok(None)
            }
        }
    }

    async fn verify(&self, notice: &Notice, now: Timestamp) -> Result<(), WebhookError> {
        if !self.topics.contains(&notice.topic_arn) {
            return Err(unauthentic("it is of a topic that is not in webhooks.ses.topic_arns"));
        }
        let signed: jiff::Timestamp = notice
            .timestamp
            .parse()
            .map_err(|_| WebhookError::Malformed("`Timestamp` is not a time (RFC 3339)".to_owned()))?;
        fresh(Timestamp::from_millis(signed.as_millisecond()), now, self.max_age)?;
        let algorithm: &'static RsaParameters = match notice.signature_version.as_str() {
            "1" => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            "2" => &RSA_PKCS1_2048_8192_SHA256,
            _ => return Err(unauthentic("`SignatureVersion` is neither 1 nor 2")),
        };
        let signature =
            BASE64_STANDARD.decode(&notice.signature).map_err(|_| unauthentic("`Signature` is not base64"))?;
        let url = amazons(&notice.signing_cert_url, &notice.topic_arn)
            .filter(|url| url.path().rsplit('.').next() == Some("pem"))
            .ok_or_else(|| unauthentic("`SigningCertURL` is not a certificate of SNS in the topic's region"))?;
        let key = self.signing_key(url, now).await?;
        UnparsedPublicKey::new(algorithm, &key.public_key)
            .verify(notice.signed_text().as_bytes(), &signature)
            .map_err(|_| unauthentic("the signature is not that of SNS"))
    }

    async fn signing_key(&self, url: Url, now: Timestamp) -> Result<Arc<SigningKey>, WebhookError> {
        let known = self.certificates.lock().unwrap_or_else(PoisonError::into_inner).get(&url).cloned();
        if let Some(key) = known.filter(|key| key.valid_until > now) {
            return Ok(key);
        }
        let pem = self.call(url.clone(), "the certificate of SNS could not be fetched").await?;
        let key = SigningKey::of(&pem).filter(|key| key.valid_until > now);
        let key = Arc::new(key.ok_or_else(|| unauthentic("`SigningCertURL` holds no certificate that is valid"))?);
        let mut certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if certificates.len() >= CERTIFICATES {
            certificates.clear();
        }
        certificates.insert(url, Arc::clone(&key));
        Ok(key)
    }

    async fn confirm(&self, notice: &Notice) -> Result<(), WebhookError> {
        let url = notice.subscribe_url.as_deref().and_then(|url| amazons(url, &notice.topic_arn));
        let url = url.ok_or_else(|| unauthentic("`SubscribeURL` does not lead to SNS in the topic's region"))?;
        self.call(url, "the subscription to the SNS topic could not be confirmed").await.map(drop)
    }

    async fn call(&self, url: Url, what: &str) -> Result<Bytes, WebhookError> {
        let unavailable = |source| WebhookError::Unavailable { what: what.to_owned(), source };
        let _permit = self.calls.try_acquire().map_err(|_| unavailable(Some("too many calls at once".into())))?;
        self.fetch.get(url).await.map_err(|error| unavailable(Some(error)))
    }
}

impl Notice {
    /// The fields that are signed, each with its name, in the order of their names.
    fn signed_text(&self) -> String {
        let text = [("Message", Some(&self.message)), ("MessageId", Some(&self.message_id))];
        let own = match self.r#type {
            Kind::Notification => {
                [("Subject", self.subject.as_ref()), ("Timestamp", Some(&self.timestamp)), ("", None)]
            }
            Kind::SubscriptionConfirmation | Kind::UnsubscribeConfirmation => [
                ("SubscribeURL", self.subscribe_url.as_ref()),
                ("Timestamp", Some(&self.timestamp)),
                ("Token", self.token.as_ref()),
            ],
        };
        let mut signed = String::with_capacity(self.message.len() + 512);
        for (name, value) in text.into_iter().chain(own).chain([("TopicArn", Some(&self.topic_arn))]) {
            if let Some(value) = value {
                // Writing to a text cannot fail.
                let _ = write!(signed, "{name}\n{value}\n");
            }
        }
        let _ = write!(signed, "Type\n{}\n", self.r#type.name());
        signed
    }
}

impl SigningKey {
    fn of(pem: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_pem(pem).ok()?;
        let certificate = certificate.tbs_certificate();
        let public_key = certificate.subject_public_key_info().subject_public_key.as_bytes()?.to_vec();
        let valid_until = certificate.validity().not_after.to_unix_duration();
        Some(Self { public_key, valid_until: Timestamp::from_millis(0).plus(valid_until) })
    }
}

/// The URL, if it leads to SNS in the region of this topic and nowhere else: `https://sns.eu-west-1.amazonaws.com/…`.
fn amazons(url: &str, topic_arn: &str) -> Option<Url> {
    let url = Url::parse(url).ok()?;
    let host = url.host_str()?.strip_prefix("sns.")?;
    let host = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let plain =
        url.scheme() == "https" && url.port().is_none() && url.username().is_empty() && url.password().is_none();
    (plain && Some(host) == region(topic_arn)).then_some(url)
}

/// `arn:aws:sns:<region>:<account>:<name>`, of any partition.
fn region(topic_arn: &str) -> Option<&str> {
    let mut parts = topic_arn.split(':');
    let (arn, _partition, service) = (parts.next()?, parts.next()?, parts.next()?);
    let region = parts.next()?;
    let well_formed =
        region.len() >= 3 && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    (arn == "arn" && service == "sns" && well_formed && parts.count() == 2).then_some(region)
}
