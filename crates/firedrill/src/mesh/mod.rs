//! The mesh on this machine as a drill sees it: leases and overlays at the control plane, holds at the supervisor.

mod audit;
mod events;
pub mod faults;
mod subject;
mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use control::{
    api::{LeaseRequest, OverlayEffect, OverlayRequest, RecoveryReport, RecoveryState, Revision, Targets},
    client::{Client as Control, ClientError as ControlError},
};
use drill::target::{
    ClusterLoad, EndpointReport, GroupLoad, Lost, Observed, ProxyReport, Recovery, Requests, Stamp, Target, TargetError,
};
use evidence::record::{Configuration, Tested};
use model::{
    config::{Config, Fault, LoseHow},
    name::{PlanName, RegionName},
};
use xds::{clock::Clock, status::ClusterStatus};

pub use subject::operator;

use crate::supervisor::{
    api::{HoldHow, HoldRequest, MeshReport, UndoRequest},
    client::{Client as Supervisor, ClientError as SupervisorError},
};

const CONTROL: &str = "control plane";
const SUPERVISOR: &str = "supervisor";

/// A running mesh of this machine.
#[derive(Debug)]
pub struct MeshTarget {
    clock: Clock,
    config: Config,
    mesh: MeshReport,
    control: Control,
    supervisor: Supervisor,
    programs: BTreeMap<String, String>,
    held: Mutex<BTreeMap<String, Held>>,
    feed: tokio::sync::Mutex<events::Feed>,
}

/// What stands under one lease beside the control plane's overlays.
#[derive(Clone, Debug, Default)]
struct Held {
    ttl: Duration,
    /// Hold ids at the supervisor by step.
    holds: BTreeMap<String, String>,
    /// Undo commands are entrusted to the supervisor.
    undos: bool,
}

impl MeshTarget {
    /// Looks at a running mesh.
    ///
    /// # Errors
    /// When control plane or supervisor do not answer.
    pub async fn new(config: Config, control: Control, supervisor: Supervisor) -> Result<Self, TargetError> {
        let mesh = supervisor.mesh().await.map_err(|e| of_supervisor("describe the mesh", e))?;
        let proxies = control.proxies().await.map_err(of_control)?;
        let mut programs = BTreeMap::from([
            ("engine".to_owned(), format!("firedrill {}", env!("CARGO_PKG_VERSION"))),
            ("system".to_owned(), system()),
        ]);
        for status in proxies.into_iter().filter_map(|proxy| proxy.status) {
            programs.insert(format!("proxy {}", status.name), status.program);
        }
        Ok(Self {
            clock: Clock::anchored(),
            config,
            mesh,
            control,
            supervisor,
            programs,
            held: Mutex::default(),
            feed: tokio::sync::Mutex::default(),
        })
    }

    /// Proxies that are stock Envoys.
    pub fn envoys(&self) -> BTreeSet<String> {
        let envoys = self.programs.iter().filter(|(_, program)| program.starts_with("envoy "));
        envoys.filter_map(|(of, _)| of.strip_prefix("proxy ").map(str::to_owned)).collect()
    }

    fn held<R>(&self, change: impl FnOnce(&mut BTreeMap<String, Held>) -> R) -> R {
        // The table is plain data: a thread that panicked with it in hand left it usable.
        change(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn overlay(
        &self,
        lease: &str,
        name: &str,
        effect: OverlayEffect,
    ) -> Result<control::api::OverlayReport, TargetError> {
        self.lay(lease, name, &OverlayRequest { targets: Targets::Concerned, effect }).await
    }

    async fn lay(
        &self,
        lease: &str,
        name: &str,
        request: &OverlayRequest,
    ) -> Result<control::api::OverlayReport, TargetError> {
        self.control.lay_overlay(lease, &slug(name), request).await.map_err(of_control)
    }

    async fn hold(&self, lease: &str, step: &str, region: &RegionName, how: HoldHow) -> Result<Lost, TargetError> {
        let Some(ttl) = self.held(|held| held.get(lease).map(|held| held.ttl)) else {
            return Err(TargetError::Refused {
                who: SUPERVISOR,
                what: format!("hold {region} down"),
                reason: format!("lease {lease} is not held"),
            });
        };
        let id = format!("{}.{}", slug(lease), slug(step));
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).min(crate::supervisor::api::MAX_TTL_MS);
        let request = HoldRequest { id: id.clone(), region: region.to_string(), how, ttl_ms };
        match self.supervisor.hold(&request).await {
            Ok(report) => {
                self.held(|held| {
                    if let Some(held) = held.get_mut(lease) {
                        held.holds.insert(step.to_owned(), id);
                    }
                });
                Ok(Lost {
                    workloads: report.workloads,
                    proxies: report.proxies,
                    effective: Some(report.effective.0),
                    overlays: Vec::new(),
                })
            }
            Err(error) => {
                // It may have been taken although no answer came; if this fails too, it lapses by itself.
                let _ = self.supervisor.release(&id).await;
                Err(of_supervisor(&format!("hold {region} down"), error))
            }
        }
    }
}

impl MeshTarget {
    fn entrusts(&self, lease: &str) -> bool {
        self.held(|held| held.get(lease).is_some_and(|held| held.undos))
    }

