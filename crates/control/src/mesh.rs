//! The state that everything in the control plane shares: what is in force, and telling it to proxies.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use model::{
    Source,
    config::Config,
    name::{PlanName, RegionName, ServiceName},
};
use tokio::sync::{Notify, watch};
use xds::{
    clock::Clock,
    overlay::{Overlay, SwitchState},
    server::{Credentials, Server},
    snapshot::Snapshot,
};

use crate::{
    api::{
        Applied, ApplyRequest, Certificate, CertificateRequest, ControlEvent, LeaseReport, LeaseRequest, OverlayReport,
        OverlayRequest, Placements, Role,
    },
    authority::{Authority, AuthorityError},
    compile::{self, Switches},
    health::Views,
    log::Log,
    overlays::{self, Refusal, Table},
    secret::JoinKey,
    store::{Store, StoreError},
};

/// Routing controls of one plan that were set durably.
pub(crate) type PlanSwitches = Vec<(ServiceName, RegionName, SwitchState)>;

/// The shared state.
pub(crate) struct Mesh {
    pub(crate) clock: Clock,
    pub(crate) log: Log,
    pub(crate) store: Store,
    pub(crate) authority: Authority,
    pub(crate) ads: Server,
    join: JoinKey,
    state: Mutex<State>,
    /// Held over a change that goes to the store and then into force, so that both have the same order.
    changing: tokio::sync::Mutex<()>,
    /// Counts changes of configuration, placements, leases and health; the recovery controller follows it.
    changes: watch::Sender<u64>,
    leases_changed: Notify,
}

/// What is in force.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) config: Option<Arc<Config>>,
    pub(crate) revision: u64,
    pub(crate) placements: Placements,
    pub(crate) table: Table,
    pub(crate) views: Views,
    switches: BTreeMap<PlanName, PlanSwitches>,
    published: BTreeMap<String, Arc<Snapshot>>,
}

