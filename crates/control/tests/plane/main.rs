//! The control plane from outside: its API by its client, its ADS by an xDS client.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod admin;
mod discovery;
mod federation;
mod issued;
mod joining;
mod placing;
mod restored;
mod rig;
mod several;
mod strangers;

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use control::{
    api::{ControlEvent, OverlayEffect, OverlayRequest, RecoveryState, Targets},
    client::ClientError,
};
use rcgen::{CertificateParams, KeyPair};
use rig::{MANIFEST, Plane, Proxy, apply, lease, placements};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use xds::{client::Update, overlay::Way};

#[track_caller]
fn status<T: std::fmt::Debug>(result: Result<T, ClientError>) -> u16 {
    match result {
        Err(ClientError::Refused { status, .. }) => status,
        other => panic!("not refused: {other:?}"),
    }
}

fn harmless() -> OverlayRequest {
    OverlayRequest { targets: Targets::Concerned, effect: OverlayEffect::Harmless {} }
}

#[tokio::test]
async fn the_api_is_for_who_has_the_token() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::start(state.path()).await;
    assert!(plane.client.with_token("").ready().await.is_ok());
    for token in ["", "x", &"0".repeat(64)] {
        let stranger = plane.client.with_token(token);
        assert_eq!(status(stranger.revisions().await), 401);
        assert_eq!(status(stranger.apply(&apply(MANIFEST)).await), 401);
        assert_eq!(status(stranger.take_lease("d", &lease(1000, None)).await), 401);
        assert_eq!(status(stranger.events(0, Duration::ZERO).await), 401);
        assert_eq!(status(stranger.failover("web-west", "x").await), 401);
    }
    assert_eq!(status(plane.client.config().await), 404);
    assert_eq!(status(plane.client.take_lease("d", &lease(1000, None)).await), 404);
    let secrets = ["run/control.json", "run/api.token", "ca/root.key", "control.db"];
    for name in secrets {
        let mode = std::fs::metadata(state.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let client = plane.client.clone();
    plane.stop().await;
    assert!(client.ready().await.unwrap_err().is_unreachable());
}

#[tokio::test]
async fn bodies_are_bounded_and_checked() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::start(state.path()).await;
    let big = "#".repeat(9 << 20);
    // The server answers before it has read it all, so the connection may also break first.
    match plane.client.apply(&apply(&big)).await {
        Err(ClientError::Refused { status: 413, .. } | ClientError::Unreachable { .. }) => {}
        other => panic!("{other:?}"),
    }
    let door = control::client::read_run_file(state.path()).unwrap();
    let (api, token) = (door.api, door.token);
    for (body, expected) in [("{", "400"), ("{\"files\": [], \"surplus\": 1}", "400"), ("\u{0}", "400")] {
        let mut stream = TcpStream::connect(api).await.unwrap();
        let request = format!(
            "PUT /v1/config HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")) && answer.contains("\"error\""), "{answer}");
    }
    plane.stop().await;
}

#[tokio::test]
async fn revisions_survive_and_are_numbered() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::shop(state.path()).await;
    let first = plane.client.config().await.unwrap();
    assert_eq!((first.number, first.author.as_str(), first.files[0].text.as_str()), (1, "ann", MANIFEST));
    let again = plane.client.apply(&apply(MANIFEST)).await.unwrap();
    assert_eq!((again.revision, again.changed), (1, false));
    match plane.client.apply(&apply("kind: Mesh\nnonsense: 1\n")).await {
        Err(ClientError::Refused { status: 422, problems, .. }) => assert!(!problems.is_empty()),
        other => panic!("{other:?}"),
    }
    let edited = MANIFEST.replace("dwell: 100ms", "dwell: 200ms");
    assert_eq!(plane.client.apply(&apply(&edited)).await.unwrap().revision, 2);
    let token = control::client::read_run_file(state.path()).unwrap().token;
    let roots = plane.client.trust().await.unwrap().roots;
    let (after, _) = plane.wait_for(0, |e| matches!(e, ControlEvent::RevisionApplied { revision: 2, .. })).await;
    plane.kill().await;

    let plane = Plane::start(state.path()).await;
    assert_eq!(control::client::read_run_file(state.path()).unwrap().token, token);
    assert_eq!(plane.client.trust().await.unwrap().roots, roots);
    let numbers: Vec<u64> = plane.client.revisions().await.unwrap().iter().map(|r| r.number).collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(plane.client.config().await.unwrap().files[0].text, edited);
    assert_eq!(plane.client.revision(1).await.unwrap().files, first.files);
    assert_eq!(status(plane.client.revision(3).await), 404);
    assert_eq!(plane.client.placements().await.unwrap(), placements());
    // A reader goes on where it was.
    plane.wait_for(after, |e| matches!(e, ControlEvent::Started { .. })).await;
    plane.stop().await;
}

