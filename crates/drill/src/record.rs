//! What an engine keeps of attempts: where, sealed how, and why not.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use evidence::{
    bundle,
    ledger::Ledger,
    record::{Attempt, Verdict},
    results::Results,
};
use model::name::DrillName;
use tokio::sync::watch;

/// Where an attempt keeps what it knows.
#[derive(Clone, Debug)]
pub struct Places {
    /// State folder: the ledger and the journals of open attempts are in it.
    pub state: PathBuf,
    /// Where the bundle `<drill>-<attempt>.drill` is written.
    pub out: PathBuf,
}

/// How an attempt is run, beside what its manifests say.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a mesh that is not in the plan's normal state is waited for, before the attempt is refused.
    pub wait: Duration,
    /// Who runs it.
    pub operator: String,
}

/// A sealed attempt.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// What was recorded.
    pub attempt: Attempt,
    /// What was measured.
    pub results: Results,
    /// What follows from it.
    pub verdict: Verdict,
    /// The bundle.
    pub bundle: PathBuf,
}

/// Why there is no sealed attempt. Everything that goes wrong with the mesh is a verdict instead.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// No such drill.
    #[error("there is no drill `{0}`")]
    Unknown(DrillName),
    /// A probe asks a gateway that does not run.
    #[error("probe {probe}: gateway {gateway} is not listening anywhere")]
    NoGateway {
        /// Probe.
        probe: String,
        /// Gateway.
        gateway: String,
    },
    /// The mesh does not say what it is, so the record could not say what was tested.
    #[error("the mesh cannot be identified: {0}")]
    Unidentified(String),
    /// Another engine works with this state folder.
    #[error("another drill is running with {}", .0.display())]
    Busy(PathBuf),
    /// The ledger or the journal cannot be used; nothing was done without a record.
    #[error("cannot keep the record: {0}")]
    Record(String),
}

impl DrillError {
    pub(crate) fn record(error: impl std::fmt::Display) -> Self {
        Self::Record(error.to_string())
    }
}

/// Stops a drill when a reason is put into it; Ctrl-C, `drill abort` and the console do the same thing.
pub type Abort = watch::Receiver<Option<String>>;

/// Time to live of the drill's lease.
pub const LEASE_TTL: Duration = Duration::from_secs(3);

/// Appends the seal to the ledger and writes the bundle.
pub(crate) fn seal(attempt: Attempt, ledger: &mut Ledger, now: i64, out: &Path) -> Result<Sealed, DrillError> {
    std::fs::create_dir_all(out).map_err(DrillError::record)?;
    let sealed = bundle::seal(&attempt, ledger, now, out).map_err(DrillError::record)?;
    Ok(Sealed { attempt, verdict: sealed.results.verdict, results: sealed.results, bundle: sealed.path })
}

pub(crate) fn open_ledger(places: &Places) -> Result<Ledger, DrillError> {
    Ledger::open(&places.state.join("ledger")).map_err(DrillError::record)
}

/// One engine at a time works with a state folder; `None` when another one does. The lock goes with its process.
pub(crate) fn lock(state: &Path) -> Result<Option<File>, DrillError> {
    std::fs::create_dir_all(state).map_err(DrillError::record)?;
    let path = state.join("engine.lock");
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(DrillError::record)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(DrillError::record(error)),
    }
}
