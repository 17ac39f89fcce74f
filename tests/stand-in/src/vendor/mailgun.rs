//! Mailgun, Messages v3, as a URL-encoded form; and the events of a domain.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::StatusCode;
use hyper::header::HOST;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Call, Caller, JSON, Letter, Order, Refused, Reply, Search, Tags};
use crate::address::{header, mailbox, subject};
use crate::ledger::Accepted;

const FORM: &str = "application/x-www-form-urlencoded";

/// Documented fields that may stand there once, as do all `h:` and `v:` ones. `attachment` and `inline` need multipart, and are not among them.
const SINGLE: [&str; 27] = [
    "from",
    "recipient-variables",
    "subject",
    "text",
    "html",
    "amp-html",
    "template",
    "t:version",
    "t:text",
    "t:variables",
    "o:dkim",
    "o:secondary-dkim",
    "o:secondary-dkim-public",
    "o:deliverytime",
    "o:deliverytime-optimize-period",
    "o:time-zone-localize",
    "o:testmode",
    "o:tracking",
    "o:tracking-clicks",
    "o:tracking-opens",
    "o:tracking-pixel-location-top",
    "o:require-tls",
    "o:skip-verification",
    "o:sending-ip",
    "o:sending-ip-pool",
    "o:archive-to",
    "o:suppress-headers",
];

/// Documented fields that may stand there more than once.
const REPEATED: [&str; 4] = ["to", "cc", "bcc", "o:tag"];

/// Fields that switch something.
const SWITCHES: [&str; 9] = [
    "o:dkim",
    "o:testmode",
    "o:tracking",
    "o:tracking-clicks",
    "o:tracking-opens",
    "o:tracking-pixel-location-top",
    "o:require-tls",
    "o:skip-verification",
    "t:text",
];

/// Most recipients of one call.
const BATCH: usize = 1_000;

/// All `o:`, `h:`, `v:` and `t:` fields together may have so many bytes.
const OPTIONS_LIMIT: usize = 16 * 1024;

struct Form<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// The sending domain, if this is the path of the send call.
pub fn domain(path: &str) -> Option<&str> {
    let domain = path.strip_prefix("/v3/")?.strip_suffix("/messages")?;
    (domain.contains('.') && !domain.contains('/')).then_some(domain)
}

/// The domain, if this is the path of its events or of a further page of them.
pub fn events_domain(path: &str) -> Option<&str> {
    let (domain, events) = path.strip_prefix("/v3/")?.split_once('/')?;
    let page = events.strip_prefix("events")?;
    (domain.contains('.') && (page.is_empty() || page.starts_with('/'))).then_some(domain)
}

pub fn read<'a>(call: &Call<'a>) -> Result<Order<'a>, Refused> {
    if call.basic() != Caller::Known {
        return Err(Refused { reason: "not the user api with the key".into(), reply: forbidden() });
    }
    if !call.is(FORM) {
        return Err(refused("the body must be a URL-encoded form".into()));
    }
    let form = Form(form_urlencoded::parse(call.body).collect());
    let domain = domain(call.path);
    let mut letters = form.check().and_then(|()| form.letters()).map_err(refused)?;
    for letter in &mut letters {
        letter.via = domain.unwrap_or_default().into();
    }
    let test_only = form.one("o:testmode").is_some_and(is_on);
    let message_id = form.header("Message-Id").map(Into::into);
    Ok(Order { domain, message_id, test_only, ..Order::of(letters) })
}

