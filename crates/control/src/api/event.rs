//! The merged event log.

use serde::{Deserialize, Serialize};
use xds::{event::Event, resource::ResourceKind};

use super::{SourceReport, Stamp};

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
    /// This instance leads from now on: it runs the recovery controller.
    LeadershipTaken {
        /// Grows with every change of leader.
        epoch: u64,
    },
    /// This instance does not lead any more.
    LeadershipLost {},
    /// New manifests are in force.
    RevisionApplied {
        /// Number.
        revision: u64,
        /// Digest of the files.
        digest: String,
        /// Who.
        author: String,
        /// Git commit of the files.
        #[serde(default)]
        commit: Option<String>,
        /// The revision that it restores.
        #[serde(default)]
        restores: Option<u64>,
    },
    /// Watched manifests stand otherwise than before.
    SourceChanged(SourceReport),
    /// A source of endpoints says something new, or answers again.
    EndpointsFound {
        /// Name in the manifests.
        endpoint: String,
        /// What it is.
        source: String,
        /// Number of addresses now.
        addresses: u64,
    },
    /// A source of endpoints fails; its last answer stays in force.
    SourceFailing {
        /// Name in the manifests.
        endpoint: String,
        /// What it is.
        source: String,
        /// Why.
        reason: String,
        /// Number of addresses that stay.
        kept: u64,
    },
    /// An answer that takes away more than half of the addresses counts when it has stood for a minute.
    EndpointsHeldBack {
        /// Name in the manifests.
        endpoint: String,
        /// What it is.
        source: String,
        /// Number of addresses in the answer.
        addresses: u64,
        /// Number of those in force.
        kept: u64,
    },
    /// A source of endpoints failed for longer than `staleFor`: it has no addresses any more.
    EndpointsDropped {
        /// Name in the manifests.
        endpoint: String,
        /// What it is.
        source: String,
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
    /// A proxy's stream was refused: for who it is, or for what it holds.
    ProxyRefused {
        /// Its name.
        proxy: String,
        /// Why.
        reason: String,
        /// As in [`ControlEvent::CertificateRefused`].
        #[serde(default)]
        untold: u64,
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
    /// The bundle of a foreign trust domain is another one, or can be read again.
    FederationRefreshed {
        /// The trust domain.
        trust_domain: String,
        /// Number of roots in force.
        roots: u64,
    },
    /// The bundle of a foreign trust domain cannot be read or fetched; what it said last stays in force.
    FederationFailing {
        /// The trust domain.
        trust_domain: String,
        /// Why.
        reason: String,
        /// Number of roots that stay.
        kept: u64,
    },
    /// Certificates are signed by another intermediate, or other roots are the mesh's.
    AuthorityApplied {
        /// Number of roots: two while the root is replaced.
        roots: u64,
    },
    /// The authority's files changed to something that cannot be used; what signed goes on.
    AuthorityRefused {
        /// Why.
        reason: String,
    },
    /// The control plane has another certificate of its own, or other roots, from whoever issues the mesh's.
    IdentityApplied {
        /// Number of roots of our trust domain.
        roots: u64,
    },
    /// Whoever issues the mesh's certificates says nothing of use; what came last stays in force.
    IdentityFailing {
        /// Why.
        reason: String,
    },
    /// A join token was handed out.
    TokenCreated {
        /// `service/NAME` or `gateway/NAME`.
        subject: String,
        /// The one proxy that may use it.
        #[serde(default)]
        proxy: Option<String>,
        /// Its end.
        expires: Stamp,
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
        /// Refusals since the last entry of this kind that have none of their own: a stranger cannot fill the log.
        #[serde(default)]
        untold: u64,
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
        /// First of the proxies that saw it.
        observer: String,
        /// All of them.
        #[serde(default)]
        observers: Vec<String>,
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
    /// An irreversible step begins: what was done under a lease is the plan's own from now on, and outlives the lease.
    RecoveryCommitted {
        /// Plan.
        plan: String,
        /// The step.
        step: String,
    },
    /// The lease that recovery was begun under is gone, and what it did stays.
    RecoveryKept {
        /// Plan.
        plan: String,
        /// Why the question arose.
        reason: String,
        /// What stands, what is not undone, and what leads back.
        stands: String,
    },
}
