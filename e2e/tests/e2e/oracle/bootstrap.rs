//! A snapshot as a static Envoy bootstrap: the resources that a control plane would send, in one file, with a JSON access log.

use std::{net::SocketAddr, path::Path};

use envoy_types::pb::{
    envoy::{
        config::{
            accesslog::v3::{AccessLog, access_log::ConfigType as AccessLogConfig},
            bootstrap::v3::{Admin, Bootstrap, bootstrap::StaticResources},
            cluster::v3::{
                Cluster,
                cluster::{ClusterDiscoveryType, DiscoveryType},
            },
            core::v3::{
                Address, Node, SocketAddress, SubstitutionFormatString, address, socket_address::PortSpecifier,
                substitution_format_string::Format,
            },
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::{Listener, filter::ConfigType},
            route::v3::RouteConfiguration,
        },
        extensions::{
            access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat},
            filters::network::http_connection_manager::v3::{
                HttpConnectionManager, http_connection_manager::RouteSpecifier,
            },
        },
    },
    google::protobuf::{Any, Struct, Value, value::Kind},
};
use prost::{Message, Name};
use xds::{
    codec::{Resource, encode_resource, resources},
    snapshot::Snapshot,
};

/// Fields of the access log.
const LOGGED: [(&str, &str); 9] = [
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("enforced", "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_engine_result)%"),
    ("enforced_policy", "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%"),
    ("shadow", "%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_engine_result)%"),
    ("shadow_policy", "%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_effective_policy_id)%"),
];

/// Encodes the bootstrap; Envoy reads it from a file named `*.pb`.
pub fn encode(snapshot: &Snapshot, admin: SocketAddr, access_log: &Path) -> Vec<u8> {
    let (mut clusters, mut listeners) = (Vec::new(), Vec::new());
    let (mut endpoints, mut routes) = (Vec::new(), Vec::new());
    for resource in resources(snapshot) {
        let bytes = encode_resource(&resource).unwrap_or_else(|error| panic!("{error}"));
        match resource {
            Resource::Cluster(_) => clusters.push(decode::<Cluster>(&bytes)),
            Resource::Endpoints(_) => endpoints.push(decode::<ClusterLoadAssignment>(&bytes)),
            Resource::Listener(_) => listeners.push(decode::<Listener>(&bytes)),
            Resource::Routes(_) => routes.push(decode::<RouteConfiguration>(&bytes)),
            other => panic!("{} is in no case", other.name()),
        }
    }
    for cluster in &mut clusters {
        let set = endpoints.iter().find(|set| set.cluster_name == cluster.name);
        cluster.load_assignment = Some(set.expect("every cluster has endpoints").clone());
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
        cluster.eds_cluster_config = None;
    }
    listeners.iter_mut().for_each(|listener| settle(listener, &routes, access_log));
    let bootstrap = Bootstrap {
        node: Some(Node { id: "oracle".to_owned(), cluster: "oracle".to_owned(), ..Node::default() }),
        admin: Some(Admin { address: socket(admin), ..Admin::default() }),
        static_resources: Some(StaticResources { listeners, clusters, ..StaticResources::default() }),
        ..Bootstrap::default()
    };
    bootstrap.encode_to_vec()
}

/// Puts the route table in the place of its name, and the access log beside it.
fn settle(listener: &mut Listener, routes: &[RouteConfiguration], access_log: &Path) {
    for filter in listener.filter_chains.iter_mut().flat_map(|chain| &mut chain.filters) {
        let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type else { continue };
        if any.type_url != HttpConnectionManager::type_url() {
            continue;
        }
        let mut manager: HttpConnectionManager = decode(&any.value);
        if let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier {
            let table = routes.iter().find(|table| table.name == rds.route_config_name);
            manager.route_specifier = Some(RouteSpecifier::RouteConfig(table.expect("every table is there").clone()));
        }
        manager.access_log = vec![log(access_log)];
        any.value = manager.encode_to_vec();
    }
}

fn log(path: &Path) -> AccessLog {
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = LOGGED.iter().map(|(name, text)| ((*name).to_owned(), value(text)));
    let format = SubstitutionFormatString {
        format: Some(Format::JsonFormat(Struct { fields: fields.collect() })),
        ..SubstitutionFormatString::default()
    };
    let file = FileAccessLog {
        path: path.to_str().expect("UTF-8").to_owned(),
        access_log_format: Some(AccessLogFormat::LogFormat(format)),
    };
    let config = Any { type_url: FileAccessLog::type_url(), value: file.encode_to_vec() };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(AccessLogConfig::TypedConfig(config)),
        ..AccessLog::default()
    }
}

fn socket(address: SocketAddr) -> Option<Address> {
    Some(Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
            ..SocketAddress::default()
        })),
    })
}

fn decode<T: Message + Default>(bytes: &[u8]) -> T {
    T::decode(bytes).expect("what was encoded a moment ago")
}
