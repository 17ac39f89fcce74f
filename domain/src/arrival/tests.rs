use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;

fn in_the_us() -> Sanitiser {
    Sanitiser { default_region: Some("US".to_owned()), ..Sanitiser::default() }
}

fn read(fields: Value) -> Result<Arrival, ArrivalError> {
    in_the_us().read(fields)
}

/// What was read, as JSON, for short tables.
fn shown(fields: Value) -> Value {
    let arrival = read(fields).unwrap();
    let mut shown = serde_json::to_value(&arrival.profile).unwrap();
    shown["email"] = json!(arrival.address);
    if let Some(sequence) = arrival.sequence {
        shown["sequence"] = json!(sequence);
    }
    shown
}

#[test]
fn a_lead_from_any_source_reads_the_same() {
    let jane = json!({"email": "jane@example.com", "firstName": "Jane", "lastName": "van der Berg", "phone": "+14155552671",
        "sequence": "new_lead_nurture"});
    for fields in [
        json!({"email": "jane@example.com", "firstName": "Jane", "lastName": "van der Berg", "phone": "+14155552671",
            "sequence": "new_lead_nurture"}),
        json!({"email_address": " JANE@Example.com", "first_name": " Jane\n", "last_name": "van  der\u{a0}Berg",
            "phone_number": "(415) 555-2671", "sequence": "new_lead_nurture"}),
        json!({"emailAddress": "jane@example.com", "firstname": "Jane", "lastname": "van der Berg",
            "phoneNumber": "415.555.2671", "sequence": " new_lead_nurture "}),
    ] {
        assert_eq!(shown(fields), jane);
    }
}

#[test]
fn names_are_tidied_and_their_case_left_alone() {
    for (written, tidied) in [
        ("McDonald", Some("McDonald")),
        ("JANE", Some("JANE")),
        ("  Mary   Ann ", Some("Mary Ann")),
        ("Zoe\u{308}", Some("Zo\u{eb}")),
        ("Jane\u{2028}Doe", Some("Jane Doe")),
        ("علی\u{200c}رضا", Some("علی\u{200c}رضا")),
        ("", None),
        (" \t ", None),
    ] {
        let arrival = read(json!({"email": "a@example.com", "firstName": written})).unwrap();
        assert_eq!(arrival.profile.first_name.as_deref(), tidied, "{written:?}");
    }
}

#[test]
fn what_we_do_not_know_is_kept_as_it_came_and_in_order() {
    let fields = json!({"zeta": 1, "email": "a@example.com", "utm": {"source": "ads", "tags": ["a", null, true, 1.5]},
        "alpha": "two\nlines\tand a tab", "message": "from a form\r\nwith two lines"});
    let attributes = read(fields).unwrap().profile.attributes;
    assert_eq!(
        serde_json::to_string(&attributes).unwrap(),
        r#"{"zeta":1,"utm":{"source":"ads","tags":["a",null,true,1.5]},"alpha":"two\nlines\tand a tab","message":"from a form\nwith two lines"}"#
    );
}

#[test]
fn a_wrong_phone_number_does_not_cost_us_the_lead() {
    for (fields, attributes) in [
        (json!({"phone": "ask my secretary"}), json!({"phone": "ask my secretary"})),
        (json!({"phoneNumber": "415 555 2671 ext. 12"}), json!({"phone": "415 555 2671 ext. 12"})),
        (json!({"phoneNumber": "n/a", "phone": "none"}), json!({"phone": "none", "phoneNumber": "n/a"})),
    ] {
        let mut lead = json!({"email": "a@example.com"});
        lead.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let profile = read(lead).unwrap().profile;
        assert_eq!((profile.phone, Value::Object(profile.attributes)), (None, attributes));
    }
}

#[test]
fn without_a_region_a_national_number_stays_as_it_came() {
    let read =
        |phone: &str| Sanitiser::default().read(json!({"email": "a@example.com", "phone": phone})).unwrap().profile;
    assert_eq!(read("+1 415 555 2671").phone.as_deref(), Some("+14155552671"));
    assert_eq!(read("415 555 2671").attributes["phone"], "415 555 2671");
}

#[test]
fn of_two_names_for_one_field_the_first_counts() {
    assert_eq!(
        shown(
            json!({"firstName": "Jane", "first_name": "Joan", "email": "a@example.com", "emailAddress": "b@example.com",
            "phone": "+14155552671", "phone_number": "+14155552672"})
        ),
        json!({"firstName": "Jane", "email": "a@example.com", "phone": "+14155552671",
            "attributes": {"first_name": "Joan", "emailAddress": "b@example.com", "phone_number": "+14155552672"}})
    );
    // An empty one is as good as none.
    assert_eq!(
        shown(json!({"email": "", "emailAddress": "a@example.com", "firstName": null, "first_name": "Jane"})),
        json!({"email": "a@example.com", "firstName": "Jane"})
    );
}

