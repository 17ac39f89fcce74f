//! Timers travel in groups: what that changes for nobody.
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use dripline_actors::Timer;
use dripline_actors::ports::{BatchResult, JournalLines, LeadStore, Put, Timers};
use dripline_domain::{Address, LeadKey, LeadStatus, Timestamp};
use dripline_nats::{Connections, JetStreamLeadStore, JetStreamTimers, Login, topology};
use dripline_test_support::until;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::feedback::now;
use crate::system::System;

fn key(number: usize) -> LeadKey {
    LeadKey::of(&Address::parse(&format!("lead-{number}@example.com")).unwrap())
}

async fn set(timers: &JetStreamTimers, leads: std::ops::Range<usize>, after: Duration) {
    let at = Timestamp::from_millis(i64::try_from(now()).unwrap()).plus(after);
    let timer = |number| Timer::new(key(number), at, 1);
    for set in join_all(leads.map(|number| timers.set(timer(number)))).await {
        set.unwrap();
    }
}

#[tokio::test]
async fn timers_that_are_set_together_share_messages_and_a_lead_that_is_erased_is_in_none_of_them() {
    let system = System::new("resend").await;
    let (code, _, err) = system.run(&["topology", "apply"]).await;
    assert_eq!(code, Some(0), "{err}");
    let connections = dripline_nats::connect(&system.server.url(), &Login::None, "test").await.unwrap();
    let context = Connections::jetstream(&connections.timers);
    let timers = JetStreamTimers::new(context.clone(), context.get_stream_no_info(topology::TIMERS).await.unwrap());
    let alone = 300;
    set(&timers, 0..200, Duration::from_hours(1)).await;
    set(&timers, alone..alone + 1, Duration::from_hours(2)).await;
    set(&timers, 0..10, Duration::from_secs(2)).await;
    assert!(system.depth("TIMERS").await < 20, "{} messages", system.depth("TIMERS").await);
    assert_eq!((system.timers().await.len(), system.with_timer().await.len()), (211, 201));

    for number in [7, alone] {
        timers.forget(&key(number)).await.unwrap();
    }
    assert_eq!((system.timers().await.len(), system.with_timer().await.len()), (208, 199));
    // The others fire when their time has come.
    let due = context.get_stream(topology::TIMERS).await.unwrap();
    let mut fired = Vec::new();
    let all = until("nine timers have fired", async || {
        let mut sequence = None;
        fired.clear();
        while let Ok(group) = due.direct_get_next_for_subject("timers.due.>", sequence).await {
            sequence = Some(group.sequence + 1);
            fired.extend(Timer::split(&group.payload).iter().map(|timer| Timer::read(timer).unwrap().key));
        }
        fired.len() >= 9
    });
    all.await.unwrap();
    fired.sort();
    assert_eq!(fired, (0..10).filter(|number| *number != 7).map(key).collect::<Vec<_>>());
}

/// Generations count from 1 again, and the engine still has the document of before in memory.
#[tokio::test]
async fn a_lead_that_another_process_erased_and_that_comes_again_gets_its_first_email() {
    let system = System::new("resend").await;
    system.sequence("welcome", &[("first", "0s"), ("second", "1h")]);
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    system.until_accepted(1).await;
    system.until_status("jane=40example.com", "ACTIVE").await;

    let connections = dripline_nats::connect(&system.server.url(), &Login::None, "test").await.unwrap();
    let context = Connections::jetstream(&connections.general);
    let bucket = context.get_key_value("leads").await.unwrap();
    let known = bucket.entry("jane=40example.com").await.unwrap().unwrap();
    let mut jane: Value = serde_json::from_slice(&known.value).unwrap();
    assert!(jane["generation"].as_u64() > Some(1), "{jane:#}");
    let began = now();
    jane["generation"] = json!(1);
    jane["createdAt"] = json!(began);
    jane["enrollments"] = json!([{
        "sequence": "welcome", "version": 1, "number": 1, "step": 0, "status": "WAITING", "generation": 1,
        "nextActionTimestamp": began, "beganAt": began, "arrival": format!("9@{began}"),
    }]);
    let key = LeadKey::parse("jane=40example.com").unwrap();
    let at = Timestamp::from_millis(i64::try_from(began).unwrap());
    let put = Put {
        key: key.clone(),
        expected: known.revision,
        document: Some(serde_json::to_vec(&jane).unwrap().into()),
        next_action: Some(at),
        generation: 1,
        status: Some(LeadStatus::New),
        write: 1,
    };
    let bucket = context.get_stream_no_info(topology::LEADS_BUCKET).await.unwrap();
    let store = JetStreamLeadStore::new(bucket, connections.commits.clone());
    assert!(matches!(store.write(&[put], JournalLines::default()).await, BatchResult::Written(_)));
    let timers = JetStreamTimers::new(context.clone(), context.get_stream_no_info(topology::TIMERS).await.unwrap());
    timers.set(Timer::new(key, at, 1)).await.unwrap();
    system.until_accepted(2).await;
    assert_eq!(system.summary().await.duplicates, 0);
}

#[tokio::test]
async fn a_group_that_takes_longer_than_ack_wait_at_the_rate_is_not_delivered_again() {
    // For 13 s, so that a group takes longer than `ack_wait` also where they come in two or three.
    let leads = 40;
    let ack_wait = Duration::from_secs(4);
    let mut system = System::new("resend").await;
    system.sequence("welcome", &[("only", "0s")]);
    system.set("DRIPLINE_ESP__RATE", "3");
    system.set("DRIPLINE_ESP__TIMEOUT", "1s");
    system.set("DRIPLINE_ENGINE__ACK_WAIT", &format!("{}s", ack_wait.as_secs()));
    let (code, _, err) = system.run(&["topology", "apply"]).await;
    assert_eq!(code, Some(0), "{err}");
    for number in 0..leads {
        system.publish("leads.new", &json!({"email": format!("lead-{number}@example.com")}).to_string()).await;
    }
    let _engine = system.start("engine").await;
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    let due: PullConsumer = context.get_consumer_from_stream(topology::DUE, topology::TIMERS).await.unwrap();
    let mut longest = Duration::ZERO;
    let mut since = None;
    let done = until("every lead has its email", async || {
        let info = due.get_info().await.unwrap();
        assert_eq!(info.num_redelivered, 0);
        let oldest = (info.num_ack_pending > 0).then_some(info.ack_floor.stream_sequence);
        match (since, oldest) {
            (Some((same, began)), Some(oldest)) if same == oldest => {
                longest = longest.max(std::time::Instant::now().duration_since(began));
            }
            (_, oldest) => since = oldest.map(|oldest| (oldest, std::time::Instant::now())),
        }
        system.summary().await.accepted >= leads
    });
    done.await.unwrap_or_else(|error| panic!("{error}\n{}", system.log()));
    assert!(longest > ack_wait, "no message took so long: {longest:?}");
    assert_eq!(system.summary().await.duplicates, 0);
}
