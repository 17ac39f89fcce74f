use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use dripline_esp::webhooks::Bridge;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{answer, bridge, fault, headers, read, seconds, settings, time, told};

/// Svix's own example, <https://docs.svix.com/receiving/verifying-payloads/how>.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const SIGNED: i64 = 1_614_265_330;
const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const BODY: &str = r#"{"test": 2432232314}"#;

async fn take(signature: &str, id: &str, body: &str, now: i64) -> (u16, usize) {
    let bridge = bridge(json!({"resend": {"signing_secret": SECRET}}));
    let headers = headers(&[("svix-id", id), ("svix-timestamp", &SIGNED.to_string()), ("svix-signature", signature)]);
    answer(&bridge.receive("resend", &headers, Bytes::from(body.to_owned()), seconds(now)).await)
}

#[tokio::test]
async fn svixs_own_example_is_taken() {
    assert_eq!(take(SIGNATURE, ID, BODY, SIGNED + 10).await, (200, 1));
}

#[tokio::test]
async fn of_several_signatures_one_must_be_right() {
    let other = format!("v1,{}", BASE64_STANDARD.encode([7; 32]));
    for (signatures, answered) in [
        (format!("{other} {SIGNATURE}"), (200, 1)),
        (format!("{SIGNATURE} {other}"), (200, 1)),
        (format!("v1a,{} v2,xyz  {SIGNATURE}", BASE64_STANDARD.encode([7; 64])), (200, 1)),
        (format!("{other} {other}"), (401, 0)),
        // Of another version, it is another algorithm's.
        (SIGNATURE.replace("v1,", "v2,"), (401, 0)),
        (SIGNATURE.replace("v1,", ""), (401, 0)),
        (SIGNATURE[..20].to_owned(), (401, 0)),
        ("v1,".to_owned(), (401, 0)),
        (String::new(), (401, 0)),
    ] {
        assert_eq!(take(&signatures, ID, BODY, SIGNED).await, answered, "{signatures}");
    }
}

#[tokio::test]
async fn what_was_altered_or_kept_for_more_than_five_minutes_is_refused() {
    assert_eq!(take(SIGNATURE, ID, r#"{"test": 2432232315}"#, SIGNED).await, (401, 0));
    assert_eq!(take(SIGNATURE, "msg_other", BODY, SIGNED).await, (401, 0));
    assert_eq!(take(SIGNATURE, ID, BODY, SIGNED + 300).await, (200, 1));
    assert_eq!(take(SIGNATURE, ID, BODY, SIGNED + 301).await, (401, 0));
    assert_eq!(take(SIGNATURE, ID, BODY, SIGNED - 301).await, (401, 0));
}

#[tokio::test]
async fn a_signed_body_that_is_no_object_is_malformed() {
    let key = BASE64_STANDARD.decode(&SECRET["whsec_".len()..]).unwrap();
    let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(format!("{ID}.{SIGNED}.[]"));
    let signature = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(take(&signature, ID, "[]", SIGNED).await, (400, 0));
}

#[test]
fn a_secret_that_is_none_is_told() {
    for secret in ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!"] {
        let refused = Bridge::new(&settings(json!({"resend": {"signing_secret": secret}}))).err().unwrap().to_string();
        assert!(refused.contains("webhooks.resend.signing_secret"), "{refused}");
        assert!(secret.is_empty() || !refused.contains(secret), "{refused}");
    }
}

/// <https://resend.com/docs/webhooks/emails/bounced>, and its neighbours.
fn event(name: &str, more: &Value) -> String {
    let mut data = json!({
        "broadcast_id": "8b146471-e88e-4322-86af-016cd36fd216", "created_at": "2024-11-22T23:41:11.894719+00:00",
        "email_id": "56761188-7520-42d8-8898-ff6fc54ce618", "from": "Acme <onboarding@resend.dev>",
        "to": ["delivered@resend.dev"], "subject": "Sending this example", "tags": {"category": "confirm_email"}
    });
    data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"type": name, "created_at": "2024-11-22T23:41:12.126Z", "data": data}).to_string()
}

