//! `dripline rejected`: what could not be processed.
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use dripline_nats::{Connections, RejectedList, RejectedMessage};
use serde_json::{Value, json};

use crate::cli::{Output, print, print_error};
use crate::config::Config;
use crate::service::connect;

#[derive(Debug, Subcommand)]
pub(crate) enum RejectedCommand {
    /// Show what was rejected, the oldest first.
    Ls {
        /// Only what has this code.
        #[arg(long)]
        code: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Write one message to standard output, byte for byte; why it was rejected goes to standard error.
    Show {
        /// Its number, as `ls` shows it.
        sequence: u64,
    },
    /// Put leads back into the queue as they came, once the cause is mended.
    Replay(Which),
    /// Remove messages for good.
    Drop(Which),
}

/// Which messages.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// Their numbers, as `ls` shows them.
    sequences: Vec<u64>,
    /// All that have this code.
    #[arg(long)]
    code: Option<String>,
    /// All there are.
    #[arg(long)]
    all: bool,
}

impl Which {
    async fn of(self, list: &RejectedList) -> anyhow::Result<Vec<u64>> {
        if !self.all && self.code.is_none() {
            return Ok(self.sequences);
        }
        Ok(list.list(self.code.as_deref()).await?.iter().map(|message| message.sequence).collect())
    }
}

pub(crate) async fn run(command: RejectedCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let connections = connect(config, "dripline rejected").await?;
    let list = RejectedList::open(Connections::jetstream(&connections.general)).await?;
    match command {
        RejectedCommand::Ls { code, output } => {
            let found = list.list(code.as_deref()).await?;
            print(&if output.json {
                let rows: Vec<_> = found.iter().map(row).collect();
                format!("{}\n", serde_json::to_string_pretty(&rows)?)
            } else {
                table(&found)
            })?;
        }
        RejectedCommand::Show { sequence } => {
            let (message, payload) = list.get(sequence).await?;
            let RejectedMessage { code, reason, subject, .. } = message;
            print_error(&format!("{code}: {reason} (it came on `{subject}`)"));
            std::io::stdout().write_all(&payload).context("standard output is closed")?;
        }
        RejectedCommand::Replay(which) => {
            let (mut done, mut left) = (0, 0);
            for sequence in which.of(&list).await? {
                match list.replay(sequence).await {
                    Ok(()) => done += 1,
                    Err(error) => {
                        left += 1;
                        print_error(&format!("{:#}", anyhow::Error::from(error)));
                    }
                }
            }
            print(&format!("{done} replayed, {left} left\n"))?;
            return Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        RejectedCommand::Drop(which) => {
            let sequences = which.of(&list).await?;
            for sequence in &sequences {
                list.drop(*sequence).await?;
            }
            print(&format!("{} dropped\n", sequences.len()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(message: &RejectedMessage) -> Value {
    let RejectedMessage { sequence, timestamp, code, reason, subject, content_type, bytes } = message;
    json!({
        "sequence": sequence, "timestamp": timestamp, "code": code, "reason": reason, "subject": subject,
        "contentType": content_type, "bytes": bytes,
    })
}

fn table(found: &[RejectedMessage]) -> String {
    let mut text = String::new();
    for RejectedMessage { sequence, code, reason, subject, .. } in found {
        text.push_str(&format!("{sequence:>8}  {code:<20}  {subject:<20}  {reason}\n"));
    }
    text
}
