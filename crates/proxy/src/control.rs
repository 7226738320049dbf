//! The stream from the control plane: where it connects to, and what its updates do here.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use xds::{
    client::{Client, ClientConfig, Loads, Transport, Update, Verdict},
    event::EventKind,
    overlay::{Effect, Overlay},
    snapshot::{ClusterTls, Snapshot, TrustBundle},
    spiffe::{Roots, trust_domain},
    status::ClusterStatus,
};

use crate::{
    apply::{Keeper, Refused},
    certify::ControlTrust,
    lastgood::LastGood,
    load::Meter,
    state::Shared,
    tls::{self, UpstreamTls, identity::Identity},
};

/// The authority in requests to the control plane; its certificate has it as a DNS name too.
const AUTHORITY: &str = "control";

/// What is reported of the load, by what the clusters look like now.
pub fn loads(clusters: impl Fn() -> Vec<ClusterStatus> + Send + Sync + 'static) -> Loads {
    let meter = Mutex::new(Meter::new(Instant::now()));
    Loads::new(move || meter.lock().unwrap_or_else(PoisonError::into_inner).report(&clusters(), Instant::now()))
}

/// Starts the ADS client.
pub fn start(
    node: xds::node::NodeInfo,
    ads: SocketAddr,
    transport: Transport,
    identity: Identity,
    trust: watch::Receiver<Option<ControlTrust>>,
    loads: Loads,
) -> Client {
    // Our certificate says who we are.
    let config =
        ClientConfig { node, token: String::new(), authority: AUTHORITY.to_owned(), transport, loads: Some(loads) };
    xds::client::start(config, move || connect(ads, identity.clone(), trust.clone()))
}

async fn connect(
    ads: SocketAddr,
    identity: Identity,
    mut trust: watch::Receiver<Option<ControlTrust>>,
) -> io::Result<TlsStream<TcpStream>> {
    // Without a certificate answer there is nobody to trust yet.
    let trusted = trust.wait_for(Option::is_some).await.map_err(io::Error::other)?.clone();
    let trusted = trusted.ok_or(io::ErrorKind::NotConnected)?;
    let bundle = TrustBundle { name: "control".into(), roots: trusted.roots, ..TrustBundle::default() };
    let roots = Roots::read(&bundle).map_err(io::Error::other)?;
    let relation = ClusterTls { trust: "control".into(), server_ids: vec![control_id(&trusted.spiffe_id)] };
    let tls = UpstreamTls::new(roots, &relation, &identity, &[tls::H2]).map_err(io::Error::other)?;
    let stream = TcpStream::connect(ads).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(tls.config).connect(ServerName::IpAddress(ads.ip().into()), stream).await
}

/// `spiffe://<trust domain>/control`, from any id of the trust domain.
pub fn control_id(own: &str) -> String {
    format!("spiffe://{}/control", trust_domain(own).unwrap_or_default())
}

/// How long until what could not be bound is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the control plane says while an overlay keeps us from hearing it.
#[derive(Debug, Default)]
struct Unheard {
    /// Whether the stream is up.
    connected: bool,
    snapshot: Option<(String, Arc<Snapshot>)>,
    /// Each until its lease lapses.
    overlays: Option<Vec<(Overlay, Instant)>>,
}

impl Unheard {
    /// Keeps an update for later. Renewals of leases pass, and what takes back the overlay that keeps us from hearing.
    fn keep(&mut self, update: Update, now: Instant) -> Option<Update> {
        match update {
            Update::Connected => self.connected = true,
            Update::Lost { .. } => self.connected = false,
            Update::Snapshot { version, snapshot } => self.snapshot = Some((version, snapshot)),
            Update::Overlays(overlays) if overlays.iter().any(|(overlay, _)| overlay.effect == Effect::NoControl) => {
                self.overlays = Some(overlays.into_iter().map(|(overlay, ttl)| (overlay, now + ttl)).collect());
            }
            Update::Overlays(overlays) => {
                self.overlays = None;
                return Some(Update::Overlays(overlays));
            }
            Update::Heartbeat(renewed) => {
                for (overlay, until) in self.overlays.iter_mut().flatten() {
                    if let Some((_, ttl)) = renewed.iter().find(|(id, _)| *id == overlay.id) {
                        *until = now + *ttl;
                    }
                }
                return Some(Update::Heartbeat(renewed));
            }
            Update::Rejected { .. } => return Some(update),
        }
        None
    }

    /// All that was kept and still holds.
    fn told(self, now: Instant) -> impl Iterator<Item = Update> {
        let snapshot = self.snapshot.map(|(version, snapshot)| Update::Snapshot { version, snapshot });
        let live = |(overlay, until): (Overlay, Instant)| {
            let left = until.saturating_duration_since(now);
            (!left.is_zero()).then_some((overlay, left))
        };
        let overlays = self.overlays.map(|all| Update::Overlays(all.into_iter().filter_map(live).collect()));
        self.connected.then_some(Update::Connected).into_iter().chain(snapshot).chain(overlays)
    }
}

/// Why a snapshot is not taken yet.
const CUT_OFF: &str = "cut off from the control plane by an overlay";

