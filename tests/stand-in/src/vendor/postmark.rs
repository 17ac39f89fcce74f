//! Postmark, `POST /email`, `POST /email/batch` and `GET /messages/outbound`.
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Call, Caller, Item, JSON, Letter, Order, Refused, Reply, Search, Tags};
use crate::address::{header, mailbox, subject};
use crate::json::{self, Text, Texts, Unreadable, present};
use crate::ledger::{Accepted, MessageIds};

pub const PATH: &str = "/email";
pub const BATCH_PATH: &str = "/email/batch";
pub const SEARCH_PATH: &str = "/messages/outbound";

/// Most emails and most bytes of a batch.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 50_000_000;

/// The stream of an email, and of a look-up, that names none.
const DEFAULT_STREAM: &str = "outbound";

const SERVER_TOKEN: HeaderName = HeaderName::from_static("x-postmark-server-token");

/// The vendor's error codes.
const BAD_TOKEN: u16 = 10;
const INVALID_EMAIL_REQUEST: u16 = 300;
const INVALID_JSON: u16 = 402;
const INCOMPATIBLE_JSON: u16 = 403;
const JSON_REQUIRED: u16 = 409;
const TOO_MANY_BATCH_MESSAGES: u16 = 410;
const INVALID_QUERY: u16 = 600;

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
    authorise(call)?;
    if !call.is(JSON) {
        return Err(not_json());
    }
    if call.path == BATCH_PATH {
        return read_batch(call.body);
    }
    let mail: Mail = parse(call.body)?;
    let letter = mail.letter().map_err(|why| unprocessable(INVALID_EMAIL_REQUEST, why))?;
    Ok(Order::of(vec![letter]))
}

fn read_batch<'a>(body: &[u8]) -> Result<Order<'a>, Refused> {
    if body.len() > BATCH_BYTES {
        let reason = "A batch has 50 MB at most.".to_owned();
        return Err(refused(StatusCode::PAYLOAD_TOO_LARGE, INVALID_EMAIL_REQUEST, reason));
    }
    let mails: Vec<Mail> = parse(body)?;
    if mails.is_empty() || mails.len() > BATCH {
        let reason = format!("A batch has 1 to {BATCH} messages.");
        return Err(unprocessable(TOO_MANY_BATCH_MESSAGES, reason));
    }
    Ok(Order::of_many(mails.iter().map(Mail::letter)))
}

fn authorise(call: &Call<'_>) -> Result<(), Refused> {
    let message = match call.token(&SERVER_TOKEN) {
        Caller::Known if call.text(&ACCEPT) == Some(JSON) => return Ok(()),
        Caller::Known => return Err(not_json()),
        Caller::Anonymous => {
            "No Account or Server API tokens were supplied in the HTTP headers. Please add a header for either \
             X-Postmark-Server-Token or X-Postmark-Account-Token."
        }
        Caller::Unknown => "Request does not contain a valid Server token.",
    };
    Err(refused(StatusCode::UNAUTHORIZED, BAD_TOKEN, message.into()))
}

fn not_json() -> Refused {
    let message = "Your HTTP request does not have the Accept and Content-Type headers set to application/json.";
    refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, JSON_REQUIRED, message.into())
}

fn parse<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Refused> {
    json::read(body).map_err(|unreadable| match unreadable {
        Unreadable::Malformed(why) => unprocessable(INVALID_JSON, format!("Invalid JSON: {why}")),
        Unreadable::Mistyped(why) => unprocessable(INCOMPATIBLE_JSON, format!("Invalid request field(s) - {why}")),
    })
}

/// Of the documented filters, only the metadata `send_key` and the message stream.
pub fn search<'a>(call: &Call<'a>) -> Result<Search<'a>, Refused> {
    authorise(call)?;
    let mut search = Search { via: DEFAULT_STREAM.into(), ..Search::default() };
    let (mut count, mut offset) = (None, None);
    for (name, value) in form_urlencoded::parse(call.query.as_bytes()) {
        match &*name {
            "count" => count = value.parse().ok().filter(|count| (1..=500).contains(count)),
            "offset" => offset = value.parse().ok().filter(|offset| *offset < 10_000),
            "messagestream" => search.via = value,
            "metadata_send_key" => search.send_key = Some(value),
            _ => return Err(unprocessable(INVALID_QUERY, format!("The stand-in has no filter '{name}'."))),
        }
    }
    let (Some(most), Some(skip)) = (count, offset) else {
        return Err(unprocessable(INVALID_QUERY, "count (1 to 500) and offset (below 10,000) are required.".into()));
    };
    Ok(Search { skip, most, ..search })
}

pub fn found(search: &Search<'_>, found: &[Arc<Accepted>]) -> Reply {
    let messages: Vec<_> = found.iter().rev().skip(search.skip).take(search.most).map(|email| message(email)).collect();
    let body = json!({ "TotalCount": found.len(), "Messages": messages });
    Reply::new(StatusCode::OK, JSON, body.to_string())
}

fn message(email: &Accepted) -> Value {
    json!({
        "Tag": email.sequence,
        "MessageID": email.message_id,
        "MessageStream": email.via,
        "To": [{ "Email": email.to, "Name": null }],
        "Cc": [],
        "Bcc": [],
        "Recipients": [email.to],
        "ReceivedAt": time(email.at),
        "Subject": email.subject,
        "Attachments": [],
        "Status": "Sent",
        "Metadata": {
            "send_key": email.send_key,
            "lead_id": email.lead_id,
            "sequence": email.sequence,
            "step": email.step
        }
    })
}

