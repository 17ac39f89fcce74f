//! What operators do: every verb of the control service by the real `nats` CLI, every command of ours by the binary, with
//! two engines running.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dripline_stand_in::{Fault, FaultKind};
use dripline_test_support::{Dripline, until};
use serde_json::{Value, json};

use crate::system::{System, tool};

const KEY: &str = "jane=40example.com";
const JANE: &str = "jane@example.com";

struct Operated {
    system: System,
    engines: [Dripline; 2],
}

impl Operated {
    /// A first email at once, the others an hour apart.
    async fn start() -> Self {
        Self::start_with(System::new("resend").await).await
    }

    async fn start_with(system: System) -> Self {
        system.sequence("welcome", &[("first", "0s"), ("second", "1h"), ("third", "1h")]);
        system.sequence("other", &[("only", "1h")]);
        let engines = [system.start("run").await, system.start("engine").await];
        let operated = Self { system, engines };
        let both = until("both engines answer", async || {
            let status = operated.ask("status", &json!({})).await;
            status["engines"].as_array().is_some_and(|engines| engines.len() == 2)
                && operated.instances().await.len() == 2
        });
        both.await.unwrap();
        operated
    }

    /// The instances of the service, as `nats micro` has them.
    async fn instances(&self) -> Vec<Value> {
        let text = self.system.server.cli(["micro", "ls", "dripline", "--json"]).await.unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn arrived(&self) -> Value {
        self.system.publish("leads.new", &json!({"email": JANE, "firstName": "Jane"}).to_string()).await;
        self.system.until_status(KEY, "ACTIVE").await
    }

    async fn ask(&self, verb: &str, request: &Value) -> Value {
        self.ask_raw(verb, &request.to_string()).await
    }

    async fn ask_raw(&self, verb: &str, request: &str) -> Value {
        let subject = format!("dripline.{verb}");
        let answer = self.system.server.cli(["req", &subject, request, "--raw", "--timeout", "10s"]).await;
        answer.ok().and_then(|answer| serde_json::from_str(answer.trim()).ok()).unwrap_or_default()
    }

    /// A change by Ann; the answer is the document as it then is in the bucket.
    async fn change(&self, verb: &str, request: Value) -> Value {
        let answer = self.ask(verb, &by_ann(request)).await;
        assert!(answer["code"].is_null(), "{verb}: {answer:#}");
        answer
    }

    async fn changed(&self, verb: &str, mut request: Value) -> Value {
        request["address"] = json!(JANE);
        let answer = self.change(verb, request).await;
        assert_eq!(Some(&answer), self.document().await.as_ref(), "{verb}");
        answer
    }

    /// The same for a change after which an email goes out at once.
    async fn goes_on(&self, verb: &str, mut request: Value) -> Value {
        request["address"] = json!(JANE);
        self.change(verb, request).await
    }

    async fn document(&self) -> Option<Value> {
        self.system.document(KEY).await
    }

    async fn steps(&self) -> Vec<String> {
        self.system.steps_of(JANE).await
    }

    async fn until_steps(&self, steps: &[&str]) {
        let reached = until(format!("her steps are {steps:?}"), async || self.steps().await == steps);
        if let Err(error) = reached.await {
            panic!("{error}; they are {:?}\n{:#}", self.steps().await, self.document().await.unwrap_or_default());
        }
    }

    /// Runs a command of ours that must succeed.
    async fn run(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.system.run(arguments).await;
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        out
    }

    /// A command that changes something.
    async fn run_changing(&self, arguments: &[&str]) -> String {
        self.run(&[arguments, &["--by", "ann", "--reason", "a test"]].concat()).await
    }

    async fn journalled(&self, event: &str) -> Vec<Value> {
        let text = self.system.journal().await;
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.filter(|line: &Value| line["event"] == event).collect()
    }
}

fn by_ann(mut request: Value) -> Value {
    request["by"] = json!("ann");
    request["reason"] = json!("a test");
    request
}

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn states(document: &Value) -> Vec<(String, Value)> {
    let enrolments = document["enrollments"].as_array().unwrap();
    enrolments.iter().map(|it| (it["status"].as_str().unwrap().to_owned(), it["step"].clone())).collect()
}

fn newest(document: &Value) -> (&str, &str, &str) {
    let entry = document["history"].as_array().unwrap().last().unwrap();
    let text = |field: &str| entry[field].as_str().unwrap_or_default();
    (text("event"), text("by"), text("reason"))
}

#[tokio::test]
async fn every_verb_about_a_lead_by_the_nats_cli_changes_its_document_and_says_who_and_why() {
    let operated = Operated::start().await;
    let before = operated.arrived().await;
    assert_eq!(operated.ask("lead.get", &json!({"address": " Jane@Example.com"})).await, before);

    let paused = operated.changed("lead.pause", json!({"requestId": "p-1"})).await;
    assert_eq!((&paused["status"], &paused["nextActionTimestamp"]), (&json!("PAUSED"), &Value::Null));
    assert_eq!((&paused["paused"]["by"], newest(&paused)), (&json!("ann"), ("paused", "ann", "a test")));

    let resumed = operated.changed("lead.resume", json!({"requestId": "r-1"})).await;
    assert_eq!((&resumed["status"], newest(&resumed)), (&json!("ACTIVE"), ("resumed", "ann", "a test")));
    assert_eq!(resumed["nextActionTimestamp"], before["nextActionTimestamp"], "a pause changes no time to come");
    // The pause again, as after a lost answer: known by its id, and not done again.
    assert_eq!(operated.changed("lead.pause", json!({"requestId": "p-1"})).await, resumed);

    let moved = operated.changed("lead.move", json!({"sequence": "welcome", "step": "third"})).await;
    assert_eq!(states(&moved), [("STOPPED".to_owned(), json!(1)), ("WAITING".to_owned(), json!(2))]);
    assert!(moved["nextActionTimestamp"].as_u64().unwrap() > now() + 3_500_000, "the step's own delay from now on");
    operated.goes_on("lead.move", json!({"sequence": "welcome", "step": "third", "at": now()})).await;
    operated.until_steps(&["first", "third"]).await;
    operated.system.until_status(KEY, "COMPLETED").await;

    let restarted = operated.goes_on("lead.restart", json!({"sequence": "welcome"})).await;
    assert_eq!(states(&restarted).last().unwrap().1, json!(0));
    operated.until_steps(&["first", "third", "first"]).await;
    operated.system.until_status(KEY, "ACTIVE").await;

    let stopped = operated.changed("lead.stop", json!({"sequence": "welcome"})).await;
    assert_eq!((&stopped["status"], newest(&stopped)), (&json!("COMPLETED"), ("stopped", "ann", "a test")));
    assert_eq!(stopped["enrollments"].as_array().unwrap().last().unwrap()["reason"], "stopped: a test");

    let lead = json!({"lastName": "Doe", "plan": "pro"});
    let enrolled = operated.changed("lead.enroll", json!({"sequence": "other", "lead": lead})).await;
    assert_eq!((&enrolled["lastName"], &enrolled["attributes"]["plan"]), (&json!("Doe"), &json!("pro")));
    assert_eq!(newest(&enrolled), ("enrolled", "ann", "a test"));

    let list = operated.ask("lead.list", &json!({"sequence": "other", "step": "only"})).await;
    assert_eq!((&list["leads"][0]["email"], &list["after"]), (&json!(JANE), &Value::Null), "{list:#}");
    for (request, count) in [
        (json!({}), 1),
        (json!({"status": "NEW"}), 0),
        (json!({"status": "ACTIVE"}), 1),
        (json!({"overdue": true}), 0),
        (json!({"sequence": "nowhere"}), 0),
        (json!({"sequence": "welcome", "step": "second"}), 0),
    ] {
        let list = operated.ask("lead.list", &request).await;
        assert_eq!(list["leads"].as_array().map(Vec::len), Some(count), "{request}: {list:#}");
    }

    let lead_id = enrolled["leadId"].clone();
    let erased = operated.change("lead.delete", json!({"address": JANE})).await;
    assert_eq!(erased, json!({"leadId": lead_id, "erased": true}));
    assert_eq!(operated.document().await, None);
    let again = operated.change("lead.delete", json!({"address": JANE})).await;
    assert_eq!(again["erased"], false);
    let mut history = Value::Null;
    let told = until("the journal has all of it", async || {
        history = operated.ask("lead.history", &json!({"leadId": lead_id, "limit": 500})).await;
        history["entries"][0]["event"] == "erased"
    });
    told.await.unwrap();
    let events: Vec<_> =
        history["entries"].as_array().unwrap().iter().rev().map(|it| it["event"].as_str().unwrap()).collect();
    let expected = [
        "enrolled",
        "sending",
        "sent",
        "paused",
        "resumed",
        "moved",
        "moved",
        "sending",
        "sent",
        "completed",
        "enrolled",
        "sending",
        "sent",
        "stopped",
        "enrolled",
        "erased",
    ];
    assert_eq!(events, expected);
    assert!(!history.to_string().contains("example.com"), "nothing that is personal is left");
    assert_eq!(operated.ask("lead.history", &json!({"address": JANE, "limit": 500})).await, history);
}

#[tokio::test]
async fn requests_that_cannot_be_carried_out_say_why_and_change_nothing() {
    let operated = Operated::start().await;
    let before = operated.arrived().await;
    let jane = |fields: Value| {
        let mut request = by_ann(fields);
        request["address"] = json!(JANE);
        request
    };
    for (verb, request, code, says) in [
        ("lead.get", json!({}), "invalid_request", "`address` is missing"),
        ("lead.get", json!({"address": "jane"}), "invalid_request", "address"),
        ("lead.get", json!({"address": JANE, "colour": 1}), "invalid_request", "unknown field `colour`"),
        ("lead.get", json!({"address": "joe@example.com"}), "no_such_lead", "no such lead"),
        ("lead.pause", json!({"address": JANE}), "invalid_request", "`by` is missing"),
        ("lead.pause", json!({"address": JANE, "by": "ann"}), "invalid_request", "`reason` is missing"),
        ("lead.pause", jane(json!({"requestId": "two words"})), "invalid_request", "`requestId` must be"),
        ("lead.pause", by_ann(json!({"address": "joe@example.com"})), "no_such_lead", "no such lead"),
        ("lead.resume", jane(json!({})), "not_paused", "not paused"),
        ("lead.move", jane(json!({"sequence": "welcome", "step": "no"})), "no_such_step", "no such step"),
        ("lead.move", jane(json!({"sequence": "other", "step": "only"})), "not_in_sequence", "not in this sequence"),
        (
            "lead.move",
            jane(json!({"sequence": "welcome", "step": "third", "version": 9})),
            "no_such_version",
            "no version 9",
        ),
        ("lead.restart", jane(json!({"sequence": "nowhere"})), "no_such_sequence", "no sequence `nowhere`"),
        ("lead.stop", jane(json!({"sequence": "other"})), "not_in_sequence", "not in this sequence"),
        ("lead.enroll", jane(json!({})), "already_enrolled", "`restart` does"),
        ("lead.enroll", jane(json!({"lead": {"email": "x"}})), "invalid_request", "stand beside `lead`"),
        ("lead.resolve", jane(json!({"sequence": "welcome", "sent": true})), "nothing_in_doubt", "no such attempt"),
        ("lead.list", json!({"limit": 501}), "invalid_request", "from 1 to 500"),
        ("lead.list", json!({"step": "first"}), "invalid_request", "a `step` is one of a `sequence`"),
        ("lead.history", json!({}), "invalid_request", "name an `address` or a `leadId`"),
        ("sequence.show", json!({"sequence": "nowhere"}), "no_such_sequence", "no sequence `nowhere`"),
        ("sequence.pause", by_ann(json!({"sequence": "nowhere"})), "no_such_sequence", "no sequence `nowhere`"),
        (
            "sequence.migrate",
            by_ann(json!({"sequence": "welcome", "from": 1, "to": 2})),
            "no_such_version",
            "no version 2",
        ),
        ("provider.pause", by_ann(json!({"provider": "pigeon"})), "no_such_provider", "there are: resend"),
        ("outgoing.pause", by_ann(json!({"webhook": "crm"})), "no_such_webhook", "none is configured"),
    ] {
        let answer = operated.ask(verb, &request).await;
        assert_eq!(answer["code"], code, "{verb} {request}: {answer:#}");
        assert!(answer["message"].as_str().unwrap().contains(says), "{verb} {request}: {answer:#}");
    }
    assert_eq!(operated.ask_raw("lead.get", "{").await["code"], "invalid_request");
    let long = format!("{{\"address\": \"{}\"}}", "x".repeat(70_000));
    assert_eq!(operated.ask_raw("lead.get", &long).await["code"], "invalid_request");
    assert_eq!(operated.document().await.unwrap(), before);

    // As micro services have it: a code in the headers, and counted as an error.
    let client = async_nats::connect(operated.system.server.url()).await.unwrap();
    let answer = client.request("dripline.lead.get", "{}".into()).await.unwrap();
    let header = |name| answer.headers.as_ref().unwrap().get(name).unwrap().to_string();
    assert_eq!(
        (header("Nats-Service-Error-Code"), header("Nats-Service-Error")),
        ("400".to_owned(), "invalid_request".to_owned())
    );
    let stats = operated.system.server.cli(["micro", "stats", "dripline", "--json"]).await.unwrap();
    let stats: Vec<Value> = serde_json::from_str(&stats).unwrap();
    let endpoints = stats.iter().flat_map(|instance| instance["endpoints"].as_array().unwrap());
    let errors: u64 =
        endpoints.filter(|it| it["name"] == "lead-get").map(|it| it["num_errors"].as_u64().unwrap()).sum();
    assert_eq!(errors, 7, "{stats:#?}");
}

#[tokio::test]
async fn the_service_shows_up_in_nats_micro_with_what_can_be_asked() {
    let operated = Operated::start().await;
    let list = operated.system.server.cli(["micro", "ls"]).await.unwrap();
    assert!(list.contains("Control of Dripline"), "{list}");
    let info = operated.system.server.cli(["micro", "info", "dripline"]).await.unwrap();
    assert!(info.contains("dripline.lead.pause"), "{info}");
    for instance in operated.instances().await {
        let endpoints = instance["endpoints"].as_array().unwrap();
        assert_eq!(endpoints.len(), 23, "{instance:#}");
        for endpoint in endpoints {
            assert!(endpoint["subject"].as_str().unwrap().starts_with("dripline."), "{endpoint:#}");
            assert!(endpoint["metadata"]["description"].as_str().is_some_and(|text| text.ends_with('.')));
        }
    }
    let status = operated.ask("status", &json!({})).await;
    assert_eq!(status["providers"][0]["name"], "resend", "{status:#}");
    assert_eq!(status["queues"]["due"]["waiting"], 0, "{status:#}");
    let engines = status["engines"].as_array().unwrap();
    assert!(engines.contains(&status["engine"]), "{status:#}");
}

#[tokio::test]
async fn it_does_not_matter_which_engine_is_asked_nor_whether_one_has_died() {
    let mut operated = Operated::start().await;
    operated.arrived().await;
    for _ in 0..10 {
        assert_eq!(operated.changed("lead.pause", json!({})).await["status"], "PAUSED");
        assert_eq!(operated.changed("lead.resume", json!({})).await["status"], "ACTIVE");
    }
    operated.engines[0].kill().await.unwrap();
    let dead = until("the dead one is asked no more", async || operated.instances().await.len() == 1);
    dead.await.unwrap();
    operated.changed("lead.pause", json!({})).await;
    operated.changed("lead.resume", json!({})).await;
    operated.goes_on("lead.move", json!({"sequence": "welcome", "step": "second", "at": now()})).await;
    operated.until_steps(&["first", "second"]).await;
}

#[tokio::test]
async fn an_attempt_in_doubt_that_is_held_goes_on_as_an_operator_says() {
    for (sent, steps) in [(true, vec!["first", "second"]), (false, vec!["first", "first", "second"])] {
        let mut system = System::new("sendgrid").await;
        system.set("DRIPLINE_ESP__IN_DOUBT", "hold");
        system.set("DRIPLINE_ESP__IN_DOUBT_WAIT", "1s");
        let fault =
            Fault { match_to: Some("jane@".to_owned()), count: Some(1), ..Fault::new(FaultKind::DropAfterAccept) };
        system.fault(&fault).await;
        let operated = Operated::start_with(system).await;
        operated.system.publish("leads.new", &json!({"email": JANE}).to_string()).await;
        let held = until("her first email is in doubt, and held", async || {
            let document = operated.document().await.unwrap_or_default();
            document["status"] == "IN_DOUBT" && document["nextActionTimestamp"].is_null()
        });
        held.await.unwrap();
        let moving = by_ann(json!({"address": JANE, "sequence": "welcome", "step": "third"}));
        assert_eq!(operated.ask("lead.move", &moving).await["code"], "attempt_open");
        operated.change("lead.resolve", json!({"address": JANE, "sequence": "welcome", "sent": sent})).await;
        operated.system.until_status(KEY, "ACTIVE").await;
        operated.goes_on("lead.move", json!({"sequence": "welcome", "step": "second", "at": now()})).await;
        operated.until_steps(&steps.clone()).await;
        let resolved = operated.journalled("resolved").await;
        let by_hand = resolved.iter().find(|line| line["by"] == "ann").unwrap();
        assert!(by_hand["reason"].as_str().unwrap().ends_with(": a test"), "{by_hand}");
    }
}

#[tokio::test]
async fn who_is_erased_is_still_not_mailed_and_nothing_shows_the_address() {
    let operated = Operated::start_with(System::new("sendgrid").await).await;
    operated.arrived().await;
    until("she waits for her next email", async || operated.system.with_timer().await.len() == 1).await.unwrap();
    operated.run_changing(&["suppression", "add", JANE]).await;
    let (code, _, err) = operated.system.run(&["lead", "delete", JANE, "--reason", "asked to"]).await;
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("add --yes"), "{err}");
    let told = operated.run_changing(&["lead", "delete", JANE, "--yes"]).await;
    assert_eq!(told, "jane@example.com is erased\n");

