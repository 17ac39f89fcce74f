use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use super::*;

/// A folder with a `dripline.toml`, and the variables beside it.
struct Setting {
    folder: TempDir,
    variables: Vec<(OsString, OsString)>,
}

impl Setting {
    fn new(toml: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join(DEFAULT_FILE), toml).unwrap();
        Self { folder, variables: Vec::new() }
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(DEFAULT_FILE)
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        Config::load_with(Some(&self.path()), self.variables.clone())
    }

    /// The error, its folder cut away.
    fn error(&self) -> String {
        let text = self.load().map(|_| "nothing is wrong").unwrap_err().to_string();
        assert!(!text.contains('\n'), "more than one line: {text}");
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn variable(name: &str, value: &str) -> Setting {
    Setting::new("").variable(name, value)
}

#[test]
fn nothing_set_is_a_configuration_that_runs() {
    let config = Setting::new("").load().unwrap().config;
    assert_eq!(config.nats.url, "nats://127.0.0.1:4222");
    assert_eq!(config.esp.provider, Provider::Outbox);
    assert_eq!(config.gateway.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.gateway.body_limit, 65_536);
}

#[test]
fn a_variable_wins_over_the_file_and_the_file_over_the_default() {
    let setting = Setting::new("[esp]\nrate = 5\nin_flight = 7").variable("DRIPLINE_ESP__RATE", "12.5");
    let config = setting.load().unwrap().config;
    assert!((config.esp.rate - 12.5).abs() < f64::EPSILON);
    assert_eq!(config.esp.in_flight, 7);
    assert_eq!(config.esp.timeout.as_secs(), 10);
}

#[test]
fn a_variable_that_looks_like_a_number_stays_a_text_where_a_text_is_wanted() {
    let config =
        variable("DRIPLINE_NATS__PASSWORD", "0123").variable("DRIPLINE_NATS__USER", "true").load().unwrap().config;
    assert_eq!(config.nats.password.unwrap().expose(), "0123");
    assert_eq!(config.nats.user.as_deref(), Some("true"));
}

#[test]
fn a_list_in_a_variable_is_separated_by_commas() {
    for text in ["123,abc", "[123, abc]", r#"["123", "abc"]"#] {
        let config = variable("DRIPLINE_GATEWAY__API_KEYS", text).load().unwrap().config;
        let keys: Vec<_> = config.gateway.api_keys.iter().map(|key| key.expose().to_owned()).collect();
        assert_eq!(keys, ["123", "abc"], "{text}");
    }
}

#[test]
fn every_kind_of_value_can_be_a_variable() {
    let setting = variable("DRIPLINE_GATEWAY__BODY_LIMIT", "1000")
        .variable("DRIPLINE_GATEWAY__LISTEN", "0.0.0.0:80")
        .variable("DRIPLINE_GATEWAY__RATE_PER_IP", "20")
        .variable("DRIPLINE_GATEWAY__TRUST_FORWARDED_FOR", "true")
        .variable("DRIPLINE_ENGINE__ACK_WAIT", "1m 30s")
        .variable("DRIPLINE_SEQUENCES__SOURCES__WEB", "nurture")
        .variable("DRIPLINE_LOG__FORMAT", "json")
        .variable("DRIPLINE_METRICS__LISTEN", "0.0.0.0:9464")
        .variable("DRIPLINE_ESP__PROVIDER", "sendgrid")
        .variable("DRIPLINE_ESP__SENDGRID__API_KEY", "SG.x")
        .variable("DRIPLINE_LOG", "debug");
    let config = setting.load().unwrap().config;
    assert_eq!(config.gateway.body_limit, 1_000);
    assert_eq!(config.gateway.listen.port(), 80);
    assert_eq!(config.metrics.listen.map(|listen| listen.port()), Some(9_464));
    assert_eq!(config.gateway.rate_per_ip.map(std::num::NonZeroU32::get), Some(20));
    assert!(config.gateway.trust_forwarded_for);
    assert_eq!(config.engine.ack_wait.as_secs(), 90);
    assert_eq!(config.sequences.sources["web"], "nurture");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.esp.sendgrid.unwrap().api_key.expose(), "SG.x");
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let config = Setting::new("[esp]\nrate = 5").variable("DRIPLINE_ESP__RATE", "").load().unwrap().config;
    assert!((config.esp.rate - 5.0).abs() < f64::EPSILON);
    assert_eq!(variable("DRIPLINE_ESP__RTAE", "").error(), "DRIPLINE_ESP__RTAE: unknown key, did you mean `rate`?");
}

