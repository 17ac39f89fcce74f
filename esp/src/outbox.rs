//! A folder in place of a provider: each email is a file that any mail program opens. For trying things out.
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use async_trait::async_trait;
use dripline_actors::ports::Esp;
use dripline_domain::{Email, Outcome};
use serde::{Deserialize, Serialize};

use crate::BuildError;
use crate::mime::message;

/// `[esp.outbox]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder; made if it is not there. Relative to the working directory.
    pub dir: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self { dir: PathBuf::from("outbox") }
    }
}

/// Writes `<dir>/<send key>.eml`, complete or not at all.
///
/// Accepted's id is the file's name. One send key is one file: a second call with the same key leaves the first file
/// as it is and is accepted likewise. Files survive a crash of the process, not one of the machine (no fsync).
pub struct Outbox {
    dir: PathBuf,
}

impl Outbox {
    /// Makes the folder.
    ///
    /// # Errors
    /// [`BuildError::Directory`] when that fails.
    pub fn new(config: &Config) -> Result<Self, BuildError> {
        let dir = config.dir.clone();
        fs::create_dir_all(&dir).map_err(|source| BuildError::Directory { path: dir.clone(), source })?;
        Ok(Self { dir })
    }
}

#[async_trait]
impl Esp for Outbox {
    fn name(&self) -> &'static str {
        "outbox"
    }

    async fn send(&self, email: &Email) -> Outcome {
        if !is_file_name(&email.send_key) {
            return Outcome::Refused { reason: "the send key cannot be a file name".to_owned() };
        }
        let bytes = match message(email) {
            Ok(message) => message.formatted(),
            Err(reason) => return Outcome::Refused { reason },
        };
        let file = format!("{}.eml", email.send_key);
        let path = self.dir.join(&file);
        let written = tokio::task::spawn_blocking(move || write_once(&path, &bytes)).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => Outcome::Accepted { message_id: file.into() },
            Err(error) => Outcome::Transient { reason: format!("{file} could not be written: {error}") },
        }
    }
}

/// Our keys are; whatever else comes must not lead out of the folder.
fn is_file_name(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// Writes the file under another name and renames it, so that no one ever sees half of it.
fn write_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.try_exists()? {
        tracing::warn!(path = %path.display(), "already in the outbox: sent twice with one key, left as it is");
        return Ok(());
    }
    // Unlike any other writer's, also where two machines share the folder.
    let nanos = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    let temporary = path.with_extension(format!("{}-{nanos}.tmp", std::process::id()));
    let written = fs::File::create_new(&temporary).and_then(|mut file| file.write_all(bytes));
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    renamed
}
