//! The message itself (RFC 5322, MIME), for those who take it whole: SMTP and the outbox.
use dripline_domain::{Address, Email, split_mailbox};
use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};

/// Builds the message: text and HTML as alternatives, and our names for it as `X-Dripline-*` headers.
///
/// # Errors
/// For people: what of the email cannot be put into a message.
pub(crate) fn message(email: &Email) -> Result<Message, String> {
    let mut builder = Message::builder()
        .from(mailbox("from", &email.from)?)
        .to(Mailbox::new(None, address(&email.to)?))
        .subject(&email.subject)
        .message_id(Some(email.message_id.clone()));
    if let Some(reply_to) = &email.reply_to {
        builder = builder.reply_to(mailbox("reply_to", reply_to)?);
    }
    let version = email.version.to_string();
    let ours = [
        ("X-Dripline-Send-Key", email.send_key.as_str()),
        ("X-Dripline-Lead-Id", email.lead_id.as_str()),
        ("X-Dripline-Sequence", email.sequence.as_str()),
        ("X-Dripline-Version", version.as_str()),
        ("X-Dripline-Step", email.step.as_str()),
    ];
    let further = email.headers.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in further.chain(ours) {
        let name = HeaderName::new_from_ascii(name.to_owned()).map_err(|_| format!("`{name}` is not a header name"))?;
        builder = builder.raw_header(HeaderValue::new(name, value.to_owned()));
    }
    match &email.html {
        Some(html) => builder.multipart(MultiPart::alternative_plain_html(email.text.clone(), html.clone())),
        None => builder.singlepart(SinglePart::plain(email.text.clone())),
    }
    .map_err(|error| error.to_string())
}

fn mailbox(field: &str, value: &str) -> Result<Mailbox, String> {
    let (name, at) =
        split_mailbox(value).ok_or_else(|| format!("the sequence's {field} `{value}` is not a mailbox"))?;
    Ok(Mailbox::new(name, address(&at)?))
}

fn address(address: &Address) -> Result<lettre::Address, String> {
    lettre::Address::new(address.local(), address.domain())
        .map_err(|error| format!("an address cannot be mailed: {error}"))
}
