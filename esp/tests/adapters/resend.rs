use std::time::{Duration, SystemTime};

use dripline_actors::ports::{AfterLostAnswer, Esp};
use dripline_domain::{Outcome, Timestamp};
use dripline_esp::{Resend, resend};
use serde_json::{Value, json};

use crate::http_server::{Reply, Server, answer};
use crate::{TIMEOUT, email, emails, reason, tell_all, told};

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
    email.from = r#""Acme Team" <team@acme.example>"#.into();
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

fn json_answer(body: &Value) -> Reply {
    answer("200 OK", &[], &body.to_string())
}

#[tokio::test]
async fn a_batch_is_an_array_of_what_single_calls_send() {
    let taken = json!({"data": [{"id": "id-0"}, {"id": "id-1"}]});
    let mut server = Server::with(|_| {
        let one = json!({"data": [{"id": "id"}]});
        vec![
            json_answer(&taken),
            json_answer(&taken),
            json_answer(&one),
            json_answer(&one),
            json_answer(&json!({"id": "1"})),
        ]
    })
    .await;
    let resend = adapter(&server.url).batching();
    assert_eq!((resend.name(), resend.batch_limit()), ("resend-batch", 100));
    assert_eq!(resend.after_lost_answer(), AfterLostAnswer::Evidence, "its key is not the email's");
    assert_eq!(adapter(&server.url).batch_limit(), 1);

    let (mut keys, mut bodies) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        assert_eq!(tell_all(&resend.send_batch(&emails(2)).await), ["accepted id-0", "accepted id-1"]);
        let request = server.request().await;
        assert_eq!(request.line, "POST /emails/batch HTTP/1.1");
        assert_eq!(request.headers["authorization"], "Bearer re_key");
        assert_eq!(request.headers["x-batch-validation"], "permissive");
        keys.push(request.headers["idempotency-key"].clone());
        bodies.push(request.json());
    }
    assert_eq!(keys[0], keys[1], "the same emails have the same key");
    assert!((1..=256).contains(&keys[0].len()));

    assert_eq!(tell_all(&resend.send_batch(&emails(1)).await), ["accepted id"]);
    assert_eq!(told(&resend.send(&email()).await), "accepted id");
    for _ in 0..2 {
        let request = server.request().await;
        assert_eq!(request.line, "POST /emails/batch HTTP/1.1", "one alone goes there too");
        assert_ne!(request.headers["idempotency-key"], keys[0]);
        assert_ne!(request.headers["idempotency-key"], "5f2c91");
    }
    assert_eq!(told(&adapter(&server.url).send(&email()).await), "accepted 1");
    assert_eq!(bodies[0][0], server.request().await.json());
    assert_eq!(bodies[0][1]["to"], json!(["jane1@example.com"]));
}

#[tokio::test]
async fn each_email_of_a_batch_has_its_own_outcome() {
    let (taken, not_taken) = (json!([{"id": "a"}]), json!([]));
    for (data, errors, expected) in [
        (&taken, json!([{"index": 0, "message": "The `to` field is missing."}]), ["refused", "accepted a"]),
        (&taken, json!([{"index": 1, "message": "Invalid `to` field."}]), ["accepted a", "refused"]),
        (&taken, json!([{"index": 1, "message": "Invalid `from` field."}]), ["accepted a", "misconfigured"]),
        (
            &taken,
            json!([{"index": 1, "message": "The x.example domain is not verified."}]),
            ["accepted a", "misconfigured"],
        ),
        (&not_taken, json!([{"index": 1, "message": "b"}, {"index": 0, "message": "a"}]), ["refused", "refused"]),
        // Which of them were mailed cannot be told.
        (&taken, json!([]), ["unknown", "unknown"]),
        (&taken, json!([{"index": 2, "message": "c"}]), ["unknown", "unknown"]),
        (&taken, json!([{"index": 0, "message": "a"}, {"index": 1, "message": "b"}]), ["unknown", "unknown"]),
        (&not_taken, json!([{"index": 0, "message": "a"}, {"index": 0, "message": "a"}]), ["unknown", "unknown"]),
        (&json!([{"id": "a"}, {"id": "b"}, {"id": "c"}]), json!([]), ["unknown", "unknown"]),
        (&json!([{}, {}]), json!([]), ["unknown", "unknown"]),
    ] {
        let body = json!({"data": data, "errors": errors});
        let mut server = Server::start(json_answer(&body)).await;
        let outcomes = adapter(&server.url).batching().send_batch(&emails(2)).await;
        assert_eq!(tell_all(&outcomes), expected, "{body}: {outcomes:?}");
        server.request().await;
        assert!(server.is_done(), "nothing is sent again: {body}");
    }
}

