//! The suppression list, by its commands.
use dripline_test_support::until;
use serde_json::{Value, json};

use crate::system::System;

async fn done(system: &System, arguments: &[&str]) -> String {
    let (code, out, err) = system.run(arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {err}");
    out
}

#[tokio::test]
async fn an_address_added_by_the_command_gets_no_email_and_one_that_was_removed_does() {
    let system = System::new("resend").await;
    let _dripline = system.start("run").await;
    let why = ["--reason", "asked by phone", "--by", "ann"];
    for (address, says) in [
        (" NO@Example.com ", "no@example.com suppressed"),
        ("no@example.com", "no@example.com was suppressed already"),
        ("again@example.com", "again@example.com suppressed"),
    ] {
        let out = done(&system, &[&["suppression", "add", address], &why[..]].concat()).await;
        assert!(out.starts_with(says), "{out}");
    }
    let out = done(&system, &[&["suppression", "remove", "again@example.com"], &why[..]].concat()).await;
    assert_eq!(out, "again@example.com may be mailed again\n");

    system.publish("leads.new", r#"{"email": "no@example.com"}"#).await;
    system.publish("leads.new", r#"{"email": "again@example.com"}"#).await;
    let document = system.until_status("no=40example.com", "SUPPRESSED").await;
    assert_eq!(document["suppressed"], "asked by phone");
    system.until_status("again=40example.com", "COMPLETED").await;
    assert_eq!(system.summary().await.accepted, 3);

    // Who, and why, by the opaque id alone.
    let mut journal: Vec<Value> = Vec::new();
    let read = until("the journal has every change of the list", async || {
        let text = system.journal().await;
        journal = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        journal.iter().filter(|line| line["event"].as_str().unwrap().starts_with("suppression_")).count() >= 3
    });
    read.await.unwrap();
    let of = |event: &str| -> Vec<&Value> { journal.iter().filter(|line| line["event"] == event).collect() };
    assert_eq!((of("suppression_added").len(), of("suppression_removed").len()), (2, 1));
    let added = of("suppression_added")[0];
    assert_eq!(
        (&added["by"], &added["reason"], &added["leadId"]),
        (&json!("ann"), &json!("asked by phone"), &document["leadId"])
    );
    assert!(journal.iter().all(|line| !line.to_string().contains("example.com")));
}

#[tokio::test]
async fn a_list_that_was_exported_is_imported_as_it_was_and_wrong_lines_are_named() {
    let system = System::new("resend").await;
    let file = system.dir().join("list.txt");
    let lines =
        "a@example.com\n\n{\"address\": \"b@example.com\", \"reason\": \"hard bounce\"}\nno address\n{\"x\": 1}\n";
    std::fs::write(&file, lines).unwrap();
    let import = ["suppression", "import", file.to_str().unwrap(), "--reason", "old system", "--by", "ann"];
    let (code, out, err) = system.run(&import).await;
    assert_eq!((code, &*out), (Some(1), "2 suppressed, 0 were already, 2 lines could not be read\n"), "{err}");
    assert!(err.contains("list.txt:4: `no address` is no email address"), "{err}");
    assert!(err.contains("list.txt:5: "), "{err}");

    // Written by hand, as the documents say it may be.
    system.server.cli(["kv", "put", "suppressions", "c=40example.com", "called us"]).await.unwrap();
    let exported = done(&system, &["suppression", "export"]).await;
    let read = |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let reasons: Vec<_> = read(&exported).iter().map(|it| (it["address"].clone(), it["reason"].clone())).collect();
    assert_eq!(
        reasons,
        [("a", "old system"), ("b", "hard bounce"), ("c", "called us")]
            .map(|(name, reason)| (json!(format!("{name}@example.com")), json!(reason)))
    );
    let listed: Value = serde_json::from_str(&done(&system, &["suppression", "list", "--json"]).await).unwrap();
    assert_eq!(listed.as_array().unwrap(), &read(&exported));
    assert!(done(&system, &["suppression", "list"]).await.contains("hard bounce"));

    std::fs::write(&file, &exported).unwrap();
    assert_eq!(done(&system, &import).await, "0 suppressed, 3 were already, 0 lines could not be read\n");
    let other = System::new("resend").await;
    assert_eq!(done(&other, &import).await, "3 suppressed, 0 were already, 0 lines could not be read\n");
}

#[tokio::test]
async fn lifting_what_is_not_suppressed_or_naming_no_address_is_an_error_that_says_so() {
    let system = System::new("resend").await;
    for (address, wrong, says) in
        [("jane@example.com", 1, "jane@example.com is not suppressed"), ("jane", 2, "invalid value 'jane'")]
    {
        let (code, out, err) = system.run(&["suppression", "remove", address, "--reason", "mistake"]).await;
        assert_eq!((code, &*out), (Some(wrong), ""), "{err}");
        assert!(err.contains(says), "{err}");
    }
}
