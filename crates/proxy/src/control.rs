//! The stream from the control plane: where it connects to, and what its updates do here.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use xds::{
    client::{ClientConfig, Update},
    event::EventKind,
    snapshot::{ClusterTls, TrustBundle},
};

use crate::{
    apply::Keeper,
    certify::ControlTrust,
    lastgood::LastGood,
    state::Shared,
    tls::{self, UpstreamTls, identity::Identity},
};

/// The authority in requests to the control plane; its certificate has it as a DNS name too.
const AUTHORITY: &str = "control";

/// Starts the ADS client.
pub fn start(
    node: xds::node::NodeInfo,
    token: String,
    ads: SocketAddr,
    trust: watch::Receiver<Option<ControlTrust>>,
) -> mpsc::Receiver<Update> {
    let config = ClientConfig { node, token, authority: AUTHORITY.to_owned() };
    xds::client::start(config, move || connect(ads, trust.clone()))
}

async fn connect(
    ads: SocketAddr,
    mut trust: watch::Receiver<Option<ControlTrust>>,
) -> io::Result<TlsStream<TcpStream>> {
    // Without a certificate answer there is nobody to trust yet.
    let trusted = trust.wait_for(Option::is_some).await.map_err(io::Error::other)?.clone();
    let trusted = trusted.ok_or(io::ErrorKind::NotConnected)?;
    let roots = tls::roots(&TrustBundle { name: "control".into(), roots: trusted.roots }).map_err(io::Error::other)?;
    let relation = ClusterTls { trust: "control".into(), server_ids: vec![control_id(&trusted.spiffe_id)] };
    // The join token says who we are; the certificate is for traffic.
    let tls =
        UpstreamTls::new(Arc::new(roots), &relation, &Identity::default(), &[tls::H2]).map_err(io::Error::other)?;
    let stream = TcpStream::connect(ads).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(tls.config).connect(ServerName::IpAddress(ads.ip().into()), stream).await
}

/// `spiffe://<trust domain>/control`, from any id of the trust domain.
fn control_id(own: &str) -> String {
    let domain = own.trim_start_matches("spiffe://").split('/').next().unwrap_or_default();
    format!("spiffe://{domain}/control")
}

/// Puts an update into force.
pub fn update(shared: &Shared, keeper: &mut Keeper, last_good: &LastGood, update: Update) {
    let events = &shared.around.events;
    let now = Instant::now();
    match update {
        Update::Connected => {
            shared.connected.store(true, Ordering::Release);
            events.push(EventKind::ControlConnected);
        }
        Update::Lost { reason } => {
            shared.connected.store(false, Ordering::Release);
            events.push(EventKind::ControlLost { reason });
        }
        Update::Rejected { kind, version, reason } => {
            let reason = format!("{kind:?}: {reason}");
            events.push(EventKind::SnapshotRejected { version, reason });
        }
        Update::Snapshot { version, snapshot } => {
            // A refusal is told as an event, and what is in force stays in force.
            if keeper.snapshot(&version, snapshot.clone(), now).is_ok()
                && let Err(error) = last_good.store(&version, &snapshot)
            {
                tracing::error!(%error, "the last good snapshot could not be kept");
            }
        }
        Update::Overlays(overlays) => keeper.set_overlays(overlays, now),
        Update::Heartbeat(renewed) => keeper.heartbeat(&renewed, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_planes_id_is_of_our_trust_domain() {
        assert_eq!(control_id("spiffe://bank.example/service/fx"), "spiffe://bank.example/control");
    }
}
