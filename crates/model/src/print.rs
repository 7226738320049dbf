//! A configuration as manifests again, with every default written out: the canonical form, which digests are made of.
//! Parsing it gives the same configuration.

mod route;
mod upstream;

use serde_json::{Map, Value, json};

use crate::{
    config::{
        Allow, Authorization, AuthorizationMode, Backup, Caller, Config, Delay, Detection, DnsName, DnsSource, Drill,
        Endpoint, Exchange, Expect, Fault, FaultAction, FaultStep, Federated, Gateway, Guard, GuardCondition, Hedge,
        HttpRequest, Identity, IdentityFiles, LoseHow, Mesh, PartitionStep, Pattern, Place, Prefer, Principal, Probe,
        ProbeHost, ProbeKind, Protocol, RecoveryPlan, Retries, RetryOn, RunStep, ScenarioAction, ScenarioStep, Service,
        Step, Tier, TlsFault, TrafficPolicy, Trigger, Way,
    },
    name::DrillName,
    raw::API_VERSION,
    unit::print_duration,
};

/// Every manifest with its defaults, in a fixed order: mesh, services, plans, drills, backups, each by name.
pub fn canonical(config: &Config) -> Value {
    let mut all = vec![document("Mesh", &config.mesh.name, mesh(&config.mesh))];
    all.extend(config.services.values().map(|s| document("Service", s.name.as_str(), service(s))));
    all.extend(config.plans.values().map(|p| document("RecoveryPlan", p.name.as_str(), plan(p))));
    all.extend(config.drills.values().map(|d| document("Drill", d.name.as_str(), drill(d))));
    all.extend(config.backups.values().map(|b| document("Backup", &b.name, backup(b))));
    Value::Array(all)
}

/// The drill and the plan that it tests: what is registered before an attempt and what approvals sign. `None`: there is
/// no such drill.
pub fn canonical_drill(config: &Config, name: &DrillName) -> Option<Value> {
    let tested = config.drills.get(name)?;
    let tests = config.plans.get(&tested.plan)?;
    Some(json!({
        "drill": document("Drill", tested.name.as_str(), drill(tested)),
        "plan": document("RecoveryPlan", tests.name.as_str(), plan(tests)),
    }))
}

