//! Load reports (LRS): what proxies did with each locality of each cluster, between two reports.

use std::time::Duration;

use envoy_types::pb::{
    envoy::config::{
        core::v3 as core,
        endpoint::v3::{ClusterStats, UpstreamLocalityStats},
    },
    google::protobuf,
};
use serde::{Deserialize, Serialize};

/// Longest name of a cluster, region or zone that is taken over, in bytes.
const LONGEST_NAME: usize = 256;

/// A cluster since the report before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterLoad {
    /// Its name.
    pub cluster: String,
    /// Since the report before.
    pub interval: Duration,
    /// Its localities.
    pub localities: Vec<LocalityLoad>,
}

/// A locality in some time: since the report before, where it is a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalityLoad {
    /// The failure domain.
    pub region: String,
    /// Inside the region; empty without one.
    pub zone: String,
    /// Its tier.
    pub priority: u32,
    /// Requests sent to it; a repeat is another one.
    pub issued: u64,
    /// Requests that ended well.
    pub successful: u64,
    /// Requests that failed: no answer, or a status of 500 and above.
    pub errors: u64,
    /// Requests in flight at the end.
    pub in_progress: u64,
}

impl ClusterLoad {
    /// As Envoy says it; `None` where it has no name, or one that nobody gave it.
    pub(crate) fn from_proto(stats: &ClusterStats) -> Option<Self> {
        let fits = |name: &str| name.len() <= LONGEST_NAME;
        if stats.cluster_name.is_empty() || !fits(&stats.cluster_name) {
            return None;
        }
        let locality = |stats: &UpstreamLocalityStats| {
            let place = stats.locality.clone().unwrap_or_default();
            (fits(&place.region) && fits(&place.zone)).then_some(LocalityLoad {
                region: place.region,
                zone: place.zone,
                priority: stats.priority,
                issued: stats.total_issued_requests,
                successful: stats.total_successful_requests,
                errors: stats.total_error_requests,
                in_progress: stats.total_requests_in_progress,
            })
        };
        let interval = stats.load_report_interval.unwrap_or_default();
        let (seconds, nanos) = (u64::try_from(interval.seconds), u32::try_from(interval.nanos));
        Some(Self {
            cluster: stats.cluster_name.clone(),
            // A negative one is none.
            interval: seconds
                .ok()
                .zip(nanos.ok())
                .map(|(s, n)| Duration::new(s, n.min(999_999_999)))
                .unwrap_or_default(),
            localities: stats.upstream_locality_stats.iter().filter_map(locality).collect(),
        })
    }

    pub(crate) fn to_proto(&self) -> ClusterStats {
        let locality = |load: &LocalityLoad| UpstreamLocalityStats {
            locality: Some(core::Locality {
                region: load.region.clone(),
                zone: load.zone.clone(),
                ..core::Locality::default()
            }),
            total_successful_requests: load.successful,
            total_requests_in_progress: load.in_progress,
            total_error_requests: load.errors,
            total_issued_requests: load.issued,
            priority: load.priority,
            ..UpstreamLocalityStats::default()
        };
        ClusterStats {
            cluster_name: self.cluster.clone(),
            upstream_locality_stats: self.localities.iter().map(locality).collect(),
            load_report_interval: Some(protobuf::Duration {
                seconds: i64::try_from(self.interval.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(self.interval.subsec_nanos()).unwrap_or_default(),
            }),
            ..ClusterStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let locality = LocalityLoad {
            region: "east".into(),
            zone: "a".into(),
            priority: 1,
            issued: 9,
            successful: 7,
            errors: 1,
            in_progress: 3,
        };
        let interval = Duration::from_millis(9_950);
        let load = ClusterLoad { cluster: "fx".into(), interval, localities: vec![locality] };
        assert_eq!(ClusterLoad::from_proto(&load.to_proto()), Some(load.clone()));
        let long = ClusterLoad { cluster: "x".repeat(LONGEST_NAME + 1), ..load };
        assert_eq!(ClusterLoad::from_proto(&long.to_proto()), None);
        assert_eq!(ClusterLoad::from_proto(&ClusterStats::default()), None);
    }
}
