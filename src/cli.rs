//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage, configuration or sequence, 3 not found.
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use dripline_domain::Timestamp;
use dripline_nats::topology::Action;

use crate::config::{Config, ConfigError, Loaded, check_sequences, check_unsubscribe, read_sequences};
use crate::export::{self, ExportCommand};
use crate::import::{self, ImportCommand};
use crate::journal::{self, JournalCommand};
use crate::lead::{self, LeadCommand};
use crate::outgoing::{self, OutgoingCommand};
use crate::provider::{self, ProviderCommand};
use crate::rejected::{self, RejectedCommand};
use crate::sequence::{self, SequenceControl};
use crate::service::{self, Parts};
use crate::stats::{self, StatsArguments};
use crate::suppression::{self, SuppressionCommand};
use crate::{control, dev, status, telemetry};

/// A durable drip-email engine: one supervised actor a lead, on NATS `JetStream`.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    /// The configuration file [default: dripline.toml, if there is one].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway and the engine in one process.
    Run,
    /// Run the gateway alone: takes leads in by HTTP.
    Gateway,
    /// Run an engine alone: sends the emails. Any number of them share the work.
    Engine,
    /// Try it out: an own nats-server, an example sequence, a sample lead, each email shown as it arrives.
    Dev,
    /// The streams, buckets and consumers on the NATS server.
    #[command(subcommand)]
    Topology(TopologyCommand),
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The sequences.
    #[command(subcommand)]
    Sequence(SequenceCommand),
    /// One lead.
    #[command(subcommand)]
    Lead(LeadCommand),
    /// The providers: which are stopped, which are held back.
    #[command(subcommand)]
    Provider(ProviderCommand),
    /// The outgoing webhooks: hold one back, let it go on.
    #[command(subcommand)]
    Outgoing(OutgoingCommand),
    /// How it stands: engines, queues, providers, and what is held back.
    Status(Output),
    /// The journal: every change of every lead.
    #[command(subcommand)]
    Journal(JournalCommand),
    /// How many emails were sent, delivered, opened, …, by sequence, version and step.
    Stats(StatsArguments),
    /// What could not be processed, and is kept.
    #[command(subcommand)]
    Rejected(RejectedCommand),
    /// Put the leads of a file into the queue: CSV or NDJSON, row by row, resumable.
    ///
    /// Exit codes: 0 every row is in the queue, 1 failed or stopped (the same command goes on from there), 2 wrong
    /// usage or a file that cannot be read as it is, 3 all done but some rows were rejected.
    Import(ImportCommand),
    /// Write every lead, as NDJSON documents or as CSV.
    Export(ExportCommand),
    /// The addresses that must not be mailed.
    #[command(subcommand)]
    Suppression(SuppressionCommand),
    /// Print the completions of a shell, to be sourced by it.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the manual page: `dripline man | man -l -`.
    Man,
}

#[derive(Debug, Subcommand)]
enum TopologyCommand {
    /// Make what is missing, mend what can be mended without loss, refuse the rest.
    Apply(Output),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every setting, its value (secrets masked) and where it comes from.
    Check(Output),
}

#[derive(Debug, Subcommand)]
enum SequenceCommand {
    /// Read every sequence and template as the engine would, and say what is wrong.
    Check(Output),
    #[command(flatten)]
    Control(SequenceControl),
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// For programs.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Wrong before anything was begun: the caller must change something.
const WRONG: u8 = 2;
/// What was asked for is not there.
const NOT_FOUND: u8 = 3;

/// What was asked for is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotFound(pub(crate) String);

/// A command that cannot be carried out as it stands.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(refused) = error.downcast_ref::<control::Refused>() {
        return match refused.status {
            400 => WRONG,
            404 => NOT_FOUND,
            _ => 1,
        };
    }
    let is_wrong = error.is::<ConfigError>()
        || error.is::<service::SequenceProblems>()
        || error.is::<import::UsageError>()
        || error.is::<UsageError>();
    match (is_wrong, error.is::<NotFound>()) {
        (true, _) => WRONG,
        (false, true) => NOT_FOUND,
        (false, false) => 1,
    }
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        match self.command.run(self.config.as_deref()) {
            Ok(code) => code,
            Err(error) => {
                print_error(&format!("{error:#}"));
                ExitCode::from(exit_code(&error))
            }
        }
    }
}

