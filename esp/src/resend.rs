//! Resend, by its emails API.
//!
//! <https://resend.com/docs/api-reference/emails/send-email>
use std::borrow::Cow;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use dripline_actors::ports::{AfterLostAnswer, Esp};
use dripline_domain::{Email, Outcome, SmolStr, split_mailbox};
use reqwest::header::AUTHORIZATION;
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::answer::{Answer, now};
use crate::batch::{Batch, Batching, Together};
use crate::http::{Endpoint, Http};
use crate::wire::{HeaderObject, Ids, not_a_mailbox, text};
use crate::{BuildError, Secret};

/// When to ask again once the day's quota is used up and Resend does not say when it is renewed.
const QUOTA_PROBE: Duration = Duration::from_hours(1);

/// How long after an attempt its idempotency key still holds: 24 hours by the documentation
/// (<https://resend.com/docs/dashboard/emails/idempotency-keys>), less an hour for clocks, for time in transit, and for
/// the doubt whether those hours are counted from the call's beginning.
const KEY_HOLDS: Duration = Duration::from_hours(23);

/// What Resend says when the sender is at fault, or the account, and not this email. Alone, the last two come with 403;
/// of one among many there is no status.
const OUR_FAULT: [&str; 3] = ["`from`", "domain is not verified", "only send testing emails"];

/// `[esp.resend]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `https://api.resend.com`
    pub base_url: String,
    /// "Sending access" is enough.
    pub api_key: Secret,
}

impl Default for Config {
    fn default() -> Self {
        Self { base_url: "https://api.resend.com".to_owned(), api_key: Secret::default() }
    }
}

/// `POST /emails`, idempotent: for 24 hours a second call with the same send key mails nothing and answers the first
/// one's id (<https://resend.com/docs/dashboard/emails/idempotency-keys>).
///
/// Accepted is 200 with an `id`. Our `Message-ID` is sent, though Resend has been seen to replace it.
///
/// [`Self::batching`], up to 100 emails go with `POST /emails/batch`, and one alone does so too: its key is the batch's,
/// and of no use to an email that is sent again among others. So an answer that was lost is another matter, and the
/// name another: `resend-batch`. `x-batch-validation: permissive` has Resend take what is valid, and say of each other
/// email, by its index, why it is not (<https://resend.com/changelog/batch-validation-modes>).
pub struct Resend {
    http: Http,
    emails: Url,
    batch: Url,
}

impl Resend {
    /// `timeout` is for a whole call; `connections` is the most calls in flight.
    ///
    /// # Errors
    /// No API key, an unusable URL, no CA certificates.
    pub fn new(config: &Config, timeout: Duration, connections: usize) -> Result<Self, BuildError> {
        let key = BuildError::unless_set(config.api_key.expose(), "esp.resend.api_key")?;
        let http = Http::new(Endpoint {
            vendor: "Resend",
            setting: "esp.resend.base_url",
            base_url: &config.base_url,
            header: AUTHORIZATION,
            credentials: &format!("Bearer {key}"),
            credentials_setting: "esp.resend.api_key",
            timeout,
            connections,
        })?;
        let (emails, batch) = (http.url("/emails"), http.url("/emails/batch"));
        Ok(Self { http, emails, batch })
    }

    /// Sends many emails with one call.
    #[must_use]
    pub fn batching(self) -> Batching<Self> {
        Batching(self)
    }
}

#[async_trait]
impl Esp for Resend {
    fn name(&self) -> &'static str {
        "resend"
    }

    async fn send(&self, email: &Email) -> Outcome {
        let body = match body(email) {
            Ok(body) => body,
            Err(outcome) => return outcome,
        };
        let request = self.http.post(&self.emails, self.http.timeout);
        let request = request.header("idempotency-key", email.send_key.as_str()).json(&body);
        match self.http.call(request, &email.to).await {
            Ok(answer) => outcome(&answer, email),
            Err(outcome) => outcome,
        }
    }

    fn after_lost_answer(&self) -> AfterLostAnswer {
        AfterLostAnswer::Idempotent { within: KEY_HOLDS }
    }
}

#[async_trait]
impl Batch for Resend {
    /// Most emails of one call, <https://resend.com/docs/api-reference/emails/send-batch-emails>.
    const LIMIT: usize = 100;

    fn http(&self) -> &Http {
        &self.http
    }

    async fn together(&self, emails: &[&Email], within: Duration) -> Together {
        let bodies = match emails.iter().copied().map(body).collect::<Result<Vec<_>, _>>() {
            Ok(bodies) => bodies,
            Err(outcome) => return Together::Refused(outcome),
        };
        let request = self.http.post(&self.batch, within).json(&bodies);
        let request = request.header("idempotency-key", batch_key(emails)).header("x-batch-validation", "permissive");
        match self.http.call(request, &emails[0].to).await {
            Ok(answer) if answer.status.is_success() => {
                results(&answer, emails).map_or_else(|| Together::uncounted(&answer, emails), Together::Each)
            }
            Ok(answer) => {
                let answer = answer.anonymous(emails);
                Together::whole(outcome(&answer, emails[0]), Some(answer.status), emails)
            }
            Err(outcome) => Together::whole(outcome, None, emails),
        }
    }

