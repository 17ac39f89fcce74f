use std::fs;
use std::path::Path;

use dripline_actors::ports::Esp;
use dripline_esp::{Outbox, outbox};

use crate::{email, told};

fn files(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn an_email_becomes_a_file_that_a_mail_program_opens() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::new(&outbox::Config { dir: dir.path().join("out/box") }).unwrap();
    assert_eq!(told(&outbox.send(&email()).await), "accepted 5f2c91.eml");

    let eml = fs::read_to_string(dir.path().join("out/box/5f2c91.eml")).unwrap();
    for line in [
        r#"From: "Acme Team" <team@acme.example>"#,
        "To: jane@example.com",
        "Reply-To: help@acme.example",
        "Message-ID: <5f2c91@acme.example>",
        "List-Unsubscribe: <https://acme.example/u?t=abc>",
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
        "X-Dripline-Send-Key: 5f2c91",
        "X-Dripline-Lead-Id: ld_0123456789abcdef0123456789abcdef",
        "X-Dripline-Sequence: welcome",
        "X-Dripline-Version: 3",
        "X-Dripline-Step: day-2",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Type: text/html; charset=utf-8",
        "Hello Jane & co",
        "<p>Hello Jane &amp; co</p>",
    ] {
        assert!(eml.lines().any(|found| found == line), "{line}\nis not in\n{eml}");
    }
    assert!(eml.contains("\r\nDate: "), "{eml}");
    assert!(eml.contains("Content-Type: multipart/alternative;"), "{eml}");
    assert!(eml.find("text/plain") < eml.find("text/html"), "{eml}");
}

#[tokio::test]
async fn the_same_send_key_twice_is_one_file_and_the_first_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::new(&outbox::Config { dir: dir.path().to_owned() }).unwrap();
    let mut email = email();
    for subject in ["first", "second"] {
        email.subject = subject.to_owned();
        assert_eq!(told(&outbox.send(&email).await), "accepted 5f2c91.eml");
    }
    assert_eq!(files(dir.path()), ["5f2c91.eml"]);
    assert!(fs::read_to_string(dir.path().join("5f2c91.eml")).unwrap().contains("Subject: first"));
}

#[tokio::test]
async fn a_long_link_in_a_header_is_not_broken() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::new(&outbox::Config { dir: dir.path().to_owned() }).unwrap();
    let mut email = email();
    let link = format!("<https://acme.example/u?t={}>", "x".repeat(200));
    email.headers[0].1.clone_from(&link);
    outbox.send(&email).await;
    assert!(fs::read_to_string(dir.path().join("5f2c91.eml")).unwrap().contains(&link));
}

#[tokio::test]
async fn a_key_that_would_lead_out_of_the_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::new(&outbox::Config { dir: dir.path().to_owned() }).unwrap();
    let mut email = email();
    for key in ["", "../escape", "a/b", "."] {
        email.send_key = key.into();
        assert_eq!(told(&outbox.send(&email).await), "refused", "{key}");
    }
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn a_full_disk_or_a_missing_folder_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::new(&outbox::Config { dir: dir.path().join("gone") }).unwrap();
    fs::remove_dir(dir.path().join("gone")).unwrap();
    assert_eq!(told(&outbox.send(&email()).await), "transient");
}
