//! Changes under load: while requests come at a fixed rate, endpoints leave and come, weights and routes change, five times a
//! second; by our gateway, and by a stock Envoy in its place. `FIREDRILL_PUSH_SECS` and `FIREDRILL_PUSH_RATE` make it longer
//! and harder.

use std::{env, net::SocketAddr, str::FromStr, time::Duration};

use e2e::{
    load::{Load, failed, slowest},
    mesh::{Mesh, rows, until},
    process::signal,
};
use hyper::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::envoy;

const MOMENT: Duration = Duration::from_secs(20);
/// From one change to the next.
const EACH: Duration = Duration::from_millis(200);
/// Whose endpoint leaves and comes.
const LEAVES: &str = "rates-east-2";

/// Seconds and requests a second unless the environment says otherwise.
const SECONDS: u32 = 10;
const RATE: u32 = 400;

fn number<T: FromStr>(name: &str, otherwise: T) -> T {
    let said = env::var(name).ok();
    said.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}: `{text}` is not a number")))
}

/// Manifests in their nth form: weights of endpoints and of versions, retries, timeouts, and a route of its own for testers.
fn manifests(gateway: SocketAddr, nth: u32) -> String {
    let (weight, share, timeout) = (1 + nth % 5, 10 + nth % 80, 1500 + nth % 7 * 100);
    let testers = if nth.is_multiple_of(2) {
        "\n    - match: {headers: [{name: x-tester, exact: \"yes\"}]}\n      split: [{version: v2}]"
    } else {
        ""
    };
    format!(
        "apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {{name: push}}
spec:
  trustDomain: push.example
  regions: [east, west]
  gateways: [{{name: edge, listen: \"{gateway}\", routes: [{{service: rates}}]}}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {{name: rates}}
spec:
  protocol: http
  endpoints:
    - {{region: east, count: 3, version: v1, weight: {weight}, run: [firedrill, sample, fx]}}
    - {{region: east, version: v2, run: [firedrill, sample, fx]}}
    - {{region: west, version: v2, run: [firedrill, sample, fx]}}
  routes:{testers}
    - split: [{{version: v1, weight: {share}}}, {{version: v2, weight: {}}}]
      timeout: {timeout}ms
      responseHeaders: {{set: {{x-form: \"{nth}\"}}}}
",
        100 - share
    )
}

/// The nth change.
async fn change(mesh: &Mesh, gateway: SocketAddr, place: &Value, nth: u32) {
    let one = format!("/v1/placements/{LEAVES}");
    match nth % 4 {
        0 => mesh.ask_control(Method::DELETE, &one, None).await,
        2 => mesh.ask_control(Method::PUT, &one, Some(place)).await,
        _ => {
            let file = json!({ "path": "mesh.yaml", "text": manifests(gateway, nth) });
            let request = json!({ "files": [file], "author": "test", "message": "" });
            mesh.ask_control(Method::PUT, "/v1/config", Some(&request)).await
        }
    };
}

/// Changes under load. Answers how many there were.
async fn push(what: &str, mesh: &Mesh, gateway: SocketAddr) {
    until(MOMENT, async || match mesh.web.get(gateway, "/rates/EUR").await {
        Ok(answer) if answer.status.is_success() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let placements = mesh.control("/v1/placements").await;
    let place = rows(&placements["proxies"]).find(|p| p["proxy"] == LEAVES).expect("it is placed").clone();
    let (seconds, rate) = (number("FIREDRILL_PUSH_SECS", SECONDS), number("FIREDRILL_PUSH_RATE", RATE));
    // A multiple of four: the endpoint that leaves has come back.
    let changes = (seconds * 5).next_multiple_of(4);
    let load = Load::start(gateway, "/rates/EUR", rate);
    let mut due = tokio::time::interval(EACH);
    for nth in 0..changes {
        due.tick().await;
        change(mesh, gateway, &place, nth).await;
    }
    due.tick().await;
    let shots = load.stop().await;
    let lost = failed(&shots);
    println!(
        "{what}: {changes} changes; {} requests at {rate}/s, {} failed, slowest {:?}",
        shots.len(),
        lost.len(),
        slowest(&shots)
    );
    assert!(lost.is_empty(), "{:?}", &lost[..lost.len().min(20)]);

    let events = mesh.control("/v1/events?after=0").await;
    let refused = |entry: &&Value| {
        ["nack", "publishFailed"].iter().any(|kind| entry.to_string().contains(&format!("\"{kind}\"")))
    };
    let refused: Vec<&Value> = rows(&events["events"]).filter(refused).collect();
    assert!(refused.is_empty(), "{refused:?}");
    until(MOMENT, async || {
        let proxies = mesh.control("/v1/proxies").await;
        let behind = |proxy: &&Value| proxy["nack"] != Value::Null || proxy["inSync"] != true;
        let behind: Vec<String> = rows(&proxies).filter(behind).map(Value::to_string).collect();
        if behind.is_empty() { Ok(()) } else { Err(behind.join("; ")) }
    })
    .await;
    // What was said last is what callers get.
    let last = mesh.web.get(gateway, "/rates/EUR").await.expect("answered");
    assert_eq!(last.status, hyper::StatusCode::OK);
}

async fn up(gateway: SocketAddr, more: &[&str]) -> Mesh {
    let folder = tempfile::Builder::new().prefix("firedrill-e2e-").tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("mesh.yaml"), manifests(gateway, 0)).expect("written");
    Mesh::up(folder, more).await
}

#[tokio::test]
async fn no_change_costs_a_request() {
    let gateway = "127.233.1.1:8080".parse().unwrap();
    let mesh = up(gateway, &[]).await;
    push("ours", &mesh, gateway).await;
    mesh.down().await;
}

#[tokio::test]
async fn no_change_costs_a_request_of_a_stock_envoy() {
    let Some(envoy) = e2e::plane::envoy() else {
        println!("skipped: no Envoy; make tools");
        return;
    };
    let gateway = "127.233.2.1:8080".parse().unwrap();
    let mesh = up(gateway, &["--without", "edge"]).await;
    let mut child = envoy::start(&envoy, &mesh, "push.example").await;
    push("Envoy", &mesh, gateway).await;
    signal(child.id().expect("running"), Signal::TERM);
    tokio::time::timeout(MOMENT, child.wait()).await.expect("Envoy ends").expect("is waited for");
    mesh.down().await;
}
