//! The write-ahead journal of an attempt: each intent with its undo is durable before its effect.
//!
//! A file of canonical JSON lines; a torn last line (its append never returned) is cut when it is opened.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::{canonical, record::JournalEntry};

/// Journals longer than this are refused at open.
const MAX_JOURNAL: u64 = 256 << 20;

/// Why a journal could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system said no.
    #[error("journal {path}: {source}", path = path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A whole line is not an entry.
    #[error("journal {path}, line {line}: {why}", path = path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What was seen.
        why: String,
    },
    /// An entry cannot be written as JSON.
    #[error("journal {path}: {source}", path = path.display())]
    Encode {
        /// File.
        path: PathBuf,
        /// Why.
        source: canonical::CanonicalError,
    },
}

/// The journal of one unsealed attempt.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    entries: Vec<JournalEntry>,
}

impl Journal {
    /// Opens or creates it, and cuts a torn tail.
    ///
    /// # Errors
    /// If the file cannot be used, or a whole line of it is damaged.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let bytes = read_all(&file).map_err(io)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let entries =
            parse(&bytes[..whole]).map_err(|(line, why)| JournalError::Damaged { path: path.to_owned(), line, why })?;
        if whole < bytes.len() {
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(io)?;
        }
        file.seek(SeekFrom::End(0)).map_err(io)?;
        if let Some(folder) = path.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        }
        Ok(Self { path: path.to_owned(), file, length: whole as u64, entries })
    }

    /// Appends an entry; it is on disk when this returns.
    ///
    /// # Errors
    /// If it could not be made durable: the effect must not happen then.
    pub fn append(&mut self, entry: JournalEntry) -> Result<(), JournalError> {
        let mut line =
            canonical::to_vec(&entry).map_err(|source| JournalError::Encode { path: self.path.clone(), source })?;
        line.push(b'\n');
        let io = |source| JournalError::Io { path: self.path.clone(), source };
        if let Err(error) = self.file.write_all(&line).and_then(|()| self.file.sync_data()) {
            // Half a line must not stand in front of the next one; if it cannot be cut either, opening will refuse it.
            self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length))).map_err(io)?;
            return Err(io(error));
        }
        self.length += line.len() as u64;
        self.entries.push(entry);
        Ok(())
    }

    /// What it holds, in order.
    pub fn entries(&self) -> &[JournalEntry] {
        &self.entries
    }

    /// Gives the entries away, for sealing.
    pub fn into_entries(self) -> Vec<JournalEntry> {
        self.entries
    }
}

/// Reads a journal without changing it, a torn tail left out; one that was never opened is empty.
///
/// # Errors
/// If the file cannot be read, or a whole line of it is damaged.
pub fn inspect(path: &Path) -> Result<Vec<JournalEntry>, JournalError> {
    let bytes = match File::open(path).and_then(|file| read_all(&file)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(JournalError::Io { path: path.to_owned(), source }),
    };
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    parse(&bytes[..whole]).map_err(|(line, why)| JournalError::Damaged { path: path.to_owned(), line, why })
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_JOURNAL + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_JOURNAL {
        return Err(io::Error::other(format!("has more than {MAX_JOURNAL} bytes")));
    }
    Ok(bytes)
}

/// Reads whole lines; an error names the line, from 1.
fn parse(bytes: &[u8]) -> Result<Vec<JournalEntry>, (usize, String)> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let read = |(at, line)| canonical::from_slice(line).map_err(|error| (at + 1, error.to_string()));
    lines.enumerate().map(read).collect()
}
