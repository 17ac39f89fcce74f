//! `dripline sequence list`, `pause`, `resume`: what is sent of a sequence, and what is held back.
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use dripline_actors::ports::{Clock as _, Control, Controlled, Controls as _};
use dripline_nats::topology::{self, SEQUENCES_BUCKET};
use dripline_nats::{Connections, JetStreamControls, newest_sequences};
use serde_json::json;

use crate::cli::{Output, print, readable};
use crate::config::Config;
use crate::service::{SystemClock, connect, stream, topology_options};

#[derive(Debug, Subcommand)]
pub(crate) enum SequenceControl {
    /// Show every sequence that was ever published: its newest version, its steps, whether it is paused.
    List(Output),
    /// Send nothing more of a sequence, until it is resumed. Leads still enter it, and wait.
    Pause {
        /// Which.
        name: String,
        #[command(flatten)]
        why: Why,
    },
    /// Send the steps of a paused sequence again. Its guards begin anew.
    Resume {
        /// Which.
        name: String,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Kept with the change, and in the journal.
    #[arg(long)]
    reason: String,
    /// Who makes the change; likewise.
    #[arg(long, env = "USER", default_value = "operator")]
    by: String,
}

pub(crate) async fn run(command: SequenceControl, config: &Config) -> anyhow::Result<ExitCode> {
    let connections = connect(config, "dripline sequence").await?;
    let context = Connections::jetstream(&connections.general);
    topology::apply(&context, topology_options(config)).await?;
    let controls = JetStreamControls::watch(&connections).await.context("bucket controls")?;
    let sequences = newest_sequences(&stream(&context, SEQUENCES_BUCKET).await?).await?;
    let (name, why, paused) = match command {
        SequenceControl::List(output) => {
            let rows = sequences.iter().map(|it| (it, controls.paused(Controlled::Sequence(&it.name))));
            let mut text = String::new();
            if output.json {
                let rows: Vec<_> = rows
                    .map(|(it, pause)| {
                        let steps: Vec<_> = it.steps.iter().map(|step| &step.id).collect();
                        json!({"name": it.name, "version": it.version, "steps": steps, "paused": pause})
                    })
                    .collect();
                text = format!("{}\n", serde_json::to_string_pretty(&rows)?);
            } else {
                for (it, pause) in rows {
                    let paused = pause.map_or_else(String::new, |Control { reason, by, timestamp, .. }| {
                        format!("  paused by {by}, {}: {reason}", readable(timestamp))
                    });
                    let (name, version, steps) = (&it.name, it.version, it.steps.len());
                    text.push_str(&format!("{name:<32}  version {version:<4}  {steps:>4} steps{paused}\n"));
                }
            }
            print(&text)?;
            return Ok(ExitCode::SUCCESS);
        }
        SequenceControl::Pause { name, why } => (name, why, true),
        SequenceControl::Resume { name, why } => (name, why, false),
    };
    // One that is paused may be resumed, whatever became of it.
    let is_known = sequences.iter().any(|it| it.name == name) || controls.paused(Controlled::Sequence(&name)).is_some();
    if !is_known {
        let known: Vec<_> = sequences.iter().map(|it| it.name.as_str()).collect();
        bail!("there is no sequence `{name}`; there are: {}", known.join(", "));
    }
    let control = Control { paused, reason: why.reason, by: why.by, timestamp: SystemClock.now() };
    let changed = controls.change(Controlled::Sequence(&name), &control).await?;
    print(&match (paused, changed) {
        (true, true) => format!("{name} is paused\n"),
        (true, false) => format!("{name} was paused already; its first reason is kept\n"),
        (false, true) => format!("{name} goes on; each lead within half of the pause's length, at most 10 minutes\n"),
        (false, false) => bail!("{name} is not paused"),
    })?;
    Ok(ExitCode::SUCCESS)
}
