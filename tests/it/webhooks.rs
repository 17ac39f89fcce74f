//! What providers tell comes in by HTTP, and is on disk before they are told so.
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dripline_test_support::until;
use futures_util::StreamExt;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Response;
use sha2::Sha256;

use crate::system::System;

const SECRET: &[u8] = b"a signing secret of Resend's";

const BOUNCED: &str = r#"{ "type": "email.bounced", "created_at": "2026-11-25T08:00:00.000Z",
  "data": { "email_id": "4ef9a417", "to": ["jane@example.com"], "bounce": { "type": "Permanent" } } }"#;

/// One that takes Resend's webhooks.
pub async fn system() -> System {
    let mut system = System::new("resend").await;
    take(&mut system);
    system
}

/// Has Resend's webhooks taken.
pub fn take(system: &mut System) {
    let secret = format!("whsec_{}", STANDARD.encode(SECRET));
    system.set("DRIPLINE_WEBHOOKS__RESEND__SIGNING_SECRET", &secret);
}

/// Delivers as Resend does, signed for `signed`.
pub async fn deliver(system: &System, signed: &str, body: &str) -> Response {
    try_deliver(system, signed, body).await.unwrap()
}

pub async fn try_deliver(system: &System, signed: &str, body: &str) -> reqwest::Result<Response> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
    mac.update(format!("msg_1.{now}.{signed}").as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    let request = system.http.post(system.gateway("/webhooks/resend")).header("svix-id", "msg_1");
    let request = request.header("svix-timestamp", now).header("svix-signature", signature);
    request.body(body.to_owned()).send().await
}

#[tokio::test]
async fn a_signed_event_is_in_feedback_as_it_was_sent_once_the_vendor_is_told_so() {
    let system = system().await;
    let mut feedback = system.feedback().await;
    let _gateway = system.start("gateway").await;
    assert_eq!(deliver(&system, BOUNCED, BOUNCED).await.status(), 200);
    let event = feedback.next().await.unwrap();
    assert_eq!((&*event.subject, &*event.payload), ("feedback.resend", BOUNCED.as_bytes()));
}

#[tokio::test]
async fn what_is_not_the_vendors_or_not_in_its_form_is_refused_and_not_kept() {
    let system = system().await;
    let _gateway = system.start("gateway").await;
    assert_eq!(deliver(&system, "another body", BOUNCED).await.status(), 401);
    assert_eq!(deliver(&system, "{", "{").await.status(), 400);
    let other = system.http.post(system.gateway("/webhooks/mailgun")).body("{}").send().await.unwrap();
    assert_eq!(other.status(), 403, "no secret is set");
    let unknown = system.http.post(system.gateway("/webhooks/pigeon")).body("{}").send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    assert_eq!(system.depth("FEEDBACK").await, 0);
    assert!(system.log().contains("webhook refused"), "{}", system.log());
}

#[tokio::test]
async fn while_nats_is_away_the_vendor_is_told_to_come_back() {
    let mut system = system().await;
    let _gateway = system.start("gateway").await;
    system.server.kill().await.unwrap();
    let refused = until("deliveries are refused", async || {
        let answer = deliver(&system, BOUNCED, BOUNCED).await;
        answer.status() == 503 && answer.headers()["retry-after"] == "5"
    });
    refused.await.unwrap();
    system.server.restart().await.unwrap();
    let taken = until("deliveries are taken", async || deliver(&system, BOUNCED, BOUNCED).await.status() == 200);
    taken.await.unwrap();
    assert!(system.depth("FEEDBACK").await >= 1);
}

#[tokio::test]
async fn a_large_delivery_of_an_insecure_vendor_is_kept_whole_and_in_order_and_the_log_is_loud() {
    let mut system = system().await;
    system.set("DRIPLINE_WEBHOOKS__SENDGRID__INSECURE", "true");
    let mut feedback = system.feedback().await;
    let _gateway = system.start("gateway").await;
    let events: Vec<String> = (0..2_500).map(|at| format!(r#"{{"event":"open","at":{at}}}"#)).collect();
    let body = format!("[{}]", events.join(","));
    let answer = system.http.post(system.gateway("/webhooks/sendgrid")).body(body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    for event in events {
        let kept = feedback.next().await.unwrap();
        assert_eq!((&*kept.subject, &*kept.payload), ("feedback.sendgrid", event.as_bytes()));
    }
    assert!(system.log().contains("webhooks are taken of anyone"), "{}", system.log());
}

#[tokio::test]
async fn a_vendor_without_its_secret_is_not_served_in_silence() {
    let mut system = system().await;
    system.set("DRIPLINE_WEBHOOKS__RESEND__SIGNING_SECRET", "");
    system.set("DRIPLINE_WEBHOOKS__RESEND__MAX_AGE", "1m");
    let (code, _, err) = system.run(&["gateway"]).await;
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("webhooks.resend.signing_secret is not set"), "{err}");
}
