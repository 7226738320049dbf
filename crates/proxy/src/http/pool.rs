//! One worker's connections to endpoints: idle HTTP/1.1 ones, and shared HTTP/2 ones.

use std::{
    collections::HashMap,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::Shared};
use h2::client::SendRequest;
use rustls::pki_types::CertificateDer;
use tokio::{
    sync::{Notify, oneshot},
    task::AbortHandle,
};
use xds::snapshot::{self, Bound, RoutingPriority, UpstreamProtocol};

use crate::{
    http::{
        fate::{Busy, Fate},
        h1::wire::Wire,
        h2::pulse,
    },
    link::{ConnectError, Link, Stream},
    seldom::Seldom,
    upstream::{
        cluster::Cluster,
        host::{Host, Lane},
        view::View,
    },
};

/// An idle connection is closed after this long.
const IDLE: Duration = Duration::from_secs(60);
/// Idle connections kept for one endpoint.
const MOST_IDLE: usize = 256;
/// Requests at once on an HTTP/2 connection; beyond it another one is made. What servers usually allow.
const STREAMS: usize = 100;
/// Response headers of an endpoint, in bytes.
const HEADER_BYTES: u32 = 64 * 1024;

/// What an endpoint may send ahead on one HTTP/2 stream, in bytes; on a connection four times as much.
const WINDOW: u32 = 1024 * 1024;
/// What is buffered of one request's body.
const SEND_BUFFER: usize = 256 * 1024;
/// How often an endpoint is asked that says nothing while requests wait, and how long it may take to answer.
const PULSE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// A shared HTTP/2 connection.
#[derive(Clone, Debug)]
struct Multiplexed {
    sender: SendRequest<Bytes>,
    fate: Arc<Fate>,
}

type Connecting = Shared<futures_util::future::BoxFuture<'static, Result<Multiplexed, ConnectError>>>;

/// The connections to one endpoint for requests of one priority.
struct Entry {
    // Boxed, since a connection is handed from here to a response's body and back.
    #[allow(clippy::vec_box)]
    idle: Vec<Box<Wire>>,
    shared: Vec<Multiplexed>,
    connecting: Option<Connecting>,
    /// Of all that are open.
    fates: Vec<Weak<Fate>>,
    /// Told when one becomes idle.
    freed: Arc<Notify>,
    warden: AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.warden.abort();
    }
}

/// The connections.
#[derive(Default)]
pub struct Pool {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    lanes: HashMap<Lane, Entry>,
    swept: Option<Instant>,
    /// Idle connections that stay, however long nobody needs them.
    standby: HashMap<Lane, u8>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// An idle HTTP/1.1 connection to the host, if there is one.
    pub fn idle(&self, host: &Host, priority: RoutingPriority) -> Option<Box<Wire>> {
        let mut entries = self.entries();
        let entry = entries.lanes.get_mut(&Lane::new(host, priority))?;
        while let Some(mut wire) = entry.idle.pop() {
            if !wire.fate.retired() && wire.fate.epoch == host.epoch() && wire.is_open() {
                return Some(wire);
            }
        }
        None
    }

    /// A new HTTP/1.1 connection. When the priority has as many as it may, there is one still to an endpoint that this
    /// worker has none to for it, as in Envoy: nobody would give one back for whom its requests could wait.
    pub async fn connect(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        view: &View,
        host: &Arc<Host>,
        priority: RoutingPriority,
    ) -> Result<Box<Wire>, ConnectError> {
        let (epoch, lane) = (host.epoch(), Lane::new(host, priority));
        let config = &view.config;
        let most = if self.has_any(lane) { config.breakers_of(priority).connections } else { u32::MAX };
        let Link { stream, chain, counted, .. } =
            Link::connect(cluster, host, (priority, most), config.connect_timeout).await?;
        let fate = self.register(cluster, (host, lane), epoch, chain)?;
        Ok(Box::new(Wire::new(lane, fate, stream, counted)))
    }

    fn has_any(&self, lane: Lane) -> bool {
        let entries = self.entries();
        entries.lanes.get(&lane).is_some_and(|entry| entry.fates.iter().any(|fate| fate.strong_count() > 0))
    }

    /// Waits until a connection to the host becomes idle here, or one of the cluster's ends, of those for this priority.
    /// More may wait than find one.
    pub async fn freed(&self, cluster: &Cluster, host: &Host, priority: RoutingPriority) {
        let freed = self.entries().lanes.get(&Lane::new(host, priority)).map(|entry| entry.freed.clone());
        let Some(freed) = freed else { return };
        tokio::select! {
            () = freed.notified() => {}
            () = cluster.counters(priority).freed.notified() => {}
        }
    }

    /// Takes back an HTTP/1.1 connection whose response is over; it is closed if it cannot be used again.
    pub fn give_back(&self, mut wire: Box<Wire>) {
        if !wire.reusable() {
            return;
        }
        let mut entries = self.entries();
        if let Some(swept) = entries.swept {
            wire.since = swept;
        }
        if let Some(entry) = entries.lanes.get_mut(&wire.lane)
            && entry.idle.len() < MOST_IDLE
        {
            entry.idle.push(wire);
            entry.freed.notify_one();
        }
    }

