//! What a subscriber to the journal's events gets.
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dripline_test_support::{free_port, until};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::task::JoinHandle;

use crate::alerts::impatient;
use crate::system::System;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A subscriber: answers as it is told, and keeps what it was sent.
pub struct Subscriber {
    pub url: String,
    told: Arc<Mutex<Told>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Told {
    /// The next answers; 200 after them.
    answers: Vec<u16>,
    posts: Vec<(u16, HeaderMap, Bytes)>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(told): State<Arc<Mutex<Told>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let answer = if told.answers.is_empty() { 200 } else { told.answers.remove(0) };
    told.posts.push((answer, headers, body));
    StatusCode::from_u16(answer).unwrap()
}

impl Subscriber {
    pub async fn start(answers: &[u16]) -> Self {
        let told = Arc::new(Mutex::new(Told { answers: answers.to_vec(), posts: Vec::new() }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/hook", post(take)).with_state(Arc::clone(&told));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, told, serving }
    }

    pub fn posts(&self) -> Vec<(u16, HeaderMap, Bytes)> {
        self.told.lock().unwrap().posts.clone()
    }

    /// The events that it took, by their type, in order.
    pub fn taken(&self) -> Vec<String> {
        let taken = self.posts().into_iter().filter(|(answer, ..)| *answer == 200);
        taken.map(|(_, _, body)| json_of(&body)["type"].as_str().unwrap().to_owned()).collect()
    }

    async fn until_taken(&self, system: &System, count: usize) {
        let taken = until(format!("{count} events are taken"), async || self.taken().len() >= count);
        if let Err(error) = taken.await {
            panic!("{error}; {:?}\n{}", self.taken(), system.log());
        }
    }
}

pub fn json_of(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn id_of(headers: &HeaderMap) -> String {
    headers["webhook-id"].to_str().unwrap().to_owned()
}

fn subscribed(system: &System, webhooks: &[(&str, &str, &str)]) {
    let mut toml = String::new();
    for (name, url, more) in webhooks {
        toml.push_str(&format!(
            "[[outgoing_webhooks]]\nname = \"{name}\"\nurl = \"{url}\"\nsecret = \"{SECRET}\"\n{more}\n"
        ));
    }
    std::fs::write(system.dir().join("dripline.toml"), toml).unwrap();
}

/// The signature as the specification computes it, by other code than the sender's.
fn assert_signed(headers: &HeaderMap, body: &[u8]) {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let key = STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(header("webhook-signature"), signature);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(timestamp.parse().unwrap()) < 120, "{timestamp}");
}

#[tokio::test]
async fn a_subscriber_gets_every_event_signed_and_again_after_a_500() {
    let system = System::new("resend").await;
    let (all, some) = (Subscriber::start(&[500]).await, Subscriber::start(&[]).await);
    subscribed(&system, &[("all", &all.url, ""), ("some", &some.url, "events = [\"completed\", \"unsubscribed\"]")]);
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "ann@example.com"}"#).await;
    let lead = system.until_status("ann=40example.com", "COMPLETED").await;
    all.until_taken(&system, 5).await;
    some.until_taken(&system, 1).await;
    assert_eq!(some.taken(), ["dripline.completed"]);
    let mut types = all.taken();
    types.sort();
    assert_eq!(types, ["dripline.completed", "dripline.enrolled", "dripline.sent", "dripline.sent", "dripline.sent"]);

    let posts = all.posts();
    for (_, headers, body) in posts.iter().chain(&some.posts()) {
        assert_signed(headers, body);
        assert_eq!(headers["content-type"], "application/json");
        let event = json_of(body);
        assert_eq!(event["type"], format!("dripline.{}", event["data"]["event"].as_str().unwrap()));
        assert_eq!(event["data"]["leadId"], lead["leadId"]);
        assert!(event["timestamp"].as_str().unwrap().ends_with('Z'), "{event}");
        assert!(!event.to_string().contains("example.com"), "{event}");
    }
    // The one that was answered with 500 came again under its id, and no other did.
    let (refused, taken): (Vec<_>, Vec<_>) = posts.iter().partition(|(answer, ..)| *answer == 500);
    let mut ids: Vec<_> = taken.iter().map(|(_, headers, _)| id_of(headers)).collect();
    assert!(ids.contains(&id_of(&refused[0].1)));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5, "{ids:?}");
}

fn line(event: &str) -> Value {
    json!({"leadId": "ld_1", "timestamp": 1_700_000_000_000_i64, "event": event, "sequence": "welcome", "version": 1})
}

async fn journal(system: &System, id: &str, lines: &[Value]) {
    let lines = lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    system.server.cli(["pub", "-J", &format!("journal.{id}"), &lines]).await.unwrap();
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was_and_a_dead_subscriber_holds_back_nobody() {
    let system = System::new("resend").await;
    let crm = Subscriber::start(&[]).await;
    let dead = format!("http://127.0.0.1:{}/hook", free_port().unwrap());
    subscribed(&system, &[("dead", &dead, ""), ("crm", &crm.url, "")]);
    let mut dripline = system.start("run").await;
    journal(&system, "before", &[line("sent"), line("sending"), line("delivered")]).await;
    crm.until_taken(&system, 2).await;
    assert_eq!(dripline.stop().await.unwrap(), Some(0));
    journal(&system, "meanwhile", &[line("opened"), line("clicked")]).await;
    dripline = system.start("run").await;
    crm.until_taken(&system, 4).await;
    dripline.kill().await.unwrap();
    dripline = system.start("run").await;
    journal(&system, "after", &[line("unsubscribed")]).await;
    crm.until_taken(&system, 5).await;
    let names = ["sent", "delivered", "opened", "clicked", "unsubscribed"];
    assert_eq!(crm.taken(), names.map(|name| format!("dripline.{name}")), "each once, in order");

    // The dead one's are kept for it.
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    let consumer: async_nats::jetstream::consumer::PullConsumer =
        context.get_consumer_from_stream("outgoing-dead", "JOURNAL").await.unwrap();
    let info = consumer.cached_info();
    assert_eq!(info.num_pending + u64::try_from(info.num_ack_pending).unwrap(), 3);
    assert_eq!(dripline.stop().await.unwrap(), Some(0));
}

#[tokio::test]
async fn an_event_that_is_refused_is_tried_again_alone_and_gone_ends_it_until_it_is_let_on() {
    let mut system = System::new("resend").await;
    impatient(&mut system);
    let crm = Subscriber::start(&[200, 422, 200]).await;
    subscribed(&system, &[("crm", &crm.url, "")]);
    let _dripline = system.start("run").await;
    journal(&system, "three", &[line("sent"), line("delivered"), line("opened")]).await;
    crm.until_taken(&system, 3).await;
    let ids: Vec<_> = crm.posts().iter().map(|(answer, headers, _)| (*answer, id_of(headers))).collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    let (_, refused) = ids.iter().find(|(answer, _)| *answer == 422).unwrap();
    assert_eq!(ids[3], (200, refused.clone()), "{ids:?}");

    crm.told.lock().unwrap().answers = vec![410];
    journal(&system, "gone", &[line("clicked")]).await;
    let stopped = until("it is held back", async || {
        system.server.cli(["kv", "get", "controls", "outgoing.crm", "--raw"]).await.is_ok()
    });
    stopped.await.unwrap();
    let told = "nothing more is posted to the outgoing webhook `crm`: it answered 410 Gone";
    let tells = async |word: &str| {
        let line = until(format!("the log says {word}"), async || {
            system.log().lines().any(|line| line.contains(word) && line.contains(told))
        });
        line.await.unwrap();
    };
    tells("this needs a person").await;
    journal(&system, "later", &[line("unsubscribed")]).await;
    let (code, _, err) = system.run(&["outgoing", "resume", "cmr", "--by", "ann", "--reason", "it is back"]).await;
    assert_eq!((code, err.contains("no outgoing webhook `cmr`; there are: crm")), (Some(3), true), "{err}");
    let resume = ["outgoing", "resume", "crm", "--by", "ann", "--reason", "it is back"];
    let (code, out, err) = system.run(&resume).await;
    assert_eq!((code, &*out), (Some(0), "crm is told again what happens\n"), "{err}");
    crm.until_taken(&system, 7).await;
    let mut last = crm.taken().split_off(3);
    last.sort();
    assert_eq!(
        last,
        ["dripline.clicked", "dripline.outgoing_paused", "dripline.outgoing_resumed", "dripline.unsubscribed"]
    );
    let posts = crm.posts();
    let told = |kind: &str| posts.iter().map(|(.., body)| json_of(body)).find(|body| body["type"] == kind).unwrap();
    assert_eq!(told("dripline.outgoing_paused")["data"]["reason"], "it answered 410 Gone");
    let resumed = told("dripline.outgoing_resumed");
    assert_eq!((&resumed["data"]["webhook"], &resumed["data"]["by"]), (&json!("crm"), &json!("ann")));
    tells("resolved").await;
    let (code, _, err) = system.run(&resume).await;
    assert_eq!((code, err.contains("crm is not paused")), (Some(1), true), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_missed_when_the_server_and_the_engine_are_killed() {
    const LEADS: usize = 100;
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ESP__RATE", "40");
    let crm = Subscriber::start(&[]).await;
    subscribed(&system, &[("crm", &crm.url, "")]);
    let mut dripline = system.start("run").await;
    for number in 0..LEADS {
        system
            .http
            .post(system.gateway("/v1/leads"))
            .json(&json!({"email": format!("lead-{number}@example.com")}))
            .send()
            .await
            .unwrap();
    }
    crm.until_taken(&system, 150).await;
    system.server.restart().await.unwrap();
    system.until_accepted(150).await;
    dripline.kill().await.unwrap();
    let _dripline = system.start("run").await;
    system.until_all(LEADS, "COMPLETED").await;

    // What the journal holds, by the ids that an event of it is posted under.
    let mut wanted = BTreeSet::new();
    let (mut message, mut number) = (String::new(), 0);
    for line in system.journal().await.lines() {
        if let Some(id) = line.strip_prefix("journal.") {
            (message, number) = (id.to_owned(), 0);
            continue;
        }
        let event = json_of(line.as_bytes())["event"].clone();
        if event != "sending" && event != "asked" {
            wanted.insert(format!("{message}-{number}"));
        }
        number += 1;
    }
    assert!(wanted.len() >= LEADS * 5, "{}", wanted.len());
    let taken = || crm.posts().iter().map(|(_, headers, _)| id_of(headers)).collect::<BTreeSet<_>>();
    let all = until("every event is taken", async || taken() == wanted);
    if let Err(error) = all.await {
        let missing: Vec<_> = wanted.difference(&taken()).cloned().collect();
        panic!("{error}: {missing:?}\n{}", system.log());
    }
}
