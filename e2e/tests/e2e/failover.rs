//! The primary region dies under load; clients do not notice.

use std::{collections::BTreeSet, time::Duration};

use e2e::{
    load::{Load, Shot, failed, slowest},
    mesh::{Mesh, bank},
};

/// Idempotent reads at 200 a second through the gateway while `east` is held down for five seconds.
async fn reads_while_east_is(how: &str, gateway: &str) -> (Vec<Shot>, BTreeSet<String>) {
    let gateway = gateway.parse().unwrap();
    let mesh = Mesh::up(bank(gateway, |text| text), &[]).await;
    let load = Load::start(gateway, "/accounts/42", 200);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let report = mesh.hold("east", how, Duration::from_secs(5)).await;
    assert_eq!((report["workloads"].as_u64(), report["proxies"].as_u64()), (Some(4), Some(4)), "{report}");
    tokio::time::sleep(Duration::from_secs(3)).await;
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
