//! Email service providers, one file each, and the composer that renders what they mail.
//!
//! An adapter translates: a [`dripline_domain::Email`] into its provider's request, the provider's answer into an
//! [`dripline_domain::Outcome`]. It decides nothing, retries nothing and logs next to nothing. Each email carries the
//! send key, the lead's id, the sequence and the step, under the names `send_key`, `lead_id`, `sequence` and `step`,
//! so that webhooks and look-ups can be matched to it.
//!
//! Four rules hold for all of them:
//! - `Transient` means *surely not mailed*. Where that is not sure, the outcome is `Unknown`, and the engine finds out.
//! - `Misconfigured` means *true of every lead*: key, account, sender, URL. `Refused` means *this email*.
//! - `NotFound` means *surely not taken*, once the provider has had its time: whatever else keeps an email from being
//!   found is `Unclear`.
//! - A reason names no recipient: reasons outlive the lead's erasure.
//!
//! `tests/adapters` holds each provider's documented example, and a table of its answers.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod answer;
mod batch;
mod compose;
mod error;
mod front_door;
mod http;
mod mailbox;
pub mod mailgun;
mod mime;
mod notices;
pub mod outbox;
mod outgoing;
pub mod postmark;
mod reason;
pub mod resend;
mod secret;
pub mod sendgrid;
pub mod smtp;
mod timely;
mod unsubscribe;
pub mod webhooks;
mod wire;

pub use batch::Batching;
pub use compose::{MinijinjaComposer, check_sequence};
pub use error::BuildError;
pub use front_door::HttpFrontDoor;
pub use http::install_tls;
pub use mailbox::{Imap, Mailpit, imap};
pub use mailgun::Mailgun;
pub use notices::{AlertEmail, AlertWebhook};
pub use outbox::Outbox;
pub use outgoing::HttpWebhook;
pub use postmark::Postmark;
pub use resend::Resend;
pub use secret::Secret;
pub use sendgrid::SendGrid;
pub use smtp::Smtp;
pub use unsubscribe::{Recipient, SealError, UnsubscribeLinks};
pub use webhooks::Webhooks;
