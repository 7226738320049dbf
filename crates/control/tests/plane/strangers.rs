//! Connections that prove nothing keep nobody out.

use std::{net::SocketAddr, time::Duration};

use control::client::read_run_file;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::rig::{LONG, MANIFEST, Plane, Proxy, apply, placements};

/// More than any of the servers takes at once. Some say nothing, some begin a handshake, some begin a request.
async fn crowd(address: SocketAddr) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for number in 0..600 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let begun: &[u8] = [&b""[..], &[22, 3, 1, 2], b"POST /v1/certificates HTTP/1.1\r\nhost"][number % 3];
        stream.write_all(begun).await.unwrap();
        crowd.push(stream);
    }
    crowd
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_nobody_out() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::start_bundle(state.path(), "127.0.0.1:0".parse().unwrap()).await;
    plane.client.apply(&apply(MANIFEST)).await.unwrap();
    plane.client.put_placements(&placements()).await.unwrap();
    let door = read_run_file(state.path()).unwrap();
    let held = [crowd(door.ads).await, crowd(door.api).await, crowd(door.bundle.unwrap()).await];
    // Well before any of them is given up for its silence.
    let soon = Duration::from_secs(4);
    let mut edge = Proxy::connect(state.path(), "edge").await;
    tokio::time::timeout(soon, edge.regions("web", &["east", "west"])).await.expect("a proxy gets its stream");
    tokio::time::timeout(soon, plane.client.proxies()).await.expect("the socket answers").unwrap();
    let ready = async {
        let mut stream = TcpStream::connect(door.api).await.unwrap();
        let request = format!("GET /readyz HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", door.api);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(soon, ready).await.expect("the address answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(held);
    tokio::time::timeout(LONG, plane.stop()).await.unwrap();
}

#[tokio::test]
async fn pages_of_others_are_refused_whatever_they_ask_for() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::start(state.path()).await;
    let door = read_run_file(state.path()).unwrap();
    let own = format!("host: {}\r\n", door.api);
    for (headers, expected) in [
        (own.clone(), "200"),
        ("host: evil.example\r\n".to_owned(), "403"),
        (format!("{own}origin: http://evil.example\r\n"), "403"),
        (format!("{own}sec-fetch-site: cross-site\r\n"), "403"),
        (format!("{own}{own}"), "200"),
        (format!("{own}host: evil.example\r\n"), "403"),
    ] {
        for path in ["/metrics", "/healthz", "/v1/leases"] {
            let mut stream = TcpStream::connect(door.api).await.unwrap();
            let token = &door.token;
            let request =
                format!("GET {path} HTTP/1.1\r\n{headers}authorization: Bearer {token}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{path} {headers}: {answer}");
        }
    }
    plane.stop().await;
}
