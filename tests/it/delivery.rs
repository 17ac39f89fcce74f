//! Leads come in by every door, and their emails go out by every provider.
use dripline_test_support::until;
use serde_json::Value;

use crate::mailpit::Mailpit;
use crate::system::System;

#[tokio::test]
async fn a_lead_from_the_nats_cli_gets_every_email_in_order_from_every_vendor() {
    for vendor in ["sendgrid", "mailgun", "postmark", "resend"] {
        let system = System::new(vendor).await;
        let _dripline = system.start("run").await;
        system.publish("leads.new", r#"{"email": "Jane@Example.com", "firstName": "Jane", "plan": "pro"}"#).await;
        let document = system.until_status("jane=40example.com", "COMPLETED").await;
        assert_eq!(system.steps_of("jane@example.com").await, ["first", "second", "third"], "{vendor}");
        let summary = system.summary().await;
        assert_eq!((summary.duplicates, summary.refused), (0, 0), "{vendor}");
        let accepted = system.accepted().await;
        assert_eq!(&*accepted[0].subject, "Hello Jane", "{vendor}");
        assert_eq!(document["leadId"], *accepted[0].lead_id, "{vendor}");
        assert_eq!(document["attributes"]["plan"], "pro", "{vendor}");
        // The second email counts from the first one's actual sending.
        assert!(accepted[1].at >= accepted[0].at + 900, "{vendor}: {accepted:?}");
    }
}

#[tokio::test]
async fn the_document_shows_each_stage_to_the_plain_nats_cli() {
    let system = System::new("resend").await;
    system.sequence("welcome", &[("first", "2s"), ("second", "2s")]);
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    let key = "jane=40example.com";
    let new = system.until_status(key, "NEW").await;
    assert_eq!(new["enrollments"][0]["step"], 0);
    assert!(new["nextActionTimestamp"].as_i64() > new["createdAt"].as_i64());
    let active = system.until_status(key, "ACTIVE").await;
    assert_eq!(active["enrollments"][0]["step"], 1);
    assert_eq!(active["history"][1]["event"], "sent");
    let completed = system.until_status(key, "COMPLETED").await;
    assert_eq!(completed["nextActionTimestamp"], Value::Null);
    let events: Vec<_> = completed["history"].as_array().unwrap().iter().map(|entry| &entry["event"]).collect();
    assert_eq!(events, ["enrolled", "sent", "sent", "completed"]);
}

#[tokio::test]
async fn leads_come_in_by_http_as_json_and_as_a_plain_form() {
    let system = System::new("resend").await;
    let _dripline = system.start("run").await;
    let json = system.http.post(system.gateway("/v1/leads")).json(&serde_json::json!({"email": "jane@example.com"}));
    let response = json.send().await.unwrap();
    assert_eq!(response.status(), 202);
    let receipt: Value = response.json().await.unwrap();
    let form =
        system.http.post(system.gateway("/v1/leads/site")).form(&[("email", "joe@example.com"), ("firstName", "Joe")]);
    assert_eq!(form.send().await.unwrap().status(), 202);
    let document = system.until_status("jane=40example.com", "COMPLETED").await;
    assert_eq!(document["leadId"], receipt["leadId"], "the receipt names the lead");
    let document = system.until_status("joe=40example.com", "COMPLETED").await;
    assert_eq!(document["firstName"], "Joe");
    assert_eq!(system.summary().await.accepted, 6);
}

#[tokio::test]
async fn one_idempotency_key_is_one_lead_in_the_queue() {
    let system = System::new("resend").await;
    // Only the gateway: what is queued stays to be counted.
    let _gateway = system.start("gateway").await;
    for _ in 0..3 {
        let request = system.http.post(system.gateway("/v1/leads")).header("Idempotency-Key", "form-17");
        let response = request.json(&serde_json::json!({"email": "jane@example.com"})).send().await.unwrap();
        assert_eq!(response.status(), 202);
    }
    assert_eq!(system.waiting_leads().await, 1);
}

#[tokio::test]
async fn a_lead_comes_in_as_message_pack() {
    #[derive(serde::Serialize)]
    struct Lead {
        email: &'static str,
        #[serde(rename = "firstName")]
        first_name: &'static str,
    }
    let system = System::new("postmark").await;
    let _dripline = system.start("run").await;
    let client = async_nats::connect(system.server.url()).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Content-Type", "application/msgpack");
    let lead = rmp_serde::to_vec_named(&Lead { email: "jane@example.com", first_name: "Jane" }).unwrap();
    let context = async_nats::jetstream::new(client);
    context.publish_with_headers("leads.new.crm", headers, lead.into()).await.unwrap().await.unwrap();
    let document = system.until_status("jane=40example.com", "COMPLETED").await;
    assert_eq!(document["firstName"], "Jane");
}

#[tokio::test]
async fn a_source_leads_into_its_own_sequence_and_a_lead_may_name_another() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_SEQUENCES__SOURCES__WEBINAR", "webinar");
    system.sequence("webinar", &[("recording", "0s")]);
    system.sequence("onboarding", &[("hello", "0s")]);
    let _dripline = system.start("run").await;
    system.publish("leads.new.webinar", r#"{"email": "a@example.com"}"#).await;
    system.publish("leads.new.webinar", r#"{"email": "b@example.com", "sequence": "onboarding"}"#).await;
    system.publish("leads.new.other", r#"{"email": "c@example.com"}"#).await;
    system.until_accepted(5).await;
    assert_eq!(system.steps_of("a@example.com").await, ["recording"]);
    assert_eq!(system.steps_of("b@example.com").await, ["hello"]);
    assert_eq!(system.steps_of("c@example.com").await[0], "first");
}

#[tokio::test]
async fn a_second_arrival_changes_the_profile_and_sends_nothing_again() {
    let system = System::new("resend").await;
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    system.until_status("jane=40example.com", "COMPLETED").await;
    system.publish("leads.new", r#"{"email": " JANE@example.COM ", "firstName": "Jane"}"#).await;
    let merged = until("the profile is merged", async || {
        system.document("jane=40example.com").await.unwrap()["firstName"] == "Jane"
    });
    merged.await.unwrap();
    assert_eq!(system.waiting_leads().await, 0);
    assert_eq!(system.summary().await.accepted, 3);
}

#[tokio::test]
async fn a_suppressed_address_gets_no_further_email() {
    let system = System::new("resend").await;
    let _dripline = system.start("run").await;
    system.server.cli(["kv", "put", "suppressions", "no=40example.com", r#"{"reason": "complaint"}"#]).await.unwrap();
    system.publish("leads.new", r#"{"email": "no@example.com"}"#).await;
    system.until_status("no=40example.com", "SUPPRESSED").await;
    system.sequence("welcome", &[("first", "0s")]);
    system.publish("leads.new", r#"{"email": "later@example.com"}"#).await;
    system.until_accepted(1).await;
    // Between the first email and the second.
    system
        .server
        .cli(["kv", "put", "suppressions", "later=40example.com", r#"{"reason": "unsubscribed"}"#])
        .await
        .unwrap();
    let document = system.until_status("later=40example.com", "SUPPRESSED").await;
    assert_eq!(document["suppressed"], "unsubscribed");
    assert_eq!(system.summary().await.accepted, 1);
}

#[tokio::test]
async fn an_smtp_server_receives_text_and_html_and_a_stable_message_id() {
    let mut system = System::new("resend").await;
    let mailpit = Mailpit::start(&system.http).await;
    mailpit.is_the_provider_of(&mut system);
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "zoë@example.com", "firstName": "Zoë"}"#).await;
    system.publish("leads.new", r#"{"email": "jane@example.com", "firstName": "Zoë"}"#).await;
    system.until_status("jane=40example.com", "COMPLETED").await;
    let found = mailpit.get("search?query=to:jane@example.com").await;
    assert_eq!(found["messages_count"], 3, "{found:#}");
    let message = mailpit.get(&format!("message/{}", found["messages"][0]["ID"].as_str().unwrap())).await;
    assert_eq!(message["Subject"], "Hello Zoë");
    assert_eq!(message["From"]["Address"], "hello@acme.example");
    assert!(message["HTML"].as_str().unwrap().contains("<p>Hello Zoë</p>"), "{message:#}");
    assert!(message["Text"].as_str().unwrap().contains("Hello Zoë"), "{message:#}");
    assert!(message["MessageID"].as_str().unwrap().ends_with("@acme.example"), "{message:#}");
}