    async fn renew_undos(&self, lease: &str) -> Result<(), TargetError> {
        if !self.entrusts(lease) {
            return Ok(());
        }
        match self.supervisor.renew_undos(&slug(lease)).await {
            // Taken back while it was being renewed: that it is gone is no loss then.
            Err(SupervisorError::Refused { .. }) if !self.entrusts(lease) => Ok(()),
            result => result.map_err(|e| of_supervisor("look after its undos", e)),
        }
    }
}

impl Target for MeshTarget {
    fn now(&self) -> (Stamp, Duration) {
        (self.clock.now().0, self.clock.error())
    }

    fn gateway(&self, name: &str) -> Option<SocketAddr> {
        // The manifests in force, not the supervisor: a gateway moves with them.
        self.config.mesh.gateways.iter().find(|gateway| gateway.name.as_str() == name).map(|gateway| gateway.listen)
    }

    fn programs(&self) -> BTreeMap<String, String> {
        self.programs.clone()
    }

    async fn tested(&self, plan: &PlanName) -> Result<Tested, TargetError> {
        let configuration = self.configuration().await?.0;
        let found = self.control.sources().await.map_err(of_control)?;
        let services = self.config.plans.get(plan).map(|plan| plan.services.as_slice()).unwrap_or_default();
        subject::tested(&self.mesh, &self.config, services, configuration, found).await
    }

    async fn configuration(&self) -> Result<(Configuration, String), TargetError> {
        let Revision { number, digest, author, .. } = self.control.config().await.map_err(of_control)?;
        Ok((Configuration { revision: number, digest: format!("sha256:{digest}") }, author))
    }

    async fn take_lease(&self, id: &str, ttl: Duration, plan: Option<&PlanName>) -> Result<(), TargetError> {
        let request = LeaseRequest {
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            reason: format!("drill {id}"),
            holder: format!("drill engine, process {}", std::process::id()),
            plan: plan.map(ToString::to_string),
        };
        self.control.take_lease(id, &request).await.map_err(of_control)?;
        self.held(|held| held.insert(id.to_owned(), Held { ttl, ..Held::default() }));
        Ok(())
    }

    async fn heartbeat(&self, id: &str) -> Result<(), TargetError> {
        let holds: Vec<String> =
            self.held(|held| held.get(id).map(|held| held.holds.values().cloned().collect()).unwrap_or_default());
        let at_control = async { self.control.heartbeat(id).await.map(drop).map_err(of_control) };
        let at_supervisor = futures_util::future::join_all(holds.iter().map(|hold| self.supervisor.heartbeat(hold)));
        let (control, supervisor, undos) = tokio::join!(at_control, at_supervisor, self.renew_undos(id));
        for (hold, result) in holds.iter().zip(supervisor) {
            // Undone while it was being renewed: that it is gone is no loss then.
            let owned = self.held(|held| held.get(id).is_some_and(|held| held.holds.values().any(|own| own == hold)));
            if owned {
                result.map_err(|e| of_supervisor("renew its hold", e))?;
            }
        }
        undos?;
        control
    }

    async fn release_lease(&self, id: &str) -> Result<(), TargetError> {
        let holds: Vec<String> =
            self.held(|held| held.remove(id)).map(|held| held.holds.into_values().collect()).unwrap_or_default();
        // Faults at the proxies first: they go in milliseconds, processes take longer to come back.
        let control = self.control.release_lease(id).await.map_err(of_control);
        for hold in holds {
            self.supervisor.release(&hold).await.map_err(|e| of_supervisor("end its hold", e))?;
        }
        control
    }

    async fn lay_harmless(&self, lease: &str) -> Result<String, TargetError> {
        Ok(self.overlay(lease, "harmless", OverlayEffect::Harmless {}).await?.id)
    }

