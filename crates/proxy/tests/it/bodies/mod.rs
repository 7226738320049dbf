//! Bodies through the proxy, both ways, over both protocols: the bytes that come out are those that went in.

mod transfer;

use std::{net::SocketAddr, time::Duration};

use transfer::{Pace, Protocol, Transfer};
use xds::snapshot::{Direction, Endpoint, RouteAction, UpstreamProtocol};

use crate::support::*;

async fn every_body(protocol: Protocol) {
    let endpoint = transfer::Endpoint::start(SocketAddr::new(ip(), 8080), protocol).await;
    let to = Endpoint { name: "bodies".into(), address: endpoint.address, version: "v1".into(), weight: 1 };
    let mut snapshot = plain(to, Direction::Outbound);
    if protocol == Protocol::Http2 {
        snapshot.clusters[0].protocol = UpstreamProtocol::Http2;
    }
    for route in &mut hosts(&mut snapshot)[0].routes {
        if let RouteAction::Forward(forward) = &mut route.action {
            forward.timeout = Duration::ZERO;
        }
    }
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let mut wrong = Vec::new();
    for size in [0, 1, 64 * 1024, 16 * 1024 * 1024] {
        for told in [true, false] {
            for pace in [Pace::Fast, Pace::SlowReader, Pace::SlowWriter] {
                for up in [true, false] {
                    let transfer = Transfer { size, told, pace, protocol, up };
                    wrong.extend(transfer.run(to, &endpoint).await.err());
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of 48:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_passes_over_http1() {
    every_body(Protocol::Http1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_passes_over_http2() {
    every_body(Protocol::Http2).await;
}
