//! The process: threads, sources, and the order of start and end.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
};
use xds::{
    client::{Client, Update},
    clock::Clock,
    event::EventKind,
    node::NodeInfo,
    snapshot::Snapshot,
    svid,
};

use crate::{
    access::{self, AccessLog},
    admin::{Admin, LogFilter},
    apply::Keeper,
    certify::CertifyError,
    control::{self, Inbox},
    credentials::{self, Credentials, Issued, Uses},
    doors::{Doors, Proof},
    lastgood::LastGood,
    resident,
    state::{Setting, Shared},
    trace::{self, Tracer},
    worker::Worker,
};

/// Bound on sending the last spans to their collector.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// After this long what only the start needed is given back.
const START: Duration = Duration::from_secs(3);
/// How often the allocator gives back what is free by then: it does so by itself only while much is allocated.
const TIDY: Duration = Duration::from_secs(10);
/// How often a snapshot file is looked at.
const FILE_POLL: Duration = Duration::from_millis(200);

/// What a proxy is started with.
#[derive(Debug)]
pub struct Options {
    /// Its name.
    pub name: String,
    /// The service whose workload it sits beside; empty for a gateway.
    pub service: String,
    /// Where its admin interface listens.
    pub admin: SocketAddr,
    /// Data workers; at least one.
    pub workers: usize,
    /// For the last good snapshot and the identity.
    pub state: PathBuf,
    /// Where its configuration comes from.
    pub source: Source,
    /// JSON access log.
    pub access_log: Option<access::Options>,
    /// Traces, if wanted.
    pub trace: Option<trace::Options>,
    /// How it ends.
    pub drain: Drain,
    /// Which log lines the process writes, if that can be changed.
    pub log: Option<LogFilter>,
    /// The process's clock.
    pub clock: Clock,
    /// Told once the start is over.
    pub started: fn(),
    /// Gives memory that the process's allocator keeps for later, for the calling thread, back to the system.
    pub give_back: fn(),
}

/// How a proxy ends when it is asked to.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// Time between being no longer ready and taking no more connections: for those who ask `/ready` before they send.
    pub delay: Duration,
    /// Requests in flight may finish for this long after that.
    pub at_most: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Duration::ZERO, at_most: Duration::from_secs(5) }
    }
}

/// Where configuration comes from.
#[derive(Debug)]
pub enum Source {
    /// A control plane.
    Control(ControlSource),
    /// A file, followed as it changes.
    File(FileSource),
}

/// A control plane.
#[derive(Debug)]
pub struct ControlSource {
    /// Its ADS address.
    pub ads: SocketAddr,
    /// Where the proxy's certificate comes from.
    pub credentials: Credentials,
    /// The region that this proxy runs in.
    pub region: String,
    /// The protocol that it speaks.
    pub transport: xds::client::Transport,
}

/// A file.
#[derive(Debug)]
pub struct FileSource {
    /// A snapshot, as [`xds::file`] reads it.
    pub snapshot: PathBuf,
    /// Where the certificate comes from, if its snapshot has mutual TLS.
    pub identity: Option<Issued>,
}

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The admin address or socket cannot be bound.
    #[error("the admin interface cannot listen on {0}: {1}")]
    Admin(String, io::Error),
    /// There can be no traces.
    #[error("{0}")]
    Trace(String),
    /// The system hands out no signals.
    #[error("SIGUSR1 cannot be watched: {0}")]
    Signal(io::Error),
    /// No data worker could be started.
    #[error("a data worker could not be started: {0}")]
    Worker(io::Error),
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(String, io::Error),
    /// The snapshot file cannot be used.
    #[error("{0}: {1}")]
    Snapshot(String, String),
    /// Nothing that this proxy has lets it into the mesh, and its certificate is none or has ended.
    #[error("{0}; start it again with a join token (`firedrill token create`)")]
    Stranded(CertifyError),
    /// There is no certificate.
    #[error("{0}")]
    Identity(String),
}