impl Command {
    fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let load = || Config::load(file);
        match self {
            Self::Run => serve(load()?, Parts { gateway: true, engine: true }),
            Self::Gateway => serve(load()?, Parts { gateway: true, engine: false }),
            Self::Engine => serve(load()?, Parts { gateway: false, engine: true }),
            Self::Dev => try_out(load()?),
            Self::Topology(TopologyCommand::Apply(output)) => topology_apply(load()?, &output),
            Self::Config(ConfigCommand::Check(output)) => {
                let loaded = load()?;
                // Where there are no sequences, a gateway alone may be meant; `sequence check` says what is wrong with them.
                check_unsubscribe(&loaded, &read_sequences(&loaded.config.sequences.dir).sequences)?;
                print(&loaded.report(output.json))?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Sequence(SequenceCommand::Check(output)) => sequence_check(&load()?, &output),
            Self::Sequence(SequenceCommand::Control(command)) => {
                operate(load()?, async |config| sequence::run(command, config).await)
            }
            Self::Stats(arguments) => operate(load()?, async |config| stats::run(&arguments, config).await),
            Self::Lead(command) => operate(load()?, async |config| lead::run(command, config).await),
            Self::Outgoing(command) => operate(load()?, async |config| outgoing::run(command, config).await),
            Self::Provider(command) => operate(load()?, async |config| provider::run(command, config).await),
            Self::Status(output) => operate(load()?, async |config| status::run(&output, config).await),
            Self::Journal(command) => operate(load()?, async |config| journal::run(command, config).await),
            Self::Rejected(command) => operate(load()?, async |config| rejected::run(command, config).await),
            Self::Import(command) => operate(load()?, async |config| import::run(command, config).await),
            Self::Export(command) => operate(load()?, async |config| export::run(command, config).await),
            Self::Suppression(command) => operate(load()?, async |config| suppression::run(command, config).await),
            // Neither needs a configuration, and a wrong one must not stand in the way.
            Self::Completions { shell } => completions(shell),
            Self::Man => manual(),
        }
    }
}

fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dripline", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

fn manual() -> anyhow::Result<ExitCode> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    print(&String::from_utf8(page)?)?;
    Ok(ExitCode::SUCCESS)
}

fn serve(loaded: Loaded, parts: Parts) -> anyhow::Result<ExitCode> {
    let _tracing = telemetry::init(&loaded.config.log, &loaded.config.telemetry)?;
    runtime()?.block_on(service::run(loaded, parts, service::stop_signal()))?;
    Ok(ExitCode::SUCCESS)
}

fn try_out(mut loaded: Loaded) -> anyhow::Result<ExitCode> {
    quiet_by_default(&mut loaded);
    let _tracing = telemetry::init(&loaded.config.log, &loaded.config.telemetry)?;
    runtime()?.block_on(dev::run(loaded))?;
    Ok(ExitCode::SUCCESS)
}

/// What a command prints is what is to be seen; warnings and errors come through.
fn quiet_by_default(loaded: &mut Loaded) {
    if loaded.config.log.level == "info" {
        "warn".clone_into(&mut loaded.config.log.level);
    }
}

fn operate(mut loaded: Loaded, run: impl AsyncFnOnce(&Config) -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    quiet_by_default(&mut loaded);
    let _tracing = telemetry::init(&loaded.config.log, &loaded.config.telemetry)?;
    runtime()?.block_on(run(&loaded.config))
}

fn topology_apply(mut loaded: Loaded, output: &Output) -> anyhow::Result<ExitCode> {
    quiet_by_default(&mut loaded);
    let _tracing = telemetry::init(&loaded.config.log, &loaded.config.telemetry)?;
    let changes = runtime()?.block_on(service::apply_topology(&loaded.config))?;
    let mut text = String::new();
    if output.json {
        let rows: Vec<_> = changes
            .iter()
            .map(|change| match &change.action {
                Action::Created => serde_json::json!({"what": change.what, "action": "created"}),
                Action::Unchanged => serde_json::json!({"what": change.what, "action": "unchanged"}),
                Action::Updated(settings) => {
                    serde_json::json!({"what": change.what, "action": "updated", "settings": settings})
                }
            })
            .collect();
        text.push_str(&serde_json::to_string_pretty(&rows)?);
        text.push('\n');
    } else {
        for change in changes {
            let action = match change.action {
                Action::Created => "created".to_owned(),
                Action::Unchanged => "unchanged".to_owned(),
                Action::Updated(settings) => format!("updated: {}", settings.join(", ")),
            };
            text.push_str(&format!("{:<32} {action}\n", change.what));
        }
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn sequence_check(loaded: &Loaded, output: &Output) -> anyhow::Result<ExitCode> {
    let report = check_sequences(loaded);
    if output.json {
        let sequences: Vec<_> = report
            .sequences
            .iter()
            .map(|it| serde_json::json!({"name": it.name, "version": it.version, "steps": it.steps.len()}))
            .collect();
        let json = serde_json::json!({"sequences": sequences, "problems": report.problems});
        print(&format!("{json:#}\n"))?;
    } else {
        print(&report.to_string())?;
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(WRONG) })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the async runtime did not start")
}

/// In UTC (RFC 3339).
pub(crate) fn readable(timestamp: Timestamp) -> String {
    let millis = timestamp.as_millis();
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| millis.to_string(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("standard output is closed")
}

// The one place that writes to a person on stderr.
#[allow(clippy::print_stderr)]
pub(crate) fn print_error(text: &str) {
    eprintln!("dripline: {text}");
}
