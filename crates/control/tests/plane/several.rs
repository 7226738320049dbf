//! Several control planes over one PostgreSQL.

use std::{path::Path, time::Instant};

use control::{
    api::{ControlEvent, Logged, OverlayEffect, OverlayRequest, RecoveryState, Stamp, Targets},
    client::ClientError,
    store::StoreAddress,
};
use e2e::postgres::Postgres;
use xds::clock::Clock;

use super::{
    rig::{LONG, MANIFEST, Plane, Proxy, apply, lease, placements},
    status,
};

/// A state folder with the authority of another.
fn beside(state: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("ca")).unwrap();
    for entry in std::fs::read_dir(state.join("ca")).unwrap().flatten() {
        std::fs::copy(entry.path(), folder.path().join("ca").join(entry.file_name())).unwrap();
    }
    folder
}

/// Waits until it is so.
async fn until(mut so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !so().await {
        assert!(started.elapsed() < LONG, "it never came");
        tokio::task::yield_now().await;
    }
}

async fn leads(plane: &Plane) -> bool {
    let events = plane.client.events(0, std::time::Duration::ZERO).await.unwrap().events;
    let last = events.iter().rev().find_map(|entry| match &entry.what {
        Logged::Control(ControlEvent::LeadershipTaken { .. }) => Some(true),
        Logged::Control(ControlEvent::LeadershipLost {}) => Some(false),
        _ => None,
    });
    last == Some(true)
}

#[tokio::test]
async fn what_one_is_told_all_do_and_another_leads_when_the_leader_dies() {
    let Some(postgres) = Postgres::start() else { return };
    let store = StoreAddress::Postgres(postgres.database("mesh"));
    let state = tempfile::tempdir().unwrap();
    let first = Plane::start_on(state.path(), store.clone()).await;
    let second_state = beside(state.path());
    until(async || leads(&first).await).await;
    let second = Plane::start_on(second_state.path(), store.clone()).await;
    assert!(!leads(&second).await, "one leads");

    // Configuration goes everywhere, whoever is told.
    first.client.put_placements(&placements()).await.unwrap();
    assert_eq!(second.client.apply(&apply(MANIFEST)).await.unwrap().revision, 1);
    for plane in [&first, &second] {
        until(async || plane.client.proxy_configuration("edge").await.is_ok()).await;
    }
    let mut edge = Proxy::connect(second_state.path(), "edge").await;
    edge.regions("web", &["east", "west"]).await;
    let mut west = Proxy::connect(state.path(), "web-west-0").await;
    west.wait_for(|update| matches!(update, xds::client::Update::Snapshot { .. }).then_some(())).await;

    // So do overlays, for as long as their lease.
    let harmless = || OverlayRequest { targets: Targets::Concerned, effect: OverlayEffect::Harmless {} };
    first.client.take_lease("d", &lease(3000, None)).await.unwrap();
    first.client.lay_overlay("d", "o", &harmless()).await.unwrap();
    edge.overlays(&["d/o"]).await;
    west.overlays(&["d/o"]).await;
    until(async || !second.client.leases().await.unwrap().is_empty()).await;
    let stranger = control::api::LeaseRequest { holder: "another".to_owned(), ..lease(3000, None) };
    assert_eq!(status(second.client.take_lease("d", &stranger).await), 409);
    second.client.heartbeat("d").await.unwrap();
    second.client.lay_overlay("d", "p", &harmless()).await.unwrap();
    west.overlays(&["d/o", "d/p"]).await;
    first.client.remove_overlay("d", "o").await.unwrap();
    edge.overlays(&["d/p"]).await;
    // Without heartbeats it ends everywhere.
    edge.overlays(&[]).await;
    west.overlays(&[]).await;
    until(async || first.client.leases().await.unwrap().is_empty() && second.client.leases().await.unwrap().is_empty())
        .await;

    // What is asked of any reaches the leader, and what that does is heard everywhere.
    let report = second.client.failover("web-west", "a test").await.unwrap();
    assert_ne!(report.state, RecoveryState::Normal);
    second.wait_for(0, |event| matches!(event, ControlEvent::ShiftCommanded { .. })).await;
    edge.wait_for(|update| matches!(update, xds::client::Update::Snapshot { .. }).then_some(())).await;
    until(async || second.client.recovery().await.unwrap()[0].state == RecoveryState::FailedOver).await;
    let before = second.client.proxy_configuration("edge").await.unwrap();
    assert_eq!(before.digest, first.client.proxy_configuration("edge").await.unwrap().digest);

    // The leader dies. Within five seconds the other leads, and nothing that a proxy should do has changed.
    let killed = Instant::now();
    first.kill().await;
    let (_, event) = second.wait_for(0, |event| matches!(event, ControlEvent::LeadershipTaken { .. })).await;
    assert_eq!(event, ControlEvent::LeadershipTaken { epoch: 2 });
    let took = killed.elapsed();
    eprintln!("another one leads after {} ms", took.as_millis());
    until(async || second.client.recovery().await.is_ok_and(|plans| plans[0].state == RecoveryState::FailedOver)).await;
    assert_eq!(second.client.proxy_configuration("edge").await.unwrap(), before);
    second.client.failback("web-west", "a test").await.unwrap();

    // Whoever comes back takes up what there is.
    let first = Plane::start_on(state.path(), store.clone()).await;
    assert_eq!(first.client.config().await.unwrap().number, 1);
    assert!(!leads(&first).await);
    // One that stops in order gives leadership away at once.
    second.stop().await;
    until(async || leads(&first).await).await;
    first.stop().await;
}

