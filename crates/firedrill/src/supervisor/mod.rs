//! Starts a mesh on this machine and keeps it running: control plane, proxies and workloads as child processes.
//!
//! [`start`] is used by `up`, and by `demo` and `drill run` for as long as they last. A running supervisor is asked
//! through [`client::Client`], found by its state folder. Nothing it started outlives it, however it ends.

pub mod api;
pub mod client;
mod entrusted;
pub mod folder;
mod holds;
mod join;
mod journal;
mod keeper;
pub mod layout;
mod log;
pub mod plane;
mod ready;
mod restart;
mod serve;
mod silence;
mod spawn;
mod start;
mod view;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use control::store::StoreAddress;
use model::{Source, config::Config};

pub use spawn::keep_files_private;
pub use start::{Running, Sink, start};

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The manifests as read, applied to the control plane.
    pub sources: Vec<Source>,
    /// The same, validated.
    pub config: Config,
    /// Git commit that they are of, if the caller knows; else it is looked for.
    pub commit: Option<String>,
    /// Where the control plane keeps revisions; `None`: in the state folder.
    pub store: Option<StoreAddress>,
    /// State folder; made if missing.
    pub state: PathBuf,
    /// Bound on everything becoming ready.
    pub patience: Duration,
    /// Gateways and workloads whose proxy somebody else starts: it is placed, and left alone.
    pub without: BTreeSet<String>,
    /// Which program each proxy is.
    pub plane: plane::DataPlane,
}

/// What happens while a mesh starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A step began: `control plane`, `configuration`, `proxies and workloads`.
    Step(&'static str),
    /// What is still waited for, by name; told each second.
    Waiting(Vec<String>),
    /// Everything is ready.
    Ready,
    /// Something ended unexpectedly, or loops; for people.
    Trouble(String),
}

/// Why a mesh could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another supervisor works in this state folder.
    #[error("a mesh is running in {} already (process {pid})", state.display())]
    Busy {
        /// The folder.
        state: PathBuf,
        /// Process id of the other supervisor.
        pid: u32,
    },
    /// A proxy to do without, or to be an Envoy, is not of this mesh.
    #[error("there is no proxy `{name}`; there are {}", known.join(", "))]
    NoProxy {
        /// What was asked for.
        name: String,
        /// Proxies of the mesh.
        known: Vec<String>,
    },
    /// Files or addresses.
    #[error("{what}: {reason}")]
    Machine {
        /// What was tried.
        what: String,
        /// What was seen.
        reason: String,
    },
    /// A process did not become ready.
    #[error("{name} did not become ready: {reason}\nits last lines ({}):\n{}", log.display(), lines.join("\n"))]
    NotReady {
        /// The process.
        name: String,
        /// What was seen last.
        reason: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        lines: Vec<String>,
    },
    /// The control plane refused the manifests, or did not answer.
    #[error("the control plane: {0}")]
    Control(String),
}