/// Runs a proxy until `shutdown`, then drains it. The calling runtime carries admin, control and health checks; data has
/// threads of its own.
///
/// # Errors
/// When it cannot start. What fails later is told by events and logs.
pub async fn run(options: Options, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let Options {
        name,
        service,
        admin: address,
        workers,
        state,
        source,
        access_log,
        trace,
        drain,
        log,
        clock,
        started,
        give_back,
    } = options;
    let opened = |options: access::Options| {
        AccessLog::open(&options).map_err(|error| Error::File(options.path.display().to_string(), error))
    };
    let access = access_log.map(opened).transpose()?;
    let traced = |options: trace::Options| Tracer::start(&options, &service, &name).map_err(Error::Trace);
    let tracer = trace.map(traced).transpose()?;
    let shared = Arc::new(Shared::new(Setting { name, service, clock, access, tracer }));
    shared.around.events.push(EventKind::Started { version: env!("CARGO_PKG_VERSION").to_owned() });
    let doors = Doors::bind(address, &state).map_err(|(place, error)| Error::Admin(place, error))?;
    let asked = Arc::new(Notify::new());
    let trust = Arc::new(watch::Sender::new(None));
    let admin = Admin { shared: shared.clone(), drain: asked.clone(), log };
    let proof = Proof { identity: shared.identity.clone(), trust: trust.subscribe() };
    let mut tasks = vec![tokio::spawn(doors.serve(proof, move |request| admin.clone().answer(request))).abort_handle()];
    if let Some(access) = &shared.access {
        let signals = signal(SignalKind::user_defined1()).map_err(Error::Signal)?;
        tasks.push(tokio::spawn(access.clone().reopen_on(signals)).abort_handle());
    }
    let workers: Vec<Worker> = (0..workers.max(1))
        .map(|index| Worker::start(index, shared.clone(), give_back))
        .collect::<io::Result<_>>()
        .map_err(Error::Worker)?;
    let commands = workers.iter().map(|worker| worker.commands.clone()).collect();
    let mut keeper = Keeper::new(shared.clone(), commands);
    let last_good = LastGood::new(&state);
    let mut certifying = None;
    let (mut updates, verdicts) = match source {
        Source::File(file) => (follow_file(&shared, &mut keeper, file).await?, None),
        Source::Control(source) => {
            let node = NodeInfo {
                id: shared.name.clone(),
                service: shared.service.clone(),
                region: source.region,
                zone: String::new(),
                admin: Some(address),
                agent: format!("firedrill {}", env!("CARGO_PKG_VERSION")),
            };
            start_from_last_good(&mut keeper, &last_good);
            let (identity, trusted) = (shared.identity.clone(), trust.subscribe());
            let reporting = shared.clone();
            let loads = control::loads(move || {
                reporting.state.load().clusters.values().map(|cluster| cluster.status()).collect()
            });
            let client = control::start(node, source.ads, source.transport, identity, trusted, loads);
            let Client { updates, verdicts } = client;
            let (name, identity) = (shared.name.clone(), shared.identity.clone());
            let uses = Uses { identity, trust, beside: None, events: shared.around.events.clone() };
            certifying = Some(tokio::spawn(source.credentials.keep(name, state, uses)));
            (updates, Some(verdicts))
        }
    };
    tasks.push(tokio::spawn(settle(started, give_back)).abort_handle());
    let mut inbox = Inbox::new(shared.clone(), keeper, last_good, verdicts);
    tokio::pin!(shutdown);
    let outcome = tokio::select! {
        () = &mut shutdown => Ok(()),
        () = asked.notified() => Ok(()),
        () = keep(&shared, &mut inbox, &mut updates) => Ok(()),
        stranded = stranded(&mut certifying) => Err(Error::Stranded(stranded)),
    };
    tasks.extend(certifying.map(|task| task.abort_handle()));
    shared.around.events.push(EventKind::Draining);
    shared.leaving.store(true, Ordering::Release);
    // Traffic, leases and updates go on until then.
    let _ = tokio::time::timeout(drain.delay, keep(&shared, &mut inbox, &mut updates)).await;
    end(&shared, inbox, workers, drain.at_most).await;
    if let Some(tracer) = &shared.tracer {
        tracer.close(LAST_SPANS).await;
    }
    tasks.iter().for_each(tokio::task::AbortHandle::abort);
    outcome
}

/// Waits until the certifier gives up; for ever if there is none.
async fn stranded(certifying: &mut Option<tokio::task::JoinHandle<CertifyError>>) -> CertifyError {
    if let Some(task) = certifying
        && let Ok(error) = task.await
    {
        return error;
    }
    std::future::pending().await
}

/// Once the start is over, gives back what only it needed; from then on, what was freed.
async fn settle(started: fn(), give_back: fn()) {
    tokio::time::sleep(START).await;
    give_back();
    started();
    match resident::give_back() {
        Ok(bytes) => tracing::debug!(bytes, "mappings of what only the start needed are given back"),
        Err(error) => tracing::debug!(%error, "what only the start needed stays in memory"),
    }
    loop {
        tokio::time::sleep(TIDY).await;
        give_back();
    }
}

/// Opens the access log again at each signal.
fn start_from_last_good(keeper: &mut Keeper, last_good: &LastGood) {
    match last_good.load() {
        Ok(None) => {}
        Ok(Some((version, snapshot))) => {
            // Told apart from what the control plane says now.
            let named = "last-good";
            if let Err(error) = keeper.snapshot(named, Arc::new(snapshot), Instant::now()) {
                tracing::error!(%error, version, "the last good snapshot is not used");
            }
        }
        Err(error) => tracing::error!(%error, "no last good snapshot"),
    }
}

