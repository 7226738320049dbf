//! Active health checks of every endpoint, over the same transport as traffic.

mod exchange;
mod grpc;
mod rota;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use xds::snapshot::{self, HealthCheck, RoutingPriority, UpstreamProtocol};

use self::rota::Rota;
use crate::{
    http::{attempt, message, pool::Pool},
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

/// Between the first checks of endpoints that came together: thousands of them do not start in one burst.
const PACE: Duration = Duration::from_micros(200);

/// Checks at once. Thousands of endpoints that answer do not need as many; of as many that hang, each has its turn later.
const AT_ONCE: usize = 1024;

/// An endpoint that is to be checked, as its cluster's configuration says.
#[derive(Clone, Debug)]
struct Target {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    config: Arc<snapshot::Cluster>,
}

impl Target {
    fn policy(&self) -> Option<&HealthCheck> {
        self.config.health_check.as_ref()
    }
}

type Targets = HashMap<HostId, Target>;

/// The checks that run: one task that knows whose turn is next, and one for each check under way.
#[derive(Debug, Default)]
pub struct Checks {
    running: Option<(watch::Sender<Arc<Targets>>, AbortHandle)>,
}

impl Checks {
    /// Starts and ends checks so that they fit the clusters. New ones begin at once.
    pub fn follow<'a>(&mut self, clusters: impl Iterator<Item = &'a Arc<Cluster>>) {
        let mut targets = Targets::new();
        for cluster in clusters {
            let config = cluster.view().config.clone();
            if config.health_check.is_none() {
                continue;
            }
            for host in cluster.hosts() {
                targets.insert(host.id, Target { cluster: cluster.clone(), host, config: config.clone() });
            }
        }
        if let Some((sender, _)) = &self.running {
            sender.send_replace(Arc::new(targets));
        } else if !targets.is_empty() {
            let (sender, mut wanted) = watch::channel(Arc::new(targets));
            wanted.mark_changed();
            self.running = Some((sender, tokio::spawn(run(wanted)).abort_handle()));
        }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.running.iter().for_each(|(_, task)| task.abort());
    }
}

async fn run(mut wanted: watch::Receiver<Arc<Targets>>) {
    let pool = Arc::new(Pool::default());
    let mut rota = Rota::default();
    let mut targets = Arc::<Targets>::default();
    let mut under_way = JoinSet::new();
    loop {
        let next = rota.next_deadline().filter(|_| under_way.len() < AT_ONCE);
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = Instant::now();
                let after = wanted.borrow_and_update().clone();
                follow(&mut rota, &targets, &after, now);
                targets = after;
                pool.sweep(now);
            }
            Some(Ok((id, turn, at))) = under_way.join_next() => rota.again(id, turn, at),
            () = due => while under_way.len() < AT_ONCE
                && let Some((id, turn)) = rota.due(Instant::now())
            {
                if let Some(target) = targets.get(&id).cloned() {
                    let pool = pool.clone();
                    under_way.spawn(async move { (id, turn, check(&pool, &target).await) });
                }
            },
        }
    }
}

/// Who is new, or checked otherwise than before, has its turn soon.
fn follow(rota: &mut Rota, before: &Targets, after: &Targets, now: Instant) {
    before.keys().filter(|id| !after.contains_key(id)).for_each(|id| rota.leave(*id));
    let fresh = after.iter().filter(|(id, target)| before.get(id).is_none_or(|old| old.policy() != target.policy()));
    for ((id, _), place) in fresh.zip(0u32..) {
        rota.enter(*id, now + PACE * place);
    }
}

/// Checks an endpoint once; when it is to be checked again.
async fn check(pool: &Arc<Pool>, target: &Target) -> Instant {
    let Target { cluster, host, .. } = target;
    let began = Instant::now();
    // Who is not checked is no target.
    let Some(policy) = target.policy() else { return began + Duration::from_secs(1) };
    let (finding, mut link) = match timeout(policy.timeout, find(pool, cluster, host, policy)).await {
        Ok(found) => found,
        Err(_) => (Finding::Unreachable("no answer in time".into()), None),
    };
    let proof = if finding.passed() && host.ejected.load(Ordering::Relaxed) {
        Box::pin(prove(pool, target, policy, link.take())).await
    } else {
        Proof::None
    };
    let out = cluster.checked(host.id, &finding, proof, began, Instant::now());
    if let Some(link) = link
        && !out
        && target.config.protocol == UpstreamProtocol::Tcp
    {
        learn(host, *link, policy).await;
    }
    let every = match policy.every_without_traffic {
        _ if out => policy.every_when_out(),
        Some(every) if !cluster.is_used() => every,
        _ => policy.every,
    };
    // Never a busy loop, whatever the configuration says.
    (began + every).max(Instant::now() + Duration::from_millis(1))
}