    let subjects = |stream: &'static str| {
        let operated = &operated;
        async move { operated.system.server.cli(["stream", "subjects", stream, "--names"]).await.unwrap_or_default() }
    };
    let known = subjects("KV_suppressions").await;
    assert!(known.contains("$KV.suppressions.id.ld_") && !known.contains("jane"), "{known}");
    assert_eq!(operated.system.timers().await, []);
    let gone =
        until("the mark of the erased document is gone, too", async || !subjects("KV_leads").await.contains("jane"));
    gone.await.unwrap();
    let list = operated.run(&["suppression", "list"]).await;
    assert!(list.starts_with("ld_") && list.contains("a test"), "{list}");

    // She comes again.
    operated.system.publish("leads.new", &json!({"email": JANE}).to_string()).await;
    operated.system.until_status(KEY, "SUPPRESSED").await;
    assert_eq!(operated.steps().await, ["first"]);
    operated.run_changing(&["suppression", "remove", JANE]).await;
    operated.run_changing(&["lead", "enroll", JANE]).await;
    let document = operated.system.until_status(KEY, "ACTIVE").await;
    assert!(document["suppressed"].is_null(), "{document:#}");
}

#[tokio::test]
async fn sequences_and_providers_are_held_back_reloaded_and_migrated_by_the_nats_cli() {
    let operated = Operated::start().await;
    operated.arrived().await;
    let list = operated.ask("sequence.list", &json!({})).await;
    let rows: Vec<_> =
        list["sequences"].as_array().unwrap().iter().map(|it| (it["name"].as_str(), it["current"].as_u64())).collect();
    assert_eq!(rows, [(Some("other"), Some(1)), (Some("welcome"), Some(1))], "{list:#}");
    assert_eq!(operated.ask("sequence.show", &json!({"sequence": "welcome"})).await["steps"][1]["id"], "second");

    let paused = operated.change("sequence.pause", json!({"sequence": "other"})).await;
    assert_eq!(paused, json!({"sequence": "other", "paused": true, "changed": true}));
    assert_eq!(operated.change("sequence.pause", json!({"sequence": "other"})).await["changed"], false);
    let held = until("every engine knows", async || {
        operated.ask("status", &json!({})).await["paused"]["sequence.other"]["by"] == "ann"
    });
    held.await.unwrap();
    assert_eq!(operated.change("sequence.resume", json!({"sequence": "other"})).await["changed"], true);

    // A request that comes again after its answer changes nothing more.
    for verb in ["sequence.pause", "sequence.resume", "sequence.pause"] {
        let again = json!({"sequence": "other", "requestId": verb});
        assert_eq!(operated.change(verb, again).await["changed"], true, "{verb}");
    }
    let controls = operated.system.server.cli(["kv", "get", "controls", "sequence.other", "--raw"]).await.unwrap();
    let control: Value = serde_json::from_str(&controls).unwrap();
    assert_eq!(control["paused"], false, "{control:#}");
    assert_eq!(control["requests"].as_array().unwrap().len(), 4, "{control:#}");

    // No provider: what is due waits, and goes on.
    assert_eq!(operated.change("provider.pause", json!({"provider": "resend"})).await["changed"], true);
    let held = until("both engines know", async || {
        let mut engines = std::collections::BTreeSet::new();
        for _ in 0..12 {
            let status = operated.ask("provider.status", &json!({})).await;
            if status["providers"][0]["paused"]["by"] == "ann" {
                engines.insert(status["engine"].to_string());
            }
        }
        engines.len() == 2
    });
    held.await.unwrap();
    operated.goes_on("lead.move", json!({"sequence": "welcome", "step": "second", "at": now()})).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(operated.steps().await, ["first"], "nothing is sent by a provider that is held back");
    operated.change("provider.resume", json!({"provider": "resend"})).await;
    operated.until_steps(&["first", "second"]).await;
    assert_eq!(operated.journalled("provider_paused").await[0]["provider"], "resend");

    // A second version, with its second and third step swapped.
    operated.system.sequence("welcome", &[("first", "0s"), ("third", "1h"), ("second", "1h")]);
    let refused = operated.ask("sequence.reload", &by_ann(json!({}))).await;
    assert_eq!(refused["code"], "version_in_use", "{refused:#}");
    let file = operated.system.dir().join("sequences/welcome/sequence.toml");
    let toml = std::fs::read_to_string(&file).unwrap().replace("version = 1", "version = 2");
    std::fs::write(&file, toml).unwrap();
    let reloaded = operated.change("sequence.reload", json!({})).await;
    assert_eq!(reloaded["reloaded"], json!([{"name": "welcome", "version": 2, "before": 1}]));
    let followed = until("both engines go on with it", async || {
        let mut versions = Vec::new();
        for _ in 0..12 {
            versions.push(operated.ask("sequence.show", &json!({"sequence": "welcome"})).await["version"].clone());
        }
        versions.iter().all(|version| *version == 2)
    });
    followed.await.unwrap();

    let migrate = json!({"sequence": "welcome", "from": 1, "to": 2});
    let mut counted = migrate.clone();
    counted["dryRun"] = json!(true);
    let before = operated.document().await.unwrap();
    let counted = operated.change("sequence.migrate", counted).await;
    assert_eq!((&counted["found"], &counted["moved"]), (&json!(1), &json!(0)), "{counted:#}");
    assert_eq!(operated.document().await.unwrap(), before);
    let migrated = operated.change("sequence.migrate", migrate.clone()).await;
    assert_eq!(migrated, json!({"found": 1, "moved": 1, "refused": [], "after": null}));
    let after = operated.document().await.unwrap();
    let newest = after["enrollments"].as_array().unwrap().last().unwrap();
    assert_eq!((&newest["version"], &newest["step"]), (&json!(2), &json!(1)), "third is the second step now");
    assert_eq!(after["nextActionTimestamp"], before["nextActionTimestamp"]);
    assert_eq!(operated.change("sequence.migrate", migrate).await["found"], 0);
}