    async fn lose(&self, lease: &str, step: &str, region: &RegionName, how: LoseHow) -> Result<Lost, TargetError> {
        match how {
            LoseHow::Kill => self.hold(lease, step, region, HoldHow::Kill).await,
            LoseHow::Pause => self.hold(lease, step, region, HoldHow::Pause).await,
            LoseHow::Partition => {
                let report = self.lay(lease, step, &faults::lost(region)).await?;
                Ok(Lost { workloads: 0, proxies: report.proxies.len(), effective: None, overlays: vec![report.id] })
            }
        }
    }

    async fn fault(&self, lease: &str, step: &str, fault: &Fault) -> Result<Vec<String>, TargetError> {
        Ok(vec![self.lay(lease, step, &faults::at_proxies(fault)).await?.id])
    }

    async fn undo(&self, lease: &str, step: &str) -> Result<(), TargetError> {
        let hold = self.held(|held| held.get_mut(lease).and_then(|held| held.holds.remove(step)));
        match hold {
            Some(hold) => self.supervisor.release(&hold).await.map_err(|e| of_supervisor("end its hold", e)),
            None => self.control.remove_overlay(lease, &slug(step)).await.map_err(of_control),
        }
    }

    async fn entrust_undo(&self, lease: &str, undo: &str) -> Result<(), TargetError> {
        let known = self.held(|held| {
            held.get_mut(lease).map(|held| {
                held.undos = true;
                held.ttl
            })
        });
        let Some(ttl) = known else {
            return Err(TargetError::Refused {
                who: SUPERVISOR,
                what: format!("look after the undo {undo}"),
                reason: format!("lease {lease} is not held"),
            });
        };
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).min(crate::supervisor::api::MAX_TTL_MS);
        let request = UndoRequest { lease: slug(lease), undo: undo.to_owned(), ttl_ms };
        self.supervisor.entrust_undo(&request).await.map_err(|e| of_supervisor("look after an undo", e))
    }

    async fn keep_undos(&self, lease: &str) -> Result<(), TargetError> {
        self.held(|held| {
            if let Some(held) = held.get_mut(lease) {
                held.undos = false;
            }
        });
        self.supervisor.keep_undos(&slug(lease)).await.map_err(|e| of_supervisor("give its undos back", e))
    }

    async fn failover(&self, plan: &PlanName, reason: &str) -> Result<(), TargetError> {
        self.control.failover(plan.as_str(), reason).await.map(drop).map_err(of_control)
    }

    async fn failback(&self, plan: &PlanName, reason: &str) -> Result<(), TargetError> {
        self.control.failback(plan.as_str(), reason).await.map(drop).map_err(of_control)
    }

    async fn recovery(&self, plan: &PlanName) -> Result<Recovery, TargetError> {
        let reports = self.control.recovery().await.map_err(of_control)?;
        match reports.iter().find(|report| report.plan == plan.as_str()) {
            Some(report) => Ok(standing(report)),
            None => Err(TargetError::Refused {
                who: CONTROL,
                what: format!("tell the state of plan {plan}"),
                reason: "it does not know the plan".to_owned(),
            }),
        }
    }

    async fn proxies(&self) -> Result<Vec<ProxyReport>, TargetError> {
        Ok(self.control.proxies().await.map_err(of_control)?.into_iter().map(proxy_report).collect())
    }

    async fn audit(&self, plan: &PlanName) -> Result<Vec<EndpointReport>, TargetError> {
        let trust = self.control.trust().await.map_err(of_control)?;
        let proxies = self.control.proxies().await.map_err(of_control)?;
        let sources = self.control.sources().await.map_err(of_control)?;
        Ok(audit::endpoints(&self.config, &self.mesh, plan, &trust, &proxies, &sources, self.clock.now()).await)
    }

    async fn events(&self, after: u64, wait: Duration) -> Result<Vec<Observed>, TargetError> {
        let mut feed = self.feed.lock().await;
        feed.after(after, wait, &self.control, &self.supervisor).await
    }

    async fn requests(&self, gateway: &str, after: Option<u64>) -> Result<Requests, TargetError> {
        let Some(found) = self.mesh.gateways.iter().find(|found| found.gateway == gateway) else {
            let reason = format!("there is no gateway {gateway}");
            return Err(TargetError::Refused { who: CONTROL, what: "tell its requests".to_owned(), reason });
        };
        let report = self.control.requests(&found.proxy.process.name, after).await.map_err(of_control)?;
        let control::api::RequestsReport { boot, last, dropped, lost, requests } = report;
        Ok(Requests { boot, last, dropped, lost, requests })
    }

