//! `dripline import`: the leads of a file, put into the queue as the gateway does it.
//!
//! A thread reads and checks the rows, a chunk ahead; a chunk is queued, then its rejected rows are written, then the
//! bookmark moves behind it. After a crash the chunk that was under way is queued again, each row under the message id it
//! had.
mod bookmark;
mod mapping;
mod rejects;
mod rows;

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use dripline_actors::ports::{FrontDoor, FrontDoorError, Submission};
use dripline_domain::{ArrivalError, Sanitiser};
use dripline_nats::{Connections, JetStreamFrontDoor, topology};
use futures_util::future::join_all;
use indicatif::HumanCount;
use serde_json::json;
use tokio::sync::mpsc;

use self::bookmark::{Bookmark, Identity, Options};
use self::mapping::{Assignment, Conflict, Mapping};
use self::rejects::{Rejected, Rejects};
use self::rows::{Format, Place, RowError, Rows};
use crate::cli::{Output, print, print_error};
use crate::config::Config;
use crate::gateway::is_source;
use crate::progress::Progress;
use crate::service::{connect, sanitiser, stop_signal, topology_options};

/// Rows that are queued together, and then written down as done.
const CHUNK_ROWS: usize = 4_000;
/// The same in bytes, for long rows.
const CHUNK_BYTES: usize = 4 << 20;
/// Chunks that are read ahead.
const READ_AHEAD: usize = 2;

/// Between two tries to queue rows.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A queue that is away for longer is not waited for; one that is full is, without end.
const PATIENCE: Duration = Duration::from_mins(1);
/// Once told to stop: so long for the chunk that is under way.
const STOPPING_TIME: Duration = Duration::from_secs(5);

/// Rejected rows that a dry run shows.
const SHOWN: usize = 10;

/// All is done, but some rows were rejected.
const SOME_REJECTED: u8 = 3;

#[derive(Debug, Args)]
pub(crate) struct ImportCommand {
    /// The file.
    file: PathBuf,
    /// How it is written [default: by its ending; .csv, .tsv, .ndjson or .jsonl].
    #[arg(long)]
    format: Option<Format>,
    /// What separates the columns of a CSV file; `tab` for a tab [default: the one of , ; tab and | in the header].
    #[arg(long, value_parser = parse_delimiter)]
    delimiter: Option<u8>,
    /// Which field a column is: email, firstName, lastName, phone, sequence, or an attribute of this name; with nothing
    /// behind the = the column is left out. May be repeated. Usual names such as `First Name` need none of it.
    #[arg(long, value_name = "COLUMN=FIELD")]
    map: Vec<Assignment>,
    /// The sequence of rows that name none.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    sequence: Option<String>,
    /// Where the leads come from: they go to `leads.new.<source>`.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    source: Option<String>,
    /// Check every row and queue none; needs no server.
    #[arg(long)]
    dry_run: bool,
    /// Where rejected rows go [default: leads.rejected.csv beside leads.csv].
    #[arg(long, value_name = "OUTPUT")]
    rejects: Option<PathBuf>,
    /// Begin anew, although an earlier run stopped on the way.
    #[arg(long)]
    no_resume: bool,
    #[command(flatten)]
    output: Output,
}

