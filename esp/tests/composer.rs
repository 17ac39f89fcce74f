//! What a template can say, and what stops an email from being sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dripline_actors::ports::Composer;
use dripline_domain::{Address, Lead, Profile, Reentry, Send, Sequence, Step, Template, Timestamp};
use dripline_esp::{MinijinjaComposer, Recipient, UnsubscribeLinks, check_sequence};
use serde_json::{Value, json};

fn links() -> UnsubscribeLinks {
    UnsubscribeLinks::new("https://mail.acme.example", b"0123456789abcdef0123456789abcdef", [])
}

fn composer() -> MinijinjaComposer {
    MinijinjaComposer::new(Some(links()))
}

fn sequence(subject: &str, html: Option<&str>, text: Option<&str>) -> Arc<Sequence> {
    let template = Template { html: html.map(str::to_owned), text: text.map(str::to_owned) };
    Arc::new(Sequence {
        name: "welcome".into(),
        version: 3,
        from: "Acme <team@acme.example>".into(),
        reply_to: None,
        reentry: Reentry::Ignore,
        transactional: false,
        steps: vec![Step {
            id: "day-0".into(),
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
        profile: Arc::new(Profile { first_name: first_name.map(str::to_owned), attributes, ..Profile::default() }),
        suppressed: None,
        told: dripline_domain::Suppression::default(),
        soft_bounces: Vec::new(),
        paused: None,
        requests: Vec::new(),
        generation: 0,
        created_at: Timestamp::from_millis(0),
        enrolments: Vec::new(),
        history: Vec::new(),
    }
}

/// Renders `template` as the HTML, or the complaint.
fn html(template: &str, lead: &Lead) -> Result<String, String> {
    let email = composer().compose(&sequence("Hello", Some(template), None), 0, lead, "5f2c91".into());
    email.map(|email| email.html.unwrap()).map_err(|error| error.to_string())
}

fn subject(template: &str, lead: &Lead) -> Result<String, String> {
    let email = composer().compose(&sequence(template, None, Some("Hello")), 0, lead, "5f2c91".into());
    email.map(|email| email.subject).map_err(|error| error.to_string())
}

#[test]
fn an_email_is_whole() {
    let sequence = sequence("Hello {{ firstName }}", Some("<p>Hi</p>"), Some("Hi {{ firstName }}"));
    let lead = lead(Some("Jane"), json!({}));
    let email = composer().compose(&sequence, 0, &lead, "5f2c91".into()).unwrap();
    assert_eq!(email.from, "Acme <team@acme.example>");
    assert_eq!(email.to.as_str(), "jane@example.com");
    assert_eq!(email.reply_to, None);
    assert_eq!(email.subject, "Hello Jane");
    assert_eq!(email.html.as_deref(), Some("<p>Hi</p>"));
    assert_eq!(email.text, "Hi Jane");
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
    let email = composer().compose(&sequence, 0, &lead(Some(name), json!({})), "k".into()).unwrap();
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
    let email = composer().compose(&sequence, 0, &lead(Some("J&J"), json!({})), "k".into()).unwrap();
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

/// The link that the headers of this email carry.
fn one_click_link<'a>(headers: &'a [(&'static str, String)]) -> &'a str {
    let [(name, link), post] = headers else { panic!("{headers:?}") };
    assert_eq!(*name, "List-Unsubscribe");
    assert_eq!(*post, ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()));
    link.strip_prefix('<').and_then(|link| link.strip_suffix('>')).unwrap()
}

#[test]
fn an_email_has_a_link_to_unsubscribe_in_each_part_and_in_its_headers() {
    let html = "<p>Hello</p><p><a href=\"{{ unsubscribe_url }}\">Unsubscribe</a></p>";
    let jane = lead(None, json!({"unsubscribe_url": "https://evil.example"}));
    for text in [Some("Hello\n\n{{ unsubscribe_url }}\n"), None] {
        let sequence = sequence("Hello", Some(html), text);
        let email = composer().compose(&sequence, 0, &jane, "5f2c91".into()).unwrap();
        let link = one_click_link(&email.headers);
        let token = link.strip_prefix("https://mail.acme.example/unsubscribe/").unwrap();
        let recipient = Recipient { address: jane.address.clone(), send_key: "5f2c91".into() };
        assert_eq!(links().open(token), Some(recipient));
        assert!(email.html.as_deref().unwrap().contains(&format!("href=\"{link}\"")), "{:?}", email.html);
        assert!(email.text.lines().any(|line| line.ends_with(link)), "{}", email.text);
        assert_eq!(
            composer().compose(&sequence, 0, &jane, "5f2c91".into()).unwrap(),
            email,
            "a second attempt is the same"
        );
    }
}

#[test]
fn a_transactional_email_has_no_link_to_unsubscribe() {
    let mut receipt = Sequence::clone(&sequence("Your receipt", Some("<p>Thank you</p>"), None));
    receipt.transactional = true;
    assert_eq!(check_sequence(&receipt), Vec::<String>::new());
    let jane = lead(None, json!({"unsubscribe_url": "https://evil.example"}));
    let email = composer().compose(&Arc::new(receipt.clone()), 0, &jane, "5f2c91".into()).unwrap();
    assert!(email.headers.is_empty(), "{:?}", email.headers);

    receipt.version += 1;
    receipt.steps[0].send.subject = "{{ unsubscribe_url }}".to_owned();
    let complaint = composer().compose(&Arc::new(receipt), 0, &jane, "5f2c91".into()).unwrap_err().to_string();
    assert!(complaint.contains("unsubscribe_url") && complaint.contains("undefined"), "{complaint}");
}

#[test]
fn without_a_way_to_make_links_only_transactional_emails_are_rendered() {
    let composer = MinijinjaComposer::new(None);
    let mut sequence = Sequence::clone(&sequence("Hello", None, Some("Hi")));
    let complaint = composer.compose(&Arc::new(sequence.clone()), 0, &lead(None, json!({})), "k".into()).unwrap_err();
    assert!(complaint.to_string().contains("set unsubscribe.base_url and unsubscribe.keys"), "{complaint}");
    sequence.transactional = true;
    assert_eq!(composer.compose(&Arc::new(sequence), 0, &lead(None, json!({})), "k".into()).unwrap().text, "Hi");
}

#[test]
fn a_check_asks_for_the_link_in_each_body_that_has_none() {
    let link = "<p>{{ unsubscribe_url }}</p>";
    for (html, text, without) in [
        (Some(link), None, &[][..]),
        (Some(link), Some("{{ unsubscribe_url }}"), &[]),
        (Some("<p>Hello</p>"), Some("{{ unsubscribe_url }}"), &["hello.html"]),
        (Some(link), Some("Hello"), &["hello.txt"]),
        (Some("<p>{# {{ unsubscribe_url }} #}</p>"), Some("Hello"), &["hello.html", "hello.txt"]),
        (Some("{% set unsubscribe_url = '#' %}{{ unsubscribe_url }}"), None, &["hello.html"]),
    ] {
        let faults = check_sequence(&sequence("Hello", html, text));
        assert_eq!(faults.len(), without.len(), "{faults:?}");
        for (fault, name) in faults.iter().zip(without) {
            assert!(fault.starts_with(&format!("{name}: shows no link to unsubscribe; write ")), "{fault}");
            assert!(fault.contains("{{ unsubscribe_url }}") && fault.contains("transactional = true"), "{fault}");
        }
    }
}

#[test]
fn a_check_names_the_link_that_a_transactional_email_will_not_have() {
    let mut receipt = Sequence::clone(&sequence("Your receipt", Some("{{ unsubscribe_url }}"), Some("Thank you")));
    receipt.transactional = true;
    let [fault] = &check_sequence(&receipt)[..] else { panic!("one complaint: {:?}", check_sequence(&receipt)) };
    assert!(fault.starts_with("hello.html: uses unsubscribe_url"), "{fault}");
    assert!(fault.contains("`transactional = true` out of sequence.toml"), "{fault}");
}

#[test]
fn an_older_version_without_the_link_is_still_sent_with_the_headers() {
    let email =
        composer().compose(&sequence("Hello", Some("<p>Hello</p>"), None), 0, &lead(None, json!({})), "k".into());
    one_click_link(&email.unwrap().headers);
}

#[test]
fn a_step_that_is_not_there_is_a_complaint() {
    let complaint = composer().compose(&sequence("Hello", None, Some("Hi")), 7, &lead(None, json!({})), "k".into());
    assert_eq!(complaint.unwrap_err().to_string(), "the sequence `welcome` has no step 7");
}

#[test]
fn a_version_is_compiled_once_and_another_version_is_another_text() {
    let composer = composer();
    let jane = lead(Some("Jane"), json!({}));
    let first = sequence("Old", None, Some("Hi"));
    assert_eq!(composer.compose(&first, 0, &jane, "k".into()).unwrap().subject, "Old");

    let mut same_version = Sequence::clone(&first);
    same_version.steps[0].send.subject = "Changed".to_owned();
    assert_eq!(composer.compose(&Arc::new(same_version.clone()), 0, &jane, "k".into()).unwrap().subject, "Old");

    same_version.version = 4;
    assert_eq!(composer.compose(&Arc::new(same_version), 0, &jane, "k".into()).unwrap().subject, "Changed");
}

#[test]
fn a_check_names_every_fault_with_its_place() {
    let link = "{{ unsubscribe_url }}";
    let (html, text) = (format!("{{{{ x }}}}{link}"), format!("{{% if y is defined %}}{{% endif %}}{link}"));
    assert_eq!(check_sequence(&sequence("{{ firstName }}", Some(&html), Some(&text))), Vec::<String>::new());

    let mut broken = Sequence::clone(&sequence("{{ firstName", Some("<p>\n\n{% if %}"), Some("{% endfor %}")));
    broken.from = "Acme".into();
    let faults = check_sequence(&broken);
    let places = ["hello.html:3: ", "hello.txt:1: ", "steps[0].subject:1: ", "from: `Acme`"];
    assert_eq!(faults.len(), places.len(), "{faults:?}");
    for (fault, place) in faults.iter().zip(places) {
        assert!(fault.starts_with(place), "{fault}");
    }
    let complaint = composer().compose(&Arc::new(broken), 0, &lead(None, json!({})), "k".into()).unwrap_err();
    assert_eq!(complaint.to_string(), faults.join("; "));
}