fn time(at: u64) -> Timestamp {
    i64::try_from(at).ok().and_then(|at| Timestamp::from_millisecond(at).ok()).unwrap_or_default()
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
        let via = self.message_stream.as_deref().unwrap_or(DEFAULT_STREAM).into();
        let unsubscribe = self.headers.iter().find(|header| header.name.eq_ignore_ascii_case("List-Unsubscribe"));
        let unsubscribe = unsubscribe.map(|header| Box::from(&*header.value)).unwrap_or_default();
        Ok(Letter { via, unsubscribe, ..Tags::find("Metadata.", get)?.letter(to, &self.subject) })
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

impl<'a> Sent<'a> {
    fn new(message_id: &'a str, to: &'a str, at: u64) -> Self {
        Self { to, submitted_at: time(at), message_id, error_code: 0, message: "OK" }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Failure<'a> {
    error_code: u16,
    message: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer<'a> {
    Sent(Sent<'a>),
    Failure(Failure<'a>),
}

pub fn accepted(message_id: &str, to: &str, at: u64) -> Reply {
    Reply::new(StatusCode::OK, JSON, serde_json::to_vec(&Sent::new(message_id, to, at)).unwrap_or_default())
}

/// In the order of the emails, whatever became of each.
pub fn accepted_each(items: &[Item], message_ids: &MessageIds, at: u64) -> Reply {
    let mut ids = message_ids.iter();
    let results = items.iter().map(|item| match item {
        Item::Accepted { to } => Answer::Sent(Sent::new(ids.next().map_or("", |id| id), to, at)),
        Item::Refused { reason } => Answer::Failure(Failure { error_code: INVALID_EMAIL_REQUEST, message: reason }),
    });
    let results: Vec<_> = results.collect();
    Reply::new(StatusCode::OK, JSON, serde_json::to_vec(&results).unwrap_or_default())
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
    use super::super::testing::{self, call, letter, with_call};
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
    fn the_header_by_which_a_person_unsubscribes_is_kept() {
        let link = "<https://acme.example/u>";
        let with_link = |body: &mut Value| body["Headers"] = json!([{ "Name": "List-Unsubscribe", "Value": link }]);
        assert_eq!(&*send_with(with_link).unwrap().unsubscribe, link);
    }

    #[test]
    fn a_documented_request_is_accepted() {
        assert_eq!(send_with(|_| {}).unwrap(), Letter { via: "broadcast".into(), ..letter() });
        let without_stream = |body: &mut Value| drop(body.as_object_mut().unwrap().remove("MessageStream"));
        assert_eq!(&*send_with(without_stream).unwrap().via, "outbound");
    }

    #[test]
    fn a_batch_refuses_only_what_is_wrong_with_each() {
        let mut wrong = example();
        wrong["To"] = json!("jane");
        let body = json!([example(), wrong, example()]).to_string();
        let order = call(Vendor::Postmark, BATCH_PATH, &HEADERS, &body, |order| (order.letters.len(), order.batch));
        let (letters, items) = order.unwrap();
        let items = items.unwrap();
        assert_eq!((letters, items.len()), (2, 3));

        let ids = ["id-0".into(), "id-1".into()].into();
        let reply = accepted_each(&items, &ids, 1_700_000_000_000);
        let results: Vec<Value> = serde_json::from_str(reply.body()).unwrap();
        let told: Vec<_> =
            results.iter().map(|result| (result["ErrorCode"].clone(), result["MessageID"].clone())).collect();
        assert_eq!(told, [(json!(0), json!("id-0")), (json!(300), Value::Null), (json!(0), json!("id-1"))]);
    }

    #[test]
    fn a_batch_that_is_none_is_refused() {
        let many = Value::Array(vec![example(); 501]);
        for (body, code) in [(example(), 403), (json!([]), 410), (many, 410), (json!([{ "From": "x" }]), 403)] {
            let refused = call(Vendor::Postmark, BATCH_PATH, &HEADERS, &body.to_string(), |_| ()).unwrap_err();
            assert_eq!(refused.reply.status(), 422);
            assert!(refused.reply.body().contains(&code.to_string()), "{code}: {}", refused.reply.body());
        }
    }

    #[test]
    fn a_look_up_finds_by_stream_and_send_key() {
        let path = "/messages/outbound?count=10&offset=0&messagestream=broadcast&metadata_send_key=key-1";
        let email = testing::accepted(Vendor::Postmark, "broadcast", "id-1");
        with_call(path, &HEADERS, "", |call| {
            let search = search(call).unwrap();
            assert!(search.wants(&email));
            assert!(!search.wants(&testing::accepted(Vendor::Postmark, "outbound", "id-1")));
            let body: Value = serde_json::from_str(found(&search, &[email]).body()).unwrap();
            assert_eq!(body["TotalCount"], 1);
            assert_eq!(body["Messages"][0]["MessageID"], "id-1");
            assert_eq!(body["Messages"][0]["Metadata"]["send_key"], "key-1");
            assert_eq!(found(&search, &[]).body(), r#"{"TotalCount":0,"Messages":[]}"#);
        });
    }

    #[test]
    fn an_undocumented_look_up_is_refused() {
        for (query, headers, status) in [
            ("count=1&offset=0", &HEADERS[1..], 401),
            ("count=1&offset=0", &HEADERS[..1], 415),
            ("count=1", &HEADERS[..], 422),
            ("offset=0", &HEADERS[..], 422),
            ("count=501&offset=0", &HEADERS[..], 422),
            ("count=1&offset=0&metadata=key-1", &HEADERS[..], 422),
        ] {
            let refused = with_call(&format!("{SEARCH_PATH}?{query}"), headers, "", |call| search(call).unwrap_err());
            assert_eq!(refused.reply.status(), status, "{query}");
        }
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