/// Puts updates into force, and says what became of them.
#[derive(Debug)]
pub struct Inbox {
    shared: Arc<Shared>,
    keeper: Keeper,
    last_good: LastGood,
    /// Whoever wants to know; nobody behind a file.
    verdicts: Option<mpsc::Sender<Verdict>>,
    again: Option<Again>,
    /// While an overlay cuts us off.
    unheard: Option<Unheard>,
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
        Self { shared, keeper, last_good, verdicts, again: None, unheard: None }
    }

    /// Takes an update: puts it into force, or keeps it while we are cut off.
    pub fn take(&mut self, update: Update, now: Instant) {
        let Some(unheard) = &mut self.unheard else { return self.put(update, now) };
        // The client waits for a verdict, and reads no renewals meanwhile. Another one may follow a refusal.
        let refused = if let Update::Snapshot { version, .. } = &update { Some(version.clone()) } else { None };
        let heard = unheard.keep(update, now);
        if let Some(version) = refused {
            self.tell(version, Some(CUT_OFF.to_owned()));
        }
        if let Some(update) = heard {
            self.put(update, now);
        }
    }

    /// Follows the overlays: when one cuts us off the loss is told, and when none does any more, what was said meanwhile
    /// is put into force.
    fn listen(&mut self, now: Instant) {
        match (self.keeper.cut_off_from_control(), self.unheard.take()) {
            (true, None) => {
                let connected = self.shared.connected.swap(false, Ordering::AcqRel);
                self.unheard = Some(Unheard { connected, ..Unheard::default() });
                self.shared.around.events.push(EventKind::ControlLost { reason: CUT_OFF.to_owned() });
            }
            (false, Some(unheard)) => unheard.told(now).for_each(|update| self.put(update, now)),
            (_, unheard) => self.unheard = unheard,
        }
    }

    fn put(&mut self, update: Update, now: Instant) {
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
        self.listen(now);
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
    use std::time::Duration;

    use xds::clock::Clock;

    use super::*;
    use crate::state::Setting;

    #[test]
    fn the_control_planes_id_is_of_our_trust_domain() {
        assert_eq!(control_id("spiffe://bank.example/service/fx"), "spiffe://bank.example/control");
    }

    fn overlay(id: &str, effect: Effect) -> (Overlay, Duration) {
        (Overlay { id: id.into(), reason: "test".into(), effect }, Duration::from_secs(2))
    }

    #[test]
    fn what_is_said_while_cut_off_is_heard_when_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let setting =
            Setting { name: "p".into(), service: String::new(), clock: Clock::anchored(), access: None, tracer: None };
        let shared = Arc::new(Shared::new(setting));
        let (verdicts, mut given) = mpsc::channel(8);
        let keeper = Keeper::new(shared.clone(), Vec::new());
        let mut inbox = Inbox::new(shared.clone(), keeper, LastGood::new(folder.path()), Some(verdicts));
        let start = Instant::now();
        let mut say = |at: u64, said: Option<Update>| {
            let now = start + Duration::from_secs(at);
            inbox.tick(now);
            said.into_iter().for_each(|said| inbox.take(said, now));
            inbox.tick(now);
            let state = shared.state.load();
            let ids: Vec<_> = state.overlays.iter().map(|overlay| overlay.id.clone()).collect();
            (shared.connected.load(Ordering::Acquire), state.version.clone(), ids.join(" "))
        };
        let snapshot = |version: &str| Some(Update::Snapshot { version: version.into(), snapshot: Arc::default() });
        let seen = |connected, version: &str, overlays: &str| (connected, version.to_owned(), overlays.to_owned());
        let (cut, other) = (overlay("cut", Effect::NoControl), overlay("other", Effect::Harmless));
        assert_eq!(say(0, Some(Update::Connected)), seen(true, "", ""));
        assert_eq!(say(0, snapshot("1")), seen(true, "1", ""));
        assert_eq!(say(0, Some(Update::Overlays(vec![cut.clone()]))), seen(false, "1", "cut"));
        // Neither the snapshot nor the other overlay is heard; leases are renewed.
        assert_eq!(say(0, snapshot("2")), seen(false, "1", "cut"));
        assert_eq!(say(0, Some(Update::Overlays(vec![cut.clone(), other.clone()]))), seen(false, "1", "cut"));
        let (soon, late) = (Duration::from_secs(5), Duration::from_secs(60));
        let renewed = vec![("cut".into(), soon), ("other".into(), late)];
        assert_eq!(say(1, Some(Update::Heartbeat(renewed))), seen(false, "1", "cut"));
        assert_eq!(say(5, None), seen(false, "1", "cut"));
        // The lease of what cut us off lapsed; the other's was renewed.
        assert_eq!(say(6, None), seen(true, "2", "other"));
        assert_eq!(say(6, Some(Update::Overlays(vec![cut]))), seen(false, "2", "cut"));
        assert_eq!(say(6, snapshot("3")), seen(false, "2", "cut"));
        // Taken back by the control plane.
        assert_eq!(say(6, Some(Update::Overlays(vec![other]))), seen(true, "3", "other"));
        let told: Vec<_> = std::iter::from_fn(|| given.try_recv().ok()).collect();
        let told: Vec<_> = told.iter().map(|verdict| (verdict.version.as_str(), verdict.refused.is_none())).collect();
        assert_eq!(told, [("1", true), ("2", false), ("2", true), ("3", false), ("3", true)]);
    }
}
