//! The ledger: an append-only Merkle log (RFC 6962) in a folder, with a signed checkpoint (C2SP).
//!
//! Many processes may append: each append takes a lock, reads what others appended, writes its entry, makes it durable,
//! and then replaces the checkpoint, which commits it; [`commit`] says what an interrupted append leaves behind, and how it
//! is told from a file that somebody put back. Everything before the checkpoint must have its root hash.
//!
//! Folder: `entries.log`, `checkpoint`, `checkpoint.next` (during an append), `high-water`, `key.pem` (private, 0600),
//! `key.pub`, `lock`, `journal/`, `pending/`. A ledger that was rolled back as a whole is found by comparing it with a
//! bundle that was sealed later: `firedrill evidence verify BUNDLE --ledger DIR`.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use ed25519_dalek::SigningKey;
use serde_json::Value;

use crate::{
    attempts::{Attempts, Registered},
    commit::{self, Found, Repair},
    entry::{self, Entry, EntryError, Line, MAX_ENTRY, VERSION, kind},
    files::{self, FileError},
    journal::{self, Journal, JournalError},
    merkle::{self, Frontier, Hash},
    note::{Checkpoint, NoteError, VerifierKey},
    record::{Attempt, Ending, JournalEntry, Registration},
};

/// Longest `entries.log` that is read: beyond it the ledger refuses to open, rather than to exhaust memory.
const MAX_LOG: u64 = 4 << 30;

/// Why the ledger could not be opened, read or appended to.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file system said no.
    #[error("ledger: {0}")]
    File(#[from] FileError),
    /// The folder is not a ledger, or half of one.
    #[error("ledger {path}: {why}", path = path.display())]
    Incomplete {
        /// Folder.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// An entry was changed, removed, added or swapped.
    #[error("ledger: {0}")]
    Entry(#[from] EntryError),
    /// The checkpoint or key was changed.
    #[error("ledger: {0}")]
    Note(#[from] NoteError),
    /// Entries and checkpoint do not belong together.
    #[error("ledger: {0}")]
    Checkpoint(String),
    /// An entry is against the rules of the ledger; nothing was written.
    #[error("ledger: the new entry {0}")]
    Rejected(String),
    /// A journal could not be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// An attempt that was registered and not sealed: its engine died, or is still at work.
#[derive(Debug)]
pub struct OpenAttempt {
    /// Number, from 1.
    pub number: u64,
    /// What was registered.
    pub registration: Registration,
    /// Intents, effects and undos, in order.
    pub journal: Vec<JournalEntry>,
}

impl OpenAttempt {
    /// The record of it with what is known: registration and journal.
    ///
    /// # Errors
    /// If the registration has no canonical form (it came from the ledger, so it has one).
    pub fn attempt(self, ending: Ending) -> Result<Attempt, crate::canonical::CanonicalError> {
        let mut attempt = self.registration.attempt(self.number, ending)?;
        attempt.journal = self.journal;
        Ok(attempt)
    }
}

/// What was found in a ledger that is in order.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerReport {
    /// Name of the log.
    pub origin: String,
    /// Its public key.
    pub key: VerifierKey,
    /// Number of entries.
    pub entries: u64,
    /// Root hash over them.
    pub root: Hash,
    /// Attempts registered.
    pub attempts: u64,
    /// Drill and number of those that are not sealed.
    pub open: Vec<(String, u64)>,
    /// Bytes behind the checkpoint: an append that was interrupted before it was acknowledged.
    pub torn: usize,
}

/// A ledger that was verified, with what a bundle is compared with.
#[derive(Debug)]
pub struct Verified {
    /// What was found.
    pub report: LedgerReport,
    /// Its leaves as a tree.
    pub tree: merkle::Tree,
    /// Leaf hashes, in order.
    pub leaves: Vec<Hash>,
}

/// A ledger, open for appending.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    signer: SigningKey,
    key: VerifierKey,
    log: Log,
}

/// What one process knows of the log.
#[derive(Debug, Default)]
struct Log {
    leaves: Vec<Hash>,
    frontier: Frontier,
    /// Where each entry's line starts.
    offsets: Vec<u64>,
    /// Length of the committed part of `entries.log`.
    length: u64,
    attempts: Attempts,
}

impl Log {
    fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// Reads the lines that follow, up to the checkpoint's size; returns the bytes behind it.
    fn extend<'a>(&mut self, bytes: &'a [u8], checkpoint: &Checkpoint) -> Result<&'a [u8], LedgerError> {
        let base = usize::try_from(self.length).unwrap_or(usize::MAX);
        let mut at = 0;
        while self.size() < checkpoint.size {
            let Some(length) = bytes[at..].iter().position(|byte| *byte == b'\n') else {
                return Err(LedgerError::Checkpoint(format!(
                    "entry {} and those after it were removed: the checkpoint has {} entries",
                    self.size(),
                    checkpoint.size
                )));
            };
            let (lines, _) = entry::parse(&bytes[at..=at + length], self.size(), base.saturating_add(at))?;
            for line in lines {
                self.admit(&line, (length + 1) as u64)?;
            }
            at += length + 1;
        }
        let root = self.frontier.root();
        if self.size() != checkpoint.size || root != checkpoint.root {
            return Err(LedgerError::Checkpoint(format!(
                "the {} entries do not have the root hash of the signed checkpoint: entries and their hashes were \
                 changed together, or the checkpoint is of another ledger",
                checkpoint.size
            )));
        }
        Ok(&bytes[at..])
    }

    /// What is to be done with the bytes behind the checkpoint.
    fn judge(&self, notes: &Notes, tail: &[u8]) -> Result<Repair, LedgerError> {
        let root_at_high_water = notes.high_water.as_ref().and_then(|mark| match mark.size == self.size() {
            true => Some(self.frontier.root()),
            false => {
                let leaves = usize::try_from(mark.size).ok().and_then(|size| self.leaves.get(..size));
                leaves.map(merkle::root)
            }
        });
        let found = Found {
            checkpoint: &notes.checkpoint,
            high_water: notes.high_water.as_ref(),
            root_at_high_water,
            next: notes.next.as_ref(),
            tail,
            root_with_tail: entry::parse(tail, self.size(), 0).ok().and_then(|(lines, rest)| {
                match (&lines[..], rest) {
                    ([line], 0) => {
                        let mut frontier = self.frontier.clone();
                        frontier.push(line.leaf);
                        Some(frontier.root())
                    }
                    _ => None,
                }
            }),
            is_current: self.attempts.version() == VERSION,
        };
        commit::judge(&found).map_err(LedgerError::Checkpoint)
    }

    fn admit(&mut self, line: &Line, length: u64) -> Result<(), EntryError> {
        self.attempts.admit(&line.entry, &line.leaf).map_err(|why| EntryError {
            index: line.entry.index,
            offset: usize::try_from(self.length).unwrap_or(usize::MAX),
            why,
        })?;
        self.leaves.push(line.leaf);
        self.frontier.push(line.leaf);
        self.offsets.push(self.length);
        self.length += length;
        Ok(())
    }
}

