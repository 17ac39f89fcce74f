use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use dripline_esp::webhooks::{Bridge, POSTMARK_TOKEN_HEADER};
use serde_json::json;

use crate::{answer, bridge, fault, headers, read, seconds, settings, time, told};

/// <https://postmarkapp.com/developer/webhooks/delivery-webhook>, with our metadata.
const DELIVERY: &str = r#"{
  "RecordType": "Delivery", "ServerID": 23, "MessageStream": "outbound",
  "MessageID": "00000000-0000-0000-0000-000000000000", "Recipient": "john@example.com", "Tag": "welcome-email",
  "DeliveredAt": "2014-08-01T13:28:10.2735393-04:00", "Details": "Test delivery webhook details",
  "Metadata": {"send_key": "5f2c91", "lead_id": "ld_01", "sequence": "welcome", "step": "day-2"}
}"#;

/// <https://postmarkapp.com/developer/webhooks/bounce-webhook>
fn bounce(kind: &str) -> String {
    json!({
        "RecordType": "Bounce", "ID": 42, "Type": kind, "TypeCode": 1, "Name": "Hard bounce", "Tag": "Test",
        "MessageID": "00000000-0000-0000-0000-000000000000", "Metadata": {}, "ServerID": 1234,
        "Description": "The server was unable to deliver your message (ex: unknown user, mailbox not found).",
        "Details": "Test bounce details", "Email": "john@example.com", "From": "sender@example.com",
        "BouncedAt": "2019-11-05T16:33:54.9070259Z", "DumpAvailable": true, "Inactive": true, "CanActivate": true,
        "Subject": "Test subject", "Content": "<Full dump of bounce>", "MessageStream": "outbound"
    })
    .to_string()
}

/// <https://postmarkapp.com/developer/webhooks/subscription-change-webhook>
fn change(suppress: bool, reason: Option<&str>, origin: &str) -> String {
    json!({
        "RecordType": "SubscriptionChange", "MessageID": "883953f4-6105-42a2-a16a-77a8eac79483", "ServerID": 123_456,
        "MessageStream": "outbound", "ChangedAt": "2020-02-01T10:53:34.416071Z", "Recipient": "bounced-address@wildbit.com",
        "Origin": origin, "SuppressSending": suppress, "SuppressionReason": reason, "Tag": "my-tag",
        "Metadata": {"example": "value", "example_2": "value"}
    })
    .to_string()
}

async fn take(bridge: &Bridge, pairs: &[(&str, &str)], body: &str) -> (u16, usize) {
    let body = Bytes::from(body.to_owned());
    answer(&bridge.receive("postmark", &headers(pairs), body, seconds(0)).await)
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(credentials))
}

#[tokio::test]
async fn the_user_and_password_of_the_url_let_a_delivery_in() {
    let bridge = bridge(json!({"postmark": {"username": "postmark", "password": "tr:ee"}}));
    assert_eq!(take(&bridge, &[("authorization", &basic("postmark:tr:ee"))], DELIVERY).await, (200, 1));
    for wrong in [&basic("postmark:tr:e"), &basic("postmark:tr:eee"), &basic(""), "Basic !", "Basic", "Bearer tr:ee"] {
        assert_eq!(take(&bridge, &[("authorization", wrong)], DELIVERY).await, (401, 0), "{wrong}");
    }
    assert_eq!(take(&bridge, &[], DELIVERY).await, (401, 0));
    assert_eq!(take(&bridge, &[(POSTMARK_TOKEN_HEADER, "")], DELIVERY).await, (401, 0));
}

#[tokio::test]
async fn so_does_the_token_in_our_header() {
    let bridge = bridge(json!({"postmark": {"token": "s3cret"}}));
    assert_eq!(take(&bridge, &[("X-Dripline-Webhook-Token", "s3cret")], DELIVERY).await, (200, 1));
    assert_eq!(take(&bridge, &[("X-Dripline-Webhook-Token", "s3cre")], DELIVERY).await, (401, 0));
    assert_eq!(take(&bridge, &[("authorization", &basic(":"))], DELIVERY).await, (401, 0));
}

#[tokio::test]
async fn a_body_that_is_no_object_is_malformed() {
    let bridge = bridge(json!({"postmark": {"token": "s3cret"}}));
    for body in ["", "[]", "7", "{", "{} {}", "null", "<html>"] {
        assert_eq!(take(&bridge, &[(POSTMARK_TOKEN_HEADER, "s3cret")], body).await, (400, 0), "{body}");
    }
    assert_eq!(take(&bridge, &[], "<html>").await, (401, 0), "authenticity comes first");
}

#[test]
fn half_a_password_is_told() {
    for (set, missing) in [
        (json!({}), "webhooks.postmark.password"),
        (json!({"username": "postmark"}), "webhooks.postmark.password"),
        (json!({"password": "tree", "token": "s3cret"}), "webhooks.postmark.username"),
    ] {
        let refused = Bridge::new(&settings(json!({"postmark": set}))).err().unwrap().to_string();
        assert!(refused.contains(missing), "{refused}");
    }
}

#[test]
fn a_delivery_says_which_email() {
    let said = read("postmark", DELIVERY).remove(0);
    assert_eq!(said.id, "Delivery:00000000-0000-0000-0000-000000000000:2014-08-01T13:28:10.2735393-04:00");
    assert_eq!(said.occurred_at, time("2014-08-01T17:28:10.273Z"));
    assert_eq!(said.message_id.as_deref(), Some("00000000-0000-0000-0000-000000000000"));
    assert_eq!(said.send_key.as_deref(), Some("5f2c91"));
    assert_eq!((said.sequence.as_deref(), said.step.as_deref()), (Some("welcome"), Some("day-2")));
    assert_eq!(told("postmark", DELIVERY), "john@example.com Delivered: Test delivery webhook details");
}

