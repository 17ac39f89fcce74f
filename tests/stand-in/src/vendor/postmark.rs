//! Postmark, `POST /email`.
use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Call, Caller, JSON, Letter, Order, Refused, Reply, Tags};
use crate::address::{header, mailbox, subject};
use crate::json::{self, Text, Texts, Unreadable, present};

pub const PATH: &str = "/email";

const SERVER_TOKEN: HeaderName = HeaderName::from_static("x-postmark-server-token");

/// The vendor's error codes.
const BAD_TOKEN: u16 = 10;
const INVALID_EMAIL_REQUEST: u16 = 300;
const INVALID_JSON: u16 = 402;
const INCOMPATIBLE_JSON: u16 = 403;
const JSON_REQUIRED: u16 = 409;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Mail<'a> {
    #[serde(borrow)]
    from: Text<'a>,
    to: Text<'a>,
    #[serde(default, deserialize_with = "present")]
    cc: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present")]
    bcc: Option<Text<'a>>,
    subject: Text<'a>,
    #[serde(default, deserialize_with = "present")]
    tag: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present")]
    html_body: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present")]
    text_body: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present")]
    reply_to: Option<Text<'a>>,
    #[serde(default)]
    headers: Vec<Header<'a>>,
    #[serde(default, deserialize_with = "present", rename = "TrackOpens")]
    _track_opens: Option<bool>,
    #[serde(default, deserialize_with = "present", rename = "TrackLinks")]
    _track_links: Option<TrackLinks>,
    #[serde(default)]
    metadata: Texts<'a>,
    #[serde(default, rename = "Attachments")]
    _attachments: Vec<Attachment<'a>>,
    #[serde(default, deserialize_with = "present")]
    message_stream: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Header<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    value: Text<'a>,
}

#[derive(Deserialize)]
enum TrackLinks {
    None,
    HtmlAndText,
    HtmlOnly,
    TextOnly,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Attachment<'a> {
    #[serde(borrow, rename = "Name")]
    _name: Text<'a>,
    #[serde(rename = "Content")]
    _content: Text<'a>,
    #[serde(rename = "ContentType")]
    _content_type: Text<'a>,
    #[serde(default, deserialize_with = "present", rename = "ContentID")]
    _content_id: Option<Text<'a>>,
}

pub fn read<'a>(call: &Call<'a>) -> Result<Order<'a>, Refused> {
    match call.token(&SERVER_TOKEN) {
        Caller::Known => {}
        Caller::Anonymous => {
            let message = "No Account or Server API tokens were supplied in the HTTP headers. Please add a header for \
                           either X-Postmark-Server-Token or X-Postmark-Account-Token.";
            return Err(refused(StatusCode::UNAUTHORIZED, BAD_TOKEN, message.into()));
        }
        Caller::Unknown => {
            let message = "Request does not contain a valid Server token.";
            return Err(refused(StatusCode::UNAUTHORIZED, BAD_TOKEN, message.into()));
        }
    }
    if !call.is(JSON) || call.text(&ACCEPT) != Some(JSON) {
        let message = "Your HTTP request does not have the Accept and Content-Type headers set to application/json.";
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, JSON_REQUIRED, message.into()));
    }
    let mail: Mail = json::read(call.body).map_err(|unreadable| match unreadable {
        Unreadable::Malformed(why) => unprocessable(INVALID_JSON, format!("Invalid JSON: {why}")),
        Unreadable::Mistyped(why) => unprocessable(INCOMPATIBLE_JSON, format!("Invalid request field(s) - {why}")),
    })?;
    let letter = mail.letter().map_err(|why| unprocessable(INVALID_EMAIL_REQUEST, why))?;
    Ok(Order::of(vec![letter]))
}