#[tokio::test]
async fn every_command_about_a_lead_changes_its_document() {
    let operated = Operated::start().await;
    let before = operated.arrived().await;
    let read = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    assert_eq!(read(&operated.run(&["lead", "get", JANE]).await), before);
    let list = operated.run(&["lead", "list"]).await;
    assert!(list.starts_with("jane@example.com  ACTIVE") && list.contains("welcome 1/second WAITING"), "{list}");
    let rows = read(&operated.run(&["lead", "list", "--status", "active", "--sequence", "welcome", "--json"]).await);
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows:#}");

    let told = operated.run_changing(&["lead", "pause", JANE]).await;
    assert!(told.starts_with("jane@example.com  PAUSED") && told.contains("paused by ann"), "{told}");
    assert_eq!(operated.document().await.unwrap()["status"], "PAUSED");
    let json = read(&operated.run_changing(&["lead", "resume", JANE, "--json"]).await);
    assert_eq!(Some(json), operated.document().await);

    let to_third = ["lead", "move", JANE, "--sequence", "welcome", "--step", "third", "--at", "2030-01-01T00:00:00Z"];
    operated.run_changing(&to_third).await;
    assert_eq!(operated.document().await.unwrap()["nextActionTimestamp"], 1_893_456_000_000_u64);
    operated.run_changing(&["lead", "restart", JANE, "--sequence", "welcome"]).await;
    operated.until_steps(&["first", "first"]).await;
    operated.system.until_status(KEY, "ACTIVE").await;
    operated.run_changing(&["lead", "stop", JANE]).await;
    assert_eq!(operated.document().await.unwrap()["status"], "COMPLETED");
    operated.run_changing(&["lead", "enroll", JANE, "--sequence", "other", "--field", "plan=pro"]).await;
    assert_eq!(operated.document().await.unwrap()["attributes"]["plan"], "pro");
    let history = operated.run(&["lead", "history", JANE, "--limit", "2"]).await;
    assert!(history.lines().next().unwrap().contains("enrolled") && history.contains("by ann"), "{history}");
    let resolve = ["lead", "resolve", JANE, "--sequence", "other", "--sent", "--reason", "seen"];
    let (code, _, err) = operated.system.run(&resolve).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("no such attempt is open"), "{err}");
    operated.run_changing(&["lead", "delete", JANE, "--yes"]).await;
    assert_eq!(operated.document().await, None);
    for arguments in [&["lead", "get", JANE][..], &["lead", "show", JANE], &["lead", "pause", JANE, "--reason", "x"]] {
        assert_eq!(operated.system.run(arguments).await.0, Some(3), "{arguments:?}");
    }
    assert_eq!(operated.system.run(&["lead", "pause", JANE]).await.0, Some(2), "no reason");

    let tail = operated.run(&["journal", "tail", "--lead", JANE, "-n", "3"]).await;
    assert_eq!(tail.lines().count(), 3, "{tail}");
    assert!(tail.lines().last().unwrap().contains("erased") && tail.contains("by ann: a test"), "{tail}");
    let stopped = operated.run(&["journal", "tail", "--event", "stopped", "--sequence", "welcome", "--json"]).await;
    assert_eq!(read(&stopped)["by"], "ann");
}

