//! How far an import is, in a small file beside the input: it goes on from there after a stop or a crash.
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::mapping::Assignment;
use super::rows::{Format, Place};

/// So much of the file's beginning is part of its identity, in bytes.
const HEAD: u64 = 64 * 1024;

/// Tells a file from another, and from itself once it was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity {
    size: u64,
    /// Unix nanoseconds, as text: too large for JSON's numbers.
    modified: String,
    /// SHA-256 of its first 64 KiB, in hexadecimal.
    head: String,
}

impl Identity {
    pub(super) fn of(file: &mut File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
        let mut head = Vec::new();
        io::Seek::rewind(file)?;
        file.take(HEAD).read_to_end(&mut head)?;
        io::Seek::rewind(file)?;
        Ok(Self { size: metadata.len(), modified, head: sha256(&head) })
    }
}

/// What decides on what an import does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Options {
    pub(super) format: Format,
    pub(super) delimiter: Option<u8>,
    pub(super) map: Vec<Assignment>,
    pub(super) sequence: Option<String>,
    pub(super) source: Option<String>,
    pub(super) rejects: PathBuf,
}

/// How far an import is. All that is before `place` is done: queued, or in the file of rejected rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bookmark {
    pub(super) file: Identity,
    pub(super) options: Options,
    pub(super) place: Place,
    pub(super) queued: u64,
    /// By code.
    pub(super) rejected: BTreeMap<String, u64>,
    /// The size of the file of rejected rows, in bytes; what it has beyond was written just before a crash.
    pub(super) rejects_bytes: u64,
}

impl Bookmark {
    /// `leads.csv.import.json` for `leads.csv`.
    pub(super) fn path(input: &Path) -> PathBuf {
        let mut name = input.as_os_str().to_owned();
        name.push(".import.json");
        name.into()
    }

    /// None where there is none.
    pub(super) fn load(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The whole of it or the one before, whenever the machine stops.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("json.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_data()?;
        fs::rename(new, path)
    }

    pub(super) fn rejected(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Names a row of this import, the same in each run: a row that was queued just before a crash is recognised.
    pub(super) fn message_ids(&self) -> serde_json::Result<String> {
        let mut ids = sha256(&serde_json::to_vec(&(&self.file, &self.options))?);
        // 128 bits will do, and stand in each message.
        ids.truncate(32);
        Ok(ids)
    }
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Bytes::copy_from_slice(&Sha256::digest(bytes)))
}
