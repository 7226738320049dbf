//! The ADS client: a state machine that collects complete snapshots, and the gRPC stream around it.

mod connector;
mod delta;
#[cfg(test)]
mod delta_tests;
mod parts;
mod protocol;
mod reports;
mod session;
mod whole;
#[cfg(test)]
mod whole_tests;

use std::{future::Future, io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

pub(crate) use self::connector::Connector;
pub use self::reports::Loads;
use self::{delta::DeltaCore, whole::WholeCore};
use crate::{node::NodeInfo, overlay::Overlay, resource::ResourceKind, snapshot::Snapshot};

/// What the control plane says.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The stream is up and the control plane has answered.
    Connected,
    /// The stream broke, or could not be made; the client tries again by itself. Sent once per loss.
    Lost {
        /// Why.
        reason: String,
    },
    /// A new snapshot, complete: every reference in it has its target.
    Snapshot {
        /// As the control plane named it.
        version: String,
        /// The snapshot.
        snapshot: Arc<Snapshot>,
    },
    /// Something was refused; what is in force stays in force.
    Rejected {
        /// What.
        kind: ResourceKind,
        /// Its version.
        version: String,
        /// Why, with the path of the field.
        reason: String,
    },
    /// These are the overlays now, each for its time to live from now; any other is taken back.
    Overlays(Vec<(Overlay, Duration)>),
    /// These overlays (by id) live on for the time given from now; the others are as they were.
    Heartbeat(Vec<(String, Duration)>),
}

/// What became of a snapshot at its receiver. Until it says so, the control plane is not told that it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Of the snapshot, as the control plane named it.
    pub version: String,
    /// Why it is not in force; `None` when it is. A snapshot that was refused may be in force later.
    pub refused: Option<String>,
}

/// A running client.
#[derive(Debug)]
pub struct Client {
    /// What the control plane says.
    pub updates: mpsc::Receiver<Update>,
    /// Takes one verdict on each [`Update::Snapshot`]; the client waits for it. Another may follow a refusal.
    pub verdicts: mpsc::Sender<Verdict>,
}

/// How changes are told on the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Resource by resource, and what is still there after a break is not told again.
    #[default]
    Delta,
    /// Each kind as a whole: for control planes that do not speak the other.
    StateOfTheWorld,
}

/// How to reach and address the control plane.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Who we are.
    pub node: NodeInfo,
    /// Sent as `authorization: Bearer <token>`; nothing is, if it is empty.
    pub token: String,
    /// HTTP/2 authority, for instance `control`.
    pub authority: String,
    /// Which protocol it speaks.
    pub transport: Transport,
    /// What is reported of the load, to a control plane that asks; `None` reports nothing.
    pub loads: Option<Loads>,
}

/// Updates that wait for their receiver.
const WAITING: usize = 64;

/// Starts the client as a task of the current runtime. It calls `connect` for each connection (TCP and TLS are the
/// caller's), reconnects with jittered back-off (100 ms to 2 s), and ends when a part of [`Client`] is dropped. The channel is
/// bounded: a receiver that does not read holds the stream back.
///
/// Named things of a snapshot come sorted by name.
pub fn start<C, F, IO>(config: ClientConfig, connect: C) -> Client
where
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (updates, received) = mpsc::channel(WAITING);
    let (verdicts, given) = mpsc::channel(WAITING);
    let (node, connect) = (config.node.clone(), Arc::new(connect));
    match config.transport {
        Transport::Delta => tokio::spawn(session::run(DeltaCore::new(node), config, connect, updates, given)),
        Transport::StateOfTheWorld => tokio::spawn(session::run(WholeCore::new(node), config, connect, updates, given)),
    };
    Client { updates: received, verdicts }
}
