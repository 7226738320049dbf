//! What a stock Envoy is told beside a snapshot by whoever runs it on this machine: which endpoints drain, which
//! faults are leased, and the certificate with its key. None of it is ever in a snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, HealthStatus, TransportSocket, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{
            CommonTlsContext, DownstreamTlsContext, Secret, TlsCertificate, UpstreamTlsContext, secret::Type,
        },
    },
    google::protobuf::Any,
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{
    Resource, Spot, cluster, endpoints, layer, listener, log, routes,
    wire::{ads, read_transport_socket, transport_socket},
};
use crate::{resource::ResourceKind, snapshot::RouteAction};

/// Name of the secret with the own certificate.
pub const IDENTITY: &str = "identity";

/// What no snapshot has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Endpoints (cluster, endpoint name) that get nothing new, while checks of their health go on.
    pub draining: BTreeSet<(String, String)>,
    /// Faults that are in force only as long as the layer of the runtime has this key.
    pub gates: BTreeMap<Spot, String>,
    /// The percent of requests that are logged to whoever runs the Envoy, unless the layer says otherwise; `None` is no such log.
    pub requests: Option<u8>,
    /// The own certificate by SDS; `None` leaves it to the bootstrap.
    pub identity: Option<KeyPair>,
}

/// A certificate chain and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// Leaf first.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

impl Beside {
    /// Whether it makes another of what has no mark, too.
    pub(crate) fn amends(&self) -> bool {
        self.identity.is_some() || self.requests.is_some()
    }

    /// Stands behind a resource's version where this makes another of it.
    pub(crate) fn mark(&self, resource: &Resource) -> String {
        match resource {
            Resource::Endpoints(set) => {
                let drains = self.draining.iter().filter(|(cluster, _)| *cluster == set.cluster);
                drains.fold(String::new(), |mark, (_, endpoint)| mark + "~" + endpoint)
            }
            Resource::Routes(table) => {
                let keys: BTreeSet<&String> = self.gates_of(&table.name).map(|(_, key)| key).collect();
                keys.into_iter().fold(String::new(), |mark, key| mark + "~" + key)
            }
            _ => String::new(),
        }
    }

    fn gates_of(&self, table: &str) -> impl Iterator<Item = (&Spot, &String)> {
        self.gates.iter().filter(move |(spot, _)| spot.table == table)
    }

    /// The secret: name, version and body.
    pub(crate) fn secret(&self) -> Option<(String, String, Any)> {
        let KeyPair { certificate, key } = self.identity.as_ref()?;
        let inline = |text: &str| {
            Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..DataSource::default() })
        };
        let pair = TlsCertificate {
            certificate_chain: inline(certificate),
            private_key: inline(key),
            ..TlsCertificate::default()
        };
        let secret = Secret { name: IDENTITY.to_owned(), r#type: Some(Type::TlsCertificate(pair)) };
        // A certificate is public, and there is a new one for every new key.
        let version = Sha256::digest(certificate).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let body = Any { type_url: ResourceKind::Trust.type_url().to_owned(), value: secret.encode_to_vec() };
        Some((IDENTITY.to_owned(), version, body))
    }

    /// Another body for a resource, if this makes one.
    pub(super) fn amend(&self, resource: &Resource) -> Option<Vec<u8>> {
        match resource {
            Resource::Endpoints(set) => {
                let mut message = endpoints::write(set);
                let mut drained = false;
                for (locality, written) in set.localities.iter().zip(&mut message.endpoints) {
                    for (endpoint, written) in locality.endpoints.iter().zip(&mut written.lb_endpoints) {
                        if self.draining.contains(&(set.cluster.clone(), endpoint.name.clone())) {
                            written.health_status = HealthStatus::Draining.into();
                            drained = true;
                        }
                    }
                }
                drained.then(|| message.encode_to_vec())
            }
            Resource::Cluster(cluster) => {
                self.identity.as_ref()?;
                let mut message = cluster::write(cluster);
                message.transport_socket = Some(upstream(message.transport_socket.as_ref()?)?);
                Some(message.encode_to_vec())
            }
            Resource::Listener(listener) => {
                let mut message = listener::write(listener);
                for chain in &mut message.filter_chains {
                    if let (Some(_), Some(socket)) = (&self.identity, &chain.transport_socket) {
                        chain.transport_socket = Some(downstream(socket)?);
                    }
                    if let Some(percent) = self.requests {
                        chain.filters.iter_mut().for_each(|filter| log::requests(filter, &listener.name, percent));
                    }
                }
                Some(message.encode_to_vec())
            }
            Resource::Routes(table) => {
                let mut message = routes::write(table);
                for (spot, key) in self.gates_of(&table.name) {
                    let RouteAction::Forward(forward) = &table.hosts.get(spot.host)?.routes.get(spot.route)?.action
                    else {
                        continue;
                    };
                    let written = message.virtual_hosts.get_mut(spot.host)?.routes.get_mut(spot.route)?;
                    layer::gate(&mut written.typed_per_filter_config, forward.faults.get(spot.fault)?, key);
                }
                Some(message.encode_to_vec())
            }
            Resource::Trust(_) | Resource::Overlay(_) => None,
        }
    }
}

