use std::time::Duration;

use dripline_actors::ports::{AfterLostAnswer, Esp};
use dripline_esp::{Postmark, postmark};
use serde_json::{Value, json};

use crate::http_server::{Reply, Server, answer};
use crate::{TIMEOUT, ago, email, emails, found, reason, tell_all, told};

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

fn result(code: u32, message: &str) -> Value {
    match code {
        0 => json!({"ErrorCode": 0, "Message": "OK", "MessageID": message, "To": "jane@example.com"}),
        code => json!({"ErrorCode": code, "Message": message}),
    }
}

fn json_answer(status: &str, body: &Value) -> Reply {
    answer(status, &[], &body.to_string())
}

#[tokio::test]
async fn a_batch_is_an_array_of_what_single_calls_send() {
    let taken = json!([result(0, "id-0"), result(0, "id-1")]);
    let mut server =
        Server::with(|_| vec![json_answer("200 OK", &taken), json_answer("200 OK", &result(0, "id"))]).await;
    let postmark = adapter(&server.url).batching();
    assert_eq!((postmark.name(), postmark.batch_limit()), ("postmark", 500));
    assert_eq!(adapter(&server.url).batch_limit(), 1);
    assert_eq!(tell_all(&postmark.send_batch(&emails(2)).await), ["accepted id-0", "accepted id-1"]);
    let batch = server.request().await;
    assert_eq!(batch.line, "POST /email/batch HTTP/1.1");
    assert_eq!(batch.headers["x-postmark-server-token"], "token-1");
    assert_eq!(batch.headers["accept"], "application/json");

    assert_eq!(tell_all(&postmark.send_batch(&emails(1)).await), ["accepted id"]);
    let single = server.request().await;
    assert_eq!(single.line, "POST /email HTTP/1.1", "one email needs no batch");
    assert_eq!(batch.json()[0], single.json());
    assert_eq!(batch.json()[1]["Metadata"]["send_key"], "key-1");
}

#[tokio::test]
async fn each_result_of_a_batch_is_read_like_a_single_answer() {
    for (results, expected) in [
        ([result(0, "id-0"), result(406, "Found inactive addresses")], ["accepted id-0", "refused"]),
        ([result(300, "Illegal email address"), result(0, "id-1")], ["refused", "accepted id-1"]),
        ([result(300, "Invalid 'From' address"), result(0, "id-1")], ["misconfigured", "accepted id-1"]),
        ([result(405, "Out of credits"), result(405, "Out of credits")], ["misconfigured", "misconfigured"]),
        ([result(100, "Maintenance"), result(0, "id-1")], ["transient", "accepted id-1"]),
        ([result(429, "Slow down"), result(0, "id-1")], ["rate_limited", "accepted id-1"]),
        ([json!({"ErrorCode": 0, "Message": "OK"}), result(0, "id-1")], ["unknown", "accepted id-1"]),
    ] {
        let results = json!(results);
        let mut server = Server::start(json_answer("200 OK", &results)).await;
        let outcomes = adapter(&server.url).batching().send_batch(&emails(2)).await;
        assert_eq!(tell_all(&outcomes), expected, "{results}: {outcomes:?}");
        server.request().await;
        assert!(server.is_done(), "nothing is sent again: {results}");
    }
}

#[tokio::test]
async fn an_answer_to_a_whole_batch_concerns_all() {
    let cut_off = Reply::CutOff("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n[{\"ErrorCode\": 0".to_owned());
    for (reply, expected) in [
        (cut_off, "unknown"),
        (Reply::CutOff(String::new()), "unknown"),
        (Reply::Silence, "unknown"),
        (json_answer("200 OK", &json!([result(0, "id-0")])), "unknown"),
        (json_answer("200 OK", &json!([result(0, "id-0"), result(0, "id-1"), result(0, "id-2")])), "unknown"),
        (json_answer("200 OK", &result(0, "id")), "unknown"),
        (json_answer("401 Unauthorized", &result(10, "No token")), "misconfigured"),
        (json_answer("422 Unprocessable Entity", &result(405, "Out of credits")), "misconfigured"),
        (answer("404 Not Found", &[], "nothing here"), "misconfigured"),
        (json_answer("429 Too Many Requests", &result(429, "Slow down")), "rate_limited"),
        (json_answer("503 Service Unavailable", &result(100, "Maintenance")), "transient"),
        (json_answer("500 Internal Server Error", &result(0, "lost")), "unknown"),
        (answer("502 Bad Gateway", &[], "jane@example.com"), "unknown"),
    ] {
        let told = format!("{reply:?}");
        let mut server = Server::start(reply).await;
        let config = postmark::Config {
            base_url: server.url.clone(),
            server_token: "token-1".into(),
            ..postmark::Config::default()
        };
        let postmark = Postmark::new(&config, Duration::from_millis(500), 4).unwrap().batching();
        let outcomes = postmark.send_batch(&emails(2)).await;
        assert_eq!(tell_all(&outcomes), [expected, expected], "{told}: {outcomes:?}");
        assert!(outcomes.iter().all(|outcome| !reason(outcome).contains("example.com")), "{outcomes:?}");
        server.request().await;
        assert!(server.is_done(), "{told}");
    }
}

#[tokio::test]
async fn a_batch_that_is_refused_as_a_whole_is_sent_one_by_one() {
    for (status, code) in [("422 Unprocessable Entity", 402), ("413 Payload Too Large", 0), ("422 -", 410)] {
        let refused = json_answer(status, &json!({"ErrorCode": code, "Message": "jane2@example.com?"}));
        let mut server = Server::with(|_| vec![refused, json_answer("200 OK", &result(0, "id"))]).await;
        let outcomes = adapter(&server.url).batching().send_batch(&emails(3)).await;
        assert_eq!(tell_all(&outcomes), ["accepted id"; 3], "{status} {code}");
        assert_eq!(server.request().await.line, "POST /email/batch HTTP/1.1");
        for _ in 0..3 {
            assert_eq!(server.request().await.line, "POST /email HTTP/1.1");
        }
        assert!(server.is_done());
    }
}

#[tokio::test]
async fn a_sender_that_is_not_allowed_does_not_hold_up_the_others() {
    let not_allowed = json_answer("422 Unprocessable Entity", &result(400, "Not a Sender Signature"));
    let mut server = Server::with(|_| vec![not_allowed, json_answer("200 OK", &result(0, "id"))]).await;
    let mut emails = emails(2);
    emails[0].from = "other@acme.example".into();
    let outcomes = adapter(&server.url).batching().send_batch(&emails).await;
    assert_eq!(tell_all(&outcomes), ["accepted id"; 2]);
    server.request().await;
}

#[tokio::test]
async fn a_batch_too_large_for_one_call_goes_with_several() {
    let mut emails = emails(3);
    for email in &mut emails {
        email.text = "x".repeat(5 * 1024 * 1024);
    }
    let mut server = Server::start(json_answer("200 OK", &result(0, "id"))).await;
    let outcomes = adapter(&server.url).batching().send_batch(&emails).await;
    assert_eq!(tell_all(&outcomes), ["accepted id"; 3]);
    for _ in 0..3 {
        assert_eq!(server.request().await.line, "POST /email HTTP/1.1");
    }
}
