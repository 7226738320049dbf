//! A validated set of manifests. A value that exists is consistent: every reference resolves, every default is filled in.

mod federation;
mod identity;
mod route;
mod upstream;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

pub use self::{federation::*, identity::*, route::*, upstream::*};
use crate::{
    name::{DrillName, GatewayName, PlanName, ProbeName, RegionName, ServiceName, WorkloadName},
    spiffe::SpiffeId,
    unit::{Percent, Rate},
};

/// Everything that a mesh consists of. Exactly one [`Mesh`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The mesh.
    pub mesh: Mesh,
    /// Services by name.
    pub services: BTreeMap<ServiceName, Service>,
    /// Recovery plans by name.
    pub plans: BTreeMap<PlanName, RecoveryPlan>,
    /// Drills by name.
    pub drills: BTreeMap<DrillName, Drill>,
    /// Backups by name.
    pub backups: BTreeMap<String, Backup>,
}

/// Kind `Mesh`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// From `metadata.name`.
    pub name: String,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// In order of preference; at least one.
    pub regions: Vec<RegionName>,
    /// Who issues certificates.
    pub identity: Identity,
    /// Lifetime of a certificate that the control plane signs. Default 24 h.
    pub certificate_lifetime: Duration,
    /// Other meshes whose ids are believed.
    pub federation: Vec<Federated>,
    /// Ways into the mesh.
    pub gateways: Vec<Gateway>,
    /// Traffic policy of services that say nothing else.
    pub defaults: TrafficPolicy,
    /// Bounds on what callers may send to any proxy.
    pub listeners: ListenerLimits,
}

/// A way into the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// Also its host name in probe URLs (`http://edge/…`).
    pub name: GatewayName,
    /// Plaintext HTTP.
    pub listen: SocketAddr,
    /// First match wins; at least one.
    pub routes: Vec<GatewayRoute>,
}

/// A path prefix and the service behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayRoute {
    /// Default `/`.
    pub prefix: String,
    /// The service.
    pub service: ServiceName,
}

/// How requests to a service are treated.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficPolicy {
    /// Whole request, all tries. Default 15 s.
    pub timeout: Duration,
    /// Repeats.
    pub retries: Retries,
    /// A second try beside a slow first one (idempotent requests). Default: between 20 ms and half of `perTry`; `None` is `hedge: off`.
    pub hedge: Option<Hedge>,
    /// What takes an endpoint out.
    pub detection: Detection,
}

/// When a failed try is repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct Retries {
    /// Repeats after the first try; 0 is off. Default 2.
    pub attempts: u32,
    /// Bound on one try. Default: a third of the timeout.
    pub per_try: Duration,
    /// Default all three.
    pub on: Vec<RetryOn>,
}

/// A class of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection could be made.
    ConnectFailure,
    /// The connection ended before an answer.
    Reset,
    /// 502, 503 or 504.
    GatewayError,
}

/// Bounds on when a hedge starts; between them it is the observed p99.
#[derive(Clone, Debug, PartialEq)]
pub struct Hedge {
    /// Never earlier.
    pub at_least: Duration,
    /// Never later.
    pub at_most: Duration,
}

/// What takes an endpoint out.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Failed requests in a row. Default 5; `None` is `consecutiveErrors: off`.
    pub consecutive_errors: Option<u32>,
    /// Answers 5xx in a row, every one of them. Default: `None`, off.
    pub consecutive_5xx: Option<u32>,
    /// Failures to connect, resets and timeouts in a row, counted apart. Default: `None`, counted as 503.
    pub consecutive_local: Option<u32>,
    /// Against the other endpoints. Default: `None`, off.
    pub success_rate: Option<SuccessRate>,
    /// Against a fixed percentage. Default: `None`, off.
    pub failure_percentage: Option<FailurePercentage>,
    /// Over which rates are taken. Default 1 s.
    pub interval: Duration,
    /// First ejection. Default 30 s.
    pub ejection: Duration,
    /// Longest ejection. Default 5 min, and not below the first.
    pub longest_ejection: Duration,
    /// Percent of a tier that may be ejected at once while no later tier has endpoints. Default 50.
    pub ejected_at_most: u8,
    /// Probing by the proxies. Default: connect each 1 s.
    pub active_check: Option<ActiveCheck>,
}

