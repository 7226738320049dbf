//! One worker's connections to endpoints: idle HTTP/1.1 ones, and shared HTTP/2 ones.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::Shared};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, oneshot};
use xds::snapshot::UpstreamProtocol;

use crate::{
    http::body::TryBody,
    link::{ConnectError, Counted, Link, Stream},
    upstream::{
        cluster::Cluster,
        host::{Host, HostId},
        view::View,
    },
};

/// How long a busy connection of a retired endpoint may finish its work.
const DRAIN: Duration = Duration::from_secs(5);
/// An idle connection is closed after this long.
const IDLE: Duration = Duration::from_secs(60);
/// Idle connections kept for one endpoint.
const MOST_IDLE: usize = 256;
/// Requests at once on an HTTP/2 connection; beyond it another one is made. What servers usually allow.
const STREAMS: usize = 100;
/// Response headers of an endpoint, in bytes.
const HEADER_BYTES: usize = 64 * 1024;

/// Sends one request.
#[derive(Debug)]
pub enum Sender {
    /// Over a connection of its own.
    Http1(http1::SendRequest<TryBody>),
    /// Over a shared one.
    Http2(http2::SendRequest<TryBody>),
}

/// A connection taken for one request.
#[derive(Debug)]
pub struct Taken {
    /// Sends the request.
    pub sender: Sender,
    /// Keeps the connection counted as busy.
    pub busy: Busy,
}

/// What pool, requests and driver of a connection share.
#[derive(Debug)]
struct State {
    epoch: u64,
    gone: AtomicBool,
    busy: AtomicUsize,
    idle: Notify,
}

/// A request on a connection.
#[derive(Debug)]
pub struct Busy(Arc<State>);

impl Busy {
    fn new(state: &Arc<State>) -> Self {
        state.busy.fetch_add(1, Ordering::AcqRel);
        Self(state.clone())
    }

    /// The connection takes no more requests (it ended, or its peer said GOAWAY); those on it may finish.
    pub fn close_to_new(&self) {
        self.0.gone.store(true, Ordering::Release);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_one();
        }
    }
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<TryBody>,
    state: Arc<State>,
    since: Instant,
}

#[derive(Clone, Debug)]
struct Multiplexed {
    sender: http2::SendRequest<TryBody>,
    state: Arc<State>,
}

type Connecting = Shared<futures_util::future::BoxFuture<'static, Result<Multiplexed, ConnectError>>>;

#[derive(Default)]
struct Entry {
    idle: Vec<Idle>,
    shared: Vec<Multiplexed>,
    connecting: Option<Connecting>,
}

/// The connections.
#[derive(Default)]
pub struct Pool {
    entries: Mutex<HashMap<HostId, Entry>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// Takes a connection to the host, making one if need be.
    pub async fn take(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        view: &View,
        host: &Arc<Host>,
    ) -> Result<Taken, ConnectError> {
        match view.config.protocol {
            UpstreamProtocol::Http2 => self.take_shared(cluster, view, host).await,
            UpstreamProtocol::Http1 | UpstreamProtocol::Tcp => self.take_own(cluster, view, host).await,
        }
    }

    /// Puts an HTTP/1.1 connection back once its response is over.
    pub fn give_back(self: &Arc<Self>, host: HostId, sender: Sender, busy: &Busy) {
        let Sender::Http1(mut sender) = sender else { return };
        let (pool, state) = (self.clone(), busy.0.clone());
        tokio::spawn(async move {
            if sender.ready().await.is_ok() && !state.gone.load(Ordering::Acquire) {
                let mut entries = pool.entries();
                let entry = entries.entry(host).or_default();
                if entry.idle.len() < MOST_IDLE {
                    entry.idle.push(Idle { sender, state, since: Instant::now() });
                }
            }
        });
    }

    /// Closes what has been idle for long, and forgets endpoints without connections.
    pub fn sweep(&self, now: Instant) {
        self.entries().retain(|_, entry| {
            entry.idle.retain(|idle| usable(&idle.state) && now.saturating_duration_since(idle.since) < IDLE);
            entry.shared.retain(|shared| usable(&shared.state) && !shared.sender.is_closed());
            !entry.idle.is_empty() || !entry.shared.is_empty() || entry.connecting.is_some()
        });
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<HostId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_own(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        view: &View,
        host: &Arc<Host>,
    ) -> Result<Taken, ConnectError> {
        if let Some(entry) = self.entries().get_mut(&host.id) {
            while let Some(idle) = entry.idle.pop() {
                if usable(&idle.state) && idle.state.epoch == host.epoch() && idle.sender.is_ready() {
                    let busy = Busy::new(&idle.state);
                    return Ok(Taken { sender: Sender::Http1(idle.sender), busy });
                }
            }
        }
        let (config, epoch) = (&view.config, host.epoch());
        let link = Link::connect(cluster, host, config.breakers.connections, config.connect_timeout).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEADER_BYTES)
            .handshake(TokioIo::new(link.stream))
            .await
            .map_err(|error| ConnectError::Failed(error.to_string()))?;
        let state = Arc::new(State::new(epoch));
        let driver = Driver::new(state.clone(), cluster, host, link.chain, link.counted);
        tokio::spawn(driver.run(connection));
        let busy = Busy::new(&state);
        Ok(Taken { sender: Sender::Http1(sender), busy })
    }

