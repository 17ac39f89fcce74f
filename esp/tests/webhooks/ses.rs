use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use dripline_actors::ports::Source;
use dripline_domain::Timestamp;
use dripline_esp::webhooks::{Bridge, Fetch};
use reqwest::Url;
use serde_json::{Value, json};

use crate::{answer, fault, headers, read, settings, time, told};

const TOPIC: &str = "arn:aws:sns:us-west-2:123456789012:MyTopic";
const CERTIFICATE_URL: &str =
    "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem";
const CERTIFICATE: &str = include_str!("../fixtures/sns/certificate.pem");
const EXPIRED: &str = include_str!("../fixtures/sns/certificate-expired.pem");
const V1: &str = include_str!("../fixtures/sns/notification-v1.json");
const V2: &str = include_str!("../fixtures/sns/notification-v2.json");
const CONFIRMATION: &str = include_str!("../fixtures/sns/subscription-confirmation.json");
const ELSEWHERE: &str = include_str!("../fixtures/sns/subscription-elsewhere.json");
const ENDED: &str = include_str!("../fixtures/sns/unsubscribe-confirmation.json");
const GREETING: &str = include_str!("../fixtures/sns/greeting.json");

/// Amazon's host: what it has to give, and what it was asked for.
#[derive(Default)]
struct Amazon {
    pages: HashMap<String, &'static str>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Fetch for Amazon {
    async fn get(&self, url: Url) -> Result<Bytes, Source> {
        self.asked.lock().unwrap().push(url.to_string());
        self.pages.get(url.as_str()).map(|page| Bytes::from(*page)).ok_or_else(|| "404 Not Found".into())
    }
}

struct Setup {
    bridge: Bridge,
    amazon: Arc<Amazon>,
}

