//! The evidence bundle: one deterministic file with everything of a sealed attempt, and the proofs that it stands in the
//! ledger. Sealing writes it; [`verify`] checks it offline with no installation.
//!
//! Order of the file: manifest, the parts of the attempt, results, then what closes it: proofs, checkpoint, signed
//! statements, public key. The manifest holds the digests of the parts; the seal entry of the ledger holds the digest of
//! the manifest; the proofs lead from the seal entry to the signed checkpoint.

mod archive;
mod claim;
mod closing;
mod columns;
mod limits;
mod parts;
mod verify;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    attempts::{Registered, SealBody},
    canonical,
    entry::kind,
    files::{self, FileError},
    ledger::{Ledger, LedgerError},
    record::{Attempt, Verdict},
    results::Results,
};
use archive::Part;
use parts::Manifest;

pub use claim::{Claim, compare, compare_with_ledger};
pub use limits::Limits;
pub use verify::{verify, verify_claim, verify_file};

/// Why a bundle could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The bytes are not a bundle.
    #[error("not an evidence bundle: {0}")]
    Malformed(String),
    /// The attempt is not what the ledger knows; nothing was written.
    #[error("attempt {number} of {drill} cannot be sealed: {why}")]
    Unsealable {
        /// Drill name.
        drill: String,
        /// Number.
        number: u64,
        /// Why.
        why: String,
    },
    /// The ledger said no.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The file system said no.
    #[error("bundle: {0}")]
    File(#[from] FileError),
}

/// A sealed attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Sealed {
    /// The bundle.
    pub path: PathBuf,
    /// Index of its seal in the ledger.
    pub entry: u64,
    /// What was measured.
    pub results: Results,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckOutcome {
    /// It holds.
    Passed,
    /// It does not hold.
    Failed,
    /// It cannot be decided from the bundle alone.
    NotChecked,
}

/// One check of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was checked: `file`, `form`, `key`, `manifest`, `parts`, `checkpoint`, `inclusion`, …
    pub name: String,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// What was seen.
    pub detail: String,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Drill, if it could be read.
    pub drill: Option<String>,
    /// Attempt, if it could be read.
    pub attempt: Option<u64>,
    /// Verdict as sealed, if it could be read. Only to be believed if every check passed.
    pub verdict: Option<Verdict>,
    /// True if the reader gave the key to trust. If not, the key was taken from the bundle itself: anybody may have made it.
    pub signer_known: bool,
    /// All checks, in order.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether no check failed.
    pub fn ok(&self) -> bool {
        self.checks.iter().all(|check| check.outcome != CheckOutcome::Failed)
    }

    /// Checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.outcome == CheckOutcome::Failed)
    }
}

/// What a bundle does not show, for reports: stated in every one of them.
pub const DOES_NOT_SHOW: [&str; 5] = [
    "This is evidence toward a control, not a statement of compliance.",
    "Requests of real customers: what was measured is what the probes saw.",
    "What was not in the scenario: other faults, other hours, higher load, longer outages.",
    "That the people named in it were who they are said to be: approvals are not signed in this version.",
    "Independent time or witnesses: whoever holds the ledger's key could have rewritten all of it.",
];

/// Seals an attempt: appends the seal entry with the digest of all parts, then writes `<out>/<drill>-<attempt>.drill`
/// atomically. `time` is nanoseconds since the Unix epoch. The journal of the attempt is in the bundle, and removed.
///
/// A crash in between leaves the parts in the ledger's folder, from which [`resume`] goes on.
///
/// # Errors
/// If the attempt is not registered so, or is sealed already, or a file cannot be written.
pub fn seal(attempt: &Attempt, ledger: &mut Ledger, time: i64, out: &Path) -> Result<Sealed, BundleError> {
    let unsealable =
        |why: String| BundleError::Unsealable { drill: attempt.drill.clone(), number: attempt.number, why };
    attempt.validate().map_err(unsealable)?;
    let mut parts = parts::split(attempt).map_err(unsealable)?;
    // Measured from what a reader of the bundle will have, so that nothing of the encoding can make a difference.
    let results = parts::join(parts::VERSION, &parts, &Limits::LARGE, true)
        .and_then(|record| record.results())
        .map_err(unsealable)?;
    parts.push(Part::new(parts::RESULTS, results));
    let manifest = Manifest::of(&attempt.drill, attempt.number, &parts);
    let manifest = canonical::to_vec(&manifest).map_err(|error| unsealable(error.to_string()))?;
    parts.insert(0, Part::new(parts::MANIFEST, manifest));
    // Only now, so that other writers do not wait while samples are measured.
    let _lock = ledger.locked()?;
    check_registered(attempt, ledger)?;
    let pending = pending_path(ledger, &attempt.drill, attempt.number);
    files::replace(&pending, &archive::write(&parts).map_err(unsealable)?)?;
    finish(parts, ledger, time, out)
}

/// Completes seals that a crash interrupted. Call it at the start of an engine, before [`Ledger::open_attempts`].
///
/// # Errors
/// If the ledger or a file cannot be used, or parts that were left do not belong to the ledger.
pub fn resume(ledger: &mut Ledger, time: i64, out: &Path) -> Result<Vec<Sealed>, BundleError> {
    let _lock = ledger.locked()?;
    let folder = ledger.dir().join("pending");
    let io = |source| FileError::new(&folder, source);
    let mut paths = Vec::new();
    for file in fs::read_dir(&folder).map_err(io)? {
        let path = file.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "parts") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut sealed = Vec::new();
    for path in paths {
        let bytes = files::read_from(&path, 0, Limits::LARGE.file)?;
        let parts = archive::read(&bytes).map_err(BundleError::Malformed)?;
        sealed.push(finish(parts, ledger, time, out)?);
    }
    Ok(sealed)
}

