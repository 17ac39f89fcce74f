//! What a template can say, and what stops an email from being sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dripline_actors::ports::Composer;
use dripline_domain::{Address, Lead, Profile, Reentry, Send, Sequence, Step, Template, Timestamp};
use dripline_esp::{MinijinjaComposer, check_sequence};
use serde_json::{Value, json};

fn sequence(subject: &str, html: Option<&str>, text: Option<&str>) -> Arc<Sequence> {
    let template = Template { html: html.map(str::to_owned), text: text.map(str::to_owned) };
    Arc::new(Sequence {
        name: "welcome".to_owned(),
        version: 3,
        from: "Acme <team@acme.example>".to_owned(),
        reply_to: None,
        reentry: Reentry::Ignore,
        transactional: false,
        steps: vec![Step {
            id: "day-0".to_owned(),
            after: Duration::ZERO,
            send: Send { subject: subject.to_owned(), template: "hello".to_owned() },
        }],
        templates: BTreeMap::from([("hello".to_owned(), template)]),
    })
}

fn lead(first_name: Option<&str>, attributes: Value) -> Lead {
    let address = Address::parse("jane@example.com").unwrap();
    let Value::Object(attributes) = attributes else { panic!("attributes are an object") };
    Lead {
        lead_id: serde_json::from_value(json!("ld_0123456789abcdef0123456789abcdef")).unwrap(),
        address,
        profile: Profile { first_name: first_name.map(str::to_owned), attributes, ..Profile::default() },
        suppressed: None,
        told: dripline_domain::Suppression::default(),
        soft_bounces: Vec::new(),
        generation: 0,
        created_at: Timestamp::from_millis(0),
        enrolments: Vec::new(),
        history: Vec::new(),
    }
}

/// Renders `template` as the HTML, or the complaint.
fn html(template: &str, lead: &Lead) -> Result<String, String> {
    let email = MinijinjaComposer::new().compose(&sequence("Hello", Some(template), None), 0, lead, "5f2c91");
    email.map(|email| email.html.unwrap()).map_err(|error| error.to_string())
}

fn subject(template: &str, lead: &Lead) -> Result<String, String> {
    let email = MinijinjaComposer::new().compose(&sequence(template, None, Some("Hello")), 0, lead, "5f2c91");
    email.map(|email| email.subject).map_err(|error| error.to_string())
}

#[test]
fn an_email_is_whole() {
    let sequence = sequence("Hello {{ firstName }}", Some("<p>Hi</p>"), Some("Hi {{ firstName }}"));
    let lead = lead(Some("Jane"), json!({}));
    let email = MinijinjaComposer::new().compose(&sequence, 0, &lead, "5f2c91").unwrap();
    assert_eq!(email.from, "Acme <team@acme.example>");
    assert_eq!(email.to.as_str(), "jane@example.com");
    assert_eq!(email.reply_to, None);
    assert_eq!(email.subject, "Hello Jane");
    assert_eq!(email.html.as_deref(), Some("<p>Hi</p>"));
    assert_eq!(email.text, "Hi Jane");
    assert!(email.headers.is_empty());
    assert_eq!(email.message_id, "<5f2c91@acme.example>");
    assert_eq!(email.send_key, "5f2c91");
    assert_eq!(email.lead_id, lead.lead_id.as_str());
    assert_eq!((email.sequence.as_str(), email.version, email.step.as_str()), ("welcome", 3, "day-0"));
}

