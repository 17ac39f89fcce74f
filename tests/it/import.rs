//! Files of leads, in and out.
use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use dripline_test_support::{Dripline, until};
use serde_json::{Value, json};

use crate::system::{System, binary};

/// A system whose leads wait for days, so that nothing but their arrival happens.
async fn asleep() -> System {
    let system = System::new("resend").await;
    system.sequence("welcome", &[("first", "3d")]);
    system.sequence("other", &[("first", "3d")]);
    system
}

/// A system with the streams, and nobody who takes leads from the queue.
async fn with_queue() -> System {
    let system = asleep().await;
    assert_eq!(system.run(&["topology", "apply"]).await.0, Some(0));
    system
}

fn write(system: &System, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = system.dir().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn read(system: &System, name: &str) -> String {
    std::fs::read_to_string(system.dir().join(name)).unwrap()
}

/// So many rows, all good.
fn csv(rows: usize) -> String {
    let mut text = "email,firstName,plan\n".to_owned();
    for row in 0..rows {
        writeln!(text, "lead-{row}@example.com,Lead {row},pro").unwrap();
    }
    text
}

/// Runs `import --json`; gives the exit code, the report and standard error.
async fn import(system: &System, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let (code, out, err) = system.run(&[&["import", "--json"], arguments].concat()).await;
    (code, serde_json::from_str(&out).unwrap_or_default(), err)
}

/// The payloads in `LEADS`, in order, each with its subject.
async fn queued(system: &System) -> Vec<(String, Value)> {
    let context = async_nats::jetstream::new(async_nats::connect(system.server.url()).await.unwrap());
    let leads = context.get_stream("LEADS").await.unwrap();
    let mut found = Vec::new();
    for sequence in 1..=leads.cached_info().state.last_sequence {
        let message = leads.get_raw_message(sequence).await.unwrap();
        found.push((message.subject.to_string(), serde_json::from_slice(&message.payload).unwrap()));
    }
    found
}

async fn until_settled(system: &System) {
    // Patience is for a standstill, not for many leads.
    let mut left = u64::MAX;
    while left > 0 {
        let before = left;
        let shorter = until(format!("fewer than {before} leads wait"), async || {
            left = system.waiting_leads().await;
            left < before
        });
        shorter.await.unwrap();
    }
}

#[tokio::test]
async fn every_good_row_becomes_a_lead_and_the_others_are_kept_with_line_and_reason() {
    const ROWS: usize = 2_000;
    let system = with_queue().await;
    let mut text = csv(ROWS);
    text.push_str("no-address,Ann,pro\nann@example.com,\"Ann\nAnn\",\n");
    text.push_str("two@example.com,Two\n");
    write(&system, "leads.csv", text);
    let (code, report, err) = import(&system, &["leads.csv"]).await;
    assert_eq!(code, Some(3), "{err}");
    assert_eq!(
        (&report["rows"], &report["queued"], &report["rejected"], &report["reasons"]),
        (
            &json!(ROWS + 3),
            &json!(ROWS),
            &json!(3),
            &json!({"control_characters": 1, "field_count": 1, "invalid_email": 1})
        )
    );
    assert_eq!(
        read(&system, "leads.rejected.csv"),
        "rejected_line,rejected_code,rejected_reason,email,firstName,plan\n\
         2002,invalid_email,\"email: an address has a part before and a part after an @, such as jane@example.com\",no-address,Ann,pro\n\
         2003,control_characters,\"firstName: holds control characters\",ann@example.com,\"Ann\nAnn\",\n\
         2005,field_count,\"the row has 2 fields, and the header 3\",two@example.com,Two\n"
    );
    assert!(!system.dir().join("leads.csv.import.json").exists());

    let _dripline = system.start("engine").await;
    until_settled(&system).await;
    let documents = system.documents().await;
    let addresses: HashSet<_> = documents.iter().map(|lead| lead["email"].as_str().unwrap()).collect();
    assert_eq!((documents.len(), addresses.len()), (ROWS, ROWS));
    assert!(documents.iter().all(|lead| lead["attributes"] == json!({"plan": "pro"})));

    // What was mended is imported as it stands, reasons and all.
    let mended = read(&system, "leads.rejected.csv").replace("no-address", "mended@example.com");
    write(&system, "mended.csv", mended.replace("\"Ann\nAnn\"", "Ann").replace("com,Two", "com,Two,pro"));
    let (code, report, err) = import(&system, &["mended.csv"]).await;
    assert_eq!((code, &report["queued"]), (Some(0), &json!(3)), "{err}");
    let lead = system.until_status("mended=40example.com", "NEW").await;
    assert_eq!((&lead["firstName"], &lead["attributes"]), (&json!("Ann"), &json!({"plan": "pro"})));
}

#[tokio::test]
async fn a_large_import_that_was_killed_goes_on_and_each_row_is_one_lead_that_came_once() {
    const ROWS: usize = 20_001;
    let system = with_queue().await;
    write(&system, "leads.csv", csv(ROWS).replace("lead-7@example.com", "lead-7"));
    let mut killed = Dripline::start(binary(), system.dir(), &["import", "leads.csv"], system.variables()).unwrap();
    let bookmark = system.dir().join("leads.csv.import.json");
    let rows_done = || -> Option<u64> {
        serde_json::from_slice::<Value>(&std::fs::read(&bookmark).ok()?).ok()?["place"]["rows"].as_u64()
    };
    until("some rows are done", async || rows_done().is_some_and(|rows| rows > 0)).await.unwrap();
    killed.kill().await.unwrap();
    let done = rows_done().unwrap();
    assert!(done < ROWS as u64, "killed too late to show anything");

    let (code, report, err) = import(&system, &["leads.csv"]).await;
    assert_eq!(code, Some(3), "{err}");
    assert_eq!((&report["rows"], &report["queued"]), (&json!(ROWS), &json!(ROWS - 1)));
    assert_eq!(report["resumedAfter"], done);
    assert!(err.contains("going on after row"), "{err}");
    assert_eq!(read(&system, "leads.rejected.csv").lines().count(), 2);
    assert_eq!(system.depth("LEADS").await, ROWS as u64 - 1);
    let _dripline = system.start("engine").await;
    until_settled(&system).await;
    let documents = system.documents().await;
    let addresses: HashSet<_> = documents.iter().map(|lead| lead["email"].as_str().unwrap()).collect();
    assert_eq!(addresses.len(), ROWS - 1);
    assert!(documents.iter().all(|lead| lead["history"].as_array().unwrap().len() == 1), "a lead arrived twice");
}

#[tokio::test]
async fn an_import_that_is_told_to_stop_says_how_to_go_on_and_refuses_another_file_or_other_options() {
    let mut system = with_queue().await;
    system.set("DRIPLINE_NATS__MAX_LEADS", "4500");
    write(&system, "leads.csv", csv(9_000));
    let mut stopped = Dripline::start(binary(), system.dir(), &["import", "leads.csv"], system.variables()).unwrap();
    until("the queue is full", async || system.depth("LEADS").await == 4_500).await.unwrap();
    let (code, _, err) = import(&system, &["leads.csv"]).await;
    assert_eq!(code, Some(2));
    assert!(err.contains("another import of leads.csv is running"), "{err}");
    assert_eq!(stopped.stop().await.unwrap(), Some(1));
    assert!(system.log().contains("the queue is full; waiting for it"), "{}", system.log());
    assert!(system.log().contains("stopped after row 4000; the same command goes on from there"), "{}", system.log());

    for (arguments, says) in [
        (&["leads.csv", "--sequence", "other"][..], "with other options stopped after row 4000"),
        (&["leads.csv", "--map", "plan="], "begin anew with --no-resume"),
    ] {
        let (code, _, err) = import(&system, arguments).await;
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(says), "{err}");
    }
    write(&system, "leads.csv", csv(9_000).replace("Lead 8999", "Lead 9999"));
    let (code, _, err) = import(&system, &["leads.csv"]).await;
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("leads.csv has changed since the import that stopped after row 4000"), "{err}");

    system.set("DRIPLINE_NATS__MAX_LEADS", "1000000");
    let (code, report, err) = import(&system, &["leads.csv", "--no-resume"]).await;
    assert_eq!((code, &report["queued"], &report["resumedAfter"]), (Some(0), &json!(9_000), &json!(0)), "{err}");
}

