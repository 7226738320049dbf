//! Active health checks: a task for each endpoint, over the same transport as traffic.

mod grpc;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use tokio::{task::AbortHandle, time::timeout};
use xds::snapshot::{HealthCheck, UpstreamProtocol};

use crate::{
    http::{attempt, pool::Pool},
    link::Link,
    upstream::{
        cluster::Cluster,
        health::Finding,
        host::{Host, HostId},
        outlier::Proof,
    },
};

/// An answer to a check that has it says that the endpoint is to be used only where others do not suffice (Envoy's).
const DEGRADED: &str = "x-envoy-degraded";
/// The user agent of checks.
const AGENT: &str = "firedrill-check";

/// The checks that run.
#[derive(Debug, Default)]
pub struct Checks {
    running: HashMap<HostId, (HealthCheck, AbortHandle)>,
    pool: Arc<Pool>,
}

impl Checks {
    /// Starts and ends checks so that they fit the clusters. New ones begin at once.
    pub fn follow<'a>(&mut self, clusters: impl Iterator<Item = &'a Arc<Cluster>>) {
        let mut wanted = HashMap::new();
        for cluster in clusters {
            let Some(policy) = cluster.view().config.health_check.clone() else { continue };
            for host in cluster.hosts() {
                wanted.insert(host.id, (policy.clone(), cluster.clone(), host));
            }
        }
        self.running.retain(|id, (policy, task)| {
            let stays = wanted.get(id).is_some_and(|(wanted, ..)| wanted == policy);
            if !stays {
                task.abort();
            }
            stays
        });
        for (id, (policy, cluster, host)) in wanted {
            self.running.entry(id).or_insert_with(|| {
                let task = tokio::spawn(check(self.pool.clone(), cluster, host, policy.clone()));
                (policy, task.abort_handle())
            });
        }
        self.pool.sweep(Instant::now());
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.running.values().for_each(|(_, task)| task.abort());
    }
}

async fn check(pool: Arc<Pool>, cluster: Arc<Cluster>, host: Arc<Host>, policy: HealthCheck) {
    loop {
        let began = Instant::now();
        // What a check needs is there only while it runs: thousands of endpoints are waited for most of the time.
        let finding = match timeout(policy.timeout, Box::pin(find(&pool, &cluster, &host, &policy))).await {
            Ok(finding) => finding,
            Err(_) => Finding::Unreachable("no answer in time".into()),
        };
        let proof = if finding.passed() && host.ejected.load(Ordering::Relaxed) {
            timeout(policy.timeout, Box::pin(prove(&pool, &cluster, &host, &policy))).await.unwrap_or(Proof::None)
        } else {
            Proof::None
        };
        let out = cluster.checked(host.id, &finding, proof, began, Instant::now());
        let every = match policy.every_without_traffic {
            _ if out => policy.every_when_out(),
            Some(every) if !cluster.is_used() => every,
            _ => policy.every,
        };
        // Never a busy loop, whatever the configuration says.
        let pause = every.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        tokio::time::sleep(pause).await;
    }
}

async fn find(pool: &Arc<Pool>, cluster: &Arc<Cluster>, host: &Arc<Host>, policy: &HealthCheck) -> Finding {
    if let Some(service) = &policy.grpc_service {
        return grpc::find(cluster, host, policy, service).await;
    }
    let Some(path) = &policy.http_path else {
        let connect = Link::connect(cluster, host, u32::MAX, policy.timeout).await;
        return connect.map_or_else(|error| Finding::Unreachable(error.to_string()), |_| Finding::Passed);
    };
    match attempt::ask(pool, cluster, host, (Method::GET, path), AGENT).await {
        Ok(head) if head.status != StatusCode::OK => Finding::Unexpected(format!("status {}", head.status.as_u16())),
        Ok(head) if head.headers.contains_key(DEGRADED) => Finding::Degraded,
        Ok(_) => Finding::Passed,
        Err(cause) => Finding::Unreachable(cause),
    }
}

/// Asks an ejected endpoint what it failed at, so that nobody's request has to find out. A request that may not be sent
/// twice is not asked again; instead of it, any sign of life counts.
async fn prove(pool: &Arc<Pool>, cluster: &Arc<Cluster>, host: &Arc<Host>, policy: &HealthCheck) -> Proof {
    if cluster.view().config.protocol == UpstreamProtocol::Tcp {
        return Proof::Well;
    }
    let question = host.question();
    if question.is_none() && (policy.http_path.is_some() || policy.grpc_service.is_some()) {
        return Proof::Well;
    }
    let asked = match &question {
        Some(path) => attempt::ask(pool, cluster, host, (Method::GET, path), AGENT).await,
        None => attempt::ask(pool, cluster, host, (Method::OPTIONS, "*"), AGENT).await,
    };
    match asked {
        Ok(head) if question.is_some() && !head.status.is_server_error() => Proof::Well,
        Ok(_) => Proof::Alive,
        Err(_) => Proof::None,
    }
}
