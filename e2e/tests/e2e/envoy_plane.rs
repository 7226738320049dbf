//! Stock Envoys in place of our proxies: the same demo, leases that lapse, agents that hang, and refusals with their reasons.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use e2e::{
    mesh::{Mesh, bank, json_file, rows, until},
    plane::{DataPlane, envoy},
    process::{gone, run, signal},
    web::request,
};
use hyper::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

const MOMENT: Duration = Duration::from_secs(30);
/// Longest lease, and what is granted on top.
const BOUND: Duration = Duration::from_secs(4);

type Digests = BTreeMap<String, Result<String, String>>;

/// Asks the control plane for something that it may refuse.
async fn ask(mesh: &Mesh, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let door: Value = json_file(&mesh.state().join("run/control.json"));
    let api = e2e::mesh::address(&door["api"]);
    let mut request = request(method, api, path, body.to_string().into());
    let token = format!("Bearer {}", door["token"].as_str().expect("a token"));
    request.headers_mut().insert(hyper::header::AUTHORIZATION, token.parse().expect("a header value"));
    let answer = mesh.web.send(request, MOMENT).await.unwrap_or_else(|e| panic!("{path}: {e}"));
    (answer.status.as_u16(), answer.json())
}

/// Every proxy has what it should have, and refused nothing.
async fn in_sync(mesh: &Mesh) -> Vec<Value> {
    until(MOMENT, async || {
        let proxies = mesh.control("/v1/proxies").await;
        let behind: Vec<_> = rows(&proxies).filter(|proxy| proxy["inSync"] != true).map(Value::to_string).collect();
        if behind.is_empty() { Ok(rows(&proxies).cloned().collect()) } else { Err(behind.join("\n")) }
    })
    .await
}

async fn status_of(mesh: &Mesh, path: &str) -> Result<u16, String> {
    Ok(mesh.web.get(mesh.gateway("edge"), path).await?.status.as_u16())
}

