//! The sequences in their folder, read as the engine will read them: `dripline sequence check`.
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dripline_domain::{Sequence, Template, parse_sequence};
use dripline_esp::check_sequence;

use super::units::duration;
use super::{Config, ConfigError, Loaded};

const FILE: &str = "sequence.toml";

/// What stands in the sequences folder, and everything that is wrong with it.
#[derive(Debug, Clone, Default)]
pub struct SequenceReport {
    /// Those that can be used, by name.
    pub sequences: Vec<Sequence>,
    /// One line each, with the place.
    pub problems: Vec<String>,
}

/// Reads every sequence, and looks whether those that the configuration names are there.
pub fn check_sequences(loaded: &Loaded) -> SequenceReport {
    let settings = &loaded.config.sequences;
    let mut report = read_sequences(&settings.dir);
    let default = settings.default.iter().map(|name| ("sequences.default".to_owned(), name));
    let sources = settings.sources.iter().map(|(source, name)| (format!("sequences.sources.{source}"), name));
    let canary = &loaded.config.canary;
    let canary = canary.sequence.iter().filter(|_| canary.address.is_some());
    let canary = canary.map(|name| ("canary.sequence".to_owned(), name));
    for (key, name) in default.chain(sources).chain(canary) {
        if !report.sequences.iter().any(|sequence| sequence.name == *name) {
            let message = format!("there is no usable sequence `{name}` in {}", settings.dir.display());
            report.problems.push(loaded.wrong(&key, message).to_string());
        }
    }
    report.problems.extend(check_unsubscribe(loaded, &report.sequences).err().map(|error| error.to_string()));
    report
}

/// Whether the emails of these sequences can carry a link by which people unsubscribe, where they are mailed at all.
///
/// # Errors
/// A setting that is missing, and the sequence that cannot do without.
pub fn check_unsubscribe(loaded: &Loaded, sequences: &[Sequence]) -> Result<(), ConfigError> {
    let Config { esp, unsubscribe, .. } = &loaded.config;
    let with_link = sequences.iter().find(|sequence| !sequence.transactional);
    match (with_link, unsubscribe.missing()) {
        (Some(Sequence { name, .. }), Some(key)) if esp.mails() => Err(ConfigError::missing(key).because(&format!(
            "the sequence `{name}` is not transactional, so its emails carry a link to unsubscribe"
        ))),
        _ => Ok(()),
    }
}

/// Reads every sequence in this folder: `<dir>/<name>/sequence.toml`, its templates beside it.
pub fn read_sequences(dir: &Path) -> SequenceReport {
    let mut report = SequenceReport::default();
    let folders = match folders(dir) {
        Ok(folders) => folders,
        Err(error) => {
            report.problems.push(format!("{}: cannot be read: {error} (sequences.dir)", dir.display()));
            return report;
        }
    };
    for folder in folders {
        match read_sequence(&folder) {
            Ok(sequence) => report.sequences.push(sequence),
            Err(problems) => report.problems.extend(problems),
        }
    }
    if report.sequences.is_empty() && report.problems.is_empty() {
        report.problems.push(format!("{}: holds no sequence; one is <name>/{FILE}", dir.display()));
    }
    report
}

/// The folders in `dir` by name, hidden ones left out.
fn folders(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.is_dir() && !hidden {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn read_sequence(folder: &Path) -> Result<Sequence, Vec<String>> {
    let path = folder.join(FILE);
    let file = path.display().to_string();
    let text = fs::read_to_string(&path).map_err(|error| vec![format!("{file}: cannot be read: {error}")])?;
    let mut unreadable = Vec::new();
    let parsed = parse_sequence(&file, &text, |name| {
        let html = body(folder, name, "html", &mut unreadable);
        let text = body(folder, name, "txt", &mut unreadable);
        (html.is_some() || text.is_some()).then_some(Template { html, text })
    });
    let mut problems = unreadable;
    match parsed {
        Ok(sequence) => {
            if folder.file_name().is_none_or(|name| name != sequence.name.as_str()) {
                problems.push(format!(
                    "{file}: name: `{}` is not the name of its folder; make them the same",
                    sequence.name
                ));
            }
            let place = |fault| format!("{}: {fault}", folder.display());
            problems.extend(check_sequence(&sequence).into_iter().map(place));
            if problems.is_empty() { Ok(sequence) } else { Err(problems) }
        }
        Err(errors) => {
            problems.extend(errors.iter().map(ToString::to_string));
            Err(problems)
        }
    }
}

/// One body of a template; none when there is no such file.
fn body(folder: &Path, name: &str, extension: &str, unreadable: &mut Vec<String>) -> Option<String> {
    // A template is a file of its own folder.
    if name.contains(['/', '\\']) {
        return None;
    }
    let path = folder.join(format!("{name}.{extension}"));
    match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            unreadable.push(format!("{}: cannot be read: {error}", path.display()));
            None
        }
    }
}

impl SequenceReport {
    /// Whether the engine would take all of it.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for SequenceReport {
    /// A line a sequence, then a line a problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sequence in &self.sequences {
            let steps = sequence.steps.len();
            let span: Duration = sequence.steps.iter().map(|step| step.after).sum();
            let plural = if steps == 1 { "" } else { "s" };
            let Sequence { name, version, from, .. } = sequence;
            writeln!(f, "{name} version {version}: {steps} email{plural} over {}, from {from}", duration::show(&span))?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(f, "{problem}"))
    }
}
