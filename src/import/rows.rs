//! The rows of a file, one at a time; memory is bounded by [`MAX_ROW`], whatever the file holds.
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use csv_core::ReadRecordResult;
use dripline_domain::{ArrivalError, Lead};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::UsageError;
use super::mapping::{Mapping, Target, describe, has_email};
use crate::export;

/// The longest row, in bytes: what `gateway.body_limit` is by default.
const MAX_ROW: usize = 64 * 1024;
/// The most columns of a CSV file.
const MAX_COLUMNS: usize = 1_024;
/// So much is kept of a row that is longer than [`MAX_ROW`], in bytes.
const EXCERPT: usize = 1_000;

const UTF8_MARK: &[u8] = b"\xEF\xBB\xBF";
const UTF16_MARKS: [&[u8]; 2] = [b"\xFF\xFE", b"\xFE\xFF"];

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// A header, then a row a lead (RFC 4180).
    Csv,
    /// A JSON object a line.
    Ndjson,
}

/// Where the next row begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Place {
    /// Bytes before it.
    pub(super) offset: u64,
    /// Lines before it.
    lines: u64,
    /// Rows before it.
    pub(super) rows: u64,
}

/// One row, as it stands in the file.
pub(super) struct Row {
    /// The line it begins on, from 1 on.
    pub(super) line: u64,
    /// Its bytes, without the line end.
    pub(super) raw: Vec<u8>,
}

/// What a row says of a lead, under the names it has in the queue.
pub(super) type Told = Result<Map<String, Value>, RowError>;

/// Why a row is no lead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    /// As the gateway would refuse it.
    #[error(transparent)]
    Lead(#[from] ArrivalError),
    /// Fields that the header does not name, or names without a field.
    #[error("the row has {found} fields, and the header {expected}")]
    FieldCount { found: usize, expected: usize },
    /// More than [`MAX_COLUMNS`].
    #[error("the row has more than {MAX_COLUMNS} fields")]
    TooManyFields,
    /// A quote is open at the end of the file, or after [`MAX_ROW`] bytes.
    #[error("a quote that opens on this line is not closed")]
    OpenQuote,
    /// Longer than [`MAX_ROW`].
    #[error("the row is longer than {MAX_ROW} bytes; only its beginning is kept here")]
    TooLong,
    /// In another encoding.
    #[error("not UTF-8; save the file as UTF-8")]
    NotUtf8,
    /// `attributes` is something else.
    #[error("attributes: not a JSON object")]
    Attributes,
    /// Two fields of one row are the same.
    #[error(transparent)]
    Conflict(#[from] super::mapping::Conflict),
    /// Looks like a lead's document, and cannot be read as one.
    #[error("not the document of a lead: {0}")]
    Document(#[source] serde_json::Error),
    /// A row of an export.
    #[error("the export says that this lead must not be mailed")]
    Suppressed,
    /// A row of an export that was changed, or of a newer one.
    #[error("status: not one that an export writes, such as NEW or SUPPRESSED")]
    Status,
}

impl RowError {
    /// A word for programs, as [`ArrivalError::code`].
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Lead(error) => error.code(),
            Self::FieldCount { .. } | Self::TooManyFields => "field_count",
            Self::OpenQuote => "open_quote",
            Self::TooLong => "row_too_long",
            Self::NotUtf8 => "not_utf8",
            Self::Attributes => "invalid_attributes",
            Self::Conflict(_) => "field_twice",
            Self::Document(_) => "unreadable_document",
            Self::Suppressed => "suppressed",
            Self::Status => "unknown_status",
        }
    }
}

/// The rows of a file.
pub(super) struct Rows {
    lines: Lines,
    mapping: Mapping,
    /// None for NDJSON.
    table: Option<Table>,
}