impl Ledger {
    /// Opens the ledger in `dir`, or makes it with a new key. Cuts a torn tail; refuses anything else that is wrong.
    ///
    /// # Errors
    /// If it cannot be read, is damaged (the message names the entry), or another process holds its lock for too long.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        files::make_folder(dir, 0o700)?;
        for folder in ["journal", "pending"] {
            files::make_folder(&dir.join(folder), 0o700)?;
        }
        let _lock = files::lock(&dir.join("lock"))?;
        let signer = if dir.join("key.pem").exists() { files::read_key(&dir.join("key.pem"))? } else { create(dir)? };
        let key = VerifierKey::of(&signer);
        let mut ledger = Self { dir: dir.to_owned(), signer, key, log: Log::default() };
        ledger.refresh()?;
        Ok(ledger)
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its public key.
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    pub(crate) fn signer(&self) -> &SigningKey {
        &self.signer
    }

    /// Number of entries, as of the last operation.
    pub fn size(&self) -> u64 {
        self.log.size()
    }

    /// Attempts, as of the last operation.
    pub fn attempts(&self) -> &Attempts {
        &self.log.attempts
    }

    /// The signed head of the log, as of the last operation.
    pub fn checkpoint(&self) -> String {
        self.head().sign(&self.signer)
    }

    fn head(&self) -> Checkpoint {
        Checkpoint { origin: self.key.name().to_owned(), size: self.log.size(), root: self.log.frontier.root() }
    }

    /// All leaves as a tree, as of the last operation: for roots and proofs of any earlier size.
    pub(crate) fn tree(&self) -> merkle::Tree {
        merkle::Tree::new(&self.log.leaves)
    }

    /// Proof that entry `index` is in the log, as of the last operation.
    pub fn inclusion(&self, index: u64) -> Option<Vec<Hash>> {
        merkle::inclusion(&self.log.leaves, usize::try_from(index).ok()?)
    }

    /// Proof that the log of `size` entries is a prefix of this one.
    pub fn consistency(&self, size: u64) -> Option<Vec<Hash>> {
        merkle::consistency(&self.log.leaves, usize::try_from(size).ok()?)
    }

