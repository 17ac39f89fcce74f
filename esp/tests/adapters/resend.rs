use std::time::{Duration, SystemTime};

use dripline_actors::ports::{AfterLostAnswer, Esp};
use dripline_domain::{Outcome, Timestamp};
use dripline_esp::{Resend, resend};
use serde_json::json;

use crate::http_server::{Server, answer};
use crate::{TIMEOUT, email, told};

fn adapter(url: &str) -> Resend {
    Resend::new(&resend::Config { base_url: url.to_owned(), api_key: "re_key".into() }, TIMEOUT, 4).unwrap()
}

fn error(status: u16, name: &str, message: &str) -> String {
    json!({"statusCode": status, "name": name, "message": message}).to_string()
}

#[tokio::test]
async fn the_request_is_the_documented_one() {
    let taken = r#"{"id": "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"}"#;
    let mut server = Server::start(answer("200 OK", &[], taken)).await;
    let outcome = adapter(&server.url).send(&email()).await;
    assert_eq!(told(&outcome), "accepted 49a3999c-0ce1-4ea6-ab68-afcd6dc2e794");

    let request = server.request().await;
    assert_eq!(request.line, "POST /emails HTTP/1.1");
    assert_eq!(request.headers["authorization"], "Bearer re_key");
    assert_eq!(request.headers["idempotency-key"], "5f2c91");
    let expected = json!({
        "from": "Acme Team <team@acme.example>",
        "to": ["jane@example.com"],
        "subject": "Jane, welcome – day 2",
        "text": "Hello Jane & co",
        "html": "<p>Hello Jane &amp; co</p>",
        "reply_to": "help@acme.example",
        "headers": {
            "Message-ID": "<5f2c91@acme.example>",
            "List-Unsubscribe": "<https://acme.example/u?t=abc>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"
        },
        "tags": [
            {"name": "send_key", "value": "5f2c91"},
            {"name": "lead_id", "value": "ld_0123456789abcdef0123456789abcdef"},
            {"name": "sequence", "value": "welcome"},
            {"name": "step", "value": "day-2"}
        ]
    });
    assert_eq!(request.json(), expected);
}

#[tokio::test]
async fn a_quoted_name_goes_without_its_quotes_since_resend_refuses_them() {
    let mut server = Server::start(answer("200 OK", &[], r#"{"id": "1"}"#)).await;
    let mut email = email();
    email.from = r#""Acme Team" <team@acme.example>"#.to_owned();
    adapter(&server.url).send(&email).await;
    assert_eq!(server.request().await.json()["from"], "Acme Team <team@acme.example>");
}

#[tokio::test]
async fn answers() {
    for (status, name, message, expected) in [
        (400, "validation_error", "Invalid `to` field.", "refused"),
        (401, "missing_api_key", "Missing API key", "misconfigured"),
        (403, "validation_error", "The acme.example domain is not verified.", "misconfigured"),
        (403, "invalid_api_key", "API key is invalid", "misconfigured"),
        (404, "not_found", "The requested endpoint does not exist", "misconfigured"),
        (409, "concurrent_idempotent_requests", "Original request is still in progress", "transient"),
        (409, "invalid_idempotent_request", "Same key, different payload", "unknown"),
        (422, "validation_error", "Invalid `to` field. The email address needs to follow …", "refused"),
        (422, "validation_error", "Invalid `from` field. The email address needs to follow …", "misconfigured"),
        (429, "rate_limit_exceeded", "Too many requests", "rate_limited"),
        (429, "daily_quota_exceeded", "You have reached your daily email sending quota", "rate_limited"),
        (429, "monthly_quota_exceeded", "You have reached your monthly email sending quota", "misconfigured"),
        (451, "security_error", "We may have found a security issue with the request", "refused"),
        (500, "application_error", "An unexpected error occurred", "transient"),
        (200, "", "no id", "unknown"),
    ] {
        let body = error(status, name, message);
        let server = Server::start(answer(&format!("{status} -"), &[], &body)).await;
        let outcome = adapter(&server.url).send(&email()).await;
        assert_eq!(told(&outcome), expected, "{body}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_quota_used_up_is_asked_about_once_an_hour() {
    let server = Server::start(answer("429 -", &[], &error(429, "daily_quota_exceeded", "wait"))).await;
    let Outcome::RateLimited { until: Some(until) } = adapter(&server.url).send(&email()).await else {
        panic!("not rate limited");
    };
    let now = Timestamp::from_millis(0).plus(SystemTime::UNIX_EPOCH.elapsed().unwrap());
    let wait = until.since(now);
    assert!((Duration::from_mins(59)..=Duration::from_hours(1)).contains(&wait), "{wait:?}");
}

#[test]
fn a_key_holds_for_almost_a_day() {
    let expected = AfterLostAnswer::Idempotent { within: Duration::from_hours(23) };
    assert_eq!(adapter("http://127.0.0.1:1").after_lost_answer(), expected);
}
