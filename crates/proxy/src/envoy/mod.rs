//! A stock Envoy as data plane: an agent starts it, stands between it and the control plane, and answers for it.
//!
//! To the control plane the agent is a proxy as ours: it joins, keeps certificates and the last good snapshot, holds
//! overlays under their leases, and tells status and events. To its Envoy it is the control plane, over a socket in a
//! folder that nobody else may enter. What Envoy has is never concluded from what it was sent: it is read from Envoy's own
//! dump, and the digest is the mesh's only as long as that agrees.

mod ask;
mod child;
mod dump;
mod holder;
mod hosts;
mod logs;
mod lookout;
mod serve;
mod sight;
mod told;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    net::UnixListener,
    process::Child,
    signal::unix::{SignalKind, signal},
    sync::{Notify, broadcast, mpsc, watch},
};
use tokio_stream::wrappers::UnixListenerStream;
use xds::{
    client::{Client, Update, Verdict},
    clock::Clock,
    event::EventKind,
    node::{ENVOY_AGENT, NodeInfo},
    server::{Notice, Server},
};

pub use self::child::{Program, version};
use self::{
    child::Place,
    holder::{Holder, Look},
    lookout::SOON,
    serve::Desk,
    told::Told,
};
use crate::{
    access::{self, AccessLog},
    admin::LogFilter,
    certify::CertifyError,
    control,
    credentials::Uses,
    doors::{Doors, Proof},
    run::{ControlSource, Drain},
};

/// The control plane waits this long for an Envoy that is up to take a snapshot; after that it hears of it by the digest.
const VERDICT: Duration = Duration::from_secs(1);

/// What an agent is started with.
#[derive(Debug)]
pub struct Options {
    /// The proxy's name.
    pub name: String,
    /// The service whose workload it sits beside; empty for a gateway.
    pub service: String,
    /// Where the agent's admin interface listens.
    pub admin: SocketAddr,
    /// For the last good snapshot, the identity, and the sockets to Envoy.
    pub state: PathBuf,
    /// The control plane.
    pub source: ControlSource,
    /// Which Envoy.
    pub program: Program,
    /// How it ends.
    pub drain: Drain,
    /// The access log, if wanted.
    pub access: Option<access::Options>,
    /// Which log lines the process writes, if that can be asked.
    pub log: Option<LogFilter>,
    /// The process's clock.
    pub clock: Clock,
}

/// Why an agent ends before it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The admin address or socket cannot be bound.
    #[error("the admin interface cannot listen on {0}: {1}")]
    Admin(String, io::Error),
    /// The program cannot be used.
    #[error("{0}")]
    Program(String),
    /// The access log cannot be written.
    #[error("the access log {0} cannot be opened: {1}")]
    AccessLog(PathBuf, io::Error),
    /// The system hands out no signals.
    #[error("SIGUSR1 cannot be watched: {0}")]
    Signal(io::Error),
    /// The folder of the sockets cannot be used.
    #[error("the sockets to Envoy: {0}")]
    Sockets(io::Error),
    /// Envoy cannot be started.
    #[error("Envoy cannot be started: {0}")]
    Start(io::Error),
    /// Envoy ended by itself.
    #[error("Envoy ended ({0}); its log says why")]
    Ended(String),
    /// Nothing that this proxy has lets it into the mesh, and its certificate is none or has ended.
    #[error("{0}; start it again with a join token (`firedrill token create`)")]
    Stranded(CertifyError),
}