#[tokio::test]
async fn a_full_queue_is_waited_for_even_where_a_batch_would_never_fit() {
    let mut system = asleep().await;
    system.set("DRIPLINE_NATS__MAX_LEADS", "300");
    assert_eq!(system.run(&["topology", "apply"]).await.0, Some(0));
    let _dripline = system.start("engine").await;
    write(&system, "leads.csv", csv(1_000));
    let (code, report, err) = import(&system, &["leads.csv"]).await;
    assert_eq!((code, &report["queued"]), (Some(0), &json!(1_000)), "{err}");
    assert!(err.contains("the queue is full; waiting for it"), "{err}");
    until_settled(&system).await;
    assert_eq!(system.documents().await.len(), 1_000);
}

#[tokio::test]
async fn a_dry_run_checks_everything_and_leaves_nothing_behind_even_without_a_server() {
    let mut system = with_queue().await;
    write(&system, "leads.csv", "E-Mail;Vorname\nann@example.com;Ann\nno address;Bob\n");
    let (code, report, err) = import(&system, &["leads.csv", "--dry-run"]).await;
    assert_eq!(code, Some(3), "{err}");
    assert_eq!((&report["good"], &report["queued"], &report["rejected"]), (&json!(1), &json!(0), &json!(1)));
    assert_eq!(system.depth("LEADS").await, 0);
    system.set("DRIPLINE_NATS__URL", "nats://127.0.0.1:1");
    let (code, out, err) = system.run(&["import", "leads.csv", "--dry-run"]).await;
    assert_eq!(code, Some(3), "{err}");
    assert!(out.contains("2 rows: 1 can be queued, 1 rejected"), "{out}");
    assert!(out.contains("line 3: invalid_email: "), "{out}");
    for file in ["leads.csv.import.json", "leads.rejected.csv"] {
        assert!(!system.dir().join(file).exists(), "{file}");
    }
}

