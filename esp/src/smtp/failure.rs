//! What a broken-off transaction means.
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

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
    /// Nothing of this stage was written.
    HeldUp,
    TimedOut,
    NoInternationalAddresses,
    OutOfStep,
    Smtp(Error),
}

/// Speaks, and waits for one reply. What fails here drops the connection with it, so that none is ever used out of step, and
/// a message that is not at its end is none.
///
/// Nothing is written past `by`: a process that was stopped (SIGSTOP, a paused machine) finds on waking that the connection
/// is ready, and by then another process may have found that the email was not sent. A time-out alone would have it write
/// first.
pub(super) async fn within<T>(
    by: Instant,
    stage: Stage,
    reply: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    let failure = |cause| Failure { stage, cause };
    if Instant::now() >= by {
        return Err(failure(Cause::HeldUp));
    }
    let mut reply = pin!(reply);
    let in_time = poll_fn(|context| {
        if Instant::now() >= by {
            return Poll::Ready(Err(failure(Cause::TimedOut)));
        }
        reply.as_mut().poll(context).map_err(|error| failure(Cause::Smtp(error)))
    });
    timeout_at(by, in_time).await.unwrap_or_else(|_| Err(failure(Cause::TimedOut)))
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
            Cause::HeldUp => return Outcome::Transient { reason },
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
            Cause::HeldUp => write!(f, "SMTP, before {stage}: the process was held up for too long: not sent"),
            Cause::TimedOut => write!(f, "SMTP, at {stage}: no reply in time"),
            Cause::NoInternationalAddresses => write!(f, "SMTP: the server takes no address outside ASCII (SMTPUTF8)"),
            Cause::OutOfStep => write!(f, "SMTP: the server's replies are out of step"),
            Cause::Smtp(error) => write!(f, "SMTP, at {stage}: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Speaking for which the connection is not ready at first, and the process stands still meanwhile; whether anything was
    /// written.
    async fn spoken(stands_still: Duration, by: Instant) -> (bool, Result<(), Failure>) {
        let (mut polls, mut is_written) = (0, false);
        let speaking = poll_fn(|context| {
            polls += 1;
            if polls > 1 {
                is_written = true;
                return Poll::Ready(Ok(()));
            }
            std::thread::sleep(stands_still);
            context.waker().wake_by_ref();
            Poll::Pending
        });
        let spoken = within(by, Stage::Message, speaking).await;
        (is_written, spoken)
    }

    #[tokio::test]
    async fn a_process_that_stood_still_writes_nothing_more() {
        let (is_written, spoken_in_time) = spoken(Duration::ZERO, Instant::now() + Duration::from_mins(1)).await;
        assert!(is_written && spoken_in_time.is_ok());
        let (is_written, failure) = spoken(Duration::from_millis(60), Instant::now() + Duration::from_millis(50)).await;
        assert!(!is_written && matches!(failure, Err(Failure { cause: Cause::TimedOut, .. })));
        let (is_written, failure) = spoken(Duration::ZERO, Instant::now()).await;
        assert!(!is_written && matches!(failure, Err(Failure { cause: Cause::HeldUp, .. })));
    }
}
