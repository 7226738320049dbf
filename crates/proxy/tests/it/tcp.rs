use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use xds::snapshot::{Direction, ListenerProtocol, UpstreamProtocol};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_each_way_until_its_own_end() {
    let (mut dead, unused) = (Origin::start("dead"), Origin::start("unused"));
    dead.kill();
    let mut snapshot = simple(Direction::Outbound, &[&[&dead], &[&unused]]);
    let server = TcpListener::bind(SocketAddr::new(ip(), 9000)).await.unwrap();
    snapshot.endpoints[0].localities[1].endpoints[0].address = server.local_addr().unwrap();
    snapshot.clusters[0].protocol = UpstreamProtocol::Tcp;
    snapshot.listeners[0].protocol = ListenerProtocol::Tcp { cluster: "fx".into() };
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
    snapshot.listeners[0].protocol = ListenerProtocol::Tcp { cluster: "fx".into() };
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
