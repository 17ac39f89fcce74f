use smol_str::SmolStr;

use crate::Address;

/// One rendered email, ready for any provider.
///
/// Rendered once per attempt and free of provider specifics: an adapter only translates it. Header values and
/// the subject hold no control characters (the composer refuses them), so an adapter need not check again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    /// `Name <local@domain>` or a bare address, as the sequence gives it.
    pub from: SmolStr,
    /// The recipient.
    pub to: Address,
    /// Where answers go, when it is not `from`.
    pub reply_to: Option<SmolStr>,
    /// One line, rendered.
    pub subject: String,
    /// The HTML part, if the template has one.
    pub html: Option<String>,
    /// The plain-text part; derived from `html` where the template has none.
    pub text: String,
    /// Further headers, such as `List-Unsubscribe`, in order.
    pub headers: Vec<(&'static str, String)>,
    /// `<sendKey@domain>`: the same on every retry of a step (RFC 5322 §3.6.4).
    pub message_id: String,
    /// Names this step of this enrolment of this lead; see [`crate::send_key`].
    pub send_key: SmolStr,
    /// The lead's opaque id.
    pub lead_id: SmolStr,
    /// The sequence's name.
    pub sequence: SmolStr,
    /// The sequence's version.
    pub version: u32,
    /// The step's id.
    pub step: SmolStr,
}
