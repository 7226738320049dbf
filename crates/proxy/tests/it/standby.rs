//! Connections kept open to whoever takes over next.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::Request;
use http_body_util::Full;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use xds::snapshot::{ClusterTls, Direction, ListenerProtocol, RetryPolicy, RouteAction, Snapshot, UpstreamProtocol};

use crate::{
    authority::Authority,
    breakers::by_priority,
    identity::{inbound, outbound},
    support::*,
};

/// Stands before an endpoint, counts the connections that it takes, and can close them.
struct Door {
    address: SocketAddr,
    taken: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    passing: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Door {
    async fn before(endpoint: SocketAddr) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(ip(), 7000)).await.unwrap();
        let door = Self {
            address: listener.local_addr().unwrap(),
            taken: Arc::default(),
            open: Arc::default(),
            passing: Arc::default(),
        };
        let (taken, open, passing) = (door.taken.clone(), door.open.clone(), door.passing.clone());
        tokio::spawn(async move {
            while let Ok((mut caller, _)) = listener.accept().await {
                open.fetch_add(1, SeqCst);
                let open = open.clone();
                let pass = tokio::spawn(async move {
                    let mut there = TcpStream::connect(endpoint).await.unwrap();
                    let _ = copy_bidirectional(&mut caller, &mut there).await;
                    open.fetch_sub(1, SeqCst);
                });
                passing.lock().unwrap().push(pass);
                // Whoever sees it counted can close it.
                taken.fetch_add(1, SeqCst);
            }
        });
        door
    }

    fn taken(&self) -> usize {
        self.taken.load(SeqCst)
    }

    /// Closes all connections; done when they are closed.
    async fn close(&self) {
        let passing = std::mem::take(&mut *self.passing.lock().unwrap());
        for pass in passing {
            pass.abort();
            let _ = pass.await;
        }
    }

    fn stands_before(&self, snapshot: &mut Snapshot, tier: usize) {
        snapshot.endpoints[0].localities[tier].endpoints[0].address = self.address;
    }
}

/// Nothing is hedged, and nothing ends for taking long: only what is refused or breaks goes elsewhere.
fn patient(snapshot: &mut Snapshot) {
    let retry = RetryPolicy { per_try: None, ..retry() };
    snapshot.routes = vec![routes("fx", Some(retry), None)];
    let RouteAction::Forward(forward) = &mut hosts(snapshot)[0].routes[1].action else { unreachable!() };
    forward.timeout = Duration::from_secs(20);
    snapshot.clusters[0].connect_timeout = Duration::from_secs(5);
}

fn post() -> Request<Full<bytes::Bytes>> {
    Request::post("/").header("host", "fx").body(Full::from("x")).unwrap()
}

