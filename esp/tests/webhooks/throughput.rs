//! How many events a second come through the verified path on one core. Not part of the tests: run in release, with
//! `cargo test --release -p dripline-esp --test webhooks -- --ignored --nocapture throughput`.
use std::time::Instant;

use bytes::Bytes;
use dripline_actors::ports::FeedbackReader;
use dripline_esp::webhooks::{Bridge, Webhooks};
use dripline_test_support::SendgridKey;
use reqwest::header::HeaderMap;
use serde_json::json;

use crate::{bridge, headers, seconds};

const SIGNED: u64 = 1_600_000_000;

/// A key of SendGrid's kind, and posts of so many events that are signed with it.
fn posts(count: usize, events: usize) -> (Bridge, Vec<(HeaderMap, Bytes)>) {
    let key = SendgridKey::generate().unwrap();
    let bridge = bridge(json!({"sendgrid": {"public_key": key.public_key().unwrap()}}));

    let post = |post: usize| {
        let event = |event: usize| {
            format!(
                r#"{{"email":"jane{event}@example.com","event":"delivered","response":"250 2.0.0 OK 1461095248 m143si2210036ioe.159 - gsmtp","sg_event_id":"ZyjAM5rnQmuI1KFInHQ3Nw{post}-{event}","sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0","smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>","timestamp":1600112492,"category":["welcome"],"send_key":"cb082a52804fa071481396d5e9130456","lead_id":"ld_5b1f0c9a7d3e48c2a6f09d1183b7e254","sequence":"welcome","step":"day-2"}}"#
            )
        };
        let body = format!("[{}]\r\n", (0..events).map(event).collect::<Vec<_>>().join(",\r\n"));
        let headers = headers(&[
            (SendgridKey::SIGNATURE, &key.sign(SIGNED, &body).unwrap()),
            (SendgridKey::TIMESTAMP, &SIGNED.to_string()),
        ]);
        (headers, Bytes::from(body))
    };
    (bridge, (0..count).map(post).collect())
}

#[tokio::test]
#[ignore = "a measurement"]
async fn throughput() {
    for (count, events) in [(20_000, 1), (2_000, 100)] {
        let (bridge, posts) = posts(count, events);
        let began = Instant::now();
        let mut received = Vec::with_capacity(count * events);
        for (headers, body) in &posts {
            received.extend(
                bridge.receive("sendgrid", headers, body.clone(), seconds(SIGNED.cast_signed())).await.unwrap(),
            );
        }
        let taken = began.elapsed();
        let began = Instant::now();
        let read: usize = received.iter().map(|event| Webhooks.read("sendgrid", &event.payload).unwrap().len()).sum();
        let reading = began.elapsed();
        assert_eq!(read, count * events);
        let rate = |time: std::time::Duration| f64::from(u32::try_from(read).unwrap()) / time.as_secs_f64();
        println!(
            "{events} a post: {:.0} events/s verified and split, {:.0} read, {:.0} both",
            rate(taken),
            rate(reading),
            rate(taken + reading)
        );
    }
}
