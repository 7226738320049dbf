//! What the supervisor says over HTTP, and how it is found: types of the wire, one file that names address and token.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use xds::clock::Stamp;

/// Longest time to live of a hold: a drill engine that died has no effect for longer than this.
pub const MAX_TTL_MS: u64 = 3_000;

/// `run/supervisor.json` in the state folder, mode 0600: where the API of the running supervisor is. Our own processes call it
/// at [`Door::socket`] only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Door {
    /// Address of the API.
    pub api: SocketAddr,
    /// Bearer token.
    pub token: String,
    /// Process id of the supervisor.
    pub pid: u32,
}

impl Door {
    /// Where it is kept.
    pub fn path(state: &Path) -> PathBuf {
        state.join("run").join("supervisor.json")
    }

    /// Where the API is served to processes of the same user.
    pub fn socket(state: &Path) -> PathBuf {
        state.join("run").join("supervisor.sock")
    }

    /// Reads the file of a state folder. It may be stale: ask [`super::client::Client::mesh`].
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn read(state: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(Self::path(state))?)?)
    }
}

/// Life of one process that the supervisor looks after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessState {
    /// Started, or waiting out its back-off, and not seen ready yet.
    Starting,
    /// Ready, as last seen.
    Running,
    /// Killed under a hold, and not started again before its end.
    Killed,
    /// Stopped (SIGSTOP) under a hold.
    Paused,
    /// Dies again and again; started again only after the longest back-off.
    CrashLoop,
    /// Ended in the course of shutting down.
    Stopped,
    /// A proxy that somebody else starts and ends (`up --without`); what becomes of it is not known here.
    External,
}

/// One process that the supervisor looks after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessReport {
    /// Also the name of its log file.
    pub name: String,
    /// Process id, which is also its process group's; `None` while there is no process.
    pub pid: Option<u32>,
    /// Its life.
    pub state: ProcessState,
    /// Starts beyond the first, those after a hold not counted.
    pub restarts: u32,
    /// Its output.
    pub log: PathBuf,
}

/// A workload with its sidecar: `GET /v1/workloads`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadReport {
    /// The workload's process; flattened: `name`, `pid`, `state`, `restarts`, `log`.
    #[serde(flatten)]
    pub process: ProcessReport,
    /// Its service.
    pub service: String,
    /// Its region.
    pub region: String,
    /// Its version.
    pub version: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its sidecar takes requests of the mesh (mTLS).
    pub inbound: SocketAddr,
    /// Where its sidecar takes its own requests (plaintext HTTP proxy).
    pub outbound: SocketAddr,
    /// Its sidecar.
    pub proxy: ProxyProcess,
}

/// The process of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyProcess {
    /// The process.
    #[serde(flatten)]
    pub process: ProcessReport,
    /// Its admin address.
    pub admin: SocketAddr,
}

/// A gateway of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayReport {
    /// Its name in the manifest.
    pub gateway: String,
    /// Where it takes requests from outside (plaintext HTTP).
    pub listen: SocketAddr,
    /// Its process.
    pub proxy: ProxyProcess,
}

/// An endpoint that runs outside the mesh (`address:`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutsideReport {
    /// Name of the endpoint.
    pub name: String,
    /// Its service.
    pub service: String,
    /// Its region.
    pub region: String,
    /// Where it listens.
    pub address: SocketAddr,
}

/// The whole mesh: `GET /v1/mesh`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshReport {
    /// Name of the mesh.
    pub mesh: String,
    /// State folder, absolute.
    pub state: PathBuf,
    /// Address of the control plane's API; its token is in `run/control.json`.
    pub control: SocketAddr,
    /// Address of the supervisor's API; its token is in `run/supervisor.json`.
    pub supervisor: SocketAddr,
    /// The control plane's process.
    pub control_process: ProcessReport,
    /// Ways into the mesh.
    pub gateways: Vec<GatewayReport>,
    /// Workloads with their sidecars.
    pub workloads: Vec<WorkloadReport>,
    /// Endpoints that run outside the mesh.
    pub outside: Vec<OutsideReport>,
}

