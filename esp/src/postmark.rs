//! Postmark, by its email API.
//!
//! <https://postmarkapp.com/developer/api/email-api>
use std::time::Duration;

use async_trait::async_trait;
use dripline_actors::ports::{AfterLostAnswer, Esp, LookUp};
use dripline_domain::{Email, Outcome, SmolStr, Timestamp};
use reqwest::header::{ACCEPT, HeaderName};
use reqwest::{RequestBuilder, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::answer::{Answer, now};
use crate::batch::{Batch, Batching, Together};
use crate::http::{Endpoint, Http, with_query};
use crate::wire::{Ids, headers, text};
use crate::{BuildError, Secret};

/// An email that cannot be found so long after its call was not taken. Postmark documents no delay of its index, so this
/// is a guess, and a generous one.
const SETTLED_AFTER: Duration = Duration::from_mins(5);

/// Postmark forgets messages after the server's retention period, which can be set as low as 7 days
/// (<https://postmarkapp.com/developer/api/messages-api>). Not to find an older one means nothing.
const REMEMBERED_FOR: Duration = Duration::from_hours(6 * 24);

/// `[esp.postmark]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `https://api.postmarkapp.com`
    pub base_url: String,
    /// Of the server (Postmark's word for a project), not of the account.
    pub server_token: Secret,
    /// `outbound` is the transactional stream every server has. Bulk mail belongs into a broadcast stream.
    pub message_stream: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            base_url: "https://api.postmarkapp.com".to_owned(),
            server_token: Secret::default(),
            message_stream: "outbound".to_owned(),
        }
    }
}

/// `POST /email`.
///
/// Accepted is 200 with `ErrorCode` 0 and a `MessageID`. Our `Message-ID` stays only beside `X-PM-KeepID: true`. There
/// is no idempotency key, but what was taken can be found by our `send_key` in its metadata
/// (<https://postmarkapp.com/support/article/1125-custom-metadata-faq>), however it was sent.
///
/// [`Self::batching`], up to 500 emails go with `POST /email/batch`, answered 200 with a result for each, in order:
/// what the single call would have said of it.
pub struct Postmark {
    http: Http,
    email: Url,
    batch: Url,
    outbound: Url,
    message_stream: String,
}

impl Postmark {
    /// `timeout` is for a whole call; `connections` is the most calls in flight.
    ///
    /// # Errors
    /// No server token, an unusable URL, no CA certificates.
    pub fn new(config: &Config, timeout: Duration, connections: usize) -> Result<Self, BuildError> {
        let token = BuildError::unless_set(config.server_token.expose(), "esp.postmark.server_token")?;
        let message_stream = BuildError::unless_set(&config.message_stream, "esp.postmark.message_stream")?;
        let http = Http::new(Endpoint {
            vendor: "Postmark",
            setting: "esp.postmark.base_url",
            base_url: &config.base_url,
            header: HeaderName::from_static("x-postmark-server-token"),
            credentials: token,
            credentials_setting: "esp.postmark.server_token",
            timeout,
            connections,
        })?;
        let (email, batch) = (http.url("/email"), http.url("/email/batch"));
        let outbound = http.url("/messages/outbound");
        Ok(Self { http, email, batch, outbound, message_stream: message_stream.to_owned() })
    }

    /// Sends many emails with one call.
    #[must_use]
    pub fn batching(self) -> Batching<Self> {
        Batching(self)
    }

    /// What both calls have in common. Without `Accept`, errors come as HTML.
    fn post(&self, url: &Url, within: Duration) -> RequestBuilder {
        self.http.post(url, within).header(ACCEPT, "application/json")
    }

    fn payload<'a>(&'a self, email: &'a Email) -> Payload<'a> {
        let keep_id = ("X-PM-KeepID", "true");
        Payload {
            from: &email.from,
            to: email.to.as_str(),
            reply_to: email.reply_to.as_deref(),
            subject: &email.subject,
            tag: &email.sequence,
            text_body: text(email),
            html_body: email.html.as_deref(),
            headers: headers(email).chain([keep_id]).map(|(name, value)| Header { name, value }).collect(),
            metadata: Ids::of(email),
            message_stream: &self.message_stream,
        }
    }
}

