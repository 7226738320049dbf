//! A real control stream: certificate, snapshot, overlays that lapse.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use proxy::{Api, ControlSource, Credentials, Drain, Options, Source};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use xds::{
    clock::Clock,
    overlay::{Delay, Effect, Fault, FaultAction, FaultMatch, Overlay, Switch, SwitchState, TlsFault, Way},
    server::Server,
    snapshot::{Cluster, Direction, PathMatch, Snapshot},
};

use crate::{authority::Authority, support::*};

/// What a control plane is to one proxy.
pub struct Control {
    pub server: Server,
    ads: SocketAddr,
    api: tempfile::TempDir,
    api_task: tokio::task::JoinHandle<()>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Control {
    pub async fn start() -> Self {
        let authority = Arc::new(Authority::new());
        let address = ip();
        let folder = tempfile::tempdir().unwrap();
        let api = xds::local::listen(&folder.path().join("control.sock")).unwrap();
        let ads = TcpListener::bind((address, 7001)).await.unwrap();
        // The handshake is refused without a certificate of the authority.
        let server = Server::new(|credentials| Ok(credentials.node.id.clone()));
        let ads_address = ads.local_addr().unwrap();
        let stop = tokio::sync::watch::Sender::new(false);
        tokio::spawn(serve_ads(server.clone(), ads, authority.clone(), stop.subscribe()));
        let api_task = tokio::spawn(serve_api(api, authority));
        Self { server, ads: ads_address, api: folder, api_task, stop }
    }

    fn die(&self) {
        self.api_task.abort();
        self.stop.send_replace(true);
    }

    pub fn options(&self, folder: &std::path::Path) -> Options {
        Options {
            name: "p1".into(),
            service: "client".into(),
            admin: SocketAddr::new(ip(), 15000),
            workers: 1,
            state: folder.to_owned(),
            source: Source::Control(ControlSource {
                ads: self.ads,
                credentials: Credentials::Signed {
                    api: Api::Socket(self.api.path().join("control.sock")),
                    token: "join".into(),
                },
                region: "east".into(),
                transport: xds::client::Transport::default(),
            }),
            access_log: None,
            trace: None,
            started: || (),
            give_back: || (),
            drain: Drain::default(),
            log: None,
            clock: Clock::anchored(),
        }
    }
}

async fn serve_ads(
    server: Server,
    listener: TcpListener,
    authority: Arc<Authority>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    let (certificate, key) = authority.issue_id("spiffe://bank.example/control");
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let callers = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(callers.build().unwrap())
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (send, receive) = tokio::sync::mpsc::channel::<std::io::Result<_>>(8);
    let accept = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if send.send(acceptor.accept(stream).await).await.is_err() {
                return;
            }
        }
    };
    let incoming = tokio_stream::wrappers::ReceiverStream::new(receive);
    let serving = server.serve(incoming, async move { drop(stop.wait_for(|stop| *stop).await) });
    tokio::select! { () = accept => {}, result = serving => result.unwrap() }
}

async fn serve_api(listener: UnixListener, authority: Arc<Authority>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let authority = authority.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let authority = authority.clone();
            async move {
                assert_eq!(request.headers()["authorization"], "Bearer join");
                let asked: serde_json::Value =
                    serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
                let id = Authority::service("accounts");
                let certificate = authority.sign(asked["csr"].as_str().unwrap(), &id);
                let given = serde_json::json!({
                    "certificate": certificate, "roots": authority.pem(), "spiffeId": id, "notBefore": 0, "notAfter": 0,
                });
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(given.to_string()))))
            }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn overlay(id: &str, effect: Effect) -> Overlay {
    Overlay { id: id.into(), reason: "test".into(), effect }
}

/// `/pinned` goes to the service in `east` only.
fn pin(snapshot: &mut Snapshot, east: &Origin) {
    let mut route = routes("fx.east", None, None).hosts[0].routes[1].clone();
    route.matches.path = PathMatch::Exact("/pinned".into());
    hosts(snapshot)[0].routes.insert(0, route);
    snapshot.clusters.push(Cluster { name: "fx.east".into(), ..cluster("fx") });
    snapshot.endpoints.push(endpoints("fx.east", &[&[east]]));
}

const TTL: Duration = Duration::from_millis(600);

