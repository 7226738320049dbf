//! What simulated proxies answer at their admin addresses: their status, and an event for each snapshot in force.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use xds::{
    clock::Clock,
    event::{Event, EventKind},
    snapshot::Snapshot,
    status::{ClusterStatus, EndpointStatus, ProxyStatus},
};

use super::{
    crowd::{Crowd, InForce},
    mesh::{ADMIN_PORT, Size},
};
use crate::failure::Failure;

/// All at one socket: the address that was asked says who is meant.
struct Desk {
    proxies: BTreeMap<IpAddr, (String, watch::Receiver<InForce>)>,
    clock: Clock,
}

/// Answers for a crowd from now on.
///
/// # Errors
/// When it cannot listen.
pub async fn answer(size: Size, crowd: &Crowd) -> Result<(), Failure> {
    let own = |workload| IpAddr::V4(size.address(workload));
    let proxies = crowd.members.iter().map(|m| (own(m.workload), (m.workload.name(), m.in_force.clone())));
    let desk = Arc::new(Desk { proxies: proxies.collect(), clock: Clock::anchored() });
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, ADMIN_PORT));
    let listener = TcpListener::bind(everywhere).await.map_err(Failure::io(everywhere.to_string()))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (desk, asked) = (Arc::clone(&desk), stream.local_addr().map(|address| address.ip()));
            let service = service_fn(move |request| {
                let (desk, asked) = (Arc::clone(&desk), asked.as_ref().ok().copied());
                async move { Ok::<_, Infallible>(desk.respond(asked, &request).await) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    Ok(())
}

impl Desk {
    async fn respond(&self, asked: Option<IpAddr>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let answer = match asked.and_then(|asked| self.proxies.get(&asked)) {
            Some((name, in_force)) if request.uri().path() == "/status" => {
                serde_json::to_value(status(name, &in_force.borrow())).ok()
            }
            Some((_, in_force)) => self.events(in_force.clone(), request.uri().query().unwrap_or_default()).await,
            None => None,
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
