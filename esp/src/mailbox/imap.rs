//! Any mailbox, by IMAP (RFC 3501).
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use async_imap::types::Uid;
use async_imap::{Client, Session};
use async_trait::async_trait;
use dripline_actors::ports::{Mailbox, MailboxError};
use dripline_domain::{Address, Arrived, SmolStr, Timestamp};
use futures_util::TryStreamExt;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{MOST_EMAILS, STEP_HEADER, TIMEOUT};
use crate::http::{chain, install_tls};
use crate::smtp::Security;
use crate::{BuildError, Secret};

/// `[canary.imap]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The server's name, as its certificate has it.
    pub host: String,
    /// 993 for `tls`, 143 for `starttls` and `none`, unless set.
    pub port: Option<u16>,
    /// How the connection is protected.
    pub security: Security,
    /// Who logs in.
    pub username: String,
    /// Goes with `username`.
    pub password: Secret,
    /// The folder that the emails are in.
    pub folder: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: None,
            security: Security::Tls,
            username: String::new(),
            password: Secret::default(),
            folder: "INBOX".to_owned(),
        }
    }
}

/// A mailbox by IMAP, a connection a question.
pub struct Imap {
    config: Config,
    name: ServerName<'static>,
    tls: TlsConnector,
}

trait Connection: AsyncRead + AsyncWrite + Unpin + Send + Debug {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Debug> Connection for T {}

type Connected = Session<Box<dyn Connection>>;

impl Imap {
    /// Of this mailbox.
    ///
    /// # Errors
    /// A host that no certificate can name.
    pub fn new(config: &Config) -> Result<Self, BuildError> {
        install_tls();
        let name = ServerName::try_from(config.host.clone())
            .map_err(|error| BuildError::Invalid { setting: "canary.imap.host", reason: error.to_string() })?;
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Self { config: config.clone(), name, tls: TlsConnector::from(Arc::new(tls)) })
    }

    /// The folder, open.
    async fn open(&self) -> Result<Connected, MailboxError> {
        let mut session = self.connect().await?;
        session.select(&self.config.folder).await.map_err(failed)?;
        Ok(session)
    }

    async fn connect(&self) -> Result<Connected, MailboxError> {
        let Config { host, port, security, username, password, .. } = &self.config;
        let port = port.unwrap_or(match security {
            Security::Tls => 993,
            Security::StartTls | Security::None => 143,
        });
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
        let stream: Box<dyn Connection> = match security {
            Security::None => Box::new(stream),
            Security::Tls => Box::new(self.tls.connect(self.name.clone(), stream).await.map_err(failed)?),
            Security::StartTls => {
                let mut client = greeted(stream).await?;
                client.run_command_and_check_ok("STARTTLS", None).await.map_err(failed)?;
                Box::new(self.tls.connect(self.name.clone(), client.into_inner()).await.map_err(failed)?)
            }
        };
        let client = match security {
            // There is no second greeting.
            Security::StartTls => Client::new(stream),
            Security::Tls | Security::None => greeted(stream).await?,
        };
        client.login(username, password.expose()).await.map_err(|(error, _)| failed(error))
    }
}

async fn greeted<T: Connection>(stream: T) -> Result<Client<T>, MailboxError> {
    let mut client = Client::new(stream);
    match client.read_response().await.map_err(failed)? {
        Some(_) => Ok(client),
        None => Err(MailboxError("IMAP: the server closed the connection".to_owned())),
    }
}

fn failed(error: impl std::error::Error) -> MailboxError {
    MailboxError(format!("IMAP: {}", chain(&error)))
}

/// The emails to this address, in the order in which they came.
async fn find(session: &mut Connected, address: &Address) -> Result<Vec<Uid>, async_imap::error::Error> {
    let quoted = address.as_str().replace('\\', "\\\\").replace('"', "\\\"");
    let found: BTreeSet<Uid> = session.uid_search(format!("TO \"{quoted}\"")).await?.into_iter().collect();
    Ok(found.into_iter().take(MOST_EMAILS).collect())
}

fn set(uids: &[Uid]) -> String {
    uids.iter().map(Uid::to_string).collect::<Vec<_>>().join(",")
}

/// The step that a header block names.
fn step(headers: &[u8]) -> Option<SmolStr> {
    let headers = String::from_utf8_lossy(headers);
    headers.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(STEP_HEADER).then(|| SmolStr::new(value.trim()))
    })
}

async fn look(session: &mut Connected, address: &Address) -> Result<Vec<Arrived>, async_imap::error::Error> {
    let uids = find(session, address).await?;
    if uids.is_empty() {
        return Ok(Vec::new());
    }
    let query = format!("(UID INTERNALDATE BODY.PEEK[HEADER.FIELDS ({STEP_HEADER})])");
    let mut fetched: Vec<_> = session.uid_fetch(set(&uids), query).await?.try_collect().await?;
    fetched.sort_by_key(|email| email.uid);
    let arrived = fetched.iter().map(|email| Arrived {
        step: email.header().and_then(step),
        at: email.internal_date().map(|date| Timestamp::from_millis(date.timestamp_millis())),
    });
    Ok(arrived.collect())
}

/// Without UIDPLUS (RFC 4315) they are only marked as deleted: to remove them would remove what others have marked.
async fn clear(session: &mut Connected, address: &Address) -> Result<(), async_imap::error::Error> {
    let uids = find(session, address).await?;
    if uids.is_empty() {
        return Ok(());
    }
    session.uid_store(set(&uids), "+FLAGS.SILENT (\\Deleted)").await?.try_collect::<Vec<_>>().await?;
    if session.capabilities().await?.has_str("UIDPLUS") {
        session.uid_expunge(set(&uids)).await?.try_collect::<Vec<_>>().await?;
    }
    Ok(())
}

/// At most [`TIMEOUT`].
async fn in_time<T>(asked: impl Future<Output = Result<T, MailboxError>>) -> Result<T, MailboxError> {
    timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err(MailboxError("IMAP: no answer in time".to_owned())))
}

/// The answer is there, whatever the server makes of our leave.
async fn leave(mut session: Connected) {
    let _ = session.logout().await;
}

#[async_trait]
impl Mailbox for Imap {
    async fn arrived(&self, address: &Address) -> Result<Vec<Arrived>, MailboxError> {
        in_time(async {
            let mut session = self.open().await?;
            let arrived = look(&mut session, address).await.map_err(failed)?;
            leave(session).await;
            Ok(arrived)
        })
        .await
    }

    async fn remove(&self, address: &Address) -> Result<(), MailboxError> {
        in_time(async {
            let mut session = self.open().await?;
            clear(&mut session, address).await.map_err(failed)?;
            leave(session).await;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_read_from_whatever_headers_come() {
        assert_eq!(step(b"x-dripline-step: first\r\n\r\n").as_deref(), Some("first"));
        assert_eq!(step(b"Subject: no\r\nX-Dripline-Step:second\r\n").as_deref(), Some("second"));
        for none in [&b""[..], b"\r\n", b"no header", b"\xff: \xff"] {
            assert_eq!(step(none), None);
        }
    }
}
