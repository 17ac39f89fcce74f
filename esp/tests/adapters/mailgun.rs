use std::time::Duration;

use dripline_actors::ports::{AfterLostAnswer, Esp};
use dripline_esp::{Mailgun, mailgun};
use serde_json::{Value, json};

use crate::http_server::{Reply, Server, answer};
use crate::{TIMEOUT, ago, email, emails, found, reason, tell_all, told};

fn adapter(url: &str) -> Mailgun {
    let config =
        mailgun::Config { base_url: url.to_owned(), domain: "mg.acme.example".to_owned(), api_key: "key-1".into() };
    Mailgun::new(&config, TIMEOUT, 4).unwrap()
}

#[tokio::test]
async fn the_request_is_the_documented_one() {
    let queued = r#"{"id": "<5f2c91@acme.example>", "message": "Queued. Thank you."}"#;
    let mut server = Server::start(answer("200 OK", &["Content-Type: application/json"], queued)).await;
    let outcome = adapter(&server.url).send(&email()).await;
    assert_eq!(told(&outcome), "accepted 5f2c91@acme.example", "without brackets, as webhooks give it");

    let request = server.request().await;
    assert_eq!(request.line, "POST /v3/mg.acme.example/messages HTTP/1.1");
    assert_eq!(request.headers["authorization"], "Basic YXBpOmtleS0x", "api:key-1");
    let expected = [
        ("from", "Acme Team <team@acme.example>"),
        ("o:tag", "welcome"),
        ("h:Reply-To", "help@acme.example"),
        ("to", "jane@example.com"),
        ("h:Message-ID", "<5f2c91@acme.example>"),
        ("subject", "Jane, welcome – day 2"),
        ("text", "Hello Jane & co"),
        ("html", "<p>Hello Jane &amp; co</p>"),
        ("h:List-Unsubscribe", "<https://acme.example/u?t=abc>"),
        ("h:List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ("v:send_key", "5f2c91"),
        ("v:lead_id", "ld_0123456789abcdef0123456789abcdef"),
        ("v:sequence", "welcome"),
        ("v:step", "day-2"),
    ];
    assert_eq!(request.form(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn a_batch_has_a_place_for_what_is_an_emails_own_and_says_by_address_what_belongs_there() {
    let queued = r#"{"id": "<1.2@mg.acme.example>", "message": "Queued. Thank you."}"#;
    let mut server = Server::start(answer("200 OK", &[], queued)).await;
    let mailgun = adapter(&server.url).batching();
    assert_eq!((mailgun.name(), mailgun.batch_limit()), ("mailgun", 1_000));
    assert_eq!(adapter(&server.url).batch_limit(), 1);
    let mut emails = emails(2);
    emails[1].subject = "Joe, welcome – 100% day 2".to_owned();
    assert_eq!(tell_all(&mailgun.send_batch(&emails).await), ["accepted 1.2@mg.acme.example"; 2]);

    let request = server.request().await;
    assert_eq!(request.line, "POST /v3/mg.acme.example/messages HTTP/1.1");
    let mut form = request.form();
    let (last, variables) = form.pop().unwrap();
    let expected = [
        ("from", "Acme Team <team@acme.example>"),
        ("o:tag", "welcome"),
        ("h:Reply-To", "help@acme.example"),
        ("to", "jane@example.com"),
        ("to", "jane1@example.com"),
        ("subject", "%recipient.subject%"),
        ("text", "%recipient.text%"),
        ("html", "%recipient.html%"),
        ("h:List-Unsubscribe", "%recipient.h:List-Unsubscribe%"),
        ("h:List-Unsubscribe-Post", "%recipient.h:List-Unsubscribe-Post%"),
        ("v:send_key", "%recipient.v:send_key%"),
        ("v:lead_id", "%recipient.v:lead_id%"),
        ("v:sequence", "%recipient.v:sequence%"),
        ("v:step", "%recipient.v:step%"),
    ];
    assert_eq!(form, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(last, "recipient-variables");
    let variables: Value = serde_json::from_str(&variables).unwrap();
    let expected = |subject: &str, send_key: &str| {
        json!({
            "subject": subject,
            "text": "Hello Jane & co",
            "html": "<p>Hello Jane &amp; co</p>",
            "h:List-Unsubscribe": "<https://acme.example/u?t=abc>",
            "h:List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            "v:send_key": send_key,
            "v:lead_id": "ld_0123456789abcdef0123456789abcdef",
            "v:sequence": "welcome",
            "v:step": "day-2"
        })
    };
    assert_eq!(
        variables,
        json!({
            "jane@example.com": expected("Jane, welcome – day 2", "5f2c91"),
            "jane1@example.com": expected("Joe, welcome – 100% day 2", "key-1")
        })
    );
}

#[tokio::test]
async fn an_answer_to_a_whole_batch_concerns_all() {
    for (reply, expected) in [
        (Reply::CutOff(String::new()), "unknown"),
        (answer("200 OK", &[], r#"{"message": "Queued, without an id"}"#), "unknown"),
        (answer("200 OK", &["Content-Type: text/html"], "Mailgun Magnificent API"), "misconfigured"),
        (answer("401 Unauthorized", &[], "Forbidden"), "misconfigured"),
        (answer("400 Bad Request", &[], r#"{"message": "Domain mg is not allowed to send"}"#), "misconfigured"),
        (answer("429 Too Many Requests", &[], r#"{"message": "Slow down"}"#), "rate_limited"),
        (answer("500 Internal Server Error", &[], r#"{"message": "jane1@example.com"}"#), "transient"),
    ] {
        let told = format!("{reply:?}");
        let mut server = Server::start(reply).await;
        let outcomes = adapter(&server.url).batching().send_batch(&emails(2)).await;
        assert_eq!(tell_all(&outcomes), [expected; 2], "{told}: {outcomes:?}");
        assert!(outcomes.iter().all(|outcome| !reason(outcome).contains("example.com")), "{outcomes:?}");
        server.request().await;
        assert!(server.is_done(), "{told}");
    }
}

#[tokio::test]
async fn a_wrong_path_answers_200_with_a_page_and_is_not_taken_for_acceptance() {
    let server = Server::start(answer("200 OK", &["Content-Type: text/html"], "Mailgun Magnificent API")).await;
    let outcome = adapter(&server.url).send(&email()).await;
    assert_eq!(told(&outcome), "misconfigured");
    assert!(reason(&outcome).contains("esp.mailgun.domain"), "{outcome:?}");
}

#[tokio::test]
async fn answers() {
    for (status, message, expected) in [
        ("200 OK", "Queued, so they say, without an id", "unknown"),
        ("400 Bad Request", "'to' parameter is not a valid address. please check documentation", "refused"),
        ("400 Bad Request", "'from' parameter is not a valid address. please check documentation", "misconfigured"),
        ("400 Bad Request", "Sandbox subdomains are for test purposes only. Please add your own", "misconfigured"),
        ("400 Bad Request", "Domain mg.acme.example is not allowed to send: unverified", "misconfigured"),
        ("401 Unauthorized", "Forbidden", "misconfigured"),
        ("402 Payment Required", "Payment required", "misconfigured"),
        ("404 Not Found", "Domain not found: mg.acme.example", "misconfigured"),
        ("500 Internal Server Error", "Internal Server Error", "transient"),
    ] {
        let body = json!({ "message": message }).to_string();
        let server = Server::start(answer(status, &[], &body)).await;
        let outcome = adapter(&server.url).send(&email()).await;
        assert_eq!(told(&outcome), expected, "{status} {body}: {outcome:?}");
    }
}

/// An event in the form of the documentation.
fn event(kind: &str, send_key: &str) -> Value {
    json!({
        "event": kind,
        "id": "ncV2XwymRUKbPek_MIM-Gw",
        "timestamp": 1_377_211_256.096_436,
        "message": {"headers": {"to": "jane@example.com", "message-id": format!("{send_key}@acme.example")}},
        "recipient": "jane@example.com",
        "user-variables": {"send_key": send_key, "step": "day-2"}
    })
}

fn page(url: &str, items: &[Value]) -> Reply {
    let next = format!("{url}/v3/mg.acme.example/events/W3siYSI6IGZhbHNlfV0=");
    answer("200 OK", &[], &json!({"items": items, "paging": {"next": next, "first": next}}).to_string())
}

#[tokio::test]
async fn a_look_up_reads_the_recipients_events_page_by_page() {
    let mut server =
        Server::with(|url| vec![page(url, &[event("opened", "another")]), page(url, &[event("accepted", "5f2c91")])])
            .await;
    let mailgun = adapter(&server.url);
    assert!(matches!(mailgun.after_lost_answer(), AfterLostAnswer::LookUp { .. }));
    let attempted_at = ago(Duration::from_mins(30));
    let look_up = mailgun.look_up(&email(), attempted_at).await;
    assert_eq!(found(&look_up), "found 5f2c91@acme.example");

    let request = server.request().await;
    assert_eq!(request.headers["authorization"], "Basic YXBpOmtleS0x");
    let begin = (attempted_at.as_millis() / 1_000 - 600).to_string();
    let expected =
        [("begin", begin.as_str()), ("ascending", "yes"), ("limit", "100"), ("recipient", "jane@example.com")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    assert_eq!(request.query(), ("GET /v3/mg.acme.example/events", expected));
    let request = server.request().await;
    assert_eq!(request.line, "GET /v3/mg.acme.example/events/W3siYSI6IGZhbHNlfV0= HTTP/1.1");
    assert_eq!(request.headers["authorization"], "Basic YXBpOmtleS0x");
}

#[tokio::test]
async fn what_a_look_up_finds() {
    let (half_an_hour, day) = (Duration::from_mins(30), Duration::from_hours(24));
    let (ours, other) = (event("delivered", "5f2c91"), event("delivered", "another"));
    let unnamed = json!({"event": "failed", "user-variables": {"send_key": "5f2c91"}});
    for (case, pages, attempted, expected) in [
        ("nothing", vec![vec![]], half_an_hour, "not found"),
        ("nothing any more", vec![vec![]], day, "unclear"),
        ("ours", vec![vec![other.clone(), ours.clone()]], day, "found 5f2c91@acme.example"),
        ("ours without a message", vec![vec![unnamed]], half_an_hour, "found "),
        ("only others", vec![vec![other.clone()], vec![other.clone()], vec![]], half_an_hour, "not found"),
        ("others without end", vec![vec![other.clone()]], half_an_hour, "unclear"),
        ("other forms", vec![vec![json!({"user-variables": []}), json!(1)], vec![]], half_an_hour, "not found"),
    ] {
        let server = Server::with(|url| pages.iter().map(|items| page(url, items)).collect()).await;
        let look_up = adapter(&server.url).look_up(&email(), ago(attempted)).await;
        assert_eq!(found(&look_up), expected, "{case}: {look_up:?}");
    }
}

#[tokio::test]
async fn a_next_page_elsewhere_does_not_get_the_key() {
    let mut elsewhere = Server::start(answer("200 OK", &[], "{}")).await;
    let server = Server::start(page(&elsewhere.url, &[event("opened", "another")])).await;
    let look_up = adapter(&server.url).look_up(&email(), ago(Duration::from_mins(30))).await;
    assert_eq!(found(&look_up), "unclear");
    assert!(elsewhere.is_done());
}
