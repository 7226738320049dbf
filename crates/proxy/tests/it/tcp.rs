use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use xds::snapshot::{
    ClusterTls, Direction, Exchange, HealthCheck, ListenerProtocol, ListenerTls, Snapshot, TrustBundle,
    UpstreamProtocol,
};

use crate::{authority::Authority, support::*};

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_each_way_until_its_own_end() {
    let (mut dead, unused) = (Origin::start("dead"), Origin::start("unused"));
    dead.kill();
    let mut snapshot = simple(Direction::Outbound, &[&[&dead], &[&unused]]);
    let server = TcpListener::bind(SocketAddr::new(ip(), 9000)).await.unwrap();
    snapshot.endpoints[0].localities[1].endpoints[0].address = server.local_addr().unwrap();
    snapshot.clusters[0].protocol = UpstreamProtocol::Tcp;
    snapshot.listeners[0].protocol = ListenerProtocol::tcp("fx");
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let serving = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let mut all = Vec::new();
        // Sees the end of the caller's half while its own is open.
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    });
    let mut stream = TcpStream::connect(to).await.unwrap();
    let sent = vec![5u8; 1_000_000];
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    assert!(received == sent, "{} bytes", received.len());
    serving.await.unwrap();
    let number = |family: &str| {
        let metrics = proxy.admin("/metrics").unwrap().1;
        let labels = ["destination_service=\"fx\"", "destination_region=\"west\"", "request_protocol=\"tcp\""];
        let fits = |line: &&str| line.starts_with(&format!("{family}{{")) && labels.iter().all(|l| line.contains(l));
        metrics.lines().find(fits).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
    };
    proxy.until("closed", |_| number("istio_tcp_connections_closed_total") == Some(1));
    assert_eq!(number("istio_tcp_connections_opened_total"), Some(1));
    assert_eq!(number("istio_tcp_received_bytes_total"), Some(1_000_000));
    assert_eq!(number("istio_tcp_sent_bytes_total"), Some(1_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_try_crosses_tiers_and_the_callers_half_stays_open() {
    let mut dead: Vec<Origin> = (0..5).map(|number| Origin::start(&format!("dead-{number}"))).collect();
    dead.iter_mut().for_each(Origin::kill);
    let stand_in = Origin::start("stand-in");
    let mut snapshot = simple(Direction::Outbound, &[&dead.iter().collect::<Vec<_>>(), &[&stand_in]]);
    let server = TcpListener::bind(SocketAddr::new(ip(), 9000)).await.unwrap();
    snapshot.endpoints[0].localities[1].endpoints[0].address = server.local_addr().unwrap();
    snapshot.clusters[0].protocol = UpstreamProtocol::Tcp;
    snapshot.clusters[0].outlier = None;
    snapshot.listeners[0].protocol = ListenerProtocol::tcp("fx");
    let _proxy = Proxy::start(&snapshot);
    let serving = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        // Ends its half first, and hears what the caller has to say all the same.
        stream.write_all(b"greetings").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        all
    });
    let mut stream = TcpStream::connect(snapshot.listeners[0].address).await.unwrap();
    let mut greetings = String::new();
    stream.read_to_string(&mut greetings).await.unwrap();
    assert_eq!(greetings, "greetings");
    stream.write_all(b"late").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(serving.await.unwrap(), "late");
}

/// How a server of lines behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Answers,
    Nothing,
    BreaksOff,
    /// As a process that is stopped, and then begins anew: who comes meanwhile is let go without an answer.
    Hangs,
}

/// What it does when a caller says goodbye.
#[derive(Clone, Copy, Debug, PartialEq)]
enum AtEnd {
    Leaves,
    Stays,
    Resets,
}

/// Answers each connection's line with its name; counts the connections.
async fn lines(name: &'static str, at_end: AtEnd) -> (SocketAddr, watch::Sender<Does>, Arc<AtomicU64>) {
    let server = TcpListener::bind(SocketAddr::new(ip(), 9000)).await.unwrap();
    let (address, does) = (server.local_addr().unwrap(), watch::Sender::new(Does::Answers));
    let (count, seen) = (Arc::new(AtomicU64::new(0)), does.subscribe());
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = server.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let mut seen = seen.clone();
            let reset = |stream: &TcpStream| socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
            tokio::spawn(async move {
                if *seen.borrow() == Does::Hangs {
                    return seen.wait_for(|does| *does != Does::Hangs).await.map(drop).ok();
                }
                if stream.read_u8().await.is_err() {
                    return match at_end {
                        AtEnd::Leaves => None,
                        AtEnd::Stays => std::future::pending().await,
                        AtEnd::Resets => reset(&stream),
                    };
                }
                let does = *seen.wait_for(|does| *does != Does::Nothing).await.ok()?;
                if does == Does::BreaksOff {
                    stream.write_all(&name.as_bytes()[..1]).await.ok()?;
                    return reset(&stream);
                }
                stream.write_all(name.as_bytes()).await.ok()
            });
        }
    });
    (address, does, count)
}