impl Form<'_> {
    fn one(&self, wanted: &str) -> Option<&str> {
        self.0.iter().find_map(|(name, value)| (name == wanted).then_some(&**value))
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        let is_it = |name: &str| name.strip_prefix("h:").is_some_and(|name| name.eq_ignore_ascii_case(wanted));
        self.0.iter().find_map(|(name, value)| is_it(name).then_some(&**value))
    }

    fn required(&self, name: &str) -> Result<&str, String> {
        self.one(name).filter(|value| !value.is_empty()).ok_or_else(|| format!("{name} parameter is missing"))
    }

    fn check(&self) -> Result<(), String> {
        for (index, (name, value)) in self.0.iter().enumerate() {
            check_field(name, value)?;
            let repeats = self.0[..index].iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(name));
            if repeats && !REPEATED.contains(&&**name) {
                return Err(format!("{name} parameter stands there twice"));
            }
        }
        let options = self.0.iter().filter(|(name, _)| name.as_bytes().get(1) == Some(&b':'));
        if options.map(|(name, value)| name.len() + value.len()).sum::<usize>() > OPTIONS_LIMIT {
            return Err("Send options (parameters starting with o:, h:, v:, or t:) are limited to 16KB total".into());
        }
        Ok(())
    }

    /// One, or one for each recipient where they have variables.
    fn letters(&self) -> Result<Vec<Letter>, String> {
        let Some(variables) = self.one("recipient-variables") else { return Ok(vec![self.letter()?]) };
        let mut variables: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(variables)
            .map_err(|error| format!("recipient-variables are not texts by address and name ({error})"))?;
        let recipients: Vec<_> = self.0.iter().filter(|(name, _)| name == "to").map(|(_, to)| &**to).collect();
        if recipients.len() > BATCH {
            return Err(format!("more than {BATCH} recipients"));
        }
        if self.header("Message-Id").is_some() {
            return Err("one Message-Id for many emails, or one with variables: nowhere documented".into());
        }
        let letter = |to| {
            let address = mailbox(to).map_err(|why| not_an_address("to", &why))?;
            let own =
                variables.remove(address).ok_or_else(|| format!("no variables, or not two sets, for {address}"))?;
            let of_one = self.for_recipient(to, &own)?;
            of_one.check().and_then(|()| of_one.letter())
        };
        let letters = recipients.into_iter().map(letter).collect::<Result<Vec<_>, _>>()?;
        match variables.keys().next() {
            Some(address) => Err(format!("variables for {address}, which is no recipient")),
            None => Ok(letters),
        }
    }

    /// As this recipient gets it.
    fn for_recipient<'a>(&'a self, to: &'a str, own: &BTreeMap<String, String>) -> Result<Form<'a>, String> {
        let others = self.0.iter().filter(|(name, _)| name != "to" && name != "recipient-variables");
        let filled = others.map(|(name, value)| Ok((Cow::Borrowed(&**name), Cow::Owned(fill_in(value, own)?))));
        let to = Ok((Cow::Borrowed("to"), Cow::Borrowed(to)));
        std::iter::once(to).chain(filled).collect::<Result<_, String>>().map(Form)
    }

    fn letter(&self) -> Result<Letter, String> {
        let address = |name: &str, value| mailbox(value).map_err(|why| not_an_address(name, &why));
        address("from", self.required("from")?)?;
        let to = address("to", self.required("to")?)?;
        if self.0.iter().filter(|(name, _)| name == "to").count() > 1 {
            return Err("several to parameters would show every recipient all addresses".into());
        }
        let line = self.required("subject")?;
        subject(line)?;
        if !["text", "html", "amp-html", "template"].iter().any(|name| self.required(name).is_ok()) {
            return Err("Need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified".into());
        }
        let tags = Tags::find("v:", |name| self.one(&format!("v:{name}")))?;
        Ok(tags.letter(to, line))
    }
}

fn not_an_address(name: &str, why: &str) -> String {
    format!("'{name}' parameter is not a valid address. please check documentation ({why})")
}

/// With this recipient's variables in their places.
fn fill_in(text: &str, own: &BTreeMap<String, String>) -> Result<String, String> {
    let mut parts = text.split("%recipient.");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('%').ok_or("a place for a variable that does not end")?;
        filled += own.get(name).ok_or_else(|| format!("a recipient without a variable {name}"))?;
        filled += rest;
    }
    Ok(filled)
}

