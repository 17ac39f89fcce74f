//! Mailgun, by its messages API v3.
//!
//! <https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages/post-v3--domain-name--messages>
use std::borrow::Cow;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use dripline_actors::ports::{AfterLostAnswer, Esp, LookUp};
use dripline_domain::{Email, Outcome, Timestamp};
use reqwest::Url;
use reqwest::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::answer::{Answer, now};
use crate::batch::{Batch, Batching, Together};
use crate::http::{Endpoint, Http, with_query};
use crate::wire::{Ids, text};
use crate::{BuildError, Secret};

/// What Mailgun says, in lower case, when the sender or the account is at fault and not this email. It has no codes.
const OUR_FAULT: [&str; 5] =
    ["'from' parameter", "not allowed to send", "for test purposes only", "domain not found", "is disabled"];

/// How the words begin that Mailgun replaces by something of its own wherever they stand between two `%`, such as
/// `%recipient_name%` and `%unsubscribe_url%`
/// (<https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/batch-sending>).
const REPLACED: [&str; 4] = ["recipient", "unsubscribe", "mailing_list", "tag_unsubscribe"];

/// An email without an event so long after its call was not taken. Events are "still on their way to the storage engine"
/// for a while; by the vendor, what is half an hour old can be trusted
/// (<https://documentation.mailgun.com/docs/mailgun/user-manual/events/event-polling>).
const SETTLED_AFTER: Duration = Duration::from_mins(30);

/// Events are kept for 30 days, but "access to this data varies by plan", down to one day
/// (<https://documentation.mailgun.com/docs/mailgun/user-manual/events/events>). Not to find an older one means nothing.
const REMEMBERED_FOR: Duration = Duration::from_hours(23);

/// Events from so many seconds before the attempt on are looked at, since two clocks differ.
const BEFORE: i64 = 600;

/// Most events of a page; the vendor's limit is 300.
const PAGE: &str = "100";

/// Most pages that are looked at. Nobody gets so many emails of one sender in a day, nor opens them so often.
const PAGES: usize = 5;

/// `[esp.mailgun]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `https://api.mailgun.net`; `https://api.eu.mailgun.net` for a domain in the EU.
    pub base_url: String,
    /// The sending domain, as verified at Mailgun.
    pub domain: String,
    /// A sending key of the domain is enough to send. To look up an attempt whose answer was lost takes an account key:
    /// a sending key may do nothing else (<https://documentation.mailgun.com/docs/mailgun/api-reference/authentication>).
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
/// key: a repeated call mails twice. But what was taken has events, and each carries our `send_key`.
///
/// With [`Self::batching`], up to 1,000 emails of one sequence go with one call
/// (<https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/batch-sending>). That call has one text
/// for all of them, and a place in it for each field in which they differ; what belongs there is in
/// `recipient-variables`, by address. The vendor shows such places in subject, text and variables; that headers may
/// have them, too, is practice. A `Message-ID` is left to Mailgun, which gives one to all of them; events are known by
/// `send_key`, and so nothing depends on it. What cannot go so is sent alone: a second email to the same address, and
/// one that itself holds what Mailgun would replace. One refused address refuses all, and then each is sent alone.
pub struct Mailgun {
    http: Http,
    messages: Url,
    events: Url,
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
            header: AUTHORIZATION,
            credentials: &format!("Basic {}", BASE64_STANDARD.encode(format!("api:{key}"))),
            credentials_setting: "esp.mailgun.api_key",
            timeout,
            connections,
        })?;
        let (messages, events) =
            (http.url(&format!("/v3/{domain}/messages")), http.url(&format!("/v3/{domain}/events")));
        Ok(Self { http, messages, events })
    }

    /// Sends many emails with one call.
    #[must_use]
    pub fn batching(self) -> Batching<Self> {
        Batching(self)
    }
}

#[async_trait]
impl Esp for Mailgun {
    fn name(&self) -> &'static str {
        "mailgun"
    }

    async fn send(&self, email: &Email) -> Outcome {
        self.alone(email, self.http.timeout).await
    }

    fn after_lost_answer(&self) -> AfterLostAnswer {
        AfterLostAnswer::LookUp { settled_after: SETTLED_AFTER }
    }

    /// `GET /v3/{domain}/events`,
    /// <https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/events/get-v3-domain_name-events>.
    ///
    /// Any event of ours will do, be it `accepted`, `delivered`, `failed` or a later one: Mailgun has the email. By
    /// recipient, not by `message-id`: the events' own variables then say whether one is ours, whatever has become of
    /// our `Message-ID`.
    async fn look_up(&self, email: &Email, attempted_at: Timestamp) -> LookUp {
        let begin = (attempted_at.as_millis() / 1_000 - BEFORE).to_string();
        let query =
            [("begin", begin.as_str()), ("ascending", "yes"), ("limit", PAGE), ("recipient", email.to.as_str())];
        let unclear = |reason: &str| LookUp::Unclear { reason: reason.to_owned() };
        let mut url = with_query(&self.events, &query);
        for _ in 0..PAGES {
            let page: Page = match self.http.ask(url, &email.to).await {
                Ok(page) => page,
                Err(unclear) => return unclear,
            };
            if page.items.is_empty() {
                let forgotten = now().since(attempted_at) > REMEMBERED_FOR;
                return if forgotten {
                    unclear("Mailgun may have forgotten the email by now")
                } else {
                    LookUp::NotFound
                };
            }
            if let Some(event) = page.items.iter().find(|event| event["user-variables"]["send_key"] == *email.send_key)
            {
                let message_id = event["message"]["headers"]["message-id"].as_str().unwrap_or_default();
                return LookUp::Found { message_id: message_id.into() };
            }
            url = match self.http.own(&page.paging.next) {
                Some(next) => next,
                None => return unclear("Mailgun's next page of events is not Mailgun's"),
            };
        }
        unclear("Mailgun has too many events of this recipient")
    }
}

