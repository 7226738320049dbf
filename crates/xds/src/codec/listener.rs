//! Listeners ↔ `Listener`.

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::TrafficDirection,
            listener::v3::{self as pb, Filter, FilterChain, filter::ConfigType},
        },
        extensions::filters::network::{
            connection_limit::v3::ConnectionLimit,
            http_connection_manager::v3::HttpConnectionManager,
            tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
        },
    },
    google::protobuf::{Any, UInt64Value},
};
use prost::Name;
use serde::{Deserialize, Serialize};

use super::{
    http, tls,
    wire::{
        At, Checked, duration, ensure, ensure_duration, ensure_name, metadata, need, pack, read_duration,
        read_metadata, read_socket, read_transport_socket, same, socket, transport_socket, unpack, wrong,
    },
};
use crate::{
    human,
    snapshot::{BODY_TIMEOUT, Direction, HOUR, HttpListener, Listener, ListenerProtocol, ListenerTls, MINIMUM_RATE},
};

const MANAGER: &str = "envoy.filters.network.http_connection_manager";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const CONNECTIONS: &str = "envoy.filters.network.connection_limit";

/// Envoy counts header bytes in whole kibibytes, its limit on concurrency knows one class of requests, and it has one bound
/// on silence for a request's body and all other streams.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Extra {
    header_bytes: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    low_percent: Option<u8>,
    /// As text; left out where it is the default.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    body_timeout: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    minimum_rate: Option<u32>,
}

impl Extra {
    fn of(http: &HttpListener) -> Self {
        let limits = &http.limits;
        Self {
            header_bytes: limits.header_bytes,
            low_percent: http.admission.as_ref().map(|limit| limit.low_percent),
            body_timeout: Some(limits.body_timeout).filter(|time| *time != BODY_TIMEOUT),
            minimum_rate: Some(limits.minimum_rate).filter(|rate| *rate != MINIMUM_RATE),
        }
    }
}

pub(super) fn validate(listener: &Listener) -> Checked<()> {
    ensure_name(&listener.name, "name")?;
    ensure(listener.address.port() != 0, "address", || "has no port".to_owned())?;
    if let Some(tls) = &listener.tls {
        ensure_name(&tls.trust, "transport_socket.trust")?;
    }
    match &listener.protocol {
        ListenerProtocol::Http(http) => http::validate(http, listener.direction),
        ListenerProtocol::Tcp { cluster, idle_timeout } => {
            ensure_name(cluster, "tcp_proxy.cluster")?;
            ensure_duration(*idle_timeout, "tcp_proxy.idle_timeout")
        }
    }
}

pub(super) fn write(listener: &Listener) -> pb::Listener {
    let (filters, extra) = match &listener.protocol {
        ListenerProtocol::Http(http) => {
            let limit = ConnectionLimit {
                stat_prefix: listener.name.clone(),
                max_connections: Some(UInt64Value { value: u64::from(http.limits.connections) }),
                ..ConnectionLimit::default()
            };
            let manager = http::write(http, &listener.name, listener.direction);
            let filters = vec![filter(CONNECTIONS, &limit), filter(MANAGER, &manager)];
            (filters, metadata(&Extra::of(http)))
        }
        ListenerProtocol::Tcp { cluster, idle_timeout } => {
            (vec![filter(TCP_PROXY, &write_tcp(&listener.name, cluster, *idle_timeout))], None)
        }
    };
    let tls = listener.tls.as_ref();
    let tls = tls.and_then(|tls| transport_socket(&tls::write_listener(tls, alpn(&listener.protocol))));
    pb::Listener {
        name: listener.name.clone(),
        address: socket(listener.address),
        traffic_direction: write_direction(listener.direction).into(),
        filter_chains: vec![FilterChain { filters, transport_socket: tls, ..FilterChain::default() }],
        metadata: extra,
        ..pb::Listener::default()
    }
}

fn alpn(protocol: &ListenerProtocol) -> &'static [&'static str] {
    match protocol {
        ListenerProtocol::Http(_) => &["h2", "http/1.1"],
        ListenerProtocol::Tcp { .. } => &[],
    }
}

/// Envoy knows no gateway; traffic that is neither to nor from a workload beside the proxy has no direction.
fn write_direction(direction: Direction) -> TrafficDirection {
    match direction {
        Direction::Inbound => TrafficDirection::Inbound,
        Direction::Outbound => TrafficDirection::Outbound,
        Direction::Gateway => TrafficDirection::Unspecified,
    }
}

fn filter(name: &str, config: &impl Name) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(pack(config))) }
}

