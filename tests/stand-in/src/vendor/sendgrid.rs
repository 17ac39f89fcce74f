//! Twilio `SendGrid`, Mail Send v3.
use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::StatusCode;
use hyper::header::HeaderName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Call, Caller, JSON, Letter, Order, Refused, Reply, Tags};
use crate::address::{bare, header, subject};
use crate::json::{self, Text, Texts, present};

pub const PATH: &str = "/v3/mail/send";

const MESSAGE_ID: HeaderName = HeaderName::from_static("x-message-id");

/// Set by the vendor from other fields; refused in `headers`.
const RESERVED_HEADERS: [&str; 12] = [
    "x-sg-id",
    "x-sg-eid",
    "received",
    "dkim-signature",
    "content-type",
    "content-transfer-encoding",
    "to",
    "from",
    "subject",
    "reply-to",
    "cc",
    "bcc",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mail<'a> {
    #[serde(borrow)]
    personalizations: Vec<Personalization<'a>>,
    from: Person<'a>,
    #[serde(default, deserialize_with = "present")]
    reply_to: Option<Person<'a>>,
    #[serde(default)]
    reply_to_list: Vec<Person<'a>>,
    #[serde(default, deserialize_with = "present")]
    subject: Option<Text<'a>>,
    #[serde(default)]
    content: Vec<Content<'a>>,
    #[serde(default)]
    attachments: Vec<Attachment<'a>>,
    #[serde(default, deserialize_with = "present")]
    template_id: Option<Text<'a>>,
    #[serde(default)]
    headers: Texts<'a>,
    #[serde(default)]
    categories: Vec<Text<'a>>,
    #[serde(default)]
    custom_args: Texts<'a>,
    #[serde(default, deserialize_with = "present", rename = "send_at")]
    _send_at: Option<u64>,
    #[serde(default, deserialize_with = "present", rename = "batch_id")]
    _batch_id: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "asm")]
    _asm: Option<UnsubscribeGroup>,
    #[serde(default, deserialize_with = "present", rename = "ip_pool_name")]
    _ip_pool_name: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "mail_settings")]
    settings: Option<MailSettings<'a>>,
    #[serde(default, deserialize_with = "present", rename = "tracking_settings")]
    _tracking_settings: Option<TrackingSettings<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Personalization<'a> {
    #[serde(default, borrow, deserialize_with = "present", rename = "from")]
    sender: Option<Person<'a>>,
    to: Vec<Person<'a>>,
    #[serde(default)]
    cc: Vec<Person<'a>>,
    #[serde(default)]
    bcc: Vec<Person<'a>>,
    #[serde(default, deserialize_with = "present")]
    subject: Option<Text<'a>>,
    #[serde(default)]
    headers: Texts<'a>,
    #[serde(default, rename = "substitutions")]
    _substitutions: Texts<'a>,
    #[serde(default, deserialize_with = "present", rename = "dynamic_template_data")]
    _dynamic_template_data: Option<BTreeMap<Text<'a>, Value>>,
    #[serde(default)]
    custom_args: Texts<'a>,
    #[serde(default, deserialize_with = "present", rename = "send_at")]
    _send_at: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Person<'a> {
    #[serde(borrow)]
    email: Text<'a>,
    #[serde(default, deserialize_with = "present")]
    name: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content<'a> {
    #[serde(rename = "type", borrow)]
    media_type: Text<'a>,
    value: Text<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attachment<'a> {
    #[serde(borrow)]
    content: Text<'a>,
    filename: Text<'a>,
    #[serde(default, deserialize_with = "present", rename = "type")]
    _media_type: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "disposition")]
    _disposition: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "content_id")]
    _content_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnsubscribeGroup {
    #[serde(rename = "group_id")]
    _group_id: u64,
    #[serde(default, rename = "groups_to_display")]
    _groups_to_display: Vec<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MailSettings<'a> {
    #[serde(default, deserialize_with = "present", rename = "bypass_list_management")]
    _bypass_list_management: Option<Switch>,
    #[serde(default, deserialize_with = "present", rename = "bypass_spam_management")]
    _bypass_spam_management: Option<Switch>,
    #[serde(default, deserialize_with = "present", rename = "bypass_bounce_management")]
    _bypass_bounce_management: Option<Switch>,
    #[serde(default, deserialize_with = "present", rename = "bypass_unsubscribe_management")]
    _bypass_unsubscribe_management: Option<Switch>,
    #[serde(default, borrow, deserialize_with = "present", rename = "footer")]
    _footer: Option<Footer<'a>>,
    #[serde(default, deserialize_with = "present")]
    sandbox_mode: Option<Switch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    enable: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer<'a> {
    #[serde(rename = "enable")]
    _enable: bool,
    #[serde(default, borrow, deserialize_with = "present", rename = "text")]
    _text: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "html")]
    _html: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrackingSettings<'a> {
    #[serde(default, deserialize_with = "present", rename = "click_tracking")]
    _click_tracking: Option<ClickTracking>,
    #[serde(default, borrow, deserialize_with = "present", rename = "open_tracking")]
    _open_tracking: Option<OpenTracking<'a>>,
    #[serde(default, deserialize_with = "present", rename = "subscription_tracking")]
    _subscription_tracking: Option<SubscriptionTracking<'a>>,
    #[serde(default, deserialize_with = "present", rename = "ganalytics")]
    _ganalytics: Option<Analytics<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClickTracking {
    #[serde(rename = "enable")]
    _enable: bool,
    #[serde(default, deserialize_with = "present", rename = "enable_text")]
    _enable_text: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenTracking<'a> {
    #[serde(rename = "enable")]
    _enable: bool,
    #[serde(default, borrow, deserialize_with = "present", rename = "substitution_tag")]
    _substitution_tag: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscriptionTracking<'a> {
    #[serde(rename = "enable")]
    _enable: bool,
    #[serde(default, borrow, deserialize_with = "present", rename = "text")]
    _text: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "html")]
    _html: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "substitution_tag")]
    _substitution_tag: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Analytics<'a> {
    #[serde(rename = "enable")]
    _enable: bool,
    #[serde(default, borrow, deserialize_with = "present", rename = "utm_source")]
    _source: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "utm_medium")]
    _medium: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "utm_term")]
    _term: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "utm_content")]
    _content: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "utm_campaign")]
    _campaign: Option<Text<'a>>,
}

