//! `dripline export`: every lead, each as it was when it was read.
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use dripline_domain::{Enrolment, Lead, LeadStatus, SmolStr};
use dripline_nats::{Connections, LeadScan, topology};
use futures_util::TryStreamExt as _;
use indicatif::HumanCount;
use serde_json::{Map, Value};

use crate::cli::print_error;
use crate::config::Config;
use crate::progress::Progress;
use crate::service::connect;

/// The columns of a CSV export, which `import` knows again.
pub(crate) const COLUMNS: [&str; 10] = [
    "email",
    "firstName",
    "lastName",
    "phone",
    "status",
    "sequence",
    "step",
    "nextActionTimestamp",
    "createdAt",
    "attributes",
];

/// A cell that begins with one of these is a formula to a spreadsheet (OWASP, CSV injection).
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

#[derive(Debug, Args)]
pub(crate) struct ExportCommand {
    /// How to write them.
    #[arg(long, default_value = "ndjson")]
    format: Format,
    /// Only leads of this status: NEW, ACTIVE, SENDING, IN_DOUBT, PARKED, PAUSED, COMPLETED, HARD_BOUNCE,
    /// COMPLAINED, UNSUBSCRIBED, SUPPRESSED. May be repeated.
    #[arg(long, value_parser = parse_status)]
    status: Vec<LeadStatus>,
    /// Only leads that are or were in this sequence.
    #[arg(long, value_name = "NAME")]
    sequence: Option<String>,
    /// Where to write them, instead of to standard output. The file is there once all of them are in it.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// CSV to be opened by a spreadsheet: a cell that it would take for a formula gets a ' before it, so that `import` reads
    /// something else than what was there.
    #[arg(long)]
    for_spreadsheets: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A document a line, as docs/lead-document.md describes it.
    Ndjson,
    /// A header, then a row a lead, which `import` reads.
    Csv,
}

pub(crate) fn parse_status(text: &str) -> Result<LeadStatus, String> {
    let name = text.to_uppercase().replace('-', "_");
    serde_json::from_value(Value::String(name)).map_err(|error| error.to_string())
}

/// Where the leads go.
enum Sink {
    Ndjson(Box<dyn Write>),
    Csv { writer: Box<csv::Writer<Box<dyn Write>>>, for_spreadsheets: bool },
}

impl Sink {
    fn new(to: Box<dyn Write>, command: &ExportCommand) -> anyhow::Result<Self> {
        Ok(match command.format {
            Format::Ndjson => Self::Ndjson(to),
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(to);
                writer.write_record(COLUMNS)?;
                Self::Csv { writer: Box::new(writer), for_spreadsheets: command.for_spreadsheets }
            }
        })
    }

    fn write(&mut self, lead: &Lead, sequence: Option<&str>) -> anyhow::Result<()> {
        match self {
            Self::Ndjson(to) => {
                to.write_all(&lead.to_json()?)?;
                to.write_all(b"\n")?;
            }
            Self::Csv { writer, for_spreadsheets } => {
                for mut cell in cells(lead, sequence)? {
                    if *for_spreadsheets && cell.starts_with(FORMULA) {
                        cell.insert(0, '\'');
                    }
                    writer.write_field(cell)?;
                }
                writer.write_record(None::<&[u8]>)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Ndjson(to) => to.flush(),
            Self::Csv { writer, .. } => writer.flush(),
        }
    }
}

pub(crate) async fn run(command: ExportCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let connections = connect(config, "dripline export").await?;
    let context = Connections::jetstream(&connections.general);
    let bucket = context.get_stream_no_info(topology::LEADS_BUCKET).await.context("the bucket `leads`")?;
    let LeadScan { count, mut leads } = LeadScan::start(&bucket).await?;

    let unwritable = || match &command.output {
        Some(file) => format!("cannot write {}", file.display()),
        None => "standard output is closed".to_owned(),
    };
    // Half an export must not look like a whole one.
    let part = command.output.as_ref().map(|file| file.with_added_extension("part"));
    let to: Box<dyn Write> = match &part {
        Some(part) => Box::new(File::create(part).with_context(unwritable)?),
        None => Box::new(io::stdout()),
    };
    let mut sink = Sink::new(Box::new(BufWriter::new(to)), &command).with_context(unwritable)?;
    let mut progress = Progress::start(0, count);
    let sequence = command.sequence.as_deref();
    let (mut read, mut written, mut unreadable) = (0, 0, 0);
    while let Some(scanned) = leads.try_next().await? {
        read += 1;
        match scanned.lead {
            Ok(lead) => {
                if wanted(&lead, &command.status, sequence) {
                    sink.write(&lead, sequence).with_context(unwritable)?;
                    written += 1;
                }
            }
            Err(error) => {
                unreadable += 1;
                progress.say(&format!("the document {} cannot be read and is left out: {error}", scanned.key));
            }
        }
        progress.show(read, || format!("{} leads read, {} written", HumanCount(read), HumanCount(written)));
    }
    sink.flush().with_context(unwritable)?;
    if let (Some(part), Some(file)) = (part, &command.output) {
        fs::rename(part, file).with_context(unwritable)?;
    }
    progress.finish();
    print_error(&format!("{} leads written, of {}", HumanCount(written), HumanCount(read)));
    Ok(if unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn wanted(lead: &Lead, statuses: &[LeadStatus], sequence: Option<&str>) -> bool {
    (statuses.is_empty() || statuses.contains(&lead.status()))
        && sequence.is_none_or(|name| lead.enrolments.iter().any(|enrolment| enrolment.sequence.name == name))
}

/// The enrolment that stands for the lead: the last in this sequence; without one, that which acts next, else the last.
fn enrolment<'a>(lead: &'a Lead, sequence: Option<&str>) -> Option<&'a Enrolment> {
    let of_sequence = lead.enrolments.iter().rfind(|it| Some(&*it.sequence.name) == sequence);
    let acting = lead.enrolments.iter().filter(|it| it.state.next_action().is_some());
    of_sequence.or_else(|| acting.min_by_key(|it| it.state.next_action())).or(lead.enrolments.last())
}

/// The lead as it would be handed in again, without what has happened to it.
pub(crate) fn fields(lead: &Lead, sequence: Option<&str>) -> Map<String, Value> {
    let profile = &lead.profile;
    let sequence = enrolment(lead, sequence).map(|enrolment| &enrolment.sequence.name);
    let known = [
        ("email", Some(lead.address.as_str())),
        ("firstName", profile.first_name.as_deref()),
        ("lastName", profile.last_name.as_deref()),
        ("phone", profile.phone.as_deref()),
        ("sequence", sequence.map(SmolStr::as_str)),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::String(value?.to_owned()))));
    let attributes =
        (!profile.attributes.is_empty()).then(|| ("attributes".to_owned(), Value::Object(profile.attributes.clone())));
    known.chain(attributes).collect()
}

/// In the order of [`COLUMNS`].
fn cells(lead: &Lead, sequence: Option<&str>) -> serde_json::Result<[String; 10]> {
    let fields = fields(lead, sequence);
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let enrolment = enrolment(lead, sequence);
    Ok([
        text("email"),
        text("firstName"),
        text("lastName"),
        text("phone"),
        lead.status().name().to_owned(),
        text("sequence"),
        enrolment.map(|enrolment| enrolment.step.to_string()).unwrap_or_default(),
        lead.next_action().map(|next| next.as_millis().to_string()).unwrap_or_default(),
        lead.created_at.as_millis().to_string(),
        fields.get("attributes").map(serde_json::to_string).transpose()?.unwrap_or_default(),
    ])
}
