//! The canary: a lead of our own goes all the way, and what is broken on it is named.
use std::collections::HashSet;
use std::process::Stdio;
use std::time::Duration;

use dripline_actors::ports::Mailbox;
use dripline_domain::{Address, LeadKey};
use dripline_esp::smtp::Security;
use dripline_esp::{Imap, imap};
use dripline_stand_in::{Fault, FaultKind};
use dripline_test_support::{free_port, until};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::alerts::{impatient, until_raised, until_resolved};
use crate::mailpit::Mailpit;
use crate::outgoing::Subscriber;
use crate::system::{System, tool};
use crate::webhooks;

/// A canary that runs again and again.
fn with_canary(system: &mut System, deadline: &str) {
    let gateway = system.gateway("");
    for (name, value) in [
        ("ADDRESS", "canary@acme.example"),
        ("FROM", "Canary <canary@acme.example>"),
        ("INTERVAL", "500ms"),
        ("RETRY", "500ms"),
        ("DEADLINE", deadline),
        ("STEP_AFTER", "1s"),
        ("GATEWAY_URL", &gateway),
    ] {
        system.set(&format!("DRIPLINE_CANARY__{name}"), value);
    }
    impatient(system);
    // So that the canary alone tells it.
    system.set("DRIPLINE_ALERTS__QUEUE_AGE", "1h");
}

fn by_mailpit(system: &mut System, mailpit: &Mailpit) {
    system.set("DRIPLINE_CANARY__EVIDENCE", "mailpit");
    system.set("DRIPLINE_CANARY__MAILPIT_URL", &mailpit.url);
}

async fn told_people(system: &mut System) -> Subscriber {
    let people = Subscriber::start(&[]).await;
    system.set("DRIPLINE_ALERTS__WEBHOOK_URL", &people.url);
    people
}

async fn state(system: &System) -> Value {
    let state = system.server.cli(["kv", "get", "canary", "state", "--raw"]).await.unwrap_or_default();
    serde_json::from_str(&state).unwrap_or_default()
}

fn results(state: &Value) -> Vec<Value> {
    state["results"].as_array().cloned().unwrap_or_default()
}

/// So many runs more have passed.
async fn until_passed(system: &System, count: usize) -> Value {
    let passed = |state: &Value| results(state).iter().filter(|run| run["failure"].is_null()).count();
    let before = passed(&state(system).await);
    let mut now = Value::Null;
    let more = until(format!("{count} more runs pass"), async || {
        now = state(system).await;
        passed(&now) >= before + count
    });
    if let Err(error) = more.await {
        panic!("{error}: {now:#}\n{}", system.log());
    }
    now
}

