//! A data worker: one thread, one current-thread runtime, its own sockets and its own connections to endpoints.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_rustls::TlsAcceptor;
use xds::{
    snapshot::{Limits, ListenerProtocol},
    spiffe,
};

use crate::{
    http::{pool::Pool, record::Caller, server::Connection, standby},
    listener::Listener,
    seldom::Seldom,
    state::Shared,
    tcp,
};

/// How often idle connections to endpoints are looked through, and free memory is given back.
const SWEEP: Duration = Duration::from_secs(10);
/// Pause after accepting failed (usually: no file descriptors left), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// Accept on this socket.
    Listen {
        /// Listener name; a socket that is open under it is replaced.
        name: String,
        /// What is done with connections.
        listener: Arc<Listener>,
        /// Bound, listening, non-blocking.
        socket: std::net::TcpListener,
    },
    /// Close the socket, and its connections when they are done.
    Close {
        /// Listener name.
        name: String,
    },
}

/// A running worker. It ends when its command channel is closed.
#[derive(Debug)]
pub struct Worker {
    /// Tells it what to do.
    pub commands: mpsc::UnboundedSender<Command>,
    /// Its thread.
    pub thread: JoinHandle<()>,
}

impl Worker {
    /// Starts a worker.
    ///
    /// # Errors
    /// When the system has no thread or no event queue left.
    pub fn start(index: usize, shared: Arc<Shared>, give_back: fn()) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (commands, told) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name(format!("data-{index}"))
            .spawn(move || runtime.block_on(run(shared, told, give_back)))?;
        Ok(Self { commands, thread })
    }
}

async fn run(shared: Arc<Shared>, mut told: mpsc::UnboundedReceiver<Command>, give_back: fn()) {
    let pool = Arc::new(Pool::default());
    let mut sockets: HashMap<String, watch::Sender<bool>> = HashMap::new();
    let mut sweep = tokio::time::interval(SWEEP);
    // It ends with this worker's runtime.
    tokio::spawn(standby::keep(shared.clone(), pool.clone()));
    loop {
        tokio::select! {
            command = told.recv() => match command {
                None => return,
                Some(Command::Close { name }) => drop(sockets.remove(&name)),
                Some(Command::Listen { name, listener, socket }) => match TcpListener::from_std(socket) {
                    Err(error) => tracing::error!(%error, listener = name, "the socket cannot be used"),
                    Ok(socket) => {
                        let closing = watch::Sender::new(false);
                        let context = Context { shared: shared.clone(), pool: pool.clone(), listener };
                        tokio::spawn(accept(context, socket, closing.subscribe()));
                        sockets.insert(name, closing);
                    }
                },
            },
            _ = sweep.tick() => {
                pool.sweep(Instant::now());
                give_back();
            }
        }
    }
}

#[derive(Clone)]
struct Context {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    listener: Arc<Listener>,
}

async fn accept(context: Context, socket: TcpListener, mut closing: watch::Receiver<bool>) {
    let mut draining = context.shared.draining.subscribe();
    let connection_closing = closing.clone();
    loop {
        let accepted = tokio::select! {
            // Ends with its sender too, which is the listener's removal.
            _ = closing.wait_for(|closing| *closing) => return,
            _ = draining.wait_for(|draining| *draining) => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let context = context.clone();
                tokio::spawn(admit(context, stream, address, connection_closing.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn admit(context: Context, stream: TcpStream, address: std::net::SocketAddr, closing: watch::Receiver<bool>) {
    let Context { shared, listener, .. } = &context;
    let _busy = shared.busy.clone();
    // Before the settings are read, so that no change after them is missed.
    let trust = listener.watch_trust();
    let settings = listener.settings();
    let limits = match &settings.config.protocol {
        ListenerProtocol::Http(http) => http.limits.clone(),
        ListenerProtocol::Tcp { .. } => Limits::default(),
    };
    let Some(_admitted) = listener.admit(limits.connections) else {
        shared.metrics.refused("connections");
        return;
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it was served");
        return;
    }
    let Some(tls) = &settings.tls else {
        let caller = Caller { address, id: None, tls: false };
        let serving = serve(&context, (stream, caller, None), &settings.config.protocol, limits, closing);
        return while_believed(&context, trust, Vec::new(), serving).await;
    };
    let accepting = TlsAcceptor::from(tls.config.clone()).accept(stream);
    let stream = match Box::pin(tokio::time::timeout(limits.header_timeout, accepting)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.metrics.refused("tls");
            tracing::debug!(%address, %error, "TLS handshake refused");
            return;
        }
        Err(_) => return shared.metrics.refused("slowTls"),
    };
    let chain: Vec<CertificateDer<'static>> =
        stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
    let id = chain.first().and_then(spiffe::id);
    let caller = Caller { address, id, tls: true };
    // Boxed, since it is large, and held by everything in between.
    // Callers of ours go sooner by themselves (see `Pool`).
    let lasts = tls.identity.lasts(&chain).mul_f64(0.875);
    let served = (Box::new(stream), caller, Some(lasts));
    let serving = serve(&context, served, &settings.config.protocol, limits, closing);
    while_believed(&context, trust, chain, serving).await;
}

/// Serves a caller until its root is taken away, or until it would need one: it is cut off in the middle of whatever it
/// does. No chain is plaintext.
async fn while_believed(
    context: &Context,
    mut trust: watch::Receiver<u64>,
    chain: Vec<CertificateDer<'static>>,
    serving: impl Future<Output = ()>,
) {
    let listener = context.listener.clone();
    let mut distrusted = Seldom::new(async move {
        loop {
            let changed = trust.changed().await;
            let believed = match &listener.settings().tls {
                None => chain.is_empty(),
                Some(tls) => tls.verifier.accepts(&chain),
            };
            if changed.is_err() || !believed {
                return;
            }
        }
    });
    let mut serving = pin!(serving);
    let served = poll_fn(|cx| {
        if serving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        distrusted.poll(cx).map(|()| false)
    });
    if !served.await {
        context.shared.metrics.refused("distrusted");
    }
}

/// Serves a caller. Over HTTP it is told to go when the third part of `served` is over.
async fn serve<T>(
    context: &Context,
    served: (T, Caller, Option<Duration>),
    protocol: &ListenerProtocol,
    limits: Limits,
    closing: watch::Receiver<bool>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Context { shared, pool, listener } = context;
    let (stream, caller, lasts) = served;
    match protocol {
        ListenerProtocol::Tcp { cluster, idle_timeout } => {
            let direction = listener.settings().config.direction;
            Box::pin(tcp::forward(shared, cluster, (stream, caller, direction), *idle_timeout, closing)).await;
        }
        ListenerProtocol::Http(_) => {
            let connection = Connection {
                shared: shared.clone(),
                pool: pool.clone(),
                listener: listener.clone(),
                caller,
                requests: Arc::new(()),
            };
            let (mut closing, mut draining) = (closing, shared.draining.subscribe());
            let leaving = Seldom::new(async move {
                let ends = async {
                    match lasts {
                        Some(lasts) => tokio::time::sleep(lasts).await,
                        None => std::future::pending().await,
                    }
                };
                // An ended sender is a listener that is gone.
                tokio::select! {
                    () = ends => {}
                    _ = closing.wait_for(|closing| *closing) => {}
                    _ = draining.wait_for(|draining| *draining) => {}
                }
            });
            Arc::new(connection).serve(stream, limits, leaving).await;
        }
    }
}