pub fn read<'a>(call: &Call<'a>) -> Result<Order<'a>, Refused> {
    if call.bearer() != Caller::Known {
        let message = "The provided authorization grant is invalid, expired, or revoked";
        return Err(refused(StatusCode::UNAUTHORIZED, message.into(), None));
    }
    if !call.is(JSON) {
        let message = "Content-Type should be application/json.";
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, message.into(), None));
    }
    let bad = |(field, message)| refused(StatusCode::BAD_REQUEST, message, field);
    let mail: Mail = json::read(call.body).map_err(|unreadable| bad((None, unreadable.into_reason())))?;
    mail.check().map_err(bad)?;
    let letters: Result<Vec<_>, _> = mail.personalizations.iter().map(|one| one.letter(&mail)).collect();
    let test_only = mail.settings.and_then(|settings| settings.sandbox_mode).is_some_and(|mode| mode.enable);
    Ok(Order { test_only, ..Order::of(letters.map_err(bad)?) })
}

/// The field, as the vendor would name it, and what is wrong with it.
type Fault = (Option<&'static str>, String);

fn in_field(field: &'static str) -> impl Fn(String) -> Fault {
    move |message| (Some(field), message)
}

fn ensure(holds: bool, field: &'static str, message: &str) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err((Some(field), message.into())) }
}

impl Mail<'_> {
    fn check(&self) -> Result<(), Fault> {
        ensure(
            (1..=1_000).contains(&self.personalizations.len()),
            "personalizations",
            "The personalizations field is required and must have between 1 and 1000 items.",
        )?;
        self.from.check("from")?;
        self.reply_to.iter().chain(&self.reply_to_list).try_for_each(|person| person.check("reply_to"))?;
        self.check_content()?;
        check_headers(&self.headers)?;
        ensure(self.categories.len() <= 10, "categories", "There may be 10 categories at most.")?;
        let unique = self.categories.iter().enumerate().all(|(i, one)| !self.categories[..i].contains(one));
        ensure(unique, "categories", "Categories must be unique.")?;
        ensure(self.categories.iter().all(|one| one.len() <= 255), "categories", "A category is too long.")?;
        self.attachments.iter().try_for_each(|one| {
            ensure(!one.content.is_empty() && !one.filename.is_empty(), "attachments", "An attachment is empty.")
        })
    }

    fn check_content(&self) -> Result<(), Fault> {
        ensure(
            self.template_id.is_some() || !self.content.is_empty(),
            "content",
            "Unless a valid template_id is provided, the content parameter is required. There must be at least one \
             defined content block.",
        )?;
        let values = self.content.iter().all(|part| !part.value.is_empty());
        ensure(values, "content.value", "The content value must be a string at least one character in length.")?;
        let order = |part: &Content| match &*part.media_type {
            "text/plain" => 0,
            "text/html" => 1,
            _ => 2,
        };
        let in_order = self.content.is_sorted_by(|one, next| order(one) < order(next) || order(next) == 2);
        ensure(
            in_order,
            "content",
            "If present, text/plain and text/html may only be provided once, and must be first, in this order.",
        )
    }
}