/// What the header of a CSV file says, and room for one row.
struct Table {
    parser: csv_core::Reader,
    delimiter: u8,
    header: Vec<u8>,
    columns: String,
    targets: Vec<Target>,
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Rows {
    /// Reads the header where there is one. The place is that of the first row.
    pub(super) fn open(
        file: File,
        format: Format,
        delimiter: Option<u8>,
        mapping: Mapping,
    ) -> Result<Self, super::OpenError> {
        let mut lines = Lines { reader: BufReader::with_capacity(MAX_ROW, file), place: Place::default() };
        let start = lines.reader.fill_buf()?;
        if UTF16_MARKS.iter().any(|mark| start.starts_with(mark)) {
            return Err(UsageError::Utf16.into());
        }
        if start.starts_with(UTF8_MARK) {
            lines.go_to(Place { offset: UTF8_MARK.len() as u64, ..Place::default() })?;
        }
        let table = match format {
            Format::Csv => Some(Table::open(&mut lines, delimiter, &mapping)?),
            Format::Ndjson => None,
        };
        Ok(Self { lines, mapping, table })
    }

    /// What becomes of each column, for people.
    pub(super) fn columns(&self) -> Option<&str> {
        self.table.as_ref().map(|table| &*table.columns)
    }

    /// The header and the delimiter of a CSV file.
    pub(super) fn header(&self) -> Option<(&[u8], u8)> {
        self.table.as_ref().map(|table| (&*table.header, table.delimiter))
    }

    /// Where the next row begins.
    pub(super) fn place(&self) -> Place {
        self.lines.place
    }

    /// Goes on from there.
    pub(super) fn go_to(&mut self, place: Place) -> io::Result<()> {
        self.lines.go_to(place)
    }

    /// The next row, and what it says of a lead; none at the end. Rows without any content are passed over.
    pub(super) fn read(&mut self) -> io::Result<Option<(Row, Told)>> {
        let Self { lines, mapping, table } = self;
        let mut raw = Vec::new();
        loop {
            let line = lines.place.lines + 1;
            let Some(whole) = lines.read(&mut raw)? else { return Ok(None) };
            if is_blank(&raw, table.as_ref().map(|table| table.delimiter)) {
                raw.clear();
                continue;
            }
            let lead = match table {
                _ if !whole => Err(RowError::TooLong),
                Some(table) => table.read(lines, &mut raw)?.and_then(|cells| mapping.lead(cells)),
                None => read_json(&raw, mapping),
            };
            if matches!(lead, Err(RowError::TooLong)) {
                raw.truncate(EXCERPT);
            }
            if raw.ends_with(b"\n") {
                raw.pop();
            }
            lines.place.rows += 1;
            return Ok(Some((Row { line, raw }, lead)));
        }
    }
}

/// Lines without any content, and rows of empty cells, which spreadsheets leave at the end.
fn is_blank(line: &[u8], delimiter: Option<u8>) -> bool {
    line.iter()
        .all(|byte| byte.is_ascii_whitespace() || (delimiter.is_some() && *byte == b'"') || Some(*byte) == delimiter)
}

fn read_json(line: &[u8], mapping: &Mapping) -> Told {
    let text = std::str::from_utf8(line).map_err(|_| RowError::NotUtf8)?;
    let value: Value = serde_json::from_str(text).map_err(|error| ArrivalError::NotJson(error.to_string()))?;
    let Value::Object(mut fields) = value else { return Err(ArrivalError::NotAnObject.into()) };
    if ["leadId", "enrollments", "history"].iter().all(|field| fields.contains_key(*field)) {
        let lead: Lead = serde_json::from_value(Value::Object(fields)).map_err(RowError::Document)?;
        if lead.suppressed.is_some() {
            return Err(RowError::Suppressed);
        }
        fields = export::fields(&lead, None);
    }
    let targets = mapping.targets(&fields.keys().map(String::as_str).collect::<Vec<_>>())?;
    mapping.lead(targets.iter().zip(fields.into_iter().map(|(_, value)| value)))
}

impl Table {
    fn open(lines: &mut Lines, delimiter: Option<u8>, mapping: &Mapping) -> Result<Self, super::OpenError> {
        let mut header = Vec::new();
        loop {
            match lines.read(&mut header)? {
                None => return Err(UsageError::Empty.into()),
                Some(false) => return Err(UsageError::Header(RowError::TooLong).into()),
                Some(true) if !is_blank(&header, delimiter) => break,
                Some(true) => header.clear(),
            }
        }
        let delimiter = delimiter.unwrap_or_else(|| guess_delimiter(&header));
        let mut table = Self {
            // Line ends are made `\n` before it sees them, so a lone `\r` is text.
            parser: csv_core::ReaderBuilder::new()
                .delimiter(delimiter)
                .terminator(csv_core::Terminator::Any(b'\n'))
                .build(),
            delimiter,
            header: Vec::new(),
            columns: String::new(),
            targets: Vec::new(),
            text: vec![0; MAX_ROW],
            ends: vec![0; MAX_COLUMNS],
        };
        let count = table.parse(lines, &mut header)?.map_err(UsageError::Header)?;
        let names = table.fields(&header, count).map_err(UsageError::Header)?;
        let names = names.enumerate().map(|(at, name)| match name.trim() {
            "" => format!("column_{}", at + 1),
            name => name.to_owned(),
        });
        let names: Vec<String> = names.collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(UsageError::ColumnTwice { column: (*twice.1).to_owned() }.into());
        }
        if let Some(column) = mapping.missing(&names) {
            return Err(UsageError::NoSuchColumn { column: column.to_owned(), columns: names.join(", ") }.into());
        }
        let targets = mapping.targets(&names).map_err(UsageError::Conflict)?;
        if !has_email(&targets) {
            return Err(UsageError::NoEmail { columns: names.join(", ") }.into());
        }
        header.pop();
        Ok(Self { columns: describe(&names, &targets), targets, header, ..table })
    }