/// Why something was not done.
pub(crate) enum Failure {
    /// Not as asked.
    Refused(Refusal),
    /// The manifests have problems.
    Manifests(Vec<serde_json::Value>),
    /// The asker may not.
    Unauthorized(String),
    /// We failed.
    Internal(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Mesh {
    /// Reads what is stored; nothing is published yet.
    pub(crate) async fn open(
        state_dir: &Path,
        clock: Clock,
    ) -> Result<Arc<Self>, Box<dyn std::error::Error + Send + Sync>> {
        let store = Store::open(&state_dir.join("control.db")).await?;
        let authority = Authority::open(state_dir, clock)?;
        let join = JoinKey::open(state_dir)?;
        let log = Log::new(clock)?;
        let mut state = State { placements: store.placements().await?, ..State::default() };
        if let Some(revision) = store.latest().await? {
            match model::parse(&sources(&revision.files)) {
                Ok(parsed) => state.config = Some(Arc::new(parsed.config)),
                // A newer program may be stricter. Proxies live on with what they have until manifests are applied.
                Err(problems) => tracing::error!(
                    revision = revision.number,
                    problems = problems.len(),
                    "the stored manifests are not accepted any more; apply mended ones"
                ),
            }
            state.revision = revision.number;
        }
        Ok(Arc::new_cyclic(|weak: &std::sync::Weak<Self>| {
            let weak = weak.clone();
            let ads = Server::new(move |credentials| {
                let mesh = weak.upgrade().ok_or_else(|| "the control plane is stopping".to_owned())?;
                mesh.authenticate(credentials)
            });
            Self {
                clock,
                log,
                store,
                authority,
                ads,
                join,
                state: Mutex::new(state),
                changing: tokio::sync::Mutex::new(()),
                changes: watch::Sender::new(0),
                leases_changed: Notify::new(),
            }
        }))
    }

    /// The state; never held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows changes of configuration, placements, leases and health.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Tells followers of [`Mesh::changes`].
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn authenticate(&self, credentials: Credentials<'_>) -> Result<String, String> {
        let proxy = &credentials.node.id;
        let token = credentials.token.ok_or("a join token is missing")?;
        if !self.join.accepts(proxy, token) {
            tracing::warn!(proxy, "an ADS stream was refused: wrong join token");
            return Err("the join token is not of this proxy".to_owned());
        }
        if !self.state().placements.proxies.iter().any(|p| p.proxy == *proxy) {
            return Err(format!("proxy {proxy} is not placed"));
        }
        Ok(proxy.clone())
    }

    /// Validates, stores and publishes manifests.
    pub(crate) async fn apply(&self, request: ApplyRequest) -> Result<Applied, Failure> {
        let problem = |p: &model::Problem| serde_json::to_value(p).unwrap_or_default();
        let parsed = model::parse(&sources(&request.files))
            .map_err(|problems| Failure::Manifests(problems.iter().map(problem).collect()))?;
        let _order = self.changing.lock().await;
        let time = self.clock.now();
        let (revision, changed) = self.store.apply(&request.files, &request.author, &request.message, time).await?;
        {
            let mut state = self.state();
            state.config = Some(Arc::new(parsed.config));
            state.revision = revision.number;
            self.publish(&mut state);
        }
        if changed {
            let (digest, author) = (revision.digest.clone(), request.author);
            self.log.say(ControlEvent::RevisionApplied { revision: revision.number, digest, author });
        }
        self.changed();
        Ok(Applied {
            revision: revision.number,
            changed,
            digest: revision.digest,
            warnings: parsed.warnings.iter().map(problem).collect(),
        })
    }

    /// Stores and publishes placements.
    pub(crate) async fn place(&self, placements: Placements) -> Result<(), Failure> {
        check_placements(&placements).map_err(Refusal::Invalid)?;
        let _order = self.changing.lock().await;
        self.store.set_placements(&placements).await?;
        let proxies = placements.proxies.len() as u64;
        let changed = {
            let mut state = self.state();
            let changed = state.placements != placements;
            state.placements = placements;
            self.publish(&mut state);
            changed
        };
        if changed {
            self.log.say(ControlEvent::PlacementsApplied { proxies });
        }
        self.changed();
        Ok(())
    }

    /// Publishes what is in force; at the start.
    pub(crate) fn publish_all(&self) {
        self.publish(&mut self.state());
        self.changed();
    }

    fn publish(&self, state: &mut State) {
        let Some(config) = state.config.clone() else { return };
        let switches: Switches =
            state.switches.values().flatten().map(|(s, r, to)| ((s.clone(), r.clone()), *to)).collect();
        let version = format!("r{}", state.revision);
        for (proxy, compiled) in compile::compile(&config, &state.placements, &switches, self.authority.roots()) {
            let published = compiled.map(Arc::new).map_err(|e| e.reason).and_then(|snapshot| {
                self.ads.publish(&proxy, &version, snapshot.clone()).map_err(|e| e.to_string()).map(|_| snapshot)
            });
            match published {
                Ok(snapshot) => {
                    state.published.insert(proxy, snapshot);
                }
                // The proxy keeps what it has.
                Err(reason) => self.log.say(ControlEvent::PublishFailed { proxy, reason }),
            }
        }
        let placed = |name: &String| state.placements.proxies.iter().any(|p| p.proxy == *name);
        let gone: Vec<String> = state.published.keys().filter(|name| !placed(name)).cloned().collect();
        for name in gone {
            self.ads.remove(&name);
            state.published.remove(&name);
            state.views.forget(&name);
        }
        self.lay_all(state);
    }

    /// Tells every proxy its overlays as they are now.
    fn lay_all(&self, state: &State) {
        let Some(config) = &state.config else { return };
        let now = Instant::now();
        for placement in &state.placements.proxies {
            let leased = state.table.of_proxy(config, placement, now);
            if let Err(error) = self.ads.set_overlays(&placement.proxy, leased) {
                self.log.say(ControlEvent::PublishFailed { proxy: placement.proxy.clone(), reason: error.to_string() });
            }
        }
    }

    /// What a proxy should have now.
    pub(crate) fn wanted(state: &State, proxy: &str) -> Option<(Arc<Snapshot>, Vec<Overlay>)> {
        let config = state.config.as_ref()?;
        let placement = state.placements.proxies.iter().find(|p| p.proxy == proxy)?;
        let overlays = state.table.of_proxy(config, placement, Instant::now());
        Some((state.published.get(proxy)?.clone(), overlays.into_iter().map(|(overlay, _)| overlay).collect()))
    }

    /// Sets the routing controls of a plan that are compiled into snapshots.
    pub(crate) fn switch(&self, plan: &PlanName, switches: PlanSwitches, publish: bool) {
        let mut state = self.state();
        let unchanged = state.switches.get(plan).map_or(switches.is_empty(), |old| *old == switches);
        if unchanged {
            return;
        }
        if switches.is_empty() {
            state.switches.remove(plan);
        } else {
            state.switches.insert(plan.clone(), switches);
        }
        if publish {
            self.publish(&mut state);
        }
    }

    fn config(state: &State) -> Result<Arc<Config>, Refusal> {
        let missing = || Refusal::Missing("no manifests were applied yet; apply some first".to_owned());
        state.config.clone().ok_or_else(missing)
    }

    /// Takes a lease.
    pub(crate) fn take_lease(&self, id: &str, request: LeaseRequest) -> Result<LeaseReport, Failure> {
        let now = Instant::now();
        let mut state = self.state();
        let config = Self::config(&state)?;
        let plan = request.plan.clone();
        if let Some(plan) = &plan
            && !config.plans.keys().any(|p| p.as_str() == plan)
        {
            return Err(Refusal::Invalid(format!("there is no recovery plan `{plan}`")).into());
        }
        state.table.take(id, request, now)?;
        self.lay_all(&state);
        let report = state.table.report(id, &config, &state.placements, now);
        drop(state);
        self.log.say(ControlEvent::LeaseTaken { lease: id.to_owned(), plan });
        self.leases_changed.notify_one();
        self.changed();
        report.ok_or_else(|| Refusal::Missing(format!("lease {id} is not held")).into())
    }

    /// A heartbeat: renews the lease here, and everything under it at the proxies. Proxies hear of a lease only when its
    /// holder renews it, so that no overlay outlives the lease even if this process dies.
    pub(crate) fn renew_lease(&self, id: &str) -> Result<LeaseReport, Failure> {
        let now = Instant::now();
        let mut state = self.state();
        let config = Self::config(&state)?;
        if !state.table.renew(id, now) {
            return Err(Refusal::Missing(format!("lease {id} is not held, or has lapsed; take it anew")).into());
        }
        let under = format!("{id}/");
        for placement in &state.placements.proxies {
            let leased = state.table.of_proxy(&config, placement, now);
            let renewed: Vec<(String, Duration)> = leased
                .into_iter()
                .filter(|(overlay, _)| overlay.id.starts_with(&under))
                .map(|(overlay, left)| (overlay.id, left))
                .collect();
            if !renewed.is_empty() {
                self.ads.heartbeat(&placement.proxy, &renewed);
            }
        }
        let report = state.table.report(id, &config, &state.placements, now);
        drop(state);
        self.leases_changed.notify_one();
        report.ok_or_else(|| Refusal::Missing(format!("lease {id} is not held")).into())
    }

    /// Gives a lease back; its overlays are taken back at once.
    pub(crate) fn release_lease(&self, id: &str) -> Result<(), Failure> {
        let mut state = self.state();
        if !state.table.release(id) {
            return Err(Refusal::Missing(format!("lease {id} is not held")).into());
        }
        self.lay_all(&state);
        drop(state);
        self.log.say(ControlEvent::LeaseReleased { lease: id.to_owned() });
        self.changed();
        Ok(())
    }

    /// Takes leases back as they lapse, for ever.
    pub(crate) async fn lapse_leases(&self) {
        loop {
            let deadline = self.state().table.next_deadline();
            match deadline {
                Some(deadline) => tokio::select! {
                    () = tokio::time::sleep_until(deadline.into()) => {}
                    () = self.leases_changed.notified() => {}
                },
                None => self.leases_changed.notified().await,
            }
            let lapsed = {
                let mut state = self.state();
                let lapsed = state.table.expire(Instant::now());
                if !lapsed.is_empty() {
                    self.lay_all(&state);
                }
                lapsed
            };
            for lease in &lapsed {
                self.log.say(ControlEvent::LeaseLapsed { lease: lease.clone() });
            }
            if !lapsed.is_empty() {
                self.changed();
            }
        }
    }

    /// Lays overlays under a lease, all at once.
    pub(crate) fn lay(&self, lease: &str, batch: Vec<(String, OverlayRequest)>) -> Result<Vec<OverlayReport>, Refusal> {
        let now = Instant::now();
        let mut state = self.state();
        let config = Self::config(&state)?;
        for (_, request) in &batch {
            overlays::check(&config, request)?;
        }
        let mut reports = Vec::new();
        for (name, request) in batch {
            let (id, proxies) =
                (overlays::overlay_id(lease, &name), overlays::told(&config, &state.placements, &request));
            reports.push(OverlayReport { id, proxies, effect: request.effect.clone() });
            state.table.lay(lease, &name, request, now)?;
        }
        self.lay_all(&state);
        drop(state);
        for OverlayReport { id, proxies, .. } in &reports {
            self.log.say(ControlEvent::OverlayLaid { overlay: id.clone(), proxies: proxies.clone() });
        }
        Ok(reports)
    }

    /// Takes overlays of a lease back whose names the predicate picks.
    pub(crate) fn take_back(&self, lease: &str, pick: impl Fn(&str) -> bool) -> Vec<String> {
        let mut state = self.state();
        let ids = state.table.take_back(lease, pick);
        if !ids.is_empty() {
            self.lay_all(&state);
        }
        drop(state);
        for overlay in &ids {
            self.log.say(ControlEvent::OverlayRemoved { overlay: overlay.clone() });
        }
        ids
    }

    /// Signs a certificate for a placed proxy that proves its join token.
    pub(crate) fn certificate(
        &self,
        token: Option<&str>,
        request: &CertificateRequest,
    ) -> Result<Certificate, Failure> {
        let proxy = &request.proxy;
        let outcome = self.sign(token, request);
        match &outcome {
            Ok(certificate) => self.log.say(ControlEvent::CertificateIssued {
                proxy: proxy.clone(),
                spiffe_id: certificate.spiffe_id.clone(),
                not_after: certificate.not_after,
            }),
            Err(Failure::Unauthorized(reason) | Failure::Internal(reason)) => self.refused(proxy, reason),
            Err(Failure::Refused(Refusal::Invalid(reason) | Refusal::Missing(reason) | Refusal::Conflict(reason))) => {
                self.refused(proxy, reason);
            }
            Err(Failure::Manifests(_)) => {}
        }
        outcome
    }

    fn refused(&self, proxy: &str, reason: &str) {
        // What a stranger sends is cut before it is kept.
        let proxy: String = proxy.chars().take(128).collect();
        self.log.say(ControlEvent::CertificateRefused { proxy, reason: reason.to_owned() });
    }

    fn sign(&self, token: Option<&str>, request: &CertificateRequest) -> Result<Certificate, Failure> {
        let token = token.ok_or_else(|| Failure::Unauthorized("a join token is missing".to_owned()))?;
        if !self.join.accepts(&request.proxy, token) {
            return Err(Failure::Unauthorized("the join token is not of this proxy".to_owned()));
        }
        let (id, lifetime) = {
            let state = self.state();
            let config = Self::config(&state)?;
            let missing = || Refusal::Missing(format!("proxy {} is not placed", request.proxy));
            let placement = state.placements.proxies.iter().find(|p| p.proxy == request.proxy).ok_or_else(missing)?;
            let unknown =
                || Refusal::Missing(format!("the manifests do not know what proxy {} stands before", request.proxy));
            (compile::proxy_id(&config, placement).ok_or_else(unknown)?, config.mesh.certificate_lifetime)
        };
        self.authority.sign(&request.csr, &id, lifetime).map_err(|error| match error {
            AuthorityError::Request(_) => Refusal::Invalid(error.to_string()).into(),
            other => Failure::Internal(other.to_string()),
        })
    }
}

fn sources(files: &[crate::api::ManifestFile]) -> Vec<Source> {
    files.iter().map(|file| Source { path: file.path.clone(), text: file.text.clone() }).collect()
}

/// Names and listening addresses must be there once.
fn check_placements(placements: &Placements) -> Result<(), String> {
    let mut names = std::collections::BTreeSet::new();
    let mut addresses = std::collections::BTreeSet::new();
    for placement in &placements.proxies {
        if !names.insert(&placement.proxy) {
            return Err(format!("proxy {} is there twice", placement.proxy));
        }
        let mut own = vec![placement.admin];
        match &placement.role {
            Role::Sidecar { workload, app, inbound, outbound, .. } => {
                if *workload != placement.proxy {
                    return Err(format!("proxy {} must have the name of its workload {workload}", placement.proxy));
                }
                own.extend([*app, *inbound, *outbound]);
            }
            Role::Gateway { gateway, listen } => {
                if *gateway != placement.proxy {
                    return Err(format!("proxy {} must have the name of its gateway {gateway}", placement.proxy));
                }
                own.extend(*listen);
            }
        }
        for address in own {
            if !addresses.insert(address) {
                return Err(format!("address {address} of proxy {} is there twice", placement.proxy));
            }
        }
    }
    Ok(())
}

/// Makes the folder that only its owner can enter, for all that the control plane writes.
pub(crate) fn prepare_folder(state_dir: &Path) -> io::Result<()> {
    crate::secret::private_folder(state_dir)?;
    crate::secret::private_folder(&state_dir.join("run"))
}