fn check_field(name: &str, value: &str) -> Result<(), String> {
    if let Some(variable) = name.strip_prefix("v:") {
        return if variable.is_empty() { Err("a variable has no name".into()) } else { Ok(()) };
    }
    if let Some(field) = name.strip_prefix("h:") {
        return header(field, value);
    }
    if !SINGLE.contains(&name) && !REPEATED.contains(&name) {
        return Err(format!("{name} is not a documented parameter"));
    }
    if matches!(name, "cc" | "bcc") {
        mailbox(value)?;
    }
    let switch = is_on(value) || matches!(value, "no" | "false" | "htmlonly");
    if SWITCHES.contains(&name) && !switch {
        return Err(format!("{name} parameter is neither yes nor no"));
    }
    if name == "o:tag" && (value.is_empty() || value.len() > 128 || !value.is_ascii()) {
        return Err("a tag has 1 to 128 ASCII characters".into());
    }
    Ok(())
}

fn is_on(value: &str) -> bool {
    matches!(value, "yes" | "true")
}

/// `<time.random@domain>`, for an email that brings no `Message-Id` of its own.
pub fn message_id(random: u128, at: u64, domain: Option<&str>) -> String {
    let at = i64::try_from(at).ok().and_then(|at| Timestamp::from_millisecond(at).ok()).unwrap_or_default();
    let at = at.strftime("%Y%m%d%H%M%S");
    format!("<{at}.{:016x}@{}>", random >> 64, domain.unwrap_or("mailgun.example"))
}

/// Of the documented filters, only the recipient; and only from older to newer.
pub fn search<'a>(call: &Call<'a>) -> Result<Search<'a>, Refused> {
    if call.basic() != Caller::Known {
        return Err(Refused { reason: "not the user api with the key".into(), reply: forbidden() });
    }
    let domain = events_domain(call.path).unwrap_or_default();
    let mut search = Search { via: domain.into(), most: 100, ..Search::default() };
    let (mut begin, mut ascending) = (None, false);
    let query = further_page(call.path).unwrap_or_else(|| call.query.into());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "begin" => begin = value.parse::<u64>().ok(),
            "ascending" => ascending = value == "yes",
            "limit" => search.most = value.parse().ok().filter(|limit| (1..=300).contains(limit)).unwrap_or_default(),
            "recipient" => search.recipient = Some(value.into_owned().into()),
            "skip" if call.query.is_empty() => search.skip = value.parse().unwrap_or_default(),
            _ => return Err(refused(format!("{name} is not a parameter that the stand-in knows"))),
        }
    }
    match begin {
        Some(begin) if ascending && search.most > 0 => Ok(Search { since: begin * 1_000, ..search }),
        _ => Err(refused("begin (seconds), ascending=yes and a limit up to 300 are required".into())),
    }
}

/// The query of a further page: its path ends in it, encoded.
fn further_page(path: &str) -> Option<String> {
    let (_, page) = path.split_once("/events/")?;
    String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(page).ok()?).ok()
}

/// A page of events, two for each email: it was accepted, and it was delivered.
pub fn found(call: &Call<'_>, search: &Search<'_>, found: &[Arc<Accepted>]) -> Reply {
    let events = found.iter().flat_map(|email| ["accepted", "delivered"].map(|kind| event(email, kind)));
    let items: Vec<_> = events.skip(search.skip).take(search.most).collect();
    let next = form_urlencoded::Serializer::new(String::new())
        .append_pair("begin", &(search.since / 1_000).to_string())
        .append_pair("ascending", "yes")
        .append_pair("limit", &search.most.to_string())
        .extend_pairs(search.recipient.iter().map(|recipient| ("recipient", recipient)))
        .append_pair("skip", &(search.skip + items.len()).to_string())
        .finish();
    let (host, domain, page) = (call.text(&HOST).unwrap_or_default(), &search.via, BASE64_URL_SAFE_NO_PAD.encode(next));
    let next = format!("http://{host}/v3/{domain}/events/{page}");
    let body = json!({ "items": items, "paging": { "next": next } });
    Reply::new(StatusCode::OK, JSON, body.to_string())
}

