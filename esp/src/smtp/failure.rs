//! What a broken-off transaction means.
use std::fmt;
use std::future::Future;

use dripline_domain::{Email, Outcome};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::response::Severity;
use tokio::time::{Instant, timeout_at};

use crate::reason::tidy;

/// How far a transaction had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Connection,
    Sender,
    Recipient,
    Message,
}

/// Where a transaction ended, and why.
pub(super) struct Failure {
    stage: Stage,
    cause: Cause,
}

enum Cause {
    TimedOut,
    NoInternationalAddresses,
    OutOfStep,
    Smtp(Error),
}

/// Waits for one reply. What fails here drops the connection with it, so that none is ever used out of step.
pub(super) async fn within<T>(
    by: Instant,
    stage: Stage,
    reply: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    match timeout_at(by, reply).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(Failure { stage, cause: Cause::Smtp(error) }),
        Err(_) => Err(Failure { stage, cause: Cause::TimedOut }),
    }
}

impl Failure {
    /// The recipient's address needs SMTPUTF8 (RFC 6531), and the server has none.
    pub(super) fn no_international_addresses() -> Self {
        Self { stage: Stage::Recipient, cause: Cause::NoInternationalAddresses }
    }

    /// The server does not ask for the message when it should.
    pub(super) fn out_of_step() -> Self {
        Self { stage: Stage::Recipient, cause: Cause::OutOfStep }
    }

    /// See the table at [`super::Smtp`].
    pub(super) fn outcome(self, email: &Email) -> Outcome {
        let reason = tidy(&self.to_string(), &email.to);
        let severity = match &self.cause {
            Cause::Smtp(error) => error.status().map(|code| code.severity),
            Cause::TimedOut | Cause::OutOfStep => None,
            Cause::NoInternationalAddresses => return Outcome::Refused { reason },
        };
        match (self.stage, severity) {
            (_, Some(Severity::TransientNegativeCompletion)) => Outcome::Transient { reason },
            (Stage::Connection | Stage::Sender, Some(_)) => Outcome::Misconfigured { reason },
            (Stage::Connection, None) if self.is_no_use() => Outcome::Misconfigured { reason },
            (Stage::Recipient, Some(_)) if reason.to_ascii_lowercase().contains("relay") => {
                Outcome::Misconfigured { reason }
            }
            (Stage::Recipient | Stage::Message, Some(_)) => Outcome::Refused { reason },
            (Stage::Connection | Stage::Sender | Stage::Recipient, None) => Outcome::Transient { reason },
            (Stage::Message, None) => Outcome::Unknown { reason },
        }
    }

    /// The server has no STARTTLS, or no way to log in that we know.
    fn is_no_use(&self) -> bool {
        matches!(&self.cause, Cause::Smtp(error) if error.is_client())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Connection => "connecting",
            Stage::Sender => "MAIL FROM",
            Stage::Recipient => "RCPT TO",
            Stage::Message => "the message",
        };
        match &self.cause {
            Cause::TimedOut => write!(f, "SMTP, at {stage}: no reply in time"),
            Cause::NoInternationalAddresses => write!(f, "SMTP: the server takes no address outside ASCII (SMTPUTF8)"),
            Cause::OutOfStep => write!(f, "SMTP: the server's replies are out of step"),
            Cause::Smtp(error) => write!(f, "SMTP, at {stage}: {error}"),
        }
    }
}
