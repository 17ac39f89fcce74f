use dripline_domain::FeedbackKind;
use dripline_esp::webhooks::Bridge;
use serde_json::json;

use crate::{answer, bridge, fault, headers, read, seconds, settings, told};

/// One delivery with its key, <https://github.com/sendgrid/sendgrid-nodejs/blob/main/packages/eventwebhook/src/eventwebhook.spec.js>.
/// The line end belongs to what is signed.
struct Vector {
    key: &'static str,
    signature: &'static str,
    timestamp: &'static str,
    body: &'static str,
}

const SINGLE: Vector = Vector {
    key: "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==",
    signature: "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=",
    timestamp: "1600112502",
    body: "[{\"email\":\"hello@world.com\",\"event\":\"dropped\",\"reason\":\"Bounced Address\",\"sg_event_id\":\"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA\",\"sg_message_id\":\"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0\",\"smtp-id\":\"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>\",\"timestamp\":1600112492}]\r\n",
};

const SEVERAL: Vector = Vector {
    key: "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEQ4LIFtWztlsF7skFqOncjD1lun4H5w8XOhyOArHW9RcIx/FfEzx6cikC/yPfUvwaX/JScE7Fc9CJD2afQ9Ok3Q==",
    signature: "MEYCIQC/I4o6vCgqRYrTljjoVWB/GRWNtxeePlLMHr3x9ETeRQIhAIpV+03nREPTTHWSW0wIOA0EoMPdcNgXa70yCaqDJlu5",
    timestamp: "1619651159",
    body: "[{\"email\":\"invalid@gmail.com\",\"event\":\"processed\",\"send_at\":0,\"sg_event_id\":\"cHJvY2Vzc2VkLTE5OTQyMTEyLXFOd0JMZ1BRUWpXNkRKdktRd1NBYnctMA\",\"sg_message_id\":\"qNwBLgPQQjW6DJvKQwSAbw.filterdrecv-canary-547b64655b-cw6zx-1-6089EA4A-56.0\",\"smtp-id\":\"<qNwBLgPQQjW6DJvKQwSAbw@ismtpd0178p1mdw1.sendgrid.net>\",\"timestamp\":1619651146},\r\n{\"email\":\"invalid@gmail.com\",\"event\":\"bounce\",\"ip\":\"167.89.101.76\",\"reason\":\"552 5.2.2 The email account that you tried to reach is over quota and inactive. Please direct the recipient to https://support.google.com/mail/?p=OverQuotaPerm c17si1130468pgv.34 - gsmtp\",\"sg_event_id\":\"Ym91bmNlLTAtMTk5NDIxMTItcU53QkxnUFFRalc2REp2S1F3U0Fidy0w\",\"sg_message_id\":\"qNwBLgPQQjW6DJvKQwSAbw.filterdrecv-canary-547b64655b-cw6zx-1-6089EA4A-56.0\",\"smtp-id\":\"<qNwBLgPQQjW6DJvKQwSAbw@ismtpd0178p1mdw1.sendgrid.net>\",\"status\":\"5.2.2\",\"timestamp\":1619651147,\"tls\":1,\"type\":\"blocked\"}]\r\n",
};