#[async_trait]
impl Batch for Mailgun {
    /// Most recipients of one call.
    const LIMIT: usize = 1_000;

    fn http(&self) -> &Http {
        &self.http
    }

    async fn together(&self, emails: &[&Email], within: Duration) -> Together {
        let request = self.http.post(&self.messages, within).form(&form_of_many(emails));
        match self.http.call(request, &emails[0].to).await {
            Ok(answer) => {
                let answer = if answer.status.is_success() { answer } else { answer.anonymous(emails) };
                Together::whole(outcome(&answer, emails[0]), Some(answer.status), emails)
            }
            Err(outcome) => Together::whole(outcome, None, emails),
        }
    }

    async fn alone(&self, email: &Email, within: Duration) -> Outcome {
        match self.http.call(self.http.post(&self.messages, within).form(&form(email)), &email.to).await {
            Ok(answer) => outcome(&answer, email),
            Err(outcome) => outcome,
        }
    }

    fn goes_alone(&self, email: &Email) -> bool {
        let is_replaced = |word: &str| REPLACED.iter().any(|beginning| word.starts_with(beginning));
        own(email).any(|(_, value)| value.split('%').skip(1).any(is_replaced))
    }

    fn has_room_for(&self, email: &Email, among: &[&Email]) -> bool {
        let names = |email| own(email).map(|(name, _)| name);
        common(email).eq(common(among[0]))
            && names(email).eq(names(among[0]))
            && !among.iter().any(|earlier| earlier.to == email.to)
    }
}

type Field<'a> = (Cow<'static, str>, Cow<'a, str>);

fn form(email: &Email) -> Vec<Field<'_>> {
    let to = ("to".into(), email.to.as_str().into());
    let message_id = ("h:Message-ID".into(), email.message_id.as_str().into());
    common(email).chain([to, message_id]).chain(own(email)).collect()
}

/// All that they have in common, a place for each field that is an email's own, and what belongs there.
fn form_of_many<'a>(emails: &[&'a Email]) -> Vec<Field<'a>> {
    let mut fields: Vec<Field<'a>> = common(emails[0]).collect();
    fields.extend(emails.iter().map(|email| ("to".into(), email.to.as_str().into())));
    fields.extend(own(emails[0]).map(|(name, _)| {
        let place = format!("%recipient.{name}%");
        (name, place.into())
    }));
    let variables: Value = emails.iter().map(|email| (email.to.as_str(), own(email).collect::<Value>())).collect();
    fields.push(("recipient-variables".into(), variables.to_string().into()));
    fields
}

/// What all emails of a call must have in common.
fn common(email: &Email) -> impl Iterator<Item = Field<'_>> {
    let reply_to = email.reply_to.as_deref().map(|reply_to| ("h:Reply-To".into(), reply_to.into()));
    let from = ("from".into(), email.from.as_str().into());
    let tag = ("o:tag".into(), email.sequence.as_str().into());
    [from, tag].into_iter().chain(reply_to)
}

/// What an email has of its own.
fn own(email: &Email) -> impl Iterator<Item = Field<'_>> {
    let subject = ("subject".into(), email.subject.as_str().into());
    let text = text(email).map(|text| ("text".into(), text.into()));
    let html = email.html.as_deref().map(|html| ("html".into(), html.into()));
    let headers = email.headers.iter().map(|(name, value)| (format!("h:{name}").into(), value.as_str().into()));
    let ids = Ids::of(email).pairs().into_iter().map(|(name, value)| (format!("v:{name}").into(), value.into()));
    std::iter::once(subject).chain(text).chain(html).chain(headers).chain(ids)
}

fn outcome(answer: &Answer, email: &Email) -> Outcome {
    let told = answer.json::<Message>();
    let reason = answer.reason(told.as_ref().map(|told| told.message.as_str()), &email.to);
    match told {
        Some(Message { id: Some(id), .. }) if answer.status.as_u16() == 200 => {
            Outcome::Accepted { message_id: id.trim_matches(['<', '>']).into() }
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

#[derive(Deserialize)]
struct Page {
    items: Vec<Value>,
    paging: Paging,
}

#[derive(Deserialize)]
struct Paging {
    /// Leads on even from the last page, to an empty one.
    next: String,
}
