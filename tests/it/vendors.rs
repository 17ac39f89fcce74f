//! The way back, from a vendor's signed event at the door to what becomes of the lead: each event speaks of an email that
//! was really sent, and carries what the vendor hands back of it.
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER;
use dripline_stand_in::{Accepted, Fault, FaultKind, Vendor};
use dripline_test_support::{SendgridKey, until};
use futures_util::future::join_all;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::feedback::{events, now, transactional, until_settled};
use crate::statistics::until_counted;
use crate::system::System;
use crate::webhooks;

const MAILGUN_KEY: &str = "a signing key of Mailgun's";
const POSTMARK_PASSWORD: &str = "a password of Postmark's";

const EVERY_VENDOR: [Vendor; 4] = [Vendor::SendGrid, Vendor::Mailgun, Vendor::Postmark, Vendor::Resend];

/// What vendors tell.
#[derive(Debug, Clone, Copy)]
enum Tells {
    Delivered,
    Opened,
    Clicked,
    HardBounced,
    SoftBounced,
    Complained,
}

/// A system that takes the events of its vendor, and the vendor's side of them.
struct Setup {
    system: System,
    vendor: Vendor,
    key: SendgridKey,
    /// Of events and deliveries, each its own.
    ids: AtomicU64,
}

/// As it stands in paths and settings.
fn name(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::SendGrid => "sendgrid",
        Vendor::Mailgun => "mailgun",
        Vendor::Postmark => "postmark",
        Vendor::Resend => "resend",
    }
}

impl Setup {
    async fn of(vendor: Vendor) -> Self {
        let mut system = System::new(name(vendor)).await;
        let key = SendgridKey::generate().unwrap();
        match vendor {
            Vendor::SendGrid => system.set("DRIPLINE_WEBHOOKS__SENDGRID__PUBLIC_KEY", &key.public_key().unwrap()),
            Vendor::Mailgun => system.set("DRIPLINE_WEBHOOKS__MAILGUN__SIGNING_KEY", MAILGUN_KEY),
            Vendor::Postmark => {
                system.set("DRIPLINE_WEBHOOKS__POSTMARK__USERNAME", "postmark");
                system.set("DRIPLINE_WEBHOOKS__POSTMARK__PASSWORD", POSTMARK_PASSWORD);
            }
            Vendor::Resend => webhooks::take(&mut system),
        }
        Self { system, vendor, key, ids: AtomicU64::new(1) }
    }

    fn id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    async fn lead(&self, name: &str) {
        self.system.publish("leads.new", &json!({"email": format!("{name}@example.com")}).to_string()).await;
    }

    /// The email of this step to this person, as the vendor took it.
    async fn email(&self, name: &str, step: &str) -> Accepted {
        let mut email = None;
        let taken = until(format!("{name} is sent {step}"), async || {
            let address = format!("{name}@example.com");
            let mut accepted = self.system.accepted().await.into_iter();
            email = accepted.find(|email| *email.to == *address && *email.step == *step);
            email.is_some()
        });
        taken.await.unwrap_or_else(|error| panic!("{error}\n{}", self.system.log()));
        email.unwrap()
    }

