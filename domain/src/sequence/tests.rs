use proptest::prelude::*;

use super::*;

const NURTURE: &str = r#"name = "new_lead_nurture"
version = 1
from = "Acme <hello@acme.example>"
reply_to = "help@acme.example"
reentry = { after = "90d" }

[[steps]]
id = "welcome"
send = { subject = "Welcome, {{ firstName }}", template = "welcome" }

[[steps]]
id = "first-tips"
after = "2d"
send = { subject = "Three tips", template = "first-tips" }
"#;

const DAY: Duration = Duration::from_hours(24);

/// A folder with `welcome.html` and `first-tips.txt`.
fn folder(name: &str) -> Option<Template> {
    match name {
        "welcome" => Some(Template { html: Some("<p>Hello</p>".to_owned()), text: None }),
        "first-tips" => Some(Template { html: None, text: Some("One, two, three".to_owned()) }),
        _ => None,
    }
}

fn faults(toml: &str) -> Vec<String> {
    let errors = parse_sequence("x.toml", toml, folder).unwrap_err();
    errors.iter().map(ToString::to_string).collect()
}

/// The example with one line written otherwise.
fn with(line: &str, instead: &str) -> String {
    assert!(NURTURE.contains(line), "{line}");
    NURTURE.replacen(line, instead, 1)
}

#[test]
fn a_sequence_as_marketing_writes_it() {
    let sequence = parse_sequence("x.toml", NURTURE, folder).unwrap();
    let step = |id: &str, after, subject: &str| Step {
        id: id.into(),
        after,
        send: Send { subject: subject.to_owned(), template: id.to_owned() },
    };
    let template = |name: &str| (name.to_owned(), folder(name).unwrap());
    assert_eq!(
        sequence,
        Sequence {
            name: "new_lead_nurture".into(),
            version: 1,
            from: "Acme <hello@acme.example>".into(),
            reply_to: Some("help@acme.example".into()),
            reentry: Reentry::After(90 * DAY),
            transactional: false,
            steps: vec![
                step("welcome", Duration::ZERO, "Welcome, {{ firstName }}"),
                step("first-tips", 2 * DAY, "Three tips"),
            ],
            templates: [template("welcome"), template("first-tips")].into_iter().collect(),
        }
    );
    assert_eq!(sequence.template(1), folder("first-tips").as_ref());
    assert_eq!(sequence.template(2), None);
}

#[test]
fn other_ways_to_write_it() {
    let reentry = |toml: &str| parse_sequence("x.toml", toml, folder).unwrap().reentry;
    assert_eq!(reentry(&with("reentry = { after = \"90d\" }\n", "")), Reentry::Ignore);
    assert_eq!(reentry(&with("{ after = \"90d\" }", "\"ignore\"")), Reentry::Ignore);
    assert_eq!(reentry(&with("{ after = \"90d\" }", "\"restart\"")), Reentry::Restart);

    let transactional = |toml: &str| parse_sequence("x.toml", toml, folder).unwrap().transactional;
    assert!(!transactional(NURTURE));
    assert!(transactional(&with("reentry = { after = \"90d\" }\n", "transactional = true\n")));

    let nested = with(
        "send = { subject = \"Three tips\", template = \"first-tips\" }",
        "[steps.send]\nsubject = \"Three tips\"\ntemplate = \"first-tips\"",
    );
    assert_eq!(parse_sequence("x.toml", &nested, folder), parse_sequence("x.toml", NURTURE, folder));

    // A comma in the name must not start a second address in the header.
    let comma = with("Acme <hello@acme.example>", "Acme, Inc. <Hello@Acme.example>");
    assert_eq!(parse_sequence("x.toml", &comma, folder).unwrap().from, "\"Acme, Inc.\" <hello@acme.example>");

    let longest = with("after = \"2d\"", "after = \"1826d\"");
    assert_eq!(parse_sequence("x.toml", &longest, folder).unwrap().steps[1].after, 1826 * DAY);
}