#[test]
fn a_refused_lead_is_told_why_and_where() {
    let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!({ "a": inner }));
    for (fields, code, sentence) in [
        (json!([]), "not_an_object", "not a JSON object, such as {\"email\": \"jane@example.com\"}"),
        (json!({"firstName": "Jane"}), "missing_email", "no email"),
        (json!({"email": null}), "missing_email", "no email"),
        (json!({"email": "  "}), "missing_email", "no email"),
        (json!({"email": 7}), "wrong_type", "email: not a text"),
        (
            json!({"email": "jane"}),
            "invalid_email",
            "email: an address has a part before and a part after an @, such as jane@example.com",
        ),
        (json!({"first_name": {}}), "wrong_type", "first_name: not a text"),
        (json!({"lastName": ["a"]}), "wrong_type", "lastName: not a text"),
        (json!({"phone": true}), "wrong_type", "phone: not a text"),
        (json!({"sequence": 1}), "wrong_type", "sequence: not a text"),
        (
            json!({"sequence": "New Lead"}),
            "invalid_sequence",
            "sequence: a name has 1 to 64 of the characters a-z, 0-9, _ and -",
        ),
        (
            json!({"sequence": "a".repeat(65)}),
            "invalid_sequence",
            "sequence: a name has 1 to 64 of the characters a-z, 0-9, _ and -",
        ),
        (
            json!({"firstName": "Jane\r\nBcc: all@example.com"}),
            "control_characters",
            "firstName: holds control characters",
        ),
        (json!({"lastName": "D\0e"}), "control_characters", "lastName: holds control characters"),
        (json!({"phone": "+1\u{7}"}), "control_characters", "phone: holds control characters"),
        (json!({"utm": {"source": ["ok", "n\0"]}}), "control_characters", "utm.source[1]: holds control characters"),
        (json!({"note": "a\rb"}), "control_characters", "note: holds control characters"),
        (json!({"a\nb": 1}), "control_characters", "a\u{fffd}b: holds control characters"),
        (json!({"a": {"\u{1b}[2J": 1}}), "control_characters", "a.\u{fffd}[2J: holds control characters"),
        (json!({"firstName": "a".repeat(101)}), "too_long", "firstName: longer than 100 characters"),
        (json!({"note": "a".repeat(1025)}), "too_long", "note: longer than 1024 characters"),
        (json!({"phone": "1".repeat(1025)}), "too_long", "phone: longer than 1024 characters"),
        (json!({"a": {"k".repeat(65): 1}}), "too_long", &format!("a.{}: longer than 64 characters", "k".repeat(65))),
        (json!({"deep": nested(5)}), "too_deep", "deep.a.a.a.a: nested deeper than 4"),
        (json!({"list": [[[[[]]]]]}), "too_deep", "list[0][0][0][0]: nested deeper than 4"),
        (json!({"list": vec!["a".repeat(1000); 17]}), "too_large", "the attributes are larger than 16384 bytes"),
        ((0..65).map(|i| (i.to_string(), json!(i))).collect(), "too_many_fields", "more than 64 fields"),
    ] {
        let mut lead = fields;
        if let (Some(lead), false) = (lead.as_object_mut(), code == "missing_email" || code == "too_many_fields") {
            lead.entry("email").or_insert(json!("jane@example.com"));
        }
        let error = read(lead.clone()).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (code, sentence), "{lead}");
    }
}

#[test]
fn what_just_fits_is_taken() {
    let mut fields: Map<String, Value> = (0..60).map(|i| (format!("{i:064}"), json!("é".repeat(10)))).collect();
    fields.insert("firstName".to_owned(), json!("é".repeat(100)));
    fields.insert("email".to_owned(), json!("a@example.com"));
    fields.insert("note".to_owned(), json!("é".repeat(1024)));
    fields.insert("deep".to_owned(), json!([[[{"a": 1}]]]));
    assert_eq!(read(Value::Object(fields)).unwrap().profile.attributes.len(), 62);
}

#[test]
fn json_that_is_none_is_told_where() {
    let error = in_the_us().read_json(b"{\"email\": \"a@example.com\",}").unwrap_err();
    assert_eq!(error.code(), "not_json");
    assert!(error.to_string().contains("line 1 column 27"), "{error}");
    for bytes in [&b""[..], b"email=a@example.com", b"\xff", "[".repeat(100_000).as_bytes()] {
        assert_eq!(in_the_us().read_json(bytes).unwrap_err().code(), "not_json");
    }
    assert_eq!(in_the_us().read_json(b"{\"email\": \"A@example.com\"}").unwrap().address.as_str(), "a@example.com");
}