/// Does what is due, for ever: updates, leases that lapse, ejections that end, ramps that move.
async fn keep(shared: &Shared, inbox: &mut Inbox, updates: &mut mpsc::Receiver<Update>) {
    let mut told = true;
    loop {
        let now = Instant::now();
        inbox.tick(now);
        let due = shared.tick(now).into_iter().chain(inbox.next_deadline()).min();
        let due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            update = updates.recv(), if told => match update {
                Some(update) => inbox.take(update, Instant::now()),
                None => {
                    tracing::error!("the control client ended; going on with what is in force");
                    told = false;
                }
            },
            () = due => {}
            () = shared.around.wake.notified() => {}
        }
    }
}

/// Stops accepting, tells callers to go, waits for what is in flight, and ends the workers.
async fn end(shared: &Shared, inbox: Inbox, workers: Vec<Worker>, at_most: Duration) {
    shared.draining.send_replace(true);
    let deadline = tokio::time::Instant::now() + at_most;
    // One handle is the shared state's own.
    while Arc::strong_count(&shared.busy) > 1 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(inbox);
    for Worker { commands, thread } in workers {
        drop(commands);
        if tokio::task::spawn_blocking(move || thread.join()).await.is_ok_and(|joined| joined.is_err()) {
            tracing::error!("a data worker had panicked");
        }
    }
}

async fn follow_file(shared: &Shared, keeper: &mut Keeper, file: FileSource) -> Result<mpsc::Receiver<Update>, Error> {
    if let Some(Issued { source, id }) = file.identity {
        identify(shared, source, id).await?;
    }
    let path = file.snapshot;
    let unusable = |reason| Error::Snapshot(path.display().to_string(), reason);
    let first = read(&path).map_err(unusable)?;
    keeper.snapshot("1", Arc::new(first.1), Instant::now()).map_err(|refused| unusable(refused.to_string()))?;
    let (updates, received) = mpsc::channel(1);
    tokio::spawn(follow(path, first.0, updates));
    Ok(received)
}

/// Waits for the first certificate, and follows its source from then on.
async fn identify(shared: &Shared, source: svid::Source, id: Option<String>) -> Result<(), Error> {
    let mut known = svid::follow(source, id);
    let first = known.wait_for(|known| known.svid.is_some() || known.failing.is_some()).await;
    let first = first.map_err(|e| Error::Identity(e.to_string()))?.clone();
    let svid = first.svid.ok_or_else(|| Error::Identity(first.failing.unwrap_or_default()))?;
    let uses = Uses {
        identity: shared.identity.clone(),
        trust: Arc::new(watch::Sender::new(None)),
        beside: None,
        events: shared.around.events.clone(),
    };
    credentials::take(&svid, &uses).map_err(|e| Error::Identity(e.to_string()))?;
    tokio::spawn(async move { credentials::follow(known, &uses, Some(svid)).await });
    Ok(())
}

async fn follow(path: PathBuf, mut seen: Option<SystemTime>, updates: mpsc::Sender<Update>) {
    let mut number = 1u64;
    loop {
        tokio::select! {
            () = updates.closed() => return,
            () = tokio::time::sleep(FILE_POLL) => {}
        }
        if modified(&path) == seen {
            continue;
        }
        number += 1;
        let version = number.to_string();
        let update = match read(&path) {
            Ok((time, snapshot)) => {
                seen = time;
                Update::Snapshot { version, snapshot: Arc::new(snapshot) }
            }
            Err(reason) => {
                seen = modified(&path);
                tracing::error!(path = %path.display(), reason, "the snapshot file is not taken");
                continue;
            }
        };
        if updates.send(update).await.is_err() {
            return;
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}

fn read(path: &Path) -> Result<(Option<SystemTime>, Snapshot), String> {
    let time = modified(path);
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok((time, xds::file::read(&text).map_err(|error| error.to_string())?))
}

#[cfg(test)]
mod tests {
    use xds::overlay::{Effect, Overlay};

    use super::*;

    #[tokio::test]
    async fn leases_lapse_without_a_control_client_too() {
        let folder = tempfile::tempdir().unwrap();
        let setting =
            Setting { name: "p".into(), service: String::new(), clock: Clock::anchored(), access: None, tracer: None };
        let shared = Arc::new(Shared::new(setting));
        let mut keeper = Keeper::new(shared.clone(), Vec::new());
        let overlay = Overlay { id: "o".into(), reason: "test".into(), effect: Effect::Harmless };
        keeper.set_overlays(vec![(overlay, Duration::from_millis(20))], Instant::now());
        let mut events = shared.around.events.watch();
        let (updates, mut received) = mpsc::channel(1);
        drop(updates);
        let mut inbox = Inbox::new(shared.clone(), keeper, LastGood::new(folder.path()), None);
        let lapsed = events.wait_for(|newest| *newest == 2);
        tokio::select! {
            () = keep(&shared, &mut inbox, &mut received) => unreachable!("keeps for ever"),
            lapsed = tokio::time::timeout(Duration::from_secs(10), lapsed) => drop(lapsed.unwrap().unwrap()),
        }
        assert!(shared.state.load().overlays.is_empty());
    }
}