#[test]
fn a_fault_is_told_with_its_place_and_what_would_be_right() {
    for (line, instead, fault) in [
        (
            "after = \"2d\"",
            "atfer = \"2d\"",
            "x.toml:13: steps[1].atfer: unknown key `atfer`, expected one of: id, after, send",
        ),
        (
            "version = 1",
            "version = 1\nsubject = 1",
            "x.toml:3: subject: unknown key `subject`, expected one of: name, version, from, reply_to, reentry, transactional, steps",
        ),
        (
            "subject = \"Three tips\"",
            "subject = \"Three tips\", html = \"x\"",
            "x.toml:14: steps[1].send.html: unknown key `html`, expected one of: subject, template",
        ),
        (
            "version = 1",
            "version = 1\n\"a\\nb\" = 1",
            "x.toml:3: a\u{fffd}b: unknown key `a\u{fffd}b`, expected one of: name, version, from, reply_to, reentry, transactional, steps",
        ),
        ("name = \"new_lead_nurture\"\n", "", "x.toml:1: name: missing; write name = \"new_lead_nurture\""),
        ("version = 1\n", "", "x.toml:1: version: missing; write version = 1"),
        ("id = \"first-tips\"\n", "", "x.toml:11: steps[1].id: missing; write id = \"welcome\""),
        ("subject = \"Three tips\", ", "", "x.toml:14: steps[1].send.subject: missing; write subject = \"Welcome\""),
        (
            "new_lead_nurture",
            "New Lead",
            "x.toml:1: name: `New Lead`: a name has 1 to 64 of the characters a-z, 0-9, _ and -",
        ),
        ("name = \"new_lead_nurture\"", "name = 7", "x.toml:1: name: expected a text in quotes, found a whole number"),
        ("version = 1", "version = 0", "x.toml:2: version: 0: versions go from 1 to 4294967295"),
        ("version = 1", "version = -1", "x.toml:2: version: -1: versions go from 1 to 4294967295"),
        ("version = 1", "version = 4_294_967_296", "x.toml:2: version: 4294967296: versions go from 1 to 4294967295"),
        ("version = 1", "version = \"1\"", "x.toml:2: version: expected a whole number, such as 1, found a text"),
        (
            "Acme <hello@acme.example>",
            "Acme <hello@acme>",
            "x.toml:3: from: `Acme <hello@acme>`: the domain has no dot; write it in full, such as example.com; \
             write \"Acme <hello@acme.example>\" or \"hello@acme.example\"",
        ),
        (
            "help@acme.example",
            "help",
            "x.toml:4: reply_to: `help`: an address has a part before and a part after an @, such as jane@example.com; \
             write \"Acme <hello@acme.example>\" or \"hello@acme.example\"",
        ),
        (
            "{ after = \"90d\" }",
            "\"never\"",
            "x.toml:5: reentry: `never`: expected \"ignore\", \"restart\" or { after = \"90d\" }",
        ),
        (
            "{ after = \"90d\" }",
            "true",
            "x.toml:5: reentry: expected \"ignore\", \"restart\" or { after = \"90d\" }, found true or false",
        ),
        ("{ after = \"90d\" }", "{}", "x.toml:5: reentry.after: missing; write after = \"90d\""),
        (
            "\"2d\"",
            "\"two days\"",
            "x.toml:13: steps[1].after: `two days` is not a duration; write a number and a unit, such as \"30s\", \"15m\", \"12h\" or \"2d\"",
        ),
        ("\"2d\"", "2", "x.toml:13: steps[1].after: expected a text in quotes, found a whole number"),
        ("\"2d\"", "\"1827d\"", "x.toml:13: steps[1].after: `1827d` is over five years; write at most \"1826d\""),
        (
            "\"first-tips\"\nafter",
            "\"welcome\"\nafter",
            "x.toml:12: steps[1].id: `welcome` is the id of steps[0] already",
        ),
        ("\"Three tips\"", "\" \"", "x.toml:14: steps[1].send.subject: empty; an email needs a subject"),
        (
            "\"Three tips\"",
            "\"Three\\r\\nBcc: tips\"",
            "x.toml:14: steps[1].send.subject: holds a line end or another control character; write one line",
        ),
        (
            "template = \"first-tips\"",
            "template = \"tips\"",
            "x.toml:14: steps[1].send.template: there is no `tips.html` and no `tips.txt`; a template needs one of them, or both",
        ),
        (
            "template = \"first-tips\"",
            "template = \"../first-tips\"",
            "x.toml:14: steps[1].send.template: `../first-tips`: a name has 1 to 64 of the characters a-z, 0-9, _ and -",
        ),
        ("version = 1", "version = ", "x.toml:2: TOML: string values must be quoted, expected literal string"),
        ("version = 1", "version = 1\nversion = 2", "x.toml:3: TOML: duplicate key"),
    ] {
        assert_eq!(faults(&with(line, instead)), [fault]);
    }
}

