//! Resend, `POST /emails` and `POST /emails/batch`.
use std::collections::BTreeMap;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue, USER_AGENT};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Call, Caller, IdempotencyKey, Item, JSON, Letter, Order, Refused, Reply, Tags};
use crate::address::{bare, header, subject};
use crate::json::{self, Text, Texts, Unreadable, present};
use crate::ledger::MessageIds;

pub const PATH: &str = "/emails";
pub const BATCH_PATH: &str = "/emails/batch";

/// Most emails of a batch.
const BATCH: usize = 100;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const BATCH_VALIDATION: HeaderName = HeaderName::from_static("x-batch-validation");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mail<'a> {
    #[serde(borrow)]
    from: Text<'a>,
    to: Addresses<'a>,
    subject: Text<'a>,
    #[serde(default, deserialize_with = "present")]
    cc: Option<Addresses<'a>>,
    #[serde(default, deserialize_with = "present")]
    bcc: Option<Addresses<'a>>,
    #[serde(default, deserialize_with = "present")]
    reply_to: Option<Addresses<'a>>,
    #[serde(default, deserialize_with = "present")]
    scheduled_at: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present")]
    html: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present")]
    text: Option<Text<'a>>,
    #[serde(default)]
    headers: Texts<'a>,
    #[serde(default, deserialize_with = "present", rename = "topic_id")]
    _topic_id: Option<Text<'a>>,
    #[serde(default)]
    attachments: Vec<Attachment<'a>>,
    #[serde(default)]
    tags: Vec<Tag<'a>>,
    #[serde(default, deserialize_with = "present")]
    template: Option<Template<'a>>,
}

/// One address or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Addresses<'a> {
    #[serde(borrow)]
    One(Text<'a>),
    Many(Vec<Text<'a>>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tag<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    value: Text<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attachment<'a> {
    #[serde(default, borrow, deserialize_with = "present", rename = "content")]
    _content: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "path")]
    _path: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "filename")]
    _filename: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "content_type")]
    _content_type: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present", rename = "content_id")]
    _content_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template<'a> {
    #[serde(borrow, rename = "id")]
    _id: Text<'a>,
    #[serde(default, rename = "variables")]
    _variables: BTreeMap<Text<'a>, Value>,
}

pub fn read<'a>(call: &Call<'a>) -> Result<Order<'a>, Refused> {
    if call.text(&USER_AGENT).is_none_or(str::is_empty) {
        // Answered by what stands before the API, so not in its words.
        let reply = Reply::new(StatusCode::FORBIDDEN, "text/plain; charset=UTF-8", "error code: 1010");
        return Err(Refused { reason: "the User-Agent header is missing".into(), reply });
    }
    match call.bearer() {
        Caller::Known => {}
        Caller::Anonymous => {
            return Err(refused(StatusCode::UNAUTHORIZED, "missing_api_key", "Missing API Key".into()));
        }
        Caller::Unknown => {
            return Err(refused(StatusCode::FORBIDDEN, "invalid_api_key", "API key is invalid".into()));
        }
    }
    if !call.is(JSON) {
        return Err(invalid("The Content-Type must be application/json.".into()));
    }
    if call.path == BATCH_PATH {
        return read_batch(call);
    }
    let letter = read_mail(call.body)?.letter().map_err(invalid)?;
    let key = idempotency_key(call)?;
    // Ours is the send key itself, so that a retry of a step can only ever be that step.
    if *key.key != *letter.send_key {
        return Err(invalid_key("the Idempotency-Key is not the tag send_key"));
    }
    Ok(Order { idempotency: Some(key), ..Order::of(vec![letter]) })
}

/// Strict, one that is wrong refuses all; permissive, only itself.
fn read_batch<'a>(call: &Call<'a>) -> Result<Order<'a>, Refused> {
    let bodies: Vec<&RawValue> = json::read(call.body).map_err(unreadable)?;
    if bodies.is_empty() || bodies.len() > BATCH {
        return Err(invalid(format!("A batch has 1 to {BATCH} emails.")));
    }
    let permissive = match call.headers.get(BATCH_VALIDATION).map(HeaderValue::as_bytes) {
        None | Some(b"strict") => false,
        Some(b"permissive") => true,
        Some(_) => return Err(invalid("x-batch-validation is strict or permissive.".into())),
    };
    let letters = bodies.iter().map(|body| {
        let mail = read_mail(body.get().as_bytes())?;
        let alone = mail.scheduled_at.is_some() || !mail.attachments.is_empty();
        let letter = if alone { Err("A batch has no attachments and no scheduled_at.".into()) } else { mail.letter() };
        letter.map_err(invalid)
    });
    let idempotency = Some(idempotency_key(call)?);
    let order = if permissive {
        Order::of_many(letters.map(|letter| letter.map_err(|refused| refused.reason)))
    } else {
        Order::of_many(letters.collect::<Result<Vec<_>, _>>()?.into_iter().map(Ok))
    };
    Ok(Order { idempotency, ..order })
}

