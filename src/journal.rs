//! `dripline journal`: every change of every lead, as it happens.
use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use dripline_actors::ports::Journal as _;
use dripline_domain::{Address, JournalEvent, JournalLine, LeadId, SmolStr};
use dripline_nats::{Connections, JetStreamJournal, topology};

use crate::cli::{print, readable};
use crate::config::Config;
use crate::service::{connect, stream, topology_options};

/// The newest messages that are looked through at the start.
const LOOKED_THROUGH: u64 = 2_000;
/// Between two looks for what is new.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Show the newest lines, and with --follow each one as it is written.
    Tail(Tail),
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// So many lines at most, of the newest 2,000 batches.
    #[arg(long, short = 'n', default_value_t = 20)]
    lines: usize,
    /// Go on with each line that is written, until Ctrl-C.
    #[arg(long, short)]
    follow: bool,
    /// Only of this lead.
    #[arg(long, value_name = "ADDRESS", value_parser = Address::parse)]
    lead: Option<Address>,
    /// Only of this sequence.
    #[arg(long, value_name = "NAME")]
    sequence: Option<String>,
    /// Only this event, such as `sent`.
    #[arg(long)]
    event: Option<String>,
    /// The lines as they stand in the journal, for programs.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: JournalCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let JournalCommand::Tail(tail) = command;
    let connections = connect(config, "dripline journal").await?;
    let context = Connections::jetstream(&connections.general);
    let applied = topology::apply(&context, topology_options(config)).await?;
    let lead = tail.lead.as_ref().map(|address| applied.lead_ids.lead_id(address));
    let journal = JetStreamJournal::new(stream(&context, topology::JOURNAL).await?);
    let last = journal.last().await?;
    let mut from = last.saturating_sub(LOOKED_THROUGH).max(1);
    let mut newest = VecDeque::new();
    while from <= last
        && let Some(message) = journal.read(from).await?
    {
        from = message.position.sequence + 1;
        for line in message.lines().filter_map(|line| tail.shown(line, lead.as_ref())) {
            newest.push_back(line);
            if newest.len() > tail.lines {
                newest.pop_front();
            }
        }
    }
    print(&newest.into_iter().collect::<String>())?;
    if !tail.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        let Some(message) = journal.read(from).await? else {
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        };
        from = message.position.sequence + 1;
        print(&message.lines().filter_map(|line| tail.shown(line, lead.as_ref())).collect::<String>())?;
    }
}

impl Tail {
    /// The line as it is shown; none where it is not asked for. One that cannot be read is shown as it stands.
    fn shown(&self, bytes: &[u8], lead: Option<&LeadId>) -> Option<String> {
        let raw = || format!("{}\n", String::from_utf8_lossy(bytes));
        let is_chosen = lead.is_some() || self.sequence.is_some() || self.event.is_some();
        let Ok(read) = JournalLine::from_json(bytes) else { return (!is_chosen).then(raw) };
        let is_wanted = lead.is_none_or(|lead| read.lead_id.as_ref() == Some(lead))
            && self.sequence.as_ref().is_none_or(|sequence| read.sequence.as_deref() == Some(sequence.as_str()))
            && self.event.as_ref().is_none_or(|event| *event == name(&read.event));
        is_wanted.then(|| if self.json { raw() } else { line(&read) })
    }
}

fn name(event: &JournalEvent) -> String {
    serde_json::to_value(event).ok().and_then(|event| event.as_str().map(str::to_owned)).unwrap_or_default()
}

/// One line of the journal, for people.
pub(crate) fn line(line: &JournalLine) -> String {
    let JournalLine { lead_id, timestamp, event, sequence, version, step, reason, provider, webhook, by } = line;
    let place: Vec<_> = [sequence, step].into_iter().flatten().map(SmolStr::as_str).collect();
    let lead = lead_id.as_ref().map_or("-", LeadId::as_str);
    let mut text = format!("{}  {lead:<35}  {:<18} {}", readable(*timestamp), name(event), place.join(" / "));
    if let Some(version) = version {
        text.push_str(&format!(", version {version}"));
    }
    for name in [provider, webhook].into_iter().flatten() {
        text.push_str(&format!(", {name}"));
    }
    if let Some(by) = by {
        text.push_str(&format!(", by {by}"));
    }
    if let Some(reason) = reason {
        text.push_str(&format!(": {reason}"));
    }
    text.push('\n');
    text
}
