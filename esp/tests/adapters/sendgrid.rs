use dripline_actors::ports::Esp;
use dripline_esp::{SendGrid, sendgrid};
use serde_json::json;

use crate::http_server::{Server, answer};
use crate::{TIMEOUT, email, told};

fn adapter(url: &str, sandbox: bool) -> SendGrid {
    let config = sendgrid::Config { base_url: url.to_owned(), api_key: "SG.key".into(), sandbox };
    SendGrid::new(&config, TIMEOUT, 4).unwrap()
}

#[tokio::test]
async fn the_request_is_the_documented_one() {
    let mut server = Server::start(answer("202 Accepted", &["X-Message-Id: 14c5d75ce93"], "")).await;
    let outcome = adapter(&server.url, false).send(&email()).await;
    assert_eq!(told(&outcome), "accepted 14c5d75ce93");

    let request = server.request().await;
    assert_eq!(request.line, "POST /v3/mail/send HTTP/1.1");
    assert_eq!(request.headers["authorization"], "Bearer SG.key");
    let expected = json!({
        "personalizations": [{
            "to": [{"email": "jane@example.com"}],
            "headers": {
                "Message-ID": "<5f2c91@acme.example>",
                "List-Unsubscribe": "<https://acme.example/u?t=abc>",
                "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"
            },
            "custom_args": {
                "send_key": "5f2c91",
                "lead_id": "ld_0123456789abcdef0123456789abcdef",
                "sequence": "welcome",
                "step": "day-2"
            }
        }],
        "from": {"email": "team@acme.example", "name": "Acme Team"},
        "reply_to": {"email": "help@acme.example"},
        "subject": "Jane, welcome – day 2",
        "content": [
            {"type": "text/plain", "value": "Hello Jane & co"},
            {"type": "text/html", "value": "<p>Hello Jane &amp; co</p>"}
        ],
        "categories": ["welcome"]
    });
    assert_eq!(request.json(), expected);
}

#[tokio::test]
async fn in_the_sandbox_an_email_is_checked_and_not_mailed() {
    let mut server = Server::start(answer("200 OK", &[], "")).await;
    assert_eq!(told(&adapter(&server.url, true).send(&email()).await), "accepted ");
    assert_eq!(server.request().await.json()["mail_settings"], json!({"sandbox_mode": {"enable": true}}));
    assert_eq!(told(&adapter(&server.url, false).send(&email()).await), "unknown");
}

#[tokio::test]
async fn an_empty_text_part_is_left_out_since_sendgrid_refuses_it() {
    let mut server = Server::start(answer("202 Accepted", &[], "")).await;
    let mut email = email();
    email.text.clear();
    adapter(&server.url, false).send(&email).await;
    assert_eq!(server.request().await.json()["content"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn answers() {
    let error = |message: &str, field: &str| {
        json!({"errors": [{"message": message, "field": field, "help": null}]}).to_string()
    };
    for (status, body, expected) in [
        ("400 Bad Request", error("Does not contain a valid address.", "personalizations.0.to.0.email"), "refused"),
        ("400 Bad Request", error("The from email does not contain a valid address.", "from.email"), "misconfigured"),
        ("401 Unauthorized", error("The provided authorization grant is invalid", ""), "misconfigured"),
        ("401 Unauthorized", error("Maximum credits exceeded", ""), "misconfigured"),
        ("403 Forbidden", error("The from address is not a verified one.", "from"), "misconfigured"),
        ("413 Payload Too Large", error("The payload is too large", ""), "refused"),
        ("500 Internal Server Error", String::new(), "transient"),
        ("200 OK", "<html>a captive portal</html>".to_owned(), "unknown"),
    ] {
        let server = Server::start(answer(status, &[], &body)).await;
        let outcome = adapter(&server.url, false).send(&email()).await;
        assert_eq!(told(&outcome), expected, "{status} {body}: {outcome:?}");
    }
}
