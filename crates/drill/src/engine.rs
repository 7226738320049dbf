//! One attempt of a drill, from its registration to the sealed bundle.

use std::{path::PathBuf, sync::Arc, time::Duration};

use evidence::record::{Attempt, Verdict};
use model::{config::Config, name::DrillName};
use tokio::sync::{mpsc, watch};

use crate::{progress::Progress, target::Target};

/// Where an attempt keeps what it knows.
#[derive(Clone, Debug)]
pub struct Places {
    /// State folder: the ledger and the journals of open attempts are in it.
    pub state: PathBuf,
    /// Where the bundle `<drill>-<attempt>.drill` is written.
    pub out: PathBuf,
}

/// A sealed attempt.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// What was recorded.
    pub attempt: Attempt,
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
    /// The ledger or the journal cannot be used; nothing was done without a record.
    #[error("cannot keep the record: {0}")]
    Record(String),
    /// The prober could not be started.
    #[error("cannot start the probes: {0}")]
    Probes(#[source] std::io::Error),
}

/// Stops a drill when a reason is put into it; Ctrl-C, `drill abort` and the console do the same thing.
pub type Abort = watch::Receiver<Option<String>>;

/// Time to live of the drill's lease.
pub const LEASE_TTL: Duration = Duration::from_secs(3);

/// Runs one attempt and seals it, whatever its verdict.
///
/// # Errors
/// When it cannot be recorded: then nothing was done to the mesh, or the lease has been given back.
pub async fn run<T: Target>(
    target: Arc<T>,
    config: &Config,
    drill: &DrillName,
    places: &Places,
    progress: mpsc::Sender<Progress>,
    abort: Abort,
) -> Result<Sealed, DrillError> {
    let _ = (target, config, places, progress, abort);
    Err(DrillError::Unknown(drill.clone()))
}

/// Finds attempts whose engine died: undoes what their journals say, and seals each as crashed. To be called at every
/// start, before anything else is done with the state folder. With a target, leases that are still held are released too.
///
/// # Errors
/// When the record cannot be read or kept.
pub async fn recover_crashed<T: Target>(target: Option<Arc<T>>, places: &Places) -> Result<Vec<Sealed>, DrillError> {
    let _ = (target, places);
    Ok(Vec::new())
}
