//! What all HTTP adapters have in common: answers that never come, and what statuses mean.
use std::time::{Duration, SystemTime};

use dripline_actors::ports::{AfterLostAnswer, Esp, LookUp};
use dripline_domain::Outcome;
use dripline_esp::{BuildError, Mailgun, Postmark, Resend, SendGrid, mailgun, postmark, resend, sendgrid};
use tokio::net::TcpListener;

use crate::http_server::{Reply, Server, answer};
use crate::{TIMEOUT, ago, email, reason, told};

fn all(url: &str, timeout: Duration) -> [Box<dyn Esp>; 4] {
    let base_url = url.to_owned();
    let sendgrid =
        sendgrid::Config { base_url: base_url.clone(), api_key: "SG.key".into(), ..sendgrid::Config::default() };
    let mailgun =
        mailgun::Config { base_url: base_url.clone(), domain: "mg.acme.example".into(), api_key: "key".into() };
    let postmark =
        postmark::Config { base_url: base_url.clone(), server_token: "token".into(), ..postmark::Config::default() };
    let resend = resend::Config { base_url, api_key: "re_key".into() };
    [
        Box::new(SendGrid::new(&sendgrid, timeout, 4).unwrap()),
        Box::new(Mailgun::new(&mailgun, timeout, 4).unwrap()),
        Box::new(Postmark::new(&postmark, timeout, 4).unwrap()),
        Box::new(Resend::new(&resend, timeout, 4).unwrap()),
    ]
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_leaves_the_email_in_doubt() {
    let beginnings = ["", "HTTP/1.1 2"];
    for beginning in beginnings {
        let server = Server::start(Reply::CutOff(beginning.to_owned())).await;
        for esp in all(&server.url, TIMEOUT) {
            let outcome = esp.send(&email()).await;
            assert_eq!(told(&outcome), "unknown", "{}: {outcome:?}", esp.name());
        }
    }
}

#[tokio::test]
async fn half_an_acceptance_leaves_the_email_in_doubt() {
    let half = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{\"id\": \"";
    let server = Server::start(Reply::CutOff(half.to_owned())).await;
    for esp in all(&server.url, TIMEOUT) {
        let outcome = esp.send(&email()).await;
        assert_eq!(told(&outcome), "unknown", "{}: {outcome:?}", esp.name());
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_leaves_the_email_in_doubt() {
    let server = Server::start(Reply::Silence).await;
    for esp in all(&server.url, Duration::from_millis(200)) {
        let outcome = esp.send(&email()).await;
        assert_eq!(told(&outcome), "unknown", "{}: {outcome:?}", esp.name());
    }
}

#[tokio::test]
async fn nobody_there_means_surely_not_mailed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for esp in all(&url, TIMEOUT) {
        let outcome = esp.send(&email()).await;
        assert_eq!(told(&outcome), "transient", "{}: {outcome:?}", esp.name());
    }
    // A label of 64 letters: the resolver needs no network to know that there is no such host.
    for esp in all(&format!("http://{}.invalid", "x".repeat(64)), TIMEOUT) {
        let outcome = esp.send(&email()).await;
        assert_eq!(told(&outcome), "transient", "{}: {outcome:?}", esp.name());
    }
}

#[tokio::test]
async fn a_status_without_a_body_still_says_something() {
    for (status, expected) in [
        ("301 Moved Permanently", "misconfigured"),
        ("400 Bad Request", "refused"),
        ("401 Unauthorized", "misconfigured"),
        ("402 Payment Required", "misconfigured"),
        ("403 Forbidden", "misconfigured"),
        ("404 Not Found", "misconfigured"),
        ("405 Method Not Allowed", "misconfigured"),
        ("408 Request Timeout", "transient"),
        ("413 Payload Too Large", "refused"),
        ("422 Unprocessable Entity", "refused"),
        ("429 Too Many Requests", "rate_limited"),
        ("502 Bad Gateway", "unknown"),
        ("503 Service Unavailable", "transient"),
        ("504 Gateway Timeout", "unknown"),
        ("524 A Timeout Occurred", "unknown"),
    ] {
        let server = Server::start(answer(status, &["Location: http://127.0.0.1:9/"], "")).await;
        for esp in all(&server.url, TIMEOUT) {
            let outcome = esp.send(&email()).await;
            assert_eq!(told(&outcome), expected, "{}, {status}: {outcome:?}", esp.name());
        }
    }
}

#[tokio::test]
async fn a_provider_that_is_too_busy_says_until_when() {
    let in_a_minute = seconds_since_epoch() + 60;
    let reset = format!("X-RateLimit-Reset: {in_a_minute}");
    for (header, least, most) in [
        ("Retry-After: 30", 30, 40),
        (reset.as_str(), 50, 70),
        ("ratelimit-reset: 2", 2, 12),
        ("Retry-After: 999999999", 86_400, 86_410),
        ("Retry-After: Sun, 06 Nov 1994 08:49:37 GMT", 0, 10),
    ] {
        let server = Server::start(answer("429 Too Many Requests", &[header], "{}")).await;
        for esp in all(&server.url, TIMEOUT) {
            let before = seconds_since_epoch();
            let Outcome::RateLimited { until: Some(until) } = esp.send(&email()).await else {
                panic!("{}, {header}", esp.name());
            };
            let wait = until.as_millis() / 1_000 - before;
            assert!((least..=most).contains(&wait), "{}, {header}: {wait} s", esp.name());
        }
    }
    let server = Server::start(answer("429 Too Many Requests", &[], "")).await;
    for esp in all(&server.url, TIMEOUT) {
        assert_eq!(esp.send(&email()).await, Outcome::RateLimited { until: None }, "{}", esp.name());
    }
}

fn seconds_since_epoch() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs().try_into().unwrap()
}

#[tokio::test]
async fn a_reason_never_names_the_recipient() {
    let body = r#"{"message": "Jane@Example.com is unknown", "errors": [{"message": "jane@example.com", "field": null}],
                   "ErrorCode": 406, "Message": "<JANE@EXAMPLE.COM>", "name": "validation_error"}"#;
    let server = Server::start(answer("422 Unprocessable Entity", &[], body)).await;
    for esp in all(&server.url, TIMEOUT) {
        let outcome = esp.send(&email()).await;
        assert_eq!(told(&outcome), "refused");
        assert!(reason(&outcome).contains("[recipient]"), "{}: {outcome:?}", esp.name());
        assert!(!reason(&outcome).to_lowercase().contains("jane"), "{}: {outcome:?}", esp.name());
    }
}

#[tokio::test]
async fn a_look_up_without_a_clear_answer_is_unclear_and_its_reason_names_nobody() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let said = r#"{"message": "jane@example.com? JANE@EXAMPLE.COM?"}"#;
    let mut urls = vec![nobody];
    for reply in [
        Reply::Silence,
        Reply::CutOff(String::new()),
        Reply::CutOff("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{\"TotalCount\": 0, \"Messages\": []".to_owned()),
        answer("200 OK", &[], said),
        answer("200 OK", &["Content-Type: text/html"], "<p>It works!</p>"),
        answer("302 Found", &["Location: http://127.0.0.1:9/"], ""),
        answer("401 Unauthorized", &[], "Forbidden"),
        answer("404 Not Found", &[], said),
        answer("429 Too Many Requests", &["Retry-After: 2"], "{}"),
        answer("500 Internal Server Error", &[], said),
    ] {
        urls.push(Server::start(reply).await.url);
    }
    for url in urls {
        for esp in all(&url, Duration::from_millis(500)) {
            if !matches!(esp.after_lost_answer(), AfterLostAnswer::LookUp { .. }) {
                continue;
            }
            let look_up = esp.look_up(&email(), ago(Duration::from_hours(1))).await;
            let LookUp::Unclear { reason } = look_up else { panic!("{}: {look_up:?}", esp.name()) };
            assert!(!reason.to_lowercase().contains("jane"), "{}: {reason}", esp.name());
        }
    }
}

