//! A mesh of the test's own: a gateway that really answers on loopback, two regions, a lease, recovery. Everything
//! that the engine sees goes through it, and it can be told to misbehave.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by several tests, none of which uses all of it")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use drill::target::{
    ClusterLoad, EndpointReport, GroupLoad, Lost, Meaning, Observed, ProxyReport, Recovery as Standing, Requests,
    Stamp, Target, TargetError,
};
use evidence::record::{Configuration, Tested, TestedEndpoint};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use model::{
    config::{
        Config, Drill, DrillKind, Failback, Failover, Fault, Guard, GuardCondition, HttpRequest, LoseHow, Mesh,
        Objectives, Pattern, Probe, ProbeHost, ProbeKind, RecoveryPlan, RunStep, ScenarioAction, ScenarioStep,
        Stakeholders, Step, Tier, TrafficPolicy, Trigger,
    },
    name::{DrillName, GatewayName, PlanName, ProbeName, RegionName, ServiceName},
    unit::{Percent, Rate},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const PROXIES: [(&str, Option<&str>, Option<&str>); 3] =
    [("edge", None, None), ("app-east-0", Some("east"), Some("app")), ("app-west-0", Some("west"), Some("app"))];

/// How the mesh misbehaves.
#[derive(Debug, Default)]
pub struct Knobs {
    /// The standby cannot be reached.
    pub standby_down: AtomicBool,
    /// A check of the audit fails.
    pub strangers_allowed: AtomicBool,
    /// Every other request fails, always.
    pub flaky: AtomicBool,
    /// Nothing ever recovers.
    pub no_recovery: AtomicBool,
    /// A proxy keeps something at the end.
    pub residue: AtomicBool,
    /// The control plane answers nothing.
    pub control_dead: AtomicBool,
    /// The control plane has restarted and knows no lease.
    pub lease_forgotten: AtomicBool,
    /// West calls something in east.
    pub hidden: AtomicBool,
    /// The harmless lease never lapses.
    pub stuck: AtomicBool,
    /// The standby serves, as after an attempt that was cut short.
    pub misplaced: AtomicBool,
    /// The gateway says that its load is at the primary, and sends its requests to the standby.
    pub deceiving: AtomicBool,
    /// After the failback the gateway gives the primary only half of its load.
    pub halfway: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Recovery {
    Normal,
    FailedOver,
    FailingBack,
}

#[derive(Debug)]
struct State {
    lost: bool,
    recovery: Recovery,
    leases: BTreeMap<String, (Instant, Duration)>,
    overlays: BTreeMap<String, String>,
    events: Vec<Observed>,
    stored: Vec<(String, u64, String, Instant)>,
    drop_last: usize,
    epoch: u64,
    tries: u64,
    /// Percent of the requests that failback sends to the primary again.
    share: u8,
    requests: u64,
    /// Requests sent to east and to west.
    sent: (u64, u64),
    failed_back: bool,
    dirty: bool,
    revision: u64,
}

/// The mesh.
#[derive(Debug)]
pub struct Fake {
    pub knobs: Knobs,
    pub gateway: SocketAddr,
    base: Instant,
    wall: i64,
    state: Mutex<State>,
}

impl Fake {
    /// Starts its gateway.
    pub async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Any moment will do: nothing compares it with the machine's clock.
        let wall = 1_760_000_000_000_000_000;
        let state = State {
            lost: false,
            recovery: Recovery::Normal,
            leases: BTreeMap::new(),
            overlays: BTreeMap::new(),
            events: Vec::new(),
            stored: Vec::new(),
            drop_last: 0,
            epoch: 1,
            tries: 0,
            share: 0,
            requests: 0,
            sent: (0, 0),
            failed_back: false,
            dirty: false,
            revision: 7,
        };
        let fake = Arc::new(Self {
            knobs: Knobs::default(),
            gateway: listener.local_addr().unwrap(),
            base: Instant::now(),
            wall,
            state: Mutex::new(state),
        });
        tokio::spawn(serve(listener, fake.clone()));
        fake
    }

    pub fn set(&self, knob: impl Fn(&Knobs) -> &AtomicBool) {
        knob(&self.knobs).store(true, Ordering::SeqCst);
    }

    /// The last `k` acknowledged writes are lost with the region.
    pub fn drop_last(&self, k: usize) {
        self.state.lock().unwrap().drop_last = k;
    }

    pub fn leases(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        self.expire(&mut state);
        state.leases.len()
    }

    /// Another configuration comes into force.
    pub fn apply(&self) {
        self.state.lock().unwrap().revision += 1;
    }

    pub fn is_lost(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        self.expire(&mut state);
        state.lost
    }

    fn is(&self, knob: &AtomicBool) -> bool {
        knob.load(Ordering::SeqCst)
    }

    fn stamp(&self) -> Stamp {
        self.wall + self.base.elapsed().as_nanos() as i64
    }

    fn event(&self, state: &mut State, source: &str, meaning: Meaning) {
        let sequence = state.events.len() as u64 + 1;
        let raw = json!({"meaning": format!("{meaning:?}")});
        state.events.push(Observed { sequence, time: self.stamp(), source: source.into(), meaning, raw });
    }

    fn expire(&self, state: &mut State) {
        let now = Instant::now();
        let gone: Vec<String> =
            state.leases.iter().filter(|(_, (until, _))| *until < now).map(|(id, _)| id.clone()).collect();
        for id in gone {
            if !self.is(&self.knobs.stuck) {
                self.end(state, &id, true);
            }
        }
    }

    fn end(&self, state: &mut State, lease: &str, lapsed: bool) {
        state.leases.remove(lease);
        let ids: Vec<String> = state.overlays.iter().filter(|(_, of)| *of == lease).map(|(id, _)| id.clone()).collect();
        for id in ids {
            state.overlays.remove(&id);
            for (proxy, ..) in PROXIES {
                self.event(state, &format!("proxy {proxy}"), Meaning::OverlayEnded { id: id.clone(), lapsed });
            }
        }
        if !lease.ends_with("-proof") {
            state.lost = false;
            state.share = 0;
            state.recovery = Recovery::Normal;
        }
    }

    fn load(&self, state: &State) -> ClusterLoad {
        let group = |priority, region: &str, tries| GroupLoad { priority, region: region.into(), tries, active: 0 };
        let halfway = self.is(&self.knobs.halfway) && state.failed_back;
        let tiers = match state.recovery {
            Recovery::FailedOver | Recovery::FailingBack => vec![state.share, 100 - state.share],
            _ if self.is(&self.knobs.misplaced) => vec![0, 100],
            _ if halfway => vec![50, 50],
            _ => vec![100, 0],
        };
        let groups = vec![group(0, "east", state.sent.0), group(1, "west", state.sent.1)];
        ClusterLoad { cluster: "app".into(), service: "app".into(), tiers, groups }
    }

    fn control(&self) -> Result<(), TargetError> {
        if self.is(&self.knobs.control_dead) {
            Err(TargetError::Unreachable { who: "control plane", reason: "connection refused".into() })
        } else {
            Ok(())
        }
    }

    fn known(&self, state: &mut State, lease: &str) -> Result<(), TargetError> {
        self.control()?;
        self.expire(state);
        if self.is(&self.knobs.lease_forgotten) || !state.leases.contains_key(lease) {
            let what = format!("use lease {lease}");
            return Err(TargetError::Refused { who: "control plane", what, reason: "no such lease".into() });
        }
        Ok(())
    }

    fn answer(&self, request: &Request<Incoming>, body: &[u8]) -> Response<Full<Bytes>> {
        let mut state = self.state.lock().unwrap();
        self.expire(&mut state);
        state.requests += 1;
        let failing = state.lost && state.recovery == Recovery::Normal;
        if failing || (self.is(&self.knobs.flaky) && state.requests.is_multiple_of(2)) {
            return response(503, None, json!({}));
        }
        if self.is(&self.knobs.hidden) && state.lost {
            state.tries += 1;
        }
        let halfway = self.is(&self.knobs.halfway) && state.failed_back && state.requests.is_multiple_of(2);
        let elsewhere = self.is(&self.knobs.misplaced) || self.is(&self.knobs.deceiving) || halfway;
        let back = match state.share {
            0 => false,
            100 => true,
            _ => state.requests.is_multiple_of(2),
        };
        let moved = matches!(state.recovery, Recovery::FailedOver | Recovery::FailingBack);
        let west = moved && !back || elsewhere;
        if west {
            state.sent.1 += 1;
        } else {
            state.sent.0 += 1;
        }
        let region = if west { "west" } else { "east" };
        let query = request.uri().query().unwrap_or_default();
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/payments") => {
                let write: Value = serde_json::from_slice(body).unwrap();
                let id = write["id"].as_str().unwrap().to_owned();
                let probe = write["probe"].as_str().unwrap().to_owned();
                state.stored.push((id, write["sequence"].as_u64().unwrap(), probe, Instant::now()));
                let epoch = state.epoch;
                // Whoever answers, the store is where recovery says.
                let store = if state.recovery == Recovery::FailedOver { "west" } else { "east" };
                response(201, Some(region), json!({"epoch": epoch, "region": store}))
            }
            (&Method::GET, "/payments") => {
                let probe = query.strip_prefix("probe=").unwrap_or_default();
                let listed = state.stored.iter().filter(|w| w.2 == probe);
                let list: Vec<Value> = listed.map(|w| json!({"id": w.0, "sequence": w.1})).collect();
                response(200, Some(region), json!(list))
            }
            _ => response(200, Some(region), json!({})),
        }
    }

    /// What the mesh does by itself when the primary is lost.
    async fn recover(self: Arc<Self>, lease: String) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let region = "east".to_owned();
        let detected = Meaning::Detected { service: "app".into(), region, cause: "connection refused".into() };
        self.event(&mut self.state.lock().unwrap(), "proxy edge", detected);
        if self.is(&self.knobs.no_recovery) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        let mut state = self.state.lock().unwrap();
        if !state.lost {
            return;
        }
        let plan = "plan".to_owned();
        self.event(&mut state, "control", Meaning::Decided { plan: plan.clone() });
        self.event(&mut state, "control", Meaning::ShiftCommanded { plan, overlays: vec!["off-east".into()] });
        state.overlays.insert("off-east".into(), lease);
        for proxy in ["edge", "app-west-0"] {
            self.event(&mut state, &format!("proxy {proxy}"), Meaning::OverlayApplied { id: "off-east".into() });
        }
        state.recovery = Recovery::FailedOver;
        state.epoch += 1;
        let step = Meaning::StepFinished { name: "promote".into(), took: Duration::from_millis(1), result: Ok(()) };
        self.event(&mut state, "control", step);
    }

    async fn fail_back(self: Arc<Self>) {
        // As long as it takes to see the load of a proxy within one second.
        for (share, dwell) in [(50, 2_300), (100, 200)] {
            {
                let mut state = self.state.lock().unwrap();
                state.share = share;
                self.event(&mut state, "control", Meaning::RampStep { percent: f64::from(share) });
            }
            tokio::time::sleep(Duration::from_millis(dwell)).await;
        }
        let mut state = self.state.lock().unwrap();
        state.share = 0;
        state.recovery = Recovery::Normal;
        state.failed_back = true;
        state.overlays.remove("off-east");
        state.epoch += 1;
        self.event(&mut state, "control", Meaning::FailbackDone { plan: "plan".into() });
    }
}