/// Probing of every endpoint by every proxy that uses it.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveCheck {
    /// GET this path and expect 200; without it and `grpc` (`tcp: true`) only connect.
    pub http: Option<String>,
    /// Ask `grpc.health.v1` for this service and expect `SERVING`; empty asks for the whole server.
    pub grpc: Option<String>,
    /// Default 1 s.
    pub every: Duration,
    /// The same while no request was ever sent. Default: `None`, no difference.
    pub every_without_traffic: Option<Duration>,
    /// Default: `every`, at most 1 s.
    pub timeout: Duration,
    /// Failures in a row. Default 2.
    pub unhealthy_after: u32,
    /// Successes in a row. Default 2.
    pub healthy_after: u32,
}

/// Kind `Service`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// From `metadata.name`.
    pub name: ServiceName,
    /// What it speaks.
    pub protocol: Protocol,
    /// How callers of a service that speaks bytes reach it; `None` elsewhere, and where they do not.
    pub connect: Option<Connect>,
    /// Instances, expanded: `count: 2` gives two.
    pub endpoints: Vec<Endpoint>,
    /// The id that instances outside prove over mutual TLS; `None`: they are reached in plaintext.
    pub identity: Option<SpiffeId>,
    /// Services that its workloads may call.
    pub calls: Vec<ServiceName>,
    /// Effective policy: the mesh's defaults with the service's own fields over them.
    pub policy: TrafficPolicy,
    /// Which endpoint of a tier gets a request.
    pub balancing: Balancing,
    /// Bounds on concurrent use.
    pub limits: Limits,
    /// Order of regions by caller; the first rule whose caller matches, else the caller's own region first.
    pub routes: Vec<RegionPreference>,
    /// What is done with some requests; the first that matches counts, else they go to all endpoints.
    pub requests: Vec<RequestRoute>,
    /// Who may call.
    pub authorization: Authorization,
}

/// Callers say CONNECT with the service's name, and speak in bytes from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Silence after which a connection is closed; zero is never. Default 1 h.
    pub idle_timeout: Duration,
}

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2.
    Http2,
    /// Bytes.
    Tcp,
}

/// One instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `<service>-<region>-<n>`, n from 0 over the service's instances in the region.
    pub workload: WorkloadName,
    /// Its failure domain.
    pub region: RegionName,
    /// Default `v1`.
    pub version: String,
    /// Requests a second that it can take, if declared.
    pub capacity: Option<Rate>,
    /// Share among the region's endpoints. Default 1.
    pub weight: u32,
    /// Where it is.
    pub place: Place,
}

/// Where an instance is.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// Started by the supervisor; a sidecar stands before it. argv; never empty.
    Run(Vec<String>),
    /// Already running outside the mesh: no sidecar of ours stands before it.
    Address(SocketAddr),
    /// As [`Place::Address`], any number of them, as DNS names them.
    Dns(DnsSource),
    /// As [`Place::Address`], any number of them, as a file lists them.
    File(FileSource),
}

impl Place {
    /// Whether it is outside the mesh: no sidecar of ours stands before it.
    pub fn is_outside(&self) -> bool {
        !matches!(self, Self::Run(_))
    }
}

/// Where DNS is asked for instances.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsSource {
    /// What is asked for.
    pub name: DnsName,
    /// Who is asked; `None`: the first name server of `/etc/resolv.conf`.
    pub server: Option<SocketAddr>,
    /// How long the last answer is used while no other comes. Default 24 h.
    pub stale_for: Duration,
}

/// What DNS is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsName {
    /// Addresses (A and AAAA) of a name, all with one port.
    Addresses {
        /// The name.
        name: String,
        /// The port; not 0.
        port: u16,
    },
    /// Service records (SRV) of a name.
    Service(String),
}

/// A file that lists instances.
#[derive(Clone, Debug, PartialEq)]
pub struct FileSource {
    /// Absolute.
    pub path: String,
    /// How long the last list is used while the file cannot be read. Default 24 h.
    pub stale_for: Duration,
}

