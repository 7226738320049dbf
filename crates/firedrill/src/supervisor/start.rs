//! From manifests to a running mesh, and back to nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use control::{
    api::{ApplyRequest, ProxyReport, RunFile},
    client::Client as ControlClient,
    server,
    store::StoreAddress,
};
use model::config::Identity;
use tokio::{sync::watch, task::JoinHandle};
use xds::{
    clock::Clock,
    reserved::{self, Reservation},
};

use super::{
    Options, Progress, StartError,
    api::{Door, EventKind, MeshReport},
    client::Client,
    entrusted::Entrusted,
    folder::{self, Folder},
    holds::Holds,
    join::Join,
    journal::Journal,
    keeper::{Doubt, Keeper, Key, Kind, Task},
    layout::{GatewayPlace, Layout, WorkloadPlace},
    log::last_lines,
    plane::DataPlane,
    ready::Ready,
    serve::{self, Served},
    spawn::{Inherits, Recipe, Spawner},
    view::View,
};
use crate::{
    applied::{self, RecordError},
    checkout, manifests,
};

/// Lines of a culprit's log that are shown.
const SHOWN_LINES: usize = 12;
/// Bound on the health checks' agreeing.
const SETTLE: Duration = Duration::from_secs(10);
/// Bound on each kind of processes ending by itself.
const END: Duration = Duration::from_secs(5);

/// Is told what happens.
pub type Sink = Arc<dyn Fn(Progress) + Send + Sync>;

/// A running mesh. Dropped without [`Running::shutdown`], everything is killed at once.
pub struct Running {
    view: View,
    folder: Folder,
    door: Door,
    journal: Arc<Journal>,
    spawner: Arc<Spawner>,
    entrusted: Entrusted,
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    /// Addresses of its processes, for as long as they may be started again.
    _reserved: Vec<Reservation>,
}

/// Starts the mesh and waits until all of it is ready.
///
/// # Errors
/// When the folder is in use, an address is taken, or a process does not become ready in time. Nothing is left then.
pub async fn start(options: Options, sink: Sink) -> Result<Running, StartError> {
    let folder = Folder::open(&options.state)?;
    let (subnet, listener) = folder.subnet()?;
    let layout = Layout::new(&options.config, subnet)
        .map_err(|e| StartError::Machine { what: "the manifests".to_owned(), reason: e.to_string() })?;
    known(options.without.iter().chain(options.plane.named()), &layout)?;
    let reserved = reserve(&layout, &options.without)?;
    let running = Running::new(folder, layout, options.without.clone(), listener, reserved, &sink)?;
    match running.bring_up(&options, &sink).await {
        Ok(()) => {
            sink(Progress::Ready);
            Ok(running)
        }
        Err(error) => {
            running.shutdown().await;
            Err(error)
        }
    }
}

impl Running {
    fn new(
        folder: Folder,
        layout: Layout,
        without: BTreeSet<String>,
        listener: TcpListener,
        reserved: Vec<Reservation>,
        sink: &Sink,
    ) -> Result<Self, StartError> {
        let machine = |what: &str| {
            let what = what.to_owned();
            move |e: std::io::Error| StartError::Machine { what, reason: e.to_string() }
        };
        let spawner = Arc::new(Spawner::new().map_err(machine("the guard process"))?);
        let boot = folder::random::<8>().map_err(machine("randomness"))?;
        let boot = boot.iter().map(|byte| format!("{byte:02x}")).collect();
        let journal = Arc::new(Journal::new(boot, Clock::anchored()));
        let told = sink.clone();
        let trouble = Arc::new(move |text| told(Progress::Trouble(text)));
        let entrusted = Entrusted::new(folder.path(), journal.clone(), trouble.clone());
        let keeper = Keeper::new(spawner.clone(), journal.clone(), trouble);
        let holds = Holds::new(keeper.clone(), journal.clone());
        let api = layout.subnet.supervisor_api();
        let without = Arc::new(without);
        let view = View { layout: Arc::new(layout), keeper, state: folder.path().to_owned(), without };
        let door = folder.publish(api)?;
        let served = Served {
            view: view.clone(),
            holds: holds.clone(),
            entrusted: entrusted.clone(),
            journal: journal.clone(),
            token: door.token.as_str().into(),
        };
        listener.set_nonblocking(true).map_err(machine("the supervisor's socket"))?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(machine("the supervisor's socket"))?;
        let socket = Door::socket(folder.path());
        let local = xds::local::listen(&socket).map_err(machine("the supervisor's socket"))?;
        let stop = watch::Sender::new(false);
        let (at_socket, at_address) = (stop.subscribe(), stop.subscribe());
        let router = serve::router(served);
        let serving = tokio::spawn(async move {
            let address = server::serve_address(listener, router.clone(), at_address);
            tokio::join!(address, server::serve_local(local, router, at_socket));
        });
        let lapsing = tokio::spawn(holds.lapse());
        let undoing = tokio::spawn(entrusted.clone().lapse());
        let tasks = vec![serving, lapsing, undoing];
        Ok(Self { view, folder, door, journal, spawner, entrusted, tasks, stop, _reserved: reserved })
    }

