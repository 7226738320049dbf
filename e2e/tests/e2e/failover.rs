//! The primary region dies under load; clients do not notice.

use std::{collections::BTreeSet, time::Duration};

use e2e::{
    load::{Load, Shot, failed, slowest},
    mesh::{Mesh, bank, rows, until},
};
use serde_json::{Value, json};

/// Idempotent reads at 200 a second through the gateway while `east` is held down for five seconds, comes back, and is
/// given its traffic again. Nobody holds a lease, so the recovery controller takes it for a real disaster.
async fn reads_while_east_is(how: &str, gateway: &str) -> (Vec<Shot>, BTreeSet<String>) {
    let gateway = gateway.parse().unwrap();
    let mesh = Mesh::up(bank(gateway, |text| text), &[]).await;
    // Right after a start, a region that is away is no disaster yet.
    plan(&mesh, "armed", &json!(true)).await;
    let load = Load::start(gateway, "/accounts/42", 200);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let report = mesh.hold("east", how, Duration::from_secs(5)).await;
    assert_eq!((report["workloads"].as_u64(), report["proxies"].as_u64()), (Some(4), Some(4)), "{report}");
    mesh.whole().await;
    state(&mesh, "failedOver").await;
    mesh.tell_control("/v1/recovery/bank-west/failback", &json!({"reason": "east is back"})).await;
    state(&mesh, "normal").await;
    back_in_east(&mesh).await;
    let shots = load.stop().await;
    let regions = shots
        .iter()
        .filter_map(|s| s.outcome.as_ref().ok())
        .map(|by| by.split(';').next().unwrap_or_default().to_owned())
        .collect();
    mesh.down().await;
    println!(
        "{how}: {} requests, {} failed, slowest {:?}, answered by {regions:?}",
        shots.len(),
        failed(&shots).len(),
        slowest(&shots)
    );
    (shots, regions)
}

/// Waits until the plan of the bank is in this state.
async fn state(mesh: &Mesh, wanted: &str) {
    plan(mesh, "state", &json!(wanted)).await;
}

/// Waits until the plan of the bank says this.
async fn plan(mesh: &Mesh, field: &str, wanted: &Value) {
    until(Duration::from_secs(30), async || {
        let plans = mesh.control("/v1/recovery").await;
        let plan = rows(&plans).find(|p| p["plan"] == "bank-west").expect("the plan");
        if plan[field] == *wanted { Ok(()) } else { Err(plan.to_string()) }
    })
    .await;
}

/// Waits until east has all of the traffic again: proxies give it back by a ramp.
async fn back_in_east(mesh: &Mesh) {
    let gateway = mesh.gateway("edge");
    until(Duration::from_secs(40), async || {
        for _ in 0..20 {
            let by = mesh.web.get(gateway, "/accounts/42").await?.answered_by.unwrap_or_default();
            if !by.starts_with("east;") {
                return Err(format!("answered by {by}"));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn no_read_fails_while_the_primary_region_comes_and_goes() {
    let gateway = "127.201.3.1:8080".parse().unwrap();
    // Nothing is shifted: east is first choice again as soon as it is back.
    let by_hand = |text: String| text.replace("{automatic: {unhealthyFor: 1s}}", "manual");
    let mesh = Mesh::up(bank(gateway, by_hand), &[]).await;
    let load = Load::start(gateway, "/accounts/42", 200);
    for how in ["kill", "pause", "kill", "pause"] {
        tokio::time::sleep(Duration::from_secs(2)).await;
        mesh.hold("east", how, Duration::from_millis(700)).await;
        mesh.whole().await;
    }
    back_in_east(&mesh).await;
    let shots = load.stop().await;
    mesh.down().await;
    println!("{} requests, {} failed, slowest {:?}", shots.len(), failed(&shots).len(), slowest(&shots));
    assert!(failed(&shots).is_empty(), "{:?}", failed(&shots));
}

#[tokio::test]
async fn no_read_fails_when_the_primary_region_is_killed() {
    let (shots, regions) = reads_while_east_is("kill", "127.201.1.1:8080").await;
    assert!(failed(&shots).is_empty(), "{:?}", failed(&shots));
    assert!(regions.contains("east") && regions.contains("west"), "{regions:?}");
}

#[tokio::test]
async fn no_read_fails_when_the_primary_region_hangs() {
    let (shots, regions) = reads_while_east_is("pause", "127.201.2.1:8080").await;
    assert!(failed(&shots).is_empty(), "{:?}", failed(&shots));
    assert!(regions.contains("east") && regions.contains("west"), "{regions:?}");
    // The bar of the issue: the slowest answer of a blackholed region.
    assert!(slowest(&shots) < Duration::from_millis(1200), "slowest {:?}", slowest(&shots));
}
