//! Bounds of a listener on time and connections.

use std::time::Duration;

use xds::snapshot::{Direction, ListenerProtocol};

use crate::support::*;

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
