//! Wiring: opens the state, binds, starts the parts, and stops them in order.

use std::{
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use xds::{clock::Clock, server::Notice};

use crate::{
    ads,
    api::{ControlEvent, RunFile},
    discovery, federation, http, issued,
    mesh::{self, Mesh},
    proxies,
    recovery::Controller,
    secret, server, sharing,
    store::StoreAddress,
    trust,
};

/// Bound on ending calls and streams after the request to stop.
const DRAIN: Duration = Duration::from_secs(3);

/// Publishes a trust bundle that was accepted, and says what became of the file.
fn tell_trust(mesh: Arc<Mesh>) -> impl Fn(Result<String, String>) {
    move |change| match change {
        Ok(bundle) => {
            let roots = trust::count(&bundle).unwrap_or_default();
            mesh.trust(bundle);
            // Nobody is believed by it where somebody else issues certificates.
            if !mesh.state().is_issued_elsewhere() {
                mesh.log.say(ControlEvent::TrustApplied { roots });
            }
        }
        Err(reason) => mesh.log.say(ControlEvent::TrustRefused { reason }),
    }
}

/// What the control plane is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// State folder of the mesh; made if it is not there.
    pub state_dir: PathBuf,
    /// Where revisions, placements and recovery are kept.
    pub store: StoreAddress,
    /// Where the API listens; loopback. Port 0 takes a free one (see `run/control.json`).
    pub api: SocketAddr,
    /// Where ADS listens. Port 0 takes a free one.
    pub ads: SocketAddr,
    /// Where other trust domains ask for ours; `None`: nowhere. Port 0 takes a free one.
    pub bundle: Option<SocketAddr>,
    /// The process's clock.
    pub clock: Clock,
}

/// Why the control plane did not start, or stopped.
#[derive(Debug, Error)]
pub enum RunError {
    /// The API is plain HTTP: it stays on this machine.
    #[error("the API must listen on a loopback address, not {0}; use 127.0.0.1")]
    NotLoopback(SocketAddr),
    /// The address is not to be had.
    #[error("the control plane cannot listen on {address}: {reason}; is another one running there?")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why not.
        reason: std::io::Error,
    },
    /// The state folder is not usable.
    #[error("the state folder {folder} is not usable: {reason}")]
    State {
        /// Which.
        folder: PathBuf,
        /// Why not.
        reason: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part that never ends has ended.
    #[error("the control plane stopped: {0}")]
    Stopped(String),
}

fn bind(address: SocketAddr) -> Result<TcpListener, RunError> {
    xds::reserved::listen(address).map_err(|reason| RunError::Bind { address, reason })
}

