//! What the HTTP adapters share: one tuned client each, the reading of an answer, and what its status means.
use std::sync::Once;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dripline_domain::{Address, Email, Outcome, Timestamp};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, StatusCode, Url, redirect};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use crate::BuildError;
use crate::reason::tidy;

/// No answer is read further than this many bytes. The largest one documented is under 1 KiB.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Idle connections are closed after this. Shorter than any provider's own limit (60 s and up), since a connection
/// that dies under a request leaves an [`Outcome::Unknown`] behind.
const IDLE: Duration = Duration::from_secs(20);

/// No provider may hold us off for longer than this at a time, whatever its header says.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// One provider's endpoint: its client, its URL, and its credentials among the client's default headers.
pub(crate) struct Http {
    vendor: &'static str,
    client: Client,
    url: Url,
}

/// What an endpoint is made of.
pub(crate) struct Endpoint<'a> {
    /// As people know it: `SendGrid`.
    pub vendor: &'static str,
    /// The setting that holds `base_url`.
    pub setting: &'static str,
    /// With or without a path and a final slash.
    pub base_url: &'a str,
    /// Begins with a slash.
    pub path: &'a str,
    /// The header that carries the credentials.
    pub header: HeaderName,
    /// Its value.
    pub credentials: &'a str,
    /// The setting that holds the credentials.
    pub credentials_setting: &'static str,
    /// For the whole call.
    pub timeout: Duration,
    /// Most connections kept open: the most calls in flight.
    pub connections: usize,
}

impl Http {
    /// # Errors
    /// A URL that is none, credentials that cannot stand in a header, no CA certificates.
    pub fn new(endpoint: Endpoint<'_>) -> Result<Self, BuildError> {
        install_tls();
        let url = join(endpoint.base_url, endpoint.path)
            .map_err(|reason| BuildError::Invalid { setting: endpoint.setting, reason })?;
        let mut credentials = HeaderValue::from_str(endpoint.credentials).map_err(|_| BuildError::Invalid {
            setting: endpoint.credentials_setting,
            reason: "holds a character that cannot stand in a header, perhaps a line break".to_owned(),
        })?;
        credentials.set_sensitive(true);

        let builder = Client::builder()
            .user_agent(concat!("dripline/", env!("CARGO_PKG_VERSION")))
            .default_headers(HeaderMap::from_iter([(endpoint.header, credentials)]))
            .http1_only()
            .tcp_nodelay(true)
            // A redirected POST would mail through a host nobody configured.
            .redirect(redirect::Policy::none())
            // Whether to try again is the engine's decision alone.
            .retry(reqwest::retry::never())
            .timeout(endpoint.timeout)
            // Shorter than the whole, so that an unreachable host is told from a lost answer.
            .connect_timeout(endpoint.timeout / 2)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(endpoint.connections);
        let builder = if is_loopback(&url) { builder.no_proxy() } else { builder };
        let client = builder.build().map_err(BuildError::Client)?;
        Ok(Self { vendor: endpoint.vendor, client, url })
    }

    /// A POST to the endpoint, without a body yet.
    pub fn post(&self) -> RequestBuilder {
        self.client.post(self.url.clone())
    }

    /// Sends, and reads the whole answer.
    ///
    /// # Errors
    /// What it means that there is none: [`Outcome::Transient`] if no connection was made, and so nothing sent;
    /// [`Outcome::Unknown`] otherwise.
    pub async fn call(&self, request: RequestBuilder, recipient: &Address) -> Result<Answer, Outcome> {
        let mut response = request.send().await.map_err(|error| self.lost(&error, recipient))?;
        let mut body = Vec::new();
        let whole = loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() < ANSWER_LIMIT => {
                    body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_LIMIT - body.len())]);
                }
                Ok(_) => break true,
                // The status came, and in most cases says it all.
                Err(_) => break false,
            }
        };
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        Ok(Answer { vendor: self.vendor, status, headers, body, whole })
    }

    fn lost(&self, error: &reqwest::Error, recipient: &Address) -> Outcome {
        let told = tidy(&chain(error), recipient);
        if error.is_connect() {
            Outcome::Transient { reason: format!("no connection to {}: {told}", self.vendor) }
        } else if error.is_builder() {
            Outcome::Refused { reason: format!("no request to {} can be made of this email: {told}", self.vendor) }
        } else {
            Outcome::Unknown { reason: format!("no answer from {}: {told}", self.vendor) }
        }
    }
}

/// What came back.
pub(crate) struct Answer {
    vendor: &'static str,
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Vec<u8>,
    /// False when the connection broke before the body's end.
    pub whole: bool,
}

impl Answer {
    /// The body, if it is JSON of this shape.
    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// A header's value, if it is there and ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// For people: the status, and what the provider said; the beginning of the body where it said nothing readable.
    pub fn reason(&self, said: Option<&str>, recipient: &Address) -> String {
        let said = said.map_or_else(|| String::from_utf8_lossy(&self.body), Into::into);
        let said = tidy(&said, recipient);
        let colon = if said.is_empty() { "" } else { ": " };
        format!("{} answered {}{colon}{said}", self.vendor, self.status)
    }

    /// What the status alone says, once a provider's own codes have had their say:
    ///
    /// | status | outcome | because |
    /// |---|---|---|
    /// | 429 | `RateLimited` | |
    /// | 408, 500, 501, 503 | `Transient` | the provider itself says that it did not do it |
    /// | 3xx, 401–405, 407 | `Misconfigured` | key, account, path or proxy: true of every lead |
    /// | other 4xx | `Refused` | this email, and it would be refused again |
    /// | 502, 504, other 5xx | `Unknown` | a gateway speaks: what stands behind it may have taken the email and lost its answer |
    /// | 2xx | `Unknown` | it looks like acceptance, but not like this provider's |
    pub fn by_status(&self, reason: String) -> Outcome {
        match self.status.as_u16() {
            429 => Outcome::RateLimited { until: self.until() },
            408 | 500 | 501 | 503 => Outcome::Transient { reason },
            300..=399 | 401..=405 | 407 => Outcome::Misconfigured { reason },
            400..=499 => Outcome::Refused { reason },
            _ => Outcome::Unknown { reason },
        }
    }