impl Mail<'_> {
    fn letter(&self) -> Result<Letter, String> {
        let address = |field: &str, text| mailbox(text).map_err(|why| format!("Invalid '{field}' address: {why}"));
        address("From", &self.from)?;
        let to = address("To", &self.to)?;
        for (field, text) in [("Cc", &self.cc), ("Bcc", &self.bcc), ("ReplyTo", &self.reply_to)] {
            text.as_ref().map(|text| address(field, text)).transpose()?;
        }
        subject(&self.subject)?;
        if [&self.html_body, &self.text_body].iter().all(|body| body.as_ref().is_none_or(|body| body.is_empty())) {
            return Err("Provide either email TextBody or HtmlBody or both.".into());
        }
        self.headers.iter().try_for_each(|field| header(&field.name, &field.value))?;
        if self.tag.as_ref().is_some_and(|tag| tag.chars().count() > 1_000) {
            return Err("A tag has 1,000 characters at most.".into());
        }
        if self.message_stream.as_ref().is_some_and(|stream| stream.is_empty()) {
            return Err("The 'MessageStream' provided does not exist on this server.".into());
        }
        self.check_metadata()?;
        let get = |name: &str| self.metadata.get(name).map(|value| &**value);
        Ok(Tags::find("Metadata.", get)?.letter(to, &self.subject))
    }

    fn check_metadata(&self) -> Result<(), String> {
        if self.metadata.len() > 10 {
            return Err("Metadata has 10 fields at most.".into());
        }
        self.metadata.iter().try_for_each(|(name, value)| check_metadata_field(name, value))
    }
}

fn check_metadata_field(name: &str, value: &str) -> Result<(), String> {
    let name_ok = name.len() <= 20 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if name_ok && value.chars().count() <= 80 {
        return Ok(());
    }
    Err(format!("Metadata.{name}: a name has 20 characters at most, a value 80."))
}

pub fn accepted(message_id: &str, to: &str, at: u64) -> Reply {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Sent<'a> {
        to: &'a str,
        submitted_at: Timestamp,
        #[serde(rename = "MessageID")]
        message_id: &'a str,
        error_code: u16,
        message: &'a str,
    }
    let submitted_at = i64::try_from(at).ok().and_then(|at| Timestamp::from_millisecond(at).ok()).unwrap_or_default();
    let body = Sent { to, submitted_at, message_id, error_code: 0, message: "OK" };
    Reply::new(StatusCode::OK, JSON, serde_json::to_vec(&body).unwrap_or_default())
}

/// The vendor's code where the status alone says which.
pub fn code_for(status: StatusCode) -> u16 {
    match status {
        StatusCode::UNAUTHORIZED => BAD_TOKEN,
        StatusCode::TOO_MANY_REQUESTS => 429,
        StatusCode::SERVICE_UNAVAILABLE => 100,
        _ => INVALID_EMAIL_REQUEST,
    }
}

pub fn failure(status: StatusCode, error_code: u16, message: &str) -> Reply {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Failure<'a> {
        error_code: u16,
        message: &'a str,
    }
    Reply::new(status, JSON, serde_json::to_vec(&Failure { error_code, message }).unwrap_or_default())
}

fn unprocessable(code: u16, reason: String) -> Refused {
    refused(StatusCode::UNPROCESSABLE_ENTITY, code, reason)
}

