//! A provider's answer, and what its status means.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dripline_domain::{Address, Email, Outcome, Timestamp};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::reason::{tidy, without};

/// No answer is read further than this many bytes. A page of 100 events, or the results of a batch of 500 emails, has
/// some 200 KiB.
const ANSWER_LIMIT: usize = 1024 * 1024;

/// No more than so many bytes are read of a refusal of many emails.
const REFUSAL_LIMIT: usize = 16 * 1024;

/// No provider may hold us off for longer than this at a time, whatever its header says.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// What came back.
pub(crate) struct Answer {
    vendor: &'static str,
    pub status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    /// False when the connection broke before the body's end.
    pub whole: bool,
}

impl Answer {
    /// Reads on to the body's end, its limit, or the end of the connection.
    pub async fn read(vendor: &'static str, mut response: Response) -> Self {
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
        Self { vendor, status, headers, body, whole }
    }

    /// The answer that a call for one email would have got, for what an answer to a call for many says of it.
    pub fn for_one(&self, status: StatusCode) -> Self {
        Self { vendor: self.vendor, status, headers: self.headers.clone(), body: Vec::new(), whole: true }
    }

    /// Without the addresses of any of these recipients: a refusal of many emails may name each.
    pub fn anonymous(mut self, emails: &[&Email]) -> Self {
        self.body.truncate(REFUSAL_LIMIT);
        let said = String::from_utf8_lossy(&self.body).into_owned();
        self.body = emails.iter().fold(said, |said, email| without(&said, email.to.as_str())).into_bytes();
        self
    }

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
        format!("{}{colon}{said}", self.told())
    }

    /// The status alone, for people.
    pub fn told(&self) -> String {
        format!("{} answered {}", self.vendor, self.status)
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
        let until =
            read(RETRY_AFTER.as_str()).or_else(|| read("x-ratelimit-reset")).or_else(|| read("ratelimit-reset"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