/// Nothing was begun: the command or the file must be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// No format, and none to be seen.
    #[error("how is {} written? Say it with --format csv or --format ndjson", .0.display())]
    Format(PathBuf),
    /// Not one that can be read from any place.
    #[error("{} is not a regular file; write what it gives into one first", .0.display())]
    NotAFile(PathBuf),
    /// Two at a time would write one bookmark.
    #[error("another import of {} is running", .0.display())]
    Running(PathBuf),
    /// Nothing in it.
    #[error("the file is empty: a CSV file has a header")]
    Empty,
    /// Excel's "Unicode text".
    #[error("the file is UTF-16; save it as UTF-8, such as \"CSV UTF-8\"")]
    Utf16,
    /// The first row of a CSV file.
    #[error("the header cannot be read: {0}")]
    Header(#[source] RowError),
    /// Which one would count?
    #[error("there are two columns `{column}`; rename one in the file")]
    ColumnTwice {
        /// Which.
        column: String,
    },
    /// Likewise.
    #[error(transparent)]
    Conflict(Conflict),
    /// A mistake in `--map`.
    #[error("--map: there is no column `{column}`; there are: {columns}")]
    NoSuchColumn {
        /// Which.
        column: String,
        /// Those there are.
        columns: String,
    },
    /// Every row would be rejected.
    #[error("no column is the email; say which with --map \"COLUMN=email\", of: {columns}")]
    NoEmail {
        /// Those there are.
        columns: String,
    },
    /// It cannot be told what was done already.
    #[error(
        "{} has changed since the import that stopped after row {rows}; with --no-resume it begins anew, and a lead that is \
         there already does what `reentry` says", file.display()
    )]
    Changed {
        /// The input.
        file: PathBuf,
        /// Where it stopped.
        rows: u64,
    },
    /// One half would be another import than the other.
    #[error(
        "an import of {} with other options stopped after row {rows}: {options}; repeat it with these, or begin anew with \
         --no-resume", file.display()
    )]
    OtherOptions {
        /// The input.
        file: PathBuf,
        /// Where it stopped.
        rows: u64,
        /// Those of that import, as JSON.
        options: String,
    },
    /// They may not have been looked at.
    #[error("{} is there already; move it away, or name another with --rejects", .0.display())]
    RejectsThere(PathBuf),
}

/// Why a file could not be opened.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn parse_delimiter(text: &str) -> Result<u8, &'static str> {
    match text.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !byte.is_ascii_alphanumeric() && !matches!(byte, b'"' | b'\r' | b'\n') => {
            Ok(*byte)
        }
        _ => Err("write one character, such as ; or tab"),
    }
}

/// Sources and sequences are named alike.
fn parse_name(text: &str) -> Result<String, &'static str> {
    if is_source(text) { Ok(text.to_owned()) } else { Err("a name has 1 to 64 of the characters a-z, 0-9, _ and -") }
}

pub(crate) async fn run(command: ImportCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let file = &command.file;
    let unreadable = || format!("cannot read {}", file.display());
    let mut opened = File::open(file).with_context(unreadable)?;
    if !opened.metadata().with_context(unreadable)?.is_file() {
        return Err(UsageError::NotAFile(file.clone()).into());
    }
    // Held until the end. A file system that knows no locks is used without.
    let lock = File::open(file).with_context(unreadable)?;
    if let Err(TryLockError::WouldBlock) = lock.try_lock() {
        return Err(UsageError::Running(file.clone()).into());
    }
    let options = options(&command)?;
    let mapping = Mapping { assignments: options.map.clone(), sequence: options.sequence.clone() };
    let identity = Identity::of(&mut opened).with_context(unreadable)?;
    let size = opened.metadata().with_context(unreadable)?.len();
    let mut rows = match Rows::open(opened, options.format, options.delimiter, mapping) {
        Ok(rows) => rows,
        Err(OpenError::Usage(error)) => return Err(error.into()),
        Err(OpenError::Io(error)) => return Err(error).with_context(unreadable),
    };
    if let Some(columns) = rows.columns() {
        print_error(columns);
    }
    let path = Bookmark::path(file);
    let bookmark = if command.dry_run { None } else { earlier(&command, &path, &identity, &options)? };
    let resumed = bookmark.is_some();
    let bookmark = bookmark.unwrap_or_else(|| Bookmark {
        file: identity,
        options,
        place: rows.place(),
        queued: 0,
        rejected: std::collections::BTreeMap::new(),
        rejects_bytes: 0,
    });
    if resumed {
        rows.go_to(bookmark.place).with_context(unreadable)?;
        print_error(&format!("going on after row {}, where an earlier run stopped", HumanCount(bookmark.place.rows)));
    }
    let import = Import {
        rejects: Rejects::open(bookmark.options.rejects.clone(), rows.header(), bookmark.rejects_bytes).with_context(
            || {
                let rejects = bookmark.options.rejects.display();
                format!("cannot go on in {rejects}; put it back as it was, or begin anew with --no-resume")
            },
        )?,
        progress: Progress::start(bookmark.place.offset, size),
        began: Instant::now(),
        begun_at: bookmark.place.rows,
        path,
        bookmark,
        shown: Vec::new(),
        command,
    };
    import.run(rows, config).await
}