/// Runs an Envoy with its agent until `shutdown`, then drains it.
///
/// # Errors
/// When it cannot start, or Envoy ends by itself.
pub async fn run(options: Options, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let Options { name, service, admin: address, state, source, program, drain, access, log, clock } = options;
    let version = child::version(&program.path).map_err(Error::Program)?;
    let ours = env!("CARGO_PKG_VERSION");
    let told = Arc::new(Told::new(name.clone(), format!("envoy {version} (firedrill {ours})"), clock));
    told.events.push(EventKind::Started { version: ours.to_owned() });
    let doors = Doors::bind(address, &state).map_err(|(place, error)| Error::Admin(place, error))?;
    let place = Place::new(&state.join("envoy")).map_err(Error::Sockets)?;
    let asked = Arc::new(Notify::new());
    let written = match &access {
        Some(options) => Some(AccessLog::open(options).map_err(|error| Error::AccessLog(options.path.clone(), error))?),
        None => None,
    };
    let mut tasks = Tasks::default();
    if let Some(written) = &written {
        tasks.start(written.clone().reopen_on(signal(SignalKind::user_defined1()).map_err(Error::Signal)?));
    }
    let socket = place.admin.clone();
    let desk = Desk { told: told.clone(), drain: asked.clone(), log, access: written.clone(), socket };
    let trust = Arc::new(watch::Sender::new(None));
    let proof = Proof { identity: told.identity.clone(), trust: trust.subscribe() };
    tasks.start(doors.serve(proof, move |request| desk.clone().answer(request)));

    let own = name.clone();
    let logged = if written.is_some() { 100 } else { 0 };
    let listening = told.clone();
    let server = Server::new(move |_| Ok(own.clone())).beside_its_peer().logged_to(move |request| {
        let line = Arc::new(logs::line(request));
        if listening.tap.is_open(Instant::now()) {
            listening.tap.line(Arc::clone(&line));
        }
        if let Some(written) = &written {
            written.line(line);
        }
    });
    let notices = server.notices();
    let sockets = UnixListenerStream::new(UnixListener::bind(&place.control).map_err(Error::Sockets)?);
    let serving = server.clone();
    tasks.start(async move {
        if let Err(error) = serving.serve(sockets, std::future::pending()).await {
            tracing::error!(%error, "Envoy can be told nothing more");
        }
    });

    let mut holder = Holder::new(told.clone(), server.clone(), &state, logged);
    holder.start_from_last_good();
    let node = NodeInfo {
        id: name.clone(),
        service,
        region: source.region,
        zone: String::new(),
        admin: Some(address),
        agent: format!("{ENVOY_AGENT} {version}"),
    };
    let identity = told.identity.clone();
    let pairs = watch::Sender::new(None);
    let pair = pairs.subscribe();
    let reporting = told.clone();
    let loads = control::loads(move || reporting.now().clusters);
    let client = control::start(node.clone(), source.ads, source.transport, identity.clone(), trust.subscribe(), loads);
    let uses = Uses { identity, trust, beside: Some(pairs), events: told.events.clone() };
    let certifying = tokio::spawn(source.credentials.keep(name, state, uses));
    tasks.0.push(certifying.abort_handle());

    let mut envoy = place.start(&program, node).map_err(Error::Start)?;
    let (looks, looked) = mpsc::channel(1);
    let look_now = Arc::new(Notify::new());
    let (busy, awaited) = watch::channel(true);
    tasks.start(lookout::keep(place.admin.clone(), looks, look_now.clone(), awaited));
    let Client { updates, verdicts } = client;
    let mut agent = Agent { told: told.clone(), holder, server, verdicts, awaiting: None, look_now, busy };
    let heard = Heard { updates, notices, looked, pair, asked: told.tap.asked() };
    tokio::pin!(shutdown);
    let outcome = tokio::select! {
        () = &mut shutdown => Ok(()),
        () = asked.notified() => Ok(()),
        ended = envoy.wait() => Err(Error::Ended(ended.map_or_else(|error| error.to_string(), cause))),
        stranded = certifying => Err(stranded.map_or_else(|e| Error::Ended(e.to_string()), Error::Stranded)),
        () = agent.keep(heard) => Ok(()),
    };
    told.events.push(EventKind::Draining);
    told.leaving.store(true, Ordering::Release);
    if outcome.is_ok() {
        tokio::time::sleep(drain.delay).await;
        end(&place.admin, &mut envoy, drain.at_most).await;
    }
    drop(tasks);
    outcome
}

fn cause(status: ExitStatus) -> String {
    status.to_string()
}

/// Tasks that end with this.
#[derive(Default)]
struct Tasks(Vec<tokio::task::AbortHandle>);

impl Tasks {
    fn start(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task).abort_handle());
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// What the agent listens to.
struct Heard {
    updates: mpsc::Receiver<Update>,
    notices: broadcast::Receiver<Notice>,
    looked: mpsc::Receiver<Look>,
    pair: watch::Receiver<Option<xds::codec::KeyPair>>,
    /// Until when somebody asks for requests.
    asked: watch::Receiver<Option<Instant>>,
}

struct Agent {
    told: Arc<Told>,
    holder: Holder,
    server: Server,
    verdicts: mpsc::Sender<Verdict>,
    /// A snapshot on which the control plane waits for a word, and until when.
    awaiting: Option<(String, Instant)>,
    look_now: Arc<Notify>,
    /// Whether Envoy is to be looked at often.
    busy: watch::Sender<bool>,
}

