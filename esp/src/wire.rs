//! The parts of an email that several providers take in the same form.
use dripline_domain::{Email, Outcome};
use serde::{Serialize, Serializer};

/// Our names for an email, under which every provider hands it back in its webhooks.
///
/// All within the tightest limits (Postmark: names of 20 characters, values of 80; Resend: `[A-Za-z0-9_-]`).
#[derive(Serialize)]
pub(crate) struct Ids<'a> {
    pub send_key: &'a str,
    pub lead_id: &'a str,
    pub sequence: &'a str,
    pub step: &'a str,
}

impl<'a> Ids<'a> {
    pub fn of(email: &'a Email) -> Self {
        Self { send_key: &email.send_key, lead_id: &email.lead_id, sequence: &email.sequence, step: &email.step }
    }

    pub fn pairs(&self) -> [(&'static str, &'a str); 4] {
        [("send_key", self.send_key), ("lead_id", self.lead_id), ("sequence", self.sequence), ("step", self.step)]
    }
}

/// The email's headers as pairs, its `Message-ID` first.
pub(crate) fn headers(email: &Email) -> impl Iterator<Item = (&str, &str)> {
    let further = email.headers.iter().map(|(name, value)| (*name, value.as_str()));
    std::iter::once(("Message-ID", email.message_id.as_str())).chain(further)
}

/// The email's headers as a JSON object, its `Message-ID` first.
pub(crate) struct HeaderObject<'a>(pub &'a Email);

impl Serialize for HeaderObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(headers(self.0))
    }
}

/// The text part; none where it is empty and there is HTML (a page of pictures), since providers refuse empty parts.
pub(crate) fn text(email: &Email) -> Option<&str> {
    (!email.text.is_empty() || email.html.is_none()).then_some(email.text.as_str())
}

/// `from` could not be read; the sequence's loader should have refused it. Whatever the lead.
pub(crate) fn not_a_mailbox(setting: &str, value: &str) -> Outcome {
    Outcome::Misconfigured { reason: format!("the sequence's {setting} `{value}` is not a mailbox") }
}