#[test]
fn the_variable_that_names_the_file_is_heard_unless_a_path_is_given() {
    let one = Setting::new("[esp]\nrate = 1");
    let two = Setting::new("[esp]\nrate = 2").variable(FILE_VARIABLE, one.path().to_str().unwrap());
    assert!((two.load().unwrap().config.esp.rate - 2.0).abs() < f64::EPSILON);
    let config = Config::load_with(None, two.variables.clone()).unwrap().config;
    assert!((config.esp.rate - 1.0).abs() < f64::EPSILON);
}

#[test]
fn what_is_wrong_in_the_file_is_one_line_with_file_key_and_remedy() {
    for (toml, expected) in [
        ("[esp]\nrtae = 5", "dripline.toml: esp.rtae: unknown key, did you mean `rate`?"),
        ("[log]\ncolour = 5", "dripline.toml: log.colour: unknown key; known here: format, level, show_addresses"),
        ("[gatewy]", "dripline.toml: gatewy: unknown key, did you mean `gateway`?"),
        (
            "[esp]\ntimeout = 10",
            "dripline.toml: esp.timeout: `10` is not a duration; write a number and a unit, such as \"30s\", \"15m\", \"12h\" or \"2d\"",
        ),
        (
            "[esp]\nprovider = \"sendgird\"",
            "dripline.toml: esp.provider: `sendgird` is not one of outbox, sendgrid, mailgun, postmark, resend, smtp",
        ),
        ("[esp]\nrate = \"fast\"", "dripline.toml: esp.rate: `fast` found, a number expected"),
        ("[esp]\nrate = -1", "dripline.toml: esp.rate: `-1` is not a rate; write emails a second, or 0 for no limit"),
        ("[esp]\nburst = 0", "dripline.toml: esp.burst: `0` found, a whole number, 1 or more expected"),
        ("esp = 5", "dripline.toml: esp: `5` found, a table of keys expected"),
        ("[nats]\npassword = 5", "dripline.toml: nats.password: a number found, a text in quotes expected"),
        ("[nats]\nurl = 5", "dripline.toml: nats.url: `5` found, a text in quotes expected"),
        (
            "[gateway]\nlisten = \"8080\"",
            "dripline.toml: gateway.listen: `8080` is not an address and a port; write \"127.0.0.1:8080\", or \"0.0.0.0:8080\" for all",
        ),
        (
            "[telemetry]\notlp_endpoint = \"collector:4318\"",
            "dripline.toml: telemetry.otlp_endpoint: `collector:4318` is not a web address; write \"http://127.0.0.1:4318\"",
        ),
        (
            "[telemetry]\nsample_ratio = 10",
            "dripline.toml: telemetry.sample_ratio: `10` is not from 0 to 1; write 0.1 to send a tenth of the traces",
        ),
        (
            "[metrics]\nlisten = \"9464\"",
            "dripline.toml: metrics.listen: `9464` is not an address and a port; write \"127.0.0.1:8080\", or \"0.0.0.0:8080\" for all",
        ),
        (
            "[metrics]\nlisten = \"127.0.0.1:8080\"",
            "dripline.toml: metrics.listen: `127.0.0.1:8080` is where the gateway listens; take another port",
        ),
        (
            "[gateway]\nbody_limit = \"64 parsecs\"",
            "dripline.toml: gateway.body_limit: `64 parsecs` is not a size; write a number of bytes, or one with a unit, such as \"64KiB\"",
        ),
        (
            "[gateway]\ncors_origins = [\"https://acme.example/\"]",
            "dripline.toml: gateway.cors_origins: `https://acme.example/` is not an origin; write \"https://acme.example\" without a path, or \"*\"",
        ),
        (
            "[gateway]\napi_keys = [\"\"]",
            "dripline.toml: gateway.api_keys: an empty key would let everyone in; remove it",
        ),
        (
            "[unsubscribe]\nbase_url = \"http://mail.acme.example\"",
            "dripline.toml: unsubscribe.base_url: `http://mail.acme.example` cannot be the beginning of a link; write \"https://mail.acme.example\"",
        ),
        (
            "[unsubscribe]\nbase_url = \"https://mail.acme.example/?a=1\"",
            "dripline.toml: unsubscribe.base_url: `https://mail.acme.example/?a=1` cannot be the beginning of a link; write \"https://mail.acme.example\"",
        ),
        (
            "[unsubscribe]\nkeys = [\"too short\"]",
            "dripline.toml: unsubscribe.keys: each must have 32 characters or more, so that nobody guesses it; make one with `openssl rand -hex 32`",
        ),
        ("[unsubscribe]\nkeys = 5", "dripline.toml: unsubscribe.keys: a number found, a list expected"),
        (
            "[engine]\nack_wait = \"900ms\"",
            "dripline.toml: engine.ack_wait: `900ms` is too short; write \"1s\" or longer",
        ),
        (
            "[engine]\nack_wait = \"10s\"",
            "dripline.toml: engine.ack_wait: engine.ack_wait (10s) must be longer than esp.timeout (10s), or NATS hands out an email again that is still being sent",
        ),
        (
            "[esp]\ntimeout = \"1m\"",
            "dripline.toml: esp.timeout: engine.ack_wait (30s) must be longer than esp.timeout (1m), or NATS hands out an email again that is still being sent",
        ),
        (
            "[engine]\ndefault_region = \"Germany\"",
            "dripline.toml: engine.default_region: `Germany` is not a region; write two capital letters, such as \"US\" or \"DE\" (ISO 3166-1 alpha-2)",
        ),
        (
            "[retry]\nfirst = \"7h\"",
            "dripline.toml: retry.first: retry.longest (6h) must not be shorter than retry.first (7h)",
        ),
        (
            "[nats]\nreplicas = 9",
            "dripline.toml: nats.replicas: `9` is not from 1 to 5; write 1 for one server, 3 for a cluster",
        ),
        ("[nats]\nuser = \"jane\"", "nats.password: is missing; set it in dripline.toml, or DRIPLINE_NATS__PASSWORD"),
        (
            "[nats]\nnkey_seed = \"SU\"\ncreds_file = \"a\"",
            "dripline.toml: nats.creds_file: nats.nkey_seed is set as well; keep one of them",
        ),
        (
            "[sequences.sources]\n\"a.b\" = \"x\"",
            "dripline.toml: sequences.sources: `a.b` is not a name; write 1 to 64 of a-z, 0-9, _ and -",
        ),
        (
            "[esp]\nprovider = \"sendgrid\"",
            "esp.sendgrid.api_key: is missing; set it in dripline.toml, or DRIPLINE_ESP__SENDGRID__API_KEY",
        ),
        (
            "[log]\nlevel = \"a=b=c\"",
            "dripline.toml: log.level: `a=b=c` is not a level; write error, warn, info, debug or trace, or a filter such as \"info,dripline=debug\"",
        ),
    ] {
        assert_eq!(Setting::new(toml).error(), expected, "{toml}");
    }
}