#[tokio::test]
async fn placements_must_make_sense() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::shop(state.path()).await;
    let mut twice = placements();
    twice.proxies.push(twice.proxies[0].clone());
    assert_eq!(status(plane.client.put_placements(&twice).await), 400);
    let mut same_address = placements();
    same_address.proxies[1].admin = same_address.proxies[0].admin;
    assert_eq!(status(plane.client.put_placements(&same_address).await), 400);
    let reports = plane.client.proxies().await.unwrap();
    let names: Vec<&str> = reports.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["edge", "web-east-0", "web-west-0"]);
    assert!(reports.iter().all(|r| !r.connected && !r.in_sync && r.error.is_some() && r.wanted_digest.is_some()));
    plane.stop().await;
}

#[tokio::test]
async fn leases_are_taken_renewed_released_and_lapse() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::shop(state.path()).await;
    let client = &plane.client;
    assert_eq!(status(client.take_lease("d", &lease(10, None)).await), 400);
    assert_eq!(status(client.take_lease("d", &lease(60_000, None)).await), 400);
    assert_eq!(status(client.take_lease("d", &lease(1000, Some("no-plan"))).await), 400);
    assert_eq!(status(client.heartbeat("d").await), 404);
    assert_eq!(client.take_lease("d", &lease(3000, Some("web-west"))).await.unwrap().plan.unwrap(), "web-west");
    assert_eq!(status(client.take_lease("e", &lease(1000, Some("web-west"))).await), 409);
    assert_eq!(client.heartbeat("d").await.unwrap().id, "d");
    assert_eq!(client.lay_overlay("d", "o", &harmless()).await.unwrap().id, "d/o");
    assert_eq!(status(client.lay_overlay("d", "recovery.x", &harmless()).await), 400);
    assert_eq!(status(client.lay_overlay("e", "o", &harmless()).await), 404);
    client.release_lease("d").await.unwrap();
    client.release_lease("d").await.unwrap();
    assert!(client.leases().await.unwrap().is_empty());
    client.take_lease("f", &lease(100, None)).await.unwrap();
    plane.wait_for(0, |e| *e == ControlEvent::LeaseLapsed { lease: "f".to_owned() }).await;
    assert_eq!(status(client.heartbeat("f").await), 404);
    plane.stop().await;
}

#[tokio::test]
async fn overlays_are_pushed_renewed_and_taken_back() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::shop(state.path()).await;
    let client = &plane.client;
    let mut edge = Proxy::connect(state.path(), "edge").await;
    edge.regions("web", &["east", "west"]).await;
    client.take_lease("d", &lease(2500, None)).await.unwrap();
    client.lay_overlay("d", "o", &harmless()).await.unwrap();
    let ttl = edge.overlays(&["d/o"]).await;
    assert!(ttl.iter().all(|ttl| *ttl <= Duration::from_millis(2500)), "{ttl:?}");
    client.heartbeat("d").await.unwrap();
    let renewed = edge
        .wait_for(|update| match update {
            Update::Heartbeat(renewed) => Some(renewed),
            _ => None,
        })
        .await;
    assert!(renewed.iter().all(|(id, ttl)| id == "d/o" && *ttl <= Duration::from_millis(2500)), "{renewed:?}");
    let partition = OverlayEffect::Partition { regions: vec!["east".to_owned()], from: Vec::new(), way: Way::Both };
    client.lay_overlay("d", "p", &OverlayRequest { targets: Targets::Concerned, effect: partition }).await.unwrap();
    edge.overlays(&["d/o", "d/p"]).await;
    client.heartbeat("d").await.unwrap();
    client.remove_overlay("d", "o").await.unwrap();
    edge.overlays(&["d/p"]).await;
    // A proxy that comes back while the lease holds gets it, too.
    drop(edge);
    client.heartbeat("d").await.unwrap();
    let mut edge = Proxy::connect(state.path(), "edge").await;
    edge.overlays(&["d/p"]).await;
    client.release_lease("d").await.unwrap();
    edge.overlays(&[]).await;
    // Nobody renews: gone at once.
    client.take_lease("d", &lease(300, None)).await.unwrap();
    client.lay_overlay("d", "o", &harmless()).await.unwrap();
    edge.overlays(&["d/o"]).await;
    edge.overlays(&[]).await;
    let report = client.proxies().await.unwrap().into_iter().find(|r| r.name == "edge").unwrap();
    assert!(report.connected && report.wanted_overlays.is_empty() && report.nack.is_none());
    plane.stop().await;
}