#[tokio::test]
async fn an_answer_to_a_whole_batch_concerns_all() {
    for (status, name, expected) in [
        (401, "missing_api_key", "misconfigured"),
        (403, "invalid_api_key", "misconfigured"),
        (409, "concurrent_idempotent_requests", "transient"),
        (409, "invalid_idempotent_request", "unknown"),
        (429, "rate_limit_exceeded", "rate_limited"),
        (429, "monthly_quota_exceeded", "misconfigured"),
        (500, "application_error", "transient"),
        (504, "", "unknown"),
        (200, "", "unknown"),
    ] {
        let body = error(status, name, "jane1@example.com");
        let mut server = Server::start(answer(&format!("{status} -"), &[], &body)).await;
        let outcomes = adapter(&server.url).batching().send_batch(&emails(2)).await;
        assert_eq!(tell_all(&outcomes), [expected, expected], "{body}: {outcomes:?}");
        assert!(outcomes.iter().all(|outcome| !reason(outcome).contains("example.com")), "{outcomes:?}");
        server.request().await;
        assert!(server.is_done(), "{body}");
    }
}

#[tokio::test]
async fn a_batch_that_is_refused_as_a_whole_is_sent_one_by_one() {
    let refused = answer("422 -", &[], &error(422, "validation_error", "The `text` field must be a string."));
    let one = json_answer(&json!({"data": [{"id": "id"}]}));
    let mut server = Server::with(|_| vec![refused.clone(), one]).await;
    let outcomes = adapter(&server.url).batching().send_batch(&emails(3)).await;
    assert_eq!(tell_all(&outcomes), ["accepted id"; 3]);
    assert_eq!(server.request().await.json().as_array().unwrap().len(), 3);
    for _ in 0..3 {
        assert_eq!(server.request().await.json().as_array().unwrap().len(), 1);
    }
    assert!(server.is_done());

    let mut server = Server::start(refused).await;
    let outcomes = adapter(&server.url).batching().send_batch(&emails(2)).await;
    assert_eq!(tell_all(&outcomes), ["refused"; 2]);
    for _ in 0..3 {
        server.request().await;
    }
    assert!(server.is_done(), "once together and once alone, and no further");
}

#[tokio::test]
async fn without_batching_many_emails_go_with_a_call_each() {
    let mut server = Server::start(json_answer(&json!({"id": "id"}))).await;
    assert_eq!(tell_all(&adapter(&server.url).send_batch(&emails(3)).await), ["accepted id"; 3]);
    let mut keys = Vec::new();
    for _ in 0..3 {
        let request = server.request().await;
        assert_eq!(request.line, "POST /emails HTTP/1.1");
        keys.push(request.headers["idempotency-key"].clone());
    }
    keys.sort();
    assert_eq!(keys, ["5f2c91", "key-1", "key-2"]);
}

#[tokio::test]
async fn a_sender_that_is_no_mailbox_does_not_hold_up_the_others() {
    let server = Server::start(json_answer(&json!({"data": [{"id": "id"}]}))).await;
    let mut emails = emails(2);
    emails[0].from = "\"Acme".into();
    let outcomes = adapter(&server.url).batching().send_batch(&emails).await;
    assert_eq!(tell_all(&outcomes), ["misconfigured", "accepted id"]);
}
