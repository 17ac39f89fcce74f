use bytes::Bytes;
use data_encoding::HEXLOWER;
use dripline_esp::webhooks::Bridge;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{answer, bridge, fault, headers, read, seconds, told};

const KEY: &str = "key-of-the-webhooks";
const TOKEN: &str = "e0b5477167110d68991efc6b9f89f0a11066af27834600e123";
const SIGNED: i64 = 1_770_920_772;

/// The delivered event of <https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads>.
fn delivered() -> Value {
    json!({
        "account": {"id": "1234567890303a4bd1f33898"},
        "delivery-status": {"attempt-no": 1, "code": 250, "description": "", "message": "OK", "tls": true},
        "envelope": {"sender": "sender@sample.mailgun.com", "targets": "recipient@sample.mailgun.com", "transport": "smtp"},
        "event": "delivered",
        "flags": {"is-authenticated": true, "is-test-mode": false},
        "id": "CPgfbmQMTCKtHW6uIWtuVe",
        "message": {"headers": {"from": "Sample Sender <sender@sample.mailgun.com>", "message-id": "20260203192638.000be97f99f8cea1@sample.mailgun.com", "to": "recipient@sample.mailgun.com"}, "size": 341},
        "recipient": "recipient@sample.mailgun.com",
        "timestamp": 1_521_472_262.908_181,
        "user-variables": {"send_key": "5f2c91", "lead_id": "ld_01", "sequence": "welcome", "step": "day-2"}
    })
}

/// The signature that the vendor documents, <https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks>.
fn sign(key: &str, timestamp: &str, token: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap().chain_update(timestamp).chain_update(token);
    HEXLOWER.encode(&mac.finalize().into_bytes())
}

fn delivery(event: &Value) -> Value {
    let timestamp = SIGNED.to_string();
    let signature = sign(KEY, &timestamp, TOKEN);
    json!({"signature": {"token": TOKEN, "timestamp": timestamp, "signature": signature}, "event-data": event})
}

fn signed_bridge() -> Bridge {
    bridge(json!({"mailgun": {"signing_key": KEY}}))
}

async fn take(bridge: &Bridge, delivery: &Value, now: i64) -> (u16, usize) {
    answer(&bridge.receive("mailgun", &headers(&[]), Bytes::from(delivery.to_string()), seconds(now)).await)
}

#[tokio::test]
async fn a_signed_delivery_is_taken_for_nine_hours() {
    let (bridge, delivery) = (signed_bridge(), delivery(&delivered()));
    assert_eq!(take(&bridge, &delivery, SIGNED + 1).await, (200, 1));
    assert_eq!(take(&bridge, &delivery, SIGNED + 9 * 3_600).await, (200, 1));
    assert_eq!(take(&bridge, &delivery, SIGNED + 9 * 3_600 + 1).await, (401, 0));
    assert_eq!(take(&bridge, &delivery, SIGNED - 3_600).await, (401, 0));
}

#[tokio::test]
async fn the_timestamp_may_be_a_number() {
    let mut delivery = delivery(&delivered());
    delivery["signature"]["timestamp"] = SIGNED.into();
    assert_eq!(take(&signed_bridge(), &delivery, SIGNED).await, (200, 1));
}

#[tokio::test]
async fn a_token_that_comes_again_is_good_for_its_own_event_alone() {
    let bridge = signed_bridge();
    assert_eq!(take(&bridge, &delivery(&delivered()), SIGNED).await, (200, 1));
    // Mailgun itself, whose first delivery we may have answered too late.
    assert_eq!(take(&bridge, &delivery(&delivered()), SIGNED + 600).await, (200, 1));
    // Somebody who has seen the first one: the signature covers no event.
    let mut other = delivered();
    other["event"] = "complained".into();
    assert_eq!(take(&bridge, &delivery(&other), SIGNED + 600).await, (401, 0));
}

#[tokio::test]
async fn the_signature_of_the_parent_account_will_do() {
    let mut delivery = delivery(&delivered());
    let right = delivery["signature"]["signature"].take();
    delivery["signature"]["signature"] = sign("key of the subaccount", &SIGNED.to_string(), TOKEN).into();
    assert_eq!(take(&signed_bridge(), &delivery, SIGNED).await, (401, 0));
    delivery["signature"]["parent-signature"] = right;
    assert_eq!(take(&signed_bridge(), &delivery, SIGNED).await, (200, 1));
}

#[tokio::test]
async fn forged_signatures_are_refused() {
    for (field, value) in [
        ("signature", json!("12d99f5a15355c180971bed7494d578b093c958f57766f3fe750761baed12345")),
        ("signature", json!(sign("another key", &SIGNED.to_string(), TOKEN))),
        ("signature", json!(sign(KEY, &SIGNED.to_string(), TOKEN)[..62])),
        ("signature", json!("")),
        ("signature", json!("zz")),
        ("token", json!("another token")),
        ("timestamp", json!((SIGNED + 1).to_string())),
        ("timestamp", json!("soon")),
    ] {
        let mut delivery = delivery(&delivered());
        delivery["signature"][field] = value.clone();
        assert_eq!(take(&signed_bridge(), &delivery, SIGNED).await, (401, 0), "{field} {value}");
    }
}

