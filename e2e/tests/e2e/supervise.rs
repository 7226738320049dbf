//! The supervisor leaves no process behind, and keeps alive what should live.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use e2e::{
    mesh::{Mesh, bank, rows, until},
    process::{binary, run, signal},
};
use rustix::process::Signal;
use serde_json::json;

#[tokio::test]
async fn sigkill_of_the_supervisor_leaves_no_process() {
    let mesh = Mesh::up(bank("127.205.1.1:8080".parse().unwrap(), |text| text), &[]).await;
    assert!(mesh.proxies().await.len() >= 9);
    mesh.kill().await;
}

#[tokio::test]
async fn stopped_processes_end_with_the_supervisor_too() {
    let mesh = Mesh::up(bank("127.205.3.1:8080".parse().unwrap(), |text| text), &[]).await;
    let report = mesh.strike("east", "pause").await;
    assert_eq!((report["workloads"].as_u64(), report["proxies"].as_u64()), (Some(4), Some(4)), "{report}");
    mesh.kill().await;

    let mesh = Mesh::up(bank("127.205.3.1:8080".parse().unwrap(), |text| text), &[]).await;
    mesh.strike("east", "pause").await;
    mesh.down().await;
}

#[tokio::test]
async fn one_supervisor_has_a_state_folder() {
    let mesh = Mesh::up(bank("127.205.4.1:8080".parse().unwrap(), |text| text), &[]).await;
    let (path, state) = (mesh.path().display().to_string(), mesh.state().display().to_string());
    let second = run(&["up", "-f", &path, "--state", &state], Duration::from_secs(20)).await;
    assert_eq!((second.code, second.out.as_str()), (Some(2), ""), "{second:?}");
    let said = [format!("process {}", mesh.pid()), "is running in".to_owned(), "--state DIR".to_owned()];
    assert!(said.iter().all(|part| second.err.contains(part)), "{}", second.err);
    // The first one does not notice.
    mesh.whole().await;
    let answer = mesh.web.get(mesh.gateway("edge"), "/accounts/42").await.expect("answered");
    assert!(answer.status.is_success(), "{answer:?}");
    mesh.down().await;
}

#[tokio::test]
async fn a_mesh_goes_on_when_its_binary_is_replaced() {
    let folder = bank("127.205.5.1:8080".parse().unwrap(), |text| text);
    let copy = folder.path().join("firedrill-copy");
    std::fs::copy(binary(), &copy).expect("copied");
    let mesh = Mesh::up_by(&copy, folder, &[]).await;
    let bad = copy.with_extension("new");
    std::fs::write(&bad, "#!/bin/sh\nexit 9\n").expect("written");
    std::fs::set_permissions(&bad, std::fs::Permissions::from_mode(0o755)).expect("set");
    std::fs::rename(&bad, &copy).expect("replaced");

    for process in [mesh.workload("fx-west-0"), &mesh.workload("accounts-west-1")["proxy"]] {
        signal(u32::try_from(process["pid"].as_u64().expect("a pid")).unwrap(), Signal::KILL);
    }
    until(Duration::from_secs(15), async || {
        let now = mesh.now().await;
        let restarts = |process: &serde_json::Value| process["restarts"].as_u64().unwrap_or_default();
        let of = |name: &str| rows(&now["workloads"]).find(|w| w["name"] == name).cloned().unwrap_or_default();
        let again = restarts(&of("fx-west-0")) + restarts(&of("accounts-west-1")["proxy"]);
        if again == 2 { Ok(()) } else { Err(format!("{again} started again")) }
    })
    .await;
    mesh.whole().await;
    // The plan's steps are commands of this binary.
    mesh.tell_control("/v1/recovery/bank-west/failover", &json!({"reason": "a test"})).await;
    let plan = until(Duration::from_secs(15), async || {
        let plans = mesh.control("/v1/recovery").await;
        let plan = rows(&plans).find(|p| p["plan"] == "bank-west").cloned().unwrap_or_default();
        if plan["state"] == "failingOver" { Err(plan.to_string()) } else { Ok(plan) }
    })
    .await;
    assert_eq!(plan["state"], "failedOver", "{plan}");
    mesh.down().await;
}

#[tokio::test]
async fn what_dies_by_itself_is_started_again() {
    let mesh = Mesh::up(bank("127.205.2.1:8080".parse().unwrap(), |text| text), &[]).await;
    let name = "accounts-east-0";
    let first = mesh.workload(name)["pid"].as_u64().expect("a pid");
    signal(u32::try_from(first).unwrap(), Signal::KILL);
    let second = until(Duration::from_secs(15), async || {
        let now = mesh.now().await;
        let workload = rows(&now["workloads"]).find(|w| w["name"] == name).cloned().unwrap_or_default();
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

#[tokio::test]
async fn a_proxy_that_answers_nobody_is_continued_then_started_again_and_a_paused_region_is_left_alone() {
    let mesh = Mesh::up(bank("127.205.6.1:8080".parse().unwrap(), |text| text), &[]).await;
    let edge = async || mesh.proxies().await.into_iter().find(|proxy| proxy.name == "edge").map(|proxy| proxy.pid);
    let first = edge().await.expect("the gateway");
    let serves = async || match mesh.web.get(mesh.gateway("edge"), "/accounts/42").await {
        Ok(answer) if answer.status.is_success() => Ok(()),
        other => Err(format!("{other:?}")),
    };
    let east = u32::try_from(mesh.workload("fx-east-0")["proxy"]["pid"].as_u64().expect("a pid")).expect("a pid");
    let stopped = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };

    // Who was stopped goes on as it was; who is paused by a drill stays paused.
    signal(first, Signal::STOP);
    let continued = async {
        let sees = async |wanted: bool| {
            until(
                Duration::from_secs(40),
                async || if stopped(first) == wanted { Ok(()) } else { Err(wanted.to_string()) },
            )
            .await;
        };
        sees(true).await;
        until(Duration::from_secs(5), async || if stopped(east) { Ok(()) } else { Err("east runs".to_owned()) }).await;
        sees(false).await;
        assert!(stopped(east));
    };
    tokio::join!(mesh.hold("east", "pause", Duration::from_secs(14)), continued);
    until(Duration::from_secs(20), serves).await;
    assert_eq!(edge().await, Some(first));

    // Who does not is ended, and started again.
    until(Duration::from_secs(90), async || {
        signal(first, Signal::STOP);
        match edge().await {
            Some(pid) if pid != first => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    until(Duration::from_secs(20), serves).await;
    assert!(mesh.said().contains("gateway edge answered nobody"), "{}", mesh.said());
    mesh.down().await;
}