    async fn alone(&self, email: &Email, within: Duration) -> Outcome {
        self.together(&[email], within).await.of_one()
    }

    fn name_of_batches(&self) -> &'static str {
        "resend-batch"
    }

    fn after_lost_batch(&self) -> AfterLostAnswer {
        AfterLostAnswer::Evidence
    }
}

/// The same for the same emails in the same order, and for no others.
fn batch_key(emails: &[&Email]) -> String {
    let mut hash = Sha256::new();
    for email in emails {
        hash.update(email.send_key.as_bytes());
        hash.update(b"\n");
    }
    BASE64_URL_SAFE_NO_PAD.encode(hash.finalize())
}

/// What an answer to the call for many says of each, if it says something of each: `errors` by index, and the ids of
/// all others, in order.
fn results(answer: &Answer, emails: &[&Email]) -> Option<Vec<Outcome>> {
    let Results { data, errors } = answer.json()?;
    let mut outcomes: Vec<Option<Outcome>> = vec![None; emails.len()];
    for Invalid { index, message } in errors {
        let told = Error { name: "validation_error".to_owned(), message };
        let refused = verdict(&answer.for_one(StatusCode::UNPROCESSABLE_ENTITY), &told, emails.get(index)?);
        if outcomes[index].replace(refused).is_some() {
            return None;
        }
    }
    let mut ids = data.into_iter();
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
        *outcome = Some(Outcome::Accepted { message_id: ids.next()?.id });
    }
    if ids.next().is_some() { None } else { outcomes.into_iter().collect() }
}

/// # Errors
/// A sender that Resend could not read: whatever the lead.
fn body(email: &Email) -> Result<Body<'_>, Outcome> {
    let mailbox = |setting, mailbox| unquoted(mailbox).ok_or_else(|| not_a_mailbox(setting, mailbox));
    Ok(Body {
        from: mailbox("from", &email.from)?,
        to: [email.to.as_str()],
        subject: &email.subject,
        text: text(email),
        html: email.html.as_deref(),
        reply_to: email.reply_to.as_deref().map(|reply_to| mailbox("reply_to", reply_to)).transpose()?,
        headers: HeaderObject(email),
        tags: Ids::of(email).pairs().map(|(name, value)| Tag { name, value }),
    })
}

/// Resend refuses names in double quotes, correct though they are (`"Acme, Inc." <mail@acme.example>`): without them.
fn unquoted(mailbox: &str) -> Option<Cow<'_, str>> {
    if !mailbox.contains('"') {
        return Some(mailbox.into());
    }
    let (name, address) = split_mailbox(mailbox)?;
    Some(name.map_or_else(|| address.as_str().to_owned(), |name| format!("{name} <{}>", address.as_str())).into())
}

fn outcome(answer: &Answer, email: &Email) -> Outcome {
    if let (200 | 201, Some(Taken { id })) = (answer.status.as_u16(), answer.json()) {
        return Outcome::Accepted { message_id: id };
    }
    verdict(answer, &answer.json::<Error>().unwrap_or_default(), email)
}

/// By error name, <https://resend.com/docs/api-reference/errors>; by status where it adds nothing.
fn verdict(answer: &Answer, told: &Error, email: &Email) -> Outcome {
    let reason = answer.reason(Some(told.message.as_str()).filter(|said| !said.is_empty()), &email.to);
    match told.name.as_str() {
        // The first call with this key is still at work; the next one will get its id.
        "concurrent_idempotent_requests" => Outcome::Transient { reason },
        // An earlier call with this key, and with another text (the lead's data changed in between), was taken: this
        // step may well have been mailed. Another key would mail it again, so it is not for us to choose.
        "invalid_idempotent_request" => Outcome::Unknown { reason },
        "daily_quota_exceeded" => {
            Outcome::RateLimited { until: Some(answer.until().unwrap_or_else(|| now().plus(QUOTA_PROBE))) }
        }
        // A month's quota: up to a month away, or a larger plan. A person should know.
        "monthly_quota_exceeded" | "invalid_from_address" => Outcome::Misconfigured { reason },
        "validation_error" | "missing_required_field" if is_our_fault(&told.message) => {
            Outcome::Misconfigured { reason }
        }
        _ => answer.by_status(reason),
    }
}

fn is_our_fault(message: &str) -> bool {
    OUR_FAULT.iter().any(|fault| message.contains(fault))
}

#[derive(Serialize)]
struct Body<'a> {
    from: Cow<'a, str>,
    to: [&'a str; 1],
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Cow<'a, str>>,
    headers: HeaderObject<'a>,
    tags: [Tag<'a>; 4],
}

#[derive(Serialize)]
struct Tag<'a> {
    name: &'static str,
    value: &'a str,
}

#[derive(Deserialize)]
struct Taken {
    id: SmolStr,
}

/// Of the call for many.
#[derive(Deserialize)]
struct Results {
    data: Vec<Taken>,
    #[serde(default)]
    errors: Vec<Invalid>,
}

#[derive(Deserialize)]
struct Invalid {
    index: usize,
    message: String,
}

#[derive(Default, Deserialize)]
struct Error {
    #[serde(default)]
    name: String,
    #[serde(default)]
    message: String,
}
