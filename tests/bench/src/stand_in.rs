//! The provider's stand-in, in a process of its own.
use std::process::Stdio;

use anyhow::{Context, Result};
use dripline_stand_in::{Accepted, Summary};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::system::beside_us;

pub struct StandIn {
    pub url: String,
    http: reqwest::Client,
    _child: Child,
}

impl StandIn {
    pub async fn start() -> Result<Self> {
        let mut child = Command::new(beside_us("dripline-stand-in")?)
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("no output of the stand-in")?;
        let line = BufReader::new(stdout).lines().next_line().await?.context("the stand-in ended")?;
        let url = line.strip_prefix("listening on ").context("the stand-in says something else")?.to_owned();
        Ok(Self { url, http: reqwest::Client::new(), _child: child })
    }

    pub async fn summary(&self) -> Result<Summary> {
        Ok(self.http.get(format!("{}/_/summary", self.url)).send().await?.json().await?)
    }

    /// Forgets what it has taken so far.
    pub async fn reset(&self) -> Result<()> {
        self.http.post(format!("{}/_/reset", self.url)).send().await?.error_for_status()?;
        Ok(())
    }

    pub async fn accepted(&self) -> Result<Vec<Accepted>> {
        let text = self.http.get(format!("{}/_/accepted", self.url)).send().await?.text().await?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}
