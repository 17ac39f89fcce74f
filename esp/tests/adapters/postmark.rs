use std::time::Duration;

use dripline_actors::ports::{AfterLostAnswer, Esp};
use dripline_esp::{Postmark, postmark};
use serde_json::{Value, json};

use crate::http_server::{Server, answer};
use crate::{TIMEOUT, ago, email, found, told};

fn adapter(url: &str) -> Postmark {
    let config = postmark::Config {
        base_url: url.to_owned(),
        server_token: "token-1".into(),
        message_stream: "broadcast".to_owned(),
    };
    Postmark::new(&config, TIMEOUT, 4).unwrap()
}

#[tokio::test]
async fn the_request_is_the_documented_one() {
    let taken = r#"{"To": "jane@example.com", "SubmittedAt": "2014-02-17T07:25:01.4178645-05:00",
                    "MessageID": "0a129aee-e1cd-480d-b08d-4f48548ff48d", "ErrorCode": 0, "Message": "OK"}"#;
    let mut server = Server::start(answer("200 OK", &[], taken)).await;
    let outcome = adapter(&server.url).send(&email()).await;
    assert_eq!(told(&outcome), "accepted 0a129aee-e1cd-480d-b08d-4f48548ff48d");

    let request = server.request().await;
    assert_eq!(request.line, "POST /email HTTP/1.1");
    assert_eq!(request.headers["x-postmark-server-token"], "token-1");
    assert_eq!(request.headers["accept"], "application/json");
    let expected = json!({
        "From": "Acme Team <team@acme.example>",
        "To": "jane@example.com",
        "ReplyTo": "help@acme.example",
        "Subject": "Jane, welcome – day 2",
        "Tag": "welcome",
        "TextBody": "Hello Jane & co",
        "HtmlBody": "<p>Hello Jane &amp; co</p>",
        "Headers": [
            {"Name": "Message-ID", "Value": "<5f2c91@acme.example>"},
            {"Name": "List-Unsubscribe", "Value": "<https://acme.example/u?t=abc>"},
            {"Name": "List-Unsubscribe-Post", "Value": "List-Unsubscribe=One-Click"},
            {"Name": "X-PM-KeepID", "Value": "true"}
        ],
        "Metadata": {
            "send_key": "5f2c91",
            "lead_id": "ld_0123456789abcdef0123456789abcdef",
            "sequence": "welcome",
            "step": "day-2"
        },
        "MessageStream": "broadcast"
    });
    assert_eq!(request.json(), expected);
}

#[tokio::test]
async fn answers() {
    for (status, code, message, expected) in [
        ("401 Unauthorized", 10, "The Server Token you provided is not valid", "misconfigured"),
        ("503 Service Unavailable", 100, "Maintenance", "transient"),
        ("422 Unprocessable Entity", 300, "Error parsing 'To': Illegal email address", "refused"),
        ("422 Unprocessable Entity", 300, "Invalid 'From' address: 'a@b.example'.", "misconfigured"),
        ("422 Unprocessable Entity", 400, "The 'From' address is not a Sender Signature", "misconfigured"),
        ("422 Unprocessable Entity", 401, "The Sender Signature is not confirmed", "misconfigured"),
        ("422 Unprocessable Entity", 402, "Invalid JSON", "refused"),
        ("422 Unprocessable Entity", 405, "You ran out of credits", "misconfigured"),
        ("422 Unprocessable Entity", 406, "The recipient is inactive", "refused"),
        ("422 Unprocessable Entity", 412, "Your account is pending approval", "misconfigured"),
        ("422 Unprocessable Entity", 413, "Your account may not send", "misconfigured"),
        ("422 Unprocessable Entity", 1235, "The message stream does not exist", "misconfigured"),
        ("429 Too Many Requests", 429, "Rate limit exceeded", "rate_limited"),
        ("200 OK", 406, "The recipient is inactive", "refused"),
        ("200 OK", 0, "OK, but without a MessageID", "unknown"),
        ("500 Internal Server Error", 0, "in most cases the message is lost", "unknown"),
    ] {
        let body = json!({"ErrorCode": code, "Message": message}).to_string();
        let server = Server::start(answer(status, &[], &body)).await;
        let outcome = adapter(&server.url).send(&email()).await;
        assert_eq!(told(&outcome), expected, "{status} {body}: {outcome:?}");
    }
}

fn listed(send_keys: &[&str]) -> Value {
    let message = |key: &&str| {
        json!({
            "Tag": "welcome", "MessageID": format!("id-of-{key}"), "MessageStream": "broadcast",
            "Recipients": ["jane@example.com"], "Status": "Sent", "Metadata": {"send_key": key, "step": "day-2"}
        })
    };
    json!({"TotalCount": send_keys.len(), "Messages": send_keys.iter().map(message).collect::<Vec<_>>()})
}

#[tokio::test]
async fn a_look_up_asks_for_the_send_key_in_the_stream_that_was_sent_through() {
    let mut server = Server::start(answer("200 OK", &[], &listed(&["5f2c91"]).to_string())).await;
    let postmark = adapter(&server.url);
    assert!(matches!(postmark.after_lost_answer(), AfterLostAnswer::LookUp { .. }));
    let look_up = postmark.look_up(&email(), ago(Duration::from_mins(5))).await;
    assert_eq!(found(&look_up), "found id-of-5f2c91");

    let request = server.request().await;
    let expected = [("count", "10"), ("offset", "0"), ("messagestream", "broadcast"), ("metadata_send_key", "5f2c91")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    assert_eq!(request.query(), ("GET /messages/outbound", expected));
    assert_eq!(request.headers["x-postmark-server-token"], "token-1");
    assert_eq!(request.headers["accept"], "application/json");
}

#[tokio::test]
async fn what_a_look_up_finds() {
    let (minutes, week) = (Duration::from_mins(5), Duration::from_hours(7 * 24));
    for (status, body, attempted, expected) in [
        ("200 OK", listed(&[]), minutes, "not found"),
        ("200 OK", listed(&[]), week, "unclear"),
        ("200 OK", listed(&["5f2c91"]), week, "found id-of-5f2c91"),
        ("200 OK", listed(&["another", "5f2c91"]), minutes, "found id-of-5f2c91"),
        // A filter that is ignored must not be taken for an email that is not there.
        ("200 OK", listed(&["another"]), minutes, "unclear"),
        ("200 OK", json!({"TotalCount": 1, "Messages": [{"MessageID": "1", "Metadata": null}]}), minutes, "unclear"),
        ("200 OK", json!({"TotalCount": 7, "Messages": []}), minutes, "unclear"),
        ("200 OK", json!([]), minutes, "unclear"),
        ("200 OK", json!({"ErrorCode": 0, "Message": "OK"}), minutes, "unclear"),
        ("204 No Content", listed(&[]), minutes, "unclear"),
    ] {
        let server = Server::start(answer(status, &[], &body.to_string())).await;
        let look_up = adapter(&server.url).look_up(&email(), ago(attempted)).await;
        assert_eq!(found(&look_up), expected, "{status} {body}: {look_up:?}");
    }
}