#[test]
fn a_file_that_is_not_toml_is_told_with_its_line() {
    let error = Setting::new("[nats]\nurl = \"a\"\n[esp\nrate = 1").error();
    assert!(error.starts_with("dripline.toml:3: "), "{error}");
    let error = Setting::new("[nats]\nurl = \"a\"\nurl = \"b\"").error();
    assert!(error.starts_with("dripline.toml:3: "), "{error}");
}

#[test]
fn what_is_wrong_in_a_variable_is_one_line_with_its_name() {
    for (name, value, expected) in [
        ("DRIPLINE_ESP__RTAE", "5", "DRIPLINE_ESP__RTAE: unknown key, did you mean `rate`?"),
        (
            "DRIPLINE_ESP_RATE",
            "5",
            "DRIPLINE_ESP_RATE: unknown key; known here: nats, esp, sequences, gateway, webhooks, unsubscribe, engine, retry, \
             feedback, guard, statistics, outgoing_webhooks, alerts, canary, log, metrics, telemetry",
        ),
        ("DRIPLINE_", "5", "DRIPLINE_: unknown key"),
        (
            "DRIPLINE_LOG",
            "a=b=c",
            "DRIPLINE_LOG: `a=b=c` is not a level; write error, warn, info, debug or trace, or a filter such as \"info,dripline=debug\"",
        ),
        ("DRIPLINE_ESP____RATE", "5", "DRIPLINE_ESP____RATE: unknown key"),
        ("DRIPLINE_ESP__RATE", "fast", "DRIPLINE_ESP__RATE: `fast` found, a number expected"),
        ("DRIPLINE_ESP__IN_FLIGHT", "-3", "DRIPLINE_ESP__IN_FLIGHT: `-3` found, a whole number, 0 or more expected"),
        ("DRIPLINE_ESP", "sendgrid", "DRIPLINE_ESP: `sendgrid` found, a table of keys expected"),
        (
            "DRIPLINE_ESP__TIMEOUT",
            "10",
            "DRIPLINE_ESP__TIMEOUT: `10` is not a duration; write a number and a unit, such as \"30s\", \"15m\", \"12h\" or \"2d\"",
        ),
        ("DRIPLINE_LOG__SHOW_ADDRESSES", "yes", "DRIPLINE_LOG__SHOW_ADDRESSES: `yes` found, true or false expected"),
    ] {
        assert_eq!(variable(name, value).error(), expected);
    }
}