#[tokio::test]
async fn the_demo_passes_on_stock_envoys() {
    let Some(envoy) = envoy() else {
        println!("skipped: no Envoy; make tools");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let args = ["demo", "--data-plane", "envoy", "--envoy", envoy.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let demo = run(&args, Duration::from_secs(240)).await;
    println!("{}\n{}", demo.out, demo.err);
    println!("demo on Envoys took {:?}", demo.took);
    assert_eq!(demo.code, Some(0));
    for expected in ["attempt 1", "east is lost", "recovered", "failback", "no residue", "PASSED"] {
        assert!(demo.out.contains(expected), "`{expected}` is missing");
    }
    let bundle = out.join("lose-east-1.drill");
    // The command as it was printed.
    let printed = demo.out.lines().find_map(|line| line.trim().strip_prefix("verify    firedrill ")).expect("printed");
    let verified = run(&printed.split(' ').collect::<Vec<_>>(), MOMENT).await;
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    let shown = run(&["evidence", "show", bundle.to_str().unwrap(), "--format", "json"], MOMENT).await;
    let results: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(results["verdict"], "passed");
    assert_eq!(results["residue"]["proxies"], results["residue"]["unchanged"]);
    gone(folder.path(), Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_fault_on_an_envoy_of_a_mixed_mesh_goes_with_its_lease_or_its_agent() {
    let folder = bank("127.209.1.1:8080".parse().unwrap(), |text| text);
    let Some(mesh) = Mesh::on(DataPlane::Mixed("edge,ledger-west-0"), folder).await else { return };
    let proxies = in_sync(&mesh).await;
    for proxy in &proxies {
        let program = proxy["status"]["program"].as_str().unwrap_or_default();
        let is_envoy = proxy["name"] == "edge" || proxy["name"] == "ledger-west-0";
        assert_eq!(program.starts_with("envoy "), is_envoy, "{proxy}");
        assert_eq!(proxy["nack"], Value::Null, "{proxy}");
    }
    assert_eq!(status_of(&mesh, "/accounts/42").await, Ok(200));
    let before = mesh.digests().await;
    assert!(before.values().all(Result::is_ok), "{before:?}");

    let lease = json!({"ttlMs": 3000, "reason": "e2e", "holder": "e2e"});
    assert_eq!(ask(&mesh, Method::PUT, "/v1/leases/e2e", &lease).await.0, 200);
    let overlay = |action: Value| json!({"effect": {"fault": {"match": {"service": "accounts"}, "percent": 100.0, "action": action}}});
    // What no Envoy can do is refused before anything happens, by proxy and kind.
    let (status, refusal) = ask(&mesh, Method::PUT, "/v1/leases/e2e/overlays/no", &overlay(json!("blackhole"))).await;
    let refusal = refusal.to_string();
    assert_eq!(status, 400, "{refusal}");
    assert!(refusal.contains("proxy edge") && refusal.contains("requests without an answer"), "{refusal}");
    assert_eq!(mesh.digests().await, before);

    let abort = overlay(json!({"abort": {"status": 418}}));
    let (status, laid) = ask(&mesh, Method::PUT, "/v1/leases/e2e/overlays/abort", &abort).await;
    assert_eq!(status, 200, "{laid}");
    let renewed = Instant::now();
    until(BOUND, async || match status_of(&mesh, "/accounts/42").await {
        Ok(418) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    until(BOUND, async || {
        let edge = mesh.digests().await["edge"].clone();
        if edge.is_ok() && edge != before["edge"] { Ok(()) } else { Err(format!("{edge:?}")) }
    })
    .await;
    // Nobody renews the lease: Envoy is as before by its own dump, and serves.
    until(Duration::from_secs(20), async || {
        let now = mesh.digests().await;
        if now == before { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    println!("as before {:?} after the last heartbeat", renewed.elapsed());
    until(BOUND, async || match status_of(&mesh, "/accounts/42").await {
        Ok(200) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    in_sync(&mesh).await;
    envoy_outlives_a_hung_agent(&mesh, &before, &abort).await;
    a_control_ends_though_the_agent_hangs(&mesh, &before).await;
    loads_are_told(&mesh).await;
    mesh.down().await;
}

/// The agent that would take a fault back is stopped while the lease is held: Envoy drops the fault by itself, and serves.
async fn envoy_outlives_a_hung_agent(mesh: &Mesh, before: &Digests, abort: &Value) {
    let lease = json!({"ttlMs": 3000, "reason": "e2e", "holder": "e2e"});
    assert_eq!(ask(mesh, Method::PUT, "/v1/leases/hung", &lease).await.0, 200);
    assert_eq!(ask(mesh, Method::PUT, "/v1/leases/hung/overlays/abort", abort).await.0, 200);
    let held = async || {
        assert_eq!(ask(mesh, Method::POST, "/v1/leases/hung/heartbeat", &Value::Null).await.0, 200);
        status_of(mesh, "/accounts/42").await
    };
    // For longer than any lease: heartbeats keep it.
    let laid = Instant::now();
    let mut hurt = None;
    while hurt.is_none_or(|since: Instant| since.elapsed() < 2 * BOUND) {
        match held().await {
            Ok(418) => hurt = hurt.or(Some(Instant::now())),
            other => assert!(
                hurt.is_none() && laid.elapsed() < BOUND,
                "{:?} after the fault was laid: {other:?}",
                laid.elapsed()
            ),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let agent = mesh.proxies().await.into_iter().find(|proxy| proxy.name == "edge").expect("the gateway").pid;
    signal(agent, Signal::STOP);
    let stopped = Instant::now();
    until(BOUND, async || match held().await {
        Ok(200) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    println!("Envoy served again {:?} after its agent was stopped", stopped.elapsed());
    signal(agent, Signal::CONT);
    let (status, refusal) = ask(mesh, Method::DELETE, "/v1/leases/hung", &Value::Null).await;
    assert!((200..300).contains(&status), "{status} {refusal}");
    until(Duration::from_secs(20), async || {
        let now = mesh.digests().await;
        if now == *before { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    in_sync(mesh).await;
}

/// A routing control has no guard in Envoy. The supervisor has the agent go on, and that takes the control back; requests are served
/// all the time.
async fn a_control_ends_though_the_agent_hangs(mesh: &Mesh, before: &Digests) {
    let lease = json!({"ttlMs": 3000, "reason": "e2e", "holder": "e2e"});
    assert_eq!(ask(mesh, Method::PUT, "/v1/leases/shift", &lease).await.0, 200);
    let off = json!({"effect": {"switch": {"service": "accounts", "region": "east", "state": "off"}}});
    let (status, laid) = ask(mesh, Method::PUT, "/v1/leases/shift/overlays/off", &off).await;
    assert_eq!(status, 200, "{laid}");
    until(BOUND, async || {
        ask(mesh, Method::POST, "/v1/leases/shift/heartbeat", &Value::Null).await;
        let edge = mesh.digests().await["edge"].clone();
        if edge.is_ok() && edge != before["edge"] { Ok(()) } else { Err(format!("{edge:?}")) }
    })
    .await;
    let agent = async || mesh.proxies().await.into_iter().find(|proxy| proxy.name == "edge").expect("the gateway").pid;
    let pid = agent().await;
    signal(pid, Signal::STOP);
    let stopped = Instant::now();
    until(Duration::from_secs(60), async || {
        assert_eq!(status_of(mesh, "/accounts/42").await, Ok(200));
        let now = mesh.digests().await;
        if now == *before { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    println!("the control was gone {:?} after the agent was stopped", stopped.elapsed());
    assert_eq!(agent().await, pid);
    in_sync(mesh).await;
}

/// An Envoy's load is told as one of ours is.
async fn loads_are_told(mesh: &Mesh) {
    until(Duration::from_secs(25), async || {
        status_of(mesh, "/accounts/42").await?;
        let loads = mesh.control("/v1/loads").await;
        let of = |proxy: &str, cluster: &str| {
            rows(&loads)
                .find(|load| load["proxy"] == proxy && load["cluster"] == cluster && load["region"] == "east")
                .cloned()
        };
        match (of("edge", "accounts"), of("accounts-east-0", "ledger")) {
            (Some(envoys), Some(_)) if envoys["successful"].as_u64() > Some(0) => Ok(()),
            _ => Err(loads.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_data_plane_that_cannot_be_is_refused_with_the_reason() {
    let folder = bank("127.209.2.1:8080".parse().unwrap(), |text| text);
    let path = folder.path().to_str().expect("UTF-8");
    let state = format!("{path}/state");
    let up = |more: &'static [&'static str]| {
        let args = [&["up", "-f", path, "--state", &state][..], more].concat();
        async move { run(&args, MOMENT).await }
    };
    let missing = up(&["--data-plane", "envoy", "--envoy", "/nowhere/envoy"]).await;
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert!(missing.err.contains("/nowhere/envoy") && missing.err.contains("--envoy PROGRAM"), "{}", missing.err);
    let other = up(&["--data-plane", "envoy", "--envoy", "/bin/true"]).await;
    assert_eq!(other.code, Some(2), "{other:?}");
    assert!(other.err.contains("is no Envoy"), "{}", other.err);
    let ewma = |text: String| text.replace("protocol: http\n", "protocol: http\n  balancing: {balancer: peakEwma}\n");
    let folder = bank("127.209.3.1:8080".parse().unwrap(), ewma);
    let check = run(&["check", "-f", folder.path().to_str().unwrap(), "--data-plane", "envoy"], MOMENT).await;
    assert_eq!(check.code, Some(2), "{check:?}");
    assert!(check.err.contains("proxy edge") && check.err.contains("peakEwma"), "{}", check.err);
    let ours = run(&["check", "-f", folder.path().to_str().unwrap()], MOMENT).await;
    assert_eq!(ours.code, Some(0), "{ours:?}");
}