#[tokio::test]
async fn traffic_trusts_the_bundles_file_and_the_control_plane_stays_reachable() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::shop(state.path()).await;
    let roots = |wanted: String| {
        move |update| match update {
            Update::Snapshot { snapshot, .. } => (snapshot.trust.first()?.roots == wanted).then_some(()),
            _ => None,
        }
    };
    let (file, root) = (state.path().join("ca/trust.pem"), state.path().join("ca/root.pem"));
    let own = std::fs::read_to_string(&root).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), own);
    let mut edge = Proxy::connect(state.path(), "edge").await;
    edge.wait_for(roots(own.clone())).await;

    std::fs::write(&file, "no bundle").unwrap();
    let (after, refused) = plane.wait_for(0, |e| matches!(e, ControlEvent::TrustRefused { .. })).await;
    assert!(matches!(&refused, ControlEvent::TrustRefused { reason } if reason.contains("trust.pem")), "{refused:?}");
    assert_eq!(plane.client.trust().await.unwrap().roots, own);

    let stranger = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let other = params.self_signed(&stranger).unwrap().pem();
    std::fs::write(&file, &other).unwrap();
    edge.wait_for(roots(other.clone())).await;
    plane.wait_for(after, |e| matches!(e, ControlEvent::TrustApplied { roots: 1 })).await;
    assert_eq!(plane.client.trust().await.unwrap().roots, other);
    // Certificates go on to be answered with the authority's own root, and new streams come about by it.
    let mut late = Proxy::connect(state.path(), "web-east-0").await;
    late.wait_for(roots(other.clone())).await;
    plane.stop().await;

    let plane = Plane::start(state.path()).await;
    let mut edge = Proxy::connect(state.path(), "edge").await;
    edge.wait_for(roots(other)).await;
    std::fs::write(&file, &own).unwrap();
    edge.wait_for(roots(own)).await;
    plane.stop().await;
}

async fn recovery(plane: &Plane) -> control::api::RecoveryReport {
    plane.client.recovery().await.unwrap().remove(0)
}

#[tokio::test]
async fn a_real_failover_is_in_the_snapshots_and_survives_a_kill() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::shop(state.path()).await;
    let mut edge = Proxy::connect(state.path(), "edge").await;
    edge.regions("web", &["east", "west"]).await;
    assert_eq!(recovery(&plane).await.state, RecoveryState::Normal);
    assert_eq!(status(plane.client.failback("web-west", "why").await), 409);
    assert_eq!(status(plane.client.failover("no-plan", "why").await), 404);
    plane.client.failover("web-west", "flood").await.unwrap();
    edge.regions("web", &["west"]).await;
    let finished = plane.wait_for(0, |e| matches!(e, ControlEvent::StepFinished { .. })).await.1;
    match finished {
        ControlEvent::StepFinished { ok: true, output, .. } => assert_eq!(output, "west 127.9.9.3:8080"),
        other => panic!("{other:?}"),
    }
    let report = recovery(&plane).await;
    assert_eq!((report.state, report.lease, report.steps.len()), (RecoveryState::FailedOver, None, 1));
    plane.kill().await;

    let plane = Plane::start(state.path()).await;
    assert_eq!(recovery(&plane).await.state, RecoveryState::FailedOver);
    let mut edge = Proxy::connect(state.path(), "edge").await;
    edge.regions("web", &["west"]).await;
    // Nobody sees the primary, so failback waits.
    plane.client.failback("web-west", "mended").await.unwrap();
    assert_eq!(recovery(&plane).await.state, RecoveryState::FailingBack);
    plane.stop().await;
}

