//! The manifest kinds as they are written. Docstrings here are what editors show.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use crate::{
    name::{GatewayName, PlanName, ProbeName, RegionName, ServiceName},
    read::{At, Cx, Fields, FromField, FromNode, HostPort, OrOff, Time, Unsupported, mapping, mismatch, words},
    tree::{Node, Value},
    unit::{Percent, Rate},
};

type Text = At<String>;
type Argv = At<Vec<Text>>;
type List<T> = Option<At<Vec<At<T>>>>;

mapping! {
    /// Who this is.
    "metadata" Metadata {
        /// Name: a-z, 0-9 and `-`; unique among manifests of the kind.
        name: At<ServiceName>,
        /// Texts by name; not used by Firedrill.
        labels: Option<At<BTreeMap<String, String>>>,
        /// Texts by name; not used by Firedrill.
        annotations: Option<At<BTreeMap<String, String>>>,
    }
}

mapping! {
    /// The mesh: regions, ways in, and the policy of services that say nothing else.
    "the spec of a Mesh" Mesh {
        /// SPIFFE trust domain, as `bank.example`.
        trust_domain: Text,
        /// Failure domains that can be lost as a whole, in order of preference.
        regions: At<Vec<At<RegionName>>>,
        /// Where identities come from. Default: the built-in certificate authority.
        identity: Option<At<Identity>>,
        /// Ways into the mesh.
        gateways: List<Gateway>,
        /// Traffic policy of services that say nothing else.
        defaults: Option<At<Policy>>,
    }
}

mapping! {
    /// Where identities come from.
    "`identity`" Identity {
        /// The certificate authority of the control plane.
        builtin: Option<At<Builtin>>,
        /// SPIRE.
        spire: Option<At<Unsupported>>,
        /// Files.
        files: Option<At<Unsupported>>,
    }
}

mapping! {
    /// The certificate authority of the control plane.
    "`builtin`" Builtin {
        /// Lifetime of a workload's certificate; renewed at half of it. Default 24h.
        certificate_lifetime: Option<At<Time>>,
    }
}

mapping! {
    /// A way into the mesh: plaintext HTTP.
    "a gateway" Gateway {
        /// Name; also its host name in probes, as `http://edge/`.
        name: At<GatewayName>,
        /// Address and port, as `127.0.0.1:8080`.
        listen: At<HostPort>,
        /// Services behind it; the first match wins.
        routes: At<Vec<At<GatewayRoute>>>,
    }
}

mapping! {
    /// A path prefix and the service behind it.
    "a gateway's route" GatewayRoute {
        /// Path prefix. Default `/`.
        prefix: Option<Text>,
        /// The service.
        service: At<ServiceName>,
    }
}

mapping! {
    /// How requests to a service are treated.
    "`defaults`" Policy {
        /// Bound on a whole request, all tries. Default 15s.
        timeout: Option<At<Time>>,
        /// When a failed try is repeated.
        retries: Option<At<Retries>>,
        /// A second try beside a slow first one, for idempotent requests; `off`, or bounds. Default: between 20ms and half of `perTry`.
        hedge: Option<At<OrOff<Hedge>>>,
        /// What takes an endpoint out.
        detection: Option<At<Detection>>,
    }
}

mapping! {
    /// When a failed try is repeated.
    "`retries`" Retries {
        /// Repeats after the first try, at most 10; 0 is off. Default 2.
        attempts: Option<At<u32>>,
        /// Bound on one try. Default: a third of the timeout.
        per_try: Option<At<Time>>,
        /// Failures that are repeated. Default: all.
        on: List<RetryOn>,
    }
}

words! {
    /// A class of failures.
    RetryOn {
        /// No connection could be made.
        ConnectFailure = "connectFailure",
        /// The connection ended before an answer.
        Reset = "reset",
        /// 502, 503 or 504.
        GatewayError = "gatewayError",
    }
}

mapping! {
    /// Bounds on when the second try starts; between them it is the observed p99.
    "`hedge`" Hedge {
        /// Never earlier.
        at_least: At<Time>,
        /// Never later.
        at_most: At<Time>,
    }
}

mapping! {
    /// What takes an endpoint out.
    "`detection`" Detection {
        /// Failed requests in a row; or `off`. Default 5.
        consecutive_errors: Option<At<OrOff<u32>>>,
        /// Length of the first ejection. Default 30s.
        ejection: Option<At<Time>>,
        /// Probing of every endpoint by every proxy that uses it; or `off`. Default: connect each 1s.
        active_check: Option<At<OrOff<ActiveCheck>>>,
    }
}

