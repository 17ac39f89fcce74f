//! Whatever comes from the internet: no panic, no work beyond its size, and nothing kept that is not fit to be kept.
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use dripline_actors::ports::{FeedbackReader, RawFeedback, Source};
use dripline_esp::webhooks::{Bridge, Fetch, Vendor, WebhookError, Webhooks};
use futures_util::FutureExt;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use reqwest::Url;
use serde_json::{Value, json};

use crate::{headers, seconds, settings};

/// One event of each vendor with all that its reader looks at.
const EVENTS: [(&str, &str); 9] = [
    (
        "sendgrid",
        r#"{"event":"dropped","email":"a@b.example","timestamp":1513299569,"sg_event_id":"e","sg_message_id":"m.0","reason":"Bounced Address","send_key":"k","sequence":"s","step":"t"}"#,
    ),
    (
        "sendgrid",
        r#"{"event":"bounce","type":"bounce","email":"a@b.example","timestamp":1513299569,"sg_event_id":"e","response":"550"}"#,
    ),
    (
        "mailgun",
        r#"{"signature":{"timestamp":"1","token":"t","signature":"s"},"event-data":{"event":"failed","severity":"permanent","reason":"suppress-bounce","id":"i","timestamp":1.5,"recipient":"a@b.example","message":{"headers":{"message-id":"m","to":"a@b.example"}},"delivery-status":{"message":"550"},"user-variables":{"send_key":"k"}}}"#,
    ),
    (
        "postmark",
        r#"{"RecordType":"Bounce","Type":"HardBounce","ID":42,"MessageID":"m","Email":"a@b.example","BouncedAt":"2019-11-05T16:33:54.9070259Z","Details":"550","Metadata":{"send_key":"k"}}"#,
    ),
    (
        "postmark",
        r#"{"RecordType":"SubscriptionChange","SuppressSending":true,"SuppressionReason":"HardBounce","Origin":"Recipient","MessageID":null,"Recipient":"a@b.example","ChangedAt":"2020-02-01T10:53:34.416071Z"}"#,
    ),
    (
        "resend",
        r#"{"type":"email.bounced","created_at":"2024-11-22T23:41:12.126Z","data":{"email_id":"m","to":["a@b.example"],"bounce":{"type":"Permanent","subType":"General","message":"550"},"tags":[{"name":"send_key","value":"k"}]}}"#,
    ),
    (
        "resend",
        r#"{"type":"suppression.added","created_at":"2024-11-22T23:41:12.126Z","data":{"id":"i","email":"a@b.example","origin":"bounce","source_id":"m"}}"#,
    ),
    (
        "ses",
        r#"{"eventType":"Bounce","bounce":{"bounceType":"Permanent","bounceSubType":"General","timestamp":"2017-08-05T00:41:02.669Z","feedbackId":"f","bouncedRecipients":[{"emailAddress":"a@b.example","diagnosticCode":"550"}]},"mail":{"messageId":"m","timestamp":"2016-10-14T05:02:16.645Z","destination":["a@b.example"],"tags":{"send_key":["k"]}}}"#,
    ),
    (
        "ses",
        r#"{"eventType":"Subscription","subscription":{"timestamp":"2022-01-12T01:00:17.910Z","source":"s","newTopicPreferences":{"unsubscribeAll":true,"topicSubscriptionStatus":[{"subscriptionStatus":"OptOut"}]}},"mail":{"messageId":"m","destination":["a@b.example"]}}"#,
    ),
];

/// Reads it, and looks at what came out.
fn read(vendor: &str, payload: &[u8]) -> Result<(), TestCaseError> {
    let Ok(feedback) = Webhooks.read(vendor, payload) else { return Ok(()) };
    for said in feedback {
        prop_assert_eq!(&said.provider, vendor);
        let ids = [Some(said.id.into()), said.send_key, said.sequence, said.step, said.message_id];
        prop_assert!(ids.iter().flatten().all(|id| id.chars().count() <= 200));
        if let Some(reason) = said.reason {
            prop_assert!(reason.chars().count() <= 300 && !reason.contains('@') && !reason.contains(char::is_control));
        }
    }
    Ok(())
}

/// Nothing leads anywhere.
struct Nowhere;

#[async_trait]
impl Fetch for Nowhere {
    async fn get(&self, _url: Url) -> Result<Bytes, Source> {
        Err("nowhere".into())
    }
}

