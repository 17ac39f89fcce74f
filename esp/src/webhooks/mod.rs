//! The way back: what providers tell of the emails they took.
//!
//! Two steps, in two processes. [`Bridge`] stands at the gateway: it finds out whether a delivery is the provider's own,
//! and takes it apart into single events, uninterpreted. [`Webhooks`] stands in the engine: it reads such an event in our
//! terms. Only the first needs secrets.
//!
//! Whatever repeats is let through: feedback counts once by its id, however often it comes.
mod bridge;
mod event;
mod fetch;
mod mailgun;
mod postmark;
mod resend;
mod sendgrid;
mod ses;
mod settings;
mod sns;
mod tokens;
mod unsubscribe;

pub use bridge::{Bridge, WebhookError};
use dripline_actors::ports::{FeedbackError, FeedbackReader};
use dripline_domain::Feedback;
pub use fetch::Fetch;
pub use postmark::TOKEN_HEADER as POSTMARK_TOKEN_HEADER;
pub use settings::{MailgunSettings, PostmarkSettings, ResendSettings, SendgridSettings, SesSettings, WebhookSettings};
pub use unsubscribe::{UNSUBSCRIBE, UnsubscribeEvent, UnsubscribeKind};

use self::event::Event;

/// Whose webhooks there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// Twilio's `SendGrid`.
    Sendgrid,
    /// Mailgun.
    Mailgun,
    /// Postmark.
    Postmark,
    /// Resend.
    Resend,
    /// Amazon SES, by way of SNS.
    Ses,
}

impl Vendor {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Sendgrid, Self::Mailgun, Self::Postmark, Self::Resend, Self::Ses];

    /// As it stands in paths, subjects and settings: `sendgrid`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sendgrid => "sendgrid",
            Self::Mailgun => "mailgun",
            Self::Postmark => "postmark",
            Self::Resend => "resend",
            Self::Ses => "ses",
        }
    }

    /// The vendor of this name, exactly as [`Vendor::name`] writes it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vendor| vendor.name() == name)
    }
}

/// The engine's side: from a raw event to our terms.
#[derive(Debug, Clone, Copy, Default)]
pub struct Webhooks;

impl FeedbackReader for Webhooks {
    fn read(&self, provider: &str, payload: &[u8]) -> Result<Vec<Feedback>, FeedbackError> {
        if provider == UNSUBSCRIBE {
            return unsubscribe::read(payload);
        }
        let vendor = Vendor::parse(provider)
            .ok_or_else(|| FeedbackError(format!("there is no provider `{provider}` whose events could be read")))?;
        let event = Event::parse(vendor, payload)?;
        match vendor {
            Vendor::Sendgrid => sendgrid::read(&event),
            Vendor::Mailgun => mailgun::read(&event),
            Vendor::Postmark => postmark::read(&event),
            Vendor::Resend => resend::read(&event),
            Vendor::Ses => ses::read(&event),
        }
    }
}
