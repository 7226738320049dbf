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
use xds::snapshot::{Direction, HealthCheck, ListenerProtocol, UpstreamProtocol};

use crate::support::*;

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
}

/// Answers each connection's line with its name; counts the connections.
async fn lines(name: &'static str) -> (SocketAddr, watch::Sender<Does>, Arc<AtomicU64>) {
    let server = TcpListener::bind(SocketAddr::new(ip(), 9000)).await.unwrap();
    let (address, does) = (server.local_addr().unwrap(), watch::Sender::new(Does::Answers));
    let (count, seen) = (Arc::new(AtomicU64::new(0)), does.subscribe());
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = server.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let mut seen = seen.clone();
            tokio::spawn(async move {
                stream.read_u8().await.ok()?;
                let does = *seen.wait_for(|does| *does != Does::Nothing).await.ok()?;
                if does == Does::BreaksOff {
                    stream.write_all(&name.as_bytes()[..1]).await.ok()?;
                    return socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok();
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

async fn two_tiers() -> (Proxy, SocketAddr, watch::Sender<Does>, Arc<AtomicU64>) {
    let (unused, other) = (Origin::start("unused"), Origin::start("other"));
    let mut snapshot = simple(Direction::Outbound, &[&[&unused], &[&other]]);
    let ((east, does, count), (west, ..)) = (lines("east").await, lines("west").await);
    snapshot.endpoints[0].localities[0].endpoints[0].address = east;
    snapshot.endpoints[0].localities[1].endpoints[0].address = west;
    snapshot.clusters[0].protocol = UpstreamProtocol::Tcp;
    snapshot.clusters[0].health_check = Some(HealthCheck { http_path: None, ..check(20) });
    snapshot.listeners[0].protocol = ListenerProtocol::tcp("fx");
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    // What answers usually take is known.
    for _ in 0..200 {
        assert_eq!(ask(to).await.unwrap(), "east");
    }
    (proxy, to, does, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_connections_and_says_nothing_gets_no_more_of_them() {
    let (proxy, to, does, _) = two_tiers().await;
    does.send_replace(Does::Nothing);
    let mut stuck = tokio::task::JoinSet::new();
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    loop {
        pace.tick().await;
        stuck.spawn(ask(to));
        if let Some(answered) = stuck.try_join_next() {
            assert_eq!(answered.unwrap().unwrap(), "west");
            break;
        }
        assert!(stuck.len() < 400, "nobody found out");
    }
    assert!(stuck.len() >= 5, "one silence says nothing");
    let ejected = |proxy: &Proxy| proxy.status()["clusters"][0]["endpoints"][0]["ejected"] == true;
    tokio::task::block_in_place(|| proxy.until("ejected", ejected));
    // The answers that were waited for prove it well.
    does.send_replace(Does::Answers);
    tokio::task::block_in_place(|| proxy.until("readmitted", |proxy| !ejected(proxy)));
    for answer in stuck.join_all().await {
        assert!(["east", "west"].contains(&answer.unwrap().as_str()));
    }
    assert_eq!(ask(to).await.unwrap(), "east");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_resets_its_connections_is_ejected() {
    let (proxy, to, does, count) = two_tiers().await;
    does.send_replace(Does::BreaksOff);
    let mut broken = 0;
    while ask(to).await.ok().as_deref() != Some("west") {
        broken += 1;
        assert!(broken < 20, "nobody found out");
    }
    assert!(broken >= 5, "{broken}");
    assert_eq!(proxy.status()["clusters"][0]["endpoints"][0]["ejected"], true);
    let before = count.load(Ordering::SeqCst);
    tokio::task::block_in_place(|| proxy.until("checked", |_| count.load(Ordering::SeqCst) > before + 2));
    let early = proxy.events().iter().filter(|event| event["kind"]["type"] == "readmitted").count();
    assert_eq!(early, 0, "that it takes connections is no proof");
}
