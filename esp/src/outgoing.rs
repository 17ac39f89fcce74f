use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dripline_actors::ports::{OutgoingWebhook, Posted};
use dripline_domain::Timestamp;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode, Url};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook};

use crate::http::{chain, client, parse};
use crate::{BuildError, Secret};

/// One POST takes no longer: what the specification recommends at most.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Idle connections kept open.
const CONNECTIONS: usize = 8;
/// Bytes of a secret, decoded: as the specification has them.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A subscriber reached by HTTP, each POST signed as Standard Webhooks has it
/// (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
pub struct HttpWebhook {
    name: String,
    url: Url,
    signer: Webhook,
    client: Client,
}

impl HttpWebhook {
    /// `secret` is `whsec_` and 24 to 64 bytes in base64.
    ///
    /// # Errors
    /// A URL or a secret that is none, no CA certificates.
    pub fn new(name: &str, url: &str, secret: &Secret) -> Result<Self, BuildError> {
        let invalid = |setting, reason: String| BuildError::Invalid { setting, reason };
        let url = parse(url).map_err(|reason| invalid("outgoing_webhooks.url", format!("of `{name}`: {reason}")))?;
        let wrong = || {
            let reason =
                "must be `whsec_` and the base64 of 24 to 64 random bytes; `openssl rand -base64 32` makes them";
            invalid("outgoing_webhooks.secret", format!("of `{name}` {reason}"))
        };
        let encoded = secret.expose().strip_prefix("whsec_").ok_or_else(wrong)?;
        let bytes = encoded.trim_end_matches('=').len() * 3 / 4;
        let signer = Webhook::new(encoded).ok().filter(|_| SECRET_BYTES.contains(&bytes)).ok_or_else(wrong)?;
        let client = client(&url, TIMEOUT, CONNECTIONS).build().map_err(BuildError::Client)?;
        Ok(Self { name: name.to_owned(), url, signer, client })
    }
}

#[async_trait]
impl OutgoingWebhook for HttpWebhook {
    fn name(&self) -> &str {
        &self.name
    }

    async fn post(&self, id: &str, body: Bytes, now: Timestamp) -> Posted {
        let seconds = now.as_millis() / 1_000;
        let signature = match self.signer.sign(id, seconds, &body) {
            Ok(signature) => signature,
            Err(error) => return Posted::Refused { reason: format!("it cannot be signed: {error}") },
        };
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(HEADER_WEBHOOK_ID, id)
            .header(HEADER_WEBHOOK_TIMESTAMP, seconds.to_string())
            .header(HEADER_WEBHOOK_SIGNATURE, signature)
            .body(body);
        match request.send().await {
            Ok(response) => posted(response.status()),
            // The URL may hold a token.
            Err(error) => Posted::Away { reason: chain(&error.without_url()) },
        }
    }
}

fn posted(status: StatusCode) -> Posted {
    let reason = format!("it answered {status}");
    match status.as_u16() {
        200..=299 => Posted::Taken,
        410 => Posted::Gone,
        // Of its address, its credentials or its state, not of this event.
        300..=399 | 401 | 403 | 404 | 407 | 408 | 421 | 425 | 429 | 500.. => Posted::Away { reason },
        _ => Posted::Refused { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_none_is_refused_with_a_way_to_make_one() {
        let of = |secret: &str| HttpWebhook::new("crm", "http://127.0.0.1:1/", &Secret::from(secret));
        assert!(of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").is_ok());
        for wrong in ["", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            let error = of(wrong).err().unwrap().to_string();
            assert!(error.contains("`crm`") && error.contains("openssl rand"), "{error}");
        }
        assert!(HttpWebhook::new("crm", "crm.example", &Secret::from("")).is_err());
    }

    #[test]
    fn what_no_other_event_would_fare_better_at_is_told_from_what_is_wrong_with_this_one() {
        for (status, means) in [(200, "Taken"), (204, "Taken"), (410, "Gone"), (400, "Refused"), (422, "Refused")] {
            assert!(format!("{:?}", posted(StatusCode::from_u16(status).unwrap())).starts_with(means), "{status}");
        }
        for status in [301, 401, 404, 429, 500, 503] {
            assert!(matches!(posted(StatusCode::from_u16(status).unwrap()), Posted::Away { .. }), "{status}");
        }
    }
}