#[tokio::test]
async fn the_commands_about_sequences_providers_and_the_whole_do_what_they_say() {
    let operated = Operated::start().await;
    operated.arrived().await;
    let shown: Value = serde_json::from_str(&operated.run(&["sequence", "show", "welcome"]).await).unwrap();
    assert_eq!(shown["steps"].as_array().map(Vec::len), Some(3));
    assert_eq!(operated.run_changing(&["sequence", "reload"]).await, "nothing is new in the engine's folder\n");
    let file = operated.system.dir().join("sequences/welcome/sequence.toml");
    let toml = std::fs::read_to_string(&file).unwrap().replace("version = 1", "version = 2");
    std::fs::write(&file, toml).unwrap();
    assert_eq!(operated.run_changing(&["sequence", "reload"]).await, "new leads enter welcome version 2\n");
    let migrate = ["sequence", "migrate", "welcome", "--from", "1", "--to", "2"];
    let counted = operated.run_changing(&[&migrate[..], &["--dry-run"]].concat()).await;
    assert_eq!(counted, "1 found, 0 moved, 0 refused\n");
    assert_eq!(operated.run_changing(&migrate).await, "1 found, 1 moved, 0 refused\n");
    let document = operated.document().await.unwrap();
    assert_eq!(document["enrollments"][1]["version"], 2, "{document:#}");

    assert_eq!(operated.run_changing(&["provider", "pause", "resend"]).await, "resend is paused\n");
    let held = until("the status says so", async || {
        let status = operated.run(&["status"]).await;
        status.contains("provider.resend by ann: a test") && status.matches("paused by ann").count() == 1
    });
    held.await.unwrap();
    let held = until("the provider's status says so", async || {
        operated.run(&["provider", "status"]).await.contains("paused by ann")
    });
    held.await.unwrap();
    assert_eq!(operated.run_changing(&["provider", "resume", "resend"]).await, "resend is called again\n");
    let free =
        until("it takes calls again", async || operated.run(&["provider", "status"]).await.contains("takes calls"));
    free.await.unwrap();
    let status: Value = serde_json::from_str(&operated.run(&["status", "--json"]).await).unwrap();
    assert_eq!(status["engines"].as_array().map(Vec::len), Some(2), "{status:#}");
}

