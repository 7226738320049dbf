//! The control plane's API in types: HTTP/1.1 JSON, `authorization: Bearer <token>`. Field names are camelCase.
//!
//! ```text
//! GET    /healthz                                the process is up (no token)
//! GET    /readyz                                 it serves the API and ADS (no token)
//! PUT    /v1/config                              ApplyRequest → Applied (`if-match: "N"` is `expect`)
//! GET    /v1/config                              → Revision (with files); `etag: "N"`
//! GET    /v1/revisions                           → [Revision] (without files), newest first
//! GET    /v1/revisions/{number}                  → Revision (with files)
//! POST   /v1/revisions/{number}/rollback         RollbackRequest → Applied
//! PUT    /v1/source                              SourceReport → {}
//! GET    /v1/source                              → SourceReport, if manifests are watched
//! GET    /v1/sources                             → [SourceOfEndpoints]
//! PUT    /v1/placements                          Placements → {}
//! GET    /v1/placements                          → Placements
//! PUT    /v1/placements/{proxy}                  Placement → {} (one that joins, or moves)
//! DELETE /v1/placements/{proxy}                  → {}
//! GET    /metrics                                Prometheus text (no token)
//! POST   /v1/tokens                              TokenRequest → JoinToken
//! POST   /v1/certificates                        CertificateRequest → Certificate (bearer: a join token, or none)
//! GET    /v1/trust                               → Trust
//! GET    /v1/proxies                             → [ProxyReport]
//! GET    /v1/loads                               → [LoadReport]
//! GET    /v1/proxies/{name}/config               → ProxyConfiguration
//! GET    /v1/proxies/{name}/requests?after=N     → RequestsReport (collected while it is asked every 3 s)
//! PUT    /v1/leases/{id}                         LeaseRequest → LeaseReport
//! POST   /v1/leases/{id}/heartbeat               → LeaseReport
//! DELETE /v1/leases/{id}                         → {}
//! GET    /v1/leases                              → [LeaseReport]
//! PUT    /v1/leases/{id}/overlays/{name}         OverlayRequest → OverlayReport
//! DELETE /v1/leases/{id}/overlays/{name}         → {}
//! GET    /v1/events?after=N&wait_ms=M            → Events (long poll, at most 30 s)
//! GET    /v1/recovery                            → [RecoveryReport]
//! POST   /v1/recovery/{plan}/failover            RecoveryRequest → RecoveryReport
//! POST   /v1/recovery/{plan}/failback            RecoveryRequest → RecoveryReport
//! ```
//! A refusal is an [`ErrorBody`] with a status: 400 malformed, 401 no or wrong token, 404 not there, 409 not in this
//! state, 412 another revision is in force than expected, 413 too large, 422 the manifests have problems.

mod event;
mod identity;
mod lease;
mod place;
mod proxy;
mod recovery;
mod revision;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
pub use xds::clock::Stamp;

pub use self::{event::*, identity::*, lease::*, place::*, proxy::*, recovery::*, revision::*};

/// `run/control.json` in the state folder (mode 0600): where the control plane is and what opens it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunFile {
    /// HTTP API.
    pub api: SocketAddr,
    /// ADS (gRPC over TLS).
    pub ads: SocketAddr,
    /// Bundle endpoint (HTTPS), where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<SocketAddr>,
    /// Bearer token of the API. Stays the same over restarts.
    pub token: String,
    /// Process id of the control plane that wrote it.
    pub pid: u32,
}

impl RunFile {
    /// Where the API is served to processes of the same user: a Unix socket in the state folder.
    pub fn socket(state_dir: &Path) -> PathBuf {
        state_dir.join("run").join("control.sock")
    }
}

impl std::fmt::Debug for RunFile {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunFile").field("api", &self.api).field("ads", &self.ads).field("pid", &self.pid).finish()
    }
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// One sentence.
    pub error: String,
    /// For manifests: every problem, as `model::Problem` serializes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Value>,
}
