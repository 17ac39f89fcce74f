use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dripline_actors::ports::{RawFeedback, Source};
use dripline_domain::Timestamp;
use reqwest::header::HeaderMap;
use serde_json::value::RawValue;

use super::fetch::{Fetch, Https};
use super::{Vendor, WebhookSettings, mailgun, postmark, resend, sendgrid, sns};
use crate::BuildError;

/// Most events of one delivery. `SendGrid` posts up to some thousands at once, the others one.
const EVENTS: usize = 10_000;

/// The largest event, in bytes: it becomes one message of the queue, which takes no more than a mebibyte. SNS, the most
/// generous of the vendors, stops at 256 KiB.
const EVENT_BYTES: usize = 512 * 1024;

/// How far a vendor's clock may be ahead of ours.
pub(super) const AHEAD: Duration = Duration::from_mins(5);

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
///
/// Nothing of a delivery is parsed before it is known to be authentic, except where the signature stands in the body
/// (Mailgun, SNS). All work on it is bounded by its size, which the caller limits.
pub struct Bridge {
    sendgrid: Option<sendgrid::Verifier>,
    mailgun: Option<mailgun::Verifier>,
    postmark: Option<postmark::Verifier>,
    resend: Option<resend::Verifier>,
    ses: Option<sns::Verifier>,
}

impl Bridge {
    /// A bridge for the vendors that are set.
    ///
    /// # Errors
    /// A vendor without its secret that is not `insecure` either, a key that is none; for SES, no CA certificates.
    pub fn new(settings: &WebhookSettings) -> Result<Self, BuildError> {
        match settings.ses {
            Some(_) => Self::assemble(settings, Some(Arc::new(Https::new()?))),
            None => Self::assemble(settings, None),
        }
    }

    /// The same, with another way to Amazon's certificates and confirmations.
    ///
    /// # Errors
    /// As [`Bridge::new`].
    pub fn with_fetch(settings: &WebhookSettings, fetch: Arc<dyn Fetch>) -> Result<Self, BuildError> {
        Self::assemble(settings, Some(fetch))
    }

    fn assemble(settings: &WebhookSettings, fetch: Option<Arc<dyn Fetch>>) -> Result<Self, BuildError> {
        for vendor in settings.insecure() {
            tracing::warn!(vendor = vendor.name(), "webhooks are taken of anyone: `insecure` is set");
        }
        Ok(Self {
            sendgrid: settings.sendgrid.as_ref().map(sendgrid::Verifier::new).transpose()?,
            mailgun: settings.mailgun.as_ref().map(mailgun::Verifier::new).transpose()?,
            postmark: settings.postmark.as_ref().map(postmark::Verifier::new).transpose()?,
            resend: settings.resend.as_ref().map(resend::Verifier::new).transpose()?,
            ses: settings.ses.as_ref().zip(fetch).map(|(ses, fetch)| sns::Verifier::new(ses, fetch)).transpose()?,
        })
    }

    /// Verifies one delivery and takes it apart; `vendor` is the last part of its path. No events where it holds none,
    /// and after a subscription was confirmed.
    ///
    /// # Errors
    /// See [`WebhookError`]: each has its status.
    pub async fn receive(
        &self,
        vendor: &str,
        headers: &HeaderMap,
        body: Bytes,
        now: Timestamp,
    ) -> Result<Vec<RawFeedback>, WebhookError> {
        let vendor = Vendor::parse(vendor).ok_or(WebhookError::UnknownVendor)?;
        let events = match vendor {
            Vendor::Sendgrid => {
                configured(self.sendgrid.as_ref(), vendor)?.verify(headers, &body, now)?;
                sendgrid::split(&body)?
            }
            Vendor::Mailgun => {
                configured(self.mailgun.as_ref(), vendor)?.verify(&body, now)?;
                vec![body]
            }
            Vendor::Postmark => {
                configured(self.postmark.as_ref(), vendor)?.verify(headers)?;
                vec![one(body)?]
            }
            Vendor::Resend => {
                configured(self.resend.as_ref(), vendor)?.verify(headers, &body, now)?;
                vec![one(body)?]
            }
            Vendor::Ses => configured(self.ses.as_ref(), vendor)?.receive(&body, now).await?.into_iter().collect(),
        };
        within_limits(&events)?;
        let provider = vendor.name();
        Ok(events.into_iter().map(|payload| RawFeedback { provider: provider.to_owned(), payload }).collect())
    }
}

fn configured<T>(verifier: Option<&T>, vendor: Vendor) -> Result<&T, WebhookError> {
    verifier.ok_or(WebhookError::NotConfigured(vendor.name()))
}

/// A body that is one event.
fn one(body: Bytes) -> Result<Bytes, WebhookError> {
    let event: &RawValue = serde_json::from_slice(&body).map_err(|error| malformed("a JSON object", &error))?;
    if event.get().starts_with('{') {
        Ok(body)
    } else {
        Err(WebhookError::Malformed("the body is JSON, but not an object".to_owned()))
    }
}

fn within_limits(events: &[Bytes]) -> Result<(), WebhookError> {
    if events.len() > EVENTS {
        return Err(WebhookError::Malformed(format!("more than {EVENTS} events in one delivery")));
    }
    match events.iter().map(Bytes::len).max() {
        Some(most) if most > EVENT_BYTES => {
            Err(WebhookError::Malformed(format!("an event of more than {EVENT_BYTES} bytes")))
        }
        _ => Ok(()),
    }
}

/// Where the body stops being what was expected. Not the parser's own sentence, which may quote the body.
pub(super) fn malformed(expected: &str, error: &serde_json::Error) -> WebhookError {
    let (line, column) = (error.line(), error.column());
    WebhookError::Malformed(format!("the body is not {expected} (line {line}, column {column})"))
}

pub(super) fn unauthentic(reason: &str) -> WebhookError {
    WebhookError::Unauthentic(reason.to_owned())
}

/// A header that must be there.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, WebhookError> {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.ok_or_else(|| WebhookError::Unauthentic(format!("the header {name} is missing or not text")))
}

/// Whether what was signed at `signed` (Unix seconds) may still come in.
pub(super) fn fresh_seconds(signed: &str, now: Timestamp, max_age: Duration) -> Result<(), WebhookError> {
    let millis = signed.parse::<i64>().ok().and_then(|seconds| seconds.checked_mul(1_000));
    let millis = millis.ok_or_else(|| unauthentic("the signature's time is not a number of seconds"))?;
    fresh(Timestamp::from_millis(millis), now, max_age)
}

/// Whether what was signed at `signed` may still come in.
pub(super) fn fresh(signed: Timestamp, now: Timestamp, max_age: Duration) -> Result<(), WebhookError> {
    if now.since(signed) > max_age {
        return Err(unauthentic("it was signed too long ago (see max_age; is this machine's clock right?)"));
    }
    if signed.since(now) > AHEAD {
        return Err(unauthentic("it was signed in the future (is this machine's clock right?)"));
    }
    Ok(())
}
