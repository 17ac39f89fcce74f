//! A cluster of three servers, of which one dies.
use std::time::Duration;

use async_nats::jetstream::{self, consumer};
use dripline_actors::ports::{Control, Controlled, Controls, Suppressions};
use dripline_domain::{Address, LeadIdKey, LeadKey, Timestamp};
use dripline_nats::{Connections, JetStreamControls, JetStreamSuppressions, Login, topology};
use dripline_test_support::{NatsCluster, until};
use futures_util::TryStreamExt;

/// Which servers serve this bucket's consumers: its watchers'.
async fn served_by(context: &jetstream::Context, bucket: &str) -> Vec<usize> {
    let Ok(stream) = context.get_stream(bucket).await else { return Vec::new() };
    let consumers: Vec<_> = stream.consumers().try_collect().await.unwrap_or_default();
    let server = |consumer: consumer::Info| consumer.cluster?.leader?.strip_prefix("test-")?.parse().ok();
    consumers.into_iter().filter_map(server).collect()
}

/// The connection holds, and so nothing tells the process that its watchers are deaf.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_suppressed_or_paused_is_known_although_the_server_of_the_watcher_died() {
    let mut cluster = NatsCluster::start(3).await.unwrap();
    let options = topology::Options {
        replicas: 3,
        ack_wait: Duration::from_secs(30),
        max_leads: None,
        outgoing_webhooks: Vec::new(),
    };
    // Of the others alone: these connections outlive the server that will die.
    let connections = dripline_nats::connect(&cluster.server(0).url(), &Login::None, "test").await.unwrap();
    let context = Connections::jetstream(&connections.general);
    topology::apply(&context, options).await.unwrap();
    let lead_ids = LeadIdKey::new("key");
    let jane = Address::parse("jane@example.com").unwrap();
    let (key, lead_id) = (LeadKey::of(&jane), lead_ids.lead_id(&jane));

    let (suppressions, controls, dies) = loop {
        let bucket = context.get_stream_no_info(topology::SUPPRESSIONS_BUCKET).await.unwrap();
        let suppressions = JetStreamSuppressions::watch(&connections, bucket, lead_ids.clone());
        let controls = JetStreamControls::watch(&connections).await.unwrap();
        let (mut of_suppressions, mut of_controls) = (Vec::new(), Vec::new());
        let served = until("both buckets are watched", async || {
            of_suppressions = served_by(&context, topology::SUPPRESSIONS_BUCKET).await;
            of_controls = served_by(&context, topology::CONTROLS_BUCKET).await;
            !of_suppressions.is_empty() && !of_controls.is_empty()
        });
        served.await.unwrap();
        match (&*of_suppressions, &*of_controls) {
            (&[one], &[other]) if one == other && one != 0 => break (suppressions, controls, one),
            _ => {
                // The servers choose at random. What is watched no more goes by itself, but only after a while.
                drop((suppressions, controls));
                for bucket in [topology::SUPPRESSIONS_BUCKET, topology::CONTROLS_BUCKET] {
                    let stream = context.get_stream(bucket).await.unwrap();
                    let consumers: Vec<_> = stream.consumer_names().try_collect().await.unwrap();
                    for consumer in consumers {
                        stream.delete_consumer(&consumer).await.unwrap();
                    }
                }
            }
        }
    };
    assert!(suppressions.get(&key, &lead_id).await.unwrap().is_empty());
    assert!(controls.paused_now(Controlled::Sequence("welcome")).await.unwrap().is_none());

    cluster.kill(dies).await.unwrap();
    // Others write.
    let others = async_nats::connect(cluster.server(0).url()).await.unwrap();
    let others = jetstream::new(others);
    let pause = Control {
        paused: true,
        reason: "wait".to_owned(),
        by: "ann".to_owned(),
        timestamp: Timestamp::from_millis(1_000),
    };
    let puts = [
        (format!("$KV.suppressions.{}", key.as_str()), r#"{"reason": "asked by phone"}"#.to_owned()),
        ("$KV.controls.sequence.welcome".to_owned(), serde_json::to_string(&pause).unwrap()),
    ];
    for (subject, value) in puts {
        let written = until(format!("{subject} is written"), async || {
            let ack = others.publish(subject.clone(), value.clone().into()).await;
            match ack {
                Ok(ack) => ack.await.is_ok(),
                Err(_) => false,
            }
        });
        written.await.unwrap();
    }
    let known = until("what was written is known", async || {
        !suppressions.get(&key, &lead_id).await.unwrap().is_empty()
            && controls.paused_now(Controlled::Sequence("welcome")).await.unwrap().as_ref() == Some(&pause)
    });
    // Memory counts for half a second.
    tokio::time::timeout(Duration::from_secs(1), known).await.unwrap().unwrap();
    let in_memory = until("the buckets are watched again", async || {
        controls.paused(Controlled::Sequence("welcome")).is_some()
            && served_by(&context, topology::SUPPRESSIONS_BUCKET).await.iter().any(|server| *server != dies)
    });
    in_memory.await.unwrap();
}