    /// Appends an entry; `time` is nanoseconds since the Unix epoch. It is durable when this returns its index.
    ///
    /// # Errors
    /// If it could not be made durable, or is against the rules.
    pub fn append(&mut self, kind: &str, time: i64, body: Value) -> Result<u64, LedgerError> {
        let _lock = self.locked()?;
        self.write(kind, time, body)
    }

    /// Registers an attempt and gives it the next number of its drill. The entry names the seal of the attempt before it.
    ///
    /// # Errors
    /// As [`Ledger::append`]; also if the drill's name cannot be a file name, or the attempt before it is not sealed.
    pub fn register_attempt(&mut self, time: i64, registration: &Registration) -> Result<u64, LedgerError> {
        if !files::is_plain_name(&registration.drill) {
            return Err(LedgerError::Rejected(format!(
                "has a drill name that cannot be a file name: {:?}",
                registration.drill
            )));
        }
        registration.validate().map_err(|why| LedgerError::Rejected(format!("cannot be measured: {why}")))?;
        let _lock = self.locked()?;
        let number = self.log.attempts.of(&registration.drill).len() as u64 + 1;
        let previous = self.log.attempts.previous_seal(&registration.drill).map_err(LedgerError::Rejected)?;
        let reject = |error: crate::canonical::CanonicalError| LedgerError::Rejected(error.to_string());
        let registered = Registered {
            drill: registration.drill.clone(),
            number,
            digest: registration.digest().map_err(reject)?,
            registration: registration.clone(),
            previous,
        };
        let body = serde_json::to_value(&registered).map_err(|error| LedgerError::Rejected(error.to_string()))?;
        self.write(kind::REGISTERED, time, body)?;
        Ok(number)
    }

    /// The write-ahead journal of an unsealed attempt.
    ///
    /// # Errors
    /// If there is no such attempt, or its file cannot be used.
    pub fn journal(&self, drill: &str, number: u64) -> Result<Journal, LedgerError> {
        match self.log.attempts.get(drill, number) {
            Some(known) if known.sealed.is_none() => Ok(Journal::open(&self.journal_path(drill, number))?),
            Some(_) => Err(LedgerError::Rejected(format!("cannot be: attempt {number} of {drill} is sealed"))),
            None => Err(LedgerError::Rejected(format!("cannot be: there is no attempt {number} of {drill}"))),
        }
    }

    pub(crate) fn journal_path(&self, drill: &str, number: u64) -> PathBuf {
        journal_path(&self.dir, drill, number)
    }

    /// Attempts that are registered and not sealed, with their journals. At the start of an engine, and with the engine's
    /// own lock held, these are the ones that died.
    ///
    /// # Errors
    /// If the ledger or a journal cannot be read.
    pub fn open_attempts(&mut self) -> Result<Vec<OpenAttempt>, LedgerError> {
        let _lock = self.locked()?;
        let open: Vec<_> = self
            .log
            .attempts
            .all()
            .filter(|(_, _, known)| known.sealed.is_none())
            .map(|(drill, number, known)| (drill.to_owned(), number, known.registered))
            .collect();
        let mut found = Vec::new();
        for (drill, number, index) in open {
            let entry = self.entry(index)?;
            let registered: Registered = serde_json::from_value(entry.body).map_err(|error| EntryError {
                index,
                offset: 0,
                why: error.to_string(),
            })?;
            let journal = Journal::open(&self.journal_path(&drill, number))?.into_entries();
            found.push(OpenAttempt { number, registration: registered.registration, journal });
        }
        Ok(found)
    }

    /// One entry.
    ///
    /// # Errors
    /// If there is none with this index, or it cannot be read.
    pub fn entry(&self, index: u64) -> Result<Entry, LedgerError> {
        let position = usize::try_from(index).unwrap_or(usize::MAX);
        let Some(&from) = self.log.offsets.get(position) else {
            return Err(LedgerError::Checkpoint(format!("there is no entry {index}")));
        };
        let to = self.log.offsets.get(position + 1).copied().unwrap_or(self.log.length);
        let bytes = files::read_range(&self.dir.join("entries.log"), from, to)?;
        let (lines, _) = entry::parse(&bytes, index, usize::try_from(from).unwrap_or(usize::MAX))?;
        lines
            .into_iter()
            .next()
            .map(|line| line.entry)
            .ok_or_else(|| LedgerError::Checkpoint(format!("entry {index} is gone from the file")))
    }