#[tokio::test]
async fn a_failover_under_a_lease_ends_with_it() {
    for lapse in [false, true] {
        let state = tempfile::tempdir().unwrap();
        let plane = Plane::shop(state.path()).await;
        let mut edge = Proxy::connect(state.path(), "edge").await;
        edge.regions("web", &["east", "west"]).await;
        plane.client.take_lease("d", &lease(3000, Some("web-west"))).await.unwrap();
        plane.client.failover("web-west", "drill").await.unwrap();
        edge.overlays(&["d/recovery.web-west.web.east"]).await;
        let (_, shift) = plane.wait_for(0, |e| matches!(e, ControlEvent::ShiftCommanded { .. })).await;
        let overlays = vec!["d/recovery.web-west.web.east".to_owned()];
        assert_eq!(shift, ControlEvent::ShiftCommanded { plan: "web-west".into(), to: "west".into(), overlays });
        assert_eq!(recovery(&plane).await.lease.as_deref(), Some("d"));
        if !lapse {
            plane.client.release_lease("d").await.unwrap();
        }
        edge.overlays(&[]).await;
        // The promotion is undone.
        let undone = |e: &ControlEvent| matches!(e, ControlEvent::StepFinished { step, .. } if step == "undo promote");
        plane.wait_for(0, undone).await;
        assert_eq!(recovery(&plane).await.state, RecoveryState::Normal);
        plane.stop().await;
    }
}

#[tokio::test]
async fn a_killed_control_plane_leaves_nothing_of_a_drill_but_its_undo() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::shop(state.path()).await;
    plane.client.take_lease("d", &lease(3000, Some("web-west"))).await.unwrap();
    plane.client.failover("web-west", "drill").await.unwrap();
    plane.kill().await;
    let plane = Plane::start(state.path()).await;
    let undone = |e: &ControlEvent| matches!(e, ControlEvent::StepFinished { step, .. } if step == "undo promote");
    plane.wait_for(0, undone).await;
    assert_eq!(recovery(&plane).await.state, RecoveryState::Normal);
    assert!(plane.client.leases().await.unwrap().is_empty());
    let mut edge = Proxy::connect(state.path(), "edge").await;
    edge.regions("web", &["east", "west"]).await;
    plane.stop().await;
}

#[tokio::test]
async fn after_an_irreversible_step_the_end_of_the_lease_and_a_kill_keep_the_shift() {
    for killed in [false, true] {
        let state = tempfile::tempdir().unwrap();
        let plane = Plane::start(state.path()).await;
        let manifest = MANIFEST.replace("undo: [/bin/sh, -c, 'echo undone']", "irreversible: true");
        plane.client.apply(&apply(&manifest)).await.unwrap();
        plane.client.put_placements(&placements()).await.unwrap();
        let mut edge = Proxy::connect(state.path(), "edge").await;
        edge.regions("web", &["east", "west"]).await;
        plane.client.take_lease("d", &lease(3000, Some("web-west"))).await.unwrap();
        plane.client.failover("web-west", "drill").await.unwrap();
        // Durable before the lease is gone.
        edge.regions("web", &["west"]).await;
        plane.wait_for(0, |e| matches!(e, ControlEvent::StepFinished { ok: true, .. })).await;
        let plane = if killed {
            plane.kill().await;
            let plane = Plane::start(state.path()).await;
            edge = Proxy::connect(state.path(), "edge").await;
            edge.regions("web", &["west"]).await;
            plane
        } else {
            plane.client.release_lease("d").await.unwrap();
            let (_, kept) = plane.wait_for(0, |e| matches!(e, ControlEvent::RecoveryKept { .. })).await;
            let ControlEvent::RecoveryKept { stands, .. } = kept else { panic!("{kept:?}") };
            assert!(stands.contains("`promote`") && stands.contains("firedrill plan failback web-west"), "{stands}");
            plane
        };
        let report = recovery(&plane).await;
        assert_eq!((report.state, report.lease), (RecoveryState::FailedOver, None));
        assert_eq!(
            (&report.not_undone[..], report.command.as_deref()),
            (&["promote".to_owned()][..], Some("firedrill plan failback web-west"))
        );
        assert!(report.stands.is_some_and(|stands| stands.contains("east is fenced")));
        let fence = report.fence.unwrap();
        assert_eq!((fence.region.as_str(), fence.callers.len()), ("east", 1));
        let log = plane.client.events(0, Duration::ZERO).await.unwrap().events;
        let undone = |e: &ControlEvent| matches!(e, ControlEvent::StepStarted { step, .. } if step.starts_with("undo"));
        assert!(!log.iter().any(|e| matches!(&e.what, control::api::Logged::Control(event) if undone(event))));
        // What ran cannot be edited while it is in use.
        let edited = manifest.replace("name: promote", "name: elevate");
        assert_eq!(status(plane.client.apply(&apply(&edited)).await), 409);
        plane.stop().await;
    }
}