#[tokio::test]
async fn without_an_engine_a_command_that_needs_one_says_to_start_one() {
    let system = System::new("resend").await;
    for arguments in
        [&["status"][..], &["lead", "get", JANE], &["lead", "pause", JANE, "--reason", "x"], &["provider", "status"]]
    {
        let (code, out, err) = system.run(arguments).await;
        assert_eq!((code, &*out), (Some(1), ""), "{err}");
        assert!(err.contains("no engine answers: start one"), "{arguments:?}: {err}");
    }
}

#[tokio::test]
async fn every_command_on_the_page_about_the_nats_cli_works() {
    let operated = Operated::start().await;
    operated.arrived().await;
    operated.system.publish("leads.new", "no lead").await;
    operated.change("sequence.pause", json!({"sequence": "welcome"})).await;
    let rejected = until("one is rejected", async || operated.system.depth("REJECTED").await == 1);
    rejected.await.unwrap();
    let nats = tool("nats");
    let mut commands = 0;
    for line in include_str!("../../docs/nats-cli.md").lines().filter(|line| line.starts_with("nats ")) {
        // It pages on a terminal alone.
        if line.contains("stream view") {
            continue;
        }
        let script = line.replacen("nats ", &format!("{} ", nats.display()), 1);
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", &format!("exec {script}")]).env("NATS_URL", operated.system.server.url());
        command.env("XDG_CONFIG_HOME", operated.system.dir()).stdin(std::process::Stdio::null()).kill_on_drop(true);
        let goes_on = ["kv watch", "sub --stream", "micro ping"].iter().any(|part| line.contains(part));
        let patience = Duration::from_secs(if goes_on { 1 } else { 20 });
        match tokio::time::timeout(patience, command.output()).await {
            Ok(output) => {
                let output = output.unwrap();
                assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            }
            Err(_elapsed) => assert!(goes_on, "{line} does not end"),
        }
        commands += 1;
    }
    assert!(commands > 30, "{commands}");
}
