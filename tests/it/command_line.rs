//! What a person or a script sees who runs the commands.
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use dripline_test_support::{PATIENCE, command, free_port, until};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::system::{System, binary, tool};

/// One line on standard error, and nothing else; exit code 2.
async fn assert_wrong(system: &System, arguments: &[&str], names: &[&str]) {
    let (code, out, err) = system.run(arguments).await;
    assert_eq!((code, &*out), (Some(2), ""), "{arguments:?}: {err}");
    assert_eq!(err.lines().count(), 1, "{arguments:?}: {err}");
    for name in names {
        assert!(err.contains(name), "{arguments:?}: no `{name}` in {err}");
    }
}

#[tokio::test]
async fn config_check_shows_every_value_with_its_origin_and_no_secret() {
    let mut system = System::new("resend").await;
    std::fs::write(system.dir().join("dripline.toml"), "[gateway]\nbody_limit = \"32KiB\"\n").unwrap();
    system.set("DRIPLINE_NATS__URL", "nats://user:geheim@nats.example:4222");
    system.set("DRIPLINE_GATEWAY__API_KEYS", "geheim-1,geheim-2");
    system.set("DRIPLINE_ESP__RESEND__API_KEY", "re_geheim");
    let (code, table, err) = system.run(&["config", "check"]).await;
    assert_eq!((code, &*err), (Some(0), ""));
    let row = |key: &str| -> Vec<&str> {
        let found = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|row| row[0] == key);
        found.unwrap_or_else(|| panic!("no {key} in\n{table}"))
    };
    assert_eq!(row("gateway.body_limit"), ["gateway.body_limit", "32KiB", "dripline.toml"]);
    assert_eq!(row("engine.ack_wait"), ["engine.ack_wait", "4s", "DRIPLINE_ENGINE__ACK_WAIT"]);
    assert_eq!(row("engine.in_flight"), ["engine.in_flight", "2048", "default"]);
    assert_eq!(row("esp.resend.api_key")[1..], ["***", "DRIPLINE_ESP__RESEND__API_KEY"]);
    assert!(!table.contains("geheim"), "{table}");

    let (code, json, _) = system.run(&["config", "check", "--json"]).await;
    assert_eq!(code, Some(0));
    assert!(!json.contains("geheim"), "{json}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["gateway.body_limit"], serde_json::json!({"value": "32KiB", "from": "dripline.toml"}));
    assert_eq!(json["engine.in_flight"], serde_json::json!({"value": 2048, "from": "default"}));
}

#[tokio::test]
async fn completions_and_the_manual_are_printed_whatever_the_configuration_says() {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ESP__PROVIDER", "pigeon");
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, err) = system.run(&["completions", shell]).await;
        assert_eq!((code, &*err), (Some(0), ""));
        assert!(script.contains("suppression") && script.contains("rejected"), "{shell}");
    }
    let (code, page, err) = system.run(&["man"]).await;
    assert_eq!((code, &*err), (Some(0), ""));
    assert!(page.starts_with('.') && page.contains("dripline") && page.contains("suppression"), "{page}");
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_one_line_and_exit_code_2() {
    let mut system = System::new("resend").await;
    for (name, value, names) in [
        ("DRIPLINE_ESP__RTAE", "5", &["DRIPLINE_ESP__RTAE", "`rate`"][..]),
        ("DRIPLINE_ENGINE__IDLE", "30 parsecs", &["DRIPLINE_ENGINE__IDLE", "30 parsecs"]),
        ("DRIPLINE_GATEWAY__BODY_LIMIT", "64 stone", &["DRIPLINE_GATEWAY__BODY_LIMIT", "64 stone"]),
        ("DRIPLINE_ESP__PROVIDER", "pigeon", &["DRIPLINE_ESP__PROVIDER", "pigeon", "sendgrid"]),
    ] {
        let variables = [system.variables(), &[(name.to_owned(), value.to_owned())]].concat();
        let output = command(binary(), system.dir(), &["config", "check"], &variables).output().await.unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        for part in names {
            assert!(err.contains(part), "no `{part}` in {err}");
        }
    }
    // Every command looks first, and starts nothing.
    system.set("DRIPLINE_ENGINE__IDLE", "30 parsecs");
    for arguments in [&["run"][..], &["engine"], &["gateway"], &["topology", "apply"], &["sequence", "check"], &["dev"]]
    {
        assert_wrong(&system, arguments, &["DRIPLINE_ENGINE__IDLE"]).await;
    }
    assert!(!system.dir().join(".dripline").exists());
}