#[test]
fn a_named_file_that_is_missing_is_an_error() {
    let error = Config::load_with(Some(Path::new("/nowhere/dripline.toml")), []).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/dripline.toml: cannot be read: No such file"), "{error}");
    let error = Config::load_with(None, [(FILE_VARIABLE.into(), "/nowhere/x.toml".into())]).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/x.toml: cannot be read: No such file"), "{error}");
}

#[test]
fn the_report_says_what_holds_and_where_from_and_no_secret() {
    let setting =
        Setting::new("[esp]\nrate = 5\n[nats]\nurl = \"nats://jane:hush@one:4222,nats://jane:hush@two:4222\"")
            .variable("DRIPLINE_GATEWAY__API_KEYS", "hush,hush2")
            .variable("DRIPLINE_ESP__SENDGRID__API_KEY", "hush");
    let loaded = setting.load().unwrap();
    let file = setting.path().display().to_string();

    let json: Value = serde_json::from_str(&loaded.report(true)).unwrap();
    for (key, value, from) in [
        ("esp.rate", Value::from(5.0), file.as_str()),
        ("esp.timeout", "10s".into(), "default"),
        ("esp.sendgrid.api_key", "***".into(), "DRIPLINE_ESP__SENDGRID__API_KEY"),
        ("gateway.api_keys", vec!["***", "***"].into(), "DRIPLINE_GATEWAY__API_KEYS"),
        ("gateway.body_limit", "64KiB".into(), "default"),
        ("nats.url", "nats://***@one:4222,nats://***@two:4222".into(), file.as_str()),
        ("nats.user", Value::Null, "default"),
        ("retry.longest", "6h".into(), "default"),
    ] {
        assert_eq!(json[key]["value"], value, "{key}");
        assert_eq!(json[key]["from"], from, "{key}");
    }

    let table = loaded.report(false);
    assert!(!table.contains("hush"), "{table}");
    let column = |line: &str, word: &str| line.rfind(word).unwrap();
    let lines: Vec<&str> = table.lines().filter(|line| line.ends_with("default")).collect();
    assert!(lines.iter().all(|line| column(line, "default") == column(lines[0], "default")), "not aligned:\n{table}");
}

#[test]
fn what_the_report_shows_can_be_written_into_the_file() {
    let report: Value = serde_json::from_str(&Setting::new("").load().unwrap().report(true)).unwrap();
    let mut toml = String::new();
    for (key, entry) in report.as_object().unwrap() {
        if !entry["value"].is_null() && !entry["value"].is_object() {
            writeln!(toml, "{key} = {}", entry["value"]).unwrap();
        }
    }
    let again: Value = serde_json::from_str(&Setting::new(&toml).load().unwrap().report(true)).unwrap();
    for (key, entry) in report.as_object().unwrap() {
        assert_eq!(entry["value"], again[key]["value"], "{key}");
    }
}

#[test]
fn a_provider_without_its_secret_is_told_which_key_is_missing() {
    for (toml, key) in [
        ("provider = \"sendgrid\"\n[esp.sendgrid]\nsandbox = true", "esp.sendgrid.api_key"),
        ("provider = \"mailgun\"\n[esp.mailgun]\napi_key = \"k\"", "esp.mailgun.domain"),
        ("provider = \"postmark\"", "esp.postmark.server_token"),
        ("provider = \"resend\"", "esp.resend.api_key"),
        ("provider = \"smtp\"", "esp.smtp.host"),
        ("provider = \"smtp\"\n[esp.smtp]\nhost = \"h\"\nusername = \"u\"", "esp.smtp.password"),
    ] {
        let variable = key.to_uppercase().replace('.', "__");
        let expected = format!("{key}: is missing; set it in dripline.toml, or DRIPLINE_{variable}");
        assert_eq!(Setting::new(&format!("[esp]\n{toml}")).error(), expected);
    }
}

