//! ADS over TLS: accepts, shakes hands (bounded in number and time), and hands ready streams to the xDS server.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    authority::{Authority, OwnTls},
    denial::Denial,
    mesh::Mesh,
};

/// Handshakes at once; more wait in the kernel's queue.
const HANDSHAKES: usize = 64;
/// Bound on a handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Pause after the machine could not accept (out of file descriptors).
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A stream that is ready for gRPC, and the SPIFFE id that its peer proved.
pub(crate) type Ready = Result<(TlsStream<TcpStream>, Option<Arc<str>>), std::io::Error>;

/// Accepts for ever.
pub(crate) async fn accept(
    mesh: Arc<Mesh>,
    listener: TcpListener,
    tls: watch::Receiver<Option<OwnTls>>,
    ready: mpsc::Sender<Ready>,
) {
    let permits = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "ADS cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Before the first manifests there is no trust domain, hence no certificate; proxies try again.
        let Some(config) = tls.borrow().as_ref().map(|own| own.ads.clone()) else { continue };
        let (mesh, ready) = (mesh.clone(), ready.clone());
        tokio::spawn(async move {
            let handshake = async {
                stream.set_nodelay(true)?;
                TlsAcceptor::from(config).accept(stream).await
            };
            match timeout(HANDSHAKE_LIMIT, handshake).await {
                // Nobody takes streams any more while the server stops.
                Ok(Ok(stream)) => {
                    let id = Mesh::peer(stream.get_ref().1.peer_certificates());
                    drop(ready.send(Ok((stream, id))).await);
                }
                Ok(Err(error)) => match denial(&error) {
                    Some(denial) => mesh.stream_refused(&peer.to_string(), &denial),
                    None => tracing::debug!(%peer, %error, "an ADS handshake failed"),
                },
                Err(_) => tracing::debug!(%peer, "an ADS handshake took too long"),
            }
            drop(permit);
        });
    }
}

/// What was wrong with a peer's certificate, if that ended a handshake.
fn denial(error: &std::io::Error) -> Option<Denial> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::NoCertificatesPresented => Some(Denial::Nothing),
        error @ rustls::Error::InvalidCertificate(_) => Some(Denial::Certificate(error.to_string())),
        _ => None,
    }
}

/// Keeps the control plane's own certificate fresh, for the trust domain in force; for ever.
pub(crate) async fn own_certificate(mesh: Arc<Mesh>, tls: watch::Sender<Option<OwnTls>>) {
    let mut changes = mesh.changes();
    let mut authority = mesh.authority.subscribe();
    let mut current: Option<(String, Instant)> = None;
    loop {
        let domain = mesh.state().config.as_ref().map(|config| config.mesh.trust_domain.clone());
        let fresh = |(of, renew_at): &(String, Instant)| Some(of) == domain.as_ref() && *renew_at > Instant::now();
        // Seldom enough, and often enough for what lasts a year. What it writes is followed.
        if let Err(error) = mesh.ca.renew_in_time() {
            tracing::error!(%error, "the intermediate could not be renewed");
        }
        if let Some(domain) = domain.clone().filter(|_| !current.as_ref().is_some_and(fresh)) {
            match mesh.authority().own_tls(&format!("spiffe://{domain}/control")) {
                Ok(own) => {
                    tls.send_replace(Some(own));
                    current = Some((domain, Authority::renew_own_at(std::time::Instant::now()).into()));
                }
                Err(error) => tracing::error!(%error, "the control plane's own certificate could not be made"),
            }
        }
        let retry = Instant::now() + Duration::from_secs(10);
        let wake = current.as_ref().map_or(retry, |(_, renew_at)| (*renew_at).max(retry));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = authority.changed() => match changed {
                Ok(()) => current = None,
                Err(_) => return,
            },
            () = sleep_until(wake) => {}
        }
    }
}