    /// Reads the row that begins with the line in `raw`, and takes what it needs of those that follow. A row that runs
    /// over several lines and is wrong is most often one whose quote was never closed: then only its first line is
    /// taken, so that no good rows go with it.
    fn read(
        &mut self,
        lines: &mut Lines,
        raw: &mut Vec<u8>,
    ) -> io::Result<Result<impl Iterator<Item = (&Target, Value)>, RowError>> {
        let (after, length) = (lines.place, raw.len());
        let parsed = self.parse(lines, raw)?;
        let expected = self.targets.len();
        let checked =
            parsed.and_then(
                |found| {
                    if found == expected { Ok(found) } else { Err(RowError::FieldCount { found, expected }) }
                },
            );
        if checked.is_err() && raw.len() > length {
            lines.go_to(after)?;
            raw.truncate(length);
        }
        let cells = checked.and_then(|count| self.fields(raw, count));
        // An empty cell says nothing, as an empty field of a form.
        let told = |(_, text): &(&Target, &str)| !text.trim().is_empty();
        let value = |(target, text): (_, &str)| (target, Value::String(text.to_owned()));
        Ok(cells.map(|cells| self.targets.iter().zip(cells).filter(told).map(value)))
    }

    /// Takes the row apart; gives the number of its fields.
    fn parse(&mut self, lines: &mut Lines, raw: &mut Vec<u8>) -> io::Result<Result<usize, RowError>> {
        self.parser.reset();
        let (mut fed, mut written, mut fields) = (0, 0, 0);
        loop {
            let (result, read, wrote, ended) =
                self.parser.read_record(&raw[fed..], &mut self.text[written..], &mut self.ends[fields..]);
            (fed, written, fields) = (fed + read, written + wrote, fields + ended);
            match result {
                ReadRecordResult::Record => return Ok(Ok(fields)),
                ReadRecordResult::OutputFull => return Ok(Err(RowError::TooLong)),
                ReadRecordResult::OutputEndsFull => return Ok(Err(RowError::TooManyFields)),
                // Within a quote: the row goes on with the next line.
                ReadRecordResult::InputEmpty | ReadRecordResult::End => {
                    let line = lines.read(raw)?;
                    if line != Some(true) || raw.len() > MAX_ROW {
                        return Ok(Err(RowError::OpenQuote));
                    }
                }
            }
        }
    }

    /// The fields of the row that was taken apart.
    fn fields(&self, raw: &[u8], count: usize) -> Result<impl Iterator<Item = &str>, RowError> {
        if std::str::from_utf8(raw).is_err() {
            return Err(RowError::NotUtf8);
        }
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        // Cut at delimiters and quotes, which are ASCII: what was UTF-8 as a whole is so in its parts.
        let field = |(start, end): (usize, usize)| std::str::from_utf8(&self.text[start..end]).unwrap_or_default();
        Ok(starts.zip(self.ends.iter().copied()).take(count).map(field))
    }
}

/// The one of `,`, `;`, tab and `|` that is most often in the header, outside of quotes.
fn guess_delimiter(header: &[u8]) -> u8 {
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0), (b'|', 0)];
    let mut quoted = false;
    for &byte in header {
        quoted ^= byte == b'"';
        if let Some((_, count)) = counts.iter_mut().find(|(delimiter, _)| !quoted && *delimiter == byte) {
            *count += 1;
        }
    }
    // Of equals, the first.
    counts.iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(delimiter, _)| *delimiter)
}

/// The lines of a file.
struct Lines {
    reader: BufReader<File>,
    place: Place,
}

impl Lines {
    /// Appends the next line, its end made `\n` where it is `\r\n`, or the file's. Says whether that is the whole line: of one
    /// longer than [`MAX_ROW`] the rest is passed over. None at the end.
    fn read(&mut self, into: &mut Vec<u8>) -> io::Result<Option<bool>> {
        let read = (&mut self.reader).take(MAX_ROW as u64 + 1).read_until(b'\n', into)?;
        if read == 0 {
            return Ok(None);
        }
        let whole = into.ends_with(b"\n") || read <= MAX_ROW;
        let passed = if whole { 0 } else { self.reader.skip_until(b'\n')? };
        self.place.offset += (read + passed) as u64;
        self.place.lines += 1;
        if into.ends_with(b"\n") {
            into.pop();
        }
        if into.ends_with(b"\r") {
            into.pop();
        }
        into.push(b'\n');
        Ok(Some(whole))
    }

    fn go_to(&mut self, place: Place) -> io::Result<()> {
        self.reader.seek(SeekFrom::Start(place.offset))?;
        self.place = place;
        Ok(())
    }
}
