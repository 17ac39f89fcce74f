//! What a provider sees that delivers its events.
use super::*;

#[tokio::test]
async fn a_vendor_that_is_unknown_or_not_set_is_told_so() {
    let door = open_door();
    for unknown in ["pigeon", "SendGrid", "%FF"] {
        door.post(&format!("/webhooks/{unknown}"), "application/json", "[]").await.problem(404, "unknown_vendor");
    }
    for vendor in ["sendgrid", "mailgun", "postmark", "resend", "ses"] {
        let answer = door.post(&format!("/webhooks/{vendor}"), "application/json", "[]").await;
        answer.problem(403, "webhooks_not_configured");
        assert!(answer.text.contains(&format!("[webhooks.{vendor}] is not set")), "{}", answer.text);
    }
    assert!(door.feedback.taken().is_empty());
}

#[tokio::test]
async fn a_delivery_beyond_the_limit_is_refused() {
    let answer = open_door().post("/webhooks/sendgrid", "application/json", vec![b' '; (5 << 20) + 1]).await;
    answer.problem(413, "body_too_large");
}

#[tokio::test]
async fn a_webhook_is_posted() {
    let answer = open_door().get("/webhooks/sendgrid").await;
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.header(&ALLOW), Some("POST"));
}
