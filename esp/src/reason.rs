use dripline_domain::Address;

/// Longest reason kept, in characters.
const LIMIT: usize = 300;

/// What a provider said, fit to be kept: one line, at most [`LIMIT`] characters, and without the recipient's address.
///
/// Reasons end up in the journal, which names people by their opaque id alone; and providers like to repeat the
/// address they refuse (`550 <jane@example.com>: user unknown`).
pub(crate) fn tidy(said: &str, recipient: &Address) -> String {
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    let line = without(&line, recipient.as_str());
    match (line.char_indices().nth(LIMIT - 1), line.chars().nth(LIMIT)) {
        (Some((end, _)), Some(_)) => format!("{}…", &line[..end]),
        _ => line,
    }
}

/// `text` with `address`, in whatever case, replaced.
pub(crate) fn without(text: &str, address: &str) -> String {
    if address.is_empty() {
        return text.to_owned();
    }
    // ASCII lowering keeps every byte where it is, so positions in `lower` are positions in `text`.
    let (lower, address) = (text.to_ascii_lowercase(), address.to_ascii_lowercase());
    let mut clean = String::with_capacity(text.len());
    let mut done = 0;
    for (at, found) in lower.match_indices(&address) {
        clean.push_str(&text[done..at]);
        clean.push_str("[recipient]");
        done = at + found.len();
    }
    clean.push_str(&text[done..]);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipient_is_taken_out_of_what_a_provider_says() {
        for (said, kept) in [
            ("550 <Jane@Example.com>: unknown", "550 <[recipient]>: unknown"),
            ("jane@example.com, JANE@EXAMPLE.COM", "[recipient], [recipient]"),
            ("Jürgen: try\r\nagain\tlater\u{7}", "Jürgen: try again later"),
            ("", ""),
        ] {
            assert_eq!(tidy(said, &Address::parse("jane@example.com").unwrap()), kept);
        }
    }

    #[test]
    fn a_long_answer_is_cut() {
        let kept = tidy(&"ü".repeat(1_000), &Address::parse("jane@example.com").unwrap());
        assert_eq!(kept.chars().count(), LIMIT);
        assert!(kept.ends_with('…'));
    }
}
