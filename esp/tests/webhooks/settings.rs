use dripline_actors::ports::FeedbackReader;
use dripline_esp::webhooks::{Vendor, WebhookSettings, Webhooks};
use serde_json::json;

use crate::{answer, bridge, headers, seconds, settings};

#[tokio::test]
async fn a_vendor_that_is_not_set_is_refused_and_one_that_does_not_exist_is_not_found() {
    let bridge = bridge(json!({}));
    for vendor in Vendor::ALL {
        let received = bridge.receive(vendor.name(), &headers(&[]), "{}".into(), seconds(0)).await;
        assert_eq!(answer(&received), (403, 0), "{vendor:?}");
        assert!(received.unwrap_err().to_string().contains(&format!("[webhooks.{}]", vendor.name())));
    }
    for vendor in ["", "SendGrid", "smtp", "sendgrid/", "unsubscribe-page"] {
        assert_eq!(answer(&bridge.receive(vendor, &headers(&[]), "{}".into(), seconds(0)).await), (404, 0), "{vendor}");
    }
}

#[test]
fn events_of_an_unknown_provider_are_a_fault() {
    assert!(Webhooks.read("carrier-pigeon", b"{}").unwrap_err().to_string().contains("carrier-pigeon"));
}

#[tokio::test]
async fn an_insecure_vendor_is_taken_at_its_word() {
    let insecure = json!({"insecure": true});
    let bridge = bridge(
        json!({"sendgrid": insecure, "mailgun": insecure, "postmark": insecure, "resend": insecure, "ses": insecure}),
    );
    let mailgun = r#"{"signature": {"timestamp": "1", "token": "t", "signature": "s"}, "event-data": {}}"#;
    let ses = r#"{"Type": "Notification", "MessageId": "m", "TopicArn": "t", "Message": "{}", "Timestamp": "t",
        "SignatureVersion": "1", "Signature": "s", "SigningCertURL": "u"}"#;
    for (vendor, body) in
        [("sendgrid", "[{}]"), ("mailgun", mailgun), ("postmark", "{}"), ("resend", "{}"), ("ses", ses)]
    {
        let received = bridge.receive(vendor, &headers(&[]), body.into(), seconds(0)).await;
        assert_eq!(answer(&received), (200, 1), "{vendor}");
    }
}

#[test]
fn settings_are_read_and_shown_without_their_secrets() {
    let all = settings(json!({
        "sendgrid": {"public_key": "MFkw", "max_age": "10m"},
        "mailgun": {"signing_key": "k3y"},
        "postmark": {"username": "u", "password": "p4ss"},
        "resend": {"signing_secret": "whsec_s3cret"},
        "ses": {"topic_arns": ["arn:aws:sns:eu-west-1:1:t"], "max_age": "2h"}
    }));
    let shown = serde_json::to_value(&all).unwrap();
    for secret in ["k3y", "p4ss", "s3cret"] {
        assert!(!shown.to_string().contains(secret) && !format!("{all:?}").contains(secret), "{shown}");
    }
    assert_eq!(shown["sendgrid"]["max_age"], "10m");
    assert_eq!((&shown["mailgun"]["max_age"], &shown["resend"]["max_age"]), (&json!("9h"), &json!("5m")));
    assert_eq!(shown["ses"], json!({"topic_arns": ["arn:aws:sns:eu-west-1:1:t"], "max_age": "2h", "insecure": false}));

    for wrong in [json!({"sendgrid": {"publickey": "x"}}), json!({"smtp": {}}), json!({"ses": {"max_age": "soon"}})] {
        assert!(serde_json::from_value::<WebhookSettings>(wrong.clone()).is_err(), "{wrong}");
    }
}
