use crate::Address;
use crate::arrival::excerpt;

/// Takes `Name <local@domain>`, `"Name, Inc." <local@domain>`, `<local@domain>` or a bare address apart into name and
/// address (RFC 5322 §3.4), for providers that want them so. None for anything else.
///
/// The name comes without its quotes and holds no control characters. It may do without quotes where the RFC wants
/// them, as people write it so: `Acme, Inc. <hello@acme.example>`.
pub fn split_mailbox(text: &str) -> Option<(Option<String>, Address)> {
    parse_mailbox(text).ok()
}

/// Like [`split_mailbox`], with what is wrong and what would be right.
pub(super) fn parse_mailbox(text: &str) -> Result<(Option<String>, Address), String> {
    const RIGHT: &str = "write \"Acme <hello@acme.example>\" or \"hello@acme.example\"";
    let wrong = |reason: &str| format!("`{}`: {reason}; {RIGHT}", excerpt(text));

    let text = text.trim();
    let (name, address) = match text.strip_suffix('>') {
        Some(text) => text.rsplit_once('<').ok_or_else(|| wrong("a > without a <"))?,
        None => ("", text),
    };
    let name = display_name(name.trim()).ok_or_else(|| wrong("the name is not one"))?;
    let address = Address::parse(address).map_err(|error| wrong(&error.to_string()))?;
    Ok((Some(name).filter(|name| !name.is_empty()), address))
}

/// The mailbox as a header takes it: the name in quotes where it must be, so that a comma in it starts no second address.
pub(super) fn write_mailbox(name: Option<&str>, address: &Address) -> String {
    let Some(name) = name else { return address.to_string() };
    let is_phrase =
        name.chars().all(|c| c.is_ascii_alphanumeric() || !c.is_ascii() || " !#$%&'*+-/=?^_`{|}~".contains(c));
    if is_phrase {
        format!("{name} <{address}>")
    } else {
        format!("\"{}\" <{address}>", name.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// The name without its quotes, if it has any; none if it is no name.
fn display_name(text: &str) -> Option<String> {
    if text.contains(char::is_control) {
        return None;
    }
    let Some(quoted) = text.strip_prefix('"') else {
        return (!text.contains(['<', '>'])).then(|| text.to_owned());
    };
    let mut name = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return chars.as_str().is_empty().then(|| name.trim().to_owned()),
            '\\' => name.push(chars.next()?),
            _ => name.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sender_as_people_write_it() {
        for (written, name, header) in [
            ("hello@acme.example", None, "hello@acme.example"),
            (" <Hello@Acme.example> ", None, "hello@acme.example"),
            ("\"\" <hello@acme.example>", None, "hello@acme.example"),
            ("Acme <hello@acme.example>", Some("Acme"), "Acme <hello@acme.example>"),
            ("Jane from Acme<hello@acme.example>", Some("Jane from Acme"), "Jane from Acme <hello@acme.example>"),
            ("Zoë & Søn <hello@acme.example>", Some("Zoë & Søn"), "Zoë & Søn <hello@acme.example>"),
            ("Acme, Inc. <hello@acme.example>", Some("Acme, Inc."), "\"Acme, Inc.\" <hello@acme.example>"),
            ("\"Acme, Inc.\" <hello@acme.example>", Some("Acme, Inc."), "\"Acme, Inc.\" <hello@acme.example>"),
            (
                r#""The \"Best\" \\ Co" <hello@acme.example>"#,
                Some(r#"The "Best" \ Co"#),
                r#""The \"Best\" \\ Co" <hello@acme.example>"#,
            ),
            (r#""a <b> c" <hello@acme.example>"#, Some("a <b> c"), r#""a <b> c" <hello@acme.example>"#),
        ] {
            let (split, address) = split_mailbox(written).unwrap();
            assert_eq!((split.as_deref(), address.as_str()), (name, "hello@acme.example"), "{written}");
            assert_eq!(write_mailbox(name, &address), header);
        }
    }

    #[test]
    fn what_would_not_go_into_a_header_is_refused() {
        for written in [
            "",
            "Acme",
            "Acme hello@acme.example",
            "Acme <hello@acme.example",
            "Acme hello@acme.example>",
            "Acme <hello@acme>",
            "Acme <>",
            "Acme <a@acme.example> <b@acme.example>",
            "Acme\r\nBcc: all@acme.example <hello@acme.example>",
            "Acme <hello@acme.example>, Joe <joe@acme.example>",
            "\"Acme <hello@acme.example>",
            "\"Acme\\\" <hello@acme.example>",
            "\"Acme\" Inc <hello@acme.example>",
        ] {
            assert_eq!(split_mailbox(written), None, "{written}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), mailboxish in "[\"\\\\<>@a. ,]{0,20}") {
            for text in [text, mailboxish] {
                let _ = split_mailbox(&text);
            }
        }

        #[test]
        fn what_is_written_reads_the_same(name in "\\PC{0,20}") {
            let address = Address::parse("hello@acme.example").unwrap();
            let name = Some(name.trim()).filter(|name| !name.is_empty());
            let read = split_mailbox(&write_mailbox(name, &address));
            prop_assert_eq!(read, Some((name.map(str::to_owned), address)));
        }
    }
}