/// What the check finds, and the connection of one that only connects. What a check needs that asks is boxed: most of them
/// only connect, and a thousand may be under way.
async fn find(
    pool: &Arc<Pool>,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    policy: &HealthCheck,
) -> (Finding, Option<Box<Link>>) {
    if let Some(service) = &policy.grpc_service {
        return (Box::pin(grpc::find(cluster, host, policy, service)).await, None);
    }
    let Some(path) = &policy.http_path else {
        return match Link::connect(cluster, host, (RoutingPriority::Default, u32::MAX), policy.timeout).await {
            Ok(link) => match &policy.exchange {
                Some(exchange) => (Box::pin(exchange::find(link, exchange)).await, None),
                None => (Finding::Passed, Some(Box::new(link))),
            },
            Err(error) => (Finding::Unreachable(error.to_string()), None),
        };
    };
    let finding = match Box::pin(attempt::ask(pool, cluster, host, (Method::GET, path), message::CHECK_AGENT)).await {
        Ok(head) if head.status != StatusCode::OK => Finding::Unexpected(format!("status {}", head.status.as_u16())),
        Ok(head) if head.headers.contains_key(DEGRADED) => Finding::Degraded,
        Ok(_) => Finding::Passed,
        Err(cause) => Finding::Unreachable(cause),
    };
    (finding, None)
}

/// Finds out what an endpoint that is in does at the end of a connection, unless that is known. The check has its result.
async fn learn(host: &Host, link: Link, policy: &HealthCheck) {
    if host.farewells().is_due(Instant::now()) {
        let answered = Box::pin(link.farewell(policy.timeout.min(HealthCheck::LONGEST_WHEN_OUT))).await;
        // Who hangs says nothing of what it does when it is well.
        if !host.ejected.load(Ordering::Relaxed) {
            host.farewells().bidden(answered, Instant::now());
        }
    }
}

/// Asks an ejected endpoint what it failed at, so that nobody's request has to find out. A request that may not be sent
/// twice is not asked again; the check that has passed, or an answer to a harmless question, stands in for it.
async fn prove(pool: &Arc<Pool>, target: &Target, policy: &HealthCheck, link: Option<Box<Link>>) -> Proof {
    if target.config.protocol != UpstreamProtocol::Tcp {
        let asking = ask(pool, &target.cluster, &target.host, policy);
        return timeout(policy.timeout, asking).await.unwrap_or(Proof::None);
    }
    if policy.exchange.is_some() {
        // What was said and heard is what users do there.
        return Proof::Well;
    }
    let host = &target.host;
    let answers = host.farewells().answers();
    // Who is not known to answer is not waited for longer than the looks are apart.
    let patience = if answers { policy.timeout } else { policy.timeout.min(policy.every_when_out()) };
    let farewell = match link {
        Some(link) => Some(link.farewell(patience).await),
        None => None,
    };
    match farewell {
        _ if host.has_spoken() => Proof::Well,
        Some(true) => Proof::Farewell,
        Some(false) if answers => Proof::None,
        _ => Proof::Seeming,
    }
}

async fn ask(pool: &Arc<Pool>, cluster: &Arc<Cluster>, host: &Arc<Host>, policy: &HealthCheck) -> Proof {
    let question = host.question();
    if question.is_none() && (policy.http_path.is_some() || policy.grpc_service.is_some()) {
        return Proof::Seeming;
    }
    let asked = match &question {
        Some(path) => attempt::ask(pool, cluster, host, (Method::GET, path), message::CHECK_AGENT).await,
        None => attempt::ask(pool, cluster, host, (Method::OPTIONS, "*"), message::CHECK_AGENT).await,
    };
    match asked {
        Ok(head) if question.is_some() && !head.status.is_server_error() => Proof::Well,
        Ok(head) if !head.status.is_server_error() => Proof::Seeming,
        Ok(_) => Proof::Alive,
        Err(_) => Proof::None,
    }
}