/// Regions in the order in which callers use them.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionPreference {
    /// Only for this caller; `None` is for all.
    pub caller: Option<ServiceName>,
    /// The order.
    pub prefer: Prefer,
}

/// An order of regions.
#[derive(Clone, Debug, PartialEq)]
pub enum Prefer {
    /// The caller's own, then the others in the mesh's order.
    SameRegion,
    /// This order; regions not named come after, in the mesh's order.
    Order(Vec<RegionName>),
}

/// Who may call a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Authorization {
    /// `None` (not written): those services that name it in `calls`, and gateways that route to it.
    pub allow: Option<Vec<Allow>>,
    /// Default enforce.
    pub mode: AuthorizationMode,
}

/// What becomes of a caller without a permission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthorizationMode {
    /// It is refused.
    #[default]
    Enforce,
    /// It passes, and is told.
    DryRun,
}

/// A permission to call.
#[derive(Clone, Debug, PartialEq)]
pub struct Allow {
    /// Who.
    pub from: Principal,
    /// Empty is all.
    pub methods: Vec<String>,
    /// Path prefixes; empty is all.
    pub paths: Vec<String>,
    /// All of these headers; empty is any.
    pub headers: Vec<Named>,
}

/// Who may call: written as the name of a caller, or as a SPIFFE id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Of the mesh.
    Caller(Caller),
    /// Of a mesh that this one is federated with, or another workload of its own trust domain.
    Id(SpiffeId),
}

/// Who calls: written as one name, looked up among services, then gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A service.
    Service(ServiceName),
    /// A gateway.
    Gateway(GatewayName),
}

/// Kind `RecoveryPlan`.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveryPlan {
    /// From `metadata.name`.
    pub name: PlanName,
    /// In scope; at least one. A service is in at most one plan.
    pub services: Vec<ServiceName>,
    /// How it recovers.
    pub pattern: Pattern,
    /// Numbers to reach.
    pub objectives: Objectives,
    /// What is done when the primary is lost.
    pub failover: Failover,
    /// What is done when it is back.
    pub failback: Failback,
}

/// Recovery pattern. The first issue has one; others are refused with "not supported yet".
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    /// One region serves, others stand by.
    ActivePassive {
        /// Serves.
        primary: RegionName,
        /// In order; at least one.
        standby: Vec<RegionName>,
        /// How ready they are.
        tier: Tier,
    },
}

/// How ready a standby is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Takes traffic at once.
    Hot,
    /// Runs at less capacity.
    Warm,
    /// Must be started.
    PilotLight,
}

/// Numbers to reach. A missing one is not judged, except `sustain`.
#[derive(Clone, Debug, PartialEq)]
pub struct Objectives {
    /// RTO.
    pub recovery_time: Option<Duration>,
    /// RPO.
    pub data_loss: Option<Duration>,
    /// Of requests in every slice of the sustain window, and at baseline. Default 99 %.
    pub success_rate: Percent,
    /// 99th percentile in every slice of the sustain window.
    pub latency_p99: Option<Duration>,
    /// Length of the window in which all must hold for recovery to count. Default 5 s.
    pub sustain: Duration,
}

/// What is done when the primary is lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Failover {
    /// When.
    pub trigger: Trigger,
    /// What, in order.
    pub steps: Vec<Step>,
}

/// When recovery starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// On command.
    Manual,
    /// When the primary has been unhealthy for this long.
    Automatic {
        /// How long.
        unhealthy_for: Duration,
    },
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Move the plan's services to a region.
    Shift {
        /// Where to.
        to: RegionName,
    },
    /// Run a command.
    Run(RunStep),
}

/// A command with a bound, and how to take it back.
#[derive(Clone, Debug, PartialEq)]
pub struct RunStep {
    /// Unique in the plan.
    pub name: String,
    /// Region whose endpoints the command is told of.
    pub region: Option<RegionName>,
    /// argv; never empty.
    pub command: Vec<String>,
    /// After it the command is killed and the step has failed. Default 30 s.
    pub timeout: Duration,
    /// argv of the inverse, if there is one.
    pub undo: Option<Vec<String>>,
}

