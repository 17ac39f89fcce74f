use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};

use crate::batch::{BatchError, BatchMessage, publish_batch};

/// Publish acks that may be awaited at a time; the client's default of 5,000 stalls everything behind it.
const ACKS_IN_FLIGHT: usize = 200_000;
/// Commands the client may hold before a publisher has to wait.
const CLIENT_CAPACITY: usize = 16_384;
/// Messages a subscription may hold: more than any pull asks for, so that none is dropped.
const SUBSCRIPTION_CAPACITY: usize = 131_072;

/// Who we are to the server.
#[derive(Debug, Clone, Default)]
pub enum Login {
    /// The server asks nobody.
    #[default]
    None,
    /// User and password.
    Password(String, String),
    /// The seed of an nkey.
    NkeySeed(String),
    /// A `.creds` file.
    CredentialsFile(PathBuf),
}

/// The process's connections. A connection has one I/O task, so the busiest users have one each.
#[derive(Clone)]
pub struct Connections {
    /// Consumers, acks, direct gets, and everything rare.
    pub general: Client,
    /// The committer's batches.
    pub commits: CommitConnection,
    /// The timers.
    pub timers: Client,
    /// Counts how often the general connection was made, and how often what is on the server was mended: what was read
    /// before must be read again.
    pub connected: watch::Receiver<u64>,
    pub(crate) count: watch::Sender<u64>,
    /// Counts how often the general connection was lost.
    pub(crate) lost: watch::Receiver<u64>,
}

/// The committer's connection, on a thread of its own. Every email waits for a batch twice, so neither the batch nor the
/// connection's I/O may queue behind the thousands of leads that the runtime has ready at a time (measured with 4,096
/// leads in flight on two cores: a batch of 990 puts took 90 ms there).
#[derive(Clone)]
pub struct CommitConnection {
    client: Client,
    lost: watch::Receiver<u64>,
    runtime: Handle,
    /// The thread ends when the last clone is dropped.
    _alive: Arc<oneshot::Sender<()>>,
}

impl CommitConnection {
    async fn open(url: &str, login: &Login, name: &str) -> Result<Self, ConnectError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(ConnectError::Thread)?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        let (url, login, name) = (url.to_owned(), login.clone(), name.to_owned());
        let connecting = handle.spawn(async move { one(&url, &login, &name, None).await });
        thread::Builder::new()
            .name("commits".to_owned())
            .spawn(move || {
                // Dropped means that nobody commits any more.
                let _ = runtime.block_on(ended);
            })
            .map_err(ConnectError::Thread)?;
        let (client, lost) = connecting.await.map_err(|error| ConnectError::Thread(io::Error::other(error)))??;
        Ok(Self { client, lost, runtime: handle, _alive: Arc::new(alive) })
    }

    /// Stores all messages or none, on this connection's own thread.
    pub(crate) async fn publish(&self, messages: Vec<BatchMessage>) -> Result<u64, BatchError> {
        let (client, lost) = (self.client.clone(), self.lost.clone());
        let publishing = self.runtime.spawn(async move { publish_batch(&client, lost, messages).await });
        publishing.await.unwrap_or_else(|error| Err(BatchError::Unanswered(error.into())))
    }
}

