//! `dripline lead`: one lead, and what an operator does to it.
use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use dripline_actors::ports::LeadStore as _;
use dripline_domain::{
    Address, Enrolment, Entry, Hold, Lead, LeadKey, LeadStatus, Sequence, SmolStr, State, StopReason,
};
use dripline_nats::{Connections, JetStreamLeadStore, read_sequence, topology};
use serde_json::{Map, Value, json};

use crate::cli::{NotFound, Output, UsageError, print, print_error, readable};
use crate::config::Config;
use crate::control::{Control, Why};
use crate::export::parse_status;
use crate::service::connect;

/// The most that is asked for at a time.
const PAGE: usize = 500;

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
    /// Print a lead's document, as an engine has it.
    Get {
        /// Whose.
        #[arg(value_parser = Address::parse)]
        address: Address,
    },
    /// Show what the journal has of a lead, the newest first; also of one that was erased.
    History {
        /// Whose.
        #[arg(value_parser = Address::parse)]
        address: Address,
        /// So many entries at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        output: Output,
    },
    /// Show leads, in the order in which they last changed.
    List(ListArguments),
    /// Send nothing of a lead until it is resumed. What arrives still enters its sequence, and waits.
    Pause(Whose),
    /// Let a lead go on where it was, and try again what was parked.
    Resume(Whose),
    /// Put a lead at another step, or on another version of its sequence.
    Move {
        #[command(flatten)]
        whose: Whose,
        /// In which sequence.
        #[arg(long, value_name = "NAME")]
        sequence: String,
        /// To this step, by its id.
        #[arg(long, value_name = "ID")]
        step: String,
        /// On this version; without it, on the one it is on.
        #[arg(long, value_name = "NUMBER")]
        to_version: Option<u32>,
        /// When the step is due (RFC 3339); without it, as long from now as the step says.
        #[arg(long, value_name = "TIME")]
        at: Option<jiff::Timestamp>,
    },
    /// Begin a sequence anew for a lead, at its current version.
    Restart {
        #[command(flatten)]
        whose: Whose,
        /// Which sequence.
        #[arg(long, value_name = "NAME")]
        sequence: String,
    },
    /// End what is under way of a lead.
    Stop {
        #[command(flatten)]
        whose: Whose,
        /// In this sequence alone.
        #[arg(long, value_name = "NAME")]
        sequence: Option<String>,
    },
    /// Enter a lead into a sequence, as if it had arrived.
    Enroll {
        #[command(flatten)]
        whose: Whose,
        /// Which sequence; without it, the default one.
        #[arg(long, value_name = "NAME")]
        sequence: Option<String>,
        /// What is known of the person, such as `firstName=Jane`. May be repeated.
        #[arg(long = "field", value_name = "NAME=VALUE", value_parser = parse_field)]
        fields: Vec<(String, String)>,
    },
    /// Say what became of an attempt that is in doubt.
    Resolve {
        #[command(flatten)]
        whose: Whose,
        /// In which sequence.
        #[arg(long, value_name = "NAME")]
        sequence: String,
        #[command(flatten)]
        outcome: DoubtOutcome,
    },
    /// Erase a lead: its document, its timer, its address. That it must not be mailed stays known, without the address.
    Delete {
        #[command(flatten)]
        whose: Whose,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// Whose lead is changed, by whom, and why.
#[derive(Debug, Args)]
pub(crate) struct Whose {
    /// Whose.
    #[arg(value_parser = Address::parse)]
    address: Address,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct DoubtOutcome {
    /// The email is out: the next step follows.
    #[arg(long)]
    sent: bool,
    /// It is not: it is sent again, now.
    #[arg(long)]
    not_sent: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only leads of this status.
    #[arg(long, value_parser = parse_status)]
    status: Option<LeadStatus>,
    /// Only leads that are or were in this sequence.
    #[arg(long, value_name = "NAME")]
    sequence: Option<String>,
    /// Only leads that are at this step of it.
    #[arg(long, value_name = "ID", requires = "sequence")]
    step: Option<String>,
    /// Only leads whose next action is past its time.
    #[arg(long)]
    overdue: bool,
    /// So many at most.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    output: Output,
}

fn parse_field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write a name, `=`, and a value")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) async fn run(command: LeadCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let service = || Control::connect(config);
    let (verb, whose, fields) = match command {
        LeadCommand::Show { address, output } => return show(&address, &output, config).await,
        LeadCommand::Get { address } => {
            let lead = service().await?.ask("lead.get", &json!({"address": address})).await?;
            print(&format!("{lead:#}\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        LeadCommand::History { address, limit, output } => {
            return history(&service().await?, &address, limit, &output).await;
        }
        LeadCommand::List(arguments) => return list(&service().await?, &arguments).await,
        LeadCommand::Pause(whose) => ("lead.pause", whose, json!({})),
        LeadCommand::Resume(whose) => ("lead.resume", whose, json!({})),
        LeadCommand::Move { whose, sequence, step, to_version, at } => {
            let at = at.map(jiff::Timestamp::as_millisecond);
            ("lead.move", whose, json!({"sequence": sequence, "step": step, "version": to_version, "at": at}))
        }
        LeadCommand::Restart { whose, sequence } => ("lead.restart", whose, json!({"sequence": sequence})),
        LeadCommand::Stop { whose, sequence } => ("lead.stop", whose, json!({"sequence": sequence})),
        LeadCommand::Enroll { whose, sequence, fields } => {
            let lead: Map<String, Value> = fields.into_iter().map(|(name, value)| (name, json!(value))).collect();
            ("lead.enroll", whose, json!({"sequence": sequence, "lead": lead}))
        }
        LeadCommand::Resolve { whose, sequence, outcome } => {
            ("lead.resolve", whose, json!({"sequence": sequence, "sent": outcome.sent}))
        }
        LeadCommand::Delete { whose, yes } => {
            if !yes {
                confirm(&whose.address)?;
            }
            ("lead.delete", whose, json!({}))
        }
    };
    let mut request = fields;
    request["address"] = json!(whose.address);
    let control = service().await?;
    let answer = control.change_once(verb, request, &whose.why).await?;
    if whose.output.json {
        print(&format!("{answer:#}\n"))?;
    } else if let Some(erased) = answer["erased"].as_bool() {
        let what = if erased { "is erased" } else { "was erased already, or never there" };
        print(&format!("{} {what}\n", whose.address))?;
    } else {
        let lead: Lead = serde_json::from_value(answer).context("the document cannot be read")?;
        print(&standing(&lead, &control.connections).await?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is erased does not come back.
fn confirm(address: &Address) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(UsageError("nobody can be asked here: add --yes".to_owned()).into());
    }
    print_error(&format!("all that is known of {address} is erased for good; type the address to go on"));
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed).context("standard input is closed")?;
    if typed.trim() != address.as_str() {
        bail!("nothing was erased");
    }
    Ok(())
}

async fn show(address: &Address, output: &Output, config: &Config) -> anyhow::Result<ExitCode> {
    let connections = connect(config, "dripline lead").await?;
    let context = Connections::jetstream(&connections.general);
    let stream = context.get_stream_no_info(topology::LEADS_BUCKET).await.context("the bucket `leads`")?;
    let store = JetStreamLeadStore::new(stream, connections.commits.clone());
    let (lead, _) = store.load(&LeadKey::of(address)).await?;
    let Some(lead) = lead else { return Err(NotFound(format!("there is no lead {address}")).into()) };
    if output.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&lead)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = standing(&lead, &connections).await?;
    text.push_str("\nHistory (the newest entries; all of it is in JOURNAL)\n");
    for entry in &lead.history {
        text.push_str(&line(entry));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Where a lead is, and what comes next.
async fn standing(lead: &Lead, connections: &Connections) -> anyhow::Result<String> {
    let context = Connections::jetstream(&connections.general);
    let sequences = context.get_stream_no_info(topology::SEQUENCES_BUCKET).await.context("the bucket `sequences`")?;
    let mut text = head(lead);
    for enrolment in &lead.enrolments {
        let sequence = read_sequence(&sequences, &enrolment.sequence.name, enrolment.sequence.version).await?;
        text.push_str(&state(enrolment, sequence.as_ref()));
    }
    Ok(text)
}

async fn history(control: &Control, address: &Address, limit: usize, output: &Output) -> anyhow::Result<ExitCode> {
    let mut entries = Vec::new();
    let mut before = Value::Null;
    while entries.len() < limit {
        let most = (limit - entries.len()).min(PAGE);
        let request = json!({"address": address, "before": before, "limit": most});
        let mut page = control.ask("lead.history", &request).await?;
        entries.extend(page["entries"].as_array().cloned().unwrap_or_default());
        before = page["before"].take();
        if before.is_null() {
            break;
        }
    }
    entries.truncate(limit);
    if entries.is_empty() {
        return Err(NotFound(format!("the journal has nothing of {address}")).into());
    }
    if output.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&entries)?))?;
    } else {
        let mut text = String::new();
        for entry in entries {
            text.push_str(&crate::journal::line(&serde_json::from_value(entry)?));
        }
        print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(control: &Control, arguments: &ListArguments) -> anyhow::Result<ExitCode> {
    let ListArguments { status, sequence, step, overdue, limit, output } = arguments;
    let mut leads: Vec<Value> = Vec::new();
    let mut after = Value::Null;
    while leads.len() < *limit {
        let mut page = control
            .ask(
                "lead.list",
                &json!({
                    "status": status, "sequence": sequence, "step": step, "overdue": overdue, "after": after,
                    "limit": (limit - leads.len()).min(PAGE),
                }),
            )
            .await?;
        leads.extend(page["leads"].as_array().cloned().unwrap_or_default());
        after = page["after"].take();
        if after.is_null() {
            break;
        }
    }
    if output.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&leads)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let width = leads.iter().map(|lead| text(&lead["email"]).len()).max().unwrap_or_default();
    let mut table = String::new();
    for lead in &leads {
        let next = lead["nextActionTimestamp"].as_i64().map(dripline_domain::Timestamp::from_millis);
        let next = next.map_or_else(|| "-".to_owned(), readable);
        let enrolments = lead["enrollments"].as_array().map(Vec::as_slice).unwrap_or_default();
        let at: Vec<_> = enrolments
            .iter()
            .map(|it| {
                format!("{} {}/{} {}", text(&it["sequence"]), it["version"], text(&it["step"]), text(&it["status"]))
            })
            .collect();
        let (email, status) = (text(&lead["email"]), text(&lead["status"]));
        table.push_str(&format!("{email:<width$}  {status:<12}  {next:<20}  {}\n", at.join(", ")));
    }
    print(&table)?;
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
    let place: Vec<_> = [sequence, step].into_iter().flatten().map(SmolStr::as_str).collect();
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