/// Runs the control plane until `shutdown`. It is ready when `run/control.json` is there and `/readyz` answers 200.
/// Stopping takes every lease back (proxies are told at once), ends calls and streams, and closes the store.
///
/// # Errors
/// If it cannot start, or one of its parts failed.
pub async fn run(options: Options, shutdown: impl Future<Output = ()> + Send) -> Result<(), RunError> {
    if !options.api.ip().is_loopback() {
        return Err(RunError::NotLoopback(options.api));
    }
    let folder = options.state_dir.clone();
    let state = |reason: Box<dyn std::error::Error + Send + Sync>| RunError::State { folder: folder.clone(), reason };
    mesh::prepare_folder(&options.state_dir).map_err(|e| state(e.into()))?;
    let token_path = options.state_dir.join("run").join("api.token");
    let token = secret::read_or_make(&token_path, || secret::random_hex(32)).map_err(|e| state(e.into()))?;
    let socket = RunFile::socket(&options.state_dir);
    let (api, ads) = (bind(options.api)?, bind(options.ads)?);
    let local = xds::local::listen(&socket).map_err(|e| state(e.into()))?;
    let bundle = match options.bundle {
        Some(address) => Some(bind(address)?),
        None => None,
    };
    let mesh = Mesh::open(&options.state_dir, &options.store, options.clock).await.map_err(state)?;
    // Alone it leads from the beginning.
    let (lead, leading) = watch::channel(if mesh.store.is_shared() { None } else { Some(0) });
    let restored = Controller::restore(mesh.clone(), options.state_dir.clone(), leading).await;
    let (controller, recovery) = restored.map_err(|e| state(format!("{e:?}").into()))?;
    mesh.log.say(ControlEvent::Started { version: env!("CARGO_PKG_VERSION").to_owned() });

    let (stop, stopping) = watch::channel(false);
    let mut parts = JoinSet::new();
    let (tls, tls_config) = (mesh.reports.own.clone(), mesh.reports.own.subscribe());
    let (issuing, issued) = watch::channel(None);
    parts.spawn(issued::follow(mesh.clone(), options.state_dir.clone(), issuing));
    parts.spawn(ads::own_certificate(mesh.clone(), issued, tls));
    mesh.publish_all();
    parts.spawn(relay(mesh.clone(), mesh.ads.notices()));
    parts.spawn(proxies::collect(mesh.clone()));
    parts.spawn(discovery::follow(mesh.clone(), options.state_dir.join("discovery.json")));
    parts.spawn(federation::follow(mesh.clone(), options.state_dir.join("federation")));
    let trust_file = mesh.trust_file.clone();
    parts.spawn(trust::follow(move || trust_file.read(), mesh.state().trust.clone(), tell_trust(mesh.clone())));
    let (folder, signs) = (mesh.ca.clone(), mesh.ca.seen().unwrap_or_default());
    let changed = mesh.clone();
    parts.spawn(trust::follow(move || folder.seen(), signs, move |seen| changed.take_authority(seen)));
    parts.spawn({
        let mesh = mesh.clone();
        async move { mesh.lapse_leases().await }
    });
    parts.spawn(controller.run());
    let unheard = mesh.unheard.lock().unwrap_or_else(PoisonError::into_inner).take();
    // Kept where nobody else can lead: it says that this one does.
    let lead = match unheard.filter(|_| mesh.store.is_shared()) {
        Some(unheard) => {
            parts.spawn(sharing::lead(mesh.clone(), lead));
            parts.spawn(sharing::follow(mesh.clone(), recovery.clone()));
            parts.spawn(sharing::speak(mesh.clone(), unheard));
            None
        }
        None => Some(lead),
    };

    let run_file =
        write_run_file(&options, [&api, &ads], bundle.as_ref(), token.clone()).map_err(|e| state(e.into()))?;
    let (ready, incoming) = mpsc::channel(64);
    if let Some(bundle) = bundle {
        parts.spawn(federation::serve(mesh.clone(), bundle, tls_config.clone()));
    }
    parts.spawn(ads::accept(mesh.clone(), ads, tls_config.clone(), ready));
    let mut servers = JoinSet::new();
    let streams = mesh.ads.clone();
    let ends = stopped(stopping.clone());
    servers.spawn(
        async move { streams.serve_known(ReceiverStream::new(incoming), ends).await.map_err(|e| e.to_string()) },
    );
    let router = http::router(Arc::new(http::Api { mesh: mesh.clone(), recovery, token, stopping: stopping.clone() }));
    let (at_socket, at_address) = (router.clone(), stopping.clone());
    servers.spawn(async move {
        server::serve_local(local, at_socket, stopping).await;
        Ok(())
    });
    servers.spawn(async move {
        let tls = || tls_config.borrow().as_ref().map(|own| own.bundle.clone());
        server::serve_either(api, router, at_address, tls).await;
        Ok(())
    });
    tracing::info!(api = %run_file.api, ads = %run_file.ads, "the control plane is ready");

    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        Some(ended) = parts.join_next() => Err(RunError::Stopped(format!("a part ended: {ended:?}"))),
        Some(ended) = servers.join_next() => Err(RunError::Stopped(format!("a server ended: {ended:?}"))),
    };
    drain(&mesh, &stop, parts, servers).await;
    drop(lead);
    outcome
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // A sender that is gone means stopping, too.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn drain(
    mesh: &Mesh,
    stop: &watch::Sender<bool>,
    mut parts: JoinSet<()>,
    mut servers: JoinSet<Result<(), String>>,
) {
    if mesh.store.is_shared() {
        // Leases are everybody's, and go on. Another one can lead at once.
        if let Err(error) = mesh.store.resign(&mesh.instance).await {
            tracing::warn!(%error, "leadership was not given back; it lapses");
        }
    } else {
        let leases = mesh.state().table.ids();
        for lease in leases {
            // A lease that lapsed in between is gone, too.
            let _ = mesh.release_lease(&lease).await;
        }
    }
    // Lets the streams carry what the releases changed before they end.
    tokio::time::sleep(Duration::from_millis(50)).await;
    stop.send_replace(true);
    let ended = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, ended).await.is_err() {
        tracing::warn!("some calls did not end in time");
    }
    parts.shutdown().await;
    mesh.store.close().await;
}

fn write_run_file(
    options: &Options,
    [api, ads]: [&TcpListener; 2],
    bundle: Option<&TcpListener>,
    token: String,
) -> Result<RunFile, std::io::Error> {
    let pid = std::process::id();
    let bundle = bundle.map(TcpListener::local_addr).transpose()?;
    let file = RunFile { api: api.local_addr()?, ads: ads.local_addr()?, bundle, token, pid };
    let text = serde_json::to_vec_pretty(&file)?;
    secret::replace_private(&options.state_dir.join("run").join("control.json"), &text)?;
    Ok(file)
}

/// What happens on streams goes into the log.
async fn relay(mesh: Arc<Mesh>, mut notices: broadcast::Receiver<Notice>) {
    loop {
        let event = match notices.recv().await {
            Ok(Notice::Connected { proxy, .. }) => ControlEvent::ProxyConnected { proxy },
            Ok(Notice::Disconnected { proxy, reason }) => ControlEvent::ProxyLost { proxy, reason },
            Ok(Notice::Nacked { proxy, nack }) => {
                ControlEvent::Nack { proxy, kind: nack.kind, version: nack.version, detail: nack.detail }
            }
            Ok(Notice::Acked { .. }) => continue,
            Err(broadcast::error::RecvError::Lagged(count)) => {
                tracing::warn!(count, "notices of streams were missed");
                continue;
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        mesh.log.say(event);
    }
}