mapping! {
    /// Probing of endpoints: either `http` or `tcp`.
    "`activeCheck`" ActiveCheck {
        /// Path to GET; 200 is expected.
        http: Option<Text>,
        /// `true`: only connect.
        tcp: Option<At<bool>>,
        /// Interval. Default 1s.
        every: Option<At<Time>>,
        /// Bound on one check. Default: `every`, at most 1s.
        timeout: Option<At<Time>>,
        /// Failures in a row until it is out. Default 2.
        unhealthy_after: Option<At<u32>>,
        /// Successes in a row until it is in again. Default 2.
        healthy_after: Option<At<u32>>,
    }
}

mapping! {
    /// A service: its endpoints, whom it calls and who may call it.
    "the spec of a Service" Service {
        /// What it speaks. Default http.
        protocol: Option<At<Protocol>>,
        /// Its instances.
        endpoints: At<Vec<At<Endpoint>>>,
        /// Services that its workloads may call.
        calls: List<ServiceName>,
        /// Bound on a whole request, all tries. Default: the mesh's.
        timeout: Option<At<Time>>,
        /// When a failed try is repeated. Fields that are not written: the mesh's.
        retries: Option<At<Retries>>,
        /// A second try beside a slow first one; `off`, or bounds. Default: the mesh's.
        hedge: Option<At<OrOff<Hedge>>>,
        /// What takes an endpoint out. Fields that are not written: the mesh's.
        detection: Option<At<Detection>>,
        /// Order of regions by caller; the first rule that matches counts, else the caller's own region is first.
        routes: List<Route>,
        /// Who may call. Default: services that name it in `calls`, and gateways that route to it.
        authorization: Option<At<Authorization>>,
    }
}

words! {
    /// What a service speaks.
    Protocol {
        /// HTTP/1.1.
        Http = "http",
        /// HTTP/2.
        Http2 = "http2",
        /// Bytes.
        Tcp = "tcp",
        #[schemars(skip)]
        Grpc = "grpc",
    }
}

mapping! {
    /// Instances of a service in a region: either `run` or `address`.
    "an endpoint" Endpoint {
        /// Failure domain.
        region: At<RegionName>,
        /// How many, with `run`. Default 1.
        count: Option<At<u32>>,
        /// Version. Default v1.
        version: Option<Text>,
        /// Requests a second that each can take, as `2000/s`.
        capacity: Option<At<Rate>>,
        /// Share among the region's endpoints. Default 1.
        weight: Option<At<u32>>,
        /// Command that the supervisor starts; it listens on the address in `FIREDRILL_LISTEN`. A sidecar stands before it.
        run: Option<Argv>,
        /// Address of an instance that runs already, outside the mesh: reached in plaintext, without a sidecar.
        address: Option<At<HostPort>>,
        /// Addresses of several such instances.
        addresses: List<HostPort>,
    }
}

mapping! {
    /// An order of regions.
    "a route" Route {
        /// Whom the rule is for. Default: all callers.
        when: Option<At<When>>,
        /// `sameRegion`, or regions in order.
        prefer: At<Prefer>,
    }
}

mapping! {
    /// What a route matches.
    "`when`" When {
        /// The calling service.
        caller: At<ServiceName>,
    }
}

/// `sameRegion`, or regions in order; regions that are not named come after.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum Prefer {
    /// The caller's own region first.
    SameRegion(SameRegion),
    /// This order.
    Order(Vec<At<RegionName>>),
}

words! {
    /// The caller's own region first.
    SameRegion {
        /// The caller's own region first.
        SameRegion = "sameRegion",
    }
}

impl FromNode for Prefer {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::List(_) => FromNode::from_node(node, cx).map(Self::Order),
            Value::Scalar(_) => FromNode::from_node(node, cx).map(Self::SameRegion),
            _ => mismatch(node, "`sameRegion` or a list of regions, as `[east, west]`", cx),
        }
    }
}

mapping! {
    /// Who may call.
    "`authorization`" Authorization {
        /// Permissions; who has none is refused.
        allow: At<Vec<At<Allow>>>,
    }
}

mapping! {
    /// A permission.
    "a permission" Allow {
        /// A service or gateway.
        from: Text,
        /// HTTP methods. Default: all.
        methods: List<String>,
        /// Path prefixes. Default: all.
        paths: List<String>,
    }
}

