//! (being written)
use std::path::{Path, PathBuf};

use crate::{
    ledger::Ledger,
    note::VerifierKey,
    record::{Attempt, Verdict},
    results::Results,
};

/// Why a bundle could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not readable.
    #[error("{0}")]
    Malformed(String),
}

/// A sealed attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Sealed {
    /// The bundle.
    pub path: PathBuf,
    /// Index of its entry in the ledger.
    pub entry: u64,
    /// What was measured.
    pub results: Results,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckOutcome {
    /// It holds.
    Passed,
    /// It does not hold.
    Failed,
    /// It could not be decided from the bundle alone.
    NotChecked,
}

/// One check of a bundle.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// What was seen.
    pub detail: String,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Drill, if it could be read.
    pub drill: Option<String>,
    /// Attempt, if it could be read.
    pub attempt: Option<u64>,
    /// Verdict as sealed, if it could be read. Only to be believed if every check passed.
    pub verdict: Option<Verdict>,
    /// All checks, in order.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether no check failed.
    pub fn ok(&self) -> bool {
        self.checks.iter().all(|check| check.outcome != CheckOutcome::Failed)
    }
}

/// Appends the seal entry and writes `<out>/<drill>-<attempt>.drill` atomically.
pub fn seal(_attempt: &Attempt, _ledger: &mut Ledger, _time: i64, _out: &Path) -> Result<Sealed, BundleError> {
    Err(BundleError::Malformed("being written".into()))
}

/// Completes seals that were interrupted between the ledger and the file. Call at start, before `open_attempts`.
pub fn resume(_ledger: &mut Ledger, _time: i64, _out: &Path) -> Result<Vec<Sealed>, BundleError> {
    Ok(Vec::new())
}

/// Checks a bundle offline.
pub fn verify(_bytes: &[u8], _key: Option<&VerifierKey>) -> Report {
    Report { drill: None, attempt: None, verdict: None, checks: Vec::new() }
}

/// Reads a bundle for `show` and reports, without verifying it.
pub fn read(_bytes: &[u8]) -> Result<(Attempt, Results), BundleError> {
    Err(BundleError::Malformed("being written".into()))
}