fn event(email: &Accepted, kind: &str) -> Value {
    json!({
        "event": kind,
        "id": format!("{kind}-{}", email.send_key),
        "timestamp": email.at / 1_000,
        "recipient": email.to,
        "tags": [email.sequence],
        "message": { "headers": {
            "to": email.to,
            "message-id": email.message_id.trim_matches(['<', '>']),
            "subject": email.subject
        } },
        "user-variables": {
            "send_key": email.send_key,
            "lead_id": email.lead_id,
            "sequence": email.sequence,
            "step": email.step
        }
    })
}

pub fn accepted(message_id: &str) -> Reply {
    #[derive(Serialize)]
    struct Queued<'a> {
        id: &'a str,
        message: &'a str,
    }
    let body = Queued { id: message_id, message: "Queued. Thank you." };
    Reply::new(StatusCode::OK, JSON, serde_json::to_vec(&body).unwrap_or_default())
}

pub fn failure(status: StatusCode, message: &str) -> Reply {
    #[derive(Serialize)]
    struct Failure<'a> {
        message: &'a str,
    }
    if status == StatusCode::UNAUTHORIZED {
        return forbidden();
    }
    Reply::new(status, JSON, serde_json::to_vec(&Failure { message }).unwrap_or_default())
}

/// A wrong key gets a word, not JSON.
fn forbidden() -> Reply {
    Reply::new(StatusCode::UNAUTHORIZED, "text/plain; charset=utf-8", "Forbidden")
}

fn refused(reason: String) -> Refused {
    Refused { reply: failure(StatusCode::BAD_REQUEST, &reason), reason }
}

#[cfg(test)]
mod tests {
    use super::super::Vendor;
    use super::super::testing::{self, call, with_call};
    use super::*;

    const PATH: &str = "/v3/mg.acme.example/messages";
    /// The user `api` with the password `test-key`.
    const HEADERS: [(&str, &str); 2] = [("authorization", "Basic YXBpOnRlc3Qta2V5"), ("content-type", FORM)];

    const EXAMPLE: [(&str, &str); 13] = [
        ("from", "Acme <hello@acme.example>"),
        ("to", "jane@example.com"),
        ("subject", "Hello \"Jane\""),
        ("text", "Hello"),
        ("html", "<p>Hello</p>"),
        ("h:Message-Id", "<key-1@acme.example>"),
        ("h:List-Unsubscribe", "<https://acme.example/u>"),
        ("v:send_key", "key-1"),
        ("v:lead_id", "lead-1"),
        ("v:sequence", "nurture"),
        ("v:step", "welcome"),
        ("o:tag", "nurture"),
        ("o:tag", "welcome"),
    ];

