//! CONNECT taken up ↔ `RouteAction` with a `connect_config`.

use envoy_types::pb::envoy::config::route::v3::{
    RouteAction,
    route_action::{ClusterSpecifier, UpgradeConfig, upgrade_config::ConnectConfig},
};

use super::wire::{Checked, duration, ensure_duration, ensure_name, read_duration, same, wrong, yes};
use crate::snapshot::Tunnel;

pub(super) fn validate(tunnel: &Tunnel) -> Checked<()> {
    ensure_name(&tunnel.cluster, "cluster")?;
    ensure_duration(tunnel.idle_timeout, "idle_timeout")
}

/// Envoy bounds a request from its end to its answer's end, which a tunnel's halves are not: its timeout is off.
pub(super) fn write(tunnel: &Tunnel) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(tunnel.cluster.clone())),
        timeout: duration(std::time::Duration::ZERO),
        idle_timeout: duration(tunnel.idle_timeout),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "CONNECT".to_owned(),
            enabled: yes(),
            connect_config: Some(ConnectConfig::default()),
        }],
        ..RouteAction::default()
    }
}

pub(super) fn read(action: &RouteAction) -> Checked<Tunnel> {
    let Some(ClusterSpecifier::Cluster(cluster)) = &action.cluster_specifier else {
        return wrong("cluster_specifier", "only one cluster is supported with connect_matcher");
    };
    let idle_timeout = read_duration(&action.idle_timeout, "idle_timeout")?;
    let tunnel = Tunnel { cluster: cluster.clone(), idle_timeout };
    same(action, &write(&tunnel))?;
    Ok(tunnel)
}
