//! What a person and a mail program see of the link to unsubscribe.
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, RETRY_AFTER as RETRY, X_CONTENT_TYPE_OPTIONS,
};
use dripline_esp::Recipient;
use serde_json::json;

use super::*;

const ONE_CLICK: &str = "List-Unsubscribe=One-Click";

fn path() -> String {
    path_for("jane@example.com")
}

fn path_for(address: &str) -> String {
    let recipient = Recipient { address: Address::parse(address).unwrap(), send_key: "5f2c91".into() };
    let url = links().url(&recipient).unwrap();
    url.strip_prefix("https://mail.acme.example").unwrap().to_owned()
}

impl Door {
    async fn one_click(&self, path: &str) -> Answer {
        self.post(path, "application/x-www-form-urlencoded", ONE_CLICK).await
    }

    /// As a browser sends the page's form.
    async fn press(&self, path: &str) -> Answer {
        let form = post_to(path)
            .header(HOST, "mail.acme.example")
            .header(ORIGIN, "null")
            .header(ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(form.body(Body::empty()).unwrap()).await
    }

    /// The events in `FEEDBACK`, without their ids, which are all different.
    fn wishes(&self) -> Vec<Value> {
        let events = self.feedback.taken().into_iter().map(|event| {
            assert_eq!(event.provider, "unsubscribe");
            serde_json::from_slice::<Value>(&event.payload).unwrap()
        });
        let mut events: Vec<Value> = events.collect();
        let mut ids: Vec<Value> =
            events.iter_mut().map(|event| event.as_object_mut().unwrap().remove("id").unwrap()).collect();
        ids.sort_by_key(ToString::to_string);
        ids.dedup();
        assert_eq!(ids.len(), events.len(), "an id came twice");
        events
    }
}

impl Answer {
    /// Asserts a page that keeps its address to itself, and gives the path of its button, if it has one.
    fn page(&self, status: u16, title: &str) -> Option<String> {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header(&CONTENT_TYPE), Some("text/html; charset=utf-8"));
        assert_eq!(self.header(&CACHE_CONTROL), Some("no-store"));
        assert_eq!(self.header(&REFERRER_POLICY), Some("no-referrer"));
        assert_eq!(self.header(&X_CONTENT_TYPE_OPTIONS), Some("nosniff"));
        assert_eq!(self.header(&HeaderName::from_static("x-robots-tag")), Some("noindex, nofollow"));
        let policy = self.header(&CONTENT_SECURITY_POLICY).unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(policy.contains("form-action 'self'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(self.text.contains(&format!("<h1>{title}</h1>")), "{}", self.text);
        assert!(self.text.starts_with("<!doctype html>\n<html lang=\"en\">"), "{}", self.text);
        assert!(!self.text.contains("jane@example.com"), "the address is shown");
        for outside in ["http://", "https://", "<script", "<img", "<link"] {
            assert!(!self.text.contains(outside), "{outside} in {}", self.text);
        }
        let (_, action) = self.text.split_once("action=\"")?;
        Some(action.split_once('"').unwrap().0.replace("&#x2f;", "/"))
    }
}

fn wish(kind: &str) -> Value {
    json!({ "kind": kind, "occurredAt": 1_763_985_600_000_i64, "address": "jane@example.com", "sendKey": "5f2c91" })
}

#[tokio::test]
async fn a_mail_program_unsubscribes_with_one_click() {
    let door = open_door();
    let answer = door.one_click(&path()).await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "You are unsubscribed.\n"));
    assert_eq!(door.wishes(), [wish("unsubscribed")]);

    let multipart = "--x\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x--\r\n";
    let answer = door.post(&path(), "multipart/form-data; boundary=x", multipart).await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "You are unsubscribed.\n"), "and the same each time");
    assert_eq!(door.wishes(), [wish("unsubscribed"), wish("unsubscribed")]);
}

