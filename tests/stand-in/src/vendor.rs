//! What the vendors have in common: a call is read strictly into letters, and answered in the vendor's own words.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::ledger::{Accepted, MessageIds};

mod mailgun;
mod postmark;
pub mod resend;
mod sendgrid;

/// The media type of all but Mailgun's requests.
pub const JSON: &str = "application/json";

/// Whose call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// `POST /v3/mail/send`
    SendGrid,
    /// `POST /v3/{domain}/messages`
    Mailgun,
    /// `POST /email`, `POST /email/batch`
    Postmark,
    /// `POST /emails`, `POST /emails/batch`
    Resend,
}

/// One email that would be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Our name for this step of this enrolment of this lead.
    pub send_key: Box<str>,
    /// The lead's opaque id.
    pub lead_id: Box<str>,
    /// The bare address.
    pub to: Box<str>,
    /// The sequence's name.
    pub sequence: Box<str>,
    /// The step's id.
    pub step: Box<str>,
    /// As sent.
    pub subject: Box<str>,
    /// Mailgun's domain, Postmark's message stream; empty for others.
    pub via: Box<str>,
    /// Postmark's `List-Unsubscribe`, as sent; empty for others.
    pub unsubscribe: Box<str>,
}

/// A request that is right.
#[derive(Debug)]
pub struct Order<'a> {
    /// At least one, but for a batch of which all are refused.
    pub letters: Vec<Letter>,
    /// What is answered of each email, where the call is one for many.
    pub batch: Option<Vec<Item>>,
    /// Where the vendor honours one.
    pub idempotency: Option<IdempotencyKey<'a>>,
    /// The sending domain, where the path names it.
    pub domain: Option<&'a str>,
    /// The email's own id, where the vendor keeps it as its own.
    pub message_id: Option<Arc<str>>,
    /// The vendor's own test mode: answered as ever, delivered to nobody.
    pub test_only: bool,
}

impl Order<'_> {
    /// With nothing special about it.
    pub fn of(letters: Vec<Letter>) -> Self {
        Self { letters, batch: None, idempotency: None, domain: None, message_id: None, test_only: false }
    }

    /// Of many emails, each right or refused for a reason.
    pub fn of_many(emails: impl IntoIterator<Item = Result<Letter, String>>) -> Self {
        let mut letters = Vec::new();
        let item = |email| match email {
            Ok(letter) => {
                let item = Item::Accepted { to: Letter::clone(&letter).to };
                letters.push(letter);
                item
            }
            Err(reason) => Item::Refused { reason },
        };
        let batch = emails.into_iter().map(item).collect();
        Self { batch: Some(batch), ..Self::of(letters) }
    }

    /// Refuses the emails of a batch to an address that holds this.
    pub fn refuse(&mut self, part: &str, why: &str) {
        self.letters.retain(|letter| !letter.to.contains(part));
        for item in self.batch.iter_mut().flatten() {
            if matches!(item, Item::Accepted { to } if to.contains(part)) {
                *item = Item::Refused { reason: why.to_owned() };
            }
        }
    }
}

/// What became of one email of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// It has the next id.
    Accepted {
        /// The bare address.
        to: Box<str>,
    },
    /// It is not what the vendor documents.
    Refused {
        /// In the vendor's words.
        reason: String,
    },
}

/// A look-up that is right: which emails are asked for, and which of them are shown.
#[derive(Debug, Default)]
pub struct Search<'a> {
    /// Mailgun's domain, Postmark's message stream.
    pub via: Cow<'a, str>,
    /// Only this one's.
    pub send_key: Option<Cow<'a, str>>,
    /// Only to this address.
    pub recipient: Option<Cow<'a, str>>,
    /// Only from then on, in milliseconds since 1970.
    pub since: u64,
    /// So many results come first.
    pub skip: usize,
    /// So many are shown.
    pub most: usize,
}

impl Search<'_> {
    /// Whether this email is asked for.
    pub fn wants(&self, email: &Accepted) -> bool {
        let is = |wanted: &Option<Cow<'_, str>>, has: &str| wanted.as_deref().is_none_or(|wanted| wanted == has);
        *self.via == *email.via
            && email.at >= self.since
            && is(&self.send_key, &email.send_key)
            && is(&self.recipient, &email.to)
    }
}