#[tokio::test]
async fn another_shape_is_malformed() {
    for body in [
        json!([]),
        json!({}),
        json!({"event-data": {}}),
        json!({"signature": {}, "event-data": {}}),
        json!({"signature": "x", "event-data": {}}),
        json!({"signature": {"token": 1, "timestamp": 1, "signature": 1}, "event-data": {}}),
    ] {
        assert_eq!(take(&signed_bridge(), &body, SIGNED).await, (400, 0), "{body}");
    }
}

#[test]
fn a_delivered_event_says_which_email() {
    let said = read("mailgun", &delivery(&delivered()).to_string()).remove(0);
    assert_eq!((said.provider.as_str(), said.id.as_str()), ("mailgun", "CPgfbmQMTCKtHW6uIWtuVe"));
    assert_eq!(said.occurred_at.as_millis(), 1_521_472_262_908);
    // As the adapter keeps it.
    assert_eq!(said.message_id.as_deref(), Some("20260203192638.000be97f99f8cea1@sample.mailgun.com"));
    assert_eq!(said.send_key.as_deref(), Some("5f2c91"));
    assert_eq!((said.sequence.as_deref(), said.step.as_deref()), (Some("welcome"), Some("day-2")));
}

/// <https://documentation.mailgun.com/docs/mailgun/user-manual/events/event-structure>
#[test]
fn every_event_says_what_it_means() {
    let unknown_user = json!({"message": "5.1.1 <jane@example.com> unknown\nuser", "code": 550});
    let bounced_before =
        json!({"message": "", "description": "Not delivering to previously bounced address", "code": 605});
    for (event, line) in [
        (json!({"event": "accepted"}), "Accepted"),
        (json!({"event": "opened"}), "Opened"),
        (json!({"event": "clicked", "url": "https://acme.example"}), "Clicked"),
        (json!({"event": "unsubscribed"}), "Unsubscribed"),
        (json!({"event": "complained"}), "Complained"),
        (json!({"event": "failed", "severity": "temporary", "reason": "generic", "delivery-status": null}), "Deferred"),
        (
            json!({"event": "failed", "severity": "permanent", "reason": "bounce", "delivery-status": unknown_user}),
            "HardBounced: 5.1.1 [address] unknown user",
        ),
        (json!({"event": "failed", "severity": "permanent", "reason": "generic"}), "HardBounced"),
        (json!({"event": "failed", "severity": "permanent", "reason": "old"}), "SoftBounced"),
        (json!({"event": "failed", "severity": "permanent", "reason": "espblock"}), "SoftBounced"),
        (
            json!({"event": "failed", "severity": "permanent", "reason": "suppress-bounce", "delivery-status": bounced_before}),
            "Dropped { because: Some(HardBounce) }: Not delivering to previously bounced address",
        ),
        (
            json!({"event": "failed", "severity": "permanent", "reason": "suppress-complaint"}),
            "Dropped { because: Some(Complaint) }",
        ),
        (
            json!({"event": "failed", "severity": "permanent", "reason": "suppress-unsubscribe"}),
            "Dropped { because: Some(Unsubscribe) }",
        ),
    ] {
        let mut data = json!({"id": "i", "timestamp": 1, "recipient": "jane@example.com"});
        data.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
        let told = told("mailgun", &json!({"event-data": data}).to_string());
        assert_eq!(told, format!("jane@example.com {line}"), "{event}");
    }
    assert_eq!(told("mailgun", r#"{"event-data": {"event": "list_member_uploaded"}}"#), "");
}

/// What is rejected has no `recipient`.
#[test]
fn a_rejected_email_is_known_by_its_header() {
    let event = json!({"event-data": {
        "event": "rejected", "id": "OMTXD3-sSmKIQa1gSKkYVA", "timestamp": 1_529_704_976.104_692,
        "reject": {"reason": "Sandbox subdomains are for test purposes only.", "description": ""},
        "message": {"headers": {"to": "Recipient Name <recipient@example.org>", "message-id": "20180622220256.1.B31A451A2E5422BB@sandbox55887.mailgun.org"}}
    }});
    let line = "recipient@example.org Dropped { because: None }: Sandbox subdomains are for test purposes only.";
    assert_eq!(told("mailgun", &event.to_string()), line);
}

#[test]
fn a_fault_names_the_field() {
    for (event, field) in [
        (json!({"event-data": 7}), "`event-data.event`"),
        (json!({"event-data": {"event": "failed"}}), "`event-data.severity`"),
        (json!({"event-data": {"event": "opened"}}), "`event-data.id`"),
        (json!({"event-data": {"event": "opened", "id": "i", "timestamp": true}}), "`event-data.timestamp`"),
        (json!({"event-data": {"event": "opened", "id": "i", "timestamp": 1}}), "`event-data.recipient`"),
    ] {
        let fault = fault("mailgun", &event.to_string());
        assert!(fault.contains(field), "{event}: {fault}");
    }
}
