//! A queue is pulled while the server leaves questions without an answer, as a cluster does that elects a leader.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use dripline::config::Config;
use dripline::service;
use dripline_actors::ports::{Inbox, Settle};
use dripline_nats::topology::{self, INTAKE, LEADS};
use dripline_nats::{JetStreamInbox, Login, Mender};
use futures_util::StreamExt;

use crate::system::System;

/// Where the inbox asks JetStream.
const API: &str = "through.the.test";

/// Hands on what is asked there; but not, once it is deaf, how consumers stand.
async fn hand_on(client: async_nats::Client, is_deaf: Arc<AtomicBool>) {
    let mut asked = client.subscribe(format!("{API}.>")).await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = asked.next().await {
            let subject = request.subject.strip_prefix(API).unwrap();
            let is_left = is_deaf.load(Ordering::Relaxed) && subject.starts_with(".CONSUMER.INFO.");
            if let (false, Some(reply)) = (is_left, request.reply) {
                client.publish_with_reply(format!("$JS.API{subject}"), reply, request.payload).await.unwrap();
            }
        }
    });
}

#[tokio::test]
async fn leads_come_although_nobody_says_how_far_their_queue_is_settled() {
    const LEADS_QUEUED: usize = 3;
    let system = System::new("resend").await;
    let connections = dripline_nats::connect(&system.server.url(), &Login::None, "test").await.unwrap();
    let options = service::topology_options(&Config::default());
    topology::apply(&jetstream::new(connections.general.clone()), options.clone()).await.unwrap();
    let is_deaf = Arc::new(AtomicBool::new(false));
    hand_on(async_nats::connect(system.server.url()).await.unwrap(), Arc::clone(&is_deaf)).await;
    let context = jetstream::with_prefix(connections.general.clone(), API);
    let consumer = context.get_consumer_from_stream(INTAKE, LEADS).await.unwrap();
    let stream = context.get_stream_no_info(LEADS).await.unwrap();
    let inbox = JetStreamInbox::trimming(consumer, Mender::new(connections, options), stream);
    for number in 0..LEADS_QUEUED {
        system.publish("leads.new", &format!(r#"{{"email": "lead-{number}@example.com"}}"#)).await;
    }

    is_deaf.store(true, Ordering::Relaxed);
    let began = Instant::now();
    for _ in 0..LEADS_QUEUED {
        let taken = inbox.pull(1, &mut |delivery| delivery.settle(Settle::Ack)).await.unwrap();
        assert_eq!(taken, 1);
    }
    // The client would wait ten seconds for each answer.
    assert!(began.elapsed() < Duration::from_secs(9), "it took {:?}", began.elapsed());
}