/// A key under which one body is accepted once.
#[derive(Debug, Clone, Copy)]
pub struct IdempotencyKey<'a> {
    /// The header's value.
    pub key: &'a str,
    /// The whole body.
    pub body: &'a [u8],
}

/// A request that is not what the vendor documents.
#[derive(Debug)]
pub struct Refused {
    /// For whoever reads the refusals.
    pub reason: String,
    /// The vendor's answer.
    pub reply: Reply,
}

/// A request as received.
pub struct Call<'a> {
    /// Without the query.
    pub path: &'a str,
    /// What follows the path.
    pub query: &'a str,
    /// All of them.
    pub headers: &'a HeaderMap,
    /// Whole.
    pub body: &'a [u8],
    /// What the authorisation must be.
    pub credentials: &'a Credentials,
}

/// The key, as each kind of authorisation carries it.
pub struct Credentials {
    token: String,
    bearer: String,
    basic: String,
}

/// What the request says about who it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Caller {
    /// It carries the key.
    Known,
    /// It carries nothing of the sort.
    Anonymous,
    /// It carries something else.
    Unknown,
}

impl Vendor {
    /// Whose call this is, by its path.
    pub fn of(parts: &Parts) -> Option<Self> {
        if parts.method != Method::POST {
            return None;
        }
        match parts.uri.path() {
            sendgrid::PATH => Some(Self::SendGrid),
            postmark::PATH | postmark::BATCH_PATH => Some(Self::Postmark),
            resend::PATH | resend::BATCH_PATH => Some(Self::Resend),
            path => mailgun::domain(path).map(|_| Self::Mailgun),
        }
    }

    /// Whose look-up this is, by its path.
    pub fn of_look_up(parts: &Parts) -> Option<Self> {
        match parts.uri.path() {
            _ if parts.method != Method::GET => None,
            postmark::SEARCH_PATH => Some(Self::Postmark),
            path => mailgun::events_domain(path).map(|_| Self::Mailgun),
        }
    }

    /// Reads a look-up, or refuses it.
    pub fn search<'a>(self, call: &Call<'a>) -> Result<Search<'a>, Refused> {
        match self {
            Self::Postmark => postmark::search(call),
            Self::Mailgun => mailgun::search(call),
            Self::SendGrid | Self::Resend => {
                Err(Refused { reason: "this vendor has no look-up".into(), reply: Reply::empty(StatusCode::NOT_FOUND) })
            }
        }
    }

    /// The answer to a look-up.
    pub fn found(self, call: &Call<'_>, search: &Search<'_>, found: &[Arc<Accepted>]) -> Reply {
        match self {
            Self::Postmark => postmark::found(search, found),
            Self::Mailgun => mailgun::found(call, search, found),
            Self::SendGrid | Self::Resend => Reply::empty(StatusCode::NOT_FOUND),
        }
    }

    /// Reads the call, or refuses it.
    pub fn read<'a>(self, call: &Call<'a>) -> Result<Order<'a>, Refused> {
        match self {
            Self::SendGrid => sendgrid::read(call),
            Self::Mailgun => mailgun::read(call),
            Self::Postmark => postmark::read(call),
            Self::Resend => resend::read(call),
        }
    }

    /// An id in the vendor's form.
    pub fn message_id(self, random: u128, at: u64, domain: Option<&str>) -> String {
        match self {
            Self::SendGrid => sendgrid::message_id(random),
            Self::Mailgun => mailgun::message_id(random, at, domain),
            Self::Postmark | Self::Resend => uuid(random),
        }
    }

    /// The answer to an accepted email.
    pub fn accepted(self, message_id: &str, to: &str, at: u64, test_only: bool) -> Reply {
        match self {
            Self::SendGrid => sendgrid::accepted(message_id, test_only),
            Self::Mailgun => mailgun::accepted(message_id),
            Self::Postmark => postmark::accepted(message_id, to, at),
            Self::Resend => resend::accepted(message_id),
        }
    }

    /// The answer to a batch.
    pub fn accepted_each(self, items: &[Item], message_ids: &MessageIds, at: u64) -> Reply {
        match self {
            Self::Postmark => postmark::accepted_each(items, message_ids, at),
            Self::Resend => resend::accepted_each(items, message_ids),
            Self::SendGrid | Self::Mailgun => Reply::empty(StatusCode::NOT_FOUND),
        }
    }

    /// The vendor's error with this status.
    pub fn failure(self, status: StatusCode, message: &str) -> Reply {
        match self {
            Self::SendGrid => sendgrid::failure(status, message, None),
            Self::Mailgun => mailgun::failure(status, message),
            Self::Postmark => postmark::failure(status, postmark::code_for(status), message),
            Self::Resend => resend::failure(status, resend::name_for(status), message),
        }
    }
}