    /// All entries from `from` on, as of now.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn entries(&mut self, from: u64) -> Result<Vec<Entry>, LedgerError> {
        let _lock = self.locked()?;
        (from..self.size()).map(|index| self.entry(index)).collect()
    }

    pub(crate) fn locked(&mut self) -> Result<files::Lock, LedgerError> {
        let lock = files::lock(&self.dir.join("lock"))?;
        self.refresh()?;
        Ok(lock)
    }

    /// Reads what other processes appended, and completes or cuts an append that was interrupted; the lock must be held.
    fn refresh(&mut self) -> Result<(), LedgerError> {
        let notes = Notes::read(&self.dir, &self.key)?;
        if notes.checkpoint.size < self.log.size() {
            return Err(LedgerError::Checkpoint(format!(
                "it was rolled back: {} entries now, {} before",
                notes.checkpoint.size,
                self.log.size()
            )));
        }
        let path = self.dir.join("entries.log");
        let bytes = files::read_from(&path, self.log.length, MAX_LOG)?;
        let tail = self.log.extend(&bytes, &notes.checkpoint)?;
        match self.log.judge(&notes, tail)? {
            Repair::None => return Ok(()),
            Repair::Commit => {
                let (lines, _) = entry::parse(tail, self.log.size(), 0)?;
                for line in lines {
                    self.log.admit(&line, tail.len() as u64)?;
                }
                return self.acknowledge(&self.checkpoint());
            }
            Repair::Cut => files::truncate(&path, self.log.length)?,
            Repair::Mark => {}
        }
        files::remove(&self.dir.join(commit::NEXT))?;
        Ok(files::replace(&self.dir.join(commit::HIGH_WATER), self.checkpoint().as_bytes())?)
    }

    /// The entry is durable, and `checkpoint.next` holds `head`: commits and acknowledges it.
    fn acknowledge(&self, head: &str) -> Result<(), LedgerError> {
        files::rename(&self.dir.join(commit::NEXT), &self.dir.join(commit::CHECKPOINT))?;
        Ok(files::replace(&self.dir.join(commit::HIGH_WATER), head.as_bytes())?)
    }

    /// Writes one entry and commits it; the lock must be held.
    pub(crate) fn write(&mut self, kind: &str, time: i64, body: Value) -> Result<u64, LedgerError> {
        let index = self.log.size();
        let body = crate::canonical::exact(body);
        let entry = Entry { index, kind: kind.to_owned(), time: entry::rfc3339(time), body, version: VERSION };
        let (line, leaf) = entry::encode(&entry).map_err(|error| LedgerError::Rejected(error.to_string()))?;
        if line.len() > MAX_ENTRY {
            return Err(LedgerError::Rejected(format!("has {} bytes, more than {MAX_ENTRY}", line.len())));
        }
        // Rules first, on a copy: a rejected entry must leave no trace.
        let mut attempts = self.log.attempts.clone();
        attempts.admit(&entry, &leaf).map_err(LedgerError::Rejected)?;
        let mut frontier = self.log.frontier.clone();
        frontier.push(leaf);
        let head = Checkpoint { size: index + 1, root: frontier.root(), ..self.head() }.sign(&self.signer);
        files::replace(&self.dir.join(commit::NEXT), head.as_bytes())?;
        self.write_line(&line)?;
        self.acknowledge(&head)?;
        self.log.attempts = attempts;
        self.log.leaves.push(leaf);
        self.log.frontier = frontier;
        self.log.offsets.push(self.log.length);
        self.log.length += line.len() as u64;
        Ok(index)
    }

    fn write_line(&self, line: &[u8]) -> Result<(), LedgerError> {
        let path = self.dir.join("entries.log");
        let io = |source| FileError::new(&path, source);
        let mut file = File::options().write(true).open(&path).map_err(io)?;
        file.seek(SeekFrom::Start(self.log.length)).map_err(io)?;
        file.write_all(line).and_then(|()| file.sync_all()).map_err(io)?;
        Ok(())
    }
}

/// A new ledger: key, empty log, checkpoint of size 0, in this order; a crash in between is taken up again by `open`.
fn create(dir: &Path) -> Result<SigningKey, LedgerError> {
    if dir.join("entries.log").metadata().is_ok_and(|file| file.len() > 0) {
        let why = "it has entries and no key (key.pem)".to_owned();
        return Err(LedgerError::Incomplete { path: dir.to_owned(), why });
    }
    let signer = files::new_key()?;
    let key = VerifierKey::of(&signer);
    let head = Checkpoint { origin: key.name().to_owned(), size: 0, root: merkle::root(&[]) };
    files::replace(&dir.join("entries.log"), b"")?;
    files::replace(&dir.join("key.pub"), format!("{key}\n").as_bytes())?;
    files::replace(&dir.join(commit::CHECKPOINT), head.sign(&signer).as_bytes())?;
    files::replace(&dir.join(commit::HIGH_WATER), head.sign(&signer).as_bytes())?;
    files::write_key(&dir.join("key.pem"), &signer)?;
    Ok(signer)
}