    /// Such an event of an email, in the vendor's form.
    fn event(&self, email: &Accepted, tells: Tells) -> Value {
        match self.vendor {
            Vendor::SendGrid => self.of_sendgrid(
                email,
                &match tells {
                    Tells::Delivered => json!({"event": "delivered", "response": "250 OK"}),
                    Tells::Opened => json!({"event": "open", "useragent": "Mozilla/5.0"}),
                    Tells::Clicked => json!({"event": "click", "url": "https://acme.example"}),
                    Tells::HardBounced => json!({"event": "bounce", "type": "bounce", "reason": "550 no such user"}),
                    Tells::SoftBounced => json!({"event": "bounce", "type": "blocked", "reason": "421 too busy"}),
                    Tells::Complained => json!({"event": "spamreport"}),
                },
            ),
            Vendor::Mailgun => self.of_mailgun(
                email,
                &match tells {
                    Tells::Delivered => json!({"event": "delivered"}),
                    Tells::Opened => json!({"event": "opened"}),
                    Tells::Clicked => json!({"event": "clicked", "url": "https://acme.example"}),
                    Tells::HardBounced => {
                        let status = json!({"message": "550 no such user", "code": 550});
                        json!({"event": "failed", "severity": "permanent", "reason": "bounce", "delivery-status": status})
                    }
                    Tells::SoftBounced => json!({"event": "failed", "severity": "permanent", "reason": "old"}),
                    Tells::Complained => json!({"event": "complained"}),
                },
            ),
            Vendor::Postmark => {
                let bounce = |kind: &str| {
                    json!({"RecordType": "Bounce", "ID": self.id(), "Type": kind, "Details": "550 no such user",
                        "Email": &email.to, "BouncedAt": rfc3339()})
                };
                of_postmark(
                    email,
                    &match tells {
                        Tells::Delivered => {
                            json!({"RecordType": "Delivery", "Recipient": &email.to, "DeliveredAt": rfc3339()})
                        }
                        Tells::Opened => {
                            json!({"RecordType": "Open", "Recipient": &email.to, "ReceivedAt": rfc3339()})
                        }
                        Tells::Clicked => {
                            json!({"RecordType": "Click", "Recipient": &email.to, "ReceivedAt": rfc3339()})
                        }
                        Tells::HardBounced => bounce("HardBounce"),
                        Tells::SoftBounced => bounce("SoftBounce"),
                        Tells::Complained => json!({"RecordType": "SpamComplaint", "ID": self.id(),
                            "Email": &email.to, "BouncedAt": rfc3339()}),
                    },
                )
            }
            Vendor::Resend => {
                let bounce = |kind: &str| json!({"bounce": {"message": "550 no such user", "type": kind}});
                let (kind, more) = match tells {
                    Tells::Delivered => ("email.delivered", json!({})),
                    Tells::Opened => ("email.opened", json!({})),
                    Tells::Clicked => ("email.clicked", json!({"click": {"link": "https://acme.example"}})),
                    Tells::HardBounced => ("email.bounced", bounce("Permanent")),
                    Tells::SoftBounced => ("email.bounced", bounce("Transient")),
                    Tells::Complained => ("email.complained", json!({})),
                };
                let data = with(json!({"email_id": &email.message_id, "to": [&email.to], "tags": tags(email)}), &more);
                json!({"type": kind, "created_at": rfc3339(), "data": data})
            }
        }
    }

    fn of_sendgrid(&self, email: &Accepted, more: &Value) -> Value {
        let own = json!({
            "email": &email.to,
            "timestamp": now() / 1_000,
            "sg_event_id": format!("event-{}", self.id()),
            "sg_message_id": format!("{}.filter0001.16648.5515E0B88.0", email.message_id),
        });
        with(with(own, &tags(email)), more)
    }

    fn of_mailgun(&self, email: &Accepted, more: &Value) -> Value {
        let own = json!({
            "id": format!("event-{}", self.id()),
            // Seconds with a fraction.
            "timestamp": format!("{}.{:03}", now() / 1_000, now() % 1_000),
            "recipient": &email.to,
            "message": {"headers": {"message-id": email.message_id.trim_matches(['<', '>'])}},
            "user-variables": tags(email),
        });
        with(own, more)
    }

    /// Delivers one event as the vendor does; gives the status of the answer.
    async fn post(&self, event: &Value) -> u16 {
        let request = self.system.http.post(self.system.gateway(&format!("/webhooks/{}", name(self.vendor))));
        let request = match self.vendor {
            Vendor::SendGrid => {
                let (timestamp, body) = (now() / 1_000, json!([event]).to_string());
                let request = request.header(SendgridKey::TIMESTAMP, timestamp);
                request.header(SendgridKey::SIGNATURE, self.key.sign(timestamp, &body).unwrap()).body(body)
            }
            Vendor::Mailgun => request.body(mailgun_delivery(&format!("token-{}", self.id()), event)),
            Vendor::Postmark => {
                let credentials = STANDARD.encode(format!("postmark:{POSTMARK_PASSWORD}"));
                request.header("authorization", format!("Basic {credentials}")).body(event.to_string())
            }
            Vendor::Resend => {
                let body = event.to_string();
                return webhooks::deliver(&self.system, &body, &body).await.status().as_u16();
            }
        };
        request.send().await.unwrap().status().as_u16()
    }

    /// Delivers, and sees it taken.
    async fn tell(&self, event: &Value) {
        assert_eq!(self.post(event).await, 200, "{event:#}\n{}", self.system.log());
    }