#[tokio::test]
async fn a_configuration_file_that_is_missing_or_wrong_is_one_line_and_exit_code_2() {
    let system = System::new("resend").await;
    assert_wrong(&system, &["--config", "nowhere.toml", "config", "check"], &["nowhere.toml"]).await;
    let file = system.dir().join("wrong.toml");
    for (text, names) in [
        ("[esp]\nrate = 5\nrtae = 5\n", &["wrong.toml", "esp.rtae", "`rate`"][..]),
        ("[nats]\nurl = nats://x\n", &["wrong.toml:2"]),
        ("[retry]\nlongest = \"2 fortnights\"\n", &["wrong.toml", "retry.longest", "2 fortnights"]),
    ] {
        std::fs::write(&file, text).unwrap();
        assert_wrong(&system, &["--config", "wrong.toml", "config", "check"], names).await;
    }
}

#[tokio::test]
async fn sequence_check_names_file_line_and_field_of_what_is_wrong() {
    let system = System::new("resend").await;
    let (code, out, err) = system.run(&["sequence", "check"]).await;
    assert_eq!((code, &*err), (Some(0), ""), "{out}");
    assert!(out.contains("welcome version 1: 3 emails over 2s"), "{out}");

    let folder = system.dir().join("sequences/broken");
    std::fs::create_dir_all(&folder).unwrap();
    let toml = "name = \"broken\"\nversion = 1\nfrom = \"Acme <hello@acme.example>\"\n\n\
        [[steps]]\nid = \"first\"\nafter = \"2 parsecs\"\nsend = { subject = \"Hi\", template = \"nowhere\" }\n\n\
        [[steps]]\nid = \"second\"\nsend = { subject = \"Hi\", template = \"body\" }\n";
    std::fs::write(folder.join("sequence.toml"), toml).unwrap();
    std::fs::write(folder.join("body.html"), "<p>\n{{ unclosed").unwrap();
    let (code, out, _) = system.run(&["sequence", "check"]).await;
    assert_eq!(code, Some(2), "{out}");
    let line =
        |part: &str| out.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("no {part} in\n{out}"));
    assert!(line("sequences/broken/sequence.toml:7: ").contains("after"), "{out}");
    assert!(line("sequences/broken/sequence.toml:8: ").contains("template"), "{out}");
    assert!(out.contains("welcome version 1"), "those that are right are shown: {out}");

    // With the file itself right, its templates are looked at.
    let toml = toml.replace("2 parsecs", "2s").replace("nowhere", "body");
    std::fs::write(folder.join("sequence.toml"), toml).unwrap();
    let (code, json, _) = system.run(&["sequence", "check", "--json"]).await;
    assert_eq!(code, Some(2), "{json}");
    let report: Value = serde_json::from_str(&json).unwrap();
    let problem = report["problems"][0].as_str().unwrap();
    assert!(problem.contains("sequences/broken") && problem.contains("body.html:2"), "{problem}");
    assert_eq!(report["sequences"][0]["name"], "welcome");

    // What `check` refuses does not run.
    let (code, _, err) = system.run(&["engine"]).await;
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("body.html:2"), "{err}");
}

