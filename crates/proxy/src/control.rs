//! The stream from the control plane: where it connects to, and what its updates do here.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use xds::{
    client::{Client, ClientConfig, Update, Verdict},
    event::EventKind,
    snapshot::{ClusterTls, Snapshot, TrustBundle},
};

use crate::{
    apply::{Keeper, Refused},
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
) -> Client {
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

/// How long until what could not be bound is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Puts updates into force, and says what became of them.
#[derive(Debug)]
pub struct Inbox {
    shared: Arc<Shared>,
    keeper: Keeper,
    last_good: LastGood,
    /// Whoever wants to know; nobody behind a file.
    verdicts: Option<mpsc::Sender<Verdict>>,
    again: Option<Again>,
}

/// A snapshot whose addresses somebody else holds still.
#[derive(Debug)]
struct Again {
    version: String,
    snapshot: Arc<Snapshot>,
    at: Instant,
}

impl Inbox {
    /// Around what keeps the state.
    pub fn new(
        shared: Arc<Shared>,
        keeper: Keeper,
        last_good: LastGood,
        verdicts: Option<mpsc::Sender<Verdict>>,
    ) -> Self {
        Self { shared, keeper, last_good, verdicts, again: None }
    }

    /// Puts an update into force.
    pub fn take(&mut self, update: Update, now: Instant) {
        let events = &self.shared.around.events;
        match update {
            Update::Connected => {
                self.shared.connected.store(true, Ordering::Release);
                events.push(EventKind::ControlConnected);
            }
            Update::Lost { reason } => {
                self.shared.connected.store(false, Ordering::Release);
                events.push(EventKind::ControlLost { reason });
            }
            Update::Rejected { kind, version, reason } => {
                let reason = format!("{kind:?}: {reason}");
                events.push(EventKind::SnapshotRejected { version, reason });
            }
            Update::Snapshot { version, snapshot } => {
                let refused = self.offer(&version, snapshot, now).err();
                self.tell(version, refused);
            }
            Update::Overlays(overlays) => self.keeper.set_overlays(overlays, now),
            Update::Heartbeat(renewed) => self.keeper.heartbeat(&renewed, now),
        }
    }

    /// Does what is due: leases that lapse, addresses that may be free by now.
    pub fn tick(&mut self, now: Instant) {
        self.keeper.expire(now);
        if let Some(Again { version, snapshot, .. }) = self.again.take_if(|again| again.at <= now)
            && self.offer(&version, snapshot, now).is_ok()
        {
            self.tell(version, None);
        }
    }

    /// When to come again for [`Inbox::tick`].
    pub fn next_deadline(&self) -> Option<Instant> {
        self.keeper.next_deadline().into_iter().chain(self.again.as_ref().map(|again| again.at)).min()
    }

    /// A refusal is told as an event, and what is in force stays in force.
    fn offer(&mut self, version: &str, snapshot: Arc<Snapshot>, now: Instant) -> Result<(), String> {
        self.again = None;
        let result = self.keeper.snapshot(version, snapshot.clone(), now);
        match &result {
            Ok(()) => {
                if let Err(error) = self.last_good.store(version, &snapshot) {
                    tracing::error!(%error, "the last good snapshot could not be kept");
                }
            }
            Err(Refused::Bind { .. }) => {
                self.again = Some(Again { version: version.to_owned(), snapshot, at: now + AGAIN });
            }
            Err(_) => {}
        }
        result.map_err(|refused| refused.to_string())
    }

    fn tell(&self, version: String, refused: Option<String>) {
        let Some(verdicts) = &self.verdicts else { return };
        // The client waits for one verdict at a time, so that there is room.
        if verdicts.try_send(Verdict { version, refused }).is_err() {
            tracing::error!("the control client takes no verdicts");
        }
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