/// The server cannot be reached, or does not let us in.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No connection.
    #[error("cannot connect to NATS at {url}: {source}; is it running, and is nats.url right?")]
    Connect {
        /// As configured, without user and password.
        url: String,
        /// Why.
        source: async_nats::ConnectError,
    },
    /// Not the URL of a server, or not a list of them.
    #[error("nats.url: {url} is not a list of servers: {source}; write nats://host:4222, several separated by commas")]
    Url {
        /// As configured, without user and password.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// The thread of the committer's connection could not be started.
    #[error("cannot start the committer's thread")]
    Thread(#[source] io::Error),
    /// The credentials file cannot be read.
    #[error("cannot read the credentials file {}", file.display())]
    Credentials {
        /// As configured.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Connects, three times. Once connected, it connects again by itself, without end.
///
/// # Errors
/// The first connection cannot be made: whoever starts the process should know.
pub async fn connect(url: &str, login: &Login, name: &str) -> Result<Connections, ConnectError> {
    let (count, connected) = watch::channel(0);
    let (general, lost) = one(url, login, name, Some(count.clone())).await?;
    let commits = CommitConnection::open(url, login, &format!("{name}: commits")).await?;
    let (timers, _) = one(url, login, &format!("{name}: timers"), None).await?;
    Ok(Connections { general, commits, timers, connected, count, lost })
}

/// The connection, and a counter of how often it was lost.
async fn one(
    url: &str,
    login: &Login,
    name: &str,
    count: Option<watch::Sender<u64>>,
) -> Result<(Client, watch::Receiver<u64>), ConnectError> {
    let (losses, lost) = watch::channel(0);
    let options = match login {
        Login::None => ConnectOptions::new(),
        Login::Password(user, password) => ConnectOptions::with_user_and_password(user.clone(), password.clone()),
        Login::NkeySeed(seed) => ConnectOptions::with_nkey(seed.clone()),
        Login::CredentialsFile(file) => ConnectOptions::with_credentials_file(file)
            .await
            .map_err(|source| ConnectError::Credentials { file: file.clone(), source })?,
    };
    let connection = name.to_owned();
    let servers: Vec<ServerAddr> = url
        .split(',')
        .map(|server| server.trim().parse())
        .collect::<Result<_, _>>()
        .map_err(|source| ConnectError::Url { url: without_login(url), source })?;
    options
        .name(name)
        .client_capacity(CLIENT_CAPACITY)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .connection_timeout(Duration::from_secs(5))
        .request_timeout(Some(Duration::from_secs(10)))
        .reconnect_delay_callback(|attempts| Duration::from_millis(100).saturating_mul(1 << attempts.min(5)))
        .event_callback(move |event| {
            match &event {
                Event::Connected => {
                    tracing::debug!(connection, "connected to NATS");
                    if let Some(count) = &count {
                        count.send_modify(|count| *count += 1);
                    }
                }
                Event::Disconnected => {
                    losses.send_modify(|count| *count += 1);
                    tracing::warn!(connection, "the connection to NATS is lost; connecting again");
                }
                Event::Closed | Event::Draining => tracing::debug!(connection, %event, "NATS"),
                event => tracing::warn!(connection, %event, "NATS"),
            }
            std::future::ready(())
        })
        .connect(servers)
        .await
        .map_err(|source| ConnectError::Connect { url: without_login(url), source })
        .map(|client| (client, lost))
}

impl Connections {
    /// JetStream over one of the connections.
    pub fn jetstream(client: &Client) -> jetstream::Context {
        jetstream::ContextBuilder::new()
            .timeout(Duration::from_secs(10))
            .ack_timeout(Duration::from_secs(10))
            .max_ack_inflight(ACKS_IN_FLIGHT)
            .build(client.clone())
    }

    /// Sends what is still in the clients' buffers: the last acks.
    pub async fn flush(&self) {
        for client in [&self.general, &self.commits.client, &self.timers] {
            if let Err(error) = client.flush().await {
                tracing::warn!(%error, "could not send what was left; it will be delivered again");
            }
        }
    }
}

/// The servers of a URL list, without what stands before an `@`: an error must not show a password.
fn without_login(urls: &str) -> String {
    let servers = urls.split(',').map(|url| match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, server))) => format!("{scheme}://{server}"),
        (None, Some((_, server))) => server.to_owned(),
        (_, None) => url.to_owned(),
    });
    servers.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_servers_and_no_password() {
        let shown = without_login("nats://me:secret@a:4222,b:4222,tls://token@c:1");
        assert_eq!(shown, "nats://a:4222,b:4222,tls://c:1");
    }
}