#[test]
fn a_template_sees_the_lead_and_its_attributes() {
    let attributes = json!({
        "company": "Acme", "plan": {"name": "pro", "seats": 3, "coupon": null}, "tags": ["a", "b"],
        "email": "other@example.com", "lastName": "Doe", "note": null
    });
    let lead = lead(Some("Jane"), attributes);
    for (template, rendered) in [
        ("{{ firstName }} {{ email }}", Ok("Jane jane@example.com")),
        ("{{ company }} {{ attributes.company }}", Ok("Acme Acme")),
        ("{{ plan.name }} {{ attributes.plan.seats }} {{ tags | join('+') }}", Ok("pro 3 a+b")),
        ("{{ sequence }} {{ step }} {{ lead_id | length }}", Ok("welcome day-0 35")),
        ("?to={{ email | urlencode }}", Ok("?to=jane%40example.com")),
        // An attribute never takes one of our names, though it can be had by its full one.
        ("{{ attributes.email }}", Ok("other@example.com")),
        ("{{ lastName }}", Err("hello.html:1: `lastName` is undefined")),
        // What is null is not there, however deep.
        ("{{ note }}", Err("hello.html:1: `note` is undefined")),
        ("{{ plan.coupon }}", Err("hello.html:1: `plan.coupon` is undefined")),
    ] {
        match (html(template, &lead), rendered) {
            (Ok(html), Ok(rendered)) => assert_eq!(html, rendered, "{template}"),
            (Err(complaint), Err(expected)) => assert!(complaint.starts_with(expected), "{template}: {complaint}"),
            (found, expected) => panic!("{template}: {found:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn a_lead_without_a_first_name_is_not_greeted_with_a_gap() {
    let nameless = lead(None, json!({}));
    for (template, complaint) in [
        ("Hello {{ firstName }},", "hello.html:1: `firstName` is undefined"),
        ("<p>\nHello {{ firstName | title }}", "hello.html:2: `firstName` is undefined"),
        ("{% if vip %}Hello{% endif %}", "hello.html:1: `vip` is undefined"),
        ("{{ attributes.company }}", "hello.html:1: `attributes.company` is undefined"),
        ("{% for item in basket %}{% endfor %}", "hello.html:1: `basket` is undefined"),
    ] {
        let found = html(template, &nameless).unwrap_err();
        assert!(found.starts_with(complaint), "{template}: {found}");
    }
    assert!(subject("{{ firstName }}", &nameless).unwrap_err().starts_with("steps[0].subject:1: `firstName`"));
}

#[test]
fn a_template_may_say_what_it_wants_instead() {
    let nameless = lead(None, json!({}));
    for (template, rendered) in [
        (r#"Hello {{ firstName | default("there") }}"#, "Hello there"),
        ("Hello{% if firstName is defined %} {{ firstName }}{% endif %}", "Hello"),
        (r#"{{ attributes.company | default("your company") }}"#, "your company"),
    ] {
        assert_eq!(html(template, &nameless).as_deref(), Ok(rendered), "{template}");
        assert_eq!(subject(template, &nameless).as_deref(), Ok(rendered), "{template}");
    }
}

#[test]
fn values_are_escaped_in_html_and_only_there() {
    let sequence = sequence("{{ firstName }}", Some("<p>{{ firstName }}</p>"), Some("{{ firstName }}"));
    let name = "<b>J&J</b> {{ email }}";
    let email = MinijinjaComposer::new().compose(&sequence, 0, &lead(Some(name), json!({})), "k").unwrap();
    assert_eq!(
        email.html.as_deref(),
        Some("<p>&lt;b&gt;J&amp;J&lt;&#x2f;b&gt; {{ email }}</p>"),
        "and not rendered again"
    );
    assert_eq!(email.text, name);
    assert_eq!(email.subject, name);
}

#[test]
fn a_name_cannot_smuggle_a_header_into_the_subject() {
    for name in ["Jane\r\nBcc: all@example.com", "Jane\nX", "Jane\rX", "Jane\u{0}X", "Jane\u{85}X", "Jane\u{7f}X"] {
        let complaint = subject("Hello {{ firstName }}!", &lead(Some(name), json!({}))).unwrap_err();
        assert_eq!(complaint, "steps[0].subject: holds a line break or another control character once rendered");
    }
    let jane = lead(Some("Jane"), json!({}));
    assert_eq!(subject("  Hello {{ firstName }}\n", &jane).as_deref(), Ok("Hello Jane"));
    assert_eq!(subject("{{ '' }}", &jane).unwrap_err(), "steps[0].subject: is empty once rendered");
    assert_eq!(subject("{{ 'x' * 999 }}", &jane).unwrap_err(), "steps[0].subject: is too long once rendered");
}

#[test]
fn text_is_derived_from_html_where_there_is_none() {
    let link = format!("https://acme.example/start?token={}", "x".repeat(100));
    let html = format!(
        r#"<html><head><title>T</title><style>p {{ color: red }}</style></head><body><table><tr><td>
        <h1>Hello {{{{ firstName }}}}</h1><img src="pixel.gif"></td></tr><tr><td>
        <p>This is a line of more than seventy-two columns, and so it is wrapped, as old mail readers like it.</p>
        <p><a href="{link}">Start &amp; stay</a></p></td></tr></table></body></html>"#
    );
    let sequence = sequence("Hello", Some(&html), None);
    let email = MinijinjaComposer::new().compose(&sequence, 0, &lead(Some("J&J"), json!({})), "k").unwrap();
    let lines: Vec<&str> = email.text.lines().collect();
    assert_eq!(lines[0], "# Hello J&J");
    assert!(email.text.contains("[Start & stay][1]"), "{}", email.text);
    assert!(lines.contains(&format!("[1]: {link}").as_str()), "links stay whole\n{}", email.text);
    assert!(!email.text.contains("color") && !email.text.contains('│'), "{}", email.text);
    assert!(lines.iter().all(|line| line.contains("https") || line.chars().count() <= 72), "{}", email.text);
}

#[test]
fn a_template_that_never_ends_or_grows_without_end_is_stopped() {
    let jane = lead(Some("Jane"), json!({}));
    for template in [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 100000000 }}",
        "{{ 'x' * 2000000 }}",
    ] {
        let complaint = html(template, &jane).unwrap_err();
        assert!(complaint.starts_with("hello.html"), "{complaint}");
    }
}

#[test]
fn a_step_that_is_not_there_is_a_complaint() {
    let complaint =
        MinijinjaComposer::new().compose(&sequence("Hello", None, Some("Hi")), 7, &lead(None, json!({})), "k");
    assert_eq!(complaint.unwrap_err().to_string(), "the sequence `welcome` has no step 7");
}

#[test]
fn a_version_is_compiled_once_and_another_version_is_another_text() {
    let composer = MinijinjaComposer::new();
    let jane = lead(Some("Jane"), json!({}));
    let first = sequence("Old", None, Some("Hi"));
    assert_eq!(composer.compose(&first, 0, &jane, "k").unwrap().subject, "Old");

    let mut same_version = Sequence::clone(&first);
    same_version.steps[0].send.subject = "Changed".to_owned();
    assert_eq!(composer.compose(&Arc::new(same_version.clone()), 0, &jane, "k").unwrap().subject, "Old");

    same_version.version = 4;
    assert_eq!(composer.compose(&Arc::new(same_version), 0, &jane, "k").unwrap().subject, "Changed");
}

#[test]
fn a_check_names_every_fault_with_its_place() {
    assert!(
        check_sequence(&sequence("{{ firstName }}", Some("{{ x }}"), Some("{% if y is defined %}{% endif %}")))
            .is_empty()
    );

    let mut broken = Sequence::clone(&sequence("{{ firstName", Some("<p>\n\n{% if %}"), Some("{% endfor %}")));
    broken.from = "Acme".to_owned();
    let faults = check_sequence(&broken);
    let places = ["hello.html:3: ", "hello.txt:1: ", "steps[0].subject:1: ", "from: `Acme`"];
    assert_eq!(faults.len(), places.len(), "{faults:?}");
    for (fault, place) in faults.iter().zip(places) {
        assert!(fault.starts_with(place), "{fault}");
    }
    let complaint = MinijinjaComposer::new().compose(&Arc::new(broken), 0, &lead(None, json!({})), "k").unwrap_err();
    assert_eq!(complaint.to_string(), faults.join("; "));
}
