//! Each vendor's documented deliveries and events: which are taken, and what they say. The source stands beside each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fuzz;
mod mailgun;
mod postmark;
mod resend;
mod sendgrid;
mod ses;
mod settings;
mod throughput;

use dripline_actors::ports::{FeedbackReader, RawFeedback};
use dripline_domain::{Feedback, Timestamp};
use dripline_esp::webhooks::{Bridge, WebhookError, WebhookSettings, Webhooks};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

fn seconds(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

fn time(rfc3339: &str) -> Timestamp {
    Timestamp::from_millis(rfc3339.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

/// `[webhooks]`, as it stands in `dripline.toml`, in JSON.
fn settings(json: serde_json::Value) -> WebhookSettings {
    serde_json::from_value(json).unwrap()
}

fn bridge(json: serde_json::Value) -> Bridge {
    Bridge::new(&settings(json)).unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair =
        |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    pairs.iter().map(pair).collect()
}

/// What the gateway answers, and how many events it puts into the queue.
fn answer(received: &Result<Vec<RawFeedback>, WebhookError>) -> (u16, usize) {
    match received {
        Ok(events) => (200, events.len()),
        Err(WebhookError::UnknownVendor) => (404, 0),
        Err(WebhookError::NotConfigured(_)) => (403, 0),
        Err(WebhookError::Unauthentic(_)) => (401, 0),
        Err(WebhookError::Malformed(_)) => (400, 0),
        Err(WebhookError::Unavailable { .. }) => (503, 0),
    }
}

fn read(provider: &str, event: &str) -> Vec<Feedback> {
    Webhooks.read(provider, event.as_bytes()).unwrap_or_else(|error| panic!("{error}: {event}"))
}

/// What an event says, in one line: who, what, and in whose words.
fn told(provider: &str, event: &str) -> String {
    let line = |said: Feedback| {
        let reason = said.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{} {:?}{reason}", said.address, said.kind)
    };
    read(provider, event).into_iter().map(line).collect::<Vec<_>>().join(" | ")
}

/// Why an event cannot be read.
fn fault(provider: &str, event: &str) -> String {
    Webhooks.read(provider, event.as_bytes()).unwrap_err().to_string()
}