impl Call<'_> {
    /// Whether `Authorization: Bearer` carries the key.
    pub fn bearer(&self) -> Caller {
        self.caller(&AUTHORIZATION, &self.credentials.bearer)
    }

    /// Whether `Authorization: Basic` carries the user `api` with the key.
    pub fn basic(&self) -> Caller {
        self.caller(&AUTHORIZATION, &self.credentials.basic)
    }

    /// Whether this header is the key.
    pub fn token(&self, header: &HeaderName) -> Caller {
        self.caller(header, &self.credentials.token)
    }

    /// Whether the body is said to be of this media type, whatever its parameters.
    pub fn is(&self, media_type: &str) -> bool {
        let said = self.text(&CONTENT_TYPE).unwrap_or_default();
        said.split(';').next().is_some_and(|said| said.trim().eq_ignore_ascii_case(media_type))
    }

    /// A header that is text and stands there once.
    pub fn text(&self, name: &HeaderName) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let only = values.next().filter(|_| values.next().is_none());
        only.and_then(|value| value.to_str().ok())
    }

    fn caller(&self, header: &HeaderName, wanted: &str) -> Caller {
        match self.headers.get(header) {
            None => Caller::Anonymous,
            Some(value) if value.as_bytes() == wanted.as_bytes() => Caller::Known,
            Some(_) => Caller::Unknown,
        }
    }
}

impl Credentials {
    /// Derives every form of this key.
    pub fn new(key: &str) -> Self {
        Self {
            token: key.into(),
            bearer: format!("Bearer {key}"),
            basic: format!("Basic {}", BASE64_STANDARD.encode(format!("api:{key}"))),
        }
    }
}

/// What every email of ours carries, wherever the vendor has room for it.
pub struct Tags<'t> {
    send_key: &'t str,
    lead_id: &'t str,
    sequence: &'t str,
    step: &'t str,
}

impl<'t> Tags<'t> {
    /// Finds all four. `place` is how the vendor calls where they are looked for.
    pub fn find(place: &str, get: impl Fn(&str) -> Option<&'t str>) -> Result<Self, String> {
        let find = |name| get(name).filter(|tag| !tag.is_empty()).ok_or_else(|| format!("{place}{name} is missing"));
        Ok(Self {
            send_key: find("send_key")?,
            lead_id: find("lead_id")?,
            sequence: find("sequence")?,
            step: find("step")?,
        })
    }

    /// The letter that they name.
    pub fn letter(&self, to: &str, subject: &str) -> Letter {
        Letter {
            send_key: self.send_key.into(),
            lead_id: self.lead_id.into(),
            to: to.into(),
            sequence: self.sequence.into(),
            step: self.step.into(),
            subject: subject.into(),
            via: Box::default(),
            unsubscribe: Box::default(),
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Reply {
    /// With this media type and body.
    pub fn new(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Self {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static(media_type))];
        Self { status, headers, body: body.into() }
    }

    /// With no body.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// With one header more, in place of one of the same name, unless its value cannot stand in one.
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.retain(|(earlier, _)| *earlier != name);
            self.headers.push((name, value));
        }
        self
    }

    /// With these headers likewise.
    pub fn with_headers(self, headers: &BTreeMap<String, String>) -> Self {
        headers.iter().fold(self, |reply, (name, value)| match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => reply.with_header(name, value),
            Err(_) => reply,
        })
    }

    /// With another body, if there is one.
    pub fn with_body(mut self, body: Option<&str>) -> Self {
        if let Some(body) = body {
            self.body = Bytes::copy_from_slice(body.as_bytes());
        }
        self
    }

    /// Ready for hyper.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }

    #[cfg(test)]
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    #[cfg(test)]
    pub fn body(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// What a wrong path gets: Mailgun greets whoever asks for one, with a 200 (seen with `/v3` missing from the base URL).
pub fn no_such_call(parts: &Parts) -> Reply {
    let basic = parts.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"Basic "));
    if basic {
        return Reply::new(StatusCode::OK, "text/html; charset=utf-8", "Mailgun Magnificent API");
    }
    Reply::new(StatusCode::NOT_FOUND, JSON, r#"{"message":"not found"}"#)
}

