//! Active health checks: a task for each endpoint, over the same transport as traffic.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, Request, StatusCode, uri::Authority};
use tokio::task::AbortHandle;
use xds::snapshot::HealthCheck;

use crate::{
    http::{
        body::Replay,
        message,
        pool::{Pool, Sender},
    },
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
    let view = cluster.view();
    let Some(path) = &policy.http_path else {
        let connect = Link::connect(cluster, host, u32::MAX, policy.timeout).await;
        return connect.map_or_else(|error| Finding::Unreachable(error.to_string()), |_| Finding::Passed);
    };
    let head = Request::builder().method(Method::GET).uri(path.as_str()).header("user-agent", "firedrill-check");
    let (Ok(authority), Ok(head)) = (Authority::try_from(view.config.service.as_str()), head.body(())) else {
        return Finding::Unreachable("the check's path or the service's name cannot be sent".into());
    };
    let (head, ()) = head.into_parts();
    // A kept connection may have ended unnoticed; only a fresh one that fails tells about the endpoint.
    for last in [false, true] {
        let taken = match pool.take(cluster, &view, host).await {
            Ok(taken) => taken,
            Err(error) => return Finding::Unreachable(error.to_string()),
        };
        let request = message::for_upstream(&head, &authority, view.config.protocol, view.config.tls.is_some());
        let request = request.map(|()| Replay::empty().reader());
        let mut sender = taken.sender;
        let result = match &mut sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        };
        match result {
            Ok(response) => {
                pool.give_back(host.id, sender, &taken.busy);
                let status = response.status();
                return if status == StatusCode::OK { Finding::Passed } else { Finding::Status(status.as_u16()) };
            }
            Err(error) if last => return Finding::Unreachable(error.to_string()),
            Err(_) => {}
        }
    }
    Finding::Unreachable("connection ended".into())
}
