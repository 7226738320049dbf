//! Who may do what at an admin interface.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use xds::snapshot::Direction;

use crate::support::*;

/// Status and body of one request at the address, with these header lines.
fn at_address(proxy: &Proxy, request: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(proxy.admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "{request} HTTP/1.1\r\n{headers}connection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request}: {text:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_change_nothing_and_read_no_requests() {
    let origin = Origin::start("fx-1");
    let proxy = Proxy::start(&simple(Direction::Gateway, &[&[&origin]]));
    let host = format!("host: {}\r\n", proxy.admin);
    for request in
        ["POST /drain", "PUT /logging", "POST /reopen_logs", "DELETE /status", "GET /requests", "GET /requests?after=0"]
    {
        let (status, body) = at_address(&proxy, request, &host);
        assert!(status == 403 && body.contains("--unix-socket"), "{request}: {status} {body}");
    }
    for page in ["/", "/healthz", "/ready", "/status", "/clusters", "/config_dump", "/events", "/metrics"] {
        assert_eq!(at_address(&proxy, &format!("GET {page}"), &host).0, 200, "{page}");
        // A name that somebody else resolves to this address, and pages of other sites.
        let port = proxy.admin.port();
        for foreign in [
            format!("host: evil.example:{port}\r\n"),
            "host: evil.example\r\n".to_owned(),
            format!("{host}origin: http://evil.example\r\n"),
            format!("{host}origin: null\r\n"),
            format!("{host}sec-fetch-site: cross-site\r\n"),
            format!("{host}sec-fetch-site: same-site\r\n"),
        ] {
            let (status, body) = at_address(&proxy, &format!("GET {page}"), &foreign);
            assert!(
                status == 403 && body.contains("refused") | body.contains("Host"),
                "{page} {foreign}: {status} {body}"
            );
        }
    }
    assert_eq!(at_address(&proxy, &format!("GET http://evil.example{}", "/status"), &host).0, 403);
    assert_eq!(proxy.admin("/ready").unwrap().0, 200, "nobody has drained it");
    // Its own user does all of that over the socket.
    assert_eq!(proxy.admin("/requests").unwrap().0, 200);
    assert_eq!(proxy.ask("POST", "/drain", "").unwrap().0, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_keep_nobody_out() {
    let origin = Origin::start("fx-1");
    let proxy = Proxy::start(&simple(Direction::Gateway, &[&[&origin]]));
    let host = format!("host: {}\r\n", proxy.admin);
    // More than are served at once: some say nothing, some begin a request, some begin a handshake.
    let idle: Vec<TcpStream> = (0..800)
        .map(|number| {
            let mut stream = TcpStream::connect(proxy.admin).unwrap();
            let begun: &[u8] = [&b""[..], b"GET /healthz HTTP/1.1\r\nhost", &[22, 3, 1]][number % 3];
            stream.write_all(begun).unwrap();
            stream
        })
        .collect();
    assert_eq!(proxy.admin("/healthz").unwrap().0, 200, "the socket has connections of its own");
    assert_eq!(at_address(&proxy, "GET /healthz", &host).0, 200, "the oldest make room");
    drop(idle);
}