/// Delivers a webhook for each email that the stand-in took, as Resend does. Where the gateway is away, it tries again.
async fn courier(system: &System) {
    let mut told = HashSet::new();
    loop {
        for email in system.accepted().await {
            if told.contains(&email.message_id) {
                continue;
            }
            let body = json!({
                "type": "email.delivered", "created_at": "2026-11-25T08:00:00.000Z",
                "data": {"email_id": *email.message_id, "to": [*email.to]},
            });
            let body = body.to_string();
            if webhooks::try_deliver(system, &body, &body).await.is_ok_and(|answer| answer.status() == 200) {
                told.insert(email.message_id);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// While the courier delivers.
async fn with_courier<T>(system: &System, test: impl Future<Output = T>) -> T {
    tokio::select! {
        () = courier(system) => unreachable!("it never ends"),
        result = test => result,
    }
}

#[tokio::test]
async fn a_run_passes_when_every_email_is_in_the_mailbox_and_leaves_nothing_behind() {
    let mut system = System::new("resend").await;
    let mailpit = Mailpit::start(&system.http).await;
    mailpit.is_the_provider_of(&mut system);
    with_canary(&mut system, "20s");
    by_mailpit(&mut system, &mailpit);
    let mut both = [system.start("run").await, system.start("engine").await];
    let runs = results(&until_passed(&system, 3).await);
    assert!(runs.iter().all(|run| run["failure"].is_null()), "{runs:#?}");
    for pair in runs.windows(2) {
        assert!(pair[1]["started"].as_i64() >= pair[0]["ended"].as_i64(), "they overlap: {pair:#?}");
    }
    let steps = &runs[0]["steps"];
    let sent = |step: usize| steps[step]["sent"].as_i64().unwrap();
    assert_eq!((&steps[0]["step"], &steps[1]["step"]), (&json!("first"), &json!("second")));
    assert!(sent(1) >= sent(0) + 1_000 && steps[0]["arrived"].as_i64() < steps[1]["arrived"].as_i64(), "{steps}");

    let address = format!("canary+{}@acme.example", runs[0]["id"].as_str().unwrap());
    let key = LeadKey::of(&Address::parse(&address).unwrap());
    let clean = until("nothing is left of it", async || {
        system.document(key.as_str()).await.is_none() && mailpit.subjects_to(&address).await.is_empty()
    });
    clean.await.unwrap();
    let (code, counted, err) = system.run(&["stats", "--json"]).await;
    assert!(code == Some(0) && !counted.contains("canary"), "{counted}{err}");

    // Whose run it is may end at any moment: another process goes on with that run.
    let mut run = Value::Null;
    let its = until("a run is under way, and its lead is in", async || {
        run = state(&system).await["run"].clone();
        run["owner"].is_string() && run["accepted"].is_number()
    });
    its.await.unwrap();
    let owner = run["owner"].as_str().unwrap();
    let owner = both.iter_mut().find(|process| owner.contains(&format!(".{}.", process.pid().unwrap())));
    owner.unwrap().kill().await.unwrap();
    let mut ended = Value::Null;
    let finished = until("the run is finished", async || {
        let runs = results(&state(&system).await);
        ended = runs.into_iter().find(|ended| ended["id"] == run["id"]).unwrap_or_default();
        ended.is_object()
    });
    finished.await.unwrap();
    assert_eq!(ended["failure"], Value::Null, "{ended:#}");
}

#[tokio::test]
async fn each_queue_that_is_blocked_and_a_provider_that_refuses_is_named_until_it_is_repaired() {
    let mut system = webhooks::system().await;
    let people = told_people(&mut system).await;
    with_canary(&mut system, "3s");
    let _run = system.start("run").await;
    with_courier(&system, async {
        until_passed(&system, 1).await;
        for (stream, consumer, alert, says) in [
            ("LEADS", "intake", "canary.queue", "is not enrolled: an engine is alive, but the queue is blocked"),
            ("TIMERS", "due", "canary.timers", "was not sent: the queue is blocked; waiting in TIMERS"),
            ("FEEDBACK", "feedback", "canary.feedback", "its delivery event is not processed"),
        ] {
            system.server.cli(["consumer", "pause", stream, consumer, "1h", "--force"]).await.unwrap();
            let summary = until_raised(&system, &people, alert).await;
            assert!(summary.contains(says) && summary.contains("its consumer is paused"), "{summary}");
            system.server.cli(["consumer", "resume", stream, consumer, "--force"]).await.unwrap();
            until_resolved(&system, &people, alert).await;
        }
        system.fault(&Fault { status: Some(503), ..Fault::new(FaultKind::Status) }).await;
        let summary = until_raised(&system, &people, "canary.provider").await;
        assert!(summary.contains("503"), "{summary}");
        system.fault(&Fault::new(FaultKind::None)).await;
        until_resolved(&system, &people, "canary.provider").await;
    })
    .await;
    // Also leads that came out of the queue late are removed.
    let clean = until("nothing is left of the failed runs", async || {
        let state = state(&system).await;
        let late = state["leftovers"].as_array().is_some_and(|left| left.iter().any(|it| it["erased"] == false));
        state["run"].is_object() && !late
    });
    clean.await.unwrap();
}

#[tokio::test]
async fn a_provider_that_never_delivers_and_a_bridge_that_is_down_are_told_apart() {
    let mut system = webhooks::system().await;
    let people = told_people(&mut system).await;
    with_canary(&mut system, "3s");
    let _engine = system.start("engine").await;
    let mut gateway = system.start("gateway").await;
    let summary = until_raised(&system, &people, "canary.delivery").await;
    assert!(summary.contains("the provider accepted the canary's step `first`"), "{summary}");
    assert!(summary.contains("the gateway can be reached: the provider does not deliver"), "{summary}");
    with_courier(&system, async {
        until_resolved(&system, &people, "canary.delivery").await;
        // Between its acceptance and its last email's delivery.
        let last = state(&system).await["run"]["id"].clone();
        let under_way = until("another run is under way", async || {
            let run = state(&system).await["run"].clone();
            run["id"] != last && run["accepted"].is_number()
        });
        under_way.await.unwrap();
        gateway.kill().await.unwrap();
        let summary = until_raised(&system, &people, "canary.bridge").await;
        assert!(summary.contains("the webhook bridge is down"), "{summary}");
        let summary = until_raised(&system, &people, "canary.front-door").await;
        assert!(summary.contains("the front door did not take the canary's lead"), "{summary}");
        let _gateway = system.start("gateway").await;
        until_resolved(&system, &people, "canary.front-door").await;
        until_resolved(&system, &people, "canary.bridge").await;
    })
    .await;
}

#[tokio::test]
async fn an_engine_that_is_stopped_is_named_by_the_gateways_canary_until_it_goes_on() {
    let mut system = webhooks::system().await;
    let people = told_people(&mut system).await;
    // Longer than a dead engine takes to be missed.
    with_canary(&mut system, "12s");
    let engine = system.start("engine").await;
    let _gateway = system.start("gateway").await;
    with_courier(&system, async {
        until_passed(&system, 1).await;
        engine.signal("STOP").await.unwrap();
        let summary = until_raised(&system, &people, "canary.engine").await;
        assert!(summary.contains("no engine is alive"), "{summary}");
        engine.signal("CONT").await.unwrap();
        until_resolved(&system, &people, "canary.engine").await;
    })
    .await;
}

#[tokio::test]
async fn an_email_that_is_not_in_the_mailbox_and_a_mailbox_that_is_away_are_told_apart() {
    let mut system = System::new("resend").await;
    let people = told_people(&mut system).await;
    let mailpit = Mailpit::start(&system.http).await;
    with_canary(&mut system, "2s");
    by_mailpit(&mut system, &mailpit);
    let mut dripline = system.start("run").await;
    let summary = until_raised(&system, &people, "canary.delivery").await;
    assert!(summary.contains("it is not in the mailbox"), "{summary}");
    drop(mailpit);
    let summary = until_raised(&system, &people, "canary.mailbox").await;
    assert!(summary.contains("the mailbox cannot be asked"), "{summary}");

    assert_eq!(dripline.stop().await.unwrap(), Some(0));
    let mailpit = Mailpit::start(&system.http).await;
    by_mailpit(&mut system, &mailpit);
    mailpit.is_the_provider_of(&mut system);
    let _dripline = system.start("run").await;
    until_resolved(&system, &people, "canary.mailbox").await;
}

/// Takes every email that Mailpit has into an IMAP mailbox, as the last mail server of a chain does.
async fn relay(mailpit: &Mailpit, imap: u16) {
    let http = reqwest::Client::new();
    let mut taken = HashSet::new();
    loop {
        let found = mailpit.get("messages").await;
        let mut emails = found["messages"].as_array().unwrap().clone();
        emails.reverse();
        for email in emails {
            let id = email["ID"].as_str().unwrap().to_owned();
            if taken.insert(id.clone()) {
                let url = format!("{}/api/v1/message/{id}/raw", mailpit.url);
                let raw = http.get(url).send().await.unwrap().bytes().await.unwrap();
                append(imap, &raw).await.unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Into the folder INBOX (RFC 3501 §6.3.11).
async fn append(port: u16, email: &[u8]) -> std::io::Result<()> {
    let mut imap = BufStream::new(TcpStream::connect(("127.0.0.1", port)).await?);
    let size = email.len();
    for (command, done) in [
        ("", "* OK"),
        ("a LOGIN canary secret\r\n", "a OK"),
        (&*format!("b APPEND INBOX {{{size}}}\r\n"), "+"),
        (&*format!("{}\r\n", String::from_utf8_lossy(email)), "b OK"),
    ] {
        imap.write_all(command.as_bytes()).await?;
        imap.flush().await?;
        let mut line = String::new();
        while !line.starts_with(done) {
            line.clear();
            assert!(imap.read_line(&mut line).await? > 0, "no `{done}`");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_run_passes_when_imap_shows_every_email_and_leaves_nothing_in_the_folder() {
    let mut system = System::new("resend").await;
    let mailpit = Mailpit::start(&system.http).await;
    mailpit.is_the_provider_of(&mut system);
    let port = free_port().unwrap();
    let _imap = Command::new(tool("imapmemserver"))
        .args(["-listen", &format!("127.0.0.1:{port}"), "-insecure-auth", "-username", "canary", "-password", "secret"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("imapmemserver: `make test` gets it");
    until("IMAP is ready", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await.unwrap();
    with_canary(&mut system, "20s");
    system.set("DRIPLINE_CANARY__EVIDENCE", "imap");
    for (name, value) in [
        ("HOST", "127.0.0.1"),
        ("PORT", &*port.to_string()),
        ("SECURITY", "none"),
        ("USERNAME", "canary"),
        ("PASSWORD", "secret"),
    ] {
        system.set(&format!("DRIPLINE_CANARY__IMAP__{name}"), value);
    }
    let people = told_people(&mut system).await;
    let mut dripline = system.start("run").await;
    let runs = tokio::select! {
        () = relay(&mailpit, port) => unreachable!("it never ends"),
        state = until_passed(&system, 2) => results(&state),
    };
    assert!(runs.iter().all(|run| run["failure"].is_null()), "{runs:#?}");
    let steps = runs[0]["steps"].as_array().unwrap();
    assert!(steps.len() == 2 && steps.iter().all(|step| step["arrived"].is_number()), "{steps:#?}");

    let mailbox = Imap::new(&imap::Config {
        host: "127.0.0.1".to_owned(),
        port: Some(port),
        security: Security::None,
        username: "canary".to_owned(),
        password: "secret".into(),
        ..imap::Config::default()
    });
    let (mailbox, first) = (mailbox.unwrap(), runs[0]["id"].as_str().unwrap());
    let address = Address::parse(&format!("canary+{first}@acme.example")).unwrap();
    until("nothing is left of it", async || mailbox.arrived(&address).await.unwrap().is_empty()).await.unwrap();

    assert_eq!(dripline.stop().await.unwrap(), Some(0));
    system.set("DRIPLINE_CANARY__IMAP__PASSWORD", "wrong");
    system.set("DRIPLINE_CANARY__DEADLINE", "2s");
    let _dripline = system.start("run").await;
    let summary = until_raised(&system, &people, "canary.mailbox").await;
    assert!(summary.contains("the mailbox cannot be asked: IMAP"), "{summary}");
    assert!(!summary.contains("wrong"), "{summary}");
}

#[tokio::test]
async fn a_canary_that_cannot_see_anything_is_refused() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_CANARY__ADDRESS", "canary@acme.example");
    for (name, value, says) in [
        ("FROM", "", "canary.from: is missing"),
        ("FROM", "nobody", "`nobody` is not a mailbox"),
        ("FROM", "canary@acme.example", ""),
        ("EVIDENCE", "mailpit", "canary.mailpit_url: is missing"),
        ("MAILPIT_URL", "127.0.0.1", "canary.mailpit_url"),
        ("MAILPIT_URL", "http://127.0.0.1:8025", ""),
        ("EVIDENCE", "imap", "canary.imap.host: is missing"),
        ("IMAP__HOST", "imap.acme.example", "canary.imap.username: is missing"),
        ("IMAP__USERNAME", "canary", "canary.imap.password: is missing"),
        ("IMAP__PASSWORD", "secret", ""),
        ("GATEWAY_URL", "acme.example", "canary.gateway_url"),
        ("GATEWAY_URL", "", ""),
        ("DEADLINE", "0s", "must be longer than nothing"),
    ] {
        system.set(&format!("DRIPLINE_CANARY__{name}"), value);
        let (code, _, err) = system.run(&["config", "check"]).await;
        assert_eq!(code, Some(if says.is_empty() { 0 } else { 2 }), "{name}={value}: {err}");
        assert!(err.contains(says), "{err}");
    }
    system.set("DRIPLINE_CANARY__DEADLINE", "5m");
    system.set("DRIPLINE_CANARY__SEQUENCE", "nowhere");
    let (code, out, _) = system.run(&["sequence", "check"]).await;
    assert!(code == Some(2) && out.contains("there is no usable sequence `nowhere`"), "{out}");
}