/// The array of <https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event>, with a bounce of either type,
/// our custom arguments in one event, an event that SendGrid has for the account, and one of a kind that is yet to come.
const MIXED: &str = r#"[
  {"email":"example@test.com","timestamp":1513299569,"smtp-id":"<14c5d75ce93.dfd.64b469@ismtpd-555>","event":"processed","category":"cat facts","sg_event_id":"e1","sg_message_id":"14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0","send_key":"5f2c91","lead_id":"ld_01","sequence":"welcome","step":"day-2"},
  {"email":"example@test.com","timestamp":1513299569,"event":"deferred","category":["cat facts"],"sg_event_id":"e2","sg_message_id":"14c5d75ce93.0","response":"400 try again later","attempt":"5"},
  {"email":"example@test.com","timestamp":1513299569,"event":"delivered","sg_event_id":"e3","sg_message_id":"14c5d75ce93.0","response":"250 OK"},
  {"email":"example@test.com","timestamp":1513299569,"event":"open","sg_event_id":"e4","sg_message_id":"14c5d75ce93.0","useragent":"Mozilla/4.0","ip":"255.255.255.255","sg_machine_open":true},
  {"email":"example@test.com","timestamp":1513299569,"event":"click","sg_event_id":"e5","sg_message_id":"14c5d75ce93.0","url":"http://www.sendgrid.com/","url_offset":{"index":0,"type":"html"}},
  {"email":"example@test.com","timestamp":1513299569,"event":"bounce","sg_event_id":"e6","sg_message_id":"14c5d75ce93.0","reason":"500 unknown recipient","status":"5.0.0","type":"bounce","bounce_classification":"Invalid Address"},
  {"email":"example@test.com","timestamp":1513299569,"event":"bounce","sg_event_id":"e7","sg_message_id":"14c5d75ce93.0","reason":"421 too busy","status":"4.0.0","type":"blocked"},
  {"email":"example@test.com","timestamp":1513299569,"event":"dropped","sg_event_id":"e8","sg_message_id":"14c5d75ce93.0","reason":"Bounced Address","status":"5.0.0"},
  {"email":"example@test.com","timestamp":1513299569,"event":"spamreport","sg_event_id":"e9","sg_message_id":"14c5d75ce93.0"},
  {"email":"example@test.com","timestamp":1513299569,"event":"unsubscribe","sg_event_id":"e10","sg_message_id":"14c5d75ce93.0"},
  {"email":"example@test.com","timestamp":"1513299569","event":"group_unsubscribe","sg_event_id":"e11","asm_group_id":10},
  {"email":"example@test.com","timestamp":1513299569,"event":"group_resubscribe","sg_event_id":"e12","asm_group_id":10},
  {"event":"account_status_change","timestamp":1513299569,"type":"compliance_suspend","sg_event_id":"e13"},
  {"event":"levitated","email":7}
]"#;

/// Takes `body` with the vector's key and headers, at this time.
async fn take(vector: &Vector, body: &str, now: i64) -> (u16, usize) {
    let bridge = bridge(json!({"sendgrid": {"public_key": vector.key}}));
    let headers = headers(&[
        ("X-Twilio-Email-Event-Webhook-Signature", vector.signature),
        ("X-Twilio-Email-Event-Webhook-Timestamp", vector.timestamp),
    ]);
    answer(&bridge.receive("sendgrid", &headers, body.to_owned().into(), seconds(now)).await)
}

#[tokio::test]
async fn sendgrids_own_examples_are_taken() {
    assert_eq!(take(&SINGLE, SINGLE.body, 1_600_112_510).await, (200, 1));
    assert_eq!(take(&SEVERAL, SEVERAL.body, 1_619_651_160).await, (200, 2));
}

#[tokio::test]
async fn what_was_altered_forged_or_kept_too_long_is_refused() {
    let now = 1_600_112_510;
    // By one byte; without the line end; for another key; with another's signature; at another time.
    assert_eq!(take(&SINGLE, &SINGLE.body.replace("hello", "hallo"), now).await, (401, 0));
    assert_eq!(take(&SINGLE, SINGLE.body.trim(), now).await, (401, 0));
    assert_eq!(take(&Vector { key: SEVERAL.key, ..SINGLE }, SINGLE.body, now).await, (401, 0));
    assert_eq!(take(&Vector { signature: SEVERAL.signature, ..SINGLE }, SINGLE.body, now).await, (401, 0));
    assert_eq!(take(&Vector { timestamp: "1600112503", ..SINGLE }, SINGLE.body, now).await, (401, 0));
    for signature in ["", "not base64!", "MEUCIGHQ"] {
        assert_eq!(take(&Vector { signature, ..SINGLE }, SINGLE.body, now).await, (401, 0), "{signature}");
    }
    for timestamp in ["", "now", "9999999999999999999", "-1"] {
        assert_eq!(take(&Vector { timestamp, ..SINGLE }, SINGLE.body, now).await, (401, 0), "{timestamp}");
    }
    // The signature is right: a day later, as long as SendGrid tries, and an hour before its time.
    assert_eq!(take(&SINGLE, SINGLE.body, 1_600_112_502 + 86_400).await, (200, 1));
    assert_eq!(take(&SINGLE, SINGLE.body, 1_600_112_502 + 86_401).await, (401, 0));
    assert_eq!(take(&SINGLE, SINGLE.body, 1_600_112_502 - 3_600).await, (401, 0));
}

