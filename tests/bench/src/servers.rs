//! What Dripline's data is on.
use anyhow::{Result, bail};
use dripline_test_support::NatsServer;

/// One nats-server, or a cluster. A scenario knows no more of it than where clients connect, and which processes to
/// look at.
pub enum Servers {
    One(NatsServer),
}

impl Servers {
    pub async fn start(count: usize) -> Result<Self> {
        match count {
            1 => Ok(Self::One(NatsServer::start().await?)),
            // The variables already ask for so many replicas: all that is missing is a variant that starts them.
            _ => bail!("--servers {count}: only a single server can be started so far"),
        }
    }

    /// For clients: one server, or several separated by commas.
    pub fn url(&self) -> String {
        match self {
            Self::One(server) => server.url(),
        }
    }

    /// Their processes.
    pub fn pids(&self) -> Vec<u32> {
        match self {
            Self::One(server) => server.pid().into_iter().collect(),
        }
    }
}
