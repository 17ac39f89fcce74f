use dripline_actors::ports::Esp;
use dripline_esp::{Mailgun, mailgun};
use serde_json::json;

use crate::http_server::{Server, answer};
use crate::{TIMEOUT, email, reason, told};

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
        ("to", "jane@example.com"),
        ("subject", "Jane, welcome – day 2"),
        ("text", "Hello Jane & co"),
        ("html", "<p>Hello Jane &amp; co</p>"),
        ("h:Reply-To", "help@acme.example"),
        ("h:Message-ID", "<5f2c91@acme.example>"),
        ("h:List-Unsubscribe", "<https://acme.example/u?t=abc>"),
        ("h:List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ("v:send_key", "5f2c91"),
        ("v:lead_id", "ld_0123456789abcdef0123456789abcdef"),
        ("v:sequence", "welcome"),
        ("v:step", "day-2"),
        ("o:tag", "welcome"),
    ];
    assert_eq!(request.form(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
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
