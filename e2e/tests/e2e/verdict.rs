//! Every way an attempt can end, with its exit code and its record.

use std::time::Duration;

use e2e::{
    mesh::{Mesh, bank},
    process::{Finished, finish, run, signal},
};
use rustix::process::Signal;
use serde_json::Value;

fn short(text: &str) -> String {
    text.replace("baseline: 8s", "baseline: 2s").replace("hold: 15s", "hold: 7s").replace("dwell: 3s", "dwell: 500ms")
}

/// The result object, which `drill run --format json` prints at its end.
fn results(finished: &Finished) -> Value {
    serde_json::from_str(&finished.out).unwrap_or_else(|e| panic!("{e}: {finished:?}"))
}

async fn drilled(gateway: &str, change: impl Fn(String) -> String) -> (Mesh, Finished) {
    let mesh = Mesh::up(bank(gateway.parse().unwrap(), |text| change(short(&text))), &[]).await;
    let drill = mesh.drill("lose-east", &[]).spawn().expect("starts");
    let finished = finish(drill, Duration::from_secs(90)).await;
    (mesh, finished)
}

async fn verifies(mesh: &Mesh) {
    let bundle = mesh.path().join("out/lose-east-1.drill");
    let verified = run(&["evidence", "verify", bundle.to_str().expect("UTF-8")], Duration::from_secs(30)).await;
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
}

#[tokio::test]
async fn a_missed_objective_fails_and_says_by_how_much() {
    // Payments need the promotion, which takes longer than this.
    let (mesh, finished) =
        drilled("127.204.1.1:8080", |text| text.replace("recoveryTime: 5s", "recoveryTime: 200ms")).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let results = results(&finished);
    assert_eq!(results["verdict"], "failed");
    let reasons = results["reasons"].to_string();
    assert!(reasons.contains("recovery") && reasons.contains("objective"), "{reasons}");
    verifies(&mesh).await;
    mesh.down().await;
}

#[tokio::test]
async fn a_tripped_guard_takes_the_fault_away_within_a_second() {
    let (mesh, finished) = drilled("127.204.2.1:8080", |text| {
        text.replace("- {at: 0s, lose: {region: east, how: kill}}", "- {at: 0s, fault: {to: accounts, abort: 500}}")
            .replace("successRate: \"< 50%\", over: 5s", "successRate: \"< 50%\", over: 1s")
    })
    .await;
    assert_eq!(finished.code, Some(3), "{finished:?}");
    let results = results(&finished);
    assert_eq!(results["verdict"], "aborted");
    let abort = results["measured"]["timeToAbort"].as_f64().expect("measured");
    println!("time to abort {abort} s");
    // The bar of the issue.
    assert!(abort > 0.0 && abort <= 1.0, "{abort}");
    assert_eq!(results["residue"]["proxies"], results["residue"]["unchanged"]);
    verifies(&mesh).await;
    mesh.down().await;
}

#[tokio::test]
async fn an_unreachable_standby_is_refused_before_any_fault() {
    let (mesh, finished) = drilled("127.204.3.1:8080", |text| {
        // The standby accepts nothing: its process only sleeps.
        text.replace("run: [firedrill, sample, ledger, --role, standby]", "address: \"127.204.3.2:9\"")
            .replace("{region: east, how: kill}", "{region: east, how: partition}")
    })
    .await;
    assert_eq!(finished.code, Some(4), "{finished:?}");
    let results = results(&finished);
    assert_eq!(results["verdict"], "refused");
    assert!(results["reasons"].to_string().contains("ledger-west-0"), "{}", results["reasons"]);
    assert!(results["timeline"].as_array().expect("a list").is_empty(), "{}", results["timeline"]);
    verifies(&mesh).await;
    mesh.down().await;
}

#[tokio::test]
async fn control_c_aborts_cleanly_and_is_sealed() {
    let mesh = Mesh::up(bank("127.204.4.1:8080".parse().unwrap(), |text| short(&text)), &[]).await;
    let drill = mesh.drill("lose-east", &[]).spawn().expect("starts");
    let pid = drill.id().expect("running");
    // In the middle of the fault: the supervisor says that processes are held.
    e2e::mesh::until(Duration::from_secs(40), async || {
        mesh.now().await["workloads"]
            .to_string()
            .contains("killed")
            .then_some(())
            .ok_or("no region is lost yet".to_owned())
    })
    .await;
    signal(pid, Signal::INT);
    let finished = finish(drill, Duration::from_secs(30)).await;
    assert_eq!(finished.code, Some(3), "{finished:?}");
    let results = results(&finished);
    assert_eq!(results["verdict"], "aborted");
    assert_eq!(results["residue"]["proxies"], results["residue"]["unchanged"]);
    verifies(&mesh).await;
    mesh.down().await;
}
