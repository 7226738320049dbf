use std::time::Duration;

use xds::snapshot::{Direction, ListenerProtocol};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_400_and_the_proxy_lives() {
    let origin = Origin::start("fx-1");
    let snapshot = simple(Direction::Gateway, &[&[&origin]]);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let cases: &[(&[u8], &str)] = &[
        (b"GET / HTTP/1.1\r\nhost: fx\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nhost: fx\r\nx: a\r\n b\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nhost: fx\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nhost: fx\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nhost: fx\r\nhost: fx\r\nconnection: close\r\n\r\n", "400"),
        (b"GET /a/../b HTTP/1.1\r\nhost: fx\r\nconnection: close\r\n\r\n", "400"),
        (b"CONNECT fx:80 HTTP/1.1\r\nhost: fx\r\nconnection: close\r\n\r\n", "501"),
        (b"\x00\x01\x02\x03\r\n\r\n", "400"),
        (b"GET\r\n\r\n", "400"),
    ];
    for (bytes, status) in cases {
        let answer = raw(to, bytes).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{:?}: {answer}", String::from_utf8_lossy(bytes));
    }
    let many = (0..200).fold(String::from("GET / HTTP/1.1\r\nhost: fx\r\n"), |text, n| text + &format!("x-{n}: 1\r\n"));
    assert!(raw(to, format!("{many}\r\n").as_bytes()).await.starts_with("HTTP/1.1 431"));
    let long = format!("GET / HTTP/1.1\r\nhost: fx\r\nx: {}\r\n\r\n", "a".repeat(100_000));
    assert!(raw(to, long.as_bytes()).await.starts_with("HTTP/1.1 431"));
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_surplus_connections_are_cut() {
    let origin = Origin::start("fx-1");
    let mut snapshot = simple(Direction::Gateway, &[&[&origin]]);
    let ListenerProtocol::Http(http) = &mut snapshot.listeners[0].protocol else { unreachable!() };
    http.limits.header_timeout = Duration::from_millis(100);
    http.limits.idle_timeout = Duration::from_millis(200);
    http.limits.connections = 2;
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    for slow in [&b""[..], b"GET", b"GET / HTTP/1.1\r\nhost: f"] {
        assert_eq!(raw(to, slow).await, "", "closed without an answer");
    }
    let kept = raw(to, b"GET / HTTP/1.1\r\nhost: fx\r\n\r\n").await;
    assert!(kept.starts_with("HTTP/1.1 200"), "answered, then closed when idle: {kept}");
    let held: Vec<_> = futures_util::future::join_all((0..2).map(|_| tokio::net::TcpStream::connect(to))).await;
    assert!(held.iter().all(Result::is_ok));
}
