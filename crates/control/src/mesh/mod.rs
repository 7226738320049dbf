//! The state that everything in the control plane shares: what is in force, and telling it to proxies.

mod certificates;
mod found;
mod leases;
mod others;
mod revisions;

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use model::{
    Source,
    config::Config,
    name::{PlanName, RegionName, ServiceName},
};
use tokio::sync::{Notify, mpsc, watch};
use xds::{
    clock::Clock,
    overlay::{Overlay, SwitchState},
    server::Server,
    snapshot::Snapshot,
};

use crate::{
    api::{ControlEvent, Placements, Role, SourceReport, Stamp},
    authority::Authority,
    ca,
    compile::{self, Switches},
    health::Views,
    log::Log,
    overlays::{Refusal, Table},
    refusals::Refusals,
    secret,
    sources::{Addresses, Origin},
    store::{Store, StoreAddress, StoreError},
    trust::TrustFile,
};

/// Routing controls of one plan that were set durably.
pub(crate) type PlanSwitches = Vec<(ServiceName, RegionName, SwitchState)>;

/// The shared state.
pub(crate) struct Mesh {
    pub(crate) clock: Clock,
    pub(crate) log: Log,
    pub(crate) store: Store,
    /// What is in force of the folder `ca`.
    pub(crate) authority: watch::Sender<Arc<Authority>>,
    pub(crate) ca: ca::Folder,
    pub(crate) trust_file: TrustFile,
    pub(crate) ads: Server,
    refusals: Mutex<Refusals>,
    state: Mutex<State>,
    /// Held over a change that goes to the store and then into force, so that both have the same order.
    changing: tokio::sync::Mutex<()>,
    /// Counts changes of configuration, placements, leases and health; the recovery controller follows it.
    changes: watch::Sender<u64>,
    leases_changed: Notify,
    /// Told when a source of endpoints said something new.
    pub(crate) found: Notify,
    /// The store came from a backup: proxies that hold a newer revision than it has are not pushed an older one.
    restored: bool,
    /// Random per start: which of several control planes over one store this is.
    pub(crate) instance: String,
    /// Held over a change of leases that are shared, so that what is copied last is what is there.
    leasing: tokio::sync::Mutex<()>,
    /// What other instances are to hear, and its reader until that is started.
    said: mpsc::Sender<(Stamp, ControlEvent)>,
    pub(crate) unheard: Mutex<Option<mpsc::Receiver<(Stamp, ControlEvent)>>>,
}

/// Events of a leader that wait to be stored.
const UNHEARD: usize = 1024;

/// What is in force.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) config: Option<Arc<Config>>,
    pub(crate) revision: u64,
    pub(crate) placements: Placements,
    pub(crate) table: Table,
    pub(crate) views: Views,
    /// Trust bundle of traffic, PEM.
    pub(crate) trust: String,
    /// How watched manifests stand, if somebody watches some.
    pub(crate) source: Option<SourceReport>,
    /// Sources of endpoints, by the endpoint's name.
    pub(crate) sources: BTreeMap<String, Origin>,
    switches: BTreeMap<PlanName, PlanSwitches>,
    published: BTreeMap<String, Arc<Snapshot>>,
}

impl State {
    /// What sources of endpoints said.
    pub(crate) fn found(&self) -> Addresses {
        self.sources.iter().map(|(endpoint, source)| (endpoint.clone(), source.known.addresses.clone())).collect()
    }
}

/// Why something was not done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Not as asked.
    Refused(Refusal),
    /// Another revision is in force than the asker expected.
    Stale(String),
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
        store: &StoreAddress,
        clock: Clock,
    ) -> Result<Arc<Self>, Box<dyn std::error::Error + Send + Sync>> {
        let store = Store::open(store).await?;
        let ca = ca::Folder::of(state_dir, clock);
        ca.renew_in_time()?;
        let authority = Authority::open(state_dir, clock)?;
        let (trust_file, trust) = TrustFile::open(state_dir, authority.roots())?;
        let log = Log::new(clock)?;
        if store.is_shared() && !store.has_roots(authority.roots()).await? {
            let ca = state_dir.join("ca");
            return Err(format!(
                "the store is of a mesh with another authority than {}; copy the folder `ca` of a control plane that \
                 works on this store",
                ca.display()
            )
            .into());
        }
        let instance = secret::random_hex(8)?;
        let (said, unheard) = mpsc::channel(UNHEARD);
        let restored = store.is_restored().await?;
        let mut state = State { placements: store.placements().await?, trust, ..State::default() };
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
                authority: watch::Sender::new(Arc::new(authority)),
                ca,
                trust_file,
                ads,
                refusals: Mutex::new(Refusals::new(Instant::now())),
                state: Mutex::new(state),
                changing: tokio::sync::Mutex::new(()),
                changes: watch::Sender::new(0),
                leases_changed: Notify::new(),
                found: Notify::new(),
                restored,
                instance,
                leasing: tokio::sync::Mutex::new(()),
                said,
                unheard: Mutex::new(Some(unheard)),
            }
        }))
    }

    /// The state; never held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs what this instance does as the leader, here and at the others.
    pub(crate) fn tell(&self, event: ControlEvent) {
        let time = self.clock.now();
        self.log.say(event.clone());
        if self.store.is_shared() && self.said.try_send((time, event)).is_err() {
            tracing::warn!("other instances do not hear of an event: too many wait");
        }
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tokens handed out, certificates signed, refusals by kind.
    pub(crate) fn counted(&self) -> (u64, u64, BTreeMap<&'static str, u64>) {
        self.refusals().counted()
    }

    /// Follows changes of configuration, placements, leases and health.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Tells followers of [`Mesh::changes`].
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
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

    /// Publishes another trust bundle.
    pub(crate) fn trust(&self, bundle: String) {
        let mut state = self.state();
        state.trust = bundle;
        self.publish(&mut state);
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
        let version = version_of(state.revision);
        let found = state.found();
        for (proxy, compiled) in compile::compile(&config, &state.placements, &switches, &state.trust, &found) {
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
}

/// What snapshots of a revision are called on the wire.
fn version_of(revision: u64) -> String {
    format!("r{revision}")
}

/// The revision that a version on the wire is of; what is behind its number counts contents of the same revision.
pub fn revision_of(version: &str) -> Option<u64> {
    let digits = version.strip_prefix('r')?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
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
///
/// # Errors
/// If it cannot be made.
pub fn prepare_folder(state_dir: &Path) -> io::Result<()> {
    crate::secret::private_folder(state_dir)?;
    crate::secret::private_folder(&state_dir.join("run"))
}