fn journal_path(dir: &Path, drill: &str, number: u64) -> PathBuf {
    dir.join("journal").join(format!("{drill}-{number}.jsonl"))
}

/// The signed notes of a ledger.
struct Notes {
    checkpoint: Checkpoint,
    high_water: Option<Checkpoint>,
    next: Option<Checkpoint>,
}

impl Notes {
    fn read(dir: &Path, key: &VerifierKey) -> Result<Self, LedgerError> {
        let note = |name: &str| -> Result<Option<Checkpoint>, LedgerError> {
            let path = dir.join(name);
            if !path.exists() {
                return Ok(None);
            }
            let read = Checkpoint::verify(&files::read_text(&path, 64 << 10)?, key);
            Ok(Some(read.map_err(|error| LedgerError::Checkpoint(format!("{name}: {error}")))?))
        };
        let Some(checkpoint) = note(commit::CHECKPOINT)? else {
            let why = "it has a key and no checkpoint".to_owned();
            return Err(LedgerError::Incomplete { path: dir.to_owned(), why });
        };
        Ok(Self { checkpoint, high_water: note(commit::HIGH_WATER)?, next: note(commit::NEXT)? })
    }
}

/// Reads the bytes of an `entries.log`: whole, in order, attempts gapless. For tools and fuzzing; no key is involved.
///
/// # Errors
/// The first entry that is wrong.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, LedgerError> {
    let (lines, rest) = entry::parse(bytes, 0, 0)?;
    let mut attempts = Attempts::default();
    let mut offset = 0;
    for line in &lines {
        attempts.admit(&line.entry, &line.leaf).map_err(|why| EntryError { index: line.entry.index, offset, why })?;
        offset += bytes[offset..].iter().position(|byte| *byte == b'\n').map_or(0, |length| length + 1);
    }
    if rest > 0 {
        let why = format!("{rest} bytes without an end of line");
        return Err(EntryError { index: lines.len() as u64, offset: bytes.len() - rest, why }.into());
    }
    Ok(lines.into_iter().map(|line| line.entry).collect())
}

/// Checks the ledger in `dir` without changing it: every entry's hash, order and place in the signed checkpoint, gapless
/// attempts, and the journal of each open one. `key` is the key to trust; without it, the ledger's own is used.
///
/// # Errors
/// The first thing that is wrong, by entry.
pub fn verify_ledger(dir: &Path, key: Option<&VerifierKey>) -> Result<LedgerReport, LedgerError> {
    Ok(verify_whole(dir, key)?.report)
}

/// As [`verify_ledger`], with the leaves that bundles are compared with.
///
/// # Errors
/// As [`verify_ledger`].
pub fn verify_whole(dir: &Path, key: Option<&VerifierKey>) -> Result<Verified, LedgerError> {
    if !dir.join("key.pub").exists() {
        let why = "it is not the folder of a ledger: it has no public key (key.pub)".to_owned();
        return Err(LedgerError::Incomplete { path: dir.to_owned(), why });
    }
    let own = VerifierKey::parse(&files::read_text(&dir.join("key.pub"), 4096)?)?;
    let key = key.unwrap_or(&own);
    let _lock = files::lock_shared(&dir.join("lock"))?;
    let notes = Notes::read(dir, key)?;
    let bytes = files::read_from(&dir.join("entries.log"), 0, MAX_LOG)?;
    let mut log = Log::default();
    let tail = log.extend(&bytes, &notes.checkpoint)?;
    log.judge(&notes, tail)?;
    let torn = tail.len();
    let open: Vec<_> = log
        .attempts
        .all()
        .filter(|(_, _, known)| known.sealed.is_none())
        .map(|(drill, number, _)| (drill.to_owned(), number))
        .collect();
    for (drill, number) in &open {
        journal::inspect(&journal_path(dir, drill, *number))?;
    }
    let report = LedgerReport {
        origin: notes.checkpoint.origin,
        key: key.clone(),
        entries: notes.checkpoint.size,
        root: notes.checkpoint.root,
        attempts: log.attempts.all().count() as u64,
        open,
        torn,
    };
    Ok(Verified { report, tree: merkle::Tree::new(&log.leaves), leaves: log.leaves })
}