mapping! {
    /// What is done when a region is lost, and what is asked of it.
    "the spec of a RecoveryPlan" RecoveryPlan {
        /// Services in scope. A service is in at most one plan.
        services: At<Vec<At<ServiceName>>>,
        /// One region serves, others stand by.
        active_passive: Option<At<ActivePassive>>,
        /// All regions serve.
        active_active: Option<At<Unsupported>>,
        /// Steps of share.
        canary: Option<At<Unsupported>>,
        /// Two colours.
        blue_green: Option<At<Unsupported>>,
        /// Numbers to reach.
        objectives: Option<At<Objectives>>,
        /// What is done when the primary is lost.
        failover: At<Failover>,
        /// What is done when it is back.
        failback: Option<At<Failback>>,
        /// Safety rules.
        safety: Option<At<Unsupported>>,
    }
}

mapping! {
    /// One region serves, others stand by.
    "`activePassive`" ActivePassive {
        /// The region that serves.
        primary: At<RegionName>,
        /// Regions that stand by, in order.
        standby: At<Vec<At<RegionName>>>,
        /// How ready they are. Default hot.
        tier: Option<At<Tier>>,
    }
}

words! {
    /// How ready a standby is.
    Tier {
        /// Takes traffic at once.
        Hot = "hot",
        /// Runs at less capacity.
        Warm = "warm",
        /// Must be started by a step of the plan.
        PilotLight = "pilotLight",
    }
}

mapping! {
    /// Numbers to reach. One that is not written is not judged.
    "`objectives`" Objectives {
        /// RTO: from the first failure that a client saw to sustained recovery.
        recovery_time: Option<At<Time>>,
        /// RPO: age of the oldest acknowledged write that was lost.
        data_loss: Option<At<Time>>,
        /// Share of requests answered well, in every slice of the sustain window. Default 99%.
        success_rate: Option<At<Percent>>,
        /// 99th percentile of latency, in every slice of the sustain window.
        latency_p99: Option<At<Time>>,
        /// Length of the window in which all must hold for recovery to count. Default 5s.
        sustain: Option<At<Time>>,
    }
}

mapping! {
    /// What is done when the primary is lost.
    "`failover`" Failover {
        /// `manual`, or when the primary has been unhealthy for some time. Default manual.
        trigger: Option<At<Trigger>>,
        /// What, in order.
        steps: At<Vec<At<Step>>>,
    }
}

/// When something starts: `manual`, or `{automatic: {unhealthyFor: 1s}}`.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum Trigger {
    /// On command.
    Manual(Manual),
    /// By itself.
    When(TriggerWhen),
}

words! {
    /// On command.
    Manual {
        /// On command.
        Manual = "manual",
    }
}

mapping! {
    /// By itself.
    "`trigger`" TriggerWhen {
        /// By itself.
        automatic: At<Automatic>,
    }
}

mapping! {
    /// When the primary has been unhealthy for some time.
    "`automatic`" Automatic {
        /// For how long.
        unhealthy_for: At<Time>,
    }
}

impl FromNode for Trigger {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar(text) if text == "automatic" => {
                cx.error("missing-field", node.at, "`automatic` needs a time")
                    .mend("write `trigger: {automatic: {unhealthyFor: 1s}}`");
                None
            }
            Value::Scalar(_) => FromNode::from_node(node, cx).map(Self::Manual),
            Value::Map(_) => FromNode::from_node(node, cx).map(Self::When),
            _ => mismatch(node, "`manual` or `{automatic: {unhealthyFor: 1s}}`", cx),
        }
    }
}

mapping! {
    /// A step of a failover: either `shift` or `run`.
    "a step" Step {
        /// Move the plan's services to a region.
        shift: Option<At<Shift>>,
        /// Run a command.
        run: Option<At<RunStep>>,
    }
}

mapping! {
    /// Move the plan's services to a region.
    "`shift`" Shift {
        /// The region; a standby.
        to: At<RegionName>,
    }
}

mapping! {
    /// A command with a bound, and how to take it back.
    "`run`" RunStep {
        /// Name, unique in the plan.
        name: Text,
        /// Region whose endpoints the command is told of.
        r#in: Option<At<RegionName>>,
        /// Command and arguments.
        command: Argv,
        /// After it the command is killed and the step has failed. Default 30s.
        timeout: Option<At<Time>>,
        /// Command and arguments of the inverse.
        undo: Option<Argv>,
    }
}