#[tokio::test]
async fn columns_become_the_fields_that_they_are_said_to_be() {
    let system = with_queue().await;
    // As a spreadsheet saves it: a byte order mark, semicolons, CRLF, a column without a name, empty rows at the end.
    let text = "\u{feff}E-Mail;First Name;Stufe;Notes;;Internal\r\n\
                Ann@Example.com;Ann;pro;\"two\r\nlines; \"\"quoted\"\"\";x;secret\r\n\r\n\
                bob@example.com;;;;;\r\n;;;;;\r\n";
    write(&system, "leads.csv", text);
    let arguments =
        ["leads.csv", "--map", "Stufe=plan", "--map", "Internal=", "--sequence", "welcome", "--source", "fair"];
    let (code, report, err) = import(&system, &arguments).await;
    assert_eq!((code, &report["rows"]), (Some(0), &json!(2)), "{err}");
    assert!(
        err.contains(
            "E-Mail is email, First Name is firstName; attributes: Stufe as plan, Notes, column_5; left out: Internal"
        ),
        "{err}"
    );
    let ann = json!({"email": "Ann@Example.com", "firstName": "Ann", "sequence": "welcome", "plan": "pro",
        "Notes": "two\nlines; \"quoted\"", "column_5": "x"});
    let bob = json!({"email": "bob@example.com", "sequence": "welcome"});
    assert_eq!(queued(&system).await, [("leads.new.fair".to_owned(), ann), ("leads.new.fair".to_owned(), bob)]);
}