/// Every verifier, set; and all of them without a secret.
static BRIDGES: LazyLock<[Bridge; 2]> = LazyLock::new(|| {
    let insecure = json!({"insecure": true});
    [
        json!({
            "sendgrid": {"public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g=="},
            "mailgun": {"signing_key": "key"},
            "postmark": {"token": "token"},
            "resend": {"signing_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
            "ses": {"topic_arns": ["arn:aws:sns:eu-west-1:1:t"]}
        }),
        json!({"sendgrid": insecure, "mailgun": insecure, "postmark": insecure, "resend": insecure, "ses": insecure}),
    ]
    .map(|all| Bridge::with_fetch(&settings(all), Arc::new(Nowhere)).unwrap())
});

/// Takes it, signed by nobody, with every verifier set; and once more with none.
fn receive(vendor: &str, pairs: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Vec<RawFeedback>, WebhookError> {
    let body = body.into();
    let [verified, insecure] = BRIDGES.each_ref().map(|bridge| {
        // Nobody waits for anything here.
        bridge.receive(vendor, &headers(pairs), body.clone(), seconds(1_600_000_000)).now_or_never().unwrap()
    });
    assert!(matches!(verified, Err(WebhookError::Unauthentic(_) | WebhookError::Malformed(_))), "{verified:?}");
    insecure
}

fn vendor() -> impl Strategy<Value = &'static str> {
    select(Vendor::ALL.map(Vendor::name).to_vec())
}

/// Values that a field should not have.
fn oddity() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        "[a-z@.<> ]{0,40}".prop_map(Value::from),
        Just(Value::from("@ü\u{202e}\n".repeat(2_000))),
        Just(Value::from("9".repeat(400))),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[[{"a": [1, null]}]]])),
    ]
}

/// Every place in a document, as JSON pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| places(value, &format!("{at}/{name}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| places(item, &format!("{at}/{i}"), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_are_survived(vendor in vendor(), bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        read(vendor, &bytes)?;
        let _ = receive(vendor, &[], bytes);
    }

    #[test]
    fn a_field_may_hold_anything(event in select(EVENTS.to_vec()), at in any::<Index>(), odd in oddity()) {
        let mut document: Value = serde_json::from_str(event.1).unwrap();
        let mut pointers = Vec::new();
        places(&document, "", &mut pointers);
        *document.pointer_mut(&pointers[at.index(pointers.len())]).unwrap() = odd;
        read(event.0, document.to_string().as_bytes())?;
        let _ = receive(event.0, &[], document.to_string());
    }

    #[test]
    fn a_byte_may_be_another_or_missing(event in select(EVENTS.to_vec()), at in any::<Index>(), byte: u8, cut: bool) {
        let mut bytes = event.1.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        read(event.0, &bytes)?;
        let _ = receive(event.0, &[], bytes);
    }

    #[test]
    fn headers_may_hold_anything(vendor in vendor(), values in proptest::array::uniform3("[ -~]{0,80}"), base64 in "[A-Za-z0-9+/]{0,80}={0,2}") {
        let signature = format!("v1,{base64} v1,{}", values[0]);
        for time in ["1600000000", values[1].as_str()] {
            let pairs = [
                ("x-twilio-email-event-webhook-signature", base64.as_str()),
                ("x-twilio-email-event-webhook-timestamp", time),
                ("authorization", values[0].as_str()),
                ("x-dripline-webhook-token", values[2].as_str()),
                ("svix-id", values[2].as_str()),
                ("svix-timestamp", time),
                ("svix-signature", signature.as_str()),
            ];
            let _ = receive(vendor, &pairs, Bytes::from_static(b"{}"));
        }
    }

    #[test]
    fn an_array_comes_apart_into_what_was_put_together(events in proptest::collection::vec(oddity(), 0..20), spaces in "[ \r\n\t]{0,3}") {
        let texts: Vec<_> = events.iter().map(Value::to_string).collect();
        let body = format!("{spaces}[{}]{spaces}", texts.join(&format!("{spaces},{spaces}")));
        let received = receive("sendgrid", &[], body).unwrap();
        let payloads: Vec<_> = received.iter().map(|event| std::str::from_utf8(&event.payload).unwrap()).collect();
        prop_assert_eq!(payloads, texts);
    }
}

#[test]
fn deep_and_large_documents_take_no_more_than_their_size() {
    let began = Instant::now();
    for document in [
        "[".repeat(1 << 17),
        format!("{}{}", "[".repeat(1 << 16), "]".repeat(1 << 16)),
        format!("[{}1{}]", "{\"a\":".repeat(1 << 15), "}".repeat(1 << 15)),
        format!("{}1{}", "{\"a\":".repeat(1 << 15), "}".repeat(1 << 15)),
        format!("{{\"event\":\"{}\"}}", "x".repeat(1 << 17)),
        format!("[{}0]", "0,".repeat(1 << 16)),
        format!("{{{}\"a\":0}}", "\"a\":0,".repeat(1 << 15)),
    ] {
        for vendor in Vendor::ALL {
            let _ = Webhooks.read(vendor.name(), document.as_bytes());
            let _ = receive(vendor.name(), &[], document.clone());
        }
    }
    // Work that grows with the square of the size would take far longer. A minute is for a machine that is busy.
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
}
