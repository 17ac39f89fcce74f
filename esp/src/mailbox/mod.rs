//! Mailboxes that the canary asks whether its emails arrived.
pub mod imap;
mod mailpit;

use std::time::Duration;

pub use imap::Imap;
pub use mailpit::Mailpit;

/// One question takes no longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// No more emails to one address are looked at: a run of the canary has a few.
const MOST_EMAILS: usize = 50;

/// The header in which SMTP emails carry their step.
const STEP_HEADER: &str = "X-Dripline-Step";
