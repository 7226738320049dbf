//! CONNECT where it is configured: bytes both ways over HTTP/1.1 and HTTP/2, each way's end, silence, and what is refused.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use xds::snapshot::{
    Direction, Endpoint, ListenerProtocol, PathMatch, Route, RouteAction, RouteMatch, Snapshot, Tunnel,
    UpstreamProtocol,
};

use crate::{support::*, websocket::head};

/// An endpoint of bytes: says all that it was told, when that is over.
async fn bytes() -> Endpoint {
    let listener = TcpListener::bind(SocketAddr::new(ip(), 5432)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await?;
                stream.write_all(&all).await?;
                stream.write_all(b" and that is all").await
            });
        }
    });
    Endpoint { name: "db".into(), address, version: "v1".into(), weight: 1 }
}

/// `fx` is reached by CONNECT, and by nothing else.
fn tunnels(endpoint: Endpoint, idle_timeout: Duration) -> Snapshot {
    let mut snapshot = plain(endpoint, Direction::Gateway);
    snapshot.clusters[0].protocol = UpstreamProtocol::Tcp;
    let matches = RouteMatch { path: PathMatch::Connect, ..RouteMatch::default() };
    let action = RouteAction::Tunnel(Tunnel { cluster: "fx".into(), idle_timeout });
    hosts(&mut snapshot)[0].routes = vec![Route { matches, action }];
    snapshot
}

async fn opened() -> (Proxy, SocketAddr) {
    let snapshot = tunnels(bytes().await, Duration::from_secs(3600));
    (Proxy::start(&snapshot), snapshot.listeners[0].address)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_ends_on_its_own_over_http1() {
    let (proxy, to) = opened().await;
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The first bytes go with the request: they may not get lost behind the head.
    stream.write_all(b"CONNECT fx:5432 HTTP/1.1\r\nhost: fx:5432\r\n\r\nearly ").await.unwrap();
    let head = head(&mut stream).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    let large = vec![b'x'; 2_000_000];
    stream.write_all(&large).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert!(all == [&b"early "[..], &large, b" and that is all"].concat(), "{} bytes", all.len());
    let line = &proxy.log(1)[0];
    let seen = ["method", "authority", "response_code", "response_flags", "upstream_cluster"].map(|key| &line[key]);
    assert_eq!(serde_json::json!(seen), serde_json::json!(["CONNECT", "fx:5432", 200, "-", "fx"]), "{line}");
    assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&2_000_006.into(), &2_000_022.into()), "{line}");
    assert_eq!(proxy.status()["clusters"][0]["endpoints"][0]["active"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_ends_on_its_own_over_http2() {
    let (proxy, to) = opened().await;
    let stream = TcpStream::connect(to).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let (response, up) = sender.send_request(http::Request::connect("fx:5432").body(()).unwrap(), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let large = vec![b'x'; 1_000_000];
    let received = both_ways(up, response.into_body(), large.clone().into()).await;
    assert!(received == [&large, &b" and that is all"[..]].concat(), "{} bytes", received.len());
    let line = &proxy.log(1)[0];
    assert_eq!((&line["response_code"], &line["bytes_received"]), (&200.into(), &1_000_000.into()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tunnel_is_refused_and_nothing_behind_it_is_read() {
    let (proxy, to) = opened().await;
    let behind = "GET /secret HTTP/1.1\r\nhost: fx\r\n\r\n";
    for (target, more, status) in [
        // Only names of the configuration lead anywhere.
        ("127.0.0.1:5432", "", "501"),
        ("fx", "", "400"),
        ("fx:0", "", "400"),
        ("fx:5432", "content-length: 0\r\n", "400"),
        ("fx:5432", "content-length: 3\r\n", "400"),
        ("fx:5432", "transfer-encoding: chunked\r\n", "400"),
    ] {
        let asked = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n{more}\r\n{behind}");
        let answer = raw(to, asked.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{asked}{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{asked}{answer}");
        assert!(answer.contains("connection: close"), "{asked}{answer}");
    }
    assert_eq!(http1(to, get("/")).await.unwrap().status, 404);
    assert_eq!(proxy.log(7).len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_not_there_is_told() {
    let mut dead = Origin::start("dead");
    dead.kill();
    let snapshot = tunnels(dead.endpoint(), Duration::ZERO);
    let proxy = Proxy::start(&snapshot);
    let answer = raw(snapshot.listeners[0].address, b"CONNECT fx:1 HTTP/1.1\r\nhost: fx:1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(proxy.log(1)[0]["response_flags"], "UF");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_tunnel() {
    let snapshot = tunnels(bytes().await, Duration::from_millis(300));
    let proxy = Proxy::start(&snapshot);
    let mut stream = TcpStream::connect(snapshot.listeners[0].address).await.unwrap();
    stream.write_all(b"CONNECT fx:5432 HTTP/1.1\r\nhost: fx:5432\r\n\r\n").await.unwrap();
    assert!(head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 "));
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut rest)).await.expect("closed").unwrap();
    assert!(rest.is_empty());
    assert_eq!(proxy.log(1)[0]["response_flags"], "SI");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_plain_bytes() {
    let mut snapshot = plain(bytes().await, Direction::Outbound);
    snapshot.clusters[0].protocol = UpstreamProtocol::Tcp;
    let idle_timeout = Duration::from_millis(300);
    snapshot.listeners[0].protocol = ListenerProtocol::Tcp { cluster: "fx".into(), idle_timeout };
    let _proxy = Proxy::start(&snapshot);
    let mut stream = TcpStream::connect(snapshot.listeners[0].address).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let mut rest = Vec::new();
    // The end, or a reset: the endpoint said nothing.
    let ended = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && rest.is_empty(), "never closed");
}