/// <https://postmarkapp.com/developer/api/bounce-api#bounce-types>
#[test]
fn every_type_of_bounce_is_hard_or_soft_or_none() {
    for (types, kind) in [
        (&["HardBounce", "BadEmailAddress", "ManuallyDeactivated"][..], "HardBounced"),
        (
            &["SoftBounce", "Transient", "DnsError", "Blocked", "SpamNotification", "VirusNotification", "DMARCPolicy"],
            "SoftBounced",
        ),
        (&["Unknown", "Unconfirmed", "SomethingNew"], "SoftBounced"),
        (&["SpamComplaint"], "Complained"),
        (&["Unsubscribe"], "Unsubscribed"),
        (&["Subscribe"], "Resubscribed"),
        (&["SMTPApiError", "TemplateRenderingFailed"], "Dropped { because: None }"),
    ] {
        for name in types {
            let line = told("postmark", &bounce(name));
            assert_eq!(line, format!("john@example.com {kind}: Test bounce details"), "{name}");
        }
    }
    for name in ["AutoResponder", "AddressChange", "ChallengeVerification", "OpenRelayTest", "InboundError"] {
        assert_eq!(told("postmark", &bounce(name)), "", "{name}");
    }
    assert_eq!(read("postmark", &bounce("HardBounce"))[0].id, "Bounce:42");
}

#[test]
fn a_subscription_changes_both_ways() {
    let whom = "bounced-address@wildbit.com";
    for (change, line) in [
        (change(true, Some("HardBounce"), "Recipient"), "HardBounced: HardBounce"),
        (change(true, Some("SpamComplaint"), "Recipient"), "Complained: SpamComplaint"),
        (change(true, Some("ManualSuppression"), "Recipient"), "Unsubscribed: ManualSuppression"),
        (change(true, Some("ManualSuppression"), "Customer"), "Dropped { because: Some(Manual) }: ManualSuppression"),
        (change(true, Some("ManualSuppression"), "Admin"), "Dropped { because: Some(Manual) }: ManualSuppression"),
        (change(false, None, "Recipient"), "Resubscribed"),
        (change(false, None, "Customer"), "Resubscribed"),
    ] {
        assert_eq!(told("postmark", &change), format!("{whom} {line}"));
    }
    // By hand, of no email in particular.
    let by_hand = change(true, Some("ManualSuppression"), "Customer")
        .replace(r#""883953f4-6105-42a2-a16a-77a8eac79483""#, "null");
    let said = read("postmark", &by_hand).remove(0);
    assert_eq!((said.message_id, said.id.as_str()), (None, "SubscriptionChange::2020-02-01T10:53:34.416071Z"));
}

/// <https://postmarkapp.com/developer/webhooks/open-tracking-webhook>, `click-webhook` and `spam-complaint-webhook`.
#[test]
fn opens_clicks_and_complaints_are_read_and_unknown_records_say_nothing() {
    let of_message = r#""MessageID": "883953f4-6105-42a2-a16a-77a8eac79483""#;
    for (event, line) in [
        (
            format!(
                r#"{{"RecordType": "Open", {of_message}, "FirstOpen": true, "Recipient": "john@example.com", "ReceivedAt": "2019-11-05T16:33:54.9070259Z", "Metadata": {{"a_key": "a_value"}}}}"#
            ),
            "john@example.com Opened",
        ),
        (
            format!(
                r#"{{"RecordType": "Click", {of_message}, "ClickLocation": "HTML", "OriginalLink": "https://example.com", "Recipient": "john@example.com", "ReceivedAt": "2017-10-25T15:21:11.9065619Z"}}"#
            ),
            "john@example.com Clicked",
        ),
        (
            format!(
                r#"{{"RecordType": "SpamComplaint", {of_message}, "ID": 42, "Type": "SpamComplaint", "TypeCode": 512, "Details": "Test spam complaint details", "Email": "john@example.com", "BouncedAt": "2019-11-05T16:33:54.9070259Z"}}"#
            ),
            "john@example.com Complained: Test spam complaint details",
        ),
        (r#"{"RecordType": "Inbound", "FromFull": {}}"#.to_owned(), ""),
        (r#"{"RecordType": "SmsReceived"}"#.to_owned(), ""),
    ] {
        assert_eq!(told("postmark", &event), line);
    }
}

#[test]
fn a_fault_names_the_field() {
    let change = change(true, None, "Recipient");
    let yes = change.replace("\"SuppressSending\":true", "\"SuppressSending\":\"yes\"");
    for (event, field) in [
        ("{}", "`RecordType`"),
        (r#"{"RecordType": "Bounce"}"#, "`Type`"),
        (r#"{"RecordType": "Bounce", "Type": "HardBounce"}"#, "`ID`"),
        (r#"{"RecordType": "Open", "MessageID": "x"}"#, "`ReceivedAt`"),
        (r#"{"RecordType": "Open", "MessageID": "x", "ReceivedAt": "yesterday"}"#, "`ReceivedAt`"),
        (&change, "`SuppressionReason`"),
        (&yes, "`SuppressSending`"),
    ] {
        let fault = fault("postmark", event);
        assert!(fault.contains(field), "{event}: {fault}");
    }
}
