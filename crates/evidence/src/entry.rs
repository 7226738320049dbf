//! Entries of the ledger, and the file that holds them. Pure: bytes in, entries out.
//!
//! `entries.log` has a line per entry: its RFC 6962 leaf hash in hexadecimal, a space, its canonical JSON. The hash in
//! front names the entry that was damaged; that none was changed together with its hash follows from the checkpoint.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    canonical,
    merkle::{self, Hash},
};

/// Entries longer than this are refused: nothing of an attempt but its registration is that large.
pub const MAX_ENTRY: usize = 4 << 20;

/// Kinds that the ledger itself understands. Others are opaque to it.
pub mod kind {
    /// An attempt was registered and given its number.
    pub const REGISTERED: &str = "attemptRegistered";
    /// An attempt was sealed.
    pub const SEALED: &str = "attemptSealed";
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// Position in the ledger, from 0.
    pub index: u64,
    /// What it is about: `attemptRegistered`, `attemptSealed`, `configurationApplied`, `leaseTaken`, …
    pub kind: String,
    /// When, by the writer's clock: RFC 3339, UTC.
    pub time: String,
    /// Detail.
    pub body: Value,
    /// Format of the entry: [`VERSION`] for new ones. Entries of format 1 do not have the field.
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub version: u64,
}

/// Format of the entries that this program writes: a registration names the seal of the attempt before it, and a bundle
/// ends at its own seal.
pub const VERSION: u64 = 2;

fn first_version() -> u64 {
    1
}

fn is_first_version(version: &u64) -> bool {
    *version == 1
}

/// What is wrong with the text of an entry.
#[derive(Debug, thiserror::Error)]
#[error("entry {index} (byte {offset} of entries.log): {why}")]
pub struct EntryError {
    /// Which entry, from 0.
    pub index: u64,
    /// Where its line starts.
    pub offset: usize,
    /// What was seen.
    pub why: String,
}

/// An entry with its hash and its bytes as they were hashed.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The entry.
    pub entry: Entry,
    /// Its leaf hash.
    pub leaf: Hash,
}

/// RFC 3339 of nanoseconds since the Unix epoch, in UTC.
pub fn rfc3339(wall: i64) -> String {
    Timestamp::from_nanosecond(i128::from(wall)).map_or_else(|_| "unknown".to_owned(), |time| time.to_string())
}

/// The line of an entry, with its newline.
pub fn encode(entry: &Entry) -> Result<(Vec<u8>, Hash), canonical::CanonicalError> {
    let json = canonical::to_vec(entry)?;
    let leaf = merkle::leaf(&json);
    let mut line = canonical::hex(&leaf).into_bytes();
    line.push(b' ');
    line.extend_from_slice(&json);
    line.push(b'\n');
    Ok((line, leaf))
}

/// Reads whole lines, of which the first is entry `first` and starts at `base` of the file. Returns what was read and
/// the number of bytes behind the last whole line.
pub fn parse(bytes: &[u8], first: u64, base: usize) -> Result<(Vec<Line>, usize), EntryError> {
    let (mut lines, mut at) = (Vec::new(), 0);
    while let Some(length) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        let index = first + lines.len() as u64;
        let line = parse_line(&bytes[at..at + length], index).map_err(|why| EntryError {
            index,
            offset: base.saturating_add(at),
            why,
        })?;
        lines.push(line);
        at += length + 1;
    }
    Ok((lines, bytes.len() - at))
}

fn parse_line(line: &[u8], index: u64) -> Result<Line, String> {
    let (Some(hash), Some(b' ')) = (line.get(..64).and_then(canonical::unhex), line.get(64)) else {
        return Err("does not begin with its hash".to_owned());
    };
    let json = &line[65..];
    if merkle::leaf(json) != hash {
        return Err("was changed: it does not have the hash that stands in front of it".to_owned());
    }
    let entry: Entry = canonical::from_slice(json).map_err(|error| error.to_string())?;
    if entry.index != index {
        return Err(format!("says that it is entry {}: entries were removed, added or swapped", entry.index));
    }
    Ok(Line { entry, leaf: hash })
}