    async fn bring_up(&self, options: &Options, sink: &Sink) -> Result<(), StartError> {
        let deadline = Instant::now() + options.patience;
        sink(Progress::Step("control plane"));
        self.keeper().add(self.control_task(options));
        self.wait_ready(|kind| kind == Kind::Control, deadline, sink).await?;
        sink(Progress::Step("configuration"));
        let control = self.control()?;
        self.configure(&control, options).await?;
        sink(Progress::Step("proxies and workloads"));
        let ours = |proxy: &str| !self.view.without.contains(proxy);
        let plane = &options.plane;
        for gateway in self.view.layout.gateways.iter().filter(|gateway| ours(&gateway.name)) {
            self.keeper().add(self.gateway_task(gateway, plane));
        }
        for workload in &self.view.layout.workloads {
            if ours(&workload.name) {
                self.keeper().add(self.sidecar_task(workload, plane));
            }
            self.keeper().add(self.workload_task(workload)?);
        }
        self.wait_ready(|_| true, deadline, sink).await?;
        sink(Progress::Step("health checks"));
        self.wait_settled(&control, deadline.min(Instant::now() + SETTLE), sink).await;
        Ok(())
    }

    /// Waits until proxies hold what they should and see every workload as healthy, so that first requests take the
    /// way the manifests say. Endpoints outside the mesh may be down for reasons of their own, so it is no failure
    /// when this does not come.
    async fn wait_settled(&self, control: &ControlClient, deadline: Instant, sink: &Sink) {
        let mut told = Instant::now();
        loop {
            let unsettled = match control.proxies().await {
                Ok(proxies) => self.ours(&proxies).filter_map(unsettled).collect(),
                Err(error) => vec![error.to_string()],
            };
            if unsettled.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                return sink(Progress::Trouble(format!("not settled yet: {}", unsettled.join("; "))));
            }
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                sink(Progress::Waiting(unsettled));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Proxies that are started here.
    fn ours<'a>(&'a self, proxies: &'a [ProxyReport]) -> impl Iterator<Item = &'a ProxyReport> {
        proxies.iter().filter(|proxy| !self.view.without.contains(&proxy.name))
    }

    fn keeper(&self) -> &Keeper {
        &self.view.keeper
    }

    /// A client of the control plane.
    ///
    /// # Errors
    /// When it has not said yet where it is.
    pub fn control(&self) -> Result<ControlClient, StartError> {
        ControlClient::from_state(self.folder.path()).map_err(|e| StartError::Control(e.to_string()))
    }

    /// A client of this supervisor's own API, the one that other processes use.
    pub fn client(&self) -> Client {
        Client::new(self.folder.path(), &self.door)
    }

    /// The mesh as it is now.
    pub fn mesh(&self) -> MeshReport {
        self.view.mesh()
    }

    async fn configure(&self, control: &ControlClient, options: &Options) -> Result<(), StartError> {
        let refused = |e: control::client::ClientError| StartError::Control(e.to_string());
        let paths: Vec<&Path> = options.sources.iter().map(|source| Path::new(&source.path)).collect();
        let request = ApplyRequest {
            files: manifests::stored(&options.sources),
            author: std::env::var("USER").unwrap_or_else(|_| "firedrill up".to_owned()),
            message: "firedrill up".to_owned(),
            commit: options.commit.clone().or_else(|| checkout::commit_of(&paths)),
            // A mesh is started with these manifests and no others.
            prune: true,
            ..ApplyRequest::default()
        };
        control.apply(&request).await.map_err(refused)?;
        let failed = |e: RecordError| StartError::Machine {
            what: "recording the configuration in the ledger".into(),
            reason: e.to_string(),
        };
        applied::record(self.folder.path(), control).await.map_err(failed)?;
        control.put_placements(&self.view.layout.placements()).await.map_err(refused)
    }

    /// Waits until processes of these kinds are ready; tells each second who is waited for.
    async fn wait_ready(&self, of: impl Fn(Kind) -> bool, deadline: Instant, sink: &Sink) -> Result<(), StartError> {
        let mut told = Instant::now();
        loop {
            let doubts = self.keeper().doubts(&of);
            let hopeless = doubts.iter().find(|doubt| doubt.hopeless);
            // Proxies last: they wait for what they stand before, so a workload is the likelier culprit.
            let culprit = hopeless.or_else(|| doubts.last().filter(|_| Instant::now() >= deadline));
            if let Some(culprit) = culprit {
                return Err(not_ready(culprit));
            }
            if doubts.is_empty() {
                return Ok(());
            }
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                sink(Progress::Waiting(doubts.into_iter().map(|doubt| doubt.name).collect()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self, file: &str) -> PathBuf {
        self.folder.path().join("logs").join(file)
    }

    fn own(&self, arguments: &[&str]) -> Vec<String> {
        let mut argv = vec!["firedrill".to_owned()];
        argv.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        argv.extend(["--state".to_owned(), self.folder.path().display().to_string()]);
        argv
    }

    fn control_task(&self, options: &Options) -> Task {
        let subnet = self.view.layout.subnet;
        let (api, ads, bundle) = (subnet.control_api(), subnet.control_ads(), subnet.control_bundle());
        let store = options.store.as_ref().map(StoreAddress::url);
        Task {
            key: Key { kind: Kind::Control, name: "control".to_owned() },
            region: None,
            recipe: Recipe {
                argv: self.own(&[
                    "control",
                    "--api",
                    &api.to_string(),
                    "--ads",
                    &ads.to_string(),
                    "--bundle",
                    &bundle.to_string(),
                ]),
                inherits: Inherits::All,
                // An argument could be read by everybody on this machine, password and all.
                environment: store.map(|store| ("FIREDRILL_STORE".to_owned(), store)).into_iter().collect(),
                log: self.log("control.log"),
                join: None,
            },
            ready: Ready::Local { socket: RunFile::socket(self.folder.path()), path: "/readyz".to_owned() },
        }
    }

    /// `service` is that of a sidecar's workload; empty for a gateway.
    fn proxy_recipe(
        &self,
        (name, id): (&str, &str),
        admin: SocketAddr,
        service: &str,
        role: &[&str],
        plane: &DataPlane,
    ) -> Recipe {
        let subnet = self.view.layout.subnet;
        let (control, admin) = (subnet.control_ads().to_string(), admin.to_string());
        let api = format!("unix:{}", RunFile::socket(self.folder.path()).display());
        let mut arguments = vec!["proxy", "--name", name, "--control", &control, "--admin", &admin];
        arguments.extend(role);
        let issued = issued(&self.view.layout.identity, name);
        match &issued {
            Some(issued) => {
                arguments.extend(issued.iter().map(String::as_str));
                arguments.extend(["--spiffe-id", id]);
            }
            None => arguments.extend(["--api", &api]),
        }
        let envoy = plane.envoy(name).map(|program| program.display().to_string());
        if let Some(program) = &envoy {
            arguments.extend(["--envoy", program]);
        }
        let state = self.folder.path().to_owned();
        Recipe {
            argv: self.own(&arguments),
            inherits: Inherits::Proxy,
            environment: BTreeMap::new(),
            log: self.log(&format!("{name}.proxy.log")),
            join: issued.is_none().then(|| Join { state, proxy: name.to_owned(), service: service.to_owned() }),
        }
    }

    /// A proxy is asked over its socket: no stranger can keep the answer away, or give another.
    fn proxy_ready(&self, name: &str) -> Ready {
        let state = self.folder.path().join("proxies").join(name);
        Ready::Local { socket: proxy::admin_socket(&state), path: "/ready".to_owned() }
    }

    fn gateway_task(&self, place: &GatewayPlace, plane: &DataPlane) -> Task {
        Task {
            key: Key { kind: Kind::Gateway, name: place.name.clone() },
            region: None,
            recipe: self.proxy_recipe((&place.name, &place.id), place.admin, "", &[], plane),
            ready: self.proxy_ready(&place.name),
        }
    }

    fn sidecar_task(&self, place: &WorkloadPlace, plane: &DataPlane) -> Task {
        let role = ["--service", place.service.as_str(), "--region", place.region.as_str()];
        Task {
            key: Key { kind: Kind::Sidecar, name: place.name.clone() },
            region: Some(place.region.clone()),
            recipe: self.proxy_recipe((&place.name, &place.id), place.admin, &place.service, &role, plane),
            ready: self.proxy_ready(&place.name),
        }
    }

    fn workload_task(&self, place: &WorkloadPlace) -> Result<Task, StartError> {
        let data = self.folder.path().join("data").join(&place.name);
        std::fs::create_dir_all(&data)
            .map_err(|e| StartError::Machine { what: data.display().to_string(), reason: e.to_string() })?;
        let mesh = format!("http://{}", place.outbound);
        let environment = [
            ("FIREDRILL_LISTEN", place.app.to_string()),
            ("FIREDRILL_SERVICE", place.service.clone()),
            ("FIREDRILL_REGION", place.region.clone()),
            ("FIREDRILL_REGIONS", self.view.layout.regions.join(",")),
            ("FIREDRILL_WORKLOAD", place.name.clone()),
            ("FIREDRILL_VERSION", place.version.clone()),
            ("FIREDRILL_MESH", mesh.clone()),
            ("http_proxy", mesh),
            ("FIREDRILL_DATA", data.display().to_string()),
        ];
        Ok(Task {
            key: Key { kind: Kind::Workload, name: place.name.clone() },
            region: Some(place.region.clone()),
            recipe: Recipe {
                argv: place.argv.clone(),
                inherits: Inherits::Little,
                environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
                log: self.log(&format!("{}.log", place.name)),
                join: None,
            },
            ready: match &place.health {
                Some(path) => Ready::Http { address: place.app, path: path.clone() },
                None => Ready::Connect { address: place.app },
            },
        })
    }

    /// Ends everything in order: gateways finish their requests, then workloads, sidecars, control plane.
    pub async fn shutdown(mut self) {
        self.journal.add(EventKind::Stopping);
        // While what they act on still runs.
        self.entrusted.finish().await;
        for kind in [Kind::Gateway, Kind::Workload, Kind::Sidecar, Kind::Control] {
            self.keeper().end(kind, END).await;
        }
        self.folder.unpublish();
        self.stop.send_replace(true);
        self.spawner.close();
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.view.keeper.kill_all();
        self.folder.unpublish();
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Reserves the addresses of processes that are started here; those of workloads are their own to bind.
fn reserve(layout: &Layout, without: &BTreeSet<String>) -> Result<Vec<Reservation>, StartError> {
    let subnet = layout.subnet;
    let control = [subnet.control_api(), subnet.control_ads(), subnet.control_bundle()];
    let control = control.map(|address| ("the control plane".to_owned(), address));
    let ours = |name: &str| !without.contains(name);
    let gateways = layout.gateways.iter().filter(|gateway| ours(&gateway.name)).flat_map(|gateway| {
        [gateway.listen, gateway.admin].map(|address| (format!("gateway {}", gateway.name), address))
    });
    let sidecars = layout.workloads.iter().filter(|workload| ours(&workload.name)).flat_map(|workload| {
        let own = [workload.inbound, workload.outbound, workload.admin];
        own.map(|address| (format!("the proxy of {}", workload.name), address))
    });
    // Said here in plain words, rather than found in the log of a proxy that dies again and again.
    let reserve = |(who, address): (String, SocketAddr)| {
        reserved::reserve(address).map_err(|e| StartError::Machine {
            what: format!("{who} cannot listen on {address}"),
            reason: e.to_string(),
        })
    };
    control.into_iter().chain(gateways).chain(sidecars).map(reserve).collect()
}

/// Every proxy that is named must be of the mesh.
fn known<'a>(mut named: impl Iterator<Item = &'a String>, layout: &Layout) -> Result<(), StartError> {
    let gateways = layout.gateways.iter().map(|place| &place.name);
    let known: Vec<String> = gateways.chain(layout.workloads.iter().map(|place| &place.name)).cloned().collect();
    match named.find(|name| !known.contains(name)) {
        Some(name) => Err(StartError::NoProxy { name: name.clone(), known }),
        None => Ok(()),
    }
}

/// What a proxy still lacks, for people.
fn unsettled(proxy: &ProxyReport) -> Option<String> {
    let Some(status) = &proxy.status else {
        return Some(format!("{} does not answer", proxy.name));
    };
    let sick = status.clusters.iter().flat_map(|cluster| &cluster.endpoints).find(|endpoint| !endpoint.healthy);
    match sick {
        Some(endpoint) => Some(format!("{} sees {} as unhealthy", proxy.name, endpoint.name)),
        None if !proxy.in_sync => Some(format!("{} has an older configuration", proxy.name)),
        None => None,
    }
}

fn not_ready(culprit: &Doubt) -> StartError {
    StartError::NotReady {
        name: culprit.name.clone(),
        reason: culprit.reason.clone(),
        lines: last_lines(&culprit.log, SHOWN_LINES),
        log: culprit.log.clone(),
    }
}

/// What a proxy is told of its certificate where the control plane does not sign it.
fn issued(identity: &Identity, proxy: &str) -> Option<Vec<String>> {
    match identity {
        Identity::Builtin => None,
        Identity::Files(files) => {
            let [certificate, key, bundle] = files.of(proxy);
            Some(["--certificate", &certificate, "--key", &key, "--roots", &bundle].map(str::to_owned).to_vec())
        }
        Identity::Spire { socket } => Some(vec!["--workload-api".to_owned(), format!("unix://{socket}")]),
    }
}