    async fn document(&self, name: &str) -> Value {
        self.system.document(&format!("{name}=40example.com")).await.unwrap_or_default()
    }

    async fn until_status(&self, name: &str, status: &str) -> Value {
        self.system.until_status(&format!("{name}=40example.com"), status).await
    }

    async fn steps_of(&self, name: &str) -> Vec<String> {
        self.system.steps_of(&format!("{name}@example.com")).await
    }

    /// Why these people must not be mailed, by the command; none where they may be.
    async fn causes(&self, names: &[&str]) -> Vec<Option<String>> {
        let (code, out, err) = self.system.run(&["suppression", "list", "--json"]).await;
        assert_eq!(code, Some(0), "{err}");
        let listed: Vec<Value> = serde_json::from_str(&out).unwrap();
        let cause = |name: &&str| {
            let entry = listed.iter().find(|entry| entry["address"] == format!("{name}@example.com"))?;
            entry["cause"].as_str().map(str::to_owned)
        };
        names.iter().map(cause).collect()
    }
}

/// What every email of ours carries, and every vendor hands back.
fn tags(email: &Accepted) -> Value {
    json!({"send_key": &email.send_key, "lead_id": &email.lead_id, "sequence": &email.sequence, "step": &email.step})
}

fn with(mut event: Value, more: &Value) -> Value {
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

fn of_postmark(email: &Accepted, more: &Value) -> Value {
    let own = json!({"MessageID": &email.message_id, "MessageStream": "outbound", "Metadata": tags(email)});
    with(own, more)
}

/// An address that came onto Postmark's list by this person's wish, or off it.
fn subscription_change(email: &Accepted, suppress: bool, reason: Option<&str>) -> Value {
    let more = json!({"RecordType": "SubscriptionChange", "ChangedAt": rfc3339(), "Recipient": &email.to,
        "Origin": "Recipient", "SuppressSending": suppress, "SuppressionReason": reason});
    of_postmark(email, &more)
}

fn mailgun_delivery(token: &str, event: &Value) -> String {
    let timestamp = (now() / 1_000).to_string();
    let mac = Hmac::<Sha256>::new_from_slice(MAILGUN_KEY.as_bytes()).unwrap();
    let mac = mac.chain_update(&timestamp).chain_update(token).finalize();
    let signature = HEXLOWER.encode(&mac.into_bytes());
    let signed = json!({"timestamp": timestamp, "token": token, "signature": signature});
    json!({"signature": signed, "event-data": event}).to_string()
}

/// Now, as vendors write it.
fn rfc3339() -> String {
    jiff::Timestamp::now().to_string()
}

/// Each enrolment's state.
fn states(lead: &Value) -> Vec<&str> {
    lead["enrollments"].as_array().unwrap().iter().map(|enrolment| enrolment["status"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_hard_bounce_and_a_complaint_told_by_any_vendor_end_every_enrolment_and_nothing_is_sent_afterwards() {
    join_all(EVERY_VENDOR.map(bounce_and_complaint)).await;
}

async fn bounce_and_complaint(vendor: Vendor) {
    let setup = Setup::of(vendor).await;
    setup.system.sequence("welcome", &[("first", "0s"), ("second", "3s")]);
    setup.system.sequence("tips", &[("only", "3d")]);
    let _dripline = setup.system.start("run").await;
    for name in ["jane", "joe"] {
        setup.lead(name).await;
        setup.system.publish("leads.new", &format!(r#"{{"email": "{name}@example.com", "sequence": "tips"}}"#)).await;
    }
    let (janes, joes) = (setup.email("jane", "first").await, setup.email("joe", "first").await);
    setup.tell(&setup.event(&janes, Tells::HardBounced)).await;
    setup.tell(&setup.event(&joes, Tells::Complained)).await;

    for (name, status, event) in [("jane", "HARD_BOUNCE", "hard_bounced"), ("joe", "COMPLAINED", "complained")] {
        let lead = setup.until_status(name, status).await;
        assert_eq!(states(&lead), ["STOPPED", "STOPPED"], "{vendor:?}: {lead:#}");
        assert_eq!(lead["nextActionTimestamp"], Value::Null, "{vendor:?}: {lead:#}");
        assert_eq!(events(&lead).iter().filter(|it| **it == event).count(), 1, "{vendor:?}: {lead:#}");
    }
    let causes = setup.causes(&["jane", "joe"]).await;
    assert_eq!(causes, [Some("hard_bounce".to_owned()), Some("complaint".to_owned())], "{vendor:?}");

    // They come again, beside one who may be mailed, and who has had everything when they would have had theirs.
    for name in ["jane", "joe", "kim"] {
        setup.lead(name).await;
    }
    setup.until_status("kim", "COMPLETED").await;
    for name in ["jane", "joe"] {
        assert_eq!(setup.steps_of(name).await, ["first"], "{vendor:?}: {name}");
    }
    assert_eq!(setup.system.depth("REJECTED").await, 0, "{vendor:?}");
}

#[tokio::test]
async fn three_emails_that_bounced_softly_suppress_and_one_that_did_so_three_times_does_not() {
    let setup = Setup::of(Vendor::SendGrid).await;
    setup.system.sequence("welcome", &[("first", "0s"), ("second", "0s"), ("third", "0s"), ("fourth", "1d")]);
    let _dripline = setup.system.start("run").await;
    setup.lead("jane").await;
    let third = setup.email("jane", "third").await;
    let first = setup.email("jane", "first").await;
    for _ in 0..3 {
        setup.tell(&setup.event(&first, Tells::SoftBounced)).await;
    }
    until_settled(&setup.system).await;
    assert_eq!(
        setup.until_status("jane", "ACTIVE").await["history"].as_array().unwrap().len(),
        5,
        "one of them counts"
    );

    setup.tell(&setup.event(&third, Tells::SoftBounced)).await;
    setup.tell(&setup.event(&setup.email("jane", "second").await, Tells::SoftBounced)).await;
    let jane = setup.until_status("jane", "SUPPRESSED").await;
    assert_eq!((states(&jane), &jane["nextActionTimestamp"]), (vec!["STOPPED"], &Value::Null), "{jane:#}");
    assert_eq!(setup.causes(&["jane"]).await, [Some("soft_bounces".to_owned())]);
}

#[tokio::test]
async fn what_became_of_an_email_counts_once_although_it_is_told_five_times_and_backwards() {
    join_all(EVERY_VENDOR.map(told_five_times)).await;
}

async fn told_five_times(vendor: Vendor) {
    let setup = Setup::of(vendor).await;
    setup.system.sequence("welcome", &[("first", "0s"), ("second", "1d")]);
    let _dripline = setup.system.start("run").await;
    setup.lead("jane").await;
    let email = setup.email("jane", "first").await;
    let events = [Tells::Clicked, Tells::Opened, Tells::Delivered].map(|tells| setup.event(&email, tells));
    for event in events.iter().flat_map(|event| [event; 5]) {
        setup.tell(event).await;
    }
    until_settled(&setup.system).await;
    let counted = until_counted(&setup.system).await;
    let counts = &counted["sequences"]["welcome"]["versions"]["1"]["steps"]["first"];
    let of = |kind: &str| counts[kind].as_u64().unwrap_or_default();
    assert_eq!(["sent", "delivered", "opened", "clicked"].map(of), [1; 4], "{vendor:?}: {counted:#}");
    assert_eq!(counted["unattributed"]["delivered"], 0, "{vendor:?}: {counted:#}");
    assert_eq!(setup.document("jane").await["status"], "ACTIVE", "{vendor:?}");
}

#[tokio::test]
async fn an_email_in_doubt_is_settled_when_sendgrid_tells_of_it_and_the_sequence_goes_on() {
    let setup = Setup::of(Vendor::SendGrid).await;
    let _dripline = setup.system.start("run").await;
    setup.system.fault(&Fault { count: Some(1), ..Fault::new(FaultKind::DropAfterAccept) }).await;
    setup.lead("jane").await;
    let email = setup.email("jane", "first").await;
    setup.until_status("jane", "IN_DOUBT").await;
    setup.tell(&setup.of_sendgrid(&email, &json!({"event": "processed"}))).await;

    let jane = setup.until_status("jane", "COMPLETED").await;
    assert_eq!(events(&jane), ["enrolled", "in_doubt", "resolved", "sent", "sent", "sent", "completed"], "{jane:#}");
    assert_eq!(setup.steps_of("jane").await, ["first", "second", "third"]);
    let summary = setup.system.summary().await;
    assert_eq!((summary.duplicates, summary.faulted), (0, 1));
}

#[tokio::test]
async fn a_transactional_sequence_goes_on_after_an_unsubscribe_told_by_the_vendor_and_ends_at_a_bounce() {
    let setup = Setup::of(Vendor::SendGrid).await;
    setup.system.sequence("welcome", &[("first", "0s"), ("second", "1d")]);
    transactional(&setup.system, "receipts", &[("paid", "0s"), ("sent", "1s"), ("arrived", "1d")]);
    let _dripline = setup.system.start("run").await;
    setup.lead("jane").await;
    let first = setup.email("jane", "first").await;
    setup.tell(&setup.of_sendgrid(&first, &json!({"event": "unsubscribe"}))).await;
    setup.until_status("jane", "UNSUBSCRIBED").await;
    setup.system.publish("leads.new", r#"{"email": "jane@example.com", "sequence": "receipts"}"#).await;
    let sent = setup.email("jane", "sent").await;
    assert_eq!(setup.steps_of("jane").await, ["first", "paid", "sent"]);

    setup.tell(&setup.event(&sent, Tells::HardBounced)).await;
    let jane = setup.until_status("jane", "HARD_BOUNCE").await;
    assert_eq!((states(&jane), &jane["nextActionTimestamp"]), (vec!["STOPPED"; 2], &Value::Null), "{jane:#}");
}

#[tokio::test]
async fn a_subscription_that_postmark_says_has_changed_ends_and_comes_back_and_a_bounce_stays() {
    let setup = Setup::of(Vendor::Postmark).await;
    setup.system.sequence("welcome", &[("first", "0s"), ("second", "4s")]);
    let _dripline = setup.system.start("run").await;
    for (name, reason, status) in [("jane", "ManualSuppression", "UNSUBSCRIBED"), ("joe", "HardBounce", "HARD_BOUNCE")]
    {
        setup.lead(name).await;
        let email = setup.email(name, "first").await;
        setup.tell(&subscription_change(&email, true, Some(reason))).await;
        let lead = setup.until_status(name, status).await;
        assert_eq!((states(&lead), &lead["nextActionTimestamp"]), (vec!["STOPPED"], &Value::Null), "{lead:#}");
        setup.tell(&subscription_change(&email, false, None)).await;
    }
    let jane = setup.until_status("jane", "COMPLETED").await;
    assert!(events(&jane).contains(&"resumed"), "{jane:#}");
    assert_eq!(setup.steps_of("jane").await, ["first", "second"]);
    until_settled(&setup.system).await;
    let joe = setup.document("joe").await;
    assert_eq!((&joe["status"], states(&joe)), (&json!("HARD_BOUNCE"), vec!["STOPPED"]), "{joe:#}");
    assert_eq!(setup.causes(&["jane", "joe"]).await, [None, Some("hard_bounce".to_owned())]);
}

#[tokio::test]
async fn a_token_of_mailguns_that_comes_again_is_good_for_its_own_event_alone() {
    let setup = Setup::of(Vendor::Mailgun).await;
    setup.system.sequence("welcome", &[("first", "0s"), ("second", "1d")]);
    let _dripline = setup.system.start("run").await;
    setup.lead("jane").await;
    let email = setup.email("jane", "first").await;
    let post = async |event: &Value| {
        let url = setup.system.gateway("/webhooks/mailgun");
        let answer = setup.system.http.post(url).body(mailgun_delivery("the token", event)).send().await.unwrap();
        answer.status().as_u16()
    };
    let opened = setup.event(&email, Tells::Opened);
    assert_eq!(post(&opened).await, 200);
    // By Mailgun itself, which may not have had our answer.
    assert_eq!(post(&opened).await, 200);
    // By somebody who has seen it: the signature covers no event.
    assert_eq!(post(&setup.event(&email, Tells::Complained)).await, 401);
    until_settled(&setup.system).await;
    let jane = setup.document("jane").await;
    let seen = &jane["enrollments"][0]["emails"][0]["seen"];
    assert_eq!((&jane["status"], seen), (&json!("ACTIVE"), &json!(["opened"])), "{jane:#}");
    assert_eq!(setup.causes(&["jane"]).await, [None]);
}
