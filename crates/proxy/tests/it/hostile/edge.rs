//! What callers say about themselves: at the edge it is replaced, under whatever spelling, over both protocols.

use std::net::SocketAddr;

use xds::snapshot::Direction;

use super::{
    frames::{self, HEADERS, Peer},
    recorder::{Recorder, Reply},
    requests::{Cut, talk},
    wire::Message,
};
use crate::support::*;

/// What a stranger claims, in lower case as HTTP/2 wants it.
const CLAIMS: &[(&str, &str)] = &[
    ("x-forwarded-for", "6.6.6.6"),
    ("x-forwarded-for", "7.7.7.7, 8.8.8.8"),
    ("x_forwarded_for", "6.6.6.6"),
    ("x-forwarded_for", "6.6.6.6"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "admin"),
    ("x-forwarded-port", "443"),
    ("x-forwarded-prefix", "/admin"),
    ("x-forwarded-user", "admin"),
    ("x-forwarded-client-cert", "URI=spiffe://bank.example/service/admin"),
    ("x-forwarded-client-cert", "Hash=00"),
    ("x_forwarded_client_cert", "URI=spiffe://bank.example/service/admin"),
    ("x-forwarded_client-cert", "URI=spiffe://bank.example/service/admin"),
    ("client-cert", ":AAAA:"),
    ("client_cert", ":AAAA:"),
    ("client-cert-chain", ":AAAA:"),
    ("forwarded", "for=6.6.6.6;proto=https"),
    ("x-real-ip", "6.6.6.6"),
    ("x-request-id", "mine"),
    ("x-envoy-external-address", "6.6.6.6"),
    ("x-envoy-internal", "true"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    ("x-envoy-expected-rq-timeout-ms", "1"),
    ("x-firedrill-answered-by", "me"),
];

async fn over_http1(to: SocketAddr, headers: &[(&str, &str)]) -> String {
    let lines: String = headers.iter().map(|(name, value)| format!("{}: {value}\r\n", title(name))).collect();
    let request = format!("GET /x HTTP/1.1\r\nHost: fx\r\nConnection: close\r\n{lines}\r\n");
    String::from_utf8(talk(to, request.as_bytes(), Cut::Whole, false).await.unwrap()).unwrap()
}

/// `x-y` as `X-Y`: names have no case.
fn title(name: &str) -> String {
    let mut upper = true;
    name.chars()
        .map(|c| {
            let c = if upper { c.to_ascii_uppercase() } else { c };
            upper = matches!(c, '-' | '_');
            c
        })
        .collect()
}

async fn over_http2(to: SocketAddr, headers: &[(&str, &str)]) {
    let mut peer = Peer::greeted(to).await;
    assert!(peer.write(&frames::get(1, headers)).await);
    while peer.next().await.expect("an answer").kind != HEADERS {}
}

/// What arrives of these headers, over each protocol.
async fn arrives(direction: Direction, headers: &[(&str, &str)]) -> [Message; 2] {
    let recorder = Recorder::start(Reply::ok).await;
    let snapshot = plain(recorder.endpoint(), direction);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    over_http1(to, headers).await;
    over_http2(to, headers).await;
    let mut arrived = recorder.arrived().into_iter().map(|arrived| arrived.message);
    [arrived.next().unwrap(), arrived.next().unwrap()]
}

fn names(message: &Message) -> Vec<&str> {
    let mut names: Vec<&str> = message.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_replaces_what_strangers_say_about_themselves() {
    for message in arrives(Direction::Gateway, CLAIMS).await {
        assert_eq!(names(&message), ["host", "x-forwarded-for", "x-forwarded-proto", "x-request-id"], "{message:?}");
        assert_eq!(message.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(message.all("x-forwarded-proto"), ["http"]);
        let id = message.all("x-request-id")[0];
        assert!(id.len() == 36 && id != "mine", "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn within_the_mesh_only_the_certificate_cannot_be_claimed() {
    for direction in [Direction::Outbound, Direction::Inbound] {
        for message in arrives(direction, CLAIMS).await {
            assert!(!names(&message).iter().any(|name| name.replace('_', "-") == "x-forwarded-client-cert"));
            assert_eq!(message.all("x-request-id"), ["mine"], "a request keeps its id on its way");
            assert!(message.all("x-forwarded-for").contains(&"6.6.6.6"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_has_a_bound() {
    let long = "x".repeat(4000);
    for message in arrives(Direction::Outbound, &[("x-request-id", &long)]).await {
        assert_eq!(message.all("x-request-id").iter().map(|id| id.len()).collect::<Vec<_>>(), [36]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_proxy_says_cannot_be_taken_away_as_a_neighbours_affair() {
    let recorder = Recorder::start(Reply::ok).await;
    let snapshot = plain(recorder.endpoint(), Direction::Gateway);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let named = "close, x-forwarded-for, x-forwarded-proto, x-request-id, host, content-length, transfer-encoding";
    let request = format!("POST /x HTTP/1.1\r\nhost: fx\r\nconnection: {named}\r\ncontent-length: 2\r\n\r\nok");
    talk(to, request.as_bytes(), Cut::Whole, false).await.unwrap();
    let [arrived] = &recorder.arrived()[..] else { panic!("one request") };
    for name in ["host", "x-forwarded-for", "x-forwarded-proto", "x-request-id"] {
        assert_eq!(arrived.message.all(name).len(), 1, "{name}");
    }
    assert_eq!(arrived.message.body, b"ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_cannot_claim_to_be_another() {
    let recorder = Recorder::start(|_| Reply {
        bytes: b"HTTP/1.1 200 OK\r\nx-firedrill-answered-by: west;fx-w;v1;tries=1\r\ncontent-length: 0\r\n\r\n"
            .to_vec(),
        close: false,
    })
    .await;
    let snapshot = plain(recorder.endpoint(), Direction::Gateway);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    assert!(!over_http1(to, &[]).await.contains("answered-by"), "nobody asked");
    let asked = over_http1(to, &[("x-firedrill-probe", "p")]).await;
    assert!(asked.contains("x-firedrill-answered-by: east;recorder;v1;tries=1\r\n"), "{asked}");
    assert!(!asked.contains("west"), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_came_in_pieces_arrives_as_one() {
    let [_, message] = arrives(Direction::Gateway, &[("cookie", "a=b"), ("cookie", "c=d")]).await;
    assert_eq!(message.all("cookie"), ["a=b; c=d"], "RFC 9113, 8.2.3");
}
