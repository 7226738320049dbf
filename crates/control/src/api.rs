//! The control plane's API in types: HTTP/1.1 JSON, `authorization: Bearer <token>`. Field names are camelCase.
//!
//! ```text
//! GET    /healthz                                the process is up (no token)
//! GET    /readyz                                 it serves the API and ADS (no token)
//! PUT    /v1/config                              ApplyRequest → Applied
//! GET    /v1/config                              → Revision (with files)
//! GET    /v1/revisions                           → [Revision] (without files), newest first
//! GET    /v1/revisions/{number}                  → Revision (with files)
//! PUT    /v1/placements                          Placements → {}
//! GET    /v1/placements                          → Placements
//! POST   /v1/certificates                        CertificateRequest → Certificate (bearer: the proxy's join token)
//! GET    /v1/trust                               → Trust
//! GET    /v1/proxies                             → [ProxyReport]
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
//! state, 413 too large, 422 the manifests have problems.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
pub use xds::clock::Stamp;
use xds::{
    event::Event,
    overlay::{Fault, Switch},
    resource::ResourceKind,
    status::ProxyStatus,
};

/// Longest time to live of a lease, in milliseconds.
pub const MAX_LEASE_TTL_MS: u64 = 3_000;
/// Shortest time to live of a lease, in milliseconds.
pub const MIN_LEASE_TTL_MS: u64 = 100;

/// `run/control.json` in the state folder (mode 0600): where the control plane is and what opens it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunFile {
    /// HTTP API.
    pub api: SocketAddr,
    /// ADS (gRPC over TLS).
    pub ads: SocketAddr,
    /// Bearer token of the API. Stays the same over restarts.
    pub token: String,
    /// Process id of the control plane that wrote it.
    pub pid: u32,
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

/// A manifest file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestFile {
    /// As problems shall name it.
    pub path: String,
    /// YAML.
    pub text: String,
}

/// New manifests; the whole set, not a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplyRequest {
    /// All files.
    pub files: Vec<ManifestFile>,
    /// Who applies.
    pub author: String,
    /// Why.
    pub message: String,
}

/// What became of new manifests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// The revision in force.
    pub revision: u64,
    /// False if the files are those of the revision already in force; then no revision was made.
    pub changed: bool,
    /// SHA-256 (hex) over the files.
    pub digest: String,
    /// Warnings, as `model::Problem` serializes them.
    pub warnings: Vec<Value>,
}

/// One stored set of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// From 1.
    pub number: u64,
    /// Who applied it.
    pub author: String,
    /// Why.
    pub message: String,
    /// When.
    pub time: Stamp,
    /// SHA-256 (hex) over the files.
    pub digest: String,
    /// Empty in lists.
    #[serde(default)]
    pub files: Vec<ManifestFile>,
}

/// Where everything runs: the whole truth, replacing what was there. Endpoints with `address:` are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placements {
    /// One per proxy.
    pub proxies: Vec<Placement>,
}

/// One proxy's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placement {
    /// The proxy's name: its workload's or its gateway's.
    pub proxy: String,
    /// Where its admin interface listens.
    pub admin: SocketAddr,
    /// What it stands before.
    pub role: Role,
}

/// What a proxy stands before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind", deny_unknown_fields)]
pub enum Role {
    /// A workload of the manifests. Its service, region, version and weight come from them.
    Sidecar {
        /// The service.
        service: String,
        /// The workload; also the proxy's name.
        workload: String,
        /// The region.
        region: String,
        /// Where the workload itself listens.
        app: SocketAddr,
        /// Where the sidecar accepts mutual TLS.
        inbound: SocketAddr,
        /// Where the sidecar accepts its workload's plaintext.
        outbound: SocketAddr,
    },
    /// A gateway of the manifests.
    Gateway {
        /// Its name; also the proxy's.
        gateway: String,
        /// Overrides the manifest's `listen`.
        #[serde(default)]
        listen: Option<SocketAddr>,
    },
}

/// Asks for a certificate. Authenticated with the proxy's join token, not with the API's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRequest {
    /// The proxy's name; it must be placed.
    pub proxy: String,
    /// PKCS #10, PEM. Only its public key is used; the identity follows from the placement.
    pub csr: String,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// PEM, leaf first.
    pub certificate: String,
    /// PEM, the roots to trust.
    pub roots: String,
    /// The identity it carries.
    pub spiffe_id: String,
    /// When it begins to be valid.
    pub not_before: Stamp,
    /// When it ends. Renew at half of the lifetime.
    pub not_after: Stamp,
}

/// Whom proxies trust in traffic: what is in force of the file `ca/trust.pem`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// PEM.
    pub roots: String,
}

