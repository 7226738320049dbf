//! Proxies that join, move and leave one at a time, and who hears of it.

use control::api::{ProxyReport, Role};
use xds::client::Update;

use super::{
    rig::{Plane, Proxy, placements},
    status,
};

#[tokio::test]
async fn a_proxy_joins_moves_and_leaves_by_a_call_of_its_own() {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::shop(state.path()).await;
    let mut edge = Proxy::connect(state.path(), "edge").await;
    edge.regions("web", &["east", "west"]).await;
    let mut web = Proxy::connect(state.path(), "web-west-0").await;
    web.wait_for(|update| matches!(update, Update::Snapshot { .. }).then_some(())).await;
    let before = report(&plane, "web-west-0").await.published;

    // Whoever calls it hears where it is now; another one has nothing new.
    let mut moved = placements().proxies[0].clone();
    let Role::Sidecar { inbound, .. } = &mut moved.role else { panic!("{moved:?}") };
    inbound.set_port(15007);
    let wanted = *inbound;
    plane.client.put_placement(&moved).await.unwrap();
    edge.wait_for(|update| match update {
        Update::Snapshot { snapshot, .. } => {
            let endpoints = snapshot.endpoints.iter().flat_map(|set| &set.localities).flat_map(|l| &l.endpoints);
            endpoints.into_iter().any(|endpoint| endpoint.address == wanted).then_some(())
        }
        _ => None,
    })
    .await;
    assert_eq!(report(&plane, "web-west-0").await.published, before);
    let placed = plane.client.placements().await.unwrap();
    assert_eq!((placed.proxies.len(), &placed.proxies[0]), (3, &moved));

    let mut taken = moved.clone();
    taken.proxy = "web-east-1".to_owned();
    assert_eq!(status(plane.client.put_placement(&taken).await), 400, "its addresses are another's");
    plane.client.remove_placement("web-east-0").await.unwrap();
    plane.client.remove_placement("web-east-0").await.unwrap();
    edge.regions("web", &["west"]).await;
    assert_eq!(plane.client.placements().await.unwrap().proxies.len(), 2);
    plane.client.put_placement(&placements().proxies[0]).await.unwrap();
    edge.regions("web", &["east", "west"]).await;
    plane.stop().await;
}

async fn report(plane: &Plane, proxy: &str) -> ProxyReport {
    plane.client.proxies().await.unwrap().into_iter().find(|report| report.name == proxy).unwrap()
}
