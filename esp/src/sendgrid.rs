//! `SendGrid`, by its Web API v3.
//!
//! <https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send>
use std::time::Duration;

use async_trait::async_trait;
use dripline_actors::ports::Esp;
use dripline_domain::{Email, Outcome, split_mailbox};
use reqwest::Url;
use reqwest::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::http::{Endpoint, Http};
use crate::wire::{HeaderObject, Ids, not_a_mailbox, text};
use crate::{BuildError, Secret};

/// `[esp.sendgrid]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `https://api.sendgrid.com`; `https://api.eu.sendgrid.com` for an EU subuser.
    pub base_url: String,
    /// Needs the scope `mail.send`.
    pub api_key: Secret,
    /// Have every email checked and none mailed.
    pub sandbox: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { base_url: "https://api.sendgrid.com".to_owned(), api_key: Secret::default(), sandbox: false }
    }
}

/// `POST /v3/mail/send`.
///
/// Accepted is 202, with the id in the header `X-Message-Id`; webhooks' `sg_message_id` begins with it. In the sandbox
/// it is 200. `Message-ID` is none of the reserved headers, so ours is sent. There is no idempotency key: a repeated
/// call mails twice.
pub struct SendGrid {
    http: Http,
    mail_send: Url,
    sandbox: bool,
}

impl SendGrid {
    /// `timeout` is for a whole call; `connections` is the most calls in flight.
    ///
    /// # Errors
    /// No API key, an unusable URL, no CA certificates.
    pub fn new(config: &Config, timeout: Duration, connections: usize) -> Result<Self, BuildError> {
        let key = BuildError::unless_set(config.api_key.expose(), "esp.sendgrid.api_key")?;
        let http = Http::new(Endpoint {
            vendor: "SendGrid",
            setting: "esp.sendgrid.base_url",
            base_url: &config.base_url,
            header: AUTHORIZATION,
            credentials: &format!("Bearer {key}"),
            credentials_setting: "esp.sendgrid.api_key",
            timeout,
            connections,
        })?;
        let mail_send = http.url("/v3/mail/send");
        Ok(Self { http, mail_send, sandbox: config.sandbox })
    }

    fn outcome(&self, answer: &Answer, email: &Email) -> Outcome {
        let status = answer.status.as_u16();
        if status == 202 || (status == 200 && self.sandbox) {
            return Outcome::Accepted { message_id: answer.header("x-message-id").unwrap_or_default().into() };
        }
        let told = answer.json::<Errors>().and_then(|errors| errors.errors.into_iter().next());
        let reason = answer.reason(told.as_ref().map(|error| error.message.as_str()), &email.to);
        match told {
            // <https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors>: `from` is ours, and the same for
            // every lead.
            Some(Error { field: Some(field), .. }) if status == 400 && field.starts_with("from") => {
                Outcome::Misconfigured { reason }
            }
            _ => answer.by_status(reason),
        }
    }
}

#[async_trait]
impl Esp for SendGrid {
    fn name(&self) -> &'static str {
        "sendgrid"
    }

    async fn send(&self, email: &Email) -> Outcome {
        let Some((from_name, from)) = split_mailbox(&email.from) else {
            return not_a_mailbox("from", &email.from);
        };
        let reply_to = email.reply_to.as_deref().map(split_mailbox);
        if let (Some(None), Some(value)) = (&reply_to, &email.reply_to) {
            return not_a_mailbox("reply_to", value);
        }
        let reply_to = reply_to.flatten();
        let content = [("text/plain", text(email)), ("text/html", email.html.as_deref())];
        let body = Body {
            personalizations: [Personalization {
                to: [Mailbox { email: email.to.as_str(), name: None }],
                headers: HeaderObject(email),
                custom_args: Ids::of(email),
            }],
            from: Mailbox { email: from.as_str(), name: from_name.as_deref() },
            reply_to: reply_to.as_ref().map(|(name, at)| Mailbox { email: at.as_str(), name: name.as_deref() }),
            subject: &email.subject,
            content: content.iter().filter_map(|&(kind, value)| Some(Content { kind, value: value? })).collect(),
            categories: [&email.sequence],
            mail_settings: self.sandbox.then_some(MailSettings { sandbox_mode: SandboxMode { enable: true } }),
        };
        match self.http.call(self.http.post(&self.mail_send, self.http.timeout).json(&body), &email.to).await {
            Ok(answer) => self.outcome(&answer, email),
            Err(outcome) => outcome,
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    personalizations: [Personalization<'a>; 1],
    from: Mailbox<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Mailbox<'a>>,
    subject: &'a str,
    /// Plain text first, or the call is refused.
    content: Vec<Content<'a>>,
    categories: [&'a str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    mail_settings: Option<MailSettings>,
}

#[derive(Serialize)]
struct Personalization<'a> {
    to: [Mailbox<'a>; 1],
    headers: HeaderObject<'a>,
    custom_args: Ids<'a>,
}

#[derive(Serialize)]
struct Mailbox<'a> {
    email: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize)]
struct Content<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    value: &'a str,
}

#[derive(Serialize)]
struct MailSettings {
    sandbox_mode: SandboxMode,
}

#[derive(Serialize)]
struct SandboxMode {
    enable: bool,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<Error>,
}

#[derive(Deserialize)]
struct Error {
    message: String,
    field: Option<String>,
}