#[async_trait]
impl Esp for Postmark {
    fn name(&self) -> &'static str {
        "postmark"
    }

    async fn send(&self, email: &Email) -> Outcome {
        self.alone(email, self.http.timeout).await
    }

    fn after_lost_answer(&self) -> AfterLostAnswer {
        AfterLostAnswer::LookUp { settled_after: SETTLED_AFTER }
    }

    /// `GET /messages/outbound`, filtered by our metadata, <https://postmarkapp.com/developer/api/messages-api>.
    async fn look_up(&self, email: &Email, attempted_at: Timestamp) -> LookUp {
        // Without `messagestream`, only the default transactional stream is searched.
        let query = [
            ("count", "10"),
            ("offset", "0"),
            ("messagestream", &self.message_stream),
            ("metadata_send_key", &email.send_key),
        ];
        let listed: Listed = match self.http.ask(with_query(&self.outbound, &query), &email.to).await {
            Ok(listed) => listed,
            Err(unclear) => return unclear,
        };
        let unclear = |reason: &str| LookUp::Unclear { reason: reason.to_owned() };
        let is_it = |message: &Message| message.metadata["send_key"] == *email.send_key;
        match listed.messages.into_iter().find(is_it) {
            Some(Message { message_id, .. }) => LookUp::Found { message_id },
            // The filter did not filter, and our message may be any of those not listed.
            None if listed.total_count > 0 => unclear("Postmark lists messages that were not asked for"),
            None if now().since(attempted_at) > REMEMBERED_FOR => {
                unclear("Postmark may have forgotten the message by now")
            }
            None => LookUp::NotFound,
        }
    }
}

#[async_trait]
impl Batch for Postmark {
    /// Most emails of one call, <https://postmarkapp.com/developer/user-guide/send-email-with-api/batch-emails>.
    const LIMIT: usize = 500;

    fn http(&self) -> &Http {
        &self.http
    }

    async fn together(&self, emails: &[&Email], within: Duration) -> Together {
        let payloads: Vec<_> = emails.iter().copied().map(|email| self.payload(email)).collect();
        let request = self.post(&self.batch, within).json(&payloads);
        let answer = match self.http.call(request, &emails[0].to).await {
            Ok(answer) => answer,
            Err(outcome) => return Together::whole(outcome, None, emails),
        };
        if !answer.status.is_success() {
            let answer = answer.anonymous(emails);
            return Together::whole(outcome(&answer, emails[0]), Some(answer.status), emails);
        }
        match answer.json::<Vec<Told>>() {
            Some(results) if results.len() == emails.len() => {
                let each = results.into_iter().zip(emails).map(|(told, email)| of_one(&answer, told, email));
                Together::Each(each.collect())
            }
            _ => Together::uncounted(&answer, emails),
        }
    }

    async fn alone(&self, email: &Email, within: Duration) -> Outcome {
        let request = self.post(&self.email, within).json(&self.payload(email));
        match self.http.call(request, &email.to).await {
            Ok(answer) => outcome(&answer, email),
            Err(outcome) => outcome,
        }
    }
}

fn outcome(answer: &Answer, email: &Email) -> Outcome {
    verdict(answer, answer.json(), email)
}

/// One result of many. Any other `ErrorCode` than 0 would have come alone with 422.
fn of_one(answer: &Answer, told: Told, email: &Email) -> Outcome {
    let status = if told.error_code == 0 { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    verdict(&answer.for_one(status), Some(told), email)
}

/// By `ErrorCode`, <https://postmarkapp.com/developer/api/overview#error-codes>; by status where there is none.
fn verdict(answer: &Answer, told: Option<Told>, email: &Email) -> Outcome {
    let reason = answer.reason(told.as_ref().map(|told| told.message.as_str()), &email.to);
    let code = told.as_ref().map_or(0, |told| told.error_code);
    match (code, told) {
        (0, Some(Told { message_id: Some(message_id), .. })) if answer.status.as_u16() == 200 => {
            Outcome::Accepted { message_id }
        }
        (100, _) => Outcome::Transient { reason },
        (406, _) => Outcome::Refused { reason },
        (429, _) => Outcome::RateLimited { until: answer.until() },
        // Token; sender signature; credit; account pending, or barred; message stream unknown or archived.
        (10 | 400 | 401 | 405 | 412 | 413 | 1220..=1239, _) => Outcome::Misconfigured { reason },
        // `Invalid 'From' address: …`
        (300, Some(told)) if told.message.contains("'From'") => Outcome::Misconfigured { reason },
        // Of 500, and of no other provider's, the vendor says only that "in most cases the message is lost".
        _ if answer.status.as_u16() == 500 => Outcome::Unknown { reason },
        _ => answer.by_status(reason),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Payload<'a> {
    from: &'a str,
    to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<&'a str>,
    subject: &'a str,
    tag: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    html_body: Option<&'a str>,
    headers: Vec<Header<'a>>,
    metadata: Ids<'a>,
    message_stream: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Header<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    error_code: u32,
    #[serde(default)]
    message: String,
    #[serde(rename = "MessageID")]
    message_id: Option<SmolStr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    total_count: u64,
    messages: Vec<Message>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    #[serde(rename = "MessageID")]
    message_id: SmolStr,
    #[serde(default)]
    metadata: Value,
}
