//! What simulated proxies report at their sockets: their status, and an event for each snapshot in force.

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::sync::watch;
use xds::{
    clock::Clock,
    event::{Event, EventKind},
    snapshot::Snapshot,
    status::{ClusterStatus, EndpointStatus, ProxyStatus},
};

use super::crowd::{Crowd, InForce};
use crate::failure::Failure;

/// One proxy.
struct Desk {
    name: String,
    in_force: watch::Receiver<InForce>,
    clock: Clock,
}

/// Answers for a crowd from now on, at the sockets of its proxies in the control plane's state folder.
///
/// # Errors
/// When it cannot listen.
pub fn answer(state: &Path, crowd: &Crowd) -> Result<(), Failure> {
    let clock = Clock::anchored();
    for member in &crowd.members {
        let name = member.workload.name();
        let socket = state.join("proxies").join(&name).join("admin.sock");
        let listener = xds::local::listen(&socket).map_err(Failure::io(socket.display().to_string()))?;
        let desk = Arc::new(Desk { name, in_force: member.in_force.clone(), clock });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let desk = Arc::clone(&desk);
                let service = service_fn(move |request| {
                    let desk = Arc::clone(&desk);
                    async move { Ok::<_, Infallible>(desk.respond(&request).await) }
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
    }
    Ok(())
}

impl Desk {
    async fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let answer = if request.uri().path() == "/status" {
            serde_json::to_value(status(&self.name, &self.in_force.borrow())).ok()
        } else {
            self.events(self.in_force.clone(), request.uri().query().unwrap_or_default()).await
        };
        let status = if answer.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let mut response = Response::new(Full::new(Bytes::from(answer.unwrap_or_default().to_string())));
        *response.status_mut() = status;
        response
    }

    async fn events(&self, mut in_force: watch::Receiver<InForce>, query: &str) -> Option<Value> {
        let number = |name: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            pair.and_then(|value| value.parse::<u64>().ok()).unwrap_or_default()
        };
        let (after, wait) = (number("after"), Duration::from_millis(number("wait_ms")));
        // A wait that ends without news is answered with none.
        let _ = tokio::time::timeout(wait, in_force.wait_for(|in_force| in_force.count > after)).await;
        let InForce { count, version, digest, .. } = in_force.borrow().clone();
        let digest = digest.with(&[]);
        let event = |sequence| Event {
            sequence,
            time: self.clock.now(),
            kind: EventKind::SnapshotApplied { version: version.clone(), digest: digest.clone() },
        };
        let events: Vec<Event> = (after + 1..=count).map(event).collect();
        Some(json!({ "boot": "0", "events": serde_json::to_value(events).ok()?, "dropped": 0 }))
    }
}

fn status(name: &str, InForce { version, snapshot, digest, .. }: &InForce) -> ProxyStatus {
    ProxyStatus {
        name: name.to_owned(),
        boot: "0".to_owned(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        digest: digest.with(&[]),
        snapshot: version.clone(),
        overlays: Vec::new(),
        ready: true,
        connected: true,
        identity_failing: None,
        clusters: clusters(snapshot),
    }
}

fn clusters(snapshot: &Snapshot) -> Vec<ClusterStatus> {
    let endpoints = |name: &str| {
        let sets = snapshot.endpoints.iter().filter(|set| set.cluster == name).flat_map(|set| &set.localities);
        let each = sets.flat_map(|locality| locality.endpoints.iter().map(move |endpoint| (locality, endpoint)));
        let each = each.map(|(locality, endpoint)| EndpointStatus {
            name: endpoint.name.clone(),
            address: endpoint.address.to_string(),
            region: locality.region.clone(),
            version: endpoint.version.clone(),
            priority: locality.priority,
            healthy: true,
            ejected: false,
            active: 0,
            tries: 0,
            failures: 0,
        });
        each.collect()
    };
    let cluster = |cluster: &xds::snapshot::Cluster| ClusterStatus {
        name: cluster.name.clone(),
        service: cluster.service.clone(),
        tier_load: vec![100],
        endpoints: endpoints(&cluster.name),
        breakers: Vec::new(),
    };
    snapshot.clusters.iter().map(cluster).collect()
}