    /// Closes what has been idle for long or was closed by its peer, and forgets endpoints without connections.
    pub fn sweep(&self, now: Instant) {
        let mut entries = self.entries();
        let Entries { lanes, swept, standby } = &mut *entries;
        *swept = Some(now);
        lanes.retain(|lane, entry| {
            let mut stay = standby.get(lane).copied().unwrap_or(0);
            entry.idle.retain_mut(|wire| {
                if wire.fate.retired() || !wire.is_open() {
                    return false;
                }
                let stays = stay > 0;
                stay = stay.saturating_sub(1);
                stays || now.saturating_duration_since(wire.since) < IDLE
            });
            entry.shared.retain(usable);
            entry.fates.retain(|fate| fate.strong_count() > 0);
            !entry.fates.is_empty() || entry.connecting.is_some()
        });
    }

    /// From now on, so many idle connections stay open here, and no others.
    pub fn stand_by(&self, standby: HashMap<Lane, u8>) {
        self.entries().standby = standby;
    }

    /// Connections to the host over which a request of this priority could be sent, now or when those on them are answered.
    pub fn open(&self, host: &Host, priority: RoutingPriority) -> usize {
        let mut entries = self.entries();
        let Some(entry) = entries.lanes.get_mut(&Lane::new(host, priority)) else { return 0 };
        entry.idle.retain_mut(|wire| !wire.fate.retired() && wire.is_open());
        entry.shared.retain(usable);
        let fates = entry.fates.iter().filter_map(Weak::upgrade);
        fates.filter(|fate| !fate.retired() && fate.epoch == host.epoch()).count()
    }

    /// Opens a connection to the host that no request waits for. The other half of the connections that the priority may
    /// have is left to requests.
    ///
    /// # Errors
    /// [`ConnectError::Overflow`] when there is no room, and why there is no connection.
    pub async fn prepare(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        view: &View,
        host: &Arc<Host>,
        priority: RoutingPriority,
    ) -> Result<(), ConnectError> {
        let most = view.config.breakers_of(priority).connections / 2;
        if cluster.counters(priority).used(Bound::Connections) >= u64::from(most) {
            return Err(ConnectError::Overflow);
        }
        if view.config.protocol == UpstreamProtocol::Http2 {
            let connecting = {
                let mut entries = self.entries();
                let entry = self.entry(&mut entries, cluster, host, Lane::new(host, priority));
                // A request that comes meanwhile waits for this one.
                entry.connecting.get_or_insert_with(|| self.connect_shared(cluster, view, host, priority)).clone()
            };
            return connecting.await.map(drop);
        }
        let wire = self.connect(cluster, view, host, priority).await?;
        self.give_back(Box::new(wire.kept()));
        Ok(())
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a new connection, so that it ends when its endpoint is retired or not believed any more.
    fn register(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        (host, lane): (&Arc<Host>, Lane),
        epoch: u64,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Arc<Fate>, ConnectError> {
        // Before the other side ends it, so that no request meets its end.
        let lasts = cluster.tls().map(|tls| tls.identity.lasts(&chain).mul_f64(0.75));
        let until = lasts.and_then(|lasts| Instant::now().checked_add(lasts));
        let fate = Arc::new(Fate::new(epoch, chain, until));
        {
            let mut entries = self.entries();
            let entry = self.entry(&mut entries, cluster, host, lane);
            entry.fates.retain(|fate| fate.strong_count() > 0);
            entry.fates.push(Arc::downgrade(&fate));
        }
        // From here on the warden sees changes; what changed while the connection was made is looked at now.
        if !believed(cluster, &fate) {
            return Err(ConnectError::Failed("the endpoint's certificate is not trusted any more".into()));
        }
        if host.epoch() != epoch {
            fate.doom();
        }
        Ok(fate)
    }

    fn entry<'a>(
        self: &Arc<Self>,
        entries: &'a mut Entries,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        lane: Lane,
    ) -> &'a mut Entry {
        entries.lanes.entry(lane).or_insert_with(|| {
            let seen = (host.epoch(), cluster.trust.number(), host.doubts());
            let watching = watch_over(Arc::downgrade(self), cluster.clone(), (host.clone(), lane), seen);
            let warden = tokio::spawn(watching).abort_handle();
            Entry {
                idle: Vec::new(),
                shared: Vec::new(),
                connecting: None,
                fates: Vec::new(),
                freed: Arc::default(),
                warden,
            }
        })
    }

    /// Ends connections that the endpoint's or its trust's change asks to end.
    fn look_again(&self, cluster: &Cluster, host: &Host, lane: Lane) {
        let mut entries = self.entries();
        let Some(entry) = entries.lanes.get_mut(&lane) else { return };
        for fate in entry.fates.iter().filter_map(Weak::upgrade) {
            if !believed(cluster, &fate) {
                fate.cut();
            } else if fate.epoch != host.epoch() && !fate.retired() {
                fate.doom();
            }
        }
        entry.idle.retain(|wire| !wire.fate.retired());
        entry.shared.retain(usable);
    }

