//! Two meshes that are federated: each has the other's roots, for the other's ids.

use std::{path::Path, time::Duration};

use control::{
    api::{ControlEvent, FederatedReport},
    bundle::{self, Bundle},
    client::read_run_file,
};
use xds::{client::Update, snapshot::TrustDomain};

use crate::rig::{MANIFEST, Plane, Proxy, apply, placements};

/// The shop under another name, with certificates that live as shortly as they may: others ask every two seconds.
fn partner() -> String {
    MANIFEST.replace(
        "trustDomain: shop.example",
        "trustDomain: partner.example\n  identity: {builtin: {certificateLifetime: 10s}}",
    )
}

fn federated(bundle: &Path, endpoint: &str) -> String {
    let path = bundle.display();
    let federation = format!("  federation: [{{trustDomain: partner.example, bundle: {path}{endpoint}}}]\n");
    MANIFEST.replace("  regions: [east, west]\n", &format!("  regions: [east, west]\n{federation}"))
}

/// Waits until a proxy has as many roots of each trust domain.
async fn roots(proxy: &mut Proxy, wanted: &[(&str, u64)]) {
    let count = |domain: &TrustDomain| Bundle::of_pem(&domain.roots).unwrap().count();
    let wanted: Vec<(String, u64)> = wanted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    proxy
        .wait_for(|update| match update {
            Update::Snapshot { snapshot, .. } => {
                let domains = snapshot.trust.first()?.domains.iter();
                let has: Vec<_> = domains.map(|domain| (domain.name.clone(), count(domain))).collect();
                (has == wanted).then_some(())
            }
            _ => None,
        })
        .await;
}

async fn report(plane: &Plane) -> FederatedReport {
    plane.client.trust().await.unwrap().federation.remove(0)
}

#[tokio::test]
async fn a_foreign_bundle_is_refreshed_kept_and_only_believed_from_who_serves_it() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let foreign = Plane::start_bundle(other.path(), "127.0.0.1:0".parse().unwrap()).await;
    foreign.client.apply(&apply(&partner())).await.unwrap();
    let file = own.path().join("partner.json");
    std::fs::write(&file, bundle::own(other.path(), None).unwrap().json().unwrap()).unwrap();
    let at = read_run_file(other.path()).unwrap().bundle.unwrap();

    let plane = Plane::start(own.path()).await;
    let endpoint = format!(", endpoint: {{url: \"https://{at}/\"}}");
    plane.client.apply(&apply(&federated(&file, &endpoint))).await.unwrap();
    plane.client.put_placements(&placements()).await.unwrap();
    let mut edge = Proxy::connect(own.path(), "edge").await;
    roots(&mut edge, &[("shop.example", 1), ("partner.example", 1)]).await;

    // A second root there is here within the hint.
    let more = tempfile::tempdir().unwrap();
    let second = control::authority::Authority::open(more.path(), xds::clock::Clock::anchored()).unwrap();
    let trust = other.path().join("ca/trust.pem");
    let first = std::fs::read_to_string(&trust).unwrap();
    std::fs::write(&trust, format!("{first}{}", second.roots())).unwrap();
    roots(&mut edge, &[("shop.example", 1), ("partner.example", 2)]).await;
    let known = report(&plane).await;
    assert_eq!((known.sequence, known.failing, known.stale), (Some(2), None, false));

    // Nobody serves any more: what was told last stays, and it is said.
    foreign.stop().await;
    let (_, failing) = plane.wait_for(0, |e| matches!(e, ControlEvent::FederationFailing { .. })).await;
    assert!(matches!(&failing, ControlEvent::FederationFailing { kept: 2, .. }), "{failing:?}");
    while !report(&plane).await.stale {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    plane.stop().await;
    let plane = Plane::start(own.path()).await;
    let mut edge = Proxy::connect(own.path(), "edge").await;
    roots(&mut edge, &[("shop.example", 1), ("partner.example", 2)]).await;

    // Whoever else answers there, whatever it says, is not believed.
    let id = format!(", endpoint: {{url: \"https://{at}/\", id: spiffe://partner.example/other}}");
    plane.client.apply(&apply(&federated(&file, &id))).await.unwrap();
    let back = Plane::start_bundle(other.path(), at).await;
    let named = |e: &ControlEvent| matches!(e, ControlEvent::FederationFailing { reason, .. } if reason.contains("must prove to be spiffe://partner.example/other"));
    let (position, _) = plane.wait_for(0, named).await;
    assert_eq!(Bundle::of_pem(&report(&plane).await.roots).unwrap().count(), 2);
    // By its own id it is.
    plane.client.apply(&apply(&federated(&file, &endpoint))).await.unwrap();
    plane.wait_for(position, |e| matches!(e, ControlEvent::FederationRefreshed { roots: 2, .. })).await;
    back.stop().await;
    // Nothing is left of who is not named any more.
    plane.client.apply(&apply(MANIFEST)).await.unwrap();
    edge.wait_for(|update| match update {
        Update::Snapshot { snapshot, .. } => snapshot.trust.first()?.domains.is_empty().then_some(()),
        _ => None,
    })
    .await;
    plane.stop().await;
}

#[tokio::test]
async fn a_bundle_in_a_file_is_followed() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Plane::start(other.path()).await.stop().await;
    let file = own.path().join("partner.pem");
    let plane = Plane::start(own.path()).await;
    plane.client.apply(&apply(&federated(&file, ""))).await.unwrap();
    plane.client.put_placements(&placements()).await.unwrap();
    let mut edge = Proxy::connect(own.path(), "edge").await;
    // Our own roots vouch for nobody else meanwhile.
    roots(&mut edge, &[("shop.example", 1)]).await;
    let (after, _) = plane.wait_for(0, |e| matches!(e, ControlEvent::FederationFailing { kept: 0, .. })).await;
    assert!(report(&plane).await.stale);

    let pem = bundle::own(other.path(), None).unwrap().pem();
    std::fs::write(&file, &pem).unwrap();
    roots(&mut edge, &[("shop.example", 1), ("partner.example", 1)]).await;
    let (after, _) = plane.wait_for(after, |e| matches!(e, ControlEvent::FederationRefreshed { roots: 1, .. })).await;
    std::fs::write(&file, "no bundle").unwrap();
    let said = |e: &ControlEvent| matches!(e, ControlEvent::FederationFailing { kept: 1, reason, .. } if reason.contains("partner.pem"));
    plane.wait_for(after, said).await;
    let known = report(&plane).await;
    assert_eq!((known.roots, known.source), (pem, format!("file {}", file.display())));
    plane.stop().await;
}