#[test]
fn a_message_shows_no_more_than_a_line_can_hold() {
    assert_eq!(excerpt("short\r\n"), "short\u{fffd}\u{fffd}");
    assert_eq!(excerpt(&"é".repeat(80)), "é".repeat(80));
    assert_eq!(excerpt(&"é".repeat(81)), format!("{}…", "é".repeat(79)));
}

mod a_second_arrival {
    use super::*;

    fn profile(value: Value) -> Profile {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn wins_where_it_tells_something() {
        let first = json!({"firstName": "Jane", "phone": "+14155552671", "attributes": {"plan": "free", "seats": 3}});
        for (second, changed, merged) in [
            (json!({}), false, first.clone()),
            (first.clone(), false, first.clone()),
            (
                json!({"firstName": "Joan"}),
                true,
                json!({"firstName": "Joan", "phone": "+14155552671", "attributes": {"plan": "free", "seats": 3}}),
            ),
            (
                json!({"lastName": "Doe", "attributes": {"plan": "pro", "utm": {"source": "ads"}}}),
                true,
                json!({"firstName": "Jane", "lastName": "Doe", "phone": "+14155552671",
                    "attributes": {"plan": "pro", "seats": 3, "utm": {"source": "ads"}}}),
            ),
        ] {
            let mut ours = profile(first.clone());
            assert_eq!(ours.merge(profile(second.clone())), changed, "{second}");
            assert_eq!(ours, profile(merged), "{second}");
        }
    }

    #[test]
    fn cannot_make_a_document_too_large_to_store() {
        let mut ours = Profile::default();
        for arrival in 0..4 {
            let attributes = (0..64).map(|i| (format!("{arrival}-{i}"), json!(i))).collect();
            ours.merge(Profile { attributes, ..Profile::default() });
        }
        assert_eq!(ours.attributes.len(), 128);
        assert!(!ours.merge(profile(json!({"attributes": {"one-more": 1}}))));
        assert!(ours.merge(profile(json!({"attributes": {"0-0": "still updated"}}))));
        for i in 0..128 {
            ours.merge(profile(json!({"attributes": {format!("{}-{}", i / 64, i % 64): vec!["a".repeat(1000); 15]}})));
        }
        let bytes = serde_json::to_vec(&ours).unwrap().len();
        assert!((100_000..140_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn is_stored_without_what_nobody_told() {
        assert_eq!(serde_json::to_string(&Profile::default()).unwrap(), "{}");
        assert_eq!(profile(json!({})), Profile::default());
    }
}

/// Any JSON that a person or an attacker may send.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        Just(json!("jane@example.com")),
    ];
    let key = prop_oneof![
        Just("email".to_owned()),
        Just("firstName".to_owned()),
        Just("phone".to_owned()),
        Just("phoneNumber".to_owned()),
        Just("sequence".to_owned()),
        any::<String>()
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_lead_makes_it_panic(bytes in any::<Vec<u8>>(), value in any_json()) {
        let _ = in_the_us().read_json(&bytes);
        match read(value) {
            Ok(arrival) => prop_assert!(json_bytes(&arrival.profile.attributes) <= 16 * 1024),
            Err(error) => prop_assert!(!error.to_string().contains(char::is_control), "{error}"),
        }
    }

    /// So that a rejected and replayed lead, or an exported and imported one, is the same person.
    #[test]
    fn cleaned_stays_cleaned(value in any_json(), name in "\\PC{0,30}", phone in "[+(]?[0-9 -]{7,14}") {
        let fields = json!({"email": "Jane@Example.com", "firstName": name, "phone": phone, "more": value});
        if let Ok(once) = read(fields) {
            let mut fields = serde_json::to_value(&once.profile).unwrap();
            let attributes = fields.as_object_mut().unwrap().remove("attributes");
            fields["email"] = json!(once.address);
            if let Some(Value::Object(attributes)) = attributes {
                fields.as_object_mut().unwrap().extend(attributes);
            }
            prop_assert_eq!(read(fields), Ok(once));
        }
    }

    #[test]
    fn merging_twice_changes_nothing_more(first in any_json(), second in any_json()) {
        let profile = |value| Profile { attributes: [("a".to_owned(), value)].into_iter().collect(), ..Profile::default() };
        let mut ours = profile(first);
        ours.merge(profile(second.clone()));
        let once = ours.clone();
        prop_assert!(!ours.merge(profile(second)));
        prop_assert_eq!(ours, once);
    }
}