fn refused(status: StatusCode, code: u16, reason: String) -> Refused {
    Refused { reply: failure(status, code, &reason), reason }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Vendor;
    use super::super::testing::{call, letter};
    use super::*;

    const HEADERS: [(&str, &str); 3] =
        [("x-postmark-server-token", "test-key"), ("accept", JSON), ("content-type", JSON)];

    fn example() -> Value {
        json!({
            "From": "Acme <hello@acme.example>",
            "To": "Jane <jane@example.com>",
            "ReplyTo": "help@acme.example",
            "Subject": "Hello \"Jane\"",
            "HtmlBody": "<p>Hello</p>",
            "TextBody": "Hello",
            "Headers": [{ "Name": "Message-ID", "Value": "<key-1@acme.example>" }],
            "Metadata": { "send_key": "key-1", "lead_id": "lead-1", "sequence": "nurture", "step": "welcome" },
            "Tag": "nurture",
            "TrackLinks": "None",
            "MessageStream": "broadcast"
        })
    }

    fn send_with(change: impl FnOnce(&mut Value)) -> Result<Letter, Refused> {
        let mut body = example();
        change(&mut body);
        call(Vendor::Postmark, PATH, &HEADERS, &body.to_string(), |mut order| order.letters.remove(0))
    }

    #[test]
    fn a_documented_request_is_accepted() {
        assert_eq!(send_with(|_| {}).unwrap(), letter());
    }

    #[test]
    fn the_answer_has_the_vendors_form() {
        let reply = accepted("id-1", "jane@example.com", 1_700_000_000_000);
        assert_eq!(
            serde_json::from_str::<Value>(reply.body()).unwrap(),
            json!({
                "To": "jane@example.com",
                "SubmittedAt": "2023-11-14T22:13:20Z",
                "MessageID": "id-1",
                "ErrorCode": 0,
                "Message": "OK"
            })
        );
    }

    #[test]
    fn an_undocumented_request_is_refused() {
        type Change = fn(&mut Value);
        let cases: [(&str, u16, Change); 17] = [
            ("unknown field", 403, |body| body["Html"] = json!("x")),
            ("field in lower case", 403, |body| body["subject"] = json!("x")),
            ("unknown field of a header", 403, |body| {
                body["Headers"][0]["Type"] = json!("x");
            }),
            ("headers as an object", 403, |body| {
                body["Headers"] = json!({ "X-A": "b" });
            }),
            ("null", 403, |body| body["Tag"] = Value::Null),
            ("from missing", 403, |body| {
                drop(body.as_object_mut().unwrap().remove("From"));
            }),
            ("to missing", 403, |body| {
                drop(body.as_object_mut().unwrap().remove("To"));
            }),
            ("to as a list", 403, |body| body["To"] = json!(["jane@example.com"])),
            ("metadata not strings", 403, |body| body["Metadata"]["step"] = json!(1)),
            ("track links", 403, |body| body["TrackLinks"] = json!("Some")),
            ("subject empty", 300, |body| body["Subject"] = json!("")),
            ("subject of two lines", 300, |body| body["Subject"] = json!("a\r\nb")),
            ("no body", 300, |body| {
                body["TextBody"] = json!("");
                body["HtmlBody"] = json!("");
            }),
            ("not an address", 300, |body| body["To"] = json!("jane")),
            ("two addresses", 300, |body| body["To"] = json!("a@b.cd,e@f.gh")),
            ("no send key", 300, |body| body["Metadata"] = json!({ "lead_id": "x" })),
            ("metadata too long", 300, |body| {
                body["Metadata"]["send_key"] = json!("x".repeat(81));
            }),
        ];
        for (case, code, change) in cases {
            let refused = send_with(change).expect_err(case);
            assert_eq!(refused.reply.status(), 422, "{case}");
            let body: Value = serde_json::from_str(refused.reply.body()).unwrap();
            assert_eq!(body["ErrorCode"], code, "{case}: {body}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let refused = call(Vendor::Postmark, PATH, &HEADERS, "{", |_| ()).unwrap_err();
        assert_eq!(refused.reply.status(), 422);
        assert!(refused.reply.body().contains("402"));
    }

    #[test]
    fn a_wrong_token_or_media_type_is_refused() {
        let body = example().to_string();
        for (headers, status) in [
            (vec![HEADERS[1], HEADERS[2]], 401),
            (vec![("x-postmark-server-token", "other"), HEADERS[1], HEADERS[2]], 401),
            (vec![HEADERS[0], HEADERS[1]], 415),
            (vec![HEADERS[0], HEADERS[2]], 415),
            (vec![HEADERS[0], ("accept", "*/*"), HEADERS[2]], 415),
        ] {
            let refused = call(Vendor::Postmark, PATH, &headers, &body, |_| ()).unwrap_err();
            assert_eq!(refused.reply.status(), status, "{headers:?}");
        }
    }
}