/// Envoy's own default is left out, as whoever does not know the field leaves it.
fn write_tcp(name: &str, cluster: &str, idle: Duration) -> TcpProxy {
    TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        idle_timeout: duration(idle).filter(|_| idle != HOUR),
        ..TcpProxy::default()
    }
}

pub(super) fn read(listener: &pb::Listener) -> Checked<Listener> {
    let direction = match TrafficDirection::try_from(listener.traffic_direction) {
        Ok(TrafficDirection::Inbound) => Direction::Inbound,
        Ok(TrafficDirection::Outbound) => Direction::Outbound,
        Ok(TrafficDirection::Unspecified) => Direction::Gateway,
        Err(_) => return wrong("traffic_direction", format!("{} is not supported", listener.traffic_direction)),
    };
    let address = read_socket(&listener.address, "address")?;
    let [chain] = listener.filter_chains.as_slice() else {
        return wrong("filter_chains", format!("{} of them, exactly one is supported", listener.filter_chains.len()));
    };
    let protocol = match chain.filters.as_slice() {
        [tcp] if tcp.name == TCP_PROXY => read_tcp(&listener.name, config(tcp)?).at("filter_chains[0].filters[0]")?,
        [limit, manager] if limit.name == CONNECTIONS && manager.name == MANAGER => {
            read_http(listener, direction, config(limit)?, config(manager)?).at("filter_chains[0]")?
        }
        filters => {
            let names: Vec<_> = filters.iter().map(|filter| filter.name.as_str()).collect();
            return wrong("filter_chains[0].filters", format!("{} is not supported", names.join(", ")));
        }
    };
    let tls = read_tls(chain, &protocol).at("filter_chains[0].transport_socket")?;
    Ok(Listener { name: listener.name.clone(), address, direction, tls, protocol })
}

fn config(filter: &Filter) -> Checked<&Any> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => Ok(any),
        _ => wrong("filter_chains[0].filters", format!("{} has no typed_config", filter.name)),
    }
}

fn read_tcp(name: &str, any: &Any) -> Checked<ListenerProtocol> {
    let proxy: TcpProxy = unpack(any)?;
    let Some(ClusterSpecifier::Cluster(cluster)) = &proxy.cluster_specifier else {
        return wrong("cluster_specifier", "only one cluster is supported");
    };
    let idle_timeout = match &proxy.idle_timeout {
        None => HOUR,
        Some(_) => read_duration(&proxy.idle_timeout, "idle_timeout")?,
    };
    same(&proxy, &write_tcp(name, cluster, idle_timeout))?;
    Ok(ListenerProtocol::Tcp { cluster: cluster.clone(), idle_timeout })
}

fn read_http(listener: &pb::Listener, direction: Direction, limit: &Any, manager: &Any) -> Checked<ListenerProtocol> {
    let extra: Extra = read_metadata(&listener.metadata)?;
    let limit: ConnectionLimit = unpack(limit).at("filters[0]")?;
    let connections = need(&limit.max_connections, "filters[0].max_connections")?.value;
    let Ok(connections) = u32::try_from(connections) else {
        return wrong("filters[0].max_connections", format!("{connections} is not supported"));
    };
    let manager: HttpConnectionManager = unpack(manager).at("filters[1]")?;
    let mut http = http::read(&manager).at("filters[1]")?;
    http.limits.connections = connections;
    http.limits.header_bytes = extra.header_bytes;
    http.limits.body_timeout = extra.body_timeout.unwrap_or(BODY_TIMEOUT);
    http.limits.minimum_rate = extra.minimum_rate.unwrap_or(MINIMUM_RATE);
    match (&mut http.admission, extra.low_percent) {
        (Some(limit), Some(percent)) => limit.low_percent = percent,
        (None, None) => {}
        (Some(_), None) => return wrong("metadata.firedrill.lowPercent", "is missing"),
        (None, Some(_)) => return wrong("metadata.firedrill.lowPercent", "is without a limit on concurrency"),
    }
    http::validate(&http, direction).at("filters[1]")?;
    same(&manager, &http::write(&http, &listener.name, direction)).at("filters[1]")?;
    Ok(ListenerProtocol::Http(http))
}

fn read_tls(chain: &FilterChain, protocol: &ListenerProtocol) -> Checked<Option<ListenerTls>> {
    let Some(socket) = &chain.transport_socket else { return Ok(None) };
    let context = read_transport_socket(socket)?;
    let tls = tls::read_listener(&context).at("typed_config")?;
    same(&context, &tls::write_listener(&tls, alpn(protocol))).at("typed_config")?;
    Ok(Some(tls))
}