/// One proxy as the control plane sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyReport {
    /// Its name.
    pub name: String,
    /// Its region; `None` for a gateway.
    pub region: Option<String>,
    /// The service it stands before, if it is a sidecar.
    pub service: Option<String>,
    /// The gateway it is, if it is one.
    pub gateway: Option<String>,
    /// Its admin address.
    pub admin: SocketAddr,
    /// Whether it has an ADS stream now.
    pub connected: bool,
    /// Version of the snapshot published for it.
    pub published: Option<String>,
    /// Versions acknowledged by kind.
    pub acked: BTreeMap<ResourceKind, String>,
    /// The last refusal, until it is mended.
    pub nack: Option<NackReport>,
    /// Digest that its effective configuration should have now (snapshot and overlays).
    pub wanted_digest: Option<String>,
    /// Ids of the overlays it should have now, sorted.
    pub wanted_overlays: Vec<String>,
    /// Whether it has what it should have: digests are equal, or, for proxies that tell no digest (Envoy), everything
    /// published is acknowledged.
    pub in_sync: bool,
    /// What it says of itself, asked now.
    pub status: Option<ProxyStatus>,
    /// Why it could not be asked.
    pub error: Option<String>,
}

/// A refused resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NackReport {
    /// What.
    pub kind: ResourceKind,
    /// Its version.
    pub version: String,
    /// Why.
    pub detail: String,
}

/// Takes a lease, or takes it anew with its overlays kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseRequest {
    /// [`MIN_LEASE_TTL_MS`]–[`MAX_LEASE_TTL_MS`].
    pub ttl_ms: u64,
    /// For logs and events.
    pub reason: String,
    /// Who holds it, for people.
    pub holder: String,
    /// Recovery of this plan is laid under the lease while it is held.
    #[serde(default)]
    pub plan: Option<String>,
}

/// A lease that is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseReport {
    /// Its id.
    pub id: String,
    /// Its time to live.
    pub ttl_ms: u64,
    /// What is left of it.
    pub remaining_ms: u64,
    /// For logs and events.
    pub reason: String,
    /// Who holds it.
    pub holder: String,
    /// The plan whose recovery is under it.
    pub plan: Option<String>,
    /// Overlays under it.
    pub overlays: Vec<OverlayReport>,
}

/// Lays an overlay under a lease, or replaces the one of this name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OverlayRequest {
    /// At which proxies.
    #[serde(default)]
    pub targets: Targets,
    /// What it does.
    pub effect: OverlayEffect,
}

/// At which proxies an overlay is laid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind", deny_unknown_fields)]
pub enum Targets {
    /// At those that its effect concerns.
    #[default]
    Concerned,
    /// Of those, only proxies in this region.
    Region {
        /// Which.
        region: String,
    },
    /// Of those, only proxies of workloads of this service, or the gateway of this name.
    Caller {
        /// Which.
        name: String,
    },
}

/// What an overlay does, as a drill says it. Each proxy gets its own part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum OverlayEffect {
    /// At proxies that call the service (all proxies if it names none).
    Fault(Fault),
    /// Cuts a region off: proxies outside drop what goes to it, proxies inside drop what goes to outside.
    Partition {
        /// Which.
        region: String,
    },
    /// A routing control, at proxies that call the service.
    Switch(Switch),
    /// Nothing, at all proxies.
    Harmless {},
}

/// An overlay that is laid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OverlayReport {
    /// `<lease>/<name>`: what proxies' events and statuses call it.
    pub id: String,
    /// Proxies that were told.
    pub proxies: Vec<String>,
    /// What it does.
    pub effect: OverlayEffect,
}

/// A piece of the merged log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Events {
    /// Random per start of the control plane.
    pub boot: String,
    /// In order; at most 1000.
    pub events: Vec<LogEntry>,
    /// Pass this as `after` next time.
    pub next: u64,
    /// Entries after `after` that the bounded log had already dropped.
    pub dropped: u64,
}

/// One entry of the merged log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogEntry {
    /// Grows with every entry, also over a restart of the control plane (it begins at the start's wall clock in µs).
    pub sequence: u64,
    /// When it happened, by its source's clock.
    pub time: Stamp,
    /// What happened.
    pub what: Logged,
}

/// Who said it, and what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Logged {
    /// A proxy. (`proxy`, `boot`, `event.sequence`) is unique; a restarted control plane reads proxies' logs anew.
    Proxy {
        /// Its name.
        proxy: String,
        /// Random per start of the proxy.
        boot: String,
        /// As it said it.
        event: Event,
    },
    /// The control plane.
    Control(ControlEvent),
}