#[tokio::test]
async fn a_person_opens_the_page_presses_the_button_and_can_undo_it() {
    let door = open_door();
    let (link, token) = (path(), path().rsplit('/').next().unwrap().to_owned());
    let question = door.get(&link).await;
    assert_eq!(question.page(200, "Unsubscribe").as_deref(), Some(&*token), "relative to the page");
    assert!(question.text.contains("<strong>j***@example.com</strong>"), "{}", question.text);
    assert_eq!(door.wishes(), Vec::<Value>::new(), "looking at the page changed something");

    let done = door.press(&link).await;
    assert_eq!(done.page(200, "You are unsubscribed"), Some(format!("{token}/undo")));
    assert_eq!(door.press(&link).await.text, done.text, "the second time is the same");

    let undo = format!("{link}/undo");
    assert_eq!(door.press(&undo).await.page(200, "You are subscribed again"), Some(format!("../{token}")));
    assert_eq!(door.get(&undo).await.page(200, "Unsubscribe"), Some(format!("../{token}")), "a reload");
    assert_eq!(door.wishes(), [wish("unsubscribed"), wish("unsubscribed"), wish("resubscribed")]);
}

#[tokio::test]
async fn a_forged_link_gets_a_calm_answer_and_changes_nothing() {
    let door = open_door();
    let good = path();
    let evil = UnsubscribeLinks::new("", b"another secret, of somebody else", []);
    let recipient = Recipient { address: Address::parse("jane@example.com").unwrap(), send_key: "5f2c91".into() };
    for forged in [
        evil.url(&recipient).unwrap(),
        good[..good.len() - 1].to_owned(),
        format!("{good}A"),
        "/unsubscribe/jane@example.com".to_owned(),
        "/unsubscribe/%FF%FE".to_owned(),
        format!("/unsubscribe/{}", "A".repeat(10_000)),
    ] {
        for path in [forged.clone(), format!("{forged}/undo")] {
            for answer in [door.get(&path).await, door.press(&path).await] {
                assert_eq!(answer.page(404, "This link does not work"), None, "a button");
                assert!(answer.text.contains("reply to the email"), "{}", answer.text);
            }
            door.one_click(&path).await.problem(404, "unknown_link");
        }
    }
    assert_eq!(door.wishes(), Vec::<Value>::new());
}

#[tokio::test]
async fn a_queue_that_is_away_is_told_and_the_button_tries_again() {
    let door = open_door();
    let token = path().rsplit('/').next().unwrap().to_owned();
    for fault in [away as fn() -> FrontDoorError, || FrontDoorError::Full] {
        door.feedback.breaks(Some(fault));
        let answer = door.one_click(&path()).await;
        assert!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text);
        assert_eq!(answer.header(&RETRY), Some("5"));
        let page = door.press(&path()).await;
        assert_eq!(page.page(503, "That did not work yet").as_deref(), Some(&*token));
        assert_eq!(page.header(&RETRY), Some("5"));
        let page = door.press(&format!("{}/undo", path())).await;
        assert_eq!(page.page(503, "That did not work yet").as_deref(), Some("undo"));
    }
    door.feedback.breaks(None);
    assert_eq!(door.one_click(&path()).await.status, StatusCode::OK);
    assert_eq!(door.wishes(), [wish("unsubscribed")]);
}

#[tokio::test]
async fn who_changes_their_mind_without_end_is_slowed_down_and_nobody_else_is() {
    let door = open_door();
    for _ in 0..20 {
        assert_eq!(door.one_click(&path()).await.status, StatusCode::OK);
    }
    door.one_click(&path()).await.problem(429, "too_many_requests");
    door.press(&path()).await.page(429, "That did not work yet");
    assert_eq!(door.one_click(&path_for("joe@example.com")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_large_body_is_refused_before_it_is_read() {
    let door = open_door();
    let answer = door.post(&path(), "text/plain", "x".repeat(20_000)).await;
    answer.problem(413, "body_too_large");
    assert_eq!(door.wishes(), Vec::<Value>::new());
}

#[tokio::test]
async fn other_methods_are_told_what_is_possible() {
    let door = open_door();
    let request = Request::delete(path()).body(Body::empty()).unwrap();
    let answer = door.send(request).await;
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.header(&ALLOW), Some("GET,HEAD,POST"));
    assert_eq!(door.wishes(), Vec::<Value>::new());
}
