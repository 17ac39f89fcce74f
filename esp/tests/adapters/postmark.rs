use dripline_actors::ports::Esp;
use dripline_esp::{Postmark, postmark};
use serde_json::json;

use crate::http_server::{Server, answer};
use crate::{TIMEOUT, email, told};

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