/// What the control plane did or saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum ControlEvent {
    /// The process began.
    Started {
        /// Program version.
        version: String,
    },
    /// New manifests are in force.
    RevisionApplied {
        /// Number.
        revision: u64,
        /// Digest of the files.
        digest: String,
        /// Who.
        author: String,
    },
    /// New placements are in force.
    PlacementsApplied {
        /// Number of proxies.
        proxies: u64,
    },
    /// A snapshot could not be made or published for a proxy.
    PublishFailed {
        /// Its name.
        proxy: String,
        /// Why.
        reason: String,
    },
    /// A proxy opened its stream.
    ProxyConnected {
        /// Its name.
        proxy: String,
    },
    /// A proxy's stream ended.
    ProxyLost {
        /// Its name.
        proxy: String,
        /// Why.
        reason: String,
    },
    /// A proxy refused what it was sent.
    Nack {
        /// Its name.
        proxy: String,
        /// What.
        kind: ResourceKind,
        /// Its version.
        version: String,
        /// Why.
        detail: String,
    },
    /// Entries of a proxy's log were lost before they could be read.
    EventsMissed {
        /// Its name.
        proxy: String,
        /// How many.
        count: u64,
    },
    /// A new trust bundle of traffic is in force.
    TrustApplied {
        /// Number of roots in it.
        roots: u64,
    },
    /// The trust bundle's file changed to something that cannot be used; the old bundle stays in force.
    TrustRefused {
        /// Why.
        reason: String,
    },
    /// A certificate was signed.
    CertificateIssued {
        /// For whom.
        proxy: String,
        /// The identity in it.
        spiffe_id: String,
        /// Its end.
        not_after: Stamp,
    },
    /// A certificate was refused.
    CertificateRefused {
        /// Who asked, as it said.
        proxy: String,
        /// Why.
        reason: String,
    },
    /// A lease was taken.
    LeaseTaken {
        /// Its id.
        lease: String,
        /// Its plan.
        plan: Option<String>,
    },
    /// A lease was given back.
    LeaseReleased {
        /// Its id.
        lease: String,
    },
    /// A lease was not renewed in time.
    LeaseLapsed {
        /// Its id.
        lease: String,
    },
    /// An overlay was laid.
    OverlayLaid {
        /// Its id.
        overlay: String,
        /// Proxies that were told.
        proxies: Vec<String>,
    },
    /// An overlay was taken back.
    OverlayRemoved {
        /// Its id.
        overlay: String,
    },
    /// The primary of a plan is unhealthy (first observation).
    Detected {
        /// Plan.
        plan: String,
        /// The primary.
        region: String,
        /// Service that has no endpoint left there.
        service: String,
        /// Proxy that saw it.
        observer: String,
        /// Its words.
        cause: String,
    },
    /// Failover was decided.
    Decided {
        /// Plan.
        plan: String,
        /// `automatic` or the operator's reason.
        reason: String,
    },
    /// Proxies were told to shift.
    ShiftCommanded {
        /// Plan.
        plan: String,
        /// The region that serves now.
        to: String,
        /// Overlay ids that carry it; empty if it is durable (then it is in the snapshots).
        overlays: Vec<String>,
    },
    /// A step began.
    StepStarted {
        /// Plan.
        plan: String,
        /// Name.
        step: String,
    },
    /// A step ended.
    StepFinished {
        /// Plan.
        plan: String,
        /// Name.
        step: String,
        /// Whether it succeeded.
        ok: bool,
        /// How long it took.
        took_ms: u64,
        /// End of what it printed, or why it failed.
        output: String,
    },
    /// Failback was commanded.
    FailbackCommanded {
        /// Plan.
        plan: String,
        /// `automatic` or the operator's reason.
        reason: String,
    },
    /// Failback reached this share of the primary.
    RampStep {
        /// Plan.
        plan: String,
        /// Share.
        percent: u8,
        /// Overlay ids that carry it; empty if it is durable.
        overlays: Vec<String>,
    },
    /// Failback is complete.
    FailbackDone {
        /// Plan.
        plan: String,
    },
    /// Failover or failback failed.
    RecoveryFailed {
        /// Plan.
        plan: String,
        /// Why.
        reason: String,
    },
    /// The lease that recovery stood on is gone; what it did is taken back.
    RecoveryReset {
        /// Plan.
        plan: String,
        /// Why.
        reason: String,
    },
}

/// State of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecoveryState {
    /// The primary serves.
    Normal,
    /// Steps of failover are running.
    FailingOver,
    /// The standby serves.
    FailedOver,
    /// Steps of failback, the ramp, or undo commands are running.
    FailingBack,
}

/// Recovery of one plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryReport {
    /// Plan.
    pub plan: String,
    /// Where it stands.
    pub state: RecoveryState,
    /// Since when.
    pub since: Stamp,
    /// The lease that holds it; `None` if it is normal or durable.
    pub lease: Option<String>,
    /// Whether the automatic trigger is armed (the primary was seen healthy and the mesh has settled).
    pub armed: bool,
    /// Whether the primary is healthy now, as proxies outside it see it; `None` if none sees it.
    pub primary_healthy: Option<bool>,
    /// Share of the primary while failing back.
    pub share: Option<u8>,
    /// Why the last failover or failback failed.
    pub failure: Option<String>,
    /// Steps of the present (or last) failover and failback.
    pub steps: Vec<StepReport>,
}

/// A step with its times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// Name.
    pub name: String,
    /// When it began.
    pub started: Stamp,
    /// When it ended.
    pub finished: Option<Stamp>,
    /// Whether it succeeded.
    pub ok: Option<bool>,
}

/// Asks for failover or failback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoveryRequest {
    /// Why; for events.
    pub reason: String,
}