    async fn take_shared(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        view: &View,
        host: &Arc<Host>,
    ) -> Result<Taken, ConnectError> {
        let connecting = {
            let mut entries = self.entries();
            let entry = entries.entry(host.id).or_default();
            entry.shared.retain(|shared| {
                usable(&shared.state) && shared.state.epoch == host.epoch() && !shared.sender.is_closed()
            });
            let free = |shared: &&Multiplexed| shared.state.busy.load(Ordering::Relaxed) < STREAMS;
            if let Some(shared) = entry.shared.iter().filter(free).min_by_key(|s| s.state.busy.load(Ordering::Relaxed))
            {
                let busy = Busy::new(&shared.state);
                return Ok(Taken { sender: Sender::Http2(shared.sender.clone()), busy });
            }
            // Everyone who comes before it is up waits for one and the same connection.
            entry.connecting.get_or_insert_with(|| self.connect_shared(cluster, view, host)).clone()
        };
        let shared = connecting.await?;
        let busy = Busy::new(&shared.state);
        Ok(Taken { sender: Sender::Http2(shared.sender), busy })
    }

    /// A task of its own, so that the connection is made even if those who wait for it give up.
    fn connect_shared(self: &Arc<Self>, cluster: &Arc<Cluster>, view: &View, host: &Arc<Host>) -> Connecting {
        let (done, result) = oneshot::channel();
        let (pool, cluster, host) = (self.clone(), cluster.clone(), host.clone());
        let config = view.config.clone();
        tokio::spawn(async move {
            let made = multiplex(&cluster, &host, config.breakers.connections, config.connect_timeout).await;
            {
                let mut entries = pool.entries();
                let entry = entries.entry(host.id).or_default();
                entry.connecting = None;
                entry.shared.extend(made.iter().cloned());
            }
            // Nobody waits any more: the connection is there for the next.
            let _ = done.send(made);
        });
        async move { result.await.unwrap_or_else(|_| Err(ConnectError::Failed("shutting down".into()))) }
            .boxed()
            .shared()
    }
}

async fn multiplex(
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    most: u32,
    timeout: Duration,
) -> Result<Multiplexed, ConnectError> {
    let epoch = host.epoch();
    let link = Link::connect(cluster, host, most, timeout).await?;
    if matches!(link.stream, Stream::Tls(_)) && !link.h2 {
        return Err(ConnectError::Failed("the endpoint does not speak HTTP/2".into()));
    }
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_header_list_size(HEADER_BYTES as u32)
        // A peer that vanished without a word holds its streams no longer than this.
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .handshake(TokioIo::new(link.stream))
        .await
        .map_err(|error| ConnectError::Failed(error.to_string()))?;
    let state = Arc::new(State::new(epoch));
    let driver = Driver::new(state.clone(), cluster, host, link.chain, link.counted);
    tokio::spawn(driver.run(connection));
    Ok(Multiplexed { sender, state })
}

fn usable(state: &State) -> bool {
    !state.gone.load(Ordering::Acquire)
}

impl State {
    fn new(epoch: u64) -> Self {
        Self { epoch, gone: AtomicBool::new(false), busy: AtomicUsize::new(0), idle: Notify::new() }
    }
}

/// Runs a connection and ends it when its endpoint is retired or its peer is not believed any more.
struct Driver {
    state: Arc<State>,
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    chain: Vec<CertificateDer<'static>>,
    _counted: Counted,
}

impl Driver {
    fn new(
        state: Arc<State>,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        chain: Vec<CertificateDer<'static>>,
        counted: Counted,
    ) -> Self {
        Self { state, cluster: cluster.clone(), host: host.clone(), chain, _counted: counted }
    }

    async fn run(self, connection: impl Future<Output = hyper::Result<()>>) {
        let mut epoch = self.host.watch_epoch();
        let mut trust = self.cluster.watch_trust();
        // Changes between the handshake and here must not be missed.
        epoch.mark_changed();
        trust.mark_changed();
        let mut until = None;
        tokio::pin!(connection);
        loop {
            let overdue = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = &mut connection => break,
                changed = epoch.changed(), if until.is_none() => {
                    if changed.is_err() || *epoch.borrow_and_update() != self.state.epoch {
                        self.state.gone.store(true, Ordering::Release);
                        until = Some(tokio::time::Instant::now() + DRAIN);
                    }
                }
                changed = trust.changed() => {
                    if changed.is_err() || !self.believed() {
                        break;
                    }
                }
                () = self.state.idle.notified(), if until.is_some() => {}
                () = overdue => break,
            }
            if until.is_some() && self.state.busy.load(Ordering::Acquire) == 0 {
                break;
            }
        }
        self.state.gone.store(true, Ordering::Release);
    }

    fn believed(&self) -> bool {
        match self.cluster.tls() {
            None => self.chain.is_empty(),
            Some(tls) => tls.verifier.accepts(&self.chain),
        }
    }
}