/// What is done when the primary is back.
#[derive(Clone, Debug, PartialEq)]
pub struct Failback {
    /// When. Default manual.
    pub trigger: Trigger,
    /// Commands before the ramp.
    pub steps: Vec<RunStep>,
    /// Share of the primary, rising, ending in 100. Default 100 %.
    pub ramp: Vec<Percent>,
    /// Time on each step. Default 3 s.
    pub dwell: Duration,
}

/// Kind `Drill`.
#[derive(Clone, Debug, PartialEq)]
pub struct Drill {
    /// From `metadata.name`.
    pub name: DrillName,
    /// The plan it tests.
    pub plan: PlanName,
    /// Live only, in the first issue; others are refused with "not supported yet".
    pub kind: DrillKind,
    /// Why.
    pub purpose: String,
    /// People.
    pub stakeholders: Stakeholders,
    /// At least one `http` probe.
    pub probes: Vec<Probe>,
    /// Length of the baseline. Default 10 s.
    pub baseline: Duration,
    /// What is broken; in order of `at`; at least one.
    pub scenario: Vec<ScenarioStep>,
    /// How long the fault is held from the first step. Default 20 s.
    pub hold: Duration,
    /// What aborts it.
    pub guards: Vec<Guard>,
}

/// Whether faults are real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrillKind {
    /// Real faults.
    Live,
}

/// People and their roles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stakeholders {
    /// Answers for it.
    pub lead: Option<String>,
    /// Must sign (recorded; signatures come with a later issue).
    pub approvers: Vec<String>,
    /// Watch.
    pub observers: Vec<String>,
}

/// A synthetic client.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Unique in the drill.
    pub name: ProbeName,
    /// What it does.
    pub kind: ProbeKind,
    /// Open loop: one request due every 1/rate.
    pub rate: Rate,
    /// After it a request has failed. Default 1 s.
    pub timeout: Duration,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeKind {
    /// One request, success is 2xx or 3xx.
    Http(HttpRequest),
    /// Writes with unique ids, read back at the end.
    Writes {
        /// Writes one: JSON body `{"id": …, "sequence": …}`; 2xx acknowledges. An answer `{"epoch": …, "region": …}`
        /// names the exclusive epoch and the region that stored it: two regions in one epoch are split brain.
        put: HttpRequest,
        /// Lists what is stored: JSON array of `{"id", "sequence"}` in stored order; `?probe=<run id>` narrows it.
        get: HttpRequest,
    },
}

/// `GET http://edge/accounts/42`.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRequest {
    /// Upper case.
    pub method: String,
    /// A gateway's name, resolved to its `listen`, or a literal `host:port`.
    pub host: ProbeHost,
    /// Path with query; begins with `/`.
    pub path: String,
}

/// Where a probe sends to.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeHost {
    /// Through a gateway of the mesh.
    Gateway(GatewayName),
    /// Anything else.
    Address(SocketAddr),
}

/// Something that is broken at a time after the start.
#[derive(Clone, Debug, PartialEq)]
pub struct ScenarioStep {
    /// After the start of the scenario.
    pub at: Duration,
    /// Undone after this long; `None` lasts until the hold's end.
    pub lasts: Option<Duration>,
    /// What.
    pub action: ScenarioAction,
}

/// What a scenario step does.
#[derive(Clone, Debug, PartialEq)]
pub enum ScenarioAction {
    /// A region is gone.
    Lose {
        /// Which.
        region: RegionName,
        /// How.
        how: LoseHow,
    },
    /// The proxies break something.
    Fault(Fault),
    /// A command of the user, with its mandatory inverse.
    Run {
        /// For people.
        name: String,
        /// argv; never empty.
        command: Vec<String>,
        /// argv of the inverse; also run when the drill aborts or crashed.
        undo: Vec<String>,
        /// For each. Default 30 s.
        timeout: Duration,
    },
    /// Nothing: time passes, named in the timeline.
    Wait {
        /// How long.
        duration: Duration,
    },
}