/// The shop with two gateways whose words the test chooses.
async fn observed_by_two(plane: &Plane, state: &Path, manifest: &str) -> [admin::Admin; 2] {
    let gateway = "{name: edge, listen: \"127.0.0.1:8080\", routes: [{service: web}]}";
    let second = gateway.replace("edge", "second").replace("8080", "8081");
    let manifest = manifest
        .replace(gateway, &format!("{gateway}, {second}"))
        .replace("trigger: manual\n    steps", "trigger: {automatic: {unhealthyFor: 300ms}}\n    steps");
    plane.client.apply(&apply(&manifest)).await.unwrap();
    let observers = ["edge", "second"].map(|proxy| admin::Admin::start(state, proxy));
    let mut placed = placements();
    let role = control::api::Role::Gateway { gateway: "second".to_owned(), listen: None };
    placed.proxies.push(control::api::Placement {
        proxy: "second".to_owned(),
        admin: ([127, 9, 9, 5], 15000).into(),
        role,
    });
    plane.client.put_placements(&placed).await.unwrap();
    observers
}

/// Heartbeats of a lease, until the answer is dropped.
fn heartbeats(plane: &Plane, lease: &'static str) -> tokio::task::JoinHandle<()> {
    let client = plane.client.clone();
    tokio::spawn(async move {
        while client.heartbeat(lease).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
}

#[tokio::test]
async fn one_lying_observer_fails_nothing_over_and_a_quorum_does() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::start(state.path()).await;
    let [liar, honest] = observed_by_two(&plane, state.path(), MANIFEST).await;
    let sight = async || recovery(&plane).await.sights.into_iter().find(|sight| sight.service == "web").unwrap();
    while sight().await.healthy.len() < 2 {
        tokio::task::yield_now().await;
    }
    // Who holds a lease on the plan vouches for the mesh: the trigger is armed.
    plane.client.take_lease("d", &lease(3000, Some("web-west"))).await.unwrap();
    let keep = heartbeats(&plane, "d");
    liar.health("east", false);
    while sight().await.lost.is_empty() {
        tokio::task::yield_now().await;
    }
    // Many times what the trigger waits for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let report = recovery(&plane).await;
    assert_eq!((report.state, report.armed, report.primary_healthy), (RecoveryState::Normal, true, None));
    let seen = &report.sights[0];
    assert_eq!(
        (seen.quorum, &seen.lost[..], &seen.healthy[..]),
        (2, &["edge".to_owned()][..], &["second".to_owned()][..])
    );
    let log = plane.client.events(0, Duration::ZERO).await.unwrap().events;
    let moved = |event: &control::api::LogEntry| {
        let moves = |e: &ControlEvent| matches!(e, ControlEvent::Detected { .. } | ControlEvent::Decided { .. });
        matches!(&event.what, control::api::Logged::Control(event) if moves(event))
    };
    assert!(!log.iter().any(moved), "{log:#?}");
    honest.health("east", false);
    let (at, detected) = plane.wait_for(0, |e| matches!(e, ControlEvent::Detected { .. })).await;
    let ControlEvent::Detected { observers, .. } = detected else { panic!("{detected:?}") };
    assert_eq!(observers, ["edge", "second"]);
    plane.wait_for(at, |e| matches!(e, ControlEvent::ShiftCommanded { .. })).await;
    keep.abort();
    plane.stop().await;
}

#[tokio::test]
async fn an_observer_that_does_not_answer_is_no_voice_and_a_written_quorum_counts() {
    for (quorum, fails_over) in [("", false), ("    quorum: 1\n", true)] {
        let state = tempfile::tempdir().unwrap();
        let plane = Plane::start(state.path()).await;
        let manifest =
            MANIFEST.replace("    trigger: manual\n    steps", &format!("{quorum}    trigger: manual\n    steps"));
        let [seeing, silent] = observed_by_two(&plane, state.path(), &manifest).await;
        drop(silent);
        while recovery(&plane).await.primary_healthy != Some(true) {
            tokio::task::yield_now().await;
        }
        plane.client.take_lease("d", &lease(3000, Some("web-west"))).await.unwrap();
        let keep = heartbeats(&plane, "d");
        seeing.health("east", false);
        if fails_over {
            plane.wait_for(0, |e| matches!(e, ControlEvent::ShiftCommanded { .. })).await;
        } else {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let report = recovery(&plane).await;
            assert_eq!((report.state, report.sights[0].silent.len()), (RecoveryState::Normal, 1));
        }
        keep.abort();
        plane.stop().await;
    }
}

#[tokio::test]
async fn a_lost_primary_is_detected_failed_over_and_ramped_back() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::start(state.path()).await;
    let manifest =
        MANIFEST.replace("trigger: manual\n    steps", "trigger: {automatic: {unhealthyFor: 300ms}}\n    steps");
    plane.client.apply(&apply(&manifest)).await.unwrap();
    let edge = admin::Admin::start(state.path(), "edge");
    plane.client.put_placements(&placements()).await.unwrap();
    let report = plane.client.proxies().await.unwrap().into_iter().find(|r| r.name == "edge").unwrap();
    assert!(report.status.is_some() && report.error.is_none() && !report.in_sync);
    while recovery(&plane).await.primary_healthy != Some(true) {
        tokio::task::yield_now().await;
    }
    // Fresh after the start the trigger is not armed; who holds a lease on the plan vouches for the mesh.
    assert!(!recovery(&plane).await.armed);
    plane.client.take_lease("d", &lease(3000, Some("web-west"))).await.unwrap();
    assert!(recovery(&plane).await.armed);
    let keep = tokio::spawn({
        let client = plane.client.clone();
        async move {
            loop {
                client.heartbeat("d").await.unwrap();
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    });
    edge.health("west", false);
    edge.health("east", false);
    let (at, detected) = plane.wait_for(0, |e| matches!(e, ControlEvent::Detected { .. })).await;
    match detected {
        ControlEvent::Detected { region, service, observer, cause, .. } => assert_eq!(
            (region.as_str(), service.as_str(), observer.as_str(), cause.as_str()),
            ("east", "web", "edge", "connection refused")
        ),
        other => panic!("{other:?}"),
    }
    let (at, _) =
        plane.wait_for(at, |e| matches!(e, ControlEvent::Decided { reason, .. } if reason == "automatic")).await;
    let (at, _) = plane.wait_for(at, |e| matches!(e, ControlEvent::ShiftCommanded { .. })).await;
    let (at, _) = plane.wait_for(at, |e| matches!(e, ControlEvent::StepFinished { ok: true, .. })).await;
    edge.health("east", true);
    plane.client.failback("web-west", "over").await.unwrap();
    let mut at = at;
    for share in [10, 100] {
        at = plane.wait_for(at, |e| matches!(e, ControlEvent::RampStep { percent, .. } if *percent == share)).await.0;
    }
    plane.wait_for(at, |e| matches!(e, ControlEvent::FailbackDone { .. })).await;
    assert_eq!(recovery(&plane).await.state, RecoveryState::Normal);
    assert!(plane.client.leases().await.unwrap()[0].overlays.is_empty());
    keep.abort();
    plane.stop().await;
}