    /// Connections to the host that bring nothing any more are ended.
    fn doubt(&self, host: &Arc<Host>, lane: Lane) {
        let entries = self.entries();
        let fates = entries.lanes.get(&lane).into_iter().flat_map(|entry| &entry.fates);
        fates.filter_map(Weak::upgrade).for_each(|fate| fate.doubt(host));
    }

    /// A place on an HTTP/2 connection, making one if need be.
    pub async fn share(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        view: &View,
        host: &Arc<Host>,
        priority: RoutingPriority,
    ) -> Result<(SendRequest<Bytes>, Busy), ConnectError> {
        let connecting = {
            let mut entries = self.entries();
            let entry = self.entry(&mut entries, cluster, host, Lane::new(host, priority));
            entry.shared.retain(|shared| usable(shared) && shared.fate.epoch == host.epoch());
            let free = |shared: &&Multiplexed| shared.fate.busy() < STREAMS;
            if let Some(shared) = entry.shared.iter().filter(free).min_by_key(|shared| shared.fate.busy()) {
                return Ok((shared.sender.clone(), Busy::new(&shared.fate)));
            }
            // Everyone who comes before it is up waits for one and the same connection.
            entry.connecting.get_or_insert_with(|| self.connect_shared(cluster, view, host, priority)).clone()
        };
        let shared = connecting.await?;
        let busy = Busy::new(&shared.fate);
        Ok((shared.sender, busy))
    }

    /// A task of its own, so that the connection is made even if those who wait for it give up.
    fn connect_shared(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        view: &View,
        host: &Arc<Host>,
        priority: RoutingPriority,
    ) -> Connecting {
        let (done, result) = oneshot::channel();
        let (pool, cluster, host) = (self.clone(), cluster.clone(), host.clone());
        let config = view.config.clone();
        tokio::spawn(async move {
            let made = pool.multiplex(&cluster, &config, &host, priority).await;
            {
                let mut entries = pool.entries();
                let entry = pool.entry(&mut entries, &cluster, &host, Lane::new(&host, priority));
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

    async fn multiplex(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        config: &snapshot::Cluster,
        host: &Arc<Host>,
        priority: RoutingPriority,
    ) -> Result<Multiplexed, ConnectError> {
        let (epoch, most) = (host.epoch(), config.breakers_of(priority).connections);
        let Link { stream, chain, h2, counted } =
            Link::connect(cluster, host, (priority, most), config.connect_timeout).await?;
        if matches!(stream, Stream::Tls(_)) && !h2 {
            return Err(ConnectError::Failed("the endpoint does not speak HTTP/2".into()));
        }
        let (sender, mut connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW)
            .max_header_list_size(HEADER_BYTES)
            .max_send_buffer_size(SEND_BUFFER)
            .handshake(stream)
            .await
            .map_err(|error| ConnectError::Failed(error.to_string()))?;
        let fate = self.register(cluster, (host, Lane::new(host, priority)), epoch, chain)?;
        let (ends, asked, asks) = (fate.clone(), fate.clone(), fate.takes_asks());
        let pulse = connection.ping_pong();
        tokio::spawn(async move {
            let _counted = counted;
            // A peer that vanished without a word holds its streams no longer than this.
            let mut lost =
                pulse.map(|ping| Seldom::new(pulse::lost(ping, PULSE, PATIENCE, move || asked.quiet(), asks)));
            poll_fn(|cx| {
                let lost = lost.as_mut().is_some_and(|lost| lost.poll(cx).is_ready());
                if lost || ends.poll_over(cx).is_ready() {
                    return Poll::Ready(());
                }
                // What broke it is told to the requests on it.
                Pin::new(&mut connection).poll(cx).map(drop)
            })
            .await;
            ends.retire();
        });
        Ok(Multiplexed { sender, fate })
    }
}

fn usable(shared: &Multiplexed) -> bool {
    !shared.fate.retired()
}

fn believed(cluster: &Cluster, fate: &Fate) -> bool {
    match cluster.tls() {
        None => fate.chain.is_empty(),
        Some(tls) => tls.verifier.accepts(&fate.chain),
    }
}

/// Watches over the connections of one lane, from these epochs of its endpoint's, its trust's and its doubts on. The entry
/// that it belongs to ends it.
async fn watch_over(
    pool: Weak<Pool>,
    cluster: Arc<Cluster>,
    (host, lane): (Arc<Host>, Lane),
    mut seen: (u64, u64, u64),
) {
    loop {
        let doubted = tokio::select! {
            () = host.epoch_over(seen.0) => false,
            () = cluster.trust.over(seen.1) => false,
            () = host.doubted(seen.2) => true,
        };
        seen = (host.epoch(), cluster.trust.number(), host.doubts());
        let Some(pool) = pool.upgrade() else { return };
        if doubted {
            pool.doubt(&host, lane);
        }
        pool.look_again(&cluster, &host, lane);
    }
}
