//! The link in the email: found where a mail program finds it, followed, and taken back.
use dripline_test_support::until;
use futures_util::StreamExt;
use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use crate::system::{System, UNSUBSCRIBE_KEY};

/// One whose emails become files.
async fn system() -> System {
    let mut system = System::new("resend").await;
    system.set("DRIPLINE_ESP__PROVIDER", "outbox");
    system.sequence("welcome", &[("first", "0s")]);
    system
}

/// Has an email sent, and gives its headers.
async fn email_head(system: &System) -> String {
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    system.until_status("jane=40example.com", "COMPLETED").await;
    let mut emails = std::fs::read_dir(system.dir().join("outbox")).unwrap();
    let email = std::fs::read_to_string(emails.next().unwrap().unwrap().path()).unwrap();
    assert!(emails.next().is_none(), "more than one email");
    email.split_once("\r\n\r\n").unwrap().0.replace("\r\n ", " ")
}

/// Has an email sent, and gives the link for one click.
async fn link(system: &System) -> String {
    let head = email_head(system).await;
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{head}"));
    assert_eq!(header("List-Unsubscribe-Post:").trim(), "List-Unsubscribe=One-Click");
    let link = header("List-Unsubscribe:").trim();
    link.strip_prefix('<').and_then(|link| link.strip_suffix('>')).unwrap().to_owned()
}

fn one_click(system: &System, link: &str) -> RequestBuilder {
    system.http.post(link).form(&[("List-Unsubscribe", "One-Click")])
}

async fn press(system: &System, link: &str) -> Response {
    system.http.post(link).header("accept", "text/html").send().await.unwrap()
}

#[tokio::test]
async fn the_link_in_an_email_unsubscribes_by_one_click_and_the_page_takes_it_back() {
    let system = system().await;
    let mut feedback = system.feedback().await;
    let _dripline = system.start("run").await;
    let link = link(&system).await;
    assert!(link.starts_with(&system.gateway("/unsubscribe/")), "{link}");

    let page = system.http.get(&link).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("j***@example.com"));
    let answer = one_click(&system, &link).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &*answer.text().await.unwrap()), (200, "You are unsubscribed.\n"));
    let mut told = async || {
        let event = feedback.next().await.unwrap();
        assert_eq!(&*event.subject, "feedback.unsubscribe");
        serde_json::from_slice::<Value>(&event.payload).unwrap()
    };
    let event = told().await;
    assert_eq!((&event["kind"], &event["address"]), (&"unsubscribed".into(), &"jane@example.com".into()));
    assert_eq!(event["sendKey"].as_str().unwrap().len(), 32, "{event}");

    let lead = system.until_status("jane=40example.com", "UNSUBSCRIBED").await;
    assert_eq!(lead["history"].as_array().unwrap().last().unwrap()["event"], "unsubscribed", "{lead:#}");

    let undone = press(&system, &format!("{link}/undo")).await;
    assert!(undone.text().await.unwrap().contains("You are subscribed again"));
    let later = told().await;
    assert_eq!(later["kind"], "resubscribed");
    assert!(later["occurredAt"].as_i64() >= event["occurredAt"].as_i64(), "{later}");
    assert_ne!(later["id"], event["id"]);
}

#[tokio::test]
async fn a_forged_link_gets_a_calm_answer_and_says_nothing() {
    let system = system().await;
    let _gateway = system.start("gateway").await;
    let forged = system.gateway("/unsubscribe/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let page = press(&system, &forged).await;
    assert_eq!(page.status(), 404);
    assert!(page.text().await.unwrap().contains("This link does not work"));
    assert_eq!(one_click(&system, &forged).send().await.unwrap().status(), 404);
    assert_eq!(system.depth("FEEDBACK").await, 0);
}

#[tokio::test]
async fn while_nats_is_away_a_person_is_asked_to_try_again_and_later_it_works() {
    let mut system = system().await;
    let _dripline = system.start("run").await;
    let link = link(&system).await;
    system.server.kill().await.unwrap();
    let refused = until("it is refused", async || one_click(&system, &link).send().await.unwrap().status() == 503);
    refused.await.unwrap();
    assert!(press(&system, &link).await.text().await.unwrap().contains("Please try again"));
    system.server.restart().await.unwrap();
    let taken = until("it is taken", async || {
        // As often as a patient person presses: more is refused.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        one_click(&system, &link).send().await.unwrap().status() == 200
    });
    taken.await.unwrap();
}

#[tokio::test]
async fn a_link_outlives_the_process_and_the_key_it_was_sealed_with() {
    let mut system = system().await;
    let mut dripline = system.start("run").await;
    let link = link(&system).await;
    dripline.stop().await.unwrap();
    let new = "a newer secret of the tests with many letters";
    system.set("DRIPLINE_UNSUBSCRIBE__KEYS", &format!("{new},{UNSUBSCRIBE_KEY}"));
    let mut gateway = system.start("gateway").await;
    assert_eq!(one_click(&system, &link).send().await.unwrap().status(), 200);
    gateway.stop().await.unwrap();

    system.set("DRIPLINE_UNSUBSCRIBE__KEYS", new);
    let _gateway = system.start("gateway").await;
    assert_eq!(one_click(&system, &link).send().await.unwrap().status(), 404, "the old key is gone");
}

#[tokio::test]
async fn with_the_outbox_links_work_without_any_setting() {
    let mut system = system().await;
    system.set("DRIPLINE_UNSUBSCRIBE__BASE_URL", "");
    system.set("DRIPLINE_UNSUBSCRIBE__KEYS", "");
    let mut dripline = system.start("run").await;
    let link = link(&system).await;
    assert!(link.starts_with(&system.gateway("/unsubscribe/")), "{link}");
    dripline.stop().await.unwrap();
    let _dripline = system.start("run").await;
    assert_eq!(one_click(&system, &link).send().await.unwrap().status(), 200, "after a restart");
}

#[tokio::test]
async fn nothing_is_mailed_without_what_the_links_are_made_of() {
    for (variable, key) in
        [("DRIPLINE_UNSUBSCRIBE__BASE_URL", "unsubscribe.base_url"), ("DRIPLINE_UNSUBSCRIBE__KEYS", "unsubscribe.keys")]
    {
        let mut system = System::new("resend").await;
        system.set(variable, "");
        for command in [&["engine"][..], &["config", "check"], &["sequence", "check"]] {
            let (code, out, err) = system.run(command).await;
            assert_eq!(code, Some(2), "{command:?}: {out}{err}");
            assert!(format!("{out}{err}").contains(&format!("{key}: is missing")), "{command:?}: {out}{err}");
            assert!(format!("{out}{err}").contains(variable), "{command:?}: {out}{err}");
        }
    }
}