fn read_mail(body: &[u8]) -> Result<Mail<'_>, Refused> {
    json::read(body).map_err(unreadable)
}

fn unreadable(unreadable: Unreadable) -> Refused {
    match unreadable {
        Unreadable::Malformed(why) => refused(StatusCode::BAD_REQUEST, "validation_error", why),
        Unreadable::Mistyped(why) if why.starts_with("missing field") => {
            refused(StatusCode::UNPROCESSABLE_ENTITY, "missing_required_field", why)
        }
        Unreadable::Mistyped(why) => invalid(why),
    }
}

fn idempotency_key<'a>(call: &Call<'a>) -> Result<IdempotencyKey<'a>, Refused> {
    match call.headers.get(IDEMPOTENCY_KEY).and_then(|value| value.to_str().ok()) {
        None => Err(invalid_key("the Idempotency-Key header is missing")),
        Some(key) if !(1..=256).contains(&key.len()) => {
            Err(invalid_key("The idempotency key must be between 1-256 chars."))
        }
        Some(key) => Ok(IdempotencyKey { key, body: call.body }),
    }
}

fn invalid_key(reason: &str) -> Refused {
    refused(StatusCode::BAD_REQUEST, "invalid_idempotency_key", reason.into())
}

impl Mail<'_> {
    fn letter(&self) -> Result<Letter, String> {
        let address = |field: &str, text| friendly(text).map_err(|why| format!("Invalid `{field}` field. {why}"));
        address("from", &self.from)?;
        let [to] = self.to.list() else {
            return Err("Invalid `to` field. An email of a sequence has one recipient.".into());
        };
        let to = address("to", to)?;
        for (field, texts) in [("cc", &self.cc), ("bcc", &self.bcc), ("reply_to", &self.reply_to)] {
            let texts = texts.as_ref().map(Addresses::list).unwrap_or_default();
            texts.iter().try_for_each(|text| address(field, text).map(drop))?;
        }
        subject(&self.subject)?;
        let bodies = [&self.html, &self.text];
        if self.template.is_none() && bodies.iter().all(|body| body.as_ref().is_none_or(|body| body.is_empty())) {
            return Err("Missing `html` or `text` field.".into());
        }
        self.headers.iter().try_for_each(|(name, value)| header(name, value))?;
        self.tags.iter().try_for_each(Tag::check)?;
        let get = |wanted: &str| self.tags.iter().find(|tag| &*tag.name == wanted).map(|tag| &*tag.value);
        Ok(Tags::find("tags.", get)?.letter(to, &self.subject))
    }
}

/// `Name <local@domain>`, the name as it is: this vendor wants no quotes, not even around a comma.
fn friendly(text: &str) -> Result<&str, String> {
    let named = text.strip_suffix('>').and_then(|inner| inner.split_once('<'));
    let (name, address) = named.unwrap_or(("", text));
    if name.contains(|c: char| c.is_control() || c == '"') {
        return Err("The name holds a quote or a control character.".into());
    }
    bare(address).map(|()| address)
}

impl<'a> Addresses<'a> {
    fn list(&self) -> &[Text<'a>] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl Tag<'_> {
    fn check(&self) -> Result<(), String> {
        let ok = |text: &str| {
            (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        if ok(&self.name) && ok(&self.value) {
            return Ok(());
        }
        Err("Tags should only contain ASCII letters, numbers, underscores, or dashes.".into())
    }
}

#[derive(Serialize)]
struct Sent<'a> {
    id: &'a str,
}

pub fn accepted(message_id: &str) -> Reply {
    Reply::new(StatusCode::OK, JSON, serde_json::to_vec(&Sent { id: message_id }).unwrap_or_default())
}

/// The ids of those accepted, and the errors of the others by their index.
pub fn accepted_each(items: &[Item], message_ids: &MessageIds) -> Reply {
    #[derive(Serialize)]
    struct Batch<'a> {
        data: Vec<Sent<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        errors: Vec<Invalid<'a>>,
    }
    #[derive(Serialize)]
    struct Invalid<'a> {
        index: usize,
        message: &'a str,
    }
    let errors = items.iter().enumerate().filter_map(|(index, item)| match item {
        Item::Accepted { .. } => None,
        Item::Refused { reason } => Some(Invalid { index, message: reason }),
    });
    let batch = Batch { data: message_ids.iter().map(|id| Sent { id }).collect(), errors: errors.collect() };
    Reply::new(StatusCode::OK, JSON, serde_json::to_vec(&batch).unwrap_or_default())
}

/// The first request with this key is not answered yet.
pub fn concurrent() -> Reply {
    let message = "Another request with the same idempotency key is being processed. Try again later.";
    failure(StatusCode::CONFLICT, "concurrent_idempotent_requests", message)
}

/// The key was used for another body.
pub fn body_differs() -> Reply {
    let message = "This idempotency key has been used with a different request payload.";
    failure(StatusCode::CONFLICT, "invalid_idempotent_request", message)
}

/// The vendor's name for an error where the status alone says which.
pub fn name_for(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "missing_api_key",
        StatusCode::FORBIDDEN => "invalid_api_key",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::CONFLICT => "concurrent_idempotent_requests",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
        status if status.is_server_error() => "internal_server_error",
        _ => "validation_error",
    }
}