/// Canonical JSON (RFC 8785) of a value from [`canonical`] or [`canonical_drill`]: no blanks, keys sorted. The values
/// hold no floating-point numbers and keys are ASCII, for which the RFC's order is that of bytes.
pub fn canonical_text(value: &Value) -> String {
    sorted(value).to_string()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            Value::Object(pairs.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

impl Config {
    /// The manifests with every default visible, as YAML; [`crate::parse`] reads it back to the same configuration.
    pub fn to_yaml(&self) -> String {
        let documents = canonical(self);
        let mut out = String::new();
        for document in documents.as_array().into_iter().flatten() {
            let text = yaml(document);
            if !out.is_empty() {
                out.push_str("---\n");
            }
            out.push_str(&text);
        }
        out
    }
}

/// A JSON value as YAML for people.
pub fn yaml(value: &Value) -> String {
    // Writing plain JSON values to a string has no way to fail; and JSON is YAML, too.
    serde_saphyr::to_string(value).unwrap_or_else(|_| format!("{value}\n"))
}

fn document(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn mesh(mesh: &Mesh) -> Value {
    let mut spec = object(json!({
        "trustDomain": mesh.trust_domain,
        "regions": mesh.regions,
        "identity": identity(mesh),
        "gateways": mesh.gateways.iter().map(gateway).collect::<Vec<_>>(),
        "defaults": defaults(mesh),
    }));
    if !mesh.federation.is_empty() {
        spec.insert("federation".into(), mesh.federation.iter().map(federated).collect());
    }
    Value::Object(spec)
}

fn identity(mesh: &Mesh) -> Value {
    match &mesh.identity {
        Identity::Builtin => json!({"builtin": {"certificateLifetime": print_duration(mesh.certificate_lifetime)}}),
        Identity::Files(IdentityFiles { certificate, key, bundle }) => {
            json!({"files": {"certificate": certificate, "key": key, "bundle": bundle}})
        }
        Identity::Spire { socket } => json!({"spire": {"socket": format!("unix://{socket}")}}),
    }
}

fn federated(federated: &Federated) -> Value {
    let mut out = object(json!({"trustDomain": federated.trust_domain}));
    out.extend(federated.bundle.as_ref().map(|bundle| ("bundle".to_owned(), json!(bundle))));
    let endpoint = federated.endpoint.as_ref();
    let endpoint = endpoint.map(|e| json!({"url": e.url.to_string(), "id": e.id.as_str()}));
    out.extend(endpoint.map(|endpoint| ("endpoint".to_owned(), endpoint)));
    Value::Object(out)
}

fn defaults(mesh: &Mesh) -> Map<String, Value> {
    let mut defaults = object(policy(&mesh.defaults));
    defaults.insert("listeners".into(), upstream::listeners(&mesh.listeners));
    defaults
}

fn gateway(gateway: &Gateway) -> Value {
    let routes: Vec<Value> = gateway.routes.iter().map(|r| json!({"prefix": r.prefix, "service": r.service})).collect();
    json!({"name": gateway.name, "listen": gateway.listen, "routes": routes})
}

fn policy(policy: &TrafficPolicy) -> Value {
    json!({
        "timeout": print_duration(policy.timeout),
        "idleTimeout": print_duration(policy.idle_timeout),
        "retries": retries(&policy.retries),
        "hedge": policy.hedge.as_ref().map_or(json!("off"), hedge),
        "detection": detection(&policy.detection),
    })
}

fn retries(retries: &Retries) -> Value {
    let on = |on: &RetryOn| match on {
        RetryOn::ConnectFailure => "connectFailure",
        RetryOn::Reset => "reset",
        RetryOn::GatewayError => "gatewayError",
    };
    json!({
        "attempts": retries.attempts,
        "perTry": print_duration(retries.per_try),
        "on": retries.on.iter().map(on).collect::<Vec<_>>(),
    })
}

fn hedge(hedge: &Hedge) -> Value {
    json!({"atLeast": print_duration(hedge.at_least), "atMost": print_duration(hedge.at_most)})
}

fn detection(detection: &Detection) -> Value {
    let check = detection.active_check.as_ref().map_or(json!("off"), |check| {
        let (kind, what) = match (&check.http, &check.grpc, &check.exchange) {
            (Some(path), ..) => ("http", json!(path)),
            (None, Some(service), _) => ("grpc", json!(service)),
            (None, None, Some(exchange)) => ("tcp", exchanged(exchange)),
            (None, None, None) => ("tcp", json!(true)),
        };
        json!({
            kind: what,
            "every": print_duration(check.every),
            "everyWithoutTraffic": print_duration(check.every_without_traffic.unwrap_or(check.every)),
            "timeout": print_duration(check.timeout),
            "unhealthyAfter": check.unhealthy_after,
            "healthyAfter": check.healthy_after,
        })
    });
    let in_a_row = |count: Option<u32>| count.map_or(json!("off"), |n| json!(n));
    json!({
        "consecutiveErrors": in_a_row(detection.consecutive_errors),
        "consecutive5xx": in_a_row(detection.consecutive_5xx),
        "consecutiveLocal": in_a_row(detection.consecutive_local),
        "successRate": detection.success_rate.as_ref().map_or(json!("off"), upstream::success_rate),
        "failurePercentage": detection.failure_percentage.as_ref().map_or(json!("off"), upstream::failure_percentage),
        "interval": print_duration(detection.interval),
        "ejection": print_duration(detection.ejection),
        "longestEjection": print_duration(detection.longest_ejection),
        "ejectedAtMost": format!("{}%", detection.ejected_at_most),
        "activeCheck": check,
    })
}

fn exchanged(Exchange { send, receive }: &Exchange) -> Value {
    let payload = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({"hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()}),
    };
    match send.as_slice() {
        [] => json!({"receive": payload(receive)}),
        send => json!({"send": payload(send), "receive": payload(receive)}),
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn service(service: &Service) -> Value {
    let protocol = match service.protocol {
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Tcp => "tcp",
    };
    let mut spec = Map::new();
    spec.insert("protocol".into(), json!(protocol));
    if let Some(connect) = &service.connect {
        spec.insert("connect".into(), json!({"idleTimeout": print_duration(connect.idle_timeout)}));
    }
    spec.insert("endpoints".into(), service.endpoints.iter().map(endpoint).collect());
    spec.extend(service.identity.as_ref().map(|id| ("identity".to_owned(), json!(id.as_str()))));
    spec.insert("calls".into(), json!(service.calls));
    spec.extend(object(policy(&service.policy)));
    spec.insert("balancing".into(), upstream::balancing(&service.balancing));
    spec.insert("limits".into(), upstream::limits(&service.limits));
    let routes = service.routes.iter().map(|route| {
        let prefer = match &route.prefer {
            Prefer::SameRegion => json!("sameRegion"),
            Prefer::Order(regions) => json!(regions),
        };
        match &route.caller {
            None => json!({"prefer": prefer}),
            Some(caller) => json!({"when": {"caller": caller}, "prefer": prefer}),
        }
    });
    spec.insert("routes".into(), routes.chain(service.requests.iter().map(route::request)).collect());
    if service.authorization != Authorization::default() {
        spec.insert("authorization".into(), authorization(&service.authorization));
    }
    Value::Object(spec)
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let mut out = object(json!({"region": endpoint.region, "version": endpoint.version, "weight": endpoint.weight}));
    out.extend(endpoint.capacity.map(|c| ("capacity".to_owned(), json!(c.to_string()))));
    let (kind, place) = match &endpoint.place {
        Place::Run(command) => ("run", json!(command)),
        Place::Address(address) => ("address", json!(address)),
        Place::Dns(dns) => ("dns", dns_source(dns)),
        Place::File(file) => ("file", json!({"path": file.path, "staleFor": print_duration(file.stale_for)})),
    };
    out.insert(kind.to_owned(), place);
    Value::Object(out)
}

fn dns_source(dns: &DnsSource) -> Value {
    let mut out = object(match &dns.name {
        DnsName::Addresses { name, port } => json!({"name": name, "port": port}),
        DnsName::Service(name) => json!({"srv": name}),
    });
    out.extend(dns.server.map(|server| ("server".to_owned(), json!(server))));
    out.insert("staleFor".to_owned(), json!(print_duration(dns.stale_for)));
    Value::Object(out)
}

fn authorization(authorization: &Authorization) -> Value {
    let mode = match authorization.mode {
        AuthorizationMode::Enforce => "enforce",
        AuthorizationMode::DryRun => "dryRun",
    };
    let mut out = object(json!({"mode": mode}));
    out.extend(
        authorization
            .allow
            .as_ref()
            .map(|allowed| ("allow".to_owned(), json!(allowed.iter().map(allow).collect::<Vec<_>>()))),
    );
    Value::Object(out)
}

fn allow(allow: &Allow) -> Value {
    let from = match &allow.from {
        Principal::Caller(one) => caller(one),
        Principal::Id(id) => json!(id.as_str()),
    };
    let headers: Vec<Value> = allow.headers.iter().map(route::named).collect();
    json!({"from": from, "methods": allow.methods, "paths": allow.paths, "headers": headers})
}

fn caller(caller: &Caller) -> Value {
    match caller {
        Caller::Service(name) => json!(name),
        Caller::Gateway(name) => json!(name),
    }
}

fn plan(plan: &RecoveryPlan) -> Value {
    let Pattern::ActivePassive { primary, standby, tier } = &plan.pattern;
    let tier = match tier {
        Tier::Hot => "hot",
        Tier::Warm => "warm",
        Tier::PilotLight => "pilotLight",
    };
    let asked = &plan.objectives;
    let mut objectives = Map::new();
    let times =
        [("recoveryTime", asked.recovery_time), ("dataLoss", asked.data_loss), ("latencyP99", asked.latency_p99)];
    objectives
        .extend(times.into_iter().filter_map(|(name, time)| Some((name.to_owned(), json!(print_duration(time?))))));
    objectives.insert("successRate".into(), json!(asked.success_rate.to_string()));
    objectives.insert("sustain".into(), json!(print_duration(asked.sustain)));
    objectives.insert("lostAfterFault".into(), json!(asked.lost_after_fault));
    objectives.insert(
        "integrity".into(),
        json!({
            "duplicated": asked.integrity.duplicated,
            "reordered": asked.integrity.reordered,
            "resurrected": asked.integrity.resurrected,
        }),
    );
    objectives.insert("settle".into(), json!(print_duration(asked.settle)));
    objectives.insert("minimumHits".into(), json!(asked.minimum_hits));
    let back = &asked.failback;
    let mut of_failback = Map::new();
    let times = [("recoveryTime", back.recovery_time), ("dataLoss", back.data_loss), ("latencyP99", back.latency_p99)];
    of_failback
        .extend(times.into_iter().filter_map(|(name, time)| Some((name.to_owned(), json!(print_duration(time?))))));
    of_failback.extend(back.success_rate.map(|rate| ("successRate".to_owned(), json!(rate.to_string()))));
    if !of_failback.is_empty() {
        objectives.insert("failback".into(), Value::Object(of_failback));
    }
    let step = |step: &Step| match step {
        Step::Shift { to } => json!({"shift": {"to": to}}),
        Step::Run(command) => json!({"run": run(command)}),
    };
    let mut failover = object(json!({
        "trigger": trigger(plan.failover.trigger),
        "steps": plan.failover.steps.iter().map(step).collect::<Vec<_>>(),
    }));
    failover.extend(plan.failover.quorum.map(|quorum| ("quorum".to_owned(), json!(quorum))));
    json!({
        "services": plan.services,
        "activePassive": {"primary": primary, "standby": standby, "tier": tier},
        "objectives": objectives,
        "failover": failover,
        "failback": {
            "trigger": trigger(plan.failback.trigger),
            "steps": plan.failback.steps.iter().map(|s| json!({"run": run(s)})).collect::<Vec<_>>(),
            "ramp": plan.failback.ramp.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "dwell": print_duration(plan.failback.dwell),
        },
    })
}

fn trigger(trigger: Trigger) -> Value {
    match trigger {
        Trigger::Manual => json!("manual"),
        Trigger::Automatic { unhealthy_for } => json!({"automatic": {"unhealthyFor": print_duration(unhealthy_for)}}),
    }
}

fn run(step: &RunStep) -> Value {
    let mut out = object(json!({"name": step.name, "command": step.command, "timeout": print_duration(step.timeout)}));
    out.extend(step.region.as_ref().map(|r| ("in".to_owned(), json!(r))));
    out.extend(step.check.as_ref().map(|c| ("check".to_owned(), json!(c))));
    out.extend(match &step.undo {
        Some(undo) => Some(("undo".to_owned(), json!(undo))),
        None => Some(("irreversible".to_owned(), json!(true))),
    });
    Value::Object(out)
}

fn drill(drill: &Drill) -> Value {
    let people = &drill.stakeholders;
    let mut stakeholders = object(json!({"approvers": people.approvers, "observers": people.observers}));
    stakeholders.extend(people.lead.as_ref().map(|l| ("lead".to_owned(), json!(l))));
    let mut spec = object(json!({
        "plan": drill.plan,
        "type": "live",
        "stakeholders": stakeholders,
        "probes": drill.probes.iter().map(probe).collect::<Vec<_>>(),
        "baseline": print_duration(drill.baseline),
        "scenario": drill.scenario.iter().map(scenario).collect::<Vec<_>>(),
        "hold": print_duration(drill.hold),
        "guards": drill.guards.iter().map(guard).collect::<Vec<_>>(),
    }));
    if !drill.purpose.is_empty() {
        spec.insert("purpose".into(), json!(drill.purpose));
    }
    if let Some(entries) = drill.access_log {
        spec.insert("evidence".into(), json!({"accessLog": {"entries": entries}}));
    }
    Value::Object(spec)
}

fn probe(probe: &Probe) -> Value {
    let mut out =
        object(json!({"name": probe.name, "rate": probe.rate.to_string(), "timeout": print_duration(probe.timeout)}));
    let (kind, what) = match &probe.kind {
        ProbeKind::Http(request) => ("http", json!(request.to_string())),
        ProbeKind::Writes { put, get } => ("writes", json!({"put": put.to_string(), "get": get.to_string()})),
    };
    out.insert(kind.to_owned(), what);
    if probe.expect != Expect::default() {
        let mut expect = object(json!({"status": probe.expect.statuses()}));
        expect.extend(probe.expect.body.as_ref().map(|body| ("body".to_owned(), json!(body))));
        let header = probe.expect.header.as_ref();
        expect.extend(header.map(|(name, value)| ("header".to_owned(), json!(format!("{name}: {value}")))));
        out.insert("expect".to_owned(), Value::Object(expect));
    }
    Value::Object(out)
}

impl Expect {
    /// The statuses as the manifest writes them.
    pub fn statuses(&self) -> String {
        let range = |(first, last): &(u16, u16)| match last - first {
            0 => first.to_string(),
            _ => format!("{}xx", first / 100),
        };
        self.status.iter().map(range).collect::<Vec<_>>().join(", ")
    }
}

impl std::fmt::Display for HttpRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            ProbeHost::Gateway(name) => write!(f, "{} http://{name}{}", self.method, self.path),
            ProbeHost::Address(address) => write!(f, "{} http://{address}{}", self.method, self.path),
        }
    }
}

fn scenario(step: &ScenarioStep) -> Value {
    let mut out = object(json!({"at": print_duration(step.at)}));
    out.extend(step.lasts.map(|d| ("for".to_owned(), json!(print_duration(d)))));
    let (kind, what) = match &step.action {
        ScenarioAction::Lose { region, how } => {
            let how = match how {
                LoseHow::Kill => "kill",
                LoseHow::Pause => "pause",
                LoseHow::Partition => "partition",
            };
            ("lose", json!({"region": region, "how": how}))
        }
        ScenarioAction::Fault(Fault::Requests(step)) => ("fault", fault(step)),
        ScenarioAction::Fault(Fault::Partition(step)) => ("partition", partition(step)),
        ScenarioAction::Fault(Fault::NoControl { region: None }) => ("noControl", json!({})),
        ScenarioAction::Fault(Fault::NoControl { region }) => ("noControl", json!({"region": region})),
        ScenarioAction::Run { name, command, undo, timeout } => {
            ("run", json!({"name": name, "command": command, "undo": undo, "timeout": print_duration(*timeout)}))
        }
        ScenarioAction::Wait { duration } => ("wait", json!(print_duration(*duration))),
    };
    out.insert(kind.to_owned(), what);
    Value::Object(out)
}

fn fault(fault: &FaultStep) -> Value {
    let mut out = object(json!({"to": fault.service, "percent": fault.percent.to_string()}));
    out.extend(fault.from.as_ref().map(|from| ("from".to_owned(), caller(from))));
    out.extend(fault.region.as_ref().map(|r| ("region".to_owned(), json!(r))));
    out.extend(fault.path.as_ref().map(|p| ("path".to_owned(), json!(p))));
    out.extend(fault.method.as_ref().map(|m| ("method".to_owned(), json!(m))));
    out.extend(fault.header.as_ref().map(|(name, value)| ("header".to_owned(), json!(format!("{name}: {value}")))));
    let (kind, what) = fault_action(&fault.action);
    out.insert(kind.to_owned(), what);
    Value::Object(out)
}

fn fault_action(action: &FaultAction) -> (&'static str, Value) {
    match action {
        FaultAction::Delay(time) => ("delay", delay(time)),
        FaultAction::Abort(status) => ("abort", json!(status)),
        FaultAction::AbortGrpc(status) => ("abortGrpc", json!(status)),
        FaultAction::Refuse => ("refuse", json!(true)),
        FaultAction::Reset => ("reset", json!(true)),
        FaultAction::ResetAfter(bytes) => ("resetAfter", json!(bytes)),
        FaultAction::Blackhole => ("blackhole", json!(true)),
        FaultAction::DropConnect => ("dropConnect", json!(true)),
        FaultAction::Bandwidth(bytes) => ("bandwidth", json!(bytes)),
        FaultAction::Truncate(bytes) => ("truncate", json!(bytes)),
        FaultAction::Dns => ("dns", json!(true)),
        FaultAction::Tls(TlsFault::Expired) => ("tls", json!("expired")),
        FaultAction::Tls(TlsFault::Untrusted) => ("tls", json!("untrusted")),
        FaultAction::Tls(TlsFault::WrongIdentity) => ("tls", json!("wrongIdentity")),
    }
}

fn delay(delay: &Delay) -> Value {
    match delay {
        Delay::Fixed(time) => json!(print_duration(*time)),
        Delay::Normal { mean, deviation } => {
            json!({"mean": print_duration(*mean), "deviation": print_duration(*deviation)})
        }
        Delay::Spike { base, spike, percent } => {
            json!({"base": print_duration(*base), "spike": print_duration(*spike), "percent": percent.to_string()})
        }
    }
}

fn partition(step: &PartitionStep) -> Value {
    let way = match step.way {
        Way::Both => "both",
        Way::To => "to",
        Way::From => "from",
    };
    let mut out = object(json!({"regions": step.regions, "way": way}));
    if !step.from.is_empty() {
        out.insert("from".to_owned(), json!(step.from));
    }
    Value::Object(out)
}

fn guard(guard: &Guard) -> Value {
    match &guard.condition {
        GuardCondition::SuccessRateBelow { percent, over } => {
            json!({"probe": guard.probe, "successRate": format!("< {percent}"), "over": print_duration(*over)})
        }
        GuardCondition::LatencyP99Above { latency, over } => {
            json!({"probe": guard.probe, "latencyP99": format!("> {}", print_duration(*latency)), "over": print_duration(*over)})
        }
        GuardCondition::IndeterminateAbove { count } => {
            json!({"probe": guard.probe, "indeterminate": format!("> {count}")})
        }
    }
}

fn backup(backup: &Backup) -> Value {
    json!({
        "service": backup.service,
        "every": print_duration(backup.every),
        "command": backup.command,
        "restore": backup.restore,
        "check": backup.check,
    })
}