impl Personalization<'_> {
    fn letter(&self, mail: &Mail<'_>) -> Result<Letter, Fault> {
        const CUSTOM_ARGS: &str = "personalizations.custom_args";
        let [to] = &self.to[..] else {
            return Err((Some("personalizations.to"), "An email of a sequence has one recipient.".into()));
        };
        to.check("personalizations.to")?;
        self.cc.iter().chain(&self.bcc).chain(&self.sender).try_for_each(|one| one.check("personalizations"))?;
        check_headers(&self.headers)?;
        let args = self.custom_args.iter().chain(&mail.custom_args);
        let size: usize = args.map(|(name, value)| name.len() + value.len()).sum();
        ensure(size <= 10_000, CUSTOM_ARGS, "Custom arguments may have 10,000 bytes at most.")?;
        let line = self.subject.as_ref().or(mail.subject.as_ref());
        let line = line.ok_or_else(|| (Some("subject"), String::from("The subject is required.")))?;
        subject(line).map_err(in_field("subject"))?;
        let get = |name: &str| self.custom_args.get(name).map(|value| &**value);
        let tags = Tags::find("personalizations.custom_args.", get).map_err(in_field(CUSTOM_ARGS))?;
        Ok(tags.letter(&to.email, line))
    }
}

impl Person<'_> {
    fn check(&self, field: &'static str) -> Result<(), Fault> {
        bare(&self.email).map_err(in_field(field))?;
        let name_ok = self.name.as_ref().is_none_or(|name| !name.contains(char::is_control));
        ensure(name_ok, field, "The name holds a control character.")
    }
}

fn check_headers(headers: &Texts<'_>) -> Result<(), Fault> {
    headers.iter().try_for_each(|(name, value)| {
        header(name, value).map_err(in_field("headers"))?;
        let reserved = RESERVED_HEADERS.iter().any(|reserved| reserved.eq_ignore_ascii_case(name));
        ensure(!reserved, "headers", "A header is reserved and cannot be set.")
    })
}

pub fn message_id(random: u128) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(random.to_be_bytes())
}

/// 202 and no body; 200 in sandbox mode.
pub fn accepted(message_id: &str, sandbox: bool) -> Reply {
    let status = if sandbox { StatusCode::OK } else { StatusCode::ACCEPTED };
    Reply::empty(status).with_header(MESSAGE_ID, message_id)
}

pub fn failure(status: StatusCode, message: &str, field: Option<&str>) -> Reply {
    #[derive(Serialize)]
    struct Errors<'a> {
        errors: [Error<'a>; 1],
    }
    #[derive(Serialize)]
    struct Error<'a> {
        message: &'a str,
        field: Option<&'a str>,
        help: Option<&'a str>,
    }
    let body = Errors { errors: [Error { message, field, help: None }] };
    Reply::new(status, JSON, serde_json::to_vec(&body).unwrap_or_default())
}

