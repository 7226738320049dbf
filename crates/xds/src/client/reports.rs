//! Load reports to the control plane (LRS), beside the stream of configuration and over the same connection.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use envoy_types::pb::envoy::service::load_stats::v3::{
    LoadStatsRequest, LoadStatsResponse, load_reporting_service_client::LoadReportingServiceClient,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use crate::{load::ClusterLoad, node::NodeInfo};

/// How often at most, and at least, whatever is asked for.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Answers what was done since it was last asked.
#[derive(Clone)]
pub struct Loads(Arc<dyn Fn() -> Vec<ClusterLoad> + Send + Sync>);

impl Loads {
    /// Asked for each report.
    pub fn new(since_last: impl Fn() -> Vec<ClusterLoad> + Send + Sync + 'static) -> Self {
        Self(Arc::new(since_last))
    }
}

impl fmt::Debug for Loads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loads").finish_non_exhaustive()
    }
}

/// Reports until the stream ends: a control plane that takes no reports ends it at once.
pub(super) async fn report(channel: Channel, node: NodeInfo, loads: Loads) {
    if let Err(status) = stream(channel, &node, &loads).await {
        tracing::debug!(%status, "no load reports");
    }
}

async fn stream(channel: Channel, node: &NodeInfo, loads: &Loads) -> Result<(), Status> {
    // A report that finds the one before it unsent is left out.
    let (reports, outgoing) = mpsc::channel(1);
    let first = LoadStatsRequest { node: Some(node.to_proto()), cluster_stats: Vec::new() };
    // There is room for it.
    let _ = reports.try_send(first);
    let mut client = LoadReportingServiceClient::new(channel);
    let mut answers = client.stream_load_stats(ReceiverStream::new(outgoing)).await?.into_inner();
    let Some(mut asked) = answers.message().await? else { return Ok(()) };
    let mut last = Instant::now();
    loop {
        tokio::select! {
            answer = answers.message() => match answer? {
                Some(answer) => asked = answer,
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(last + interval(&asked)) => {
                last = Instant::now();
                let wanted: HashSet<&str> = asked.clusters.iter().map(String::as_str).collect();
                let wants = |load: &ClusterLoad| asked.send_all_clusters || wanted.contains(load.cluster.as_str());
                let cluster_stats = loads.0().iter().filter(|load| wants(load)).map(ClusterLoad::to_proto).collect();
                if let Err(mpsc::error::TrySendError::Closed(_)) = reports.try_send(LoadStatsRequest { node: None, cluster_stats }) {
                    return Ok(());
                }
            }
        }
    }
}

fn interval(asked: &LoadStatsResponse) -> Duration {
    let seconds = asked.load_reporting_interval.map_or(0, |interval| interval.seconds);
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).clamp(INTERVALS.0, INTERVALS.1)
}
