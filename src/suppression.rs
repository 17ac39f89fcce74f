//! `dripline suppression`: who must not be mailed.
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use dripline_actors::ports::Clock;
use dripline_domain::{Address, SuppressionCause, SuppressionMark};
use dripline_nats::{Listed, SuppressionChange};
use serde::Deserialize;

use crate::cli::{Output, print, print_error, readable};
use crate::config::Config;
use crate::service::{SystemClock, suppression_list};

/// Lines of an import that become one entry of the journal.
const CHUNK: usize = 500;

#[derive(Debug, Subcommand)]
pub(crate) enum SuppressionCommand {
    /// Never mail this address again, from now on.
    Add {
        /// Whom.
        #[arg(value_parser = Address::parse)]
        address: Address,
        #[command(flatten)]
        why: Why,
    },
    /// Lift a suppression, whatever its cause. What it ended in a lead stays ended; what arrives from now on begins.
    Remove {
        /// Whose.
        #[arg(value_parser = Address::parse)]
        address: Address,
        #[command(flatten)]
        why: Why,
    },
    /// Show every suppressed address, with cause, reason, source and time.
    List(Output),
    /// Suppress every address of a file: one a line, bare or as JSON, as `export` writes them. May be repeated.
    Import {
        /// The file; `-` for standard input.
        file: PathBuf,
        #[command(flatten)]
        why: Why,
    },
    /// Write every suppression to standard output, one JSON object a line.
    Export,
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Kept with the change. On import, for lines that have none.
    #[arg(long)]
    reason: String,
    /// Who makes the change; kept with it.
    #[arg(long, env = "USER", default_value = "operator")]
    by: String,
}

/// A line of an import.
#[derive(Deserialize)]
struct Line {
    address: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    cause: Option<SuppressionCause>,
}

impl Why {
    fn change(&self, address: Address) -> SuppressionChange {
        let (reason, source) = (self.reason.clone(), self.by.clone());
        SuppressionChange { address, cause: SuppressionCause::Manual, reason, source, timestamp: SystemClock.now() }
    }
}

pub(crate) async fn run(command: SuppressionCommand, config: &Config) -> anyhow::Result<ExitCode> {
    match command {
        SuppressionCommand::Add { address, why } => {
            let added = suppression_list(config).await?.add(&[why.change(address.clone())]).await?;
            let what = if added == 1 { "suppressed" } else { "was suppressed already; its first reason is kept" };
            print(&format!("{address} {what}\n"))?;
        }
        SuppressionCommand::Remove { address, why } => {
            if !suppression_list(config).await?.remove(&why.change(address.clone())).await? {
                anyhow::bail!("{address} is not suppressed");
            }
            print(&format!("{address} may be mailed again\n"))?;
        }
        SuppressionCommand::List(output) => {
            let found = suppression_list(config).await?.list().await?;
            print(&if output.json { format!("{}\n", serde_json::to_string_pretty(&found)?) } else { table(&found) })?;
        }
        SuppressionCommand::Import { file, why } => return import(&file, &why, config).await,
        SuppressionCommand::Export => {
            let mut text = String::new();
            for suppression in suppression_list(config).await?.list().await? {
                text.push_str(&serde_json::to_string(&suppression)?);
                text.push('\n');
            }
            print(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(address: &str) -> anyhow::Result<Address> {
    Address::parse(address).with_context(|| format!("`{address}` is no email address"))
}

/// What can be read is imported; what cannot is named, and makes the exit code 1.
async fn import(file: &Path, why: &Why, config: &Config) -> anyhow::Result<ExitCode> {
    let unreadable = || format!("cannot read {}", file.display());
    let reader: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::io::BufReader::new(std::fs::File::open(file).with_context(unreadable)?))
    };
    let list = suppression_list(config).await?;
    let (mut read, mut added, mut wrong) = (0, 0, 0);
    let mut chunk = Vec::with_capacity(CHUNK);
    for (number, line) in reader.lines().enumerate() {
        let line = line.with_context(unreadable)?;
        match change(line.trim(), why) {
            Ok(Some(change)) => {
                read += 1;
                chunk.push(change);
            }
            Ok(None) => {}
            Err(error) => {
                wrong += 1;
                print_error(&format!("{}:{}: {error:#}", file.display(), number + 1));
            }
        }
        if chunk.len() == CHUNK {
            added += list.add(&chunk).await?;
            chunk.clear();
        }
    }
    added += list.add(&chunk).await?;
    let known = read - added;
    print(&format!("{added} suppressed, {known} were already, {wrong} lines could not be read\n"))?;
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// None for an empty line.
fn change(line: &str, why: &Why) -> anyhow::Result<Option<SuppressionChange>> {
    if line.is_empty() {
        return Ok(None);
    }
    if !line.starts_with('{') {
        return Ok(Some(why.change(parse(line)?)));
    }
    let Line { address, reason, cause } = serde_json::from_str(line).context("not a line of an export")?;
    let change = why.change(parse(&address)?);
    let reason = reason.unwrap_or_else(|| why.reason.clone());
    Ok(Some(SuppressionChange { reason, cause: cause.unwrap_or(SuppressionCause::Manual), ..change }))
}

fn table(found: &[Listed]) -> String {
    let width = found.iter().map(|listed| listed.whom.to_string().len()).max().unwrap_or_default();
    let mut text = String::new();
    for Listed { whom, cause, mark: SuppressionMark { timestamp, source, reason } } in found {
        let (whom, cause, when) = (whom.to_string(), cause.name(), readable(*timestamp));
        text.push_str(&format!("{whom:<width$}  {when:<20}  {cause:<12}  {source:<12}  {reason}\n"));
    }
    text
}