fn upstream(socket: &TransportSocket) -> Option<TransportSocket> {
    let mut context: UpstreamTlsContext = read_transport_socket(socket).ok()?;
    by_sds(context.common_tls_context.as_mut()?);
    transport_socket(&context)
}

fn downstream(socket: &TransportSocket) -> Option<TransportSocket> {
    let mut context: DownstreamTlsContext = read_transport_socket(socket).ok()?;
    by_sds(context.common_tls_context.as_mut()?);
    transport_socket(&context)
}

fn by_sds(context: &mut CommonTlsContext) {
    for certificate in &mut context.tls_certificate_sds_secret_configs {
        certificate.sds_config = ads();
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;

    use super::*;
    use crate::snapshot::{Cluster, ClusterTls, Endpoint, EndpointSet, Locality, UpstreamProtocol};

    #[test]
    fn an_endpoint_that_drains_is_another_version_of_its_set() {
        let endpoint = |name: &str, port| Endpoint {
            name: name.to_owned(),
            address: std::net::SocketAddr::from(([127, 0, 0, 1], port)),
            version: String::new(),
            weight: 1,
        };
        let endpoints = vec![endpoint("a", 1), endpoint("b", 2)];
        let locality = Locality { region: "east".into(), zone: String::new(), priority: 0, weight: 1, endpoints };
        let set = Resource::Endpoints(EndpointSet { cluster: "fx".into(), localities: vec![locality] });
        let nothing = Beside::default();
        assert_eq!((nothing.mark(&set), nothing.amend(&set)), (String::new(), None));
        let beside = Beside { draining: BTreeSet::from([("fx".into(), "b".into())]), ..Beside::default() };
        assert_eq!(beside.mark(&set), "~b");
        let set = ClusterLoadAssignment::decode(beside.amend(&set).unwrap().as_slice()).unwrap();
        let states: Vec<i32> = set.endpoints[0].lb_endpoints.iter().map(|endpoint| endpoint.health_status).collect();
        assert_eq!(states, [HealthStatus::Unknown.into(), i32::from(HealthStatus::Draining)]);
    }

    #[test]
    fn the_certificate_is_asked_for_and_its_key_not_printed() {
        let pair = KeyPair { certificate: "public".into(), key: "private".into() };
        let beside = Beside { identity: Some(pair), ..Beside::default() };
        assert!(!format!("{beside:?}").contains("private"));
        let (name, version, _) = beside.secret().unwrap();
        assert_eq!((name.as_str(), version.len()), (IDENTITY, 16));
        let mut fx = Cluster::new("fx", UpstreamProtocol::Http1);
        assert_eq!(beside.amend(&Resource::Cluster(fx.clone())), None);
        fx.tls = Some(ClusterTls { trust: "mesh".into(), server_ids: vec!["spiffe://a/service/fx".into()] });
        let body = beside.amend(&Resource::Cluster(fx)).unwrap();
        let message = envoy_types::pb::envoy::config::cluster::v3::Cluster::decode(body.as_slice()).unwrap();
        let context: UpstreamTlsContext = read_transport_socket(&message.transport_socket.unwrap()).unwrap();
        let certificates = context.common_tls_context.unwrap().tls_certificate_sds_secret_configs;
        assert!(certificates.iter().all(|certificate| certificate.sds_config.is_some()));
    }
}