fn refused(status: StatusCode, reason: String, field: Option<&str>) -> Refused {
    Refused { reply: failure(status, &reason, field), reason }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Vendor;
    use super::super::testing::{call, letter};
    use super::*;

    const HEADERS: [(&str, &str); 2] =
        [("authorization", "Bearer test-key"), ("content-type", "application/json; charset=utf-8")];

    fn example() -> Value {
        json!({
            "personalizations": [{
                "to": [{ "email": "jane@example.com", "name": "Jane" }],
                "custom_args": {
                    "send_key": "key-1", "lead_id": "lead-1", "sequence": "nurture", "step": "welcome"
                },
                "headers": { "Message-ID": "<key-1@acme.example>" }
            }],
            "from": { "email": "hello@acme.example", "name": "Acme" },
            "reply_to": { "email": "help@acme.example" },
            "subject": "Hello \"Jane\"",
            "content": [
                { "type": "text/plain", "value": "Hello" },
                { "type": "text/html", "value": "<p>Hello</p>" }
            ],
            "headers": { "List-Unsubscribe": "<https://acme.example/u>" },
            "categories": ["nurture"]
        })
    }

    fn send(body: &Value) -> Result<Vec<Letter>, Refused> {
        call(Vendor::SendGrid, PATH, &HEADERS, &body.to_string(), |order| order.letters)
    }

    fn send_with(change: impl FnOnce(&mut Value)) -> Result<Vec<Letter>, Refused> {
        let mut body = example();
        change(&mut body);
        send(&body)
    }

    #[test]
    fn a_documented_request_is_accepted() {
        assert_eq!(send(&example()).unwrap(), [letter()]);
    }

    #[test]
    fn every_personalization_is_an_email() {
        let letters = send_with(|body| {
            let mut other = body["personalizations"][0].clone();
            other["to"][0]["email"] = json!("joe@example.com");
            other["subject"] = json!("Hello Joe");
            body["personalizations"].as_array_mut().unwrap().push(other);
        });
        let letters = letters.unwrap();
        assert_eq!(letters.len(), 2);
        assert_eq!((&*letters[1].to, &*letters[1].subject), ("joe@example.com", "Hello Joe"));
    }

    #[test]
    fn sandbox_mode_delivers_nothing() {
        let mut body = example();
        body["mail_settings"] = json!({ "sandbox_mode": { "enable": true } });
        assert!(call(Vendor::SendGrid, PATH, &HEADERS, &body.to_string(), |order| order.test_only).unwrap());
        assert_eq!(accepted("id", true).status(), 200);
        assert_eq!(accepted("id", false).status(), 202);
    }

    #[test]
    fn an_undocumented_request_is_refused() {
        type Change = fn(&mut Value);
        let cases: [(&str, Change); 22] = [
            ("unknown field", |body| body["html"] = json!("<p>Hello</p>")),
            ("unknown nested field", |body| body["from"]["address"] = json!("x")),
            ("unknown setting", |body| {
                body["mail_settings"] = json!({ "sandbox": true });
            }),
            ("null", |body| body["reply_to"] = Value::Null),
            ("from missing", |body| {
                drop(body.as_object_mut().unwrap().remove("from"));
            }),
            ("from a string", |body| body["from"] = json!("hello@acme.example")),
            ("from with its name", |body| {
                body["from"]["email"] = json!("Acme <hello@acme.example>");
            }),
            ("subject missing", |body| {
                drop(body.as_object_mut().unwrap().remove("subject"));
            }),
            ("subject empty", |body| body["subject"] = json!("")),
            ("subject of two lines", |body| body["subject"] = json!("a\nBcc: b@c.de")),
            ("content missing", |body| {
                drop(body.as_object_mut().unwrap().remove("content"));
            }),
            ("content empty", |body| body["content"][0]["value"] = json!("")),
            ("html before text", |body| {
                body["content"].as_array_mut().unwrap().reverse();
            }),
            ("no personalization", |body| body["personalizations"] = json!([])),
            ("no recipient", |body| body["personalizations"][0]["to"] = json!([])),
            ("two recipients", |body| {
                body["personalizations"][0]["to"] = json!([{ "email": "a@b.cd" }, { "email": "e@f.gh" }]);
            }),
            ("not an address", |body| {
                body["personalizations"][0]["to"][0]["email"] = json!("jane");
            }),
            ("no send key", |body| {
                body["personalizations"][0]["custom_args"] = json!({ "lead_id": "x" });
            }),
            ("custom arguments not strings", |body| {
                body["personalizations"][0]["custom_args"]["step"] = json!(1);
            }),
            ("custom arguments too large", |body| {
                body["personalizations"][0]["custom_args"]["more"] = json!("x".repeat(10_000));
            }),
            ("reserved header", |body| body["headers"]["Reply-To"] = json!("a@b.cd")),
            ("eleven categories", |body| {
                body["categories"] = (0..11).map(|i| json!(i.to_string())).collect();
            }),
        ];
        for (case, change) in cases {
            let refused = send_with(change).expect_err(case);
            assert_eq!(refused.reply.status(), 400, "{case}");
            let body: Value = serde_json::from_str(refused.reply.body()).unwrap();
            assert!(body["errors"][0]["message"].is_string(), "{case}: {body}");
        }
    }

    #[test]
    fn a_wrong_key_or_media_type_is_refused() {
        let body = example().to_string();
        for (headers, status) in [
            (vec![HEADERS[1]], 401),
            (vec![("authorization", "Bearer other"), HEADERS[1]], 401),
            (vec![("authorization", "test-key"), HEADERS[1]], 401),
            (vec![HEADERS[0]], 415),
            (vec![HEADERS[0], ("content-type", "text/plain")], 415),
        ] {
            let refused = call(Vendor::SendGrid, PATH, &headers, &body, |_| ()).unwrap_err();
            assert_eq!(refused.reply.status(), status, "{headers:?}");
        }
    }
}
