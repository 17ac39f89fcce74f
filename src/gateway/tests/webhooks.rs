//! What a provider sees that delivers its events.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dripline_esp::webhooks::{ResendSettings, SendgridSettings};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

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

/// A door that takes Resend's webhooks, and SendGrid's from anyone.
fn taking_door() -> Door {
    let resend = ResendSettings {
        signing_secret: format!("whsec_{}", STANDARD.encode(SECRET)).as_str().into(),
        ..ResendSettings::default()
    };
    let sendgrid = SendgridSettings { insecure: true, ..SendgridSettings::default() };
    let webhooks = WebhookSettings { resend: Some(resend), sendgrid: Some(sendgrid), ..WebhookSettings::default() };
    door_for(config::Gateway::default(), &webhooks)
}

const SECRET: &[u8] = b"a signing secret of Resend's";
const DELIVERED: &str = r#"{"type": "email.delivered",  "created_at": "2025-11-24T12:00:00Z", "data": {}}"#;

/// A delivery of Resend's at noon, signed for `signed`.
fn delivery(signed: &str, body: &'static str) -> Request<Body> {
    let noon = Noon.now().as_millis() / 1_000;
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
    mac.update(format!("msg_1.{noon}.{signed}").as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    let request = post_to("/webhooks/resend").header("svix-id", "msg_1").header("svix-timestamp", noon);
    request.header("svix-signature", signature).body(Body::from(body)).unwrap()
}

#[tokio::test]
async fn a_signed_delivery_is_taken_as_the_vendor_sent_it() {
    let door = taking_door();
    assert_eq!(door.send(delivery(DELIVERED, DELIVERED)).await.status, StatusCode::OK);
    let event = RawFeedback { provider: "resend".to_owned(), payload: DELIVERED.into() };
    assert_eq!(door.feedback.taken(), [event]);
}

#[tokio::test]
async fn a_delivery_that_is_not_the_vendors_is_refused_and_not_kept() {
    let door = taking_door();
    door.send(delivery("another body", DELIVERED)).await.problem(401, "unauthentic");
    door.post("/webhooks/resend", "application/json", DELIVERED).await.problem(401, "unauthentic");
    assert!(door.feedback.taken().is_empty());
}

#[tokio::test]
async fn a_signed_delivery_of_a_wrong_shape_is_refused() {
    let door = taking_door();
    door.send(delivery("[not json", "[not json")).await.problem(400, "malformed_webhook");
    assert!(door.feedback.taken().is_empty());
}

#[tokio::test]
async fn a_delivery_is_acknowledged_only_when_it_is_kept() {
    let door = taking_door();
    door.feedback.breaks(Some(away));
    let answer = door.send(delivery(DELIVERED, DELIVERED)).await;
    answer.problem(503, "queue_unavailable");
    assert_eq!(answer.header(&RETRY_AFTER), Some("5"));
    door.feedback.breaks(Some(|| FrontDoorError::TooLarge { bytes: 2_000_000, most: 1_000_000 }));
    door.send(delivery(DELIVERED, DELIVERED)).await.problem(413, "message_too_large");
    door.feedback.breaks(None);
    assert_eq!(door.send(delivery(DELIVERED, DELIVERED)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_array_becomes_an_event_each_and_an_insecure_vendor_needs_no_signature() {
    let door = taking_door();
    let answer = door.post("/webhooks/sendgrid", "application/json", r#"[{"event": "open"}, {"event":"click"}]"#).await;
    assert_eq!(answer.status, StatusCode::OK);
    let payloads: Vec<_> = door.feedback.taken().into_iter().map(|event| event.payload).collect();
    assert_eq!(payloads, [r#"{"event": "open"}"#, r#"{"event":"click"}"#]);
}

#[tokio::test(start_paused = true)]
async fn more_deliveries_at_a_time_than_are_held_are_told_to_come_back() {
    let door = taking_door();
    let slow = || Body::from_stream(futures_util::stream::pending::<io::Result<Vec<u8>>>());
    let busy =
        futures_util::future::join_all((0..33).map(|_| door.post("/webhooks/resend", "application/json", slow())));
    let mut statuses: Vec<u16> = busy.await.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses.iter().filter(|status| **status == 408).count(), 32, "{statuses:?}");
    assert_eq!(statuses[32], 503);
}