fn counted(proxy: &Proxy, kind: &str) -> u64 {
    let metrics = proxy.admin("/metrics").unwrap().1;
    let sample = format!("firedrill_standby_connections_total{{kind=\"{kind}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&sample)).map_or(0, |count| count.parse().unwrap())
}

/// Two tiers; the second one behind a door. Each of the two workers keeps one connection.
async fn two_tiers(east: &Origin, west: &Origin) -> (Snapshot, Door) {
    let mut snapshot = simple(Direction::Gateway, &[&[east], &[west]]);
    let door = Door::before(west.address).await;
    door.stands_before(&mut snapshot, 1);
    patient(&mut snapshot);
    snapshot.clusters[0].standby_connections = 1;
    (snapshot, door)
}

fn until(proxy: &Proxy, what: &str, holds: impl Fn(&Proxy) -> bool) {
    tokio::task::block_in_place(|| proxy.until(what, holds));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_over_http1_pays_for_no_handshake() {
    let (mut east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let (snapshot, door) = two_tiers(&east, &west).await;
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    assert_eq!(http1(to, get("/")).await.unwrap().header("x-origin"), "fx-e");
    until(&proxy, "a connection of each worker", |proxy| counted(proxy, "opened") == 2);
    assert_eq!(west.does.requests.load(SeqCst), 0, "nothing is asked over them");
    let before = proxy.status()["clusters"][0]["endpoints"][1].clone();
    assert_eq!((&before["tries"], &before["active"]), (&0.into(), &0.into()), "they are no requests");

    east.kill();
    for _ in 0..20 {
        assert_eq!(http1(to, post()).await.unwrap().header("x-origin"), "fx-w");
    }
    assert_eq!(door.taken(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_them_it_pays() {
    let (mut east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let (mut snapshot, door) = two_tiers(&east, &west).await;
    snapshot.clusters[0].standby_connections = 0;
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    assert_eq!(http1(to, get("/")).await.unwrap().header("x-origin"), "fx-e");
    east.kill();
    assert_eq!(http1(to, post()).await.unwrap().header("x-origin"), "fx-w");
    assert_eq!((door.taken(), counted(&proxy, "opened")), (1, 0), "made for the request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_between_sidecars_pays_for_no_handshake() {
    let authority = Authority::new();
    for (protocol, mutual) in
        [(UpstreamProtocol::Http1, true), (UpstreamProtocol::Http2, true), (UpstreamProtocol::Http2, false)]
    {
        let (mut east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
        let mut inside = inbound(&authority, &west);
        let ListenerProtocol::Http(http) = &mut inside.listeners[0].protocol else { unreachable!() };
        http.limits.header_timeout = Duration::from_millis(300);
        if !mutual {
            http.authorization = None;
            inside.listeners[0].tls = None;
        }
        let sidecar = Proxy::with_identity(&inside, Some(authority.issue("fx")));
        let mut beside_east = inbound(&authority, &east);
        if !mutual {
            beside_east.listeners[0].tls = None;
            let ListenerProtocol::Http(http) = &mut beside_east.listeners[0].protocol else { unreachable!() };
            http.authorization = None;
        }
        let mut other = Proxy::with_identity(&beside_east, Some(authority.issue("fx")));

        let door = Door::before(inside.listeners[0].address).await;
        let mut outside = outbound(&authority, &east, beside_east.listeners[0].address, protocol);
        outside.endpoints = vec![endpoints("fx", &[&[&east], &[&west]])];
        outside.endpoints[0].localities[0].endpoints[0].address = beside_east.listeners[0].address;
        door.stands_before(&mut outside, 1);
        patient(&mut outside);
        outside.clusters[0].standby_connections = 1;
        outside.clusters[0].tls =
            mutual.then(|| ClusterTls { trust: "mesh".into(), server_ids: vec![Authority::service("fx")] });
        let to = outside.listeners[0].address;
        let caller = Proxy::with_identity(&outside, Some(authority.issue("accounts")));
        let reply = http1(to, get("/")).await.unwrap();
        assert_eq!(reply.header("x-origin"), "fx-e", "{protocol:?} {mutual} {} {:?}", reply.status, reply.body);
        until(&caller, "a connection of each worker", |proxy| counted(proxy, "opened") == 2);

        // A stranger who says nothing is sent away when the time for a head is over; who proved to be of the mesh stays.
        assert_eq!(raw(inside.listeners[0].address, b"").await, "");
        let slow = |proxy: &Proxy| proxy.admin("/metrics").unwrap().1.contains("kind=\"slow");
        until(&sidecar, "the stranger is counted", slow);
        assert_eq!(sidecar.admin("/metrics").unwrap().1.contains("kind=\"slowHead\""), !mutual, "{protocol:?}");
        assert_eq!((door.taken(), door.open.load(SeqCst)), (2, 2), "{protocol:?} {mutual}");

        other.stop_blocking();
        east.kill();
        for _ in 0..10 {
            let reply = http1(to, post()).await.unwrap();
            assert_eq!(reply.header("x-origin"), "fx-w", "{protocol:?} {mutual} {} {:?}", reply.status, reply.body);
        }
        assert_eq!(door.taken(), 2, "{protocol:?} {mutual}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_standby_closes_is_opened_again_and_costs_no_request() {
    let (mut east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let (mut snapshot, door) = two_tiers(&east, &west).await;
    // A cluster of the same endpoints that nobody uses.
    let idle = Door::before(west.address).await;
    let mut unused = simple(Direction::Gateway, &[&[&east], &[&west]]);
    unused.clusters[0] = xds::snapshot::Cluster { name: "unused".into(), ..snapshot.clusters[0].clone() };
    unused.endpoints[0].cluster = "unused".into();
    idle.stands_before(&mut unused, 1);
    snapshot.clusters.append(&mut unused.clusters);
    snapshot.endpoints.append(&mut unused.endpoints);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    let opened = |count| {
        until(&proxy, "connections of each worker", |proxy| counted(proxy, "opened") == count);
        // The kernel takes connections before the door does.
        until(&proxy, "connections through the door", |_| door.taken() as u64 == count);
    };
    for count in [2, 4] {
        opened(count);
        door.close().await;
    }
    assert_eq!(idle.taken(), 0, "nothing for a cluster that is not used");
    opened(6);

    // Closed at the worst moment: POSTs, which may not be repeated once they are sent, meet the closed connections.
    east.kill();
    door.close().await;
    for _ in 0..10 {
        let reply = http1(to, post()).await.unwrap();
        assert_eq!((reply.status, reply.header("x-origin")), (200, "fx-w"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_connections_is_left_to_requests() {
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let (mut snapshot, door) = two_tiers(&east, &west).await;
    snapshot.clusters[0].standby_connections = 16;
    snapshot.clusters[0].breakers.connections = 6;
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    until(&proxy, "no room, and none a turn later", |proxy| counted(proxy, "noRoom") >= 3);
    assert_eq!((counted(&proxy, "opened"), door.taken()), (2, 2), "beside the one to the primary");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_priority_that_is_used_has_its_own() {
    let (mut east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let (mut snapshot, door) = two_tiers(&east, &west).await;
    by_priority(&mut snapshot);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
    for (path, count) in [("/", 1), ("/high", 2)] {
        assert_eq!(http1(to, get(path)).await.unwrap().header("x-origin"), "fx-e");
        until(&proxy, "a connection for each", |proxy| counted(proxy, "opened") == count);
    }
    east.kill();
    for path in ["/high", "/"] {
        let request = Request::post(path).header("host", "fx").body(Full::from("x")).unwrap();
        assert_eq!(http1(to, request).await.unwrap().header("x-origin"), "fx-w");
    }
    assert_eq!(door.taken(), 2);
}
