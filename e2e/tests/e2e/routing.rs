//! Routes of the shop: split, sticky, mirror, redirect, header edits; by our gateway, and by a stock Envoy in its place.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use e2e::{
    mesh::{Mesh, address, manifests, rows, until},
    process::signal,
    web::{Answer, get},
};
use hyper::{
    StatusCode,
    header::{COOKIE, LOCATION, SET_COOKIE},
};
use rustix::process::Signal;

use crate::envoy;

/// Requests of the canary route, and of visitors.
const REQUESTS: u64 = 1000;
const VISITORS: u64 = 200;
/// χ² with one degree of freedom is above it once in two million runs.
const MOST: f64 = 25.0;

async fn shop(gateway: SocketAddr, more: &[&str]) -> Mesh {
    let folder = manifests("shop", |text| text.replace("127.0.0.1:8080", &gateway.to_string()));
    Mesh::up(folder, more).await
}

async fn ask(mesh: &Mesh, gateway: SocketAddr, path: &str, header: Option<(&'static str, String)>) -> Answer {
    let mut request = get(gateway, path);
    if let Some((name, value)) = header {
        request.headers_mut().insert(name, value.parse().expect("a header's value"));
    }
    mesh.web.send(request, Duration::from_secs(5)).await.expect("answered")
}

fn version(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["version"].as_str().expect("a version").to_owned()
}

/// That a share of the answers was from v2.
fn shared(what: &str, versions: &[String], share: f64) {
    let all = versions.len() as f64;
    let seen = versions.iter().filter(|version| *version == "v2").count() as f64;
    let term = |seen: f64, expected: f64| (seen - expected).powi(2) / expected;
    let chi = term(seen, all * share) + term(all - seen, all * (1.0 - share));
    println!("{what}: {seen} of {all} from v2, χ² {chi:.1}");
    assert!(chi < MOST, "{what}: {seen} of {all} from v2, χ² {chi:.1}");
}

/// Requests that proxies of the audit let in, whoever sent them.
async fn audited(mesh: &Mesh) -> u64 {
    let mut sum = 0;
    for workload in rows(&mesh.report()["workloads"]).filter(|w| w["service"] == "audit") {
        let text = mesh.web.get(address(&workload["proxy"]["admin"]), "/metrics").await.expect("metrics");
        let text = String::from_utf8_lossy(&text.body).into_owned();
        let samples = text.lines().filter(|line| line.starts_with("istio_requests_total{"));
        sum += samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>();
    }
    sum
}

async fn routes_hold(mesh: &Mesh, gateway: SocketAddr) {
    // Where it went.
    let answer = ask(mesh, gateway, "/fx/EUR?a=b", None).await;
    assert_eq!(answer.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(answer.headers[LOCATION].to_str().unwrap(), format!("http://{gateway}/rates/EUR?a=b"));
    // Testers.
    for _ in 0..20 {
        let answer = ask(mesh, gateway, "/rates/EUR", Some(("x-tester", "yes".to_owned()))).await;
        assert_eq!((version(&answer).as_str(), answer.headers["x-variant"].to_str().unwrap()), ("v2", "tester"));
    }
    // Visitors stay where they are.
    let mut seen = BTreeMap::new();
    for visitor in (0..VISITORS).chain(0..VISITORS) {
        let cookie = ("cookie", format!("shop-variant=visitor-{visitor}"));
        let version = version(&ask(mesh, gateway, "/rates/CHF", Some(cookie)).await);
        assert_eq!(seen.entry(visitor).or_insert_with(|| version.clone()), &version, "visitor {visitor}");
    }
    shared("visitors", &seen.into_values().collect::<Vec<_>>(), 0.5);
    // The canary, and its copies.
    let before = audited(mesh).await;
    let mut versions = Vec::new();
    for _ in 0..REQUESTS {
        versions.push(version(&ask(mesh, gateway, "/rates/EUR", None).await));
    }
    shared("canary", &versions, 0.1);
    until(Duration::from_secs(20), async || match audited(mesh).await - before {
        REQUESTS => Ok(()),
        copies => Err(format!("{copies} copies of {REQUESTS} requests")),
    })
    .await;
}

#[tokio::test]
async fn a_shop_is_routed_as_its_manifest_says() {
    let gateway = "127.208.1.1:8080".parse().unwrap();
    let mesh = shop(gateway, &[]).await;
    mesh.whole().await;
    routes_hold(&mesh, gateway).await;
    // A visitor without the cookie gets one, and stays with the version that it was given.
    for _ in 0..20 {
        let first = ask(&mesh, gateway, "/rates/CHF", None).await;
        let cookie = first.headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
        assert!(cookie.starts_with("shop-variant="), "{cookie}");
        let again = ask(&mesh, gateway, "/rates/CHF", Some((COOKIE.as_str(), cookie.clone())));
        assert_eq!(version(&first), version(&again.await), "{cookie}");
    }
    mesh.down().await;
}

#[tokio::test]
async fn a_stock_envoy_routes_the_shop_alike() {
    let Some(binary) = e2e::plane::envoy() else {
        println!("skipped: no Envoy; make tools");
        return;
    };
    let gateway = "127.208.2.1:8080".parse().unwrap();
    let mesh = shop(gateway, &["--without", "edge"]).await;
    let mut child = envoy::start(&binary, &mesh, "shop.example").await;
    until(Duration::from_secs(20), async || match mesh.web.get(gateway, "/rates/EUR").await {
        Ok(answer) if answer.status.is_success() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    envoy::in_sync(&mesh).await;
    routes_hold(&mesh, gateway).await;
    signal(child.id().expect("running"), Signal::TERM);
    tokio::time::timeout(Duration::from_secs(20), child.wait()).await.expect("Envoy ends").expect("is waited for");
    mesh.down().await;
}
