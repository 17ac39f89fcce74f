//! `dripline sequence`: what is sent of a sequence, what is held back, and which version leads are on.
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use dripline_actors::ports::{Clock as _, Control, Controlled, Controls as _};
use dripline_domain::{RequestId, Sequence};
use dripline_nats::topology::{self, SEQUENCES_BUCKET};
use dripline_nats::{Connections, JetStreamControls, newest_sequences};
use serde_json::{Value, json};

use crate::cli::{Output, print, print_error, readable};
use crate::config::Config;
use crate::control::{self, Hold, Why};
use crate::service::{SystemClock, connect, stream, topology_options};

#[derive(Debug, Subcommand)]
pub(crate) enum SequenceControl {
    /// Show every sequence that was ever published: its newest version, its steps, whether it is paused.
    List(Output),
    /// Send nothing more of a sequence, until it is resumed. Leads still enter it, and wait.
    Pause(Hold),
    /// Send the steps of a paused sequence again. Its guards begin anew.
    Resume(Hold),
    /// Print one version of a sequence, with its templates, as JSON.
    Show {
        /// Which.
        name: String,
        /// Which version; without it, the one that new leads enter.
        number: Option<u32>,
    },
    /// Have an engine read its folder again, and all of them go on with what is new: without a restart.
    Reload {
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        output: Output,
    },
    /// Put every lead that is on one version of a sequence on another, at the step of the same id and at the same time.
    Migrate {
        /// Which.
        name: String,
        /// The version they are on.
        #[arg(long, value_name = "NUMBER")]
        from: u32,
        /// The version to go on with.
        #[arg(long, value_name = "NUMBER")]
        to: u32,
        /// Only count them.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        output: Output,
    },
}

pub(crate) async fn run(command: SequenceControl, config: &Config) -> anyhow::Result<ExitCode> {
    match command {
        SequenceControl::Show { name, number } => {
            let request = json!({"sequence": name, "version": number});
            let sequence = control::Control::connect(config).await?.ask("sequence.show", &request).await?;
            print(&format!("{sequence:#}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        SequenceControl::Reload { why, output } => reload(&why, &output, config).await,
        SequenceControl::Migrate { name, from, to, dry_run, why, output } => {
            migrate(&json!({"sequence": name, "from": from, "to": to, "dryRun": dry_run}), &why, &output, config).await
        }
        SequenceControl::List(output) => list(&output, config).await,
        SequenceControl::Pause(which) => hold(&which, true, config).await,
        SequenceControl::Resume(which) => hold(&which, false, config).await,
    }
}

async fn reload(why: &Why, output: &Output, config: &Config) -> anyhow::Result<ExitCode> {
    let answer = control::Control::connect(config).await?.change("sequence.reload", json!({}), why).await?;
    let reloaded = answer["reloaded"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text = String::new();
    for row in reloaded {
        let name = row["name"].as_str().unwrap_or_default();
        text.push_str(&format!("new leads enter {name} version {}\n", row["version"]));
    }
    if output.json {
        text = format!("{answer:#}\n");
    } else if reloaded.is_empty() {
        text.push_str("nothing is new in the engine's folder\n");
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Page by page; what could not be moved is named, and makes the exit code 1.
async fn migrate(request: &Value, why: &Why, output: &Output, config: &Config) -> anyhow::Result<ExitCode> {
    let service = control::Control::connect(config).await?;
    let (mut found, mut moved, mut refused) = (0, 0, Vec::new());
    let mut request = request.clone();
    request["requestId"] = json!(RequestId::random(rand::random()));
    let bar = indicatif::ProgressBar::new_spinner();
    loop {
        let mut page = service.change("sequence.migrate", request.clone(), why).await?;
        found += page["found"].as_u64().unwrap_or_default();
        moved += page["moved"].as_u64().unwrap_or_default();
        refused.extend(page["refused"].as_array().cloned().unwrap_or_default());
        bar.set_message(format!("{found} found, {moved} moved, {} refused", refused.len()));
        bar.tick();
        request["after"] = page["after"].take();
        if request["after"].is_null() {
            break;
        }
    }
    bar.finish_and_clear();
    if output.json {
        print(&format!("{:#}\n", json!({"found": found, "moved": moved, "refused": refused})))?;
    } else {
        for row in &refused {
            let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            print_error(&format!("{}: {}", text("leadId"), text("message")));
        }
        print(&format!("{found} found, {moved} moved, {} refused\n", refused.len()))?;
    }
    Ok(if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was published, and what is held back: read from the buckets, whether an engine runs or not.
async fn look(config: &Config) -> anyhow::Result<(JetStreamControls, Vec<Sequence>)> {
    let connections = connect(config, "dripline sequence").await?;
    let context = Connections::jetstream(&connections.general);
    topology::apply(&context, topology_options(config)).await?;
    let controls = JetStreamControls::watch(&connections).await.context("bucket controls")?;
    let sequences = newest_sequences(&stream(&context, SEQUENCES_BUCKET).await?).await?;
    Ok((controls, sequences))
}

async fn list(output: &Output, config: &Config) -> anyhow::Result<ExitCode> {
    let (controls, sequences) = look(config).await?;
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
    Ok(ExitCode::SUCCESS)
}

async fn hold(which: &Hold, paused: bool, config: &Config) -> anyhow::Result<ExitCode> {
    let Hold { name, why } = which;
    let (controls, sequences) = look(config).await?;
    // One that is paused may be resumed, whatever became of it.
    let is_known = sequences.iter().any(|it| it.name == *name) || controls.paused(Controlled::Sequence(name)).is_some();
    if !is_known {
        let known: Vec<_> = sequences.iter().map(|it| it.name.as_str()).collect();
        bail!("there is no sequence `{name}`; there are: {}", known.join(", "));
    }
    let (reason, by) = (why.reason.clone(), why.by.clone());
    let control = Control { paused, reason, by, timestamp: SystemClock.now() };
    let changed = controls.change(Controlled::Sequence(name), &control, None).await?;
    let goes_on = "goes on; each lead within half of the pause's length, at most 10 minutes";
    print(&which.told(paused, changed, goes_on)?)?;
    Ok(ExitCode::SUCCESS)
}
