//! A mesh whose certificates are issued elsewhere: whom it says that it trusts, and when a mesh may become one.

use std::{path::Path, time::Duration};

use control::{
    api::{ControlEvent, TokenRequest},
    authority::{Authority, Request},
    bundle::{self, Bundle},
};
use xds::clock::Clock;

use crate::rig::{MANIFEST, Plane, Proxy, apply, csr, placements};

/// The shop with files in this folder.
fn issued(folder: &Path) -> String {
    let at = folder.display();
    let files =
        format!("certificate: \"{at}/{{proxy}}.pem\", key: \"{at}/{{proxy}}.key\", bundle: \"{at}/bundle.pem\"");
    MANIFEST.replace("  regions: ", &format!("  identity: {{files: {{{files}}}}}\n  regions: "))
}

/// Writes the control plane's files.
fn issue(folder: &Path, authority: &Authority) {
    let (csr, key) = csr();
    let (request, id) = (Request::parse(&csr).unwrap(), "spiffe://shop.example/control");
    let signed = authority.sign(&request, id, Duration::from_secs(3600)).unwrap();
    for (name, text) in
        [("control.pem", signed.certificate), ("control.key", key.serialize_pem()), ("bundle.pem", signed.roots)]
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

#[tokio::test]
async fn the_mesh_says_that_it_trusts_the_roots_of_who_issues() {
    let (state, tool, other) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = Authority::open(other.path(), Clock::anchored()).unwrap();
    let own = || bundle::own(state.path(), None);
    let plane = Plane::start(state.path()).await;
    plane.client.apply(&apply(&issued(tool.path()))).await.unwrap();
    plane.client.put_placements(&placements()).await.unwrap();
    plane.wait_for(0, |e| matches!(e, ControlEvent::IdentityFailing { .. })).await;
    let trust = plane.client.trust().await.unwrap();
    assert_eq!((trust.roots.as_str(), trust.source), ("", format!("file {}/bundle.pem", tool.path().display())));
    assert!(trust.failing.is_some_and(|reason| reason.contains("bundle.pem")));
    assert!(own().unwrap_err().contains("no roots have come from there yet"));
    let request = TokenRequest { service: Some("web".to_owned()), ttl_ms: 60_000, ..TokenRequest::default() };
    let refused = plane.client.create_token(&request).await.unwrap_err().to_string();
    assert!(refused.contains("issued elsewhere") && refused.contains("--workload-api"), "{refused}");

    issue(tool.path(), &authority);
    plane.wait_for(0, |e| matches!(e, ControlEvent::IdentityApplied { roots: 1 })).await;
    let trust = plane.client.trust().await.unwrap();
    let theirs = Bundle::of_pem(authority.roots()).unwrap().pem();
    assert_eq!((Bundle::of_pem(&trust.roots).unwrap().pem(), trust.failing), (theirs.clone(), None));
    assert_eq!(own().unwrap().pem(), theirs);
    // Also while nothing runs, and after a start with nothing there.
    plane.stop().await;
    assert_eq!(own().unwrap().pem(), theirs);
    std::fs::remove_file(tool.path().join("control.pem")).unwrap();
    let plane = Plane::start(state.path()).await;
    plane.wait_for(0, |e| matches!(e, ControlEvent::IdentityFailing { .. })).await;
    assert_eq!(own().unwrap().pem(), theirs);

    // Nobody is connected, so that the mesh may change: it trusts its own authority again.
    plane.client.apply(&apply(MANIFEST)).await.unwrap();
    while bundle::issued(state.path()).unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let trust = plane.client.trust().await.unwrap();
    assert_eq!((trust.source.as_str(), trust.failing), ("ca/trust.pem", None));
    assert_eq!(trust.roots, std::fs::read_to_string(state.path().join("ca/root.pem")).unwrap());
    plane.client.create_token(&request).await.unwrap();
    plane.stop().await;
}

#[tokio::test]
async fn who_issues_stays_the_same_while_a_proxy_is_connected() {
    let (state, tool) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plane = Plane::shop(state.path()).await;
    let mut edge = Proxy::connect(state.path(), "edge").await;
    edge.regions("web", &["east", "west"]).await;
    let other = apply(&issued(tool.path()));
    let refused = plane.client.apply(&other).await.unwrap_err().to_string();
    assert!(refused.contains("`identity` of the Mesh cannot change while proxies run (1 are connected)"), "{refused}");
    assert_eq!(plane.client.config().await.unwrap().number, 1, "nothing is in force of it");
    assert_eq!(plane.client.trust().await.unwrap().source, "ca/trust.pem");
    drop(edge);
    plane.wait_for(0, |e| matches!(e, ControlEvent::ProxyLost { .. })).await;
    assert!(plane.client.apply(&other).await.unwrap().changed);
    plane.stop().await;
}