impl Setup {
    fn new(pages: &[(&str, &'static str)]) -> Self {
        Self::with(&json!({"topic_arns": ["arn:aws:sns:eu-west-1:1:other", TOPIC]}), pages)
    }

    fn with(ses: &Value, pages: &[(&str, &'static str)]) -> Self {
        let pages = pages.iter().map(|(url, page)| ((*url).to_owned(), *page)).collect();
        let amazon = Arc::new(Amazon { pages, asked: Mutex::default() });
        let bridge = Bridge::with_fetch(&settings(json!({ "ses": ses })), amazon.clone()).unwrap();
        Self { bridge, amazon }
    }

    async fn take(&self, body: &str, now: Timestamp) -> (u16, usize) {
        answer(&self.bridge.receive("ses", &headers(&[]), Bytes::from(body.to_owned()), now).await)
    }

    fn asked(&self) -> Vec<String> {
        self.amazon.asked.lock().unwrap().clone()
    }
}

/// A minute after the notifications.
fn now() -> Timestamp {
    time("2012-05-02T00:55:06Z")
}

fn with(message: &str, field: &str, value: impl Into<Value>) -> String {
    let mut message: Value = serde_json::from_str(message).unwrap();
    message[field] = value.into();
    message.to_string()
}

#[tokio::test]
async fn both_signature_versions_are_verified_and_the_certificate_is_fetched_once() {
    let setup = Setup::new(&[(CERTIFICATE_URL, CERTIFICATE)]);
    for notification in [V1, V2, V1] {
        assert_eq!(setup.take(notification, now()).await, (200, 1));
    }
    assert_eq!(setup.asked(), [CERTIFICATE_URL]);
}

#[tokio::test]
async fn the_event_is_the_message_in_the_notification() {
    let setup = Setup::new(&[(CERTIFICATE_URL, CERTIFICATE)]);
    let received = setup.bridge.receive("ses", &headers(&[]), V2.into(), now()).await.unwrap();
    let event = std::str::from_utf8(&received[0].payload).unwrap();
    assert_eq!(told("ses", event), "recipient@example.com HardBounced: smtp; 550 5.1.1 user unknown");
}

#[tokio::test]
async fn what_was_altered_is_refused() {
    let setup = Setup::new(&[(CERTIFICATE_URL, CERTIFICATE)]);
    for (field, value) in [
        ("Message", "Hello world!"),
        ("MessageId", "another"),
        ("Subject", "another"),
        ("Timestamp", "2012-05-02T00:54:06.656Z"),
        ("TopicArn", "arn:aws:sns:eu-west-1:1:other"),
        ("Type", "UnsubscribeConfirmation"),
        ("SignatureVersion", "1"),
        ("SignatureVersion", "3"),
        ("Signature", "EXAMPLEw6JRN"),
        ("Signature", "not base64!"),
        ("Signature", ""),
    ] {
        assert_eq!(setup.take(&with(V2, field, value), now()).await, (401, 0), "{field} {value}");
    }
    assert_eq!(setup.take(&with(V2, "Subject", Value::Null), now()).await, (401, 0));
}

#[tokio::test]
async fn a_certificate_is_fetched_from_amazons_host_in_the_topics_region_and_nowhere_else() {
    let setup = Setup::new(&[(CERTIFICATE_URL, CERTIFICATE)]);
    for url in [
        "http://sns.us-west-2.amazonaws.com/SimpleNotificationService-f3.pem",
        "https://sns.us-west-2.amazonaws.com.attacker.example/x.pem",
        "https://attacker.example/sns.us-west-2.amazonaws.com/x.pem",
        "https://sns.us-west-2.amazonaws.com@attacker.example/x.pem",
        "https://user:password@sns.us-west-2.amazonaws.com/x.pem",
        "https://sns.us-west-2.amazonaws.com:8443/x.pem",
        "https://sns.eu-west-1.amazonaws.com/x.pem",
        "https://sns.a/b.amazonaws.com/x.pem",
        "https://sns.attacker.example#.amazonaws.com/x.pem",
        "https://my-bucket.s3.us-west-2.amazonaws.com/x.pem",
        "https://sns.amazonaws.com/x.pem",
        "https://sns.us-west-2.amazonaws.com/x.exe?y=z.pem",
        "https://sns.us-west-2.amazonaws.com/x",
        "",
    ] {
        assert_eq!(setup.take(&with(V2, "SigningCertURL", url), now()).await, (401, 0), "{url}");
    }
    assert!(setup.asked().is_empty());
}

#[tokio::test]
async fn a_certificate_that_cannot_be_had_is_our_trouble_and_one_that_is_none_is_not() {
    let nothing = Setup::new(&[]);
    assert_eq!(nothing.take(V2, now()).await, (503, 0));
    assert_eq!(nothing.take(V2, now()).await, (503, 0));
    assert_eq!(nothing.asked().len(), 2, "tried again the next time");
    for page in [EXPIRED, "", "<html>", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert_eq!(Setup::new(&[(CERTIFICATE_URL, page)]).take(V2, now()).await, (401, 0), "{page}");
    }
}

#[tokio::test]
async fn another_topic_is_refused_before_anything_is_fetched() {
    let setup = Setup::with(
        &json!({"topic_arns": ["arn:aws:sns:us-west-2:123456789012:Other"]}),
        &[(CERTIFICATE_URL, CERTIFICATE)],
    );
    assert_eq!(setup.take(V2, now()).await, (401, 0));
    assert!(setup.asked().is_empty());
}

#[tokio::test]
async fn an_old_notification_is_refused() {
    let setup = Setup::new(&[(CERTIFICATE_URL, CERTIFICATE)]);
    assert_eq!(setup.take(V2, time("2012-05-02T01:54:06Z")).await, (200, 1));
    assert_eq!(setup.take(V2, time("2012-05-02T01:54:07Z")).await, (401, 0));
    assert_eq!(setup.take(V2, time("2012-05-02T00:40:00Z")).await, (401, 0));
}

#[tokio::test]
async fn a_subscription_is_confirmed_at_amazon() {
    let confirm = serde_json::from_str::<Value>(CONFIRMATION).unwrap()["SubscribeURL"].as_str().unwrap().to_owned();
    let at = time("2012-04-26T20:46:00Z");
    let setup = Setup::new(&[(CERTIFICATE_URL, CERTIFICATE), (&confirm, "<ConfirmSubscriptionResponse/>")]);
    assert_eq!(setup.take(CONFIRMATION, at).await, (200, 0));
    assert_eq!(setup.asked(), [CERTIFICATE_URL, &confirm]);

    let silent = Setup::new(&[(CERTIFICATE_URL, CERTIFICATE)]);
    assert_eq!(silent.take(CONFIRMATION, at).await, (503, 0), "SNS is to ask again");

    let setup = Setup::new(&[(CERTIFICATE_URL, CERTIFICATE)]);
    assert_eq!(setup.take(ELSEWHERE, at).await, (401, 0), "signed, but it leads elsewhere");
    assert_eq!(setup.take(&with(CONFIRMATION, "Token", "another"), at).await, (401, 0));
    assert_eq!(setup.asked(), [CERTIFICATE_URL], "nothing was confirmed");
}

#[tokio::test]
async fn what_holds_no_event_is_taken_without_one() {
    let setup = Setup::new(&[(CERTIFICATE_URL, CERTIFICATE)]);
    assert_eq!(setup.take(ENDED, time("2012-04-26T20:46:00Z")).await, (200, 0));
    assert_eq!(setup.take(GREETING, now()).await, (200, 0));
    assert_eq!(setup.asked(), [CERTIFICATE_URL]);
}

#[tokio::test]
async fn another_shape_is_malformed() {
    let setup = Setup::new(&[]);
    // The last is what comes with raw message delivery.
    for body in ["", "[]", "{}", &with(V2, "Type", "Other"), &with(V2, "Timestamp", "soon"), r#"{"eventType":"Send"}"#]
    {
        assert_eq!(setup.take(body, now()).await, (400, 0), "{body}");
    }
}

#[test]
fn a_topic_must_be_set_since_anybody_can_have_one() {
    for (topics, told) in [(json!([]), "webhooks.ses.topic_arns is not set"), (json!(["MyTopic"]), "is not a topic")] {
        let refused = Bridge::new(&settings(json!({"ses": {"topic_arns": topics}}))).err().unwrap().to_string();
        assert!(refused.contains(told), "{refused}");
    }
}

/// <https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-examples.html>
fn event(name: &str, key: &str, about: &Value) -> String {
    json!({
        "eventType": name,
        key: about,
        "mail": {
            "timestamp": "2016-10-14T05:02:16.645Z", "source": "sender@example.com", "sendingAccountId": "123456789012",
            "messageId": "7c191be45-e9aedb9a-02f9-4d12-a87d-dd0099a07f8a-000000", "destination": ["recipient@example.com"],
            "tags": {"ses:configuration-set": ["ConfigSet"], "send_key": ["5f2c91"], "lead_id": ["ld_01"],
                     "sequence": ["welcome"], "step": ["day-2"]}
        }
    })
    .to_string()
}

fn bounce(kind: &str, sub: &str) -> Value {
    json!({
        "bounceType": kind, "bounceSubType": sub, "timestamp": "2017-08-05T00:41:02.669Z",
        "bouncedRecipients": [{"emailAddress": "recipient@example.com"}], "feedbackId": "01000157c44f053b"
    })
}

fn complaint(more: &Value) -> Value {
    let mut complaint = json!({
        "complainedRecipients": [{"emailAddress": "recipient@example.com"}], "timestamp": "2017-08-05T00:41:02.669Z",
        "feedbackId": "01000157c44c8de0"
    });
    complaint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    complaint
}

fn preferences(all: bool, topic: &str) -> Value {
    json!({
        "contactList": "ContactListName", "timestamp": "2022-01-12T01:00:17.910Z", "source": "UnsubscribeHeader",
        "newTopicPreferences": {"unsubscribeAll": all, "topicSubscriptionStatus": [{"topicName": "News", "subscriptionStatus": topic}]},
        "oldTopicPreferences": {"unsubscribeAll": false, "topicSubscriptionStatus": [{"topicName": "News", "subscriptionStatus": "OptOut"}]}
    })
}

#[test]
fn every_event_says_what_it_means() {
    let when = |more: Value| {
        let mut about = json!({"timestamp": "2017-08-09T22:00:19.652Z"});
        about.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        about
    };
    for (name, key, about, line) in [
        ("Send", "send", json!({}), "Accepted"),
        (
            "Delivery",
            "delivery",
            when(json!({"recipients": ["recipient@example.com"], "smtpResponse": "250 2.6.0 Message received"})),
            "Delivered: 250 2.6.0 Message received",
        ),
        (
            "DeliveryDelay",
            "deliveryDelay",
            when(
                json!({"delayType": "TransientCommunicationFailure", "delayedRecipients": [{"emailAddress": "recipient@example.com", "diagnosticCode": "smtp; 421 4.4.2 Connection dropped"}]}),
            ),
            "Deferred: smtp; 421 4.4.2 Connection dropped",
        ),
        ("Open", "open", when(json!({"ipAddress": "192.0.2.1"})), "Opened"),
        ("Click", "click", when(json!({"link": "http://docs.aws.amazon.com/"})), "Clicked"),
        ("Reject", "reject", json!({"reason": "Bad content"}), "Dropped { because: None }: Bad content"),
        (
            "Rendering Failure",
            "failure",
            json!({"errorMessage": "Attribute 'x' is not present"}),
            "Dropped { because: None }: Attribute 'x' is not present",
        ),
        ("Bounce", "bounce", bounce("Permanent", "General"), "HardBounced: General"),
        ("Bounce", "bounce", bounce("Permanent", "NoEmail"), "HardBounced: NoEmail"),
        ("Bounce", "bounce", bounce("Permanent", "Suppressed"), "Dropped { because: Some(HardBounce) }: Suppressed"),
        (
            "Bounce",
            "bounce",
            bounce("Permanent", "OnAccountSuppressionList"),
            "Dropped { because: Some(HardBounce) }: OnAccountSuppressionList",
        ),
        (
            "Bounce",
            "bounce",
            bounce("Permanent", "UnsubscribedRecipient"),
            "Dropped { because: Some(Unsubscribe) }: UnsubscribedRecipient",
        ),
        ("Bounce", "bounce", bounce("Transient", "MailboxFull"), "SoftBounced: MailboxFull"),
        ("Bounce", "bounce", bounce("Undetermined", "Undetermined"), "SoftBounced: Undetermined"),
        ("Complaint", "complaint", complaint(&json!({"complaintFeedbackType": "abuse"})), "Complained: abuse"),
        ("Complaint", "complaint", complaint(&json!({"complaintSubType": null})), "Complained"),
        (
            "Complaint",
            "complaint",
            complaint(&json!({"complaintSubType": "OnAccountSuppressionList"})),
            "Dropped { because: Some(Complaint) }",
        ),
        ("Subscription", "subscription", preferences(true, "OptIn"), "Unsubscribed: UnsubscribeHeader"),
        ("Subscription", "subscription", preferences(false, "OptOut"), "Unsubscribed: UnsubscribeHeader"),
        ("Subscription", "subscription", preferences(false, "OptIn"), "Resubscribed: UnsubscribeHeader"),
    ] {
        assert_eq!(told("ses", &event(name, key, &about)), format!("recipient@example.com {line}"), "{name} {about}");
    }
    assert_eq!(
        told("ses", &event("Complaint", "complaint", &complaint(&json!({"complaintFeedbackType": "not-spam"})))),
        ""
    );
    assert_eq!(told("ses", &event("Levitation", "levitation", &json!({}))), "");
}

#[test]
fn an_event_says_which_email_and_when() {
    let said = read("ses", &event("Open", "open", &json!({"timestamp": "2017-08-09T22:00:19.652Z"}))).remove(0);
    assert_eq!(said.occurred_at, time("2017-08-09T22:00:19.652Z"));
    assert_eq!(said.message_id.as_deref(), Some("7c191be45-e9aedb9a-02f9-4d12-a87d-dd0099a07f8a-000000"));
    assert_eq!(said.send_key.as_deref(), Some("5f2c91"));
    assert_eq!((said.sequence.as_deref(), said.step.as_deref()), (Some("welcome"), Some("day-2")));
    assert_eq!(said.id, "Open:7c191be45-e9aedb9a-02f9-4d12-a87d-dd0099a07f8a-000000:2017-08-09T22:00:19.652Z");
    assert_eq!(read("ses", &event("Bounce", "bounce", &bounce("Permanent", "General")))[0].id, "01000157c44f053b");
}

/// <https://docs.aws.amazon.com/ses/latest/dg/notification-examples.html>: without a configuration set, the first field
/// has another name; and one bounce may be of several people.
#[test]
fn a_notification_of_several_people_is_feedback_for_each() {
    let notification = json!({
        "notificationType": "Bounce",
        "bounce": {
            "bounceType": "Permanent", "bounceSubType": "General", "timestamp": "2016-01-27T14:59:38.237Z",
            "bouncedRecipients": [{"emailAddress": "jane@example.com", "status": "5.1.1", "diagnosticCode": "smtp; 550 5.1.1 <jane@example.com>... User"},
                                  {"emailAddress": "Richard Doe <richard@example.com>"}],
            "feedbackId": "00000138111222aa-33322211-cccc-cccc-cccc-ddddaaaa068a-000000"
        },
        "mail": {"timestamp": "2016-01-27T14:59:38.237Z", "messageId": "00000138111222aa-33322211-cccc-cccc-cccc-ddddaaaa0680-000000",
                 "destination": ["jane@example.com", "mary@example.com", "richard@example.com"]}
    });
    let line =
        "jane@example.com HardBounced: smtp; 550 5.1.1 [address] User | richard@example.com HardBounced: General";
    assert_eq!(told("ses", &notification.to_string()), line);
}

#[test]
fn a_fault_names_the_field() {
    for (event, field) in [
        ("{}".to_owned(), "`notificationType`"),
        (event("Bounce", "bounce", &json!({})), "`bounce.bounceType`"),
        (event("Bounce", "bounce", &json!({"bounceType": "Permanent", "feedbackId": "f"})), "`bounce.timestamp`"),
        (event("Open", "open", &json!({"timestamp": 7})), "`open.timestamp`"),
        (event("Delivery", "delivery", &json!({"timestamp": "2016-01-27T14:59:38.237Z"})), "`delivery.recipients`"),
        (
            event("Delivery", "delivery", &json!({"timestamp": "2016-01-27T14:59:38.237Z", "recipients": ["jane"]})),
            "`delivery.recipients.0`",
        ),
        (r#"{"eventType": "Send"}"#.to_owned(), "`mail.messageId`"),
    ] {
        let fault = fault("ses", &event);
        assert!(fault.contains(field), "{event}: {fault}");
    }
}