#[tokio::test]
async fn ndjson_is_read_line_by_line_and_a_line_that_is_wrong_is_kept_as_it_was() {
    let system = with_queue().await;
    let long = format!(r#"{{"email": "long@example.com", "text": "{}"}}"#, "x".repeat(70_000));
    let text = format!(
        "{}\n\n{}\n[1]\n{{\"email\": 5}}\nnot json\n{long}\n{}",
        r#"{"E-Mail": "ann@example.com", "First Name": "Ann", "sequence": "other", "tags": [1, null]}"#,
        r#"{"email": "bob@example.com", "plan": null}"#,
        r#"{"email": "end@example.com"}"#
    );
    write(&system, "leads.ndjson", text);
    let (code, report, err) = import(&system, &["leads.ndjson", "--sequence", "welcome"]).await;
    assert_eq!(code, Some(3), "{err}");
    let reasons = json!({"not_an_object": 1, "not_json": 1, "row_too_long": 1, "wrong_type": 1});
    assert_eq!((&report["queued"], &report["reasons"]), (&json!(3), &reasons));
    let leads: Vec<_> = queued(&system).await.into_iter().map(|(_, lead)| lead).collect();
    assert_eq!(
        leads,
        [
            json!({"email": "ann@example.com", "firstName": "Ann", "sequence": "other", "tags": [1, null]}),
            json!({"email": "bob@example.com", "sequence": "welcome", "plan": null}),
            json!({"email": "end@example.com", "sequence": "welcome"}),
        ]
    );
    let rejected = read(&system, "leads.rejected.ndjson");
    let rejected: Vec<Value> = rejected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<_> = rejected.iter().map(|row| row["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [4, 5, 6, 7]);
    assert_eq!((&rejected[1]["row"], &rejected[1]["code"]), (&json!(r#"{"email": 5}"#), &json!("wrong_type")));
    assert_eq!(rejected[3]["row"].as_str().unwrap().len(), 1_000);
}

#[tokio::test]
async fn a_quote_that_is_never_closed_costs_one_row() {
    let system = with_queue().await;
    let mut text = csv(3_000).replace("Lead 10,", "\"Lead 10,");
    text.push_str("ann@example.com,Ann,\"pro\n");
    write(&system, "leads.csv", text);
    let (code, report, err) = import(&system, &["leads.csv"]).await;
    assert_eq!(code, Some(3), "{err}");
    assert_eq!((&report["queued"], &report["reasons"]), (&json!(2_999), &json!({"open_quote": 2})));
}

#[tokio::test]
async fn a_file_that_cannot_be_read_as_it_is_is_refused_with_what_to_do() {
    let system = with_queue().await;
    for (name, text, arguments, says) in [
        ("a.csv", "name,city\n".as_bytes(), &[][..], "no column is the email"),
        ("a.csv", b"name,city\n", &[], "of: name, city"),
        ("b.csv", b"email,a,a\n", &[], "there are two columns `a`"),
        ("c.csv", b"email\n", &["--map", "x=email"], "there is no column `x`; there are: email"),
        ("d.csv", b"", &[], "the file is empty"),
        ("e.csv", b"\xFF\xFEe\0m\0", &[], "UTF-16"),
        ("f.csv", b"a,b\n", &["--map", "a=email", "--map", "b=email"], "`a` and `b` are both `email`"),
        ("g.xls", b"email\n", &[], "--format csv"),
        ("h.csv", b"email\n", &["--sequence", "A b"], "a name has 1 to 64"),
        (".", b"", &[], "not a regular file"),
    ] {
        if name != "." {
            write(&system, name, text);
        }
        let (code, _, err) = import(&system, &[&[name], arguments].concat()).await;
        assert_eq!(code, Some(2), "{name}: {err}");
        assert!(err.contains(says), "{name}: no `{says}` in {err}");
    }
    // Rejected rows of another time are not overwritten.
    write(&system, "i.csv", "email\nno\n");
    write(&system, "i.rejected.csv", "precious");
    let (code, _, err) = import(&system, &["i.csv"]).await;
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("i.rejected.csv is there already"), "{err}");
    assert_eq!(read(&system, "i.rejected.csv"), "precious");
}

#[tokio::test]
async fn what_was_exported_is_imported_elsewhere_as_it_was() {
    let system = with_queue().await;
    let _dripline = system.start("engine").await;
    let ann = json!({"email": "ann@example.com", "firstName": "Ann \"A\"", "lastName": "O'Neil", "phone": "+14155552671",
        "plan": "pro", "utm": {"tags": ["a", null, 1.5]}, "note": "=1+1\n- two"});
    let bob = json!({"email": "bob@example.com", "sequence": "other", "phone": "ask"});
    for lead in [&ann, &bob, &json!({"email": "no@example.com"})] {
        system.publish("leads.new", &lead.to_string()).await;
    }
    system.until_all(3, "NEW").await;
    let why = ["suppression", "add", "no@example.com", "--reason", "asked"];
    assert_eq!(system.run(&why).await.0, Some(0));
    system.publish("leads.new", r#"{"email": "no@example.com"}"#).await;
    system.until_status("no=40example.com", "SUPPRESSED").await;

    let (code, _, err) = system.run(&["export", "--format", "csv", "--output", "leads.csv"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("3 leads written, of 3"), "{err}");
    assert!(!system.dir().join("leads.csv.part").exists());
    let (code, documents, err) = system.run(&["export"]).await;
    assert_eq!(code, Some(0), "{err}");
    let exported: Vec<Value> = documents.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for document in system.documents().await {
        assert!(exported.contains(&document), "{document:#}");
    }
    write(&system, "leads.ndjson", documents);

    let elsewhere = with_queue().await;
    for file in ["leads.csv", "leads.ndjson"] {
        let _dripline = elsewhere.start("engine").await;
        std::fs::copy(system.dir().join(file), elsewhere.dir().join(file)).unwrap();
        let (code, report, err) = import(&elsewhere, &[file]).await;
        assert_eq!((code, &report["reasons"]), (Some(3), &json!({"suppressed": 1})), "{err}");
        until_settled(&elsewhere).await;
        for key in ["ann=40example.com", "bob=40example.com"] {
            let (before, after) = (system.document(key).await.unwrap(), elsewhere.document(key).await.unwrap());
            for field in ["email", "firstName", "lastName", "phone", "attributes"] {
                assert_eq!(before[field], after[field], "{file}: {field}");
            }
            assert_eq!(before["enrollments"][0]["sequence"], after["enrollments"][0]["sequence"], "{file}");
        }
        assert_eq!(elsewhere.document("no=40example.com").await, None);
    }
}

#[tokio::test]
async fn an_export_is_of_the_leads_that_were_asked_for() {
    let system = with_queue().await;
    let _dripline = system.start("engine").await;
    system.publish("leads.new", r#"{"email": "ann@example.com", "phone": "+14155552671", "firstName": "=Ann"}"#).await;
    system.publish("leads.new", r#"{"email": "bob@example.com", "sequence": "other"}"#).await;
    system.until_all(2, "NEW").await;
    for (arguments, found) in [
        (&["--status", "new"][..], &["ann@example.com", "bob@example.com"][..]),
        (&["--status", "completed", "--status", "IN_DOUBT"], &[]),
        (&["--sequence", "other"], &["bob@example.com"]),
        (&["--sequence", "welcome", "--status", "NEW"], &["ann@example.com"]),
    ] {
        let (code, out, err) = system.run(&[&["export"], arguments].concat()).await;
        assert_eq!(code, Some(0), "{err}");
        let mut addresses: Vec<_> = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
        addresses.sort_by_key(|lead| lead["email"].to_string());
        assert_eq!(addresses.iter().map(|lead| lead["email"].as_str().unwrap()).collect::<Vec<_>>(), found);
    }
    let (code, out, err) = system.run(&["export", "--format", "csv", "--sequence", "welcome"]).await;
    assert_eq!(code, Some(0), "{err}");
    let mut lines = out.lines();
    assert_eq!(
        lines.next(),
        Some("email,firstName,lastName,phone,status,sequence,step,nextActionTimestamp,createdAt,attributes")
    );
    assert!(lines.next().unwrap().starts_with("ann@example.com,=Ann,,+14155552671,NEW,welcome,0,"), "{out}");
    let safe = ["export", "--format", "csv", "--sequence", "welcome", "--for-spreadsheets"];
    let (_, out, _) = system.run(&safe).await;
    assert!(out.lines().nth(1).unwrap().starts_with("ann@example.com,'=Ann,,'+14155552671,NEW,"), "{out}");
    let (code, _, err) = system.run(&["export", "--status", "asleep"]).await;
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("IN_DOUBT"), "{err}");
}