fn options(command: &ImportCommand) -> Result<Options, UsageError> {
    let ending = command.file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let format = match (command.format, &*ending) {
        (Some(format), _) => format,
        (None, "csv" | "tsv") => Format::Csv,
        (None, "ndjson" | "jsonl") => Format::Ndjson,
        (None, _) => return Err(UsageError::Format(command.file.clone())),
    };
    let rejects = command.rejects.clone().unwrap_or_else(|| {
        let ending = if ending.is_empty() { "rows" } else { &ending };
        command.file.with_extension(format!("rejected.{ending}"))
    });
    Ok(Options {
        format,
        delimiter: command.delimiter,
        map: command.map.clone(),
        sequence: command.sequence.clone(),
        source: command.source.clone(),
        rejects,
    })
}

/// Where an earlier run stopped, if this one is to go on from there.
fn earlier(
    command: &ImportCommand,
    path: &Path,
    identity: &Identity,
    options: &Options,
) -> anyhow::Result<Option<Bookmark>> {
    let mut found = Bookmark::load(path);
    if command.no_resume {
        // The rejected rows of the run that is given up go with it.
        if let Ok(Some(given_up)) = &found
            && given_up.options.rejects == options.rejects
            && options.rejects.exists()
        {
            fs::remove_file(&options.rejects)
                .with_context(|| format!("cannot remove {}", options.rejects.display()))?;
        }
        found = Ok(None);
    }
    let Some(bookmark) =
        found.with_context(|| format!("cannot read {}; begin anew with --no-resume", path.display()))?
    else {
        if options.rejects.exists() {
            return Err(UsageError::RejectsThere(options.rejects.clone()).into());
        }
        return Ok(None);
    };
    let (file, rows) = (command.file.clone(), bookmark.place.rows);
    if bookmark.file != *identity {
        return Err(UsageError::Changed { file, rows }.into());
    }
    if bookmark.options != *options {
        let options = serde_json::to_string(&bookmark.options)?;
        return Err(UsageError::OtherOptions { file, rows, options }.into());
    }
    Ok(Some(bookmark))
}

/// Rows that are queued together.
struct Chunk {
    leads: Vec<Submission>,
    rejected: Vec<Rejected>,
    /// Where the next one begins.
    end: Place,
}

/// An import under way.
struct Import {
    command: ImportCommand,
    bookmark: Bookmark,
    path: PathBuf,
    rejects: Rejects,
    progress: Progress,
    began: Instant,
    /// Rows that an earlier run had done.
    begun_at: u64,
    /// The first rejected rows of a dry run.
    shown: Vec<Rejected>,
}