    fn encode(form: &[(&str, &str)]) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
    }

    fn send(form: &[(&str, &str)]) -> Result<Letter, Refused> {
        call(Vendor::Mailgun, PATH, &HEADERS, &encode(form), |mut order| order.letters.remove(0))
    }

    fn letter() -> Letter {
        Letter { via: "mg.acme.example".into(), ..testing::letter() }
    }

    fn without(name: &str) -> Vec<(&'static str, &'static str)> {
        EXAMPLE.into_iter().filter(|(field, _)| *field != name).collect()
    }

    fn with(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        [without(name), vec![(name, value)]].concat()
    }

    #[test]
    fn a_documented_request_is_accepted() {
        assert_eq!(send(&EXAMPLE).unwrap(), letter());
        assert_eq!(send(&with("o:tracking-clicks", "htmlonly")).unwrap(), letter());
        assert_eq!(send(&without("html")).unwrap(), letter());
    }

    #[test]
    fn an_email_keeps_the_id_that_it_brings() {
        let id = |form: &[_]| call(Vendor::Mailgun, PATH, &HEADERS, &encode(form), |order| order.message_id).unwrap();
        assert_eq!(id(&EXAMPLE).as_deref(), Some("<key-1@acme.example>"));
        assert_eq!(id(&without("h:Message-Id")), None);
    }

    #[test]
    fn test_mode_delivers_nothing() {
        let form = encode(&with("o:testmode", "yes"));
        assert!(call(Vendor::Mailgun, PATH, &HEADERS, &form, |order| order.test_only).unwrap());
    }

    #[test]
    fn an_undocumented_request_is_refused() {
        let no_body: Vec<_> = without("text").into_iter().filter(|(name, _)| *name != "html").collect();
        let cases = [
            ("from missing", without("from")),
            ("to missing", without("to")),
            ("subject missing", without("subject")),
            ("no text, no html", no_body),
            ("no send key", without("v:send_key")),
            ("no lead id", without("v:lead_id")),
            ("no sequence", without("v:sequence")),
            ("no step", without("v:step")),
            ("unknown field", with("reply_to", "a@b.cd")),
            ("unknown option", with("o:unknown", "yes")),
            ("not an address", with("to", "jane")),
            ("two addresses", with("to", "jane@example.com, joe@example.com")),
            ("two recipients", [&EXAMPLE[..], &[("to", "joe@example.com")]].concat()),
            ("two subjects", [&EXAMPLE[..], &[("subject", "Again")]].concat()),
            ("sender unquoted", with("from", "Acme, Inc. <hello@acme.example>")),
            ("header injection", with("h:X-A", "a\r\nBcc: b@c.de")),
            ("header name", with("h:X A", "a")),
            ("switch", with("o:tracking", "maybe")),
            ("tag", with("o:tag", "")),
        ];
        for (case, form) in cases {
            let refused = send(&form).expect_err(case);
            assert_eq!(refused.reply.status(), 400, "{case}");
            assert!(refused.reply.body().starts_with(r#"{"message":"#), "{case}");
        }
    }

    /// Jane's and Joe's, each with a subject of their own.
    fn many() -> Vec<(&'static str, &'static str)> {
        let own = |name: &str| name.starts_with("v:") || matches!(name, "to" | "subject" | "h:Message-Id");
        let mut form: Vec<_> = EXAMPLE.into_iter().filter(|(name, _)| !own(name)).collect();
        form.extend([
            ("to", "jane@example.com"),
            ("to", "Joe <joe@example.com>"),
            ("subject", "Hello %recipient.name%"),
            ("v:send_key", "%recipient.key%"),
            ("v:lead_id", "lead-1"),
            ("v:sequence", "nurture"),
            ("v:step", "welcome"),
            (
                "recipient-variables",
                r#"{"jane@example.com": {"name": "\"Jane\"", "key": "key-1"}, "joe@example.com": {"name": "Joe", "key": "key-2"}}"#,
            ),
        ]);
        form
    }

    #[test]
    fn of_many_recipients_each_gets_an_email_of_their_own() {
        let letters = call(Vendor::Mailgun, PATH, &HEADERS, &encode(&many()), |order| order.letters).unwrap();
        let joes =
            Letter { to: "joe@example.com".into(), subject: "Hello Joe".into(), send_key: "key-2".into(), ..letter() };
        assert_eq!(letters, [letter(), joes]);
    }

    #[test]
    fn undocumented_variables_are_refused() {
        let with = |name, value| {
            let mut form: Vec<_> = many().into_iter().filter(|(field, _)| *field != name).collect();
            form.push((name, value));
            form
        };
        let three = r#"{"jane@example.com": {"name": "", "key": "1"}, "joe@example.com": {"name": "", "key": "2"}, "kim@example.com": {}}"#;
        let crowd = "&to=kim%40example.com".repeat(BATCH);
        let cases = [
            ("no JSON", encode(&with("recipient-variables", "name=Jane"))),
            ("one has none", encode(&with("recipient-variables", r#"{"jane@example.com": {"name": "", "key": "1"}}"#))),
            ("of nobody", encode(&with("recipient-variables", three))),
            ("not among them", encode(&with("subject", "Hello %recipient.first_name%"))),
            ("without an end", encode(&with("subject", "Hello %recipient.name"))),
            ("one address twice", encode(&[&many()[..], &[("to", "jane@example.com")]].concat())),
            ("an id of their own", encode(&with("h:Message-Id", "<%recipient.key%@acme.example>"))),
            ("too many", encode(&many()) + &crowd),
        ];
        for (case, form) in cases {
            let refused = call(Vendor::Mailgun, PATH, &HEADERS, &form, |_| ()).expect_err(case);
            assert_eq!(refused.reply.status(), 400, "{case}");
        }
    }

    #[test]
    fn options_of_more_than_16_kb_are_refused() {
        let long = "x".repeat(OPTIONS_LIMIT);
        let refused = send(&[&EXAMPLE[..], &[("v:long", &long)]].concat()).unwrap_err();
        assert!(refused.reason.contains("16KB"));
    }

    #[test]
    fn a_wrong_key_or_media_type_is_refused() {
        let body = encode(&EXAMPLE);
        for (headers, status) in [
            (vec![HEADERS[1]], 401),
            (vec![("authorization", "Bearer test-key"), HEADERS[1]], 401),
            (vec![HEADERS[0]], 400),
            (vec![HEADERS[0], ("content-type", "application/json")], 400),
        ] {
            let refused = call(Vendor::Mailgun, PATH, &headers, &body, |_| ()).unwrap_err();
            assert_eq!(refused.reply.status(), status, "{headers:?}");
        }
    }

    #[test]
    fn a_look_up_shows_a_recipients_events_page_by_page() {
        let path = "/v3/mg.acme.example/events?begin=1700000000&ascending=yes&limit=1&recipient=jane%40example.com";
        let emails = [testing::accepted(Vendor::Mailgun, "mg.acme.example", "<key-1@acme.example>")];
        let (mut path, mut kinds) = (path.to_owned(), Vec::new());
        loop {
            let page: Value = with_call(&path, &[HEADERS[0], ("host", "here")], "", |call| {
                let search = search(call).unwrap();
                assert!(search.wants(&emails[0]));
                assert!(!search.wants(&testing::accepted(Vendor::Mailgun, "other.example", "<key-1@acme.example>")));
                serde_json::from_str(found(call, &search, &emails).body()).unwrap()
            });
            let Some(event) = page["items"].get(0) else { break };
            assert_eq!(event["message"]["headers"]["message-id"], "key-1@acme.example");
            assert_eq!(event["user-variables"]["send_key"], "key-1");
            kinds.push(event["event"].as_str().unwrap().to_owned());
            path = page["paging"]["next"].as_str().unwrap().strip_prefix("http://here").unwrap().to_owned();
        }
        assert_eq!(kinds, ["accepted", "delivered"]);
    }

    #[test]
    fn a_look_up_asks_for_what_happened_since() {
        with_call("/v3/mg.acme.example/events?begin=1700000001&ascending=yes", &HEADERS, "", |call| {
            let search = search(call).unwrap();
            assert!(!search.wants(&testing::accepted(Vendor::Mailgun, "mg.acme.example", "<key-1@acme.example>")));
        });
    }

    #[test]
    fn an_undocumented_look_up_is_refused() {
        for (query, headers, status) in [
            ("begin=1&ascending=yes", &HEADERS[1..], 401),
            ("ascending=yes", &HEADERS[..], 400),
            ("begin=1", &HEADERS[..], 400),
            ("begin=yesterday&ascending=yes", &HEADERS[..], 400),
            ("begin=1&ascending=yes&limit=301", &HEADERS[..], 400),
            ("begin=1&ascending=yes&skip=1", &HEADERS[..], 400),
            ("begin=1&ascending=yes&user=jane", &HEADERS[..], 400),
        ] {
            let path = format!("/v3/mg.acme.example/events?{query}");
            let refused = with_call(&path, headers, "", |call| search(call).unwrap_err());
            assert_eq!(refused.reply.status(), status, "{query}");
        }
    }

    #[test]
    fn an_id_has_the_vendors_form() {
        let id = message_id(0xABCD << 64, 1_700_000_000_000, Some("mg.acme.example"));
        assert_eq!(id, "<20231114221320.000000000000abcd@mg.acme.example>");
    }
}
