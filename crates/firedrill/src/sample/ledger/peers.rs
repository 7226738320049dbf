//! The ledgers of the other regions, reached through the mesh.

use std::time::Duration;

use futures_util::future::join_all;
use hyper::{StatusCode, body::Bytes};
use serde::{Deserialize, Serialize};

use super::{
    Workload,
    book::{Page, Role},
};
use crate::sample::http::{CallError, Caller};

/// Bound on one question to a peer: it is asked before anything is written, so a lost region must not hold that up.
const QUESTION: Duration = Duration::from_millis(500);
/// Bound on a write that is passed on.
const PASS: Duration = Duration::from_millis(1_500);

/// What a ledger says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerStatus {
    /// Region.
    pub region: String,
    /// Role.
    pub role: Role,
    /// Epoch.
    pub epoch: u64,
    /// Number of entries.
    pub entries: usize,
}

/// Why a peer did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Another status than 200: by the mesh, or the peer.
    #[error("status {status}: {body}")]
    Status {
        /// HTTP status.
        status: u16,
        /// What came with it.
        body: String,
    },
    /// Not what was asked for.
    #[error("unreadable answer: {0}")]
    Unreadable(String),
}

/// Calls to the ledgers of the other regions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    own: String,
    /// In the mesh's order, the own one among them.
    regions: Vec<String>,
    mesh: Caller,
}

impl Peers {
    /// The peers of a workload.
    pub fn new(workload: &Workload) -> Self {
        Self { own: workload.region.clone(), regions: workload.regions.clone(), mesh: Caller::new(workload.mesh) }
    }

    fn others(&self) -> impl Iterator<Item = &String> {
        self.regions.iter().filter(|region| **region != self.own)
    }

    /// Whether the own region stands before the other one in the mesh's order.
    pub fn own_first(&self, other: &str) -> bool {
        let place = |name: &str| self.regions.iter().position(|region| region == name);
        place(&self.own) < place(other)
    }

    /// Regions to pull from: the one that is known, or all.
    pub fn candidates(&self, known: Option<&str>) -> Vec<String> {
        match known {
            Some(known) => vec![known.to_owned()],
            None => self.others().cloned().collect(),
        }
    }

    /// Asks all at once.
    pub async fn statuses(&self) -> Vec<(String, Result<LedgerStatus, PeerError>)> {
        let asked = self.others().map(|region| async move {
            let path = format!("/status?peer={}", self.own);
            (region.clone(), self.get::<LedgerStatus>(region, &path).await)
        });
        join_all(asked).await
    }

    /// Whether the workload's own proxy listens.
    pub async fn meshed(&self) -> bool {
        self.mesh.connects().await
    }

    /// A page of a peer's entries.
    pub async fn page(&self, region: &str, after: usize, last_epoch: u64) -> Result<Page, PeerError> {
        self.get(region, &format!("/replicate?after={after}&epoch={last_epoch}")).await
    }

    /// Asks every peer to stop writing in favour of the own region. Answers of those that could be reached.
    pub async fn hand_over(&self) -> Vec<(String, Result<LedgerStatus, PeerError>)> {
        let asked = self.others().map(|region| async move {
            let path = format!("/handover?to={}", self.own);
            let answer = self.mesh.post(&host(region), &path, Bytes::new(), false, QUESTION).await;
            (region.clone(), answer.map_err(PeerError::from).and_then(|(status, body)| read(status, &body)))
        });
        join_all(asked).await
    }

    /// Passes a write on; status and body as they came.
    pub async fn forward(&self, region: &str, entry: Bytes) -> Result<(StatusCode, Bytes), CallError> {
        self.mesh.post(&host(region), "/entries", entry, true, PASS).await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, region: &str, path: &str) -> Result<T, PeerError> {
        let (status, body) = self.mesh.get(&host(region), path, QUESTION).await?;
        read(status, &body)
    }
}

/// The ledger in one region only.
fn host(region: &str) -> String {
    format!("ledger.{region}")
}

fn read<T: serde::de::DeserializeOwned>(status: StatusCode, body: &Bytes) -> Result<T, PeerError> {
    if status != StatusCode::OK {
        let body: String = String::from_utf8_lossy(body).chars().take(200).collect();
        return Err(PeerError::Status { status: status.as_u16(), body });
    }
    serde_json::from_slice(body).map_err(|e| PeerError::Unreadable(e.to_string()))
}
