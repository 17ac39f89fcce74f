//! One lead, by the commands that look at it.
use serde_json::Value;

use crate::system::System;

#[tokio::test]
async fn lead_show_tells_what_happened_and_what_comes_next_and_when() {
    let system = System::new("resend").await;
    system.sequence("welcome", &[("first", "0s"), ("second", "3d"), ("third", "1h")]);
    let _dripline = system.start("run").await;
    system.publish("leads.new", r#"{"email": "jane@example.com", "firstName": "Jane"}"#).await;
    let document = system.until_status("jane=40example.com", "ACTIVE").await;

    let (code, out, err) = system.run(&["lead", "show", " Jane@Example.com"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "nothing but what was asked for");
    assert!(out.starts_with("jane@example.com  ACTIVE  ld_"), "{out}");
    for said in [
        "\nJane\n",
        "welcome version 1, enrolment 1: WAITING",
        "next: second (step 2 of 3) at 2",
        "then: third, 1h after the one before",
        "enrolled       welcome",
        "sent           welcome / first, attempt 1, ",
    ] {
        assert!(out.contains(said), "no `{said}` in\n{out}");
    }
    let (code, json, _) = system.run(&["lead", "show", "jane@example.com", "--json"]).await;
    assert_eq!(code, Some(0));
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), document);

    let why = ["suppression", "add", "jane@example.com", "--reason", "asked by phone"];
    assert_eq!(system.run(&why).await.0, Some(0));
    system.publish("leads.new", r#"{"email": "jane@example.com"}"#).await;
    system.until_status("jane=40example.com", "SUPPRESSED").await;
    let (_, out, _) = system.run(&["lead", "show", "jane@example.com"]).await;
    assert!(out.contains("must not be mailed: asked by phone"), "{out}");
    assert!(out.contains("ended at second (step 2 of 3): asked by phone"), "{out}");

    let (code, out, err) = system.run(&["lead", "show", "john@example.com"]).await;
    assert_eq!((code, &*out), (Some(3), ""));
    assert!(err.contains("there is no lead john@example.com"), "{err}");
}