pub fn failure(status: StatusCode, name: &str, message: &str) -> Reply {
    #[derive(Serialize)]
    struct Failure<'a> {
        #[serde(rename = "statusCode")]
        status: u16,
        message: &'a str,
        name: &'a str,
    }
    let body = Failure { status: status.as_u16(), message, name };
    Reply::new(status, JSON, serde_json::to_vec(&body).unwrap_or_default())
}

fn invalid(reason: String) -> Refused {
    refused(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", reason)
}

fn refused(status: StatusCode, name: &str, reason: String) -> Refused {
    Refused { reply: failure(status, name, &reason), reason }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Vendor;
    use super::super::testing::{call, letter};
    use super::*;

    const HEADERS: [(&str, &str); 4] = [
        ("authorization", "Bearer test-key"),
        ("content-type", JSON),
        ("user-agent", "dripline/0"),
        ("idempotency-key", "key-1"),
    ];

    fn example() -> Value {
        json!({
            "from": "Acme <hello@acme.example>",
            "to": ["jane@example.com"],
            "reply_to": "help@acme.example",
            "subject": "Hello \"Jane\"",
            "html": "<p>Hello</p>",
            "text": "Hello",
            "headers": { "List-Unsubscribe": "<https://acme.example/u>" },
            "tags": [
                { "name": "send_key", "value": "key-1" },
                { "name": "lead_id", "value": "lead-1" },
                { "name": "sequence", "value": "nurture" },
                { "name": "step", "value": "welcome" }
            ]
        })
    }

    fn send_with(change: impl FnOnce(&mut Value)) -> Result<Letter, Refused> {
        let mut body = example();
        change(&mut body);
        call(Vendor::Resend, PATH, &HEADERS, &body.to_string(), |mut order| order.letters.remove(0))
    }

    #[test]
    fn a_documented_request_is_accepted() {
        assert_eq!(send_with(|_| {}).unwrap(), letter());
        assert_eq!(send_with(|body| body["to"] = json!("jane@example.com")).unwrap(), letter());
    }

    #[test]
    fn a_name_goes_without_quotes() {
        assert!(send_with(|body| body["from"] = json!("Acme, Inc. <hello@acme.example>")).is_ok());
        assert!(send_with(|body| body["from"] = json!("\"Acme, Inc.\" <hello@acme.example>")).is_err());
    }

    #[test]
    fn the_send_key_is_the_idempotency_key() {
        let key = call(Vendor::Resend, PATH, &HEADERS, &example().to_string(), |order| {
            order.idempotency.map(|idempotency| idempotency.key.to_owned())
        });
        assert_eq!(key.unwrap().as_deref(), Some("key-1"));
    }

    #[test]
    fn an_undocumented_request_is_refused() {
        type Change = fn(&mut Value);
        let cases: [(&str, &str, Change); 18] = [
            ("unknown field", "validation_error", |body| {
                body["replyTo"] = json!("a@b.cd");
            }),
            ("unknown field of a tag", "validation_error", |body| {
                body["tags"][0]["key"] = json!("x");
            }),
            ("tags as an object", "validation_error", |body| {
                body["tags"] = json!({ "send_key": "key-1" });
            }),
            ("headers as a list", "validation_error", |body| {
                body["headers"] = json!([["X-A", "b"]]);
            }),
            ("null", "validation_error", |body| body["text"] = Value::Null),
            ("from missing", "missing_required_field", |body| {
                drop(body.as_object_mut().unwrap().remove("from"));
            }),
            ("to missing", "missing_required_field", |body| {
                drop(body.as_object_mut().unwrap().remove("to"));
            }),
            ("subject missing", "missing_required_field", |body| {
                body.as_object_mut().unwrap().remove("subject");
            }),
            ("subject empty", "validation_error", |body| body["subject"] = json!(" ")),
            ("subject of two lines", "validation_error", |body| {
                body["subject"] = json!("a\nb");
            }),
            ("no body", "validation_error", |body| {
                body.as_object_mut().unwrap().retain(|name, _| name != "html" && name != "text");
            }),
            ("not an address", "validation_error", |body| {
                body["to"] = json!(["jane"]);
            }),
            ("no recipient", "validation_error", |body| body["to"] = json!([])),
            ("two recipients", "validation_error", |body| {
                body["to"] = json!(["a@b.cd", "e@f.gh"]);
            }),
            ("no tags", "validation_error", |body| body["tags"] = json!([])),
            ("a tag with a dot", "validation_error", |body| {
                body["tags"][2]["value"] = json!("a.b");
            }),
            ("another send key", "invalid_idempotency_key", |body| {
                body["tags"][0]["value"] = json!("key-2");
            }),
            ("header injection", "validation_error", |body| {
                body["headers"]["X-A"] = json!("a\r\nBcc: b@c.de");
            }),
        ];
        for (case, name, change) in cases {
            let refused = send_with(change).expect_err(case);
            let body: Value = serde_json::from_str(refused.reply.body()).unwrap();
            assert_eq!(body["name"], name, "{case}: {body}");
            assert_eq!(body["statusCode"], refused.reply.status(), "{case}");
        }
    }

    fn batch(emails: &[Value], validation: Option<&str>) -> Result<(usize, Vec<Item>), Refused> {
        let mut headers = HEADERS.to_vec();
        headers.extend(validation.map(|validation| ("x-batch-validation", validation)));
        let body = Value::from(emails).to_string();
        call(Vendor::Resend, BATCH_PATH, &headers, &body, |order| (order.letters.len(), order.batch.unwrap()))
    }

    #[test]
    fn a_permissive_batch_refuses_only_what_is_wrong() {
        let (mut wrong, mut mistyped, mut scheduled) = (example(), example(), example());
        wrong["to"] = json!(["jane"]);
        mistyped["replyTo"] = json!("a@b.cd");
        scheduled["scheduled_at"] = json!("in 1 min");
        let (letters, items) = batch(&[wrong, example(), mistyped, scheduled], Some("permissive")).unwrap();
        assert_eq!((letters, items.len()), (1, 4));
        let reply = accepted_each(&items, &["id-0".into()].into());
        let body: Value = serde_json::from_str(reply.body()).unwrap();
        assert_eq!(body["data"], json!([{ "id": "id-0" }]));
        let indices: Vec<_> = body["errors"].as_array().unwrap().iter().map(|error| error["index"].clone()).collect();
        assert_eq!(indices, [0, 2, 3]);
    }

    #[test]
    fn a_strict_batch_is_refused_for_one_that_is_wrong() {
        let mut wrong = example();
        wrong["to"] = json!(["jane"]);
        for validation in [None, Some("strict")] {
            assert!(batch(&[example(), wrong.clone()], validation).is_err());
            let (letters, items) = batch(&[example(), example()], validation).unwrap();
            assert_eq!(letters, 2);
            let reply = accepted_each(&items, &["a".into(), "b".into()].into());
            assert_eq!(reply.body(), r#"{"data":[{"id":"a"},{"id":"b"}]}"#);
        }
    }

    #[test]
    fn a_batch_that_is_none_is_refused() {
        assert!(batch(&[], Some("permissive")).is_err());
        assert!(batch(&vec![example(); 101], Some("permissive")).is_err());
        assert!(batch(&[example()], Some("lenient")).is_err());
        let one = call(Vendor::Resend, BATCH_PATH, &HEADERS, &example().to_string(), |_| ());
        assert_eq!(one.unwrap_err().reply.status(), 422);
        let without_key = call(Vendor::Resend, BATCH_PATH, &HEADERS[..3], &json!([example()]).to_string(), |_| ());
        assert!(without_key.unwrap_err().reply.body().contains("invalid_idempotency_key"));
    }

    #[test]
    fn wrong_headers_are_refused() {
        let body = example().to_string();
        let long = "x".repeat(257);
        let without = |name: &str| HEADERS.into_iter().filter(|(header, _)| *header != name).collect::<Vec<_>>();
        let with = |name, value| [without(name), vec![(name, value)]].concat();
        for (headers, status, word) in [
            (without("user-agent"), 403, "1010"),
            (without("authorization"), 401, "missing_api_key"),
            (with("authorization", "Bearer other"), 403, "invalid_api_key"),
            (without("content-type"), 422, "Content-Type"),
            (without("idempotency-key"), 400, "invalid_idempotency_key"),
            (with("idempotency-key", &long), 400, "invalid_idempotency_key"),
        ] {
            let refused = call(Vendor::Resend, PATH, &headers, &body, |_| ()).unwrap_err();
            assert_eq!(refused.reply.status(), status, "{word}");
            assert!(refused.reply.body().contains(word), "{word}: {}", refused.reply.body());
        }
    }
}
