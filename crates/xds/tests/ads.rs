//! Server and client over a loopback stream.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod fixture;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use envoy_types::pb::envoy::{
    config::{core::v3 as core, endpoint::v3::ClusterStats},
    service::load_stats::v3::{LoadStatsRequest, load_reporting_service_client::LoadReportingServiceClient},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use xds::{
    client::{self, Client, ClientConfig, Loads, Transport, Update, Verdict},
    load::{ClusterLoad, LocalityLoad},
    node::NodeInfo,
    overlay::{Effect, Overlay, Way},
    resource::ResourceKind,
    server::{self, Notice, Server},
    snapshot::Snapshot,
};

const PATIENCE: Duration = Duration::from_secs(10);

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(server: &Server, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = server.clone();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.serve(TcpListenerStream::new(listener), stopped).await.unwrap();
        });
        Self { address, stop, task }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        timeout(PATIENCE, self.task).await.expect("the server stops").unwrap();
    }
}

fn server() -> Server {
    Server::new(|credentials| match credentials.token {
        Some("secret") => Ok(credentials.node.id.clone()),
        _ => Err("wrong token".to_owned()),
    })
}

fn start_client(address: SocketAddr, token: &str) -> Client {
    start_speaking(Transport::Delta, address, token)
}

fn start_speaking(transport: Transport, address: SocketAddr, token: &str) -> Client {
    let node = NodeInfo {
        id: "gate".to_owned(),
        region: "east".to_owned(),
        admin: Some("127.0.0.9:15000".parse().unwrap()),
        agent: "firedrill 0.1.0".to_owned(),
        ..NodeInfo::default()
    };
    let (token, authority, asked) = (token.to_owned(), "control".to_owned(), AtomicU64::new(0));
    let loads = Loads::new(move || {
        let issued = 10 * asked.fetch_add(1, Ordering::SeqCst);
        let east = LocalityLoad { region: "east".to_owned(), issued, successful: issued, ..LocalityLoad::default() };
        vec![ClusterLoad { cluster: "ledger".to_owned(), interval: Duration::from_secs(1), localities: vec![east] }]
    });
    let config = ClientConfig { node, token, authority, transport, loads: Some(loads) };
    client::start(config, move || TcpStream::connect(address))
}

/// The next update; a snapshot is accepted.
async fn next(client: &mut Client) -> Update {
    let update = timeout(PATIENCE, client.updates.recv()).await.expect("an update in time").expect("the client runs");
    if let Update::Snapshot { version, .. } = &update {
        client.verdicts.send(Verdict { version: version.clone(), refused: None }).await.expect("the client runs");
    }
    update
}