impl Agent {
    /// Does what is said and what is due, for ever.
    async fn keep(&mut self, mut heard: Heard) {
        let mut controlled = true;
        loop {
            let now = Instant::now();
            self.holder.expire(now);
            self.settle(now);
            self.busy.send_if_modified(|busy| {
                let agreed = self.holder.agreed() && self.told.ready.load(Ordering::Acquire);
                std::mem::replace(busy, !agreed) == agreed
            });
            let due = self.holder.next_deadline().into_iter().chain(self.awaiting.as_ref().map(|(_, until)| *until));
            let due = due.min();
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                update = heard.updates.recv(), if controlled => match update {
                    Some(update) => self.take(update, Instant::now()),
                    None => {
                        tracing::error!("the control client ended; going on with what is in force");
                        controlled = false;
                    }
                },
                notice = heard.notices.recv() => self.noticed(notice),
                Some(look) = heard.looked.recv() => self.holder.looked(&look, Instant::now()),
                Ok(()) = heard.pair.changed() => {
                    let pair = heard.pair.borrow_and_update().clone();
                    if let Some(pair) = pair {
                        self.holder.identity(pair);
                        self.look_now.notify_one();
                    }
                }
                Ok(()) = heard.asked.changed() => {
                    let until = *heard.asked.borrow_and_update();
                    self.holder.tap(until, Instant::now());
                }
                () = due => {}
            }
        }
    }

    fn take(&mut self, update: Update, now: Instant) {
        match update {
            Update::Connected => {
                self.told.connected.store(true, Ordering::Release);
                self.told.events.push(EventKind::ControlConnected);
            }
            Update::Lost { reason } => {
                self.told.connected.store(false, Ordering::Release);
                self.told.events.push(EventKind::ControlLost { reason });
            }
            Update::Rejected { kind, version, reason } => {
                let reason = format!("{kind:?}: {reason}");
                self.told.events.push(EventKind::SnapshotRejected { version, reason });
            }
            Update::Snapshot { version, snapshot } => match self.holder.snapshot(&version, snapshot) {
                Ok(()) => self.awaiting = Some((version, now + VERDICT)),
                Err(reason) => self.say(version, Some(reason)),
            },
            Update::Overlays(overlays) => self.holder.set_overlays(overlays, now),
            Update::Heartbeat(renewed) => self.holder.heartbeat(&renewed, now),
        }
        self.look_now.notify_one();
    }

    fn noticed(&mut self, notice: Result<Notice, broadcast::error::RecvError>) {
        match notice {
            Ok(Notice::Nacked { nack, .. }) => {
                let reason = format!("{} {}: {}", nack.kind, nack.version, nack.detail);
                tracing::error!(reason, "Envoy refuses it");
                self.holder.nacked(&reason);
                if let Some((version, _)) = self.awaiting.take() {
                    self.say(version, Some(reason));
                }
            }
            Ok(Notice::Connected { .. }) => tracing::info!("Envoy is connected"),
            Ok(Notice::Disconnected { reason, .. }) => tracing::warn!(reason, "Envoy has lost its stream"),
            Ok(Notice::Acked { .. }) | Err(_) => {}
        }
        self.look_now.notify_one();
    }

    /// Answers the control plane once Envoy has a snapshot. It hears no renewals of leases while it waits, so it is not held up
    /// by an Envoy that starts or warms: that such a one lacks the snapshot shows in its digest.
    fn settle(&mut self, now: Instant) {
        let up = self.server.proxy(&self.told.name).is_some_and(|state| state.connected);
        let over = |until: Instant| self.holder.agreed() || !up || until <= now;
        if let Some((version, _)) = self.awaiting.take_if(|(_, until)| over(*until)) {
            self.say(version, None);
        }
    }

    fn say(&self, version: String, refused: Option<String>) {
        // The client waits for one verdict at a time, so that there is room.
        if self.verdicts.try_send(Verdict { version, refused }).is_err() {
            tracing::error!("the control client takes no verdicts");
        }
    }
}

/// Takes no more connections, lets requests in flight finish, and ends Envoy.
async fn end(socket: &Path, envoy: &mut Child, at_most: Duration) {
    let began = Instant::now();
    if let Err(error) = ask::post(socket, "/drain_listeners?graceful").await {
        tracing::warn!(%error, "Envoy does not drain");
    }
    while began.elapsed() < at_most {
        match ask::get(socket, "/stats?filter=downstream_rq_active&usedonly").await {
            Ok(stats) if String::from_utf8_lossy(&stats).lines().any(in_flight) => {
                tokio::time::sleep(SOON).await;
            }
            _ => break,
        }
    }
    if let Err(error) = envoy.kill().await {
        tracing::warn!(%error, "Envoy cannot be ended");
    }
}

/// `http.gateway.downstream_rq_active: 2`; the admin interface's own, which asks, does not count.
fn in_flight(line: &str) -> bool {
    !line.starts_with("http.admin.") && line.rsplit(' ').next().is_some_and(|count| count != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_in_flight_are_those_of_others() {
        assert!(in_flight("http.gateway.downstream_rq_active: 2"));
        assert!(!in_flight("http.gateway.downstream_rq_active: 0"));
        assert!(!in_flight("http.admin.downstream_rq_active: 1"));
    }
}