/// A page where an answer should be.
pub fn garbage() -> Reply {
    Reply::new(StatusCode::OK, "text/html; charset=utf-8", "<!doctype html><title>Welcome</title><p>It works!</p>")
}

/// 128 random bits in the form of a version 4 UUID.
fn uuid(random: u128) -> String {
    let bits = (random & !(0xF << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_says_that_it_is_of_version_4() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn a_call_belongs_to_a_vendor_by_its_path() {
        for (path, vendor) in [
            ("/v3/mail/send", Some(Vendor::SendGrid)),
            ("/v3/mg.acme.example/messages", Some(Vendor::Mailgun)),
            ("/email", Some(Vendor::Postmark)),
            ("/email/batch", Some(Vendor::Postmark)),
            ("/emails", Some(Vendor::Resend)),
            ("/emails/batch", Some(Vendor::Resend)),
            ("/v3/messages", None),
            ("/v2/mg.acme.example/messages", None),
            ("/", None),
        ] {
            let (parts, ()) = hyper::Request::post(path).body(()).unwrap().into_parts();
            assert_eq!(Vendor::of(&parts), vendor, "{path}");
            let (parts, ()) = hyper::Request::get(path).body(()).unwrap().into_parts();
            assert_eq!(Vendor::of(&parts), None, "GET {path}");
        }
    }

    #[test]
    fn a_look_up_belongs_to_a_vendor_by_its_path() {
        for (path, vendor) in [
            ("/messages/outbound", Some(Vendor::Postmark)),
            ("/v3/mg.acme.example/events", Some(Vendor::Mailgun)),
            ("/v3/mg.acme.example/events/abc", Some(Vendor::Mailgun)),
            ("/v3/events", None),
            ("/emails", None),
        ] {
            let (parts, ()) = hyper::Request::get(path).body(()).unwrap().into_parts();
            assert_eq!(Vendor::of_look_up(&parts), vendor, "{path}");
            let (parts, ()) = hyper::Request::post(path).body(()).unwrap().into_parts();
            assert_eq!(Vendor::of_look_up(&parts), None, "POST {path}");
        }
    }
}

/// Helps the vendors' tests.
#[cfg(test)]
mod testing {
    use super::*;

    /// Makes the call and hands its order to `check`, or gives the refusal.
    pub fn call<T>(
        vendor: Vendor,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
        check: impl FnOnce(Order<'_>) -> T,
    ) -> Result<T, Refused> {
        with_call(path, headers, body, |call| vendor.read(call).map(check))
    }

    /// Makes a call and hands it to `check`. The path may have a query.
    pub fn with_call<T>(path: &str, headers: &[(&str, &str)], body: &str, check: impl FnOnce(&Call<'_>) -> T) -> T {
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        });
        let headers: HeaderMap = headers.collect();
        let credentials = Credentials::new("test-key");
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        check(&Call { path, query, headers: &headers, body: body.as_bytes(), credentials: &credentials })
    }

    /// The example as the vendor would have it after a while.
    pub fn accepted(provider: Vendor, via: &str, message_id: &str) -> Arc<Accepted> {
        let Letter { send_key, lead_id, to, sequence, step, subject, unsubscribe, .. } = letter();
        let (send_key, message_id, at) = (send_key.into(), message_id.into(), 1_700_000_000_500);
        let via = via.into();
        Arc::new(Accepted {
            provider,
            send_key,
            lead_id,
            to,
            sequence,
            step,
            subject,
            via,
            unsubscribe,
            message_id,
            at,
        })
    }

    /// The letter that every vendor's example is.
    pub fn letter() -> Letter {
        Letter {
            send_key: "key-1".into(),
            lead_id: "lead-1".into(),
            to: "jane@example.com".into(),
            sequence: "nurture".into(),
            step: "welcome".into(),
            subject: "Hello \"Jane\"".into(),
            via: Box::default(),
            unsubscribe: Box::default(),
        }
    }
}