mapping! {
    /// What is done when the primary is back.
    "`failback`" Failback {
        /// Only `manual` yet.
        trigger: Option<At<Trigger>>,
        /// Commands before the ramp.
        steps: List<FailbackStep>,
        /// Shares of the primary, rising, ending in 100%. Default [100%].
        ramp: List<Percent>,
        /// Time on each share. Default 3s.
        dwell: Option<At<Time>>,
    }
}

mapping! {
    /// A step before the ramp.
    "a failback step" FailbackStep {
        /// Run a command.
        run: At<RunStep>,
    }
}

mapping! {
    /// A recovery plan put to the test.
    "the spec of a Drill" Drill {
        /// The recovery plan that it tests.
        plan: At<PlanName>,
        /// Only `live` yet: real faults.
        r#type: Option<At<DrillType>>,
        /// Why it is done.
        purpose: Option<Text>,
        /// People.
        stakeholders: Option<At<Stakeholders>>,
        /// Synthetic clients; at least one with `http`.
        probes: At<Vec<At<Probe>>>,
        /// How long the steady state is measured first. Default 10s.
        baseline: Option<At<Time>>,
        /// What is broken, and when.
        scenario: At<Vec<At<ScenarioStep>>>,
        /// How long the fault is held from the start of the scenario. Default 20s.
        hold: Option<At<Time>>,
        /// What aborts it.
        guards: List<Guard>,
        /// When it is repeated.
        schedule: Option<At<Unsupported>>,
        /// When it may run.
        windows: Option<At<Unsupported>>,
    }
}

words! {
    /// Whether faults are real.
    DrillType {
        /// Real faults.
        Live = "live",
        #[schemars(skip)]
        Simulated = "simulated",
        #[schemars(skip)]
        Tabletop = "tabletop",
    }
}

mapping! {
    /// People and their roles.
    "`stakeholders`" Stakeholders {
        /// Answers for it.
        lead: Option<Text>,
        /// Must approve; recorded.
        approvers: List<String>,
        /// Watch.
        observers: List<String>,
    }
}

mapping! {
    /// A synthetic client: either `http` or `writes`.
    "a probe" Probe {
        /// Name, unique in the drill.
        name: At<ProbeName>,
        /// Method and URL, as `GET http://edge/accounts/42`; the host is a gateway or an IP address and port.
        http: Option<Text>,
        /// Writes with unique ids, read back at the end.
        writes: Option<At<Writes>>,
        /// Requests a second, as `200/s`, sent whether or not earlier ones were answered.
        rate: At<Rate>,
        /// After it a request has failed. Default 1s.
        timeout: Option<At<Time>>,
    }
}

mapping! {
    /// Writes with unique ids, read back at the end.
    "`writes`" Writes {
        /// Method and URL that stores a JSON body `{"id": …, "sequence": …}`; a 2xx acknowledges it.
        put: Text,
        /// Method and URL that lists what is stored, as a JSON array of `{"id", "sequence"}`.
        get: Text,
    }
}

mapping! {
    /// Something that is broken at a time: one of `lose`, `fault`, `run`, `wait`.
    "a scenario step" ScenarioStep {
        /// When, from the start of the scenario. Default 0s.
        at: Option<At<Time>>,
        /// Undone after this long; with `lose` and `fault`. Default: at the hold's end.
        r#for: Option<At<Time>>,
        /// A region is gone.
        lose: Option<At<Lose>>,
        /// The proxies hurt matching requests.
        fault: Option<At<Fault>>,
        /// A command of yours breaks something.
        run: Option<At<ScenarioRun>>,
        /// Time passes.
        wait: Option<At<Time>>,
    }
}

mapping! {
    /// A region is gone.
    "`lose`" Lose {
        /// Which.
        region: At<RegionName>,
        /// How. Default kill.
        how: Option<At<LoseHow>>,
    }
}

words! {
    /// How a region is lost.
    LoseHow {
        /// SIGKILL to every workload and sidecar; needs endpoints with `run`.
        Kill = "kill",
        /// SIGSTOP to them: they hang; needs endpoints with `run`.
        Pause = "pause",
        /// Proxies drop all traffic between the region and the rest.
        Partition = "partition",
    }
}