#[test]
fn every_event_says_what_it_means() {
    let bounce = |kind: &str, sub: &str| json!({"bounce": {"message": "why", "type": kind, "subType": sub}});
    let on_the_list =
        json!({"suppressed": {"message": "on the account-level suppression list", "type": "OnAccountSuppressionList"}});
    let unsaid = json!({"bounce": {"message": "The recipient's email provider sent a hard bounce message"}});
    for (name, more, line) in [
        ("email.sent", json!({}), "Accepted"),
        ("email.delivered", json!({}), "Delivered"),
        ("email.delivery_delayed", json!({}), "Deferred"),
        ("email.complained", json!({}), "Complained"),
        ("email.opened", json!({}), "Opened"),
        (
            "email.clicked",
            json!({"click": {"link": "https://resend.com", "timestamp": "2024-11-24T05:00:57.163Z"}}),
            "Clicked",
        ),
        ("email.bounced", bounce("Permanent", "General"), "HardBounced: why"),
        ("email.bounced", bounce("Permanent", "NoEmail"), "HardBounced: why"),
        ("email.bounced", bounce("Permanent", "Suppressed"), "Dropped { because: Some(HardBounce) }: why"),
        ("email.bounced", bounce("Transient", "MailboxFull"), "SoftBounced: why"),
        ("email.bounced", bounce("Undetermined", "Undetermined"), "SoftBounced: why"),
        ("email.bounced", unsaid, "HardBounced: The recipient's email provider sent a hard bounce message"),
        ("email.suppressed", on_the_list, "Dropped { because: Some(Manual) }: on the account-level suppression list"),
        (
            "email.failed",
            json!({"failed": {"reason": "reached_daily_quota"}}),
            "Dropped { because: None }: reached_daily_quota",
        ),
    ] {
        assert_eq!(told("resend", &event(name, &more)), format!("delivered@resend.dev {line}"), "{name}");
    }
    for name in ["email.scheduled", "email.received", "contact.updated", "domain.created", "suppression.removed"] {
        assert_eq!(told("resend", &event(name, &json!({}))), "", "{name}");
    }
}

#[test]
fn tags_come_as_an_object_or_a_list() {
    let object = json!({"send_key": "5f2c91", "lead_id": "ld_01", "sequence": "welcome", "step": "day-2"});
    let list: Vec<_> =
        object.as_object().unwrap().iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    for tags in [object.clone(), list.into()] {
        let said = read("resend", &event("email.delivered", &json!({"tags": tags}))).remove(0);
        assert_eq!(said.send_key.as_deref(), Some("5f2c91"));
        assert_eq!((said.sequence.as_deref(), said.step.as_deref()), (Some("welcome"), Some("day-2")));
        assert_eq!(said.message_id.as_deref(), Some("56761188-7520-42d8-8898-ff6fc54ce618"));
        // The event's time, not the email's.
        assert_eq!(said.occurred_at, time("2024-11-22T23:41:12.126Z"));
        assert_eq!(said.id, "email.delivered:56761188-7520-42d8-8898-ff6fc54ce618:2024-11-22T23:41:12.126Z");
    }
    for tags in [json!(null), json!("x"), json!([7, {"name": "send_key"}])] {
        assert_eq!(read("resend", &event("email.sent", &json!({"tags": tags})))[0].send_key, None, "{tags}");
    }
}

/// <https://resend.com/docs/webhooks/suppressions/added>
#[test]
fn an_address_that_came_onto_the_suppression_list_is_told_with_its_origin() {
    for (origin, kind) in
        [("bounce", "HardBounced"), ("complaint", "Complained"), ("manual", "Dropped { because: Some(Manual) }")]
    {
        let event = json!({
            "type": "suppression.added", "created_at": "2026-11-17T19:32:22.980Z",
            "data": {"id": "e169aa45-1ecf-4183-9955-b1499d5701d3", "email": "steve.wozniak@gmail.com", "origin": origin,
                     "source_id": "4ef9a417-02e9-4d39-ad75-9611e0fcc33c", "created_at": "2026-11-17T19:32:22.980Z"}
        });
        assert_eq!(told("resend", &event.to_string()), format!("steve.wozniak@gmail.com {kind}"));
        let said = read("resend", &event.to_string()).remove(0);
        assert_eq!(said.id, "suppression.added:e169aa45-1ecf-4183-9955-b1499d5701d3");
        assert_eq!(said.message_id.as_deref(), Some("4ef9a417-02e9-4d39-ad75-9611e0fcc33c"));
    }
}

#[test]
fn a_fault_names_the_field() {
    for (event, field) in [
        ("{}".to_owned(), "`type`"),
        (event("email.sent", &json!({"to": "jane@example.com"})), "`data.to`"),
        (event("email.sent", &json!({"to": ["a@b.example", "c@d.example"]})), "`data.to`"),
        (event("email.sent", &json!({"to": []})), "`data.to`"),
        (event("email.sent", &json!({"to": [7]})), "`data.to.0`"),
        (event("email.sent", &json!({"email_id": null})), "`data.email_id`"),
        (event("email.sent", &json!({})).replace("2024-11-22T23:41:12.126Z", "soon"), "`created_at`"),
    ] {
        let fault = fault("resend", &event);
        assert!(fault.contains(field), "{event}: {fault}");
    }
}