async fn ask(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(b"?").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A proxy before servers in two tiers, with what their answers take known to it.
struct Scene {
    proxy: Proxy,
    to: SocketAddr,
    /// What the primary does, and the connections that came to it.
    does: watch::Sender<Does>,
    count: Arc<AtomicU64>,
}

impl Scene {
    async fn start(at_end: AtEnd, change: impl FnOnce(&mut Snapshot)) -> Self {
        Self::start_with(at_end, None, change).await
    }

    async fn start_with(at_end: AtEnd, identity: Option<(String, String)>, change: impl FnOnce(&mut Snapshot)) -> Self {
        let (unused, other) = (Origin::start("unused"), Origin::start("other"));
        let mut snapshot = simple(Direction::Outbound, &[&[&unused], &[&other]]);
        let ((east, does, count), (west, ..)) = (lines("east", at_end).await, lines("west", at_end).await);
        snapshot.endpoints[0].localities[0].endpoints[0].address = east;
        snapshot.endpoints[0].localities[1].endpoints[0].address = west;
        snapshot.clusters[0].protocol = UpstreamProtocol::Tcp;
        snapshot.clusters[0].health_check = Some(HealthCheck { http_path: None, ..check(20) });
        snapshot.listeners[0].protocol = ListenerProtocol::tcp("fx");
        change(&mut snapshot);
        let to = snapshot.listeners[0].address;
        let scene = Self { proxy: Proxy::with_identity(&snapshot, identity), to, does, count };
        for _ in 0..200 {
            assert_eq!(ask(to).await.unwrap(), "east");
        }
        // A check of an endpoint begins when the one before is done with it, and with what it does at the end.
        scene.until_connected(5).await;
        scene
    }

    fn ejected(&self) -> bool {
        self.proxy.status()["clusters"][0]["endpoints"][0]["ejected"] == true
    }

    /// Connections of users that were sent to the primary.
    fn tries(&self) -> u64 {
        self.proxy.status()["clusters"][0]["endpoints"][0]["tries"].as_u64().unwrap()
    }

    fn told(&self, kind: &str) -> usize {
        self.proxy.events().iter().filter(|event| event["kind"]["type"] == kind).count()
    }

    /// Until this many more connections have come to the primary.
    async fn until_connected(&self, more: u64) {
        let wanted = self.count.load(Ordering::SeqCst) + more;
        tokio::task::block_in_place(|| {
            self.proxy.until("connected to", |_| self.count.load(Ordering::SeqCst) >= wanted);
        });
    }

    /// Silences the primary, and asks until others answer; those who wait still.
    async fn silence(&self, how: Does) -> tokio::task::JoinSet<std::io::Result<String>> {
        self.does.send_replace(how);
        let mut stuck = tokio::task::JoinSet::new();
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        loop {
            pace.tick().await;
            stuck.spawn(ask(self.to));
            if let Some(answered) = stuck.try_join_next() {
                assert_eq!(answered.unwrap().unwrap(), "west");
                break;
            }
            assert!(stuck.len() < 400, "nobody found out");
        }
        assert!(stuck.len() >= 5, "one silence says nothing");
        tokio::task::block_in_place(|| self.proxy.until("ejected", |_| self.told("ejected") == 1));
        stuck
    }
}

/// An ejection's time is over at once: only what is found out about the endpoint keeps it out.
fn short_ejection(snapshot: &mut Snapshot) {
    snapshot.clusters[0].outlier.as_mut().unwrap().base_ejection = Duration::from_millis(50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_connections_and_says_nothing_gets_no_more_of_them() {
    let scene = Scene::start(AtEnd::Leaves, |_| {}).await;
    let stuck = scene.silence(Does::Nothing).await;
    // The answers that were waited for prove it well.
    scene.does.send_replace(Does::Answers);
    tokio::task::block_in_place(|| scene.proxy.until("readmitted", |_| !scene.ejected()));
    for answer in stuck.join_all().await {
        assert!(["east", "west"].contains(&answer.unwrap().as_str()));
    }
    assert_eq!(ask(scene.to).await.unwrap(), "east");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_to_a_process_that_hangs_until_it_takes_leave_again() {
    nobody_is_sent_to_what_hangs(Scene::start(AtEnd::Leaves, short_ejection).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_hangs_behind_its_sidecar_is_seen_through_it() {
    let (authority, mut sidecars) = (Authority::new(), Vec::new());
    let trust = vec![TrustBundle { name: "mesh".into(), roots: authority.pem(), ..TrustBundle::default() }];
    let scene = Scene::start_with(AtEnd::Leaves, Some(authority.issue("accounts")), |snapshot| {
        short_ejection(snapshot);
        for locality in &mut snapshot.endpoints[0].localities {
            let mut inside = simple(Direction::Inbound, &[&[&Origin::start("unused")]]);
            inside.endpoints[0].localities[0].endpoints[0].address = locality.endpoints[0].address;
            inside.clusters[0].protocol = UpstreamProtocol::Tcp;
            inside.clusters[0].outlier = None;
            inside.listeners[0].protocol = ListenerProtocol::tcp("fx");
            inside.listeners[0].tls = Some(ListenerTls { trust: "mesh".into() });
            inside.trust = trust.clone();
            locality.endpoints[0].address = inside.listeners[0].address;
            sidecars.push(Proxy::with_identity(&inside, Some(authority.issue("fx"))));
        }
        let server_ids = vec![Authority::service("fx")];
        snapshot.clusters[0].tls = Some(ClusterTls { trust: "mesh".into(), server_ids });
        snapshot.trust = trust;
    });
    nobody_is_sent_to_what_hangs(scene.await).await;
}

async fn nobody_is_sent_to_what_hangs(scene: Scene) {
    let _stuck = scene.silence(Does::Hangs).await;
    let tries = scene.tries();
    scene.until_connected(4).await;
    for _ in 0..20 {
        assert_eq!(ask(scene.to).await.unwrap(), "west");
    }
    assert_eq!((scene.tries(), scene.told("readmitted")), (tries, 0), "looked at, and left alone");
    scene.does.send_replace(Does::Answers);
    tokio::task::block_in_place(|| scene.proxy.until("readmitted", |_| !scene.ejected()));
    assert_eq!(ask(scene.to).await.unwrap(), "east");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_take_leave_in_order_is_believed_when_its_time_is_over() {
    for at_end in [AtEnd::Stays, AtEnd::Resets] {
        let scene = Scene::start(at_end, short_ejection).await;
        let _stuck = scene.silence(Does::Hangs).await;
        tokio::task::block_in_place(|| scene.proxy.until("believed", |_| scene.told("readmitted") > 0));
        assert_eq!(*scene.does.borrow(), Does::Hangs);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_resets_its_connections_is_ejected() {
    let scene = Scene::start(AtEnd::Leaves, |_| {}).await;
    scene.does.send_replace(Does::BreaksOff);
    let mut broken = 0;
    while ask(scene.to).await.ok().as_deref() != Some("west") {
        broken += 1;
        assert!(broken < 20, "nobody found out");
    }
    assert!(broken >= 5, "{broken}");
    assert!(scene.ejected());
    scene.until_connected(3).await;
    assert_eq!(scene.told("readmitted"), 0, "that it takes connections, and leave, is no proof");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_resets_its_answers_is_back_when_it_answers_the_declared_question() {
    let scene = Scene::start(AtEnd::Leaves, |snapshot| {
        // Both answer with a name that has it.
        let exchange = Exchange { send: b"?".to_vec(), receive: b"st".to_vec() };
        let check = HealthCheck { http_path: None, exchange: Some(exchange), unhealthy_after: 1000, ..check(20) };
        snapshot.clusters[0].health_check = Some(check);
    })
    .await;
    scene.does.send_replace(Does::BreaksOff);
    while ask(scene.to).await.ok().as_deref() != Some("west") {}
    assert!(scene.ejected());
    // More than a second of looks: who only connects is believed by then.
    scene.until_connected(100).await;
    assert_eq!(scene.told("readmitted"), 0);
    scene.does.send_replace(Does::Answers);
    tokio::task::block_in_place(|| scene.proxy.until("readmitted", |_| !scene.ejected()));
    assert_eq!(ask(scene.to).await.unwrap(), "east");
}