mapping! {
    /// The proxies hurt matching requests: one of `delay`, `abort`, `refuse`, `reset`, `blackhole`.
    "`fault`" Fault {
        /// Requests to this service.
        to: At<ServiceName>,
        /// Only tries that go to this region.
        region: Option<At<RegionName>>,
        /// Only paths with this prefix.
        path: Option<Text>,
        /// Only this method.
        method: Option<Text>,
        /// Share of matching requests. Default 100%.
        percent: Option<At<Percent>>,
        /// Wait first.
        delay: Option<At<Time>>,
        /// Answer with this status.
        abort: Option<At<u16>>,
        /// `true`: refuse the connection.
        refuse: Option<At<bool>>,
        /// `true`: reset it after the request.
        reset: Option<At<bool>>,
        /// `true`: never answer.
        blackhole: Option<At<bool>>,
    }
}

mapping! {
    /// A command of yours, with its inverse.
    "`run`" ScenarioRun {
        /// For people.
        name: Text,
        /// Command and arguments.
        command: Argv,
        /// Command and arguments of the inverse; also run when the drill aborts or crashed.
        undo: Argv,
        /// Bound on each. Default 30s.
        timeout: Option<At<Time>>,
    }
}

mapping! {
    /// A condition that aborts the drill: one of `successRate`, `latencyP99`, `indeterminate`.
    "a guard" Guard {
        /// The probe that is watched.
        probe: At<ProbeName>,
        /// Trips when the success rate is below, as `"< 50%"`.
        success_rate: Option<Text>,
        /// Trips when the 99th percentile is above, as `"> 1s"`.
        latency_p99: Option<Text>,
        /// Trips when more writes than this are without acknowledgement, as `"> 200"`.
        indeterminate: Option<Text>,
        /// Trailing window of `successRate` and `latencyP99`. Default 5s.
        over: Option<At<Time>>,
    }
}

mapping! {
    /// A backup that is tested by restoring it.
    "the spec of a Backup" Backup {
        /// Whose data.
        service: At<ServiceName>,
        /// How often.
        every: At<Time>,
        /// Command that makes one.
        command: Argv,
        /// Command that restores one.
        restore: Argv,
        /// Command that checks a restore; exit 0 is good.
        check: Argv,
    }
}

/// A manifest that could be read.
pub(crate) struct Manifest {
    /// Name and where it is written.
    pub name: At<ServiceName>,
    /// By kind; `None` if it could not be read.
    pub spec: Spec,
}

/// The spec by kind.
pub(crate) enum Spec {
    Mesh(Option<At<Mesh>>),
    Service(Option<At<Service>>),
    RecoveryPlan(Option<At<RecoveryPlan>>),
    Drill(Option<At<Drill>>),
    Backup(Option<At<Backup>>),
}

/// The one version there is.
pub(crate) const API_VERSION: &str = "firedrill.dev/v1";

words! {
    /// Kind of a manifest.
    Kind {
        Mesh = "Mesh",
        Service = "Service",
        RecoveryPlan = "RecoveryPlan",
        Drill = "Drill",
        Backup = "Backup",
    }
}

/// Reads one document. `None`: a problem was reported, and not even kind and name are known.
pub(crate) fn manifest(node: &Node, cx: &mut Cx<'_>) -> Option<Manifest> {
    let fields = ["apiVersion", "kind", "metadata", "spec"];
    let fields = fields.map(str::to_owned);
    let fields = Fields::of(node, "a manifest", &fields, cx)?;
    let version = Text::from_field("apiVersion", &fields, cx);
    if let Some(version) = version.filter(|v| v.value != API_VERSION) {
        cx.error("unknown-value", version.at, format!("apiVersion `{}` is not known", version.value))
            .mend(format!("write `apiVersion: {API_VERSION}`"));
    }
    let kind = At::<Kind>::from_field("kind", &fields, cx);
    let metadata = At::<Metadata>::from_field("metadata", &fields, cx);
    let kind = kind?;
    let spec = match kind.value {
        Kind::Mesh => Spec::Mesh(At::from_field("spec", &fields, cx)),
        Kind::Service => Spec::Service(At::from_field("spec", &fields, cx)),
        Kind::RecoveryPlan => Spec::RecoveryPlan(At::from_field("spec", &fields, cx)),
        Kind::Drill => Spec::Drill(At::from_field("spec", &fields, cx)),
        Kind::Backup => Spec::Backup(At::from_field("spec", &fields, cx)),
    };
    Some(Manifest { name: metadata?.value.name, spec })
}