impl Import {
    async fn run(mut self, rows: Rows, config: &Config) -> anyhow::Result<ExitCode> {
        let ids = self.bookmark.message_ids()?;
        let reader = Reader { rows, sanitiser: sanitiser(config), source: self.command.source.clone(), ids };
        let (chunks, mut read) = mpsc::channel(READ_AHEAD);
        tokio::task::spawn_blocking(move || reader.read_all(&chunks));
        if self.command.dry_run {
            while let Some(chunk) = read.recv().await {
                self.count(chunk.context("the file could not be read to its end")?);
            }
            return self.finish();
        }

        let connections = connect(config, "dripline import").await?;
        topology::apply(&Connections::jetstream(&connections.general), topology_options(config)).await?;
        let door = JetStreamFrontDoor::open(&connections);
        self.save()?;
        let mut stop = std::pin::pin!(stop_signal());
        loop {
            let chunk = tokio::select! {
                chunk = read.recv() => chunk,
                () = &mut stop => return Err(self.stopped()),
            };
            let Some(chunk) = chunk else { break };
            let mut chunk =
                chunk.context("the file could not be read to its end; the same command goes on from here")?;
            let leads = std::mem::take(&mut chunk.leads);
            let queued = leads.len() as u64;
            let (answer, stopping) = {
                let mut queueing = std::pin::pin!(queue(&door, leads, &self.progress));
                tokio::select! {
                    answer = &mut queueing => (Some(answer), false),
                    () = &mut stop => (tokio::time::timeout(STOPPING_TIME, queueing).await.ok(), true),
                }
            };
            if let Some(answer) = answer {
                answer.with_context(|| {
                    format!("stopped after row {}; the same command goes on from there", self.bookmark.place.rows)
                })?;
                self.bookmark.queued += queued;
                self.bookmark.rejects_bytes = self.rejects.write(&chunk.rejected).with_context(|| {
                    format!(
                        "cannot write {}; the same command goes on from here",
                        self.bookmark.options.rejects.display()
                    )
                })?;
                self.count(chunk);
                self.save()?;
            }
            if stopping {
                return Err(self.stopped());
            }
        }
        fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))?;
        self.finish()
    }

    fn count(&mut self, chunk: Chunk) {
        for rejected in chunk.rejected {
            *self.bookmark.rejected.entry(rejected.code.to_owned()).or_default() += 1;
            if self.command.dry_run && self.shown.len() < SHOWN {
                self.shown.push(rejected);
            }
        }
        self.bookmark.place = chunk.end;
        let (rows, rejected, speed) = (chunk.end.rows, self.bookmark.rejected(), self.rows_per_second());
        self.progress.show(chunk.end.offset, || {
            format!("{} rows, {}/s, {} rejected", HumanCount(rows), HumanCount(speed), HumanCount(rejected))
        });
    }

    fn save(&self) -> anyhow::Result<()> {
        self.bookmark.save(&self.path).with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn stopped(&self) -> anyhow::Error {
        self.progress.finish();
        anyhow::anyhow!("stopped after row {}; the same command goes on from there", self.bookmark.place.rows)
    }

    /// Of this run.
    fn rows_per_second(&self) -> u64 {
        let rows = u128::from(self.bookmark.place.rows - self.begun_at);
        u64::try_from(rows * 1_000 / self.began.elapsed().as_millis().max(1)).unwrap_or(u64::MAX)
    }

    fn finish(self) -> anyhow::Result<ExitCode> {
        self.progress.finish();
        let Bookmark { place: Place { rows, .. }, queued, rejected: reasons, options, .. } = &self.bookmark;
        let rejected = self.bookmark.rejected();
        let (seconds, speed) = (self.began.elapsed().as_secs_f64(), self.rows_per_second());
        let dry_run = self.command.dry_run;
        if self.command.output.json {
            let report = json!({
                "rows": rows, "good": rows - rejected, "queued": queued, "rejected": rejected, "reasons": reasons,
                "rejects": (rejected > 0 && !dry_run).then(|| options.rejects.display().to_string()),
                "resumedAfter": self.begun_at, "seconds": seconds, "rowsPerSecond": speed, "dryRun": dry_run,
            });
            print(&format!("{report:#}\n"))?;
        } else {
            let what = if dry_run { "can be queued" } else { "queued" };
            let mut text = format!(
                "{} rows: {} {what}, {} rejected; {seconds:.1} s, {} rows/s\n",
                HumanCount(*rows),
                HumanCount(rows - rejected),
                HumanCount(rejected),
                HumanCount(speed)
            );
            for (code, count) in reasons {
                text.push_str(&format!("  {} {code}\n", HumanCount(*count)));
            }
            for Rejected { line, code, reason, .. } in &self.shown {
                text.push_str(&format!("line {line}: {code}: {reason}\n"));
            }
            if rejected > 0 && !dry_run {
                text.push_str(&format!("the rejected rows are in {}\n", options.rejects.display()));
            }
            print(&text)?;
        }
        Ok(if rejected == 0 { ExitCode::SUCCESS } else { ExitCode::from(SOME_REJECTED) })
    }
}

