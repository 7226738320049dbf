//! Copies of requests: sent beside the request, and forgotten. What becomes of them changes nothing.

use std::{sync::Arc, time::Duration};

use http::{header::EXPECT, request::Parts, uri::Authority};
use xds::snapshot::{self, RoutingPriority};

use crate::{
    admission::SHADOW,
    fault::Hit,
    http::{
        attempt::{self, Job},
        body::Replay,
        forward::{InFlight, Way},
    },
    route,
    upstream::view::Aim,
};

/// Bound on a copy where the route has none.
const LONGEST: Duration = Duration::from_secs(15);

/// Sends the copies that are drawn. The body must be here as a whole: nobody waits for a copy's endpoint to read it.
pub fn send(
    way: &Way<'_>,
    policy: &snapshot::Forward,
    (head, authority, body): (&Arc<Parts>, &Authority, &Replay),
    random: &mut fastrand::Rng,
) {
    let drawn: Vec<&str> = route::mirrored(&policy.mirrors, random).collect();
    let Some(authority) = shadow(authority) else { return };
    // Its body is here: nobody has to be asked whether it may come.
    let copy = match head.headers.contains_key(EXPECT) {
        true => {
            let mut copy = Parts::clone(head);
            copy.headers.remove(EXPECT);
            Arc::new(copy)
        }
        false => head.clone(),
    };
    for name in drawn {
        if !body.complete() {
            way.shared.metrics.mirror("tooLarge");
            continue;
        }
        let Some(cluster) = way.state.clusters.get(name) else { continue };
        let view = cluster.view();
        // A copy counts as a request to its own cluster, which bounds how many there are; never as an important one.
        let priority = RoutingPriority::Default;
        let counted = InFlight::new(cluster, &view, priority);
        let (Some(counted), Some(chosen)) = (counted, view.choose(Aim::Load, &[], random)) else {
            way.shared.metrics.mirror("refused");
            continue;
        };
        way.shared.metrics.mirror("sent");
        let job = Job {
            pool: way.pool.clone(),
            cluster: cluster.clone(),
            view,
            host: chosen.host,
            priority,
            head: copy.clone(),
            authority: authority.clone(),
            body: body.reader(),
            hit: Hit::default(),
            repeatable: false,
            fresh: false,
            claim: None,
            interim: None,
        };
        let bound = Some(policy.timeout).filter(|timeout| !timeout.is_zero()).unwrap_or(LONGEST);
        tokio::spawn(async move {
            drop(tokio::time::timeout(bound, attempt::forget(job)).await);
            drop(counted);
        });
    }
}

/// As Envoy names it: `-shadow` behind the host, before its port.
fn shadow(authority: &Authority) -> Option<Authority> {
    let host = authority.host();
    let text = match authority.port() {
        Some(port) => format!("{host}{SHADOW}:{port}"),
        None => format!("{host}{SHADOW}"),
    };
    Authority::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_known_by_its_host() {
        for (host, expected) in [("fx", "fx-shadow"), ("fx:8080", "fx-shadow:8080")] {
            assert_eq!(shadow(&Authority::from_static(host)).unwrap(), expected);
        }
    }
}