/// How a region is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoseHow {
    /// SIGKILL to every workload and sidecar; needs `run:` endpoints.
    Kill,
    /// SIGSTOP to them: they hang; needs `run:` endpoints.
    Pause,
    /// Every proxy outside drops traffic to it, every proxy inside drops traffic to outside.
    Partition,
}

/// What proxies break.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Matching requests.
    Requests(FaultStep),
    /// The network between regions.
    Partition(PartitionStep),
    /// Their own hearing of the control plane.
    NoControl {
        /// Only proxies in this region.
        region: Option<RegionName>,
    },
}

/// A fault on requests.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultStep {
    /// Requests to this service.
    pub service: ServiceName,
    /// Only requests of this caller.
    pub from: Option<Caller>,
    /// Only tries that go to this region.
    pub region: Option<RegionName>,
    /// Path prefix.
    pub path: Option<String>,
    /// Method.
    pub method: Option<String>,
    /// Header (name in lower case) and its value.
    pub header: Option<(String, String)>,
    /// Share of matching requests. Default 100 %.
    pub percent: Percent,
    /// What.
    pub action: FaultAction,
}

/// What a fault does.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultAction {
    /// Wait first.
    Delay(Delay),
    /// Answer with a status.
    Abort(u16),
    /// Answer with a gRPC status.
    AbortGrpc(u8),
    /// Refuse the connection.
    Refuse,
    /// Reset it after the request.
    Reset,
    /// Reset it after this many bytes of the response's body.
    ResetAfter(u64),
    /// Never answer.
    Blackhole,
    /// Make no connection.
    DropConnect,
    /// Let this many bytes pass in a second, each way.
    Bandwidth(u64),
    /// End the response's body after this many bytes, as if it were whole.
    Truncate(u64),
    /// Do not resolve the name.
    Dns,
    /// Fail the TLS handshake.
    Tls(TlsFault),
}

/// How long a fault waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delay {
    /// Always as long.
    Fixed(Duration),
    /// Normally distributed.
    Normal {
        /// Its middle.
        mean: Duration,
        /// Its standard deviation.
        deviation: Duration,
    },
    /// Mostly one, now and then the other.
    Spike {
        /// Mostly.
        base: Duration,
        /// Now and then.
        spike: Duration,
        /// How often.
        percent: Percent,
    },
}

/// Why a TLS handshake fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The certificate is no longer valid.
    Expired,
    /// It is signed by nobody who is trusted.
    Untrusted,
    /// It names another service.
    WrongIdentity,
}

/// A network between two sets of regions that loses bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionStep {
    /// One side; at least one.
    pub regions: Vec<RegionName>,
    /// The other side; empty is all other regions, and gateways.
    pub from: Vec<RegionName>,
    /// Which way.
    pub way: Way,
}

/// Which way bytes are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Both ways.
    Both,
    /// On the way to the regions.
    To,
    /// On the way from them.
    From,
}

/// A condition that aborts a drill.
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    /// The probe that is watched.
    pub probe: ProbeName,
    /// The condition that trips it.
    pub condition: GuardCondition,
}

/// What trips a guard.
#[derive(Clone, Debug, PartialEq)]
pub enum GuardCondition {
    /// Success rate below this over the trailing window.
    SuccessRateBelow {
        /// The bound.
        percent: Percent,
        /// The window; it must be full once. Default 5 s.
        over: Duration,
    },
    /// 99th percentile above this over the trailing window.
    LatencyP99Above {
        /// The bound.
        latency: Duration,
        /// The window. Default 5 s.
        over: Duration,
    },
    /// More writes than this without acknowledgement.
    IndeterminateAbove {
        /// The bound.
        count: u64,
    },
}

/// Kind `Backup`.
#[derive(Clone, Debug, PartialEq)]
pub struct Backup {
    /// From `metadata.name`.
    pub name: String,
    /// Whose data.
    pub service: ServiceName,
    /// How often.
    pub every: Duration,
    /// argv that makes one.
    pub command: Vec<String>,
    /// argv that restores one.
    pub restore: Vec<String>,
    /// argv that checks a restore: exit 0 is good.
    pub check: Vec<String>,
}
