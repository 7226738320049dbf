//! The ledger's file: one line of JSON for each change, appended before the change is acknowledged.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::Path,
};

use super::book::{Book, Change};

/// An open file of changes. What was written survives the death of the process; with `fsync`, also the machine's.
#[derive(Debug)]
pub struct Journal {
    file: File,
    fsync: bool,
}

impl Journal {
    /// Opens or makes the file and applies what it holds. A last line that was cut off by a crash was never
    /// acknowledged, and is dropped.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds a whole line that is no change.
    pub fn open(path: &Path, fsync: bool, book: &mut Book) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut reader = BufReader::new(&file);
        let (mut line, mut whole) = (Vec::new(), 0_u64);
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                break;
            }
            let change: Change = serde_json::from_slice(&line).map_err(|e| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} at byte {whole}: {e}", path.display()))
            })?;
            book.apply(change);
            whole += read as u64;
        }
        file.set_len(whole)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file, fsync })
    }

    /// Writes changes.
    ///
    /// # Errors
    /// When they may not be on the file; they must not be acknowledged then.
    pub fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut lines = Vec::new();
        for change in changes {
            serde_json::to_writer(&mut lines, change)?;
            lines.push(b'\n');
        }
        self.file.write_all(&lines)?;
        if self.fsync { self.file.sync_data() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::ledger::book::Role;

    #[test]
    fn a_line_that_was_cut_off_is_dropped_and_the_rest_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        let role = |epoch| Change::Role { role: Role::Primary, epoch };
        let mut book = Book::new(Role::Standby);
        Journal::open(&path, true, &mut book).unwrap().append(&[role(2), role(3)]).unwrap();
        let text = std::fs::read(&path).unwrap();
        for cut in 1..=text.len() {
            std::fs::write(&path, &text[..cut]).unwrap();
            let mut book = Book::new(Role::Standby);
            let mut journal = Journal::open(&path, false, &mut book).unwrap();
            let whole = text[..cut].iter().filter(|b| **b == b'\n').count() as u64;
            assert_eq!(book.epoch(), whole + 1);
            journal.append(&[role(9)]).unwrap();
            let mut again = Book::new(Role::Standby);
            Journal::open(&path, false, &mut again).unwrap();
            assert_eq!(again.epoch(), 9);
        }
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(Journal::open(&path, false, &mut Book::new(Role::Standby)).is_err());
    }
}
