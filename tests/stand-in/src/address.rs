//! Addresses and header fields, as strictly as every vendor reads them.

/// The address in `Name <local@domain>` or `local@domain`.
pub fn mailbox(text: &str) -> Result<&str, String> {
    let address = match text.strip_suffix('>').map(|inner| inner.rsplit_once('<')) {
        Some(Some((name, address))) => {
            display_name(name.trim_end_matches(' '))?;
            address
        }
        Some(None) => return Err(format!("'{text}' is not an address")),
        None => text,
    };
    bare(address).map(|()| address)
}

/// Refuses all but `local@domain`.
pub fn bare(address: &str) -> Result<(), String> {
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "<>,;:\"()[]\\".contains(c);
    match address.split_once('@') {
        Some((local, domain))
            if !local.is_empty() && domain.contains('.') && !domain.contains('@') && !address.contains(forbidden) =>
        {
            Ok(())
        }
        _ => Err(format!("'{address}' is not an address")),
    }
}

/// Without quotes a name may hold no special character (RFC 5322 §3.2.3); the dot is let through, as everywhere.
fn display_name(name: &str) -> Result<(), String> {
    let quoted = name.len() >= 2 && name.starts_with('"') && name.ends_with('"');
    if name.contains(char::is_control) || (!quoted && name.contains(|c| "<>,;:\"()[]\\@".contains(c))) {
        return Err(format!("'{name}' needs quotes to stand before an address"));
    }
    Ok(())
}

/// Refuses a header field that could not stand in an email, or that would begin another one.
pub fn header(name: &str, value: &str) -> Result<(), String> {
    let name_ok = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    if !name_ok {
        return Err(format!("'{name}' is not a header name"));
    }
    if value.contains(char::is_control) {
        return Err(format!("the header {name} holds a control character"));
    }
    Ok(())
}

/// Refuses an empty subject and one of several lines.
pub fn subject(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("the subject is empty".into());
    }
    if text.contains(char::is_control) {
        return Err("the subject holds a control character".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_behind_its_name() {
        for (text, address) in [
            ("jane@example.com", "jane@example.com"),
            ("Jane <jane@example.com>", "jane@example.com"),
            ("<jane@example.com>", "jane@example.com"),
            ("\"Doe, Jane\" <jane@example.com>", "jane@example.com"),
            ("Jane D. <jane+x@example.com>", "jane+x@example.com"),
            ("jané@exämple.com", "jané@exämple.com"),
        ] {
            assert_eq!(mailbox(text), Ok(address), "{text}");
        }
    }

    #[test]
    fn what_is_no_single_address_is_refused() {
        for text in [
            "",
            "jane",
            "jane@",
            "@example.com",
            "jane@localhost",
            "jane@example.com, joe@example.com",
            "Doe, Jane <jane@example.com>",
            "jane@example.com>",
            "Jane <jane@example.com",
            "jane doe@example.com",
            "jane@example.com\r\nBcc: joe@example.com",
            "Jane\n <jane@example.com>",
            "jane@@example.com",
        ] {
            assert!(mailbox(text).is_err(), "{text}");
        }
    }
}