#[tokio::test(flavor = "multi_thread")]
async fn overlays_hurt_lapse_and_leave_nothing_behind() {
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let mut snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    snapshot.clusters[0].health_check = Some(check(50));
    pin(&mut snapshot, &east);
    let to = snapshot.listeners[0].address;
    let control = Control::start().await;
    control.server.publish("p1", "7", Arc::new(snapshot.clone())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut proxy = Proxy::launched(control.options(folder.path()), folder);
    let before = proxy.status();
    assert_eq!((&before["snapshot"], &before["connected"]), (&"7".into(), &true.into()));
    assert_eq!(http1(to, get("/")).await.unwrap().header("x-origin"), "fx-e");

    // Abort: answered here, and gone by itself when nobody renews it, though the control plane still stands.
    let abort = Fault { matches: FaultMatch::default(), percent: 100.0, action: FaultAction::Abort { status: 418 } };
    control.server.set_overlays("p1", vec![(overlay("abort", Effect::Fault(abort)), TTL)]).unwrap();
    proxy.until("abort laid", |proxy| proxy.status()["overlays"] == serde_json::json!(["abort"]));
    assert_eq!(http1(to, get("/")).await.unwrap().status, 418);
    assert_ne!(proxy.status()["digest"], before["digest"]);
    proxy.until("lapsed", |proxy| proxy.status()["overlays"] == serde_json::json!([]));
    assert_eq!(proxy.status()["digest"], before["digest"]);
    let last = proxy.events().into_iter().rfind(|event| event["kind"]["type"] == "overlayEnded").unwrap();
    assert_eq!(last["kind"]["lapsed"], true);

    // What an endpoint of one region seems to do is survived by going to the other.
    let at_east = |action| {
        let matches = FaultMatch { service: Some("fx".into()), region: Some("east".into()), ..FaultMatch::default() };
        Effect::Fault(Fault { matches, percent: 100.0, action })
    };
    for (id, action) in [
        ("refuse", FaultAction::Refuse),
        ("reset", FaultAction::Reset),
        ("blackhole", FaultAction::Blackhole),
        ("abort-east", FaultAction::Abort { status: 503 }),
        ("abort-grpc", FaultAction::AbortGrpc { status: 14 }),
        ("dns", FaultAction::Dns),
        ("tls", FaultAction::Tls(TlsFault::Expired)),
        ("drop", FaultAction::DropConnect),
    ] {
        let long = Duration::from_secs(30);
        control.server.set_overlays("p1", vec![(overlay(id, at_east(action)), long)]).unwrap();
        proxy.until("fault laid", |proxy| proxy.status()["overlays"] == serde_json::json!([id]));
        let reply = http1(to, get("/")).await.unwrap();
        assert_eq!((reply.status, reply.header("x-origin")), (200, "fx-w"), "{id}");
    }
    let delay = at_east(FaultAction::Delay(Delay::Fixed(Duration::from_millis(100))));
    control.server.set_overlays("p1", vec![(overlay("delay", delay), Duration::from_secs(30))]).unwrap();
    proxy.until("fault laid", |proxy| proxy.status()["overlays"] == serde_json::json!(["delay"]));
    // The faults before had it ejected; checks, which no fault hurts, bring it back.
    proxy.until("trusted again", |proxy| proxy.status()["clusters"][0]["tierLoad"] == serde_json::json!([100, 0]));
    let began = Instant::now();
    let reply = http1(to, get("/")).await.unwrap();
    assert_eq!((reply.status, began.elapsed() >= Duration::from_millis(100)), (200, true));
    control.server.set_overlays("p1", vec![]).unwrap();
    proxy.until("faults gone", |proxy| proxy.status()["digest"] == before["digest"]);

    // Switch, released by the control plane.
    let off = Switch { service: "fx".into(), region: "east".into(), state: SwitchState::Off };
    control.server.set_overlays("p1", vec![(overlay("off", Effect::Switch(off)), Duration::from_secs(30))]).unwrap();
    proxy.until("shifted", |proxy| proxy.status()["clusters"][0]["tierLoad"] == serde_json::json!([0, 100]));
    assert_eq!(http1(to, get("/")).await.unwrap().header("x-origin"), "fx-w");
    // Whoever names the region has chosen it.
    let pinned = http1(to, get("/pinned")).await.unwrap();
    assert_eq!((pinned.status, pinned.header("x-origin")), (200, "fx-e"));
    control.server.set_overlays("p1", vec![]).unwrap();
    proxy.until("back", |proxy| proxy.status()["clusters"][0]["tierLoad"] == serde_json::json!([100, 0]));
    let last = proxy.events().into_iter().rfind(|event| event["kind"]["type"] == "overlayEnded").unwrap();
    assert_eq!(last["kind"]["lapsed"], false);

    // Partition: the region hangs, no idempotent request fails, and it heals when the lease ends.
    let cut = Effect::CutOff { regions: vec!["east".into()], way: Way::Both };
    control.server.set_overlays("p1", vec![(overlay("cut", cut), Duration::from_secs(30))]).unwrap();
    proxy.until("cut off", |proxy| proxy.status()["overlays"] == serde_json::json!(["cut"]));
    let reached = east.does.requests.load(Ordering::SeqCst);
    let seen = load(to, 50, Duration::from_secs(2), |_| {}).await;
    assert!(seen.all_within(Duration::from_millis(1200)), "{seen:?}");
    assert_eq!(east.does.requests.load(Ordering::SeqCst), reached, "nothing passed");
    proxy.until("detected", |proxy| proxy.status()["clusters"][0]["endpoints"][0]["healthy"] == false);

    // One way only: what east answers is lost, though it was asked.
    control.server.set_overlays("p1", vec![]).unwrap();
    proxy.until("healed", |proxy| proxy.status()["clusters"][0]["tierLoad"] == serde_json::json!([100, 0]));
    let cut = Effect::CutOff { regions: vec!["east".into()], way: Way::From };
    let reached = east.does.requests.load(Ordering::SeqCst);
    control.server.set_overlays("p1", vec![(overlay("one-way", cut), Duration::from_secs(30))]).unwrap();
    proxy.until("cut off", |proxy| proxy.status()["overlays"] == serde_json::json!(["one-way"]));
    assert_eq!(http1(to, get("/")).await.unwrap().header("x-origin"), "fx-w");
    assert!(east.does.requests.load(Ordering::SeqCst) > reached, "it was asked");

    // Cut off from the control plane: a snapshot is not heard until that is over, and traffic flows.
    control.server.set_overlays("p1", vec![(overlay("deaf", Effect::NoControl), Duration::from_secs(30))]).unwrap();
    proxy.until("deaf", |proxy| proxy.status()["connected"] == false);
    snapshot.clusters[0].connect_timeout = Duration::from_millis(400);
    control.server.publish("p1", "8", Arc::new(snapshot.clone())).unwrap();
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    assert_eq!(proxy.status()["snapshot"], "7");
    control.server.set_overlays("p1", vec![]).unwrap();
    proxy.until("heard", |proxy| proxy.status()["snapshot"] == "8" && proxy.status()["connected"] == true);

    // The control plane dies: the overlay's lease is the proxy's own affair, and traffic flows.
    control.server.set_overlays("p1", vec![]).unwrap();
    proxy.until("healed", |proxy| proxy.status()["clusters"][0]["tierLoad"] == serde_json::json!([100, 0]));
    control.die();
    proxy.until("lost", |proxy| proxy.status()["connected"] == false);
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    proxy.stop_blocking();

    // And a proxy that starts now starts from what it last knew.
    let mut options = control.options(proxy.folder.path());
    options.admin = SocketAddr::new(ip(), 15000);
    let began = Instant::now();
    let again = Proxy::launched(options, tempfile::tempdir().unwrap());
    assert_eq!(again.status()["snapshot"], "last-good");
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commanded_share_is_what_the_tier_gets_however_often_it_was_lost() {
    let control = Control::start().await;
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let mut snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    snapshot.clusters[0].health_check = Some(check(20));
    // Its own way back would take hours.
    snapshot.clusters[0].ramp = Some(xds::snapshot::Ramp { steps: vec![50, 100], dwell: Duration::from_secs(3600) });
    control.server.publish("p1", "7", Arc::new(snapshot.clone())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::launched(control.options(folder.path()), folder);
    let load = |first: u8| {
        let wanted = serde_json::json!([first, 100 - first]);
        proxy.until("load", |proxy| proxy.status()["clusters"][0]["tierLoad"] == wanted);
    };
    load(100);
    east.does.status.store(500, Ordering::SeqCst);
    load(0);
    east.does.status.store(0, Ordering::SeqCst);
    proxy.until("healthy", |proxy| proxy.status()["clusters"][0]["endpoints"][0]["healthy"] == true);
    load(0);
    let switch = |state| {
        let switch = Switch { service: "fx".into(), region: "east".into(), state };
        vec![(overlay("share", Effect::Switch(switch)), Duration::from_secs(30))]
    };
    for share in [10, 50, 100] {
        control.server.set_overlays("p1", switch(SwitchState::Share(share))).unwrap();
        load(share);
    }
    control.server.set_overlays("p1", vec![]).unwrap();
    proxy.until("command taken back", |proxy| proxy.status()["overlays"] == serde_json::json!([]));
    load(100);
    // Lost again under a commanded share, it gets nothing; without one it waits its own time.
    control.server.set_overlays("p1", switch(SwitchState::Share(50))).unwrap();
    load(50);
    east.does.status.store(500, Ordering::SeqCst);
    load(0);
    control.server.set_overlays("p1", vec![]).unwrap();
    east.does.status.store(0, Ordering::SeqCst);
    proxy.until("healthy", |proxy| proxy.status()["clusters"][0]["endpoints"][0]["healthy"] == true);
    load(0);
}