/// Reads the file of a bundle, or of a checkpoint, to be verified or shown: only a regular file, and no more than the
/// largest bundle.
///
/// # Errors
/// If it cannot be read, is not a regular file, or is larger.
pub fn load(path: &Path, limits: &Limits) -> std::io::Result<Vec<u8>> {
    load_bounded(path, limits.file)
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// If it cannot be read, is not a regular file, or is larger.
pub fn load_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    files::read_bounded(path, limit)
}

/// From manifest, parts and results to the sealed file; the lock is held and the parts are durable.
fn finish(mut parts: Vec<Part<'_>>, ledger: &mut Ledger, time: i64, out: &Path) -> Result<Sealed, BundleError> {
    let first = parts.first().ok_or_else(|| BundleError::Malformed("it has no parts".to_owned()))?;
    let manifest = Manifest::read(&first.bytes).map_err(BundleError::Malformed)?;
    let (drill, number) = (manifest.drill.clone(), manifest.attempt);
    let unsealable = |why: String| BundleError::Unsealable { drill: drill.clone(), number, why };
    let results = closing::results_of(&parts, &Limits::LARGE).map_err(unsealable)?;
    let body =
        SealBody { drill: drill.clone(), number, verdict: results.verdict, manifest: canonical::digest(&first.bytes) };
    let entry = seal_entry(ledger, time, &body)?;
    let closing = closing::close(ledger, &manifest, &results, &parts, entry).map_err(unsealable)?;
    parts.extend(closing);
    fs::create_dir_all(out).map_err(|source| FileError::new(out, source))?;
    let path = out.join(format!("{drill}-{number}.drill"));
    files::replace(&path, &archive::write(&parts).map_err(unsealable)?)?;
    for left in [pending_path(ledger, &drill, number), ledger.journal_path(&drill, number)] {
        match fs::remove_file(&left) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(FileError::new(&left, error).into());
            }
            _ => {}
        }
    }
    Ok(Sealed { path, entry, results })
}

/// Appends the seal, or finds the one that is there if an earlier try came so far.
fn seal_entry(ledger: &mut Ledger, time: i64, body: &SealBody) -> Result<u64, BundleError> {
    let unsealable = |why: String| BundleError::Unsealable { drill: body.drill.clone(), number: body.number, why };
    let value = serde_json::to_value(body).map_err(|error| unsealable(error.to_string()))?;
    let sealed = ledger.attempts().get(&body.drill, body.number).and_then(|known| known.sealed);
    let Some(index) = sealed.map(|seal| seal.index) else { return Ok(ledger.write(kind::SEALED, time, value)?) };
    if ledger.entry(index)?.body != value {
        return Err(unsealable(format!("entry {index} sealed it with other parts")));
    }
    Ok(index)
}

fn pending_path(ledger: &Ledger, drill: &str, number: u64) -> PathBuf {
    ledger.dir().join("pending").join(format!("{drill}-{number}.parts"))
}

/// The attempt is open, and its plan, objectives and regions are those that were registered. Its description and clock
/// may be completed until it is sealed.
fn check_registered(attempt: &Attempt, ledger: &Ledger) -> Result<(), BundleError> {
    let unsealable =
        |why: String| BundleError::Unsealable { drill: attempt.drill.clone(), number: attempt.number, why };
    let known = ledger.attempts().get(&attempt.drill, attempt.number);
    let known = known.ok_or_else(|| unsealable("it was never registered".to_owned()))?;
    if let Some(seal) = known.sealed {
        return Err(unsealable(format!("entry {} sealed it already", seal.index)));
    }
    let entry = ledger.entry(known.registered)?;
    let body: Registered = serde_json::from_value(entry.body).map_err(|error| unsealable(error.to_string()))?;
    let registered = body.registration.attempt(body.number, attempt.ending.clone());
    let registered = registered.map_err(|error| unsealable(error.to_string()))?;
    let is_same = registered.digest == attempt.digest
        && registered.registered == canonical::exact(attempt.registered.clone())
        && registered.objectives == attempt.objectives
        && registered.plan == attempt.plan
        && registered.lost_region == attempt.lost_region
        && registered.recovery_regions == attempt.recovery_regions
        && registered.tested == attempt.tested
        && registered.normal == attempt.normal;
    if is_same { Ok(()) } else { Err(unsealable(format!("it is not what entry {} registered", known.registered))) }
}

/// Reads a bundle for `show` and reports. It is not verified.
///
/// # Errors
/// If the bytes are not a bundle.
pub fn read(bytes: &[u8]) -> Result<(Attempt, Results), BundleError> {
    let parts = archive::read(bytes).map_err(BundleError::Malformed)?;
    let first = parts.first().filter(|part| part.name == parts::MANIFEST);
    let first = first.ok_or_else(|| BundleError::Malformed(format!("it does not begin with {}", parts::MANIFEST)))?;
    let manifest = Manifest::read(&first.bytes).map_err(BundleError::Malformed)?;
    let results = closing::results_of(&parts, &Limits::LARGE).map_err(BundleError::Malformed)?;
    let is_of_attempt =
        |part: &&Part| part.name != parts::RESULTS && manifest.parts.iter().any(|named| named.name == part.name);
    let of_attempt: Vec<Part> = parts.iter().filter(is_of_attempt).map(Part::borrowed).collect();
    let record = parts::join(manifest.version, &of_attempt, &Limits::LARGE, true).map_err(BundleError::Malformed)?;
    Ok((record.into_attempt().map_err(BundleError::Malformed)?, results))
}
