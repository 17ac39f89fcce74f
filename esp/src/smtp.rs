//! Any mail server, by SMTP submission (RFC 5321, RFC 6409).
mod failure;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dripline_actors::ports::Esp;
use dripline_domain::{Email, Outcome};
use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use self::failure::{Failure, Stage, within};
use crate::mime::message;
use crate::{BuildError, Secret};

/// A connection unused for longer is not trusted any more.
const IDLE: Duration = Duration::from_secs(30);

/// `[esp.smtp]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The server's name, as its certificate has it.
    pub host: String,
    /// 587 for `starttls`, 465 for `tls`, 25 for `none`, unless set.
    pub port: Option<u16>,
    /// How the connection is protected.
    pub security: Security,
    /// Without one, we do not log in.
    pub username: Option<String>,
    /// Goes with `username`.
    pub password: Option<Secret>,
}

/// How the connection is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Begins in the clear and must be upgraded before anything is said.
    #[default]
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// In the clear, the password too: for a server on this machine.
    None,
}

/// One email a transaction, over kept connections.
///
/// Accepted's id is our own `Message-ID` without its angle brackets; the server's reply names none reliably. There is
/// no idempotency. What went wrong is told apart by how far the transaction had come:
///
/// | until | 4xx | 5xx | no answer |
/// |---|---|---|---|
/// | connection, TLS, `EHLO`, `AUTH` | `Transient` | `Misconfigured` | `Transient` |
/// | `MAIL FROM` | `Transient` | `Misconfigured` (the sender is the sequence's) | `Transient` |
/// | `RCPT TO`, `DATA` | `Transient` | `Refused`; `Misconfigured` for "relay access denied" | `Transient` |
/// | the message's end | `Transient` | `Refused` | `Unknown`: from here on, it may have been taken |
///
/// The transaction is spoken here and not by lettre's own pool, since that one tells neither how far it came nor
/// survives being dropped in the middle: it would use the connection again, one reply out of step.
pub struct Smtp {
    host: String,
    port: u16,
    tls: Option<TlsParameters>,
    security: Security,
    credentials: Option<Credentials>,
    timeout: Duration,
    most_parked: usize,
    parked: Mutex<Vec<(AsyncSmtpConnection, Instant)>>,
}

impl Smtp {
    /// `timeout` is for a whole transaction, connecting included; `connections` is the most kept open.
    ///
    /// # Errors
    /// No host, a user name without a password or a password without a user name, a host no certificate can name.
    pub fn new(config: &Config, timeout: Duration, connections: usize) -> Result<Self, BuildError> {
        let host = BuildError::unless_set(&config.host, "esp.smtp.host")?.to_owned();
        let credentials = match (&config.username, &config.password) {
            (None, None) => None,
            (Some(user), Some(password)) => Some(Credentials::new(user.clone(), password.expose().to_owned())),
            (Some(_), None) => return Err(BuildError::Missing { setting: "esp.smtp.password" }),
            (None, Some(_)) => return Err(BuildError::Missing { setting: "esp.smtp.username" }),
        };
        let (default_port, tls) = match config.security {
            Security::None => (25, None),
            Security::Tls => (465, Some(TlsParameters::new(host.clone()).map_err(BuildError::Tls)?)),
            Security::StartTls => (587, Some(TlsParameters::new(host.clone()).map_err(BuildError::Tls)?)),
        };
        Ok(Self {
            host,
            port: config.port.unwrap_or(default_port),
            tls,
            security: config.security,
            credentials,
            timeout,
            most_parked: connections,
            parked: Mutex::default(),
        })
    }

    /// One transaction.
    async fn transact(&self, envelope: &Envelope, message: &[u8]) -> Result<(), Failure> {
        let by = Instant::now() + self.timeout;
        let mut connection = self.begin(envelope, by).await?;
        for recipient in envelope.to() {
            within(by, Stage::Recipient, connection.command(Rcpt::new(recipient.clone(), Vec::new()))).await?;
        }
        // Anything else, even a success, answers an earlier command, and its like would pass for the message's own.
        if !within(by, Stage::Recipient, connection.command(Data)).await?.has_code(354) {
            return Err(Failure::out_of_step());
        }
        within(by, Stage::Message, connection.message(message)).await?;
        self.park(connection);
        Ok(())
    }

    /// A connection that has taken `MAIL FROM`: a kept one if it is still good, else a new one.
    async fn begin(&self, envelope: &Envelope, by: Instant) -> Result<AsyncSmtpConnection, Failure> {
        let international = envelope.from().into_iter().chain(envelope.to()).any(|at| !at.user().is_ascii());
        let parameters = if international { vec![MailParameter::SmtpUtfEight] } else { Vec::new() };
        let mail = || Mail::new(envelope.from().cloned(), parameters.clone());
        // The server may have closed it, or counts messages a connection. Nothing is mailed yet, so a new one may try.
        while let Some(mut kept) = self.unpark() {
            if within(by, Stage::Sender, kept.command(mail())).await.is_ok() {
                return Ok(kept);
            }
        }
        let mut new = within(by, Stage::Connection, self.connect()).await?;
        if international && !new.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(Failure::no_international_addresses());
        }
        within(by, Stage::Sender, new.command(mail())).await?;
        Ok(new)
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Error> {
        let us = ClientId::default();
        let at = (self.host.as_str(), self.port);
        let from_the_start = self.tls.clone().filter(|_| self.security == Security::Tls);
        let mut connection = AsyncSmtpConnection::connect_tokio1(at, None, &us, from_the_start, None).await?;
        if let (Security::StartTls, Some(tls)) = (self.security, &self.tls) {
            connection.starttls(tls.clone(), &us).await?;
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    fn unpark(&self) -> Option<AsyncSmtpConnection> {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        parked.retain(|(_, since)| since.elapsed() < IDLE);
        parked.pop().map(|(connection, _)| connection)
    }

    fn park(&self, connection: AsyncSmtpConnection) {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        if parked.len() < self.most_parked {
            parked.push((connection, Instant::now()));
        }
    }
}

#[async_trait]
impl Esp for Smtp {
    fn name(&self) -> &'static str {
        "smtp"
    }

    async fn send(&self, email: &Email) -> Outcome {
        let message = match message(email) {
            Ok(message) => message,
            Err(reason) => return Outcome::Refused { reason },
        };
        match self.transact(message.envelope(), &message.formatted()).await {
            Ok(()) => Outcome::Accepted { message_id: email.message_id.trim_matches(['<', '>']).into() },
            Err(failure) => failure.outcome(email),
        }
    }
}