#[test]
fn a_secret_that_is_not_set_does_not_look_as_if_it_were() {
    let report = Setting::new("[esp.sendgrid]\nsandbox = true").load().unwrap().report(true);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["esp.sendgrid.api_key"]["value"], "");
}

const WELCOME: &str = r#"
name = "welcome"
version = 1
from = "Acme <hello@acme.example>"
[[steps]]
id = "hello"
send = { subject = "Welcome, {{ firstName }}", template = "hello" }
[[steps]]
id = "tips"
after = "2d"
send = { subject = "Tips", template = "hello" }
"#;

/// A folder `sequences` with these files in it, and what the check says of them, the folder cut away.
fn check(files: &[(&str, &str)], toml: &str) -> (SequenceReport, String) {
    let mut setting = Setting::new(toml);
    let dir = setting.folder.path().join("sequences");
    std::fs::create_dir(&dir).unwrap();
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    setting = setting.variable("DRIPLINE_SEQUENCES__DIR", dir.to_str().unwrap());
    let report = check_sequences(&setting.load().unwrap());
    let text = report.to_string().replace(&format!("{}/", setting.folder.path().display()), "");
    (report, text)
}

#[test]
fn good_sequences_are_listed() {
    let files = [
        ("welcome/sequence.toml", WELCOME),
        ("welcome/hello.html", "<p>{{ unsubscribe_url }}</p>"),
        (".git/x", ""),
        ("notes.txt", ""),
    ];
    let (report, text) = check(&files, "[sequences]\ndefault = \"welcome\"");
    assert!(report.is_good(), "{text}");
    assert_eq!(text, "welcome version 1: 2 emails over 2d, from Acme <hello@acme.example>\n");
}

#[test]
fn emails_that_are_mailed_need_what_their_links_are_made_of() {
    let files = [("welcome/sequence.toml", WELCOME), ("welcome/hello.html", "<p>{{ unsubscribe_url }}</p>")];
    let mailed = "[esp]\nprovider = \"resend\"\n[esp.resend]\napi_key = \"re_key\"\n[unsubscribe]\n";
    let base_url = "base_url = \"https://mail.acme.example\"\n";
    let why = "the sequence `welcome` is not transactional, so its emails carry a link to unsubscribe";
    for (toml, missing) in [
        (
            mailed.to_owned(),
            "unsubscribe.base_url: is missing; set it in dripline.toml, or DRIPLINE_UNSUBSCRIBE__BASE_URL",
        ),
        (
            format!("{mailed}{base_url}"),
            "unsubscribe.keys: is missing; set it in dripline.toml, or DRIPLINE_UNSUBSCRIBE__KEYS",
        ),
    ] {
        let (report, text) = check(&files, &toml);
        assert!(!report.is_good());
        assert!(text.contains(&format!("{missing}; {why}")), "{text}");
    }
    let keys = "keys = [\"0123456789abcdef0123456789abcdef\"]\n";
    let (report, text) = check(&files, &format!("{mailed}{base_url}{keys}"));
    assert!(report.is_good(), "{text}");

    let transactional = WELCOME.replace("version = 1", "version = 1\ntransactional = true");
    let files = [("welcome/sequence.toml", &*transactional), ("welcome/hello.html", "<p>Your receipt</p>")];
    let (report, text) = check(&files, mailed);
    assert!(report.is_good(), "{text}");
}

#[test]
fn every_fault_of_the_sequences_is_told_with_its_place() {
    let hello = ("welcome/hello.html", "<p>{{ unsubscribe_url }}</p>");
    let welcome = ("welcome/sequence.toml", WELCOME);
    let renamed = WELCOME.replace("\"welcome\"", "\"greeting\"");
    for (files, toml, expected) in [
        (vec![], "", "sequences: holds no sequence; one is <name>/sequence.toml"),
        (vec![("welcome/hello.html", "x")], "", "sequences/welcome/sequence.toml: cannot be read: No such file"),
        (vec![welcome], "", "sequences/welcome/sequence.toml:7: steps[0].send.template: "),
        (vec![welcome, ("welcome/hello.html", "{{ a")], "", "sequences/welcome: hello.html:1: "),
        (
            vec![("welcome/sequence.toml", renamed.as_str()), hello],
            "",
            "sequences/welcome/sequence.toml: name: `greeting` is not the name of its folder; make them the same",
        ),
        (
            vec![welcome, hello],
            "[sequences]\ndefault = \"other\"",
            "dripline.toml: sequences.default: there is no usable sequence `other` in sequences",
        ),
        (
            vec![welcome, hello],
            "[sequences.sources]\nweb = \"other\"",
            "dripline.toml: sequences.sources.web: there is no usable sequence `other` in sequences",
        ),
    ] {
        let (report, text) = check(&files, toml);
        assert!(!report.is_good());
        assert!(text.contains(expected), "{text}\nhas not\n{expected}");
    }
}

