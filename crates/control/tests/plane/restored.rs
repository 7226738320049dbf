//! A store that was restored from a backup.

use control::{
    api::ControlEvent,
    store::{Backup, Store, StoreAddress},
};
use e2e::postgres::Postgres;
use xds::client::Update;

use super::rig::{MANIFEST, Plane, Proxy, apply};

fn dwell(ms: u64) -> control::api::ApplyRequest {
    apply(&MANIFEST.replace("dwell: 100ms", &format!("dwell: {ms}ms")))
}

async fn backup(address: &StoreAddress) -> Backup {
    let store = Store::open(address).await.unwrap();
    let backup = store.backup().await.unwrap();
    store.close().await;
    // As it comes back from a file.
    Backup::parse(&serde_json::to_vec(&backup).unwrap()).unwrap()
}

async fn restore(address: &StoreAddress, backup: &Backup, forced: bool) {
    let store = Store::open(address).await.unwrap();
    store.restore(backup, forced).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn proxies_are_not_pushed_back_by_a_restored_store() {
    let state = tempfile::tempdir().unwrap();
    let address = StoreAddress::of_state(state.path());
    let plane = Plane::shop(state.path()).await;
    // While the control plane runs.
    let old = backup(&address).await;
    assert_eq!(old.latest(), 1);
    plane.client.apply(&dwell(200)).await.unwrap();
    plane.client.apply(&dwell(300)).await.unwrap();
    let mut edge = Proxy::connect(state.path(), "edge").await;
    let version = |update: Update| match update {
        Update::Snapshot { version, .. } => Some(version),
        _ => None,
    };
    assert_eq!(edge.wait_for(version).await, "r3");
    let ads = plane.ads(state.path());
    plane.stop().await;

    restore(&address, &old, false).await;
    let plane = Plane::start_at(state.path(), address.clone(), ads).await;
    assert_eq!(plane.client.config().await.unwrap().number, 1);
    let (_, event) = plane.wait_for(0, |event| matches!(event, ControlEvent::ProxyRefused { .. })).await;
    let ControlEvent::ProxyRefused { proxy, reason, .. } = event else { panic!() };
    assert_eq!(proxy, "edge");
    assert!(reason.contains("revision 3") && reason.contains("--force"), "{reason}");
    plane.client.apply(&dwell(400)).await.unwrap();
    plane.client.apply(&dwell(500)).await.unwrap();
    plane.wait_for(0, |event| matches!(event, ControlEvent::ProxyConnected { proxy } if proxy == "edge")).await;
    plane.stop().await;

    restore(&address, &old, true).await;
    let plane = Plane::start_at(state.path(), address, ads).await;
    assert_eq!(edge.wait_for(|update| version(update).filter(|version| version == "r1")).await, "r1");
    plane.stop().await;
}

#[tokio::test]
async fn a_backup_of_one_kind_of_store_makes_one_of_the_other() {
    let Some(postgres) = Postgres::start() else { return };
    let shared = StoreAddress::Postgres(postgres.database("mesh"));
    let state = tempfile::tempdir().unwrap();
    let own = StoreAddress::of_state(state.path());
    let plane = Plane::shop(state.path()).await;
    plane.client.apply(&dwell(200)).await.unwrap();
    plane.client.failover("web-west", "a test").await.unwrap();
    let whole = plane.client.revision(1).await.unwrap();
    plane.kill().await;
    let first = backup(&own).await;
    restore(&shared, &first, false).await;
    let second = backup(&shared).await;
    assert_eq!(first, second);

    let plane = Plane::start_on(state.path(), shared.clone()).await;
    assert_eq!(plane.client.config().await.unwrap().number, 2);
    assert_eq!(plane.client.revision(1).await.unwrap(), whole);
    plane.wait_for(0, |event| matches!(event, ControlEvent::LeadershipTaken { .. })).await;
    let store = Store::open(&shared).await.unwrap();
    let refused = store.restore(&first, true).await.unwrap_err();
    assert!(refused.to_string().contains("a control plane works on"), "{refused}");
    plane.stop().await;
    store.restore(&first, true).await.unwrap();
}

#[test]
fn a_damaged_backup_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let state = tempfile::tempdir().unwrap();
    let whole = runtime.block_on(async {
        Plane::shop(state.path()).await.stop().await;
        serde_json::to_string(&backup(&StoreAddress::of_state(state.path())).await).unwrap()
    });
    assert!(Backup::parse(whole.as_bytes()).is_ok());
    for (from, to) in
        [("because", "becauze"), ("east", "xast"), ("firedrill-backup/1", "firedrill-backup/9"), ("{", "")]
    {
        let damaged = whole.replacen(from, to, 1);
        assert!(Backup::parse(damaged.as_bytes()).is_err(), "{from}");
    }
}