#[tokio::test]
async fn topology_apply_makes_what_is_missing_and_the_second_time_changes_nothing() {
    let system = System::new("resend").await;
    let (code, first, err) = system.run(&["topology", "apply"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(first.lines().count() >= 8, "{first}");
    assert!(first.lines().all(|line| line.ends_with(" created")), "{first}");
    let (code, second, _) = system.run(&["topology", "apply"]).await;
    assert_eq!(code, Some(0));
    assert_eq!(second, first.replace(" created", " unchanged"));

    let (code, json, _) = system.run(&["topology", "apply", "--json"]).await;
    assert_eq!(code, Some(0));
    let rows: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(rows.len(), first.lines().count());
    assert!(rows.iter().all(|row| row["action"] == "unchanged" && row["what"].is_string()), "{json}");
}

#[tokio::test]
async fn without_nats_every_command_that_needs_it_says_so_and_ends() {
    let mut system = System::new("resend").await;
    let url = format!("nats://127.0.0.1:{}", free_port().unwrap());
    system.set("DRIPLINE_NATS__URL", &url);
    for arguments in [&["topology", "apply"][..], &["run"], &["engine"], &["gateway"]] {
        let began = Instant::now();
        let (code, out, err) = system.run(arguments).await;
        assert_eq!((code, &*out), (Some(1), ""), "{arguments:?}: {err}");
        assert!(began.elapsed() < Duration::from_secs(20), "{arguments:?} took {:?}", began.elapsed());
        assert_eq!(err.lines().count(), 1, "{arguments:?}: {err}");
        assert!(err.starts_with("dripline: cannot connect to NATS") && err.contains(&url), "{arguments:?}: {err}");
    }
}

#[tokio::test]
async fn sigterm_in_the_middle_finishes_what_is_in_flight_and_the_next_start_sends_the_rest_once() {
    const LEADS: usize = 200;
    let system = System::new("resend").await;
    let mut dripline = system.start("run").await;
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    for number in 0..LEADS {
        let lead = format!(r#"{{"email": "lead-{number}@example.com"}}"#);
        context.publish("leads.new", lead.into()).await.unwrap().await.unwrap();
    }
    // Some have had their second email, and others not their first.
    system.until_accepted(LEADS + 50).await;
    let code = dripline.stop().await.unwrap();
    assert_eq!(code, Some(0), "{}", system.log());
    let sent = system.summary().await.accepted;
    assert!(sent < LEADS * 3, "the stop came too late to show anything: {sent}");
    let statuses: Vec<_> = system.documents().await.iter().map(|lead| lead["status"].clone()).collect();
    assert!(!statuses.iter().any(|status| status == "IN_DOUBT" || status == "SENDING"), "{statuses:?}");

    let _dripline = system.start("run").await;
    let leads = system.until_all(LEADS, "COMPLETED").await;
    assert_eq!(leads.len(), LEADS);
    let summary = system.summary().await;
    assert_eq!((summary.accepted, summary.duplicates, summary.refused), (LEADS * 3, 0, 0), "{summary:?}");
    assert_eq!(system.waiting_leads().await, 0);
}

/// `dripline dev` as on a terminal; killed when dropped, with its nats-server.
struct Dev {
    child: Child,
    dir: PathBuf,
    lines: Lines<BufReader<ChildStdout>>,
    shown: Vec<String>,
}

impl Dev {
    fn start(dir: &Path) -> Self {
        let tools = tool("nats-server").parent().unwrap().to_owned();
        let path = std::env::join_paths(
            std::iter::once(tools).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        let variables = [("PATH".to_owned(), path.unwrap().into_string().unwrap())];
        let mut child = command(binary(), dir, &["dev"], &variables).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, dir: dir.canonicalize().unwrap(), lines, shown: Vec::new() }
    }

    /// Reads on until a line holds this; gives the line.
    async fn until_shown(&mut self, part: &str) -> String {
        let read = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.shown.push(line.clone());
                if line.contains(part) {
                    return Some(line);
                }
            }
            None
        };
        let found = tokio::time::timeout(PATIENCE, read).await.ok().flatten();
        found.unwrap_or_else(|| panic!("`{part}` is not shown:\n{}", self.shown.join("\n")))
    }

    async fn interrupt(mut self) -> Option<i32> {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
        tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap().code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.dir.join(".dripline/nats-server.pid")).unwrap_or_default();
        let command = std::fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
        // The number may be another process's by now.
        if String::from_utf8_lossy(&command).contains(&*self.dir.to_string_lossy()) {
            drop(std::process::Command::new("kill").args(["-KILL", pid.trim()]).status());
        }
    }
}

#[tokio::test]
async fn dev_shows_the_sample_leads_emails_in_an_empty_folder_until_ctrl_c_and_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path());
    let line = dev.until_shown("nats-server at nats://").await;
    let port: u16 = line.split("nats://127.0.0.1:").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    let sample = dev.until_shown("The sample lead ").await;
    let address = sample.split_whitespace().nth(3).unwrap().to_owned();
    for step in ["welcome", "first-tips", "case-study"] {
        let line = dev.until_shown(&format!("step `{step}`")).await;
        assert!(line.contains(&address), "{line}");
        let file = dev.until_shown(".eml").await;
        assert!(dir.path().join(file.trim()).is_file(), "{file}");
    }
    assert_eq!(dev.interrupt().await, Some(0));
    let gone =
        until("its nats-server has ended", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
    gone.await.unwrap();

    let mut again = Dev::start(dir.path());
    let sample = again.until_shown("The sample lead ").await;
    let other = sample.split_whitespace().nth(3).unwrap().to_owned();
    assert_ne!(other, address);
    let line = again.until_shown("step `welcome`").await;
    assert!(line.contains(&other), "{line}");
    assert_eq!(again.interrupt().await, Some(0));
}
