//! Stands in for the email providers in tests and benchmarks.
//!
//! It serves the send calls and look-ups of `SendGrid`, Mailgun, Postmark and Resend on one address, refuses every request that the
//! vendor's documentation does not describe, and remembers every email it accepted. A real provider forgives much
//! that its documentation forbids; this one forgives nothing, so that an adapter that passes here is right.
//!
//! | path | what |
//! |---|---|
//! | `POST /v3/mail/send` | `SendGrid` |
//! | `POST /v3/{domain}/messages` | Mailgun |
//! | `GET /v3/{domain}/events` | Mailgun: what became of the emails to a recipient |
//! | `POST /email`, `POST /email/batch` | Postmark |
//! | `GET /messages/outbound` | Postmark: the email with a send key |
//! | `POST /emails`, `POST /emails/batch` | Resend |
//! | `GET /_/accepted` | every accepted email as one JSON line, an [`Accepted`]; `?to=` for one address |
//! | `GET /_/summary` | a [`Summary`] |
//! | `GET /_/refusals` | the first hundred refused requests, each a [`Refusal`] |
//! | `GET /_/faults`, `POST /_/faults` | what goes wrong on purpose: a [`Fault`] or a list of them |
//! | `POST /_/reset` | forgets everything |
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod address;
mod control;
mod fault;
mod json;
mod ledger;
mod server;
mod vendor;

pub use fault::{Fault, FaultKind};
pub use ledger::{Accepted, Refusal, Summary};
pub use server::serve;
pub use vendor::Vendor;