#[tokio::test]
async fn a_delivery_without_the_headers_is_refused() {
    let bridge = bridge(json!({"sendgrid": {"public_key": SINGLE.key}}));
    let received = bridge.receive("sendgrid", &headers(&[]), SINGLE.body.into(), seconds(1_600_112_510)).await;
    assert_eq!(answer(&received), (401, 0));
}

#[tokio::test]
async fn an_array_is_taken_apart_byte_by_byte_and_one_bad_event_costs_no_other() {
    let open = bridge(json!({"sendgrid": {"insecure": true}}));
    let body = r#"[ {"event" : "open"}, 7 ,{"a":"b,]"}, [[]] ]"#;
    let events = open.receive("sendgrid", &headers(&[]), body.into(), seconds(0)).await.unwrap();
    let payloads: Vec<_> = events.iter().map(|event| std::str::from_utf8(&event.payload).unwrap()).collect();
    assert_eq!(payloads, [r#"{"event" : "open"}"#, "7", r#"{"a":"b,]"}"#, "[[]]"]);
    assert!(events.iter().all(|event| event.provider == "sendgrid"));
}

#[tokio::test]
async fn what_is_no_array_or_too_much_is_malformed() {
    let open = bridge(json!({"sendgrid": {"insecure": true}}));
    let array = |events: usize| format!("[{}]", vec!["{}"; events].join(","));
    let large = |bytes: usize| format!(r#"[{{"a":"{}"}}]"#, "x".repeat(bytes - 8));
    for (body, answered) in [
        ("[]".to_owned(), (200, 0)),
        (array(10_000), (200, 10_000)),
        (array(10_001), (400, 0)),
        (large(512 * 1024), (200, 1)),
        (large(512 * 1024 + 1), (400, 0)),
        ("{}".to_owned(), (400, 0)),
        ("[{}".to_owned(), (400, 0)),
        ("[{}] x".to_owned(), (400, 0)),
        (String::new(), (400, 0)),
    ] {
        let received = open.receive("sendgrid", &headers(&[]), body.clone().into(), seconds(0)).await;
        assert_eq!(answer(&received), answered, "{body:.40}");
    }
    let not_utf8 = open.receive("sendgrid", &headers(&[]), vec![b'[', b'"', 0xff, b'"', b']'].into(), seconds(0)).await;
    assert_eq!(answer(&not_utf8), (400, 0));
}

#[tokio::test]
async fn mixed_events_are_read_and_unknown_ones_say_nothing() {
    let open = bridge(json!({"sendgrid": {"insecure": true}}));
    let events = open.receive("sendgrid", &headers(&[]), MIXED.into(), seconds(0)).await.unwrap();
    let lines: Vec<_> =
        events.iter().map(|event| told("sendgrid", std::str::from_utf8(&event.payload).unwrap())).collect();
    let expected = [
        "example@test.com Accepted",
        "example@test.com Deferred: 400 try again later",
        "example@test.com Delivered: 250 OK",
        "example@test.com Opened",
        "example@test.com Clicked",
        "example@test.com HardBounced: 500 unknown recipient",
        "example@test.com SoftBounced: 421 too busy",
        "example@test.com Dropped { because: Some(HardBounce) }: Bounced Address",
        "example@test.com Complained",
        "example@test.com Unsubscribed",
        "example@test.com Unsubscribed",
        "example@test.com Resubscribed",
        "",
        "",
    ];
    assert_eq!(lines, expected);

    let first = read("sendgrid", std::str::from_utf8(&events[0].payload).unwrap()).remove(0);
    assert_eq!((first.provider.as_str(), first.id.as_str(), first.kind), ("sendgrid", "e1", FeedbackKind::Accepted));
    assert_eq!(first.occurred_at, seconds(1_513_299_569));
    // As `X-Message-Id` had it.
    assert_eq!(first.message_id.as_deref(), Some("14c5d75ce93"));
    assert_eq!(first.send_key.as_deref(), Some("5f2c91"));
    assert_eq!((first.sequence.as_deref(), first.step.as_deref()), (Some("welcome"), Some("day-2")));
}

#[test]
fn why_an_email_was_dropped_says_what_the_address_has_done() {
    for (reason, because) in [
        ("Bounced Address", "Some(HardBounce)"),
        ("Invalid", "Some(HardBounce)"),
        ("Spam Reporting Address", "Some(Complaint)"),
        ("Unsubscribed Address", "Some(Unsubscribe)"),
        ("Spam Content", "None"),
        ("Recipient List over Package Quota", "None"),
    ] {
        let event =
            json!({"event": "dropped", "email": "a@b.example", "timestamp": 1, "sg_event_id": "e", "reason": reason});
        let line = told("sendgrid", &event.to_string());
        assert_eq!(line, format!("a@b.example Dropped {{ because: {because} }}: {reason}"));
    }
}

#[test]
fn a_fault_names_the_field_and_nobody() {
    for (event, named) in [
        (r#"{"email":"joan@example.com"}"#, "`event`"),
        (r#"{"event":7}"#, "`event`"),
        (r#"{"event":"open","email":"joan@example.com","timestamp":1}"#, "`sg_event_id`"),
        (r#"{"event":"open","email":"joan@example.com","timestamp":"soon","sg_event_id":"e"}"#, "`timestamp`"),
        (r#"{"event":"open","email":"joan@example.com","timestamp":-1,"sg_event_id":"e"}"#, "`timestamp`"),
        (r#"{"event":"open","email":"joan@example.com","timestamp":1e300,"sg_event_id":"e"}"#, "`timestamp`"),
        (r#"{"event":"open","email":["joan@example.com"],"timestamp":1,"sg_event_id":"e"}"#, "`email`"),
        (r#"{"event":"dropped","email":"joan@invalid","timestamp":1,"sg_event_id":"e","reason":"Invalid"}"#, "`email`"),
        ("[]", "not an object"),
        ("{", "no JSON"),
    ] {
        let fault = fault("sendgrid", event);
        assert!(fault.contains(named) && !fault.contains("joan"), "{event}: {fault}");
    }
    let long = json!({"event": "open", "email": "a@b.example", "timestamp": 1, "sg_event_id": "e".repeat(201)});
    assert!(fault("sendgrid", &long.to_string()).contains("200"));
}

#[test]
fn a_reason_is_short_and_names_no_address() {
    let reason = format!("550 5.1.1 <Example@Test.com>: user jane.doe@other.example unknown {}", "x ".repeat(400));
    let event = json!({"event": "bounce", "type": "bounce", "email": "example@test.com", "timestamp": 1, "sg_event_id": "e", "reason": reason});
    let kept = read("sendgrid", &event.to_string()).remove(0).reason.unwrap();
    assert!(kept.starts_with("550 5.1.1 [address] user [address] unknown x"), "{kept}");
    assert_eq!(kept.chars().count(), 300);
}

#[test]
fn what_others_put_into_our_fields_is_not_ours() {
    let event = json!({"event": "open", "email": "a@b.example", "timestamp": 1, "sg_event_id": "e", "send_key": 7, "sequence": {"a": 1}, "step": "x".repeat(201)});
    let said = read("sendgrid", &event.to_string()).remove(0);
    assert_eq!((said.send_key, said.sequence, said.step), (None, None, None));
}

#[test]
fn a_key_that_is_none_is_told() {
    for key in ["", "secret", "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE"] {
        let refused = Bridge::new(&settings(json!({"sendgrid": {"public_key": key}}))).err().unwrap().to_string();
        assert!(refused.contains("webhooks.sendgrid.public_key"), "{refused}");
    }
}
