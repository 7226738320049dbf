//! The supervisor leaves no process behind, and keeps alive what should live.

use std::time::Duration;

use e2e::{
    mesh::{Mesh, bank, until},
    process::signal,
};
use rustix::process::Signal;

#[tokio::test]
async fn sigkill_of_the_supervisor_leaves_no_process() {
    let mesh = Mesh::up(bank("127.205.1.1:8080".parse().unwrap(), |text| text), &[]).await;
    assert!(mesh.proxies().await.len() >= 9);
    mesh.kill().await;
}

#[tokio::test]
async fn what_dies_by_itself_is_started_again() {
    let mesh = Mesh::up(bank("127.205.2.1:8080".parse().unwrap(), |text| text), &[]).await;
    let name = "accounts-east-0";
    let first = mesh.workload(name)["pid"].as_u64().expect("a pid");
    signal(u32::try_from(first).unwrap(), Signal::KILL);
    let second = until(Duration::from_secs(15), async || {
        let now = mesh.now().await;
        let workload = e2e::mesh::rows(&now["workloads"]).find(|w| w["name"] == name).cloned().unwrap_or_default();
        match workload["pid"].as_u64() {
            Some(pid) if pid != first && workload["state"] == "running" => Ok(pid),
            _ => Err(workload.to_string()),
        }
    })
    .await;
    assert_ne!(first, second);
    let answer = mesh.web.get(mesh.gateway("edge"), "/accounts/42").await.expect("answered");
    assert!(answer.status.is_success(), "{answer:?}");
    mesh.down().await;
}