fn response(status: u16, region: Option<&str>, body: Value) -> Response<Full<Bytes>> {
    let mut builder = Response::builder().status(status);
    if let Some(region) = region {
        builder = builder.header("x-firedrill-answered-by", format!("{region};app-{region}-0;v1;tries=1"));
    }
    builder.body(Full::new(Bytes::from(body.to_string()))).unwrap()
}

async fn serve(listener: TcpListener, fake: Arc<Fake>) {
    while let Ok((stream, _)) = listener.accept().await {
        let fake = fake.clone();
        tokio::spawn(async move {
            let service = service_fn(move |mut request: Request<Incoming>| {
                let fake = fake.clone();
                async move {
                    let body = request.body_mut().collect().await?.to_bytes();
                    Ok::<_, hyper::Error>(fake.answer(&request, &body))
                }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The mesh, as a target: a handle, so that the mesh can act on its own.
#[derive(Debug, Clone)]
pub struct Handle(pub Arc<Fake>);

impl Target for Handle {
    fn now(&self) -> (Stamp, Duration) {
        (self.0.stamp(), Duration::from_micros(10))
    }

    fn gateway(&self, name: &str) -> Option<SocketAddr> {
        (name == "edge").then_some(self.0.gateway)
    }

    fn programs(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("fake".into(), "1".into())])
    }

    async fn tested(&self, _: &PlanName) -> Result<Tested, TargetError> {
        let (service, region, address) = ("app".to_owned(), "east".to_owned(), "127.0.0.1:1".to_owned());
        let endpoints = vec![TestedEndpoint { service, region, address, host: None }];
        let configuration = Some(self.configuration().await?.0);
        Ok(Tested { mesh: Some("b5f1".to_owned()), configuration, endpoints, ..Tested::default() })
    }

    async fn configuration(&self) -> Result<(Configuration, String), TargetError> {
        let revision = self.0.state.lock().unwrap().revision;
        Ok((Configuration { revision, digest: format!("sha256:{revision}") }, "ann".to_owned()))
    }

    async fn take_lease(&self, id: &str, ttl: Duration, _plan: Option<&PlanName>) -> Result<(), TargetError> {
        self.0.control()?;
        self.0.state.lock().unwrap().leases.insert(id.into(), (Instant::now() + ttl, ttl));
        Ok(())
    }

    async fn heartbeat(&self, id: &str) -> Result<(), TargetError> {
        let mut state = self.0.state.lock().unwrap();
        self.0.known(&mut state, id)?;
        let (until, ttl) = state.leases.get_mut(id).unwrap();
        *until = Instant::now() + *ttl;
        Ok(())
    }

    async fn release_lease(&self, id: &str) -> Result<(), TargetError> {
        self.0.control()?;
        let mut state = self.0.state.lock().unwrap();
        state.dirty = self.0.is(&self.0.knobs.residue);
        self.0.end(&mut state, id, false);
        Ok(())
    }

    async fn lay_harmless(&self, lease: &str) -> Result<String, TargetError> {
        let mut state = self.0.state.lock().unwrap();
        self.0.known(&mut state, lease)?;
        state.overlays.insert("harmless".into(), lease.into());
        Ok("harmless".into())
    }

    async fn lose(&self, lease: &str, _: &str, _: &RegionName, how: LoseHow) -> Result<Lost, TargetError> {
        let stamp = self.0.stamp();
        {
            let mut state = self.0.state.lock().unwrap();
            self.0.known(&mut state, lease)?;
            state.lost = true;
            let kept = state.stored.len().saturating_sub(state.drop_last);
            state.stored.truncate(kept);
            if how == LoseHow::Partition {
                state.overlays.insert("cut".into(), lease.into());
                self.0.event(&mut state, "proxy edge", Meaning::OverlayApplied { id: "cut".into() });
            }
        }
        tokio::spawn(self.0.clone().recover(lease.to_owned()));
        let overlays = if how == LoseHow::Partition { vec!["cut".to_owned()] } else { vec![] };
        let effective = (how != LoseHow::Partition).then_some(stamp);
        Ok(Lost { workloads: 1, proxies: 1, effective, overlays })
    }

    async fn fault(&self, lease: &str, step: &str, _: &Fault) -> Result<Vec<String>, TargetError> {
        let mut state = self.0.state.lock().unwrap();
        self.0.known(&mut state, lease)?;
        state.overlays.insert(step.into(), lease.into());
        Ok(vec![step.into()])
    }

    async fn undo(&self, lease: &str, step: &str) -> Result<(), TargetError> {
        let mut state = self.0.state.lock().unwrap();
        self.0.known(&mut state, lease)?;
        state.overlays.remove(step);
        state.overlays.remove("cut");
        state.lost = false;
        let back = Meaning::Readmitted { service: "app".into(), region: "east".into() };
        self.0.event(&mut state, "proxy edge", back);
        Ok(())
    }

    async fn entrust_undo(&self, lease: &str, _: &str) -> Result<(), TargetError> {
        let mut state = self.0.state.lock().unwrap();
        self.0.known(&mut state, lease)
    }

    async fn keep_undos(&self, _: &str) -> Result<(), TargetError> {
        self.0.control()
    }

    async fn failover(&self, _: &PlanName, _: &str) -> Result<(), TargetError> {
        self.0.control()
    }

    async fn failback(&self, _: &PlanName, _: &str) -> Result<(), TargetError> {
        self.0.control()?;
        {
            let mut state = self.0.state.lock().unwrap();
            state.recovery = Recovery::FailingBack;
            state.epoch += 1;
        }
        tokio::spawn(self.0.clone().fail_back());
        Ok(())
    }

    async fn recovery(&self, _: &PlanName) -> Result<Standing, TargetError> {
        self.0.control()?;
        Ok(match self.0.state.lock().unwrap().recovery {
            Recovery::Normal => Standing::AtRest,
            other => Standing::Active(format!("{other:?}")),
        })
    }

    async fn proxies(&self) -> Result<Vec<ProxyReport>, TargetError> {
        self.0.control()?;
        let mut state = self.0.state.lock().unwrap();
        self.0.expire(&mut state);
        let report = |(name, region, service): (&str, Option<&str>, Option<&str>)| {
            let mut overlays: Vec<String> = state.overlays.keys().cloned().collect();
            overlays.sort();
            let down = region == Some("east") && state.lost;
            let left = if state.dirty && name == "edge" { " left" } else { "" };
            let tries = ("fx".to_owned(), "east".to_owned());
            ProxyReport {
                name: name.into(),
                region: region.map(str::to_owned),
                service: service.map(str::to_owned),
                digest: if down {
                    Err("connection refused".into())
                } else {
                    Ok(format!("d{} {overlays:?}{left}", state.revision))
                },
                in_sync: left.is_empty(),
                overlays,
                tries: BTreeMap::from([(tries, if region == Some("west") { state.tries } else { 0 })]),
                loads: if name == "edge" { vec![self.0.load(&state)] } else { vec![] },
                boot: "1".into(),
            }
        };
        Ok(PROXIES.into_iter().map(report).collect())
    }

    async fn audit(&self, _: &PlanName) -> Result<Vec<EndpointReport>, TargetError> {
        self.0.control()?;
        let endpoint = |region: &str| {
            let down = region == "west" && self.0.is(&self.0.knobs.standby_down);
            let down = down || (region == "east" && self.0.state.lock().unwrap().lost);
            let reachable = if down { Err("connection refused".to_owned()) } else { Ok(()) };
            let strangers = self.0.is(&self.0.knobs.strangers_allowed);
            let refuses = if strangers { Err("an unknown identity got 200".to_owned()) } else { Ok(()) };
            EndpointReport {
                workload: format!("app-{region}-0"),
                service: "app".into(),
                region: region.into(),
                checks: BTreeMap::from([("reachable".into(), reachable), ("refusesStrangers".into(), refuses)]),
            }
        };
        Ok(vec![endpoint("east"), endpoint("west")])
    }

    async fn events(&self, after: u64, wait: Duration) -> Result<Vec<Observed>, TargetError> {
        self.0.control()?;
        let until = Instant::now() + wait;
        loop {
            let found: Vec<Observed> = {
                let state = self.0.state.lock().unwrap();
                state.events.iter().filter(|event| event.sequence > after).cloned().collect()
            };
            if !found.is_empty() || Instant::now() > until {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn requests(&self, gateway: &str, after: Option<u64>) -> Result<Requests, TargetError> {
        self.0.control()?;
        // One at each question but the first.
        let last = after.map_or(0, |after| after + 1);
        let requests = after.map(|after| serde_json::json!({ "authority": gateway, "bytes_sent": after }));
        Ok(Requests { boot: "b".into(), last, requests: requests.into_iter().collect(), ..Requests::default() })
    }

    fn environment(&self, _: Option<&RegionName>) -> BTreeMap<String, String> {
        BTreeMap::from([("FIREDRILL_TEST".into(), "yes".into())])
    }
}

fn request(method: &str, path: &str) -> HttpRequest {
    let host = ProbeHost::Gateway(GatewayName::new("edge").unwrap());
    HttpRequest { method: method.into(), host, path: path.into() }
}

pub fn drill_name() -> DrillName {
    DrillName::new("lose-east").unwrap()
}

/// A drill that takes seconds.
pub fn config() -> Config {
    let region = |name: &str| RegionName::new(name).unwrap();
    let plan = RecoveryPlan {
        name: PlanName::new("plan").unwrap(),
        services: vec![ServiceName::new("app").unwrap()],
        pattern: Pattern::ActivePassive { primary: region("east"), standby: vec![region("west")], tier: Tier::Hot },
        objectives: Objectives {
            recovery_time: Some(Duration::from_secs(2)),
            data_loss: Some(Duration::from_secs(1)),
            // What is judged has tests of its own: a busy machine must not have a drill refused or aborted here.
            success_rate: Percent(60.0),
            latency_p99: None,
            sustain: Duration::from_secs(1),
            lost_after_fault: 0,
            integrity: model::config::Integrity::default(),
            settle: Duration::ZERO,
            minimum_hits: 0,
            failback: model::config::FailbackObjectives::default(),
        },
        failover: Failover {
            trigger: Trigger::Automatic { unhealthy_for: Duration::from_secs(1) },
            quorum: None,
            steps: vec![
                Step::Shift { to: region("west") },
                Step::Run(RunStep {
                    name: "promote".into(),
                    region: Some(region("west")),
                    command: vec!["true".into()],
                    check: None,
                    timeout: Duration::from_secs(1),
                    undo: None,
                }),
            ],
        },
        failback: Failback {
            trigger: Trigger::Manual,
            steps: vec![],
            ramp: vec![Percent(50.0), Percent(100.0)],
            dwell: Duration::from_millis(200),
        },
    };
    let probe = |name: &str, kind: ProbeKind, rate: f64| Probe {
        name: ProbeName::new(name).unwrap(),
        kind,
        rate: Rate(rate),
        timeout: Duration::from_secs(1),
        expect: model::config::Expect::default(),
    };
    let drill = Drill {
        name: drill_name(),
        plan: plan.name.clone(),
        kind: DrillKind::Live,
        purpose: "A test.".into(),
        stakeholders: Stakeholders::default(),
        probes: vec![
            probe("balance", ProbeKind::Http(request("GET", "/balance")), 100.0),
            probe(
                "payments",
                ProbeKind::Writes { put: request("POST", "/payments"), get: request("GET", "/payments") },
                50.0,
            ),
        ],
        baseline: Duration::from_secs(1),
        scenario: vec![ScenarioStep {
            at: Duration::ZERO,
            lasts: None,
            action: ScenarioAction::Lose { region: region("east"), how: LoseHow::Kill },
        }],
        hold: Duration::from_secs(3),
        guards: vec![Guard {
            probe: ProbeName::new("balance").unwrap(),
            // Nearly a second of nothing, of which a recovery takes a fifth.
            condition: GuardCondition::SuccessRateBelow { percent: Percent(10.0), over: Duration::from_secs(1) },
        }],
        access_log: Some(4),
    };
    Config {
        mesh: mesh(region("east"), region("west")),
        services: BTreeMap::new(),
        plans: BTreeMap::from([(plan.name.clone(), plan)]),
        drills: BTreeMap::from([(drill.name.clone(), drill)]),
        backups: BTreeMap::new(),
    }
}

fn mesh(east: RegionName, west: RegionName) -> Mesh {
    Mesh {
        name: "test".into(),
        trust_domain: "test.example".into(),
        regions: vec![east, west],
        identity: model::config::Identity::Builtin,
        certificate_lifetime: Duration::from_secs(86_400),
        federation: vec![],
        gateways: vec![],
        defaults: TrafficPolicy {
            timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(300),
            retries: model::config::Retries { attempts: 0, per_try: Duration::from_secs(1), on: vec![] },
            hedge: None,
            detection: model::config::Detection {
                consecutive_errors: None,
                consecutive_5xx: None,
                consecutive_local: None,
                success_rate: None,
                failure_percentage: None,
                interval: Duration::from_secs(1),
                ejection: Duration::from_secs(30),
                longest_ejection: Duration::from_secs(300),
                ejected_at_most: 50,
                active_check: None,
            },
        },
        listeners: model::config::ListenerLimits::default(),
    }
}
