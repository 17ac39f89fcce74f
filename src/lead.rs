//! `dripline lead`: what happened to one lead, and what comes next.
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use dripline_actors::ports::LeadStore as _;
use dripline_domain::{Address, Enrolment, Entry, Hold, Lead, LeadKey, Sequence, State, StopReason};
use dripline_nats::{Connections, JetStreamLeadStore, read_sequence, topology};

use crate::cli::{Output, print, readable};
use crate::config::Config;
use crate::service::connect;

#[derive(Debug, Subcommand)]
pub(crate) enum LeadCommand {
    /// Show a lead: where it is, what happened to it, what comes next and when. With --json its document.
    Show {
        /// Whom.
        #[arg(value_parser = Address::parse)]
        address: Address,
        #[command(flatten)]
        output: Output,
    },
}

pub(crate) async fn run(command: LeadCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let LeadCommand::Show { address, output } = command;
    let connections = connect(config, "dripline lead").await?;
    let context = Connections::jetstream(&connections.general);
    let stream = context.get_stream_no_info(topology::LEADS_BUCKET).await.context("the bucket `leads`")?;
    let store = JetStreamLeadStore::new(stream, connections.commits.clone());
    let (lead, _) = store.load(&LeadKey::of(&address)).await?;
    let Some(lead) = lead else { anyhow::bail!("there is no lead {address}") };
    if output.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&lead)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let sequences = context.get_stream_no_info(topology::SEQUENCES_BUCKET).await.context("the bucket `sequences`")?;
    let mut text = head(&lead);
    for enrolment in &lead.enrolments {
        let sequence = read_sequence(&sequences, &enrolment.sequence.name, enrolment.sequence.version).await?;
        text.push_str(&state(enrolment, sequence.as_ref()));
    }
    text.push_str("\nHistory (the newest entries; all of it is in JOURNAL)\n");
    for entry in &lead.history {
        text.push_str(&line(entry));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn head(lead: &Lead) -> String {
    let mut text = format!("{}  {}  {}\n", lead.address, lead.status().name(), lead.lead_id);
    let profile = &lead.profile;
    let told: Vec<_> =
        [&profile.first_name, &profile.last_name, &profile.phone].into_iter().flatten().map(String::as_str).collect();
    if !told.is_empty() {
        text.push_str(&format!("{}\n", told.join(" ")));
    }
    if let Some(suppressed) = &lead.suppressed {
        text.push_str(&format!("must not be mailed: {} ({})\n", suppressed.reason, suppressed.cause.name()));
    }
    if let Some(Hold { by, reason, timestamp }) = &lead.paused {
        text.push_str(&format!("paused by {by}, {}: {reason}\n", readable(*timestamp)));
    }
    text
}

/// Where one enrolment is, and what comes next in it.
fn state(enrolment: &Enrolment, sequence: Option<&Sequence>) -> String {
    let steps = sequence.map_or(&[][..], |sequence| &sequence.steps);
    let step = steps.get(enrolment.step).map_or("?", |step| step.id.as_str());
    let of = format!("step {} of {}", enrolment.step + 1, steps.len());
    let what = match &enrolment.state {
        State::Waiting { due, failures: 0, .. } => format!("next: {step} ({of}) at {}", readable(*due)),
        State::Waiting { due, failures, .. } => {
            format!("next: {step} ({of}) again at {}, after {failures} failures", readable(*due))
        }
        State::Sending { attempt, .. } => {
            format!("{step} ({of}) is being sent by {}, since {}", attempt.owner, readable(attempt.started_at))
        }
        State::InDoubt { attempt, reason, next, .. } => {
            let then = next.map_or_else(
                || "held until a webhook or an operator settles it".to_owned(),
                |next| format!("looked into at {}", readable(next)),
            );
            format!("{step} ({of}), attempt {}: nobody knows whether it was sent ({reason}); {then}", attempt.number)
        }
        State::Parked { reason, .. } => format!("cannot go on at {step} ({of}): {reason}"),
        State::Completed => "every step was sent".to_owned(),
        State::Stopped { reason: StopReason::Suppressed(suppressed), .. } => {
            format!("ended at {step} ({of}): {}", suppressed.reason)
        }
        State::Stopped { reason: StopReason::Restarted, .. } => format!("ended at {step} ({of}): began anew"),
        State::Stopped { reason: StopReason::Moved, .. } => {
            format!("ended at {step} ({of}): an operator moved it, and a later enrolment goes on")
        }
        State::Stopped { reason: StopReason::Operator(reason), .. } => {
            format!("ended at {step} ({of}) by an operator: {reason}")
        }
    };
    let (name, version, number) = (&enrolment.sequence.name, enrolment.sequence.version, enrolment.number);
    let mut text = format!("\n{name} version {version}, enrolment {number}: {}\n    {what}\n", enrolment.state.name());
    if !enrolment.state.is_terminal() {
        for later in steps.iter().skip(enrolment.step + 1) {
            let after = jiff::SignedDuration::try_from(later.after)
                .map_or_else(|_| format!("{:?}", later.after), |after| format!("{after:#}"));
            text.push_str(&format!("    then: {}, {after} after the one before\n", later.id));
        }
    }
    text
}

fn line(entry: &Entry) -> String {
    let Entry { timestamp, event, sequence, version: _, step, attempt, message_id, reason, until, provider, by } =
        entry;
    let event = serde_json::to_value(event).ok().and_then(|event| event.as_str().map(str::to_owned));
    let place: Vec<_> = [sequence, step].into_iter().flatten().map(String::as_str).collect();
    let mut text = format!("    {}  {:<14} {}", readable(*timestamp), event.unwrap_or_default(), place.join(" / "));
    if let Some(attempt) = attempt {
        text.push_str(&format!(", attempt {attempt}"));
    }
    if let Some(provider) = provider {
        text.push_str(&format!(", {provider}"));
    }
    if let Some(id) = message_id {
        text.push_str(&format!(", {id}"));
    }
    if let Some(by) = by {
        text.push_str(&format!(", by {by}"));
    }
    if let Some(reason) = reason {
        text.push_str(&format!(": {reason}"));
    }
    if let Some(until) = until {
        text.push_str(&format!(" (until {})", readable(*until)));
    }
    text.push('\n');
    text
}
