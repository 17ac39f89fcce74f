//! Mailgun, by its messages API v3.
//!
//! <https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages/post-v3--domain-name--messages>
use std::borrow::Cow;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use dripline_actors::ports::Esp;
use dripline_domain::{Email, Outcome};
use reqwest::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::http::{Endpoint, Http};
use crate::wire::{Ids, headers, text};
use crate::{BuildError, Secret};

/// What Mailgun says, in lower case, when the sender or the account is at fault and not this email. It has no codes.
const OUR_FAULT: [&str; 5] =
    ["'from' parameter", "not allowed to send", "for test purposes only", "domain not found", "is disabled"];

/// `[esp.mailgun]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `https://api.mailgun.net`; `https://api.eu.mailgun.net` for a domain in the EU.
    pub base_url: String,
    /// The sending domain, as verified at Mailgun.
    pub domain: String,
    /// A sending key of the domain is enough.
    pub api_key: Secret,
}

impl Default for Config {
    fn default() -> Self {
        Self { base_url: "https://api.mailgun.net".to_owned(), domain: String::new(), api_key: Secret::default() }
    }
}

/// `POST /v3/{domain}/messages`, a form.
///
/// Accepted is 200 with JSON that has an `id`: our own `Message-ID`, which webhooks give without its angle brackets,
/// and so it is kept. A wrong path, too, answers 200, with a page: [`Outcome::Misconfigured`]. There is no idempotency
/// key: a repeated call mails twice.
pub struct Mailgun {
    http: Http,
}

impl Mailgun {
    /// `timeout` is for a whole call; `connections` is the most calls in flight.
    ///
    /// # Errors
    /// No API key, no domain or one that is none, an unusable URL, no CA certificates.
    pub fn new(config: &Config, timeout: Duration, connections: usize) -> Result<Self, BuildError> {
        let key = BuildError::unless_set(config.api_key.expose(), "esp.mailgun.api_key")?;
        let domain = BuildError::unless_set(&config.domain, "esp.mailgun.domain")?;
        if !domain.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
            let reason = format!("`{domain}` is not a domain, such as mg.example.com");
            return Err(BuildError::Invalid { setting: "esp.mailgun.domain", reason });
        }
        let http = Http::new(Endpoint {
            vendor: "Mailgun",
            setting: "esp.mailgun.base_url",
            base_url: &config.base_url,
            path: &format!("/v3/{domain}/messages"),
            header: AUTHORIZATION,
            credentials: &format!("Basic {}", BASE64_STANDARD.encode(format!("api:{key}"))),
            credentials_setting: "esp.mailgun.api_key",
            timeout,
            connections,
        })?;
        Ok(Self { http })
    }
}

#[async_trait]
impl Esp for Mailgun {
    fn name(&self) -> &'static str {
        "mailgun"
    }

    async fn send(&self, email: &Email) -> Outcome {
        match self.http.call(self.http.post().form(&form(email)), &email.to).await {
            Ok(answer) => outcome(&answer, email),
            Err(outcome) => outcome,
        }
    }
}

fn form(email: &Email) -> Vec<(Cow<'static, str>, &str)> {
    let mut fields: Vec<(Cow<'static, str>, &str)> =
        vec![("from".into(), &email.from), ("to".into(), email.to.as_str()), ("subject".into(), &email.subject)];
    fields.extend(text(email).map(|text| ("text".into(), text)));
    fields.extend(email.html.as_deref().map(|html| ("html".into(), html)));
    fields.extend(email.reply_to.as_deref().map(|reply_to| ("h:Reply-To".into(), reply_to)));
    fields.extend(headers(email).map(|(name, value)| (format!("h:{name}").into(), value)));
    fields.extend(Ids::of(email).pairs().map(|(name, value)| (format!("v:{name}").into(), value)));
    fields.push(("o:tag".into(), &email.sequence));
    fields
}

fn outcome(answer: &Answer, email: &Email) -> Outcome {
    let told = answer.json::<Message>();
    let reason = answer.reason(told.as_ref().map(|told| told.message.as_str()), &email.to);
    match told {
        Some(Message { id: Some(id), .. }) if answer.status.as_u16() == 200 => {
            Outcome::Accepted { message_id: id.trim_matches(['<', '>']).to_owned() }
        }
        None if answer.status.as_u16() == 200 && answer.whole => {
            let hint = "a page and not JSON, so nothing was mailed; see esp.mailgun.base_url and esp.mailgun.domain";
            Outcome::Misconfigured { reason: format!("{reason} ({hint})") }
        }
        Some(Message { message, .. }) if answer.status.as_u16() == 400 && is_our_fault(&message) => {
            Outcome::Misconfigured { reason }
        }
        _ => answer.by_status(reason),
    }
}

fn is_our_fault(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    OUR_FAULT.iter().any(|fault| message.contains(fault))
}

#[derive(Deserialize)]
struct Message {
    id: Option<String>,
    #[serde(default)]
    message: String,
}
