//! Connections that are kept open to the endpoints that take over next, so that a failover pays for no handshake. Each
//! worker keeps its own; what decides who takes over is the cluster's view.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;
use xds::snapshot::RoutingPriority;

use crate::{
    http::pool::Pool,
    link::ConnectError,
    state::{Shared, State},
    upstream::{
        cluster::Cluster,
        host::{Host, Lane},
        view::View,
    },
};

/// How often it is looked after them. What a server closed for its idleness is open again after that.
const EVERY: Duration = Duration::from_secs(1);
/// Endpoints of a cluster that connections are kept to.
const MOST_HOSTS: usize = 16;

/// A cluster in use and who takes over there.
struct Wanted {
    cluster: Arc<Cluster>,
    view: Arc<View>,
    /// Whose requests there were.
    priority: RoutingPriority,
    hosts: Vec<Arc<Host>>,
}

/// Keeps them until the process drains.
pub async fn keep(shared: Arc<Shared>, pool: Arc<Pool>) {
    let mut draining = shared.draining.subscribe();
    let mut turns = tokio::time::interval(EVERY);
    // An endpoint that takes packets and says nothing makes a turn long.
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = draining.wait_for(|draining| *draining) => return pool.stand_by(Default::default()),
            _ = turns.tick() => {}
        }
        let wanted = wanted(&shared.state.load());
        let each = wanted.iter().flat_map(|Wanted { view, priority, hosts, .. }| {
            hosts.iter().map(|host| (Lane::new(host, *priority), view.config.standby_connections))
        });
        pool.stand_by(each.collect());
        join_all(wanted.iter().map(|wanted| fill(&shared, &pool, wanted))).await;
    }
}

/// A cluster that nobody has used yet costs nothing, nor does a priority.
fn wanted(state: &State) -> Vec<Wanted> {
    let each = state.clusters.values().flat_map(|cluster| RoutingPriority::ALL.map(|priority| (cluster, priority)));
    let wanted = each.filter_map(|(cluster, priority)| {
        let view = cluster.view();
        if view.config.standby_connections == 0 || !cluster.counters(priority).asked() {
            return None;
        }
        let hosts: Vec<_> = view.standby().take(MOST_HOSTS).cloned().collect();
        (!hosts.is_empty()).then(|| Wanted { cluster: cluster.clone(), view, priority, hosts })
    });
    wanted.collect()
}

/// Opens what is missing, one after the other: a standby that many proxies find at once is not met by all of it together.
async fn fill(shared: &Shared, pool: &Arc<Pool>, wanted: &Wanted) {
    let Wanted { cluster, view, priority, hosts } = wanted;
    for host in hosts.iter().filter(|host| host.gate.is_open()) {
        for _ in pool.open(host, *priority)..usize::from(view.config.standby_connections) {
            let began = Instant::now();
            match pool.prepare(cluster, view, host, *priority).await {
                Ok(()) => shared.metrics.standby("opened"),
                Err(ConnectError::Overflow) => return shared.metrics.standby("noRoom"),
                Err(error) => {
                    // Requests and checks find out what that says about the endpoint.
                    shared.metrics.standby("failed");
                    let took = began.elapsed();
                    tracing::debug!(endpoint = host.name, %error, ?took, "no connection to a standby");
                    break;
                }
            }
        }
    }
}