#[test]
fn a_sequence_has_steps() {
    let head = &NURTURE[..NURTURE.find("[[steps]]").unwrap()];
    for (steps, fault) in [
        ("", "x.toml:1: steps: missing; write [[steps]]"),
        ("steps = []", "x.toml:7: steps: a sequence has at least one step; write [[steps]]"),
        ("steps = [1]", "x.toml:7: steps[0]: expected a table, found a whole number"),
        ("[steps]\nid = \"welcome\"", "x.toml:7: steps: expected [[steps]] in double brackets, found a table"),
    ] {
        assert_eq!(faults(&format!("{head}{steps}")), [fault]);
    }
    let steps = |count| {
        let step = |i| format!("[[steps]]\nid = \"s{i}\"\nsend = {{ subject = \"s\", template = \"welcome\" }}\n");
        (0..count).map(step).collect::<String>()
    };
    assert_eq!(parse_sequence("x.toml", &format!("{head}{}", steps(1000)), folder).unwrap().steps.len(), 1000);
    let [fault] = &faults(&format!("{head}{}", steps(1001)))[..] else { panic!() };
    assert!(fault.ends_with("steps: 1001 steps; a sequence has at most 1000"), "{fault}");
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_the_file() {
    let toml = r#"name = "A"
version = 0
fron = "a@acme.example"
reentry = 1

[[steps]]
id = "a b"
after = "2"

[[steps]]
id = "welcome"
after = 2
send = { subject = "", template = "none", text = "" }

[[steps]]
id = "welcome"
send = "welcome"
"#;
    let places: Vec<_> =
        parse_sequence("x.toml", toml, folder).unwrap_err().into_iter().map(|e| (e.line, e.field)).collect();
    let places: Vec<_> = places.iter().map(|(line, field)| (*line, field.as_str())).collect();
    assert_eq!(
        places,
        [
            (1, "from"),
            (1, "name"),
            (2, "version"),
            (3, "fron"),
            (4, "reentry"),
            (6, "steps[0].send"),
            (7, "steps[0].id"),
            (8, "steps[0].after"),
            (12, "steps[1].after"),
            (13, "steps[1].send.subject"),
            (13, "steps[1].send.template"),
            (13, "steps[1].send.text"),
            (16, "steps[2].id"),
            (17, "steps[2].send"),
        ]
    );
}

#[test]
fn a_template_is_read_once_and_never_by_an_unsafe_name() {
    let toml = NURTURE.replace("template = \"first-tips\"", "template = \"welcome\"");
    let mut asked = Vec::new();
    parse_sequence("x.toml", &toml, |name| {
        asked.push(name.to_owned());
        folder(name)
    })
    .unwrap();
    assert_eq!(asked, ["welcome"]);

    let toml = NURTURE.replace("template = \"first-tips\"", "template = \"../../etc/passwd\"");
    parse_sequence("x.toml", &toml, |name| {
        assert_eq!(name, "welcome");
        folder(name)
    })
    .unwrap_err();

    let empty = |_: &str| Some(Template::default());
    assert_eq!(parse_sequence("x.toml", NURTURE, empty).unwrap_err().len(), 2);
}

#[test]
fn is_stored_as_json_with_times_in_milliseconds() {
    let sequence = parse_sequence("x.toml", NURTURE, folder).unwrap();
    let json = serde_json::to_value(&sequence).unwrap();
    assert_eq!(json["reentry"]["after"], 7_776_000_000_u64);
    assert_eq!(json["steps"][1]["afterMs"], 172_800_000);
    assert_eq!(json["replyTo"], "help@acme.example");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), tomlish in "[a-z=\\[\\]{}\"'\\\\#., \n0-9é-]{0,60}") {
        for text in [text, tomlish] {
            let errors = parse_sequence("x.toml", &text, folder).unwrap_err();
            prop_assert!(!errors.is_empty());
        }
    }

    #[test]
    fn a_slip_anywhere_is_told_or_harmless(at in 0..NURTURE.len(), slip in "[\\PC\r\n\0]{0,3}") {
        let mut toml = NURTURE.to_owned();
        toml.replace_range(at..=at, &slip);
        if let Err(errors) = parse_sequence("x.toml", &toml, folder) {
            prop_assert!(!errors.is_empty());
            for error in errors {
                prop_assert!(error.line >= 1 && error.line <= toml.lines().count() + 1);
                prop_assert!(!error.to_string().contains(char::is_control), "{error}");
            }
        }
    }

    #[test]
    fn a_stored_sequence_reads_the_same(waits in prop::collection::vec(0..1826_u64 * 86_400_000, 1..9),
        reentry in prop_oneof!["\"ignore\"", "\"restart\"", "\\{ after = \"[0-9]{1,3}(d|h|m|s|ms)\" \\}"]) {
        let head = format!("name = \"a\"\nversion = 7\nfrom = \"a@acme.example\"\nreentry = {reentry}\n");
        let step = |(i, wait): (usize, &u64)| {
            format!("[[steps]]\nid = \"{i}\"\nafter = \"{wait}ms\"\nsend = {{ subject = \"s\", template = \"welcome\" }}\n")
        };
        let toml = head + &waits.iter().enumerate().map(step).collect::<String>();
        let sequence = parse_sequence("x.toml", &toml, folder).unwrap();
        let stored = serde_json::to_string(&sequence).unwrap();
        prop_assert_eq!(serde_json::from_str::<Sequence>(&stored).unwrap(), sequence);
    }
}