#[tokio::test]
async fn an_endless_answer_is_not_read_to_its_end() {
    let page = "x".repeat(4 * 1024 * 1024);
    let server = Server::start(answer("400 Bad Request", &[], &page)).await;
    for esp in all(&server.url, TIMEOUT) {
        let outcome = esp.send(&email()).await;
        assert_eq!(told(&outcome), "refused", "{}", esp.name());
        assert!(reason(&outcome).len() < 400, "{}", esp.name());
    }
}

#[test]
fn an_adapter_without_its_key_says_what_to_set() {
    let mailgun = mailgun::Config { api_key: "key".into(), ..mailgun::Config::default() };
    for (error, message) in [
        (SendGrid::new(&sendgrid::Config::default(), TIMEOUT, 1).err(), "esp.sendgrid.api_key is not set"),
        (Mailgun::new(&mailgun::Config::default(), TIMEOUT, 1).err(), "esp.mailgun.api_key is not set"),
        (Mailgun::new(&mailgun, TIMEOUT, 1).err(), "esp.mailgun.domain is not set"),
        (Postmark::new(&postmark::Config::default(), TIMEOUT, 1).err(), "esp.postmark.server_token is not set"),
        (Resend::new(&resend::Config::default(), TIMEOUT, 1).err(), "esp.resend.api_key is not set"),
    ] {
        assert_eq!(error.map(|error: BuildError| error.to_string()).as_deref(), Some(message));
    }
}

#[test]
fn a_setting_that_cannot_be_used_is_named() {
    let sendgrid = |base_url: &str, key: &str| {
        let config = sendgrid::Config { base_url: base_url.into(), api_key: key.into(), sandbox: false };
        SendGrid::new(&config, TIMEOUT, 1).err().unwrap().to_string()
    };
    assert!(sendgrid("api.sendgrid.com", "SG.key").starts_with("esp.sendgrid.base_url `api.sendgrid.com`"));
    assert!(sendgrid("https://api.sendgrid.com", "SG.key\n").starts_with("esp.sendgrid.api_key holds a character"));
    let path = mailgun::Config { domain: "a/../b".into(), api_key: "key".into(), ..mailgun::Config::default() };
    assert!(Mailgun::new(&path, TIMEOUT, 1).err().unwrap().to_string().starts_with("esp.mailgun.domain `a/../b`"));
}