#[test]
fn an_outgoing_webhook_that_cannot_work_is_told_with_its_place_and_its_secret_is_never_shown() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let webhook = |name: &str, url: &str, secret: &str, more: &str| {
        format!("[[outgoing_webhooks]]\nname = \"{name}\"\nurl = \"{url}\"\nsecret = \"{secret}\"\n{more}\n")
    };
    let good = webhook("crm", "https://crm.acme.example/hook", secret, "events = [\"sent\", \"sequence_paused\"]");
    let loaded = Setting::new(&good).load().unwrap();
    assert_eq!(loaded.config.outgoing_webhooks[0].events.as_ref().map(Vec::len), Some(2));
    for json in [true, false] {
        let report = loaded.report(json);
        assert!(report.contains("crm.acme.example") && !report.contains("MfKQ"), "{report}");
    }
    for (toml, names) in [
        (webhook("CRM", "https://a.example", secret, ""), ["outgoing_webhooks.0.name", "`CRM`"]),
        (good.clone() + &good, ["outgoing_webhooks.1.name", "twice"]),
        (webhook("crm", "crm.example", secret, ""), ["outgoing_webhooks.0", "`crm.example`"]),
        (webhook("crm", "https://a.example", "whsec_short", ""), ["outgoing_webhooks.0", "24 to 64"]),
        (webhook("crm", "https://a.example", secret, "events = []"), ["outgoing_webhooks.0.events", "leave it out"]),
        (webhook("crm", "https://a.example", secret, "events = [\"snet\"]"), ["outgoing_webhooks.0.events", "`snet`"]),
        ("[guard]\nbounce_limit = 5".to_owned(), ["guard.bounce_limit", "0.05"]),
        ("[guard]\nwindow = \"1s\"".to_owned(), ["guard.window", "1m"]),
    ] {
        let error = Setting::new(&toml).error();
        assert!(names.iter().all(|name| error.contains(name)), "{error}");
        assert!(!error.contains("whsec_short"), "{error}");
    }
}

/// A table row of a document: its cells, without the bars.
fn cells(line: &str) -> Option<Vec<&str>> {
    Some(line.strip_prefix("| ")?.trim_end_matches('|').split(" | ").map(str::trim).collect())
}

#[test]
fn every_setting_is_documented_with_its_variable_and_its_default() {
    // A table of tables, or a list of them, each with a section of its own.
    const ELSEWHERE: [&str; 3] = ["sequences.sources", "webhooks", "outgoing_webhooks"];
    let document = include_str!("../../docs/configuration.md");
    let report: serde_json::Map<String, Value> =
        serde_json::from_str(&Setting::new("").load().unwrap().report(true)).unwrap();
    for (key, row) in report.iter().filter(|(key, _)| !ELSEWHERE.contains(&key.as_str())) {
        let documented = document.lines().filter_map(cells).find(|cells| cells[0].contains(&format!("`{key}`")));
        let [_, variable, default, ..] = &documented.unwrap_or_else(|| panic!("{key} is not documented"))[..] else {
            panic!("the row of {key} is too short");
        };
        let name = format!("DRIPLINE_{}", key.to_uppercase().replace('.', "__"));
        assert!(variable.contains(&format!("`{name}`")) || variable.contains("__*`"), "{key}: {variable}");
        let value = match &row["value"] {
            Value::Null => continue,
            Value::Array(list) if list.is_empty() => continue,
            Value::String(text) => text.clone(),
            // `1.0` is written `1`.
            other => other.to_string().trim_end_matches(".0").to_owned(),
        };
        assert!(default.contains(&format!("`{value}`")), "{key} is {value} by default; documented: {default}");
    }
}
