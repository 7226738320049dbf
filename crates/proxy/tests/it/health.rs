use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use serde_json::json;
use xds::snapshot::{Direction, HealthCheck, UpstreamProtocol};

use crate::support::*;

fn load_of(proxy: &Proxy) -> serde_json::Value {
    proxy.status()["clusters"][0]["tierLoad"].clone()
}

/// A check that only connects, which the kernel of a frozen process still accepts.
fn connects() -> HealthCheck {
    HealthCheck { http_path: None, ..check(20) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_primary_is_not_probed_with_users_requests() {
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let mut snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    snapshot.clusters[0].health_check = Some(connects());
    // Over long before the end of the test.
    snapshot.clusters[0].outlier.as_mut().unwrap().base_ejection = Duration::from_millis(50);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let before = load(to, 200, Duration::from_secs(1), |_| {}).await;
    assert!(before.failed.is_empty(), "{before:?}");
    east.does.frozen.store(true, Ordering::SeqCst);
    let hung = load(to, 200, Duration::from_secs(1), |_| {}).await;
    assert!(hung.failed.is_empty(), "{hung:?}");
    proxy.until("ejected", |proxy| load_of(proxy) == json!([0, 100]));
    let asked = east.does.users();
    let out = load(to, 200, Duration::from_secs(1), |_| {}).await;
    assert!(out.failed.is_empty() && east.does.users() == asked, "{out:?}");
    east.does.frozen.store(false, Ordering::SeqCst);
    proxy.until("back", |proxy| load_of(proxy) == json!([100, 0]));
    let causes: Vec<_> = proxy
        .events()
        .iter()
        .filter(|event| event["kind"]["type"] == "ejected")
        .map(|event| event["kind"]["cause"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(causes, ["no answer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_asked_again_before_users_are() {
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let mut snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    snapshot.clusters[0].health_check = Some(connects());
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    east.does.status.store(503, Ordering::SeqCst);
    for _ in 0..20 {
        assert_eq!(http1(to, get("/a")).await.unwrap().status, 200);
    }
    proxy.until("asked", |_| east.does.checks.load(Ordering::SeqCst) >= 3);
    assert_eq!((east.does.users(), load_of(&proxy)), (5, json!([0, 100])), "ejected, and left alone");
    east.does.status.store(0, Ordering::SeqCst);
    proxy.until("back", |proxy| load_of(proxy) == json!([100, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_degraded_endpoint_serves_only_where_healthy_ones_do_not_suffice() {
    let [one, two, west] = ["fx-e1", "fx-e2", "fx-w"].map(Origin::start);
    one.does.degraded.store(true, Ordering::SeqCst);
    let mut snapshot = simple(Direction::Gateway, &[&[&one, &two], &[&west]]);
    snapshot.clusters[0].health_check = Some(check(20));
    let proxy = Proxy::start(&snapshot);
    // 70 % of the first tier are healthy, all of the second.
    proxy.until("spared", |proxy| load_of(proxy) == json!([70, 30]));
    west.does.status.store(500, Ordering::SeqCst);
    proxy.until("needed", |proxy| load_of(proxy) == json!([100, 0]));
}

/// A gRPC server that answers health checks with this status (or with an error above 200).
async fn grpc(status: Arc<AtomicU8>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((ip(), 8080)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let status = status.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                    let mut body = respond.send_response(head, false).unwrap();
                    let status = status.load(Ordering::SeqCst);
                    let mut trailers = HeaderMap::new();
                    let code = if status > 200 { "14" } else { "0" };
                    trailers.insert("grpc-status", code.parse().unwrap());
                    body.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).unwrap();
                    body.send_trailers(trailers).unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_health_decides() {
    let (serving, west) = (Arc::new(AtomicU8::new(1)), Origin::start("fx-w"));
    let mut snapshot = simple(Direction::Gateway, &[&[&west], &[&west]]);
    snapshot.clusters[0].protocol = UpstreamProtocol::Http2;
    snapshot.endpoints[0].localities[0].endpoints[0].address = grpc(serving.clone()).await;
    snapshot.endpoints[0].localities[0].endpoints[0].name = "fx-e".into();
    snapshot.clusters[0].health_check =
        Some(HealthCheck { http_path: None, grpc_service: Some("fx".into()), ..check(20) });
    let proxy = Proxy::start(&snapshot);
    proxy.until("the standby speaks no HTTP/2", |proxy| {
        proxy.status()["clusters"][0]["endpoints"][1]["healthy"] == false
    });
    assert_eq!(load_of(&proxy), json!([100, 0]));
    for (status, healthy) in [(2, false), (1, true), (201, false), (1, true)] {
        serving.store(status, Ordering::SeqCst);
        proxy.until("followed", |proxy| proxy.status()["clusters"][0]["endpoints"][0]["healthy"] == healthy);
    }
}
