//! A stock Envoy as the gateway of the mesh: configured by the control plane alone, it carries the traffic and fails over.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio, time::Duration};

use e2e::{
    load::{Load, failed, slowest},
    mesh::{Mesh, bank, rows, until},
    process::{finish, run, signal},
};
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::{Child, Command};

const MOMENT: Duration = Duration::from_secs(20);

fn short(text: &str) -> String {
    text.replace("baseline: 8s", "baseline: 2s").replace("hold: 15s", "hold: 7s").replace("dwell: 3s", "dwell: 500ms")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o777
}

/// Has the mesh write what Envoy needs, and starts it as the command says that it printed.
pub async fn start(envoy: &Path, mesh: &Mesh, trust_domain: &str) -> Child {
    let out = mesh.path().join("edge");
    let state = mesh.state();
    let (state, folder) = (state.to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let args = ["render", "--target", "envoy", "--proxy", "edge", "--state", state, "--out", folder];
    let text = run(&args, MOMENT).await;
    assert_eq!(text.code, Some(0), "{text:?}");
    assert!(text.err.is_empty(), "{}", text.err);
    let id = format!("spiffe://{trust_domain}/gateway/edge");
    for part in ["-c", "envoy.json", "not renewed by itself", &id] {
        assert!(text.out.contains(part), "no {part} in {}", text.out);
    }
    let again = run(&[&args[..], &["--format", "json"]].concat(), MOMENT).await;
    let rendered: Value = serde_json::from_str(&again.out).unwrap_or_else(|e| panic!("{e}: {again:?}"));
    assert_eq!([mode(&out.join("key.pem")), mode(&out.join("envoy.json"))], [0o600, 0o600]);
    let command: Vec<&str> = rows(&rendered["command"]).filter_map(Value::as_str).collect();
    assert_eq!(command[0], "envoy");
    let log = std::fs::File::create(mesh.path().join("envoy.log")).expect("created");
    let mut envoy = Command::new(envoy);
    envoy.args(&command[1..]).args(["--concurrency", "1", "-l", "warning"]).stdin(Stdio::null());
    envoy.stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn().expect("Envoy starts")
}

/// Envoy has everything that the control plane wants it to have, and refused nothing.
pub async fn in_sync(mesh: &Mesh) {
    let edge = until(MOMENT, async || {
        let proxies = mesh.control("/v1/proxies").await;
        let edge = rows(&proxies).find(|proxy| proxy["name"] == "edge").cloned().unwrap_or_default();
        if edge["connected"] == true && edge["inSync"] == true { Ok(edge) } else { Err(edge.to_string()) }
    })
    .await;
    assert_eq!(edge["nack"], Value::Null, "{edge}");
    for kind in ["trust", "cluster", "endpoints", "listener", "routes"] {
        assert_eq!(edge["acked"][kind], edge["published"], "{kind}: {edge}");
    }
}

#[tokio::test]
async fn a_stock_envoy_is_the_gateway_of_the_bank() {
    let Some(envoy) = e2e::plane::envoy() else {
        println!("skipped: no Envoy; make tools");
        return;
    };
    let gateway = "127.210.1.1:8080".parse().unwrap();
    let mesh = Mesh::up(bank(gateway, |text| short(&text)), &["--without", "edge"]).await;
    let edge = &mesh.report()["gateways"][0]["proxy"];
    assert_eq!((&edge["state"], &edge["pid"]), (&Value::from("external"), &Value::Null));
    let mut child = start(&envoy, &mesh, "bank.example").await;
    until(MOMENT, async || match mesh.web.get(gateway, "/accounts/42").await {
        Ok(answer) if answer.status.is_success() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    in_sync(&mesh).await;

    // What cannot be observed cannot be proved: refused before any fault, and said why.
    let drill = mesh.drill("lose-east", &["--wait", "1s"]).spawn().expect("starts");
    let drill = finish(drill, Duration::from_secs(90)).await;
    assert_eq!(drill.code, Some(4), "{drill:?}");
    let results: Value = serde_json::from_str(&drill.out).unwrap_or_else(|e| panic!("{e}: {drill:?}"));
    let reasons = results["reasons"].to_string();
    assert!(reasons.contains("edge") && reasons.contains("not a Firedrill proxy"), "{reasons}");
    assert!(rows(&results["timeline"]).next().is_none(), "{}", results["timeline"]);

    let load = Load::start(gateway, "/accounts/42", 100);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let report = mesh.hold("east", "kill", Duration::from_secs(5)).await;
    assert_eq!((report["workloads"].as_u64(), report["proxies"].as_u64()), (Some(4), Some(4)), "{report}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let shots = load.stop().await;
    // A gateway overwrites the header, so it names the endpoint that Envoy chose.
    let region = |by: &String| by.split(';').next().unwrap_or_default().to_owned();
    let regions: BTreeSet<String> = shots.iter().filter_map(|shot| shot.outcome.as_ref().ok().map(region)).collect();
    println!(
        "Envoy: {} requests, {} failed, slowest {:?}, answered by {regions:?}",
        shots.len(),
        failed(&shots).len(),
        slowest(&shots)
    );
    assert!(failed(&shots).is_empty(), "{:?}", failed(&shots));
    assert_eq!(regions, BTreeSet::from(["east".to_owned(), "west".to_owned()]));
    // The recovery controller has moved the traffic meanwhile: Envoy took that, too.
    in_sync(&mesh).await;

    signal(child.id().expect("running"), Signal::TERM);
    tokio::time::timeout(MOMENT, child.wait()).await.expect("Envoy ends").expect("is waited for");
    mesh.down().await;
}

#[tokio::test]
async fn a_proxy_to_do_without_must_be_there() {
    let folder = bank("127.210.2.1:8080".parse().unwrap(), |text| text);
    let path = folder.path().to_str().expect("UTF-8");
    let state = format!("{path}/state");
    let up = run(&["up", "-f", path, "--state", &state, "--without", "edgy"], MOMENT).await;
    assert_eq!(up.code, Some(2), "{up:?}");
    assert!(up.err.contains("edgy") && up.err.contains("edge, accounts-east-0"), "{}", up.err);
    let render = run(&["render", "--proxy", "edge", "--state", &state, "--out", &state], MOMENT).await;
    assert_eq!(render.code, Some(2), "{render:?}");
    assert!(render.err.contains("no mesh runs"), "{}", render.err);
}