    fn environment(&self, region: Option<&RegionName>) -> BTreeMap<String, String> {
        environment(&self.mesh, region)
    }
}

fn environment(mesh: &MeshReport, region: Option<&RegionName>) -> BTreeMap<String, String> {
    let inside = mesh.workloads.iter().map(|w| (&w.service, &w.region, w.address));
    let outside = mesh.outside.iter().map(|o| (&o.service, &o.region, o.address));
    let mut endpoints: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (service, of, address) in inside.chain(outside) {
        if region.is_none_or(|region| region.as_str() == of) {
            let name = format!("FIREDRILL_ENDPOINTS_{}", service.to_uppercase().replace('-', "_"));
            endpoints.entry(name).or_default().push(address.to_string());
        }
    }
    let mut environment: BTreeMap<String, String> =
        endpoints.into_iter().map(|(name, addresses)| (name, addresses.join(","))).collect();
    environment.insert("FIREDRILL_STATE".to_owned(), mesh.state.display().to_string());
    if let Some(region) = region {
        environment.insert("FIREDRILL_REGION".to_owned(), region.to_string());
    }
    environment
}

fn proxy_report(proxy: control::api::ProxyReport) -> ProxyReport {
    let Some(status) = proxy.status else {
        let reason = proxy.error.unwrap_or_else(|| "it says nothing of itself".to_owned());
        return ProxyReport {
            name: proxy.name,
            region: proxy.region,
            service: proxy.service,
            digest: Err(reason),
            in_sync: false,
            overlays: Vec::new(),
            tries: BTreeMap::new(),
            loads: Vec::new(),
            boot: String::new(),
        };
    };
    let mut tries: BTreeMap<(String, String), u64> = BTreeMap::new();
    for cluster in &status.clusters {
        for endpoint in &cluster.endpoints {
            *tries.entry((cluster.service.clone(), endpoint.region.clone())).or_default() += endpoint.tries;
        }
    }
    ProxyReport {
        name: proxy.name,
        region: proxy.region,
        service: proxy.service,
        digest: Ok(status.digest),
        in_sync: proxy.in_sync,
        overlays: status.overlays,
        tries,
        loads: status.clusters.iter().map(cluster_load).collect(),
        boot: status.boot,
    }
}

fn cluster_load(cluster: &ClusterStatus) -> ClusterLoad {
    let mut groups: BTreeMap<(u32, &str), (u64, u64)> = BTreeMap::new();
    for endpoint in &cluster.endpoints {
        let (tries, active) = groups.entry((endpoint.priority, &endpoint.region)).or_default();
        *tries += endpoint.tries;
        *active += endpoint.active;
    }
    let group = |((priority, region), (tries, active)): ((u32, &str), (u64, u64))| GroupLoad {
        priority,
        region: region.to_owned(),
        tries,
        active,
    };
    ClusterLoad {
        cluster: cluster.name.clone(),
        service: cluster.service.clone(),
        tiers: cluster.tier_load.clone(),
        groups: groups.into_iter().map(group).collect(),
    }
}

fn standing(report: &RecoveryReport) -> Recovery {
    Recovery::Active(match (report.state, report.share) {
        (RecoveryState::Normal, _) => return Recovery::AtRest,
        (RecoveryState::FailingOver, _) => "a failover is under way".to_owned(),
        (RecoveryState::FailedOver, _) => "it is failed over".to_owned(),
        (RecoveryState::FailingBack, Some(share)) => format!("a failback is under way, the primary is given {share} %"),
        (RecoveryState::FailingBack, None) => "a failback is under way".to_owned(),
    })
}

fn of_control(error: ControlError) -> TargetError {
    match error {
        ControlError::Refused { what, reason, .. } => TargetError::Refused { who: CONTROL, what, reason },
        other => TargetError::Unreachable { who: CONTROL, reason: other.to_string() },
    }
}

fn of_supervisor(what: &str, error: SupervisorError) -> TargetError {
    match error {
        SupervisorError::Refused { reason, .. } => {
            TargetError::Refused { who: SUPERVISOR, what: what.to_owned(), reason }
        }
        SupervisorError::Unreachable(reason) => TargetError::Unreachable { who: SUPERVISOR, reason },
    }
}

/// What may stand in a path and in a resource's name.
fn slug(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' }).collect()
}