    /// When the provider wants the next call: `Retry-After` (seconds or an HTTP date), else `X-RateLimit-Reset` or
    /// `RateLimit-Reset` (seconds from now, or a Unix time). Between now and [`LONGEST_WAIT`] from now.
    pub fn until(&self) -> Option<Timestamp> {
        let now = now();
        let read = |name| self.header(name).and_then(|value| parse_wait(value, now));
        let until = read(RETRY_AFTER.as_str()).or_else(|| read("x-ratelimit-reset")).or_else(|| read("ratelimit-reset"))?;
        Some(until.clamp(now, now.plus(LONGEST_WAIT)))
    }
}

fn parse_wait(value: &str, now: Timestamp) -> Option<Timestamp> {
    let value = value.trim();
    let Ok(number) = value.parse::<u64>() else {
        let date = jiff::fmt::rfc2822::parse(value).ok()?;
        return Some(Timestamp::from_millis(date.timestamp().as_millisecond()));
    };
    Some(match number {
        // A billion seconds from now is 31 years; as a Unix time it is 2001.
        0..1_000_000_000 => now.plus(Duration::from_secs(number)),
        1_000_000_000..100_000_000_000 => Timestamp::from_millis(i64::try_from(number * 1_000).ok()?),
        _ => Timestamp::from_millis(i64::try_from(number).ok()?),
    })
}

/// The wall clock. Adapters may read it: they are the shell.
pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(0).plus(since_epoch)
}

/// Our names for an email, under which every provider hands it back in its webhooks.
///
/// All within the tightest limits (Postmark: names of 20 characters, values of 80; Resend: `[A-Za-z0-9_-]`).
#[derive(Serialize)]
pub(crate) struct Ids<'a> {
    pub send_key: &'a str,
    pub lead_id: &'a str,
    pub sequence: &'a str,
    pub step: &'a str,
}

impl<'a> Ids<'a> {
    pub fn of(email: &'a Email) -> Self {
        Self { send_key: &email.send_key, lead_id: &email.lead_id, sequence: &email.sequence, step: &email.step }
    }

    pub fn pairs(&self) -> [(&'static str, &'a str); 4] {
        [("send_key", self.send_key), ("lead_id", self.lead_id), ("sequence", self.sequence), ("step", self.step)]
    }
}

/// The email's headers as pairs, its `Message-ID` first.
pub(crate) fn headers(email: &Email) -> impl Iterator<Item = (&str, &str)> {
    let further = email.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    std::iter::once(("Message-ID", email.message_id.as_str())).chain(further)
}

/// The email's headers as a JSON object, its `Message-ID` first.
pub(crate) struct HeaderObject<'a>(pub &'a Email);

impl Serialize for HeaderObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(headers(self.0))
    }
}

/// The text part; none where it is empty and there is HTML (a page of pictures), since providers refuse empty parts.
pub(crate) fn text(email: &Email) -> Option<&str> {
    (!email.text.is_empty() || email.html.is_none()).then_some(email.text.as_str())
}

/// `from` could not be read; the sequence's loader should have refused it. Whatever the lead.
pub(crate) fn not_a_mailbox(setting: &str, value: &str) -> Outcome {
    Outcome::Misconfigured { reason: format!("the sequence's {setting} `{value}` is not a mailbox") }
}

/// rustls leaves the choice of cryptography to the program. Whoever chose first stays.
fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

fn join(base_url: &str, path: &str) -> Result<Url, String> {
    let mut url = Url::parse(base_url).map_err(|error| format!("`{base_url}` is not a URL: {error}"))?;
    if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
        return Err(format!("`{base_url}` must begin with https:// (or http:// for a stand-in)"));
    }
    let whole = format!("{}{path}", url.path().trim_end_matches('/'));
    url.set_path(&whole);
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told.push_str(": ");
        told.push_str(&error.to_string());
        cause = error.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_may_have_a_path_and_a_final_slash() {
        for (base, whole) in [
            ("https://api.resend.com", "https://api.resend.com/emails"),
            ("https://api.resend.com/", "https://api.resend.com/emails"),
            ("http://127.0.0.1:8080/stub/", "http://127.0.0.1:8080/stub/emails"),
        ] {
            assert_eq!(join(base, "/emails").unwrap().as_str(), whole);
        }
        for wrong in ["", "api.resend.com", "ftp://api.resend.com", "mailto:x"] {
            assert!(join(wrong, "/emails").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wait_is_read_as_seconds_date_or_epoch() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        for (value, until) in [
            ("2", Some(1_700_000_002_000)),
            (" 0 ", Some(1_700_000_000_000)),
            ("Tue, 14 Nov 2023 22:14:20 GMT", Some(1_700_000_060_000)),
            ("1700000030", Some(1_700_000_030_000)),
            ("1700000030000", Some(1_700_000_030_000)),
            ("18446744073709551615", None),
            ("soon", None),
        ] {
            assert_eq!(parse_wait(value, now), until.map(Timestamp::from_millis), "{value}");
        }
    }

    #[test]
    fn proxies_are_left_out_only_for_this_machine() {
        for (url, here) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("https://api.sendgrid.com", false),
            ("https://localhost.example.com", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), here, "{url}");
        }
    }
}
