//! Active health checks: a task for each endpoint, over the same transport as traffic.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::task::AbortHandle;
use xds::snapshot::HealthCheck;

use crate::{
    http::{attempt, pool::Pool},
    link::Link,
    upstream::{
        cluster::Cluster,
        health::Finding,
        host::{Host, HostId},
    },
};

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
        let finding = match tokio::time::timeout(policy.timeout, find(&pool, &cluster, &host, &policy)).await {
            Ok(finding) => finding,
            Err(_) => Finding::Unreachable("no answer in time".into()),
        };
        cluster.checked(host.id, &finding, began, Instant::now());
        // Never a busy loop, whatever the configuration says.
        let pause = policy.every.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        tokio::time::sleep(pause).await;
    }
}

async fn find(pool: &Arc<Pool>, cluster: &Arc<Cluster>, host: &Arc<Host>, policy: &HealthCheck) -> Finding {
    let Some(path) = &policy.http_path else {
        let connect = Link::connect(cluster, host, u32::MAX, policy.timeout).await;
        return connect.map_or_else(|error| Finding::Unreachable(error.to_string()), |_| Finding::Passed);
    };
    match attempt::ask(pool, cluster, host, path, "firedrill-check").await {
        Ok(StatusCode::OK) => Finding::Passed,
        Ok(status) => Finding::Status(status.as_u16()),
        Err(cause) => Finding::Unreachable(cause),
    }
}