#[tokio::test]
async fn a_control_plane_with_another_authority_is_refused() {
    let Some(postgres) = Postgres::start() else { return };
    let store = StoreAddress::Postgres(postgres.database("mesh"));
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Plane::start_on(own.path(), store.clone()).await.stop().await;
    let free = "127.0.0.1:0".parse().unwrap();
    let options = control::Options {
        state_dir: other.path().to_owned(),
        store: store.clone(),
        api: free,
        ads: free,
        bundle: None,
        clock: Clock::anchored(),
    };
    let error = control::run(options, std::future::ready(())).await.unwrap_err().to_string();
    assert!(error.contains("another authority") && error.contains("copy the folder `ca`"), "{error}");
    Plane::start_on(own.path(), store).await.stop().await;
}

#[tokio::test]
async fn two_who_write_at_once_do_not_lose_each_others_work() {
    let Some(postgres) = Postgres::start() else { return };
    let store = StoreAddress::Postgres(postgres.database("mesh"));
    let state = tempfile::tempdir().unwrap();
    let first = Plane::start_on(state.path(), store.clone()).await;
    let second_state = beside(state.path());
    let second = Plane::start_on(second_state.path(), store).await;
    first.client.apply(&apply(MANIFEST)).await.unwrap();
    for round in 0..5_u32 {
        let expect = first.client.config().await.unwrap().number;
        let edited = |by: u32| {
            let text = MANIFEST.replace("dwell: 100ms", &format!("dwell: {}ms", 200 + 10 * round + by));
            control::api::ApplyRequest { expect: Some(expect), ..apply(&text) }
        };
        let (one, other) = (edited(1), edited(2));
        let (one, other) = tokio::join!(first.client.apply(&one), second.client.apply(&other));
        let won = [&one, &other].iter().filter(|result| result.is_ok()).count();
        assert_eq!(won, 1, "{one:?} {other:?}");
        let lost = one.err().or(other.err());
        assert!(matches!(lost, Some(ClientError::Refused { status: 412, .. })), "{lost:?}");
    }
    let revisions = second.client.revisions().await.unwrap();
    assert_eq!(revisions.iter().map(|revision| revision.number).collect::<Vec<_>>(), [6, 5, 4, 3, 2, 1]);
    assert!(revisions.iter().all(|revision| revision.time > Stamp(0)));
    first.stop().await;
    second.stop().await;
}
