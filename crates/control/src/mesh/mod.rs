//! The state that everything in the control plane shares: what is in force, and telling it to proxies.

mod certificates;
mod federated;
mod found;
mod leases;
mod others;
mod places;
mod publishing;
mod reports;
mod revisions;

use self::reports::Reports;
pub(crate) use self::{publishing::Basis, reports::AskError};

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use model::{
    Source,
    config::{Config, Identity},
    name::{PlanName, RegionName, ServiceName},
};
use tokio::sync::{Notify, mpsc, watch};
use xds::{clock::Clock, overlay::SwitchState, server::Server, snapshot::Snapshot, svid::Svid};

use crate::{
    api::{ControlEvent, Placements, SourceReport, Stamp},
    authority::Authority,
    ca,
    compile::Change,
    foreign::Foreign,
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
    state_dir: PathBuf,
    pub(crate) trust_file: TrustFile,
    pub(crate) ads: Server,
    pub(crate) reports: Reports,
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
    pub(crate) placements: Arc<Placements>,
    pub(crate) table: Table,
    pub(crate) views: Views,
    /// Trust bundle of traffic, PEM.
    pub(crate) trust: String,
    /// The control plane's own SVID, where another authority issues it.
    pub(crate) issued: Option<Svid>,
    /// Why no newer one comes.
    issue_failing: Option<String>,
    /// Foreign trust domains, by name.
    pub(crate) foreign: BTreeMap<String, Foreign>,
    /// How watched manifests stand, if somebody watches some.
    pub(crate) source: Option<SourceReport>,
    /// Sources of endpoints, by the endpoint's name.
    pub(crate) sources: BTreeMap<String, Origin>,
    switches: BTreeMap<PlanName, PlanSwitches>,
    /// Proxies that opened a stream here: snapshots are made for them only.
    wanting: BTreeSet<String>,
    published: BTreeMap<String, Arc<Snapshot>>,
}

impl State {
    /// Whether somebody else than our authority issues the mesh's certificates.
    pub(crate) fn is_issued_elsewhere(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.mesh.identity != Identity::Builtin)
    }

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
        let mut state = State { placements: Arc::new(store.placements().await?), trust, ..State::default() };
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
                state_dir: state_dir.to_owned(),
                trust_file,
                ads,
                reports: Reports::new(state_dir.join("proxies")),
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
            self.publish(&mut state, &Change::Everything);
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

/// Makes the folder that only its owner can enter, for all that the control plane writes.
///
/// # Errors
/// If it cannot be made.
pub fn prepare_folder(state_dir: &Path) -> io::Result<()> {
    crate::secret::private_folder(state_dir)?;
    crate::secret::private_folder(&state_dir.join("run"))
}