async fn next_snapshot(client: &mut Client) -> (String, Arc<Snapshot>) {
    loop {
        if let Update::Snapshot { version, snapshot } = next(client).await {
            return (version, snapshot);
        }
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn sample(port: u16) -> Arc<Snapshot> {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Arc::new(fixture::gateway(at(8000), "ledger", &[at(port), at(port + 1)]))
}

fn overlay(id: &str) -> Overlay {
    Overlay {
        id: id.to_owned(),
        reason: "test".to_owned(),
        effect: Effect::CutOff { regions: vec!["east".into()], way: Way::Both },
    }
}

#[tokio::test]
async fn a_published_snapshot_and_its_update_arrive_whole() {
    use ResourceKind::{Cluster, Endpoints, Listener, Routes};
    // Only endpoints differ.
    arrive_whole(Transport::Delta, &[Endpoints]).await;
    arrive_whole(Transport::StateOfTheWorld, &[Cluster, Endpoints, Listener, Routes]).await;
}

async fn arrive_whole(transport: Transport, order: &[ResourceKind]) {
    let server = server();
    let mut notices = server.notices();
    assert_eq!(server.publish("gate", "1", sample(9000)).unwrap(), "1");
    let running = Running::start(&server, loopback()).await;
    let mut client = start_speaking(transport, running.address, "secret");
    assert_eq!(next(&mut client).await, Update::Connected);
    let (version, snapshot) = next_snapshot(&mut client).await;
    assert_eq!((version.as_str(), &snapshot), ("1", &sample(9000)));

    assert_eq!(server.publish("gate", "1", sample(9000)).unwrap(), "1", "nothing changed");
    assert_eq!(server.publish("gate", "1", sample(9100)).unwrap(), "1+1");
    let (version, snapshot) = next_snapshot(&mut client).await;
    assert_eq!((version.as_str(), &snapshot), ("1+1", &sample(9100)));

    let mut acked = Vec::new();
    while acked.len() < order.len() {
        match timeout(PATIENCE, notices.recv()).await.unwrap().unwrap() {
            Notice::Acked { kind, version, .. } if version == "1+1" => acked.push(kind),
            Notice::Acked { .. } => {}
            Notice::Connected { node, .. } => assert_eq!(node.admin, Some("127.0.0.9:15000".parse().unwrap())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(acked, order, "make before break");
    let settled = async {
        while !server.proxy("gate").unwrap().settled {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, settled).await.unwrap();
    let acked = server.proxy("gate").unwrap().acked;
    assert!(acked.iter().all(|(kind, version)| *kind == ResourceKind::Overlay || version == "1+1"), "{acked:?}");
    assert!(server.proxy("gate").unwrap().connected);
    drop(client);
    running.stop().await;
}

#[tokio::test]
async fn overlays_come_go_and_are_renewed() {
    for transport in [Transport::Delta, Transport::StateOfTheWorld] {
        come_go_and_are_renewed(transport).await;
    }
}

async fn come_go_and_are_renewed(transport: Transport) {
    let server = server();
    let running = Running::start(&server, loopback()).await;
    let mut client = start_speaking(transport, running.address, "secret");
    assert_eq!(next(&mut client).await, Update::Connected);
    assert_eq!(next(&mut client).await, Update::Overlays(Vec::new()));

    let ttl = Duration::from_secs(3);
    server.set_overlays("gate", vec![(overlay("a"), ttl), (overlay("b"), ttl)]).unwrap();
    let Update::Overlays(overlays) = next(&mut client).await else { panic!("overlays") };
    let ids: Vec<_> = overlays.iter().map(|(overlay, _)| overlay.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert!(overlays.iter().all(|(_, left)| *left <= ttl));

    server.heartbeat("gate", &[("b".to_owned(), ttl)]);
    let Update::Heartbeat(renewed) = next(&mut client).await else { panic!("a heartbeat") };
    assert_eq!(renewed.len(), 1);
    assert_eq!(renewed[0].0, "b");

    server.set_overlays("gate", vec![(overlay("b"), ttl)]).unwrap();
    let Update::Overlays(overlays) = next(&mut client).await else { panic!("overlays") };
    assert_eq!(overlays.len(), 1);
    drop(client);
    running.stop().await;
}

#[tokio::test]
async fn the_client_comes_back_to_a_restarted_server() {
    for transport in [Transport::Delta, Transport::StateOfTheWorld] {
        comes_back(transport).await;
    }
}

async fn comes_back(transport: Transport) {
    let first = server();
    first.publish("gate", "7", sample(9000)).unwrap();
    let running = Running::start(&first, loopback()).await;
    let address = running.address;
    let mut client = start_speaking(transport, address, "secret");
    next_snapshot(&mut client).await;
    running.stop().await;
    loop {
        if let Update::Lost { .. } = next(&mut client).await {
            break;
        }
    }
    let second = server();
    second.publish("gate", "8", sample(9200)).unwrap();
    let running = Running::start(&second, address).await;
    assert_eq!(next(&mut client).await, Update::Connected);
    assert_eq!(next_snapshot(&mut client).await, ("8".to_owned(), sample(9200)));
    drop(client);
    running.stop().await;
}

#[tokio::test]
async fn a_stranger_is_refused_and_told_once() {
    let server = server();
    server.publish("gate", "1", sample(9000)).unwrap();
    let running = Running::start(&server, loopback()).await;
    let mut client = start_client(running.address, "guess");
    let Update::Lost { reason } = next(&mut client).await else { panic!("lost") };
    assert!(reason.contains("wrong token"), "{reason}");
    assert!(!server.proxy("gate").unwrap().connected);
    // Further failed attempts are not told; the next thing that could be is a success.
    let silence = timeout(Duration::from_millis(500), client.updates.recv()).await;
    assert!(silence.is_err(), "{silence:?}");
    drop(client);
    running.stop().await;
}

#[tokio::test]
async fn a_proxy_that_does_not_read_delays_nobody() {
    let server = server();
    let running = Running::start(&server, loopback()).await;
    // This one says who it is and then never reads an update.
    let idle = start_client(running.address, "secret");
    let started = Instant::now();
    for round in 0..500_u16 {
        server.publish("gate", &round.to_string(), sample(10_000 + round)).unwrap();
    }
    assert!(started.elapsed() < PATIENCE, "publishing waits for nobody");
    let mut idle = idle;
    loop {
        // What was overtaken is skipped; the last one arrives.
        let (version, snapshot) = next_snapshot(&mut idle).await;
        if version == "499" {
            assert_eq!(snapshot, sample(10_499));
            break;
        }
    }
    drop(idle);
    running.stop().await;
}

#[tokio::test]
async fn load_is_reported_beside_the_configuration() {
    let admitted = |credentials: server::Credentials<'_>| match credentials.token {
        Some("secret") => Ok(credentials.node.id.clone()),
        _ => Err("wrong token".to_owned()),
    };
    let server = Server::reported_to(|_| Ok("gate".to_owned()), Duration::from_secs(1));
    let running = Running::start(&server, loopback()).await;
    server.publish("gate", "1", sample(9000)).unwrap();
    let mut client = start_client(running.address, "secret");
    next_snapshot(&mut client).await;
    let reported = async {
        loop {
            match server.loads().as_slice() {
                [load] if load.locality.issued >= 30 => return load.clone(),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let load = timeout(PATIENCE, reported).await.expect("reports");
    assert_eq!((load.proxy.as_str(), load.cluster.as_str(), load.locality.region.as_str()), ("gate", "ledger", "east"));
    assert_eq!((load.locality.successful, load.locality.errors), (load.locality.issued, 0));
    let total = server.load_totals().0[&("ledger".to_owned(), "east".to_owned())];
    assert!(total.issued >= load.locality.issued);
    drop(client);
    running.stop().await;

    // Who may not be configured may not report.
    let server = Server::reported_to(admitted, Duration::from_secs(1));
    let running = Running::start(&server, loopback()).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", running.address)).unwrap();
    let mut stranger = LoadReportingServiceClient::new(channel.connect().await.unwrap());
    let node = core::Node { id: "gate".to_owned(), ..core::Node::default() };
    let stats = ClusterStats { cluster_name: "ledger".to_owned(), ..ClusterStats::default() };
    let report = LoadStatsRequest { node: Some(node), cluster_stats: vec![stats] };
    let stream = tokio_stream::iter([report]);
    let refused = match stranger.stream_load_stats(stream).await {
        Ok(answers) => answers.into_inner().message().await.expect_err("refused"),
        Err(status) => status,
    };
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused}");
    assert_eq!(server.loads(), []);
    running.stop().await;
}