fn system() -> String {
    let name = rustix::system::uname();
    let part = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    format!("{} {} {}", part(name.sysname()), part(name.release()), part(name.machine()))
}

#[cfg(test)]
mod tests {
    use std::{future::IntoFuture as _, sync::Arc};

    use axum::{
        Json, Router,
        http::StatusCode,
        routing::{delete, get, post, put},
    };
    use serde_json::{Value, json};
    use tokio::sync::Notify;

    use super::*;
    use crate::supervisor::api::Door;

    #[test]
    fn what_stands_in_a_path_is_plain() {
        assert_eq!(slug("lose east/1"), "lose-east-1");
        assert_eq!(slug("step-0"), "step-0");
    }

    /// A supervisor whose hold is gone by the time it answers a renewal, which it does when told to.
    #[derive(Clone)]
    struct Supervised {
        state: Arc<tempfile::TempDir>,
        renewing: Arc<Notify>,
        answer: Arc<Notify>,
    }

    impl Supervised {
        fn new() -> Self {
            let state = Arc::new(tempfile::tempdir().unwrap());
            Self { state, renewing: Arc::default(), answer: Arc::default() }
        }

        async fn renew(self) -> (StatusCode, Json<Value>) {
            self.renewing.notify_one();
            self.answer.notified().await;
            (StatusCode::NOT_FOUND, Json(json!({"error": "no hold `l-1.step-1` is in force"})))
        }

        /// The mesh that it and a control plane make up, with the lease `l-1` and the hold of its first step.
        async fn target(&self) -> MeshTarget {
            let lease = json!({"id": "l-1", "ttlMs": 3000, "remainingMs": 3000, "reason": "", "holder": "",
                "plan": null, "overlays": []});
            let process = json!({"name": "control", "pid": 1, "state": "running", "restarts": 0, "log": "/log"});
            let mesh = json!({"mesh": "bank", "state": "/state", "control": "127.0.0.1:1",
                "supervisor": "127.0.0.1:1", "controlProcess": process, "gateways": [], "workloads": [],
                "outside": []});
            let hold = json!({"id": "l-1.step-1", "workloads": 1, "proxies": 1, "effective": 1, "complete": 1});
            let always = |answer: Value| move || std::future::ready(Json(answer.clone()));
            let supervised = self.clone();
            let router = Router::new()
                .route("/v1/mesh", get(always(mesh)))
                .route("/v1/proxies", get(always(json!([]))))
                .route("/v1/leases/{id}", put(always(lease.clone())))
                .route("/v1/leases/{id}/heartbeat", post(always(lease)))
                .route("/v1/holds", post(always(hold)))
                .route("/v1/holds/{id}/heartbeat", post(move || supervised.clone().renew()))
                .route("/v1/holds/{id}", delete(always(json!({}))));
            let state = self.state.path();
            let socket = Door::socket(state);
            let listener = xds::local::listen(&socket).unwrap();
            tokio::spawn(axum::serve(listener, router).into_future());
            let bank = include_str!("../../../../examples/bank/mesh.yaml");
            let source = model::Source { path: "mesh.yaml".to_owned(), text: bank.to_owned() };
            let config = model::parse(&[source]).unwrap().config;
            let door = Door { api: ([127, 0, 0, 1], 1).into(), token: String::new(), pid: 1 };
            let supervisor = Supervisor::new(state, &door);
            let target = MeshTarget::new(config, Control::new(socket, ""), supervisor).await.unwrap();
            target.take_lease("l-1", Duration::from_secs(3), None).await.unwrap();
            target.lose("l-1", "step-1", &RegionName::new("east").unwrap(), LoseHow::Kill).await.unwrap();
            target
        }
    }

    #[tokio::test]
    async fn a_hold_that_is_undone_while_it_is_renewed_is_not_lost() {
        let supervised = Supervised::new();
        let target = supervised.target().await;
        let undone = async {
            supervised.renewing.notified().await;
            let undone = target.undo("l-1", "step-1").await;
            supervised.answer.notify_one();
            undone
        };
        let (renewed, undone) = tokio::join!(target.heartbeat("l-1"), undone);
        renewed.unwrap();
        undone.unwrap();
    }

    #[tokio::test]
    async fn a_hold_that_nobody_undid_is_lost() {
        let supervised = Supervised::new();
        let target = supervised.target().await;
        supervised.answer.notify_one();
        let refused = target.heartbeat("l-1").await.unwrap_err();
        assert!(matches!(refused, TargetError::Refused { who: SUPERVISOR, .. }), "{refused:?}");
    }
}
