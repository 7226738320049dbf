//! ADS over TLS: accepts, shakes hands (bounded in number and time; strangers cannot keep proxies out), and hands ready streams
//! to the xDS server.

use std::{sync::Arc, time::Duration};

use model::config::Identity;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use xds::{arrivals::Arrivals, svid::Svid};

use crate::{
    authority::{Authority, OwnTls},
    compile::control_id,
    denial::Denial,
    mesh::Mesh,
};

/// Handshakes at once. A newcomer beyond that ends the oldest one of the source with the most.
const HANDSHAKES: usize = 256;
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
    let arrivals = Arrivals::new(HANDSHAKES);
    loop {
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
        let arrival = arrivals.admit(peer.ip());
        tokio::spawn(async move {
            let handshake = async {
                stream.set_nodelay(true)?;
                TlsAcceptor::from(config).accept(stream).await
            };
            let shaken = tokio::select! {
                shaken = timeout(HANDSHAKE_LIMIT, handshake) => shaken,
                () = arrival.shed() => return,
            };
            drop(arrival);
            match shaken {
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

/// Keeps the control plane's own certificate fresh, for the trust domain in force; for ever. One that another authority issues
/// is used as it comes.
pub(crate) async fn own_certificate(
    mesh: Arc<Mesh>,
    mut issued: watch::Receiver<Option<Svid>>,
    tls: watch::Sender<Option<OwnTls>>,
) {
    let mut changes = mesh.changes();
    let mut authority = mesh.authority.subscribe();
    let mut current: Option<(Wanted, Instant)> = None;
    loop {
        let wanted = mesh.state().config.as_ref().map(|config| match config.mesh.identity {
            Identity::Builtin => Wanted::Signed(control_id(config)),
            _ => Wanted::Issued(issued.borrow().clone()),
        });
        let fresh = |(of, renew_at): &(Wanted, Instant)| Some(of) == wanted.as_ref() && *renew_at > Instant::now();
        // Seldom enough, and often enough for what lasts a year. What it writes is followed.
        if let Err(error) = mesh.ca.renew_in_time() {
            tracing::error!(%error, "the intermediate could not be renewed");
        }
        if let Some(wanted) = wanted.clone().filter(|_| !current.as_ref().is_some_and(fresh)) {
            let made = match &wanted {
                Wanted::Signed(id) => mesh.authority().own_tls(id).map(Some),
                Wanted::Issued(svid) => svid.as_ref().map(OwnTls::issued).transpose(),
            };
            match made {
                Ok(own) => {
                    tls.send_replace(own);
                    current = Some((wanted, Authority::renew_own_at(std::time::Instant::now()).into()));
                }
                Err(error) => tracing::error!(%error, "the control plane's own certificate cannot be used"),
            }
        }
        let retry = Instant::now() + Duration::from_secs(10);
        let wake = current.as_ref().map_or(retry, |(_, renew_at)| (*renew_at).max(retry));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            issued = issued.changed() => if issued.is_err() { return },
            authority = authority.changed() => match authority {
                Ok(()) => current = None,
                Err(_) => return,
            },
            () = sleep_until(wake) => {}
        }
    }
}

/// Whose certificate the control plane presents.
#[derive(Clone, PartialEq, Eq)]
enum Wanted {
    /// Of this id, by our authority.
    Signed(String),
    /// As another authority issued it; `None`: it did not yet.
    Issued(Option<Svid>),
}