/// How a region is held down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HoldHow {
    /// SIGKILL; nothing is started again before the hold ends.
    Kill,
    /// SIGSTOP; SIGCONT when the hold ends.
    Pause,
}

/// `POST /v1/holds`: keep a region down as long as heartbeats come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HoldRequest {
    /// Chosen by the caller; unique among holds in force.
    pub id: String,
    /// The region.
    pub region: String,
    /// How.
    pub how: HoldHow,
    /// Time to live without heartbeat, 1 to [`MAX_TTL_MS`].
    pub ttl_ms: u64,
}

/// Answer to [`HoldRequest`], given when every process of the region is dead or stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HoldReport {
    /// The hold.
    pub id: String,
    /// Workload processes hit.
    pub workloads: usize,
    /// Sidecar processes hit.
    pub proxies: usize,
    /// When the first process was certainly dead or stopped (seen, not assumed).
    pub effective: Stamp,
    /// When the last one was.
    pub complete: Stamp,
}

/// `POST /v1/undos`: run the undo commands of a lease when its heartbeats stop. The command is on disk, in the state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UndoRequest {
    /// The engine's lease.
    pub lease: String,
    /// Name of the undo's record.
    pub undo: String,
    /// Time to live without heartbeat, 1 to [`MAX_TTL_MS`].
    pub ttl_ms: u64,
}

/// Something that the supervisor did or saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Position in the log since the supervisor started; gapless, from 1.
    pub sequence: u64,
    /// When, by the supervisor's clock.
    pub time: Stamp,
    /// What.
    pub kind: EventKind,
}

/// Kinds of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum EventKind {
    /// A process was started.
    Started {
        /// Its name.
        process: String,
        /// Its id.
        pid: u32,
    },
    /// It answered ready.
    Ready {
        /// Its name.
        process: String,
    },
    /// It ended.
    Exited {
        /// Its name.
        process: String,
        /// Its id.
        pid: u32,
        /// `exit code 1`, `signal 9`.
        cause: String,
    },
    /// It lived and answered nobody, and was ended for that.
    Hung {
        /// Its name.
        process: String,
        /// Its id.
        pid: u32,
    },
    /// It died so often that it is started again only after the longest back-off.
    CrashLoop {
        /// Its name.
        process: String,
    },
    /// A process was killed or stopped under a hold.
    Held {
        /// Its name.
        process: String,
        /// The hold.
        hold: String,
        /// How.
        how: HoldHow,
    },
    /// A hold was taken.
    HoldTaken {
        /// The hold.
        hold: String,
        /// The region.
        region: String,
    },
    /// A hold ended; what it held down is started or continued.
    HoldEnded {
        /// The hold.
        hold: String,
        /// Heartbeats stayed away, rather than being released.
        lapsed: bool,
    },
    /// The undo of a command that is about to be run was entrusted to the supervisor.
    UndoEntrusted {
        /// Its name.
        undo: String,
        /// The lease whose heartbeats stand for the engine's life.
        lease: String,
    },
    /// The engine's heartbeats stayed away, and an undo that it owed was run.
    UndoRun {
        /// Its name.
        undo: String,
        /// Whether it succeeded.
        ok: bool,
        /// What was seen, if it did not.
        reason: String,
    },
    /// The supervisor is shutting down.
    Stopping,
}

/// `GET /v1/events?after=N&wait_ms=M`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Events {
    /// Random per start of the supervisor; a new one means that sequences begin anew.
    pub boot: String,
    /// Events after `after`, in order.
    pub events: Vec<Event>,
    /// Events after `after` that the bounded log no longer has.
    pub dropped: u64,
}

/// Body of every answer that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A sentence for the person who must act.
    pub error: String,
}
