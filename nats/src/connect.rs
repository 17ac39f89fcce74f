use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::watch;

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
    pub commits: Client,
    /// The timers.
    pub timers: Client,
    /// Counts how often the general connection was made.
    pub connected: watch::Receiver<u64>,
}

/// The server cannot be reached, or does not let us in.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No connection.
    #[error("cannot connect to NATS at {url}: {source}")]
    Connect {
        /// As configured.
        url: String,
        /// Why.
        source: async_nats::ConnectError,
    },
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
    let general = one(url, login, name, Some(count)).await?;
    let commits = one(url, login, &format!("{name}: commits"), None).await?;
    let timers = one(url, login, &format!("{name}: timers"), None).await?;
    Ok(Connections { general, commits, timers, connected })
}

async fn one(url: &str, login: &Login, name: &str, count: Option<watch::Sender<u64>>) -> Result<Client, ConnectError> {
    let options = match login {
        Login::None => ConnectOptions::new(),
        Login::Password(user, password) => ConnectOptions::with_user_and_password(user.clone(), password.clone()),
        Login::NkeySeed(seed) => ConnectOptions::with_nkey(seed.clone()),
        Login::CredentialsFile(file) => ConnectOptions::with_credentials_file(file)
            .await
            .map_err(|source| ConnectError::Credentials { file: file.clone(), source })?,
    };
    let connection = name.to_owned();
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
                Event::Disconnected => tracing::warn!(connection, "the connection to NATS is lost; connecting again"),
                Event::Closed | Event::Draining => tracing::debug!(connection, %event, "NATS"),
                event => tracing::warn!(connection, %event, "NATS"),
            }
            std::future::ready(())
        })
        .connect(url)
        .await
        .map_err(|source| ConnectError::Connect { url: url.to_owned(), source })
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
        for client in [&self.general, &self.commits, &self.timers] {
            if let Err(error) = client.flush().await {
                tracing::warn!(%error, "could not send what was left; it will be delivered again");
            }
        }
    }
}
