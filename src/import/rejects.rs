//! The rows that were not taken, as they were, each with its line and the reason.
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::mapping::REJECTED_COLUMNS;
use super::rows::{Row, RowError};

/// A row that was not taken.
pub(super) struct Rejected {
    pub(super) line: u64,
    pub(super) code: &'static str,
    pub(super) reason: String,
    raw: Vec<u8>,
}

impl Rejected {
    pub(super) fn of(row: Row, error: &RowError) -> Self {
        Self { line: row.line, code: error.code(), reason: error.to_string(), raw: row.raw }
    }

    /// What of it takes memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.raw.len() + self.reason.len()
    }
}

/// The file of rejected rows; it is made with the first of them.
pub(super) struct Rejects {
    path: PathBuf,
    /// Header and delimiter of a CSV file.
    header: Option<(Vec<u8>, u8)>,
    file: Option<File>,
    bytes: u64,
}

/// A row of NDJSON that was not taken, in the file.
#[derive(Serialize)]
struct RejectedLine<'a> {
    line: u64,
    code: &'a str,
    reason: &'a str,
    row: &'a str,
}

impl Rejects {
    /// Begins anew, or goes on after so many bytes.
    pub(super) fn open(path: PathBuf, header: Option<(&[u8], u8)>, bytes: u64) -> io::Result<Self> {
        let file = if bytes == 0 {
            None
        } else {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            if file.metadata()?.len() < bytes {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it is shorter than it was"));
            }
            file.set_len(bytes)?;
            file.seek(SeekFrom::End(0))?;
            Some(file)
        };
        Ok(Self { path, header: header.map(|(header, delimiter)| (header.to_vec(), delimiter)), file, bytes })
    }

    /// Adds them; they are on disk afterwards. Gives the size of the file.
    pub(super) fn write(&mut self, rejected: &[Rejected]) -> io::Result<u64> {
        if rejected.is_empty() {
            return Ok(self.bytes);
        }
        let mut text = Vec::new();
        if let (None, Some((header, delimiter))) = (&self.file, &self.header) {
            for column in REJECTED_COLUMNS {
                text.extend_from_slice(column.as_bytes());
                text.push(*delimiter);
            }
            text.extend_from_slice(header);
            text.push(b'\n');
        }
        for Rejected { line, code, reason, raw } in rejected {
            if let Some((_, delimiter)) = &self.header {
                let (delimiter, reason) = (char::from(*delimiter), reason.replace('"', "\"\""));
                write!(text, "{line}{delimiter}{code}{delimiter}\"{reason}\"{delimiter}")?;
                text.extend_from_slice(raw);
            } else {
                let row = &*String::from_utf8_lossy(raw);
                serde_json::to_writer(&mut text, &RejectedLine { line: *line, code, reason, row })?;
            }
            text.push(b'\n');
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::create(&self.path)?),
        };
        file.write_all(&text)?;
        file.sync_data()?;
        self.bytes += text.len() as u64;
        Ok(self.bytes)
    }
}