/// Reads and checks rows, on a thread of its own.
struct Reader {
    rows: Rows,
    sanitiser: Sanitiser,
    source: Option<String>,
    ids: String,
}

impl Reader {
    /// Until the end of the file, or until nobody takes them.
    fn read_all(mut self, chunks: &mpsc::Sender<io::Result<Chunk>>) {
        loop {
            let chunk = self.read_chunk();
            let last = chunk.as_ref().map_or(true, Option::is_none);
            if chunk.transpose().is_some_and(|chunk| chunks.blocking_send(chunk).is_err()) || last {
                return;
            }
        }
    }

    fn read_chunk(&mut self) -> io::Result<Option<Chunk>> {
        let (mut leads, mut rejected, mut bytes) = (Vec::with_capacity(CHUNK_ROWS), Vec::new(), 0);
        while leads.len() + rejected.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            let Some((row, lead)) = self.rows.read()? else { break };
            match lead.and_then(|lead| self.check(lead)) {
                Ok(lead) => {
                    bytes += lead.payload.len();
                    leads.push(lead);
                }
                Err(error) => {
                    let row = Rejected::of(row, &error);
                    bytes += row.bytes();
                    rejected.push(row);
                }
            }
        }
        let none = leads.is_empty() && rejected.is_empty();
        Ok((!none).then(|| Chunk { leads, rejected, end: self.rows.place() }))
    }

    /// As the gateway checks it.
    fn check(&self, lead: serde_json::Map<String, serde_json::Value>) -> Result<Submission, RowError> {
        let payload = serde_json::to_vec(&lead).map_err(|error| ArrivalError::NotJson(error.to_string()))?;
        self.sanitiser.read(lead.into())?;
        let id = format!("{}:{}", self.ids, self.rows.place().rows);
        Ok(Submission {
            source: self.source.clone(),
            payload: payload.into(),
            content_type: "application/json",
            id: Some(id),
            trace: None,
        })
    }
}

/// Puts them all into the queue. Where it is full, it is waited for, and less is tried at a time: a batch that is larger
/// than the room there is would be refused for ever.
async fn queue(door: &dyn FrontDoor, leads: Vec<Submission>, progress: &Progress) -> Result<(), FrontDoorError> {
    let mut left = VecDeque::from(leads);
    let (mut at_once, mut pause, mut since, mut said) = (CHUNK_ROWS, FIRST_PAUSE, Instant::now(), false);
    while !left.is_empty() {
        let tried: Vec<_> = left.drain(..at_once.min(left.len())).collect();
        let count = tried.len();
        let answers = join_all(tried.iter().map(|lead| door.submit(lead.clone()))).await;
        let mut refusal = None;
        for (lead, answer) in tried.into_iter().zip(answers).rev() {
            match answer {
                Ok(()) => since = Instant::now(),
                Err(error) => {
                    left.push_front(lead);
                    refusal = Some(error);
                }
            }
        }
        let Some(error) = refusal else {
            (at_once, pause) = ((at_once * 2).min(CHUNK_ROWS), FIRST_PAUSE);
            continue;
        };
        match &error {
            FrontDoorError::Full => (at_once, since) = ((count / 2).max(1), Instant::now()),
            // The sanitiser keeps every lead far below what a message may have.
            FrontDoorError::TooLarge { .. } => return Err(error),
            FrontDoorError::Unavailable(_) if since.elapsed() > PATIENCE => return Err(error),
            FrontDoorError::Unavailable(_) => {}
        }
        if !said {
            progress.say(&format!("{:#}; waiting for it", anyhow::Error::from(error)));
            said = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}
