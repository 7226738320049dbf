//! The file a stock Envoy is started with so that it joins the mesh.

use std::{net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};

use crate::{
    codec::{CONTROL, LAYER},
    node::NodeInfo,
};

/// What an Envoy must know before its first message to the control plane.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Who it is; `admin` is where its admin interface listens (none without).
    pub node: NodeInfo,
    /// ADS address of the control plane.
    pub control: SocketAddr,
    /// SPIFFE id that the control plane's certificate must carry (URI SAN).
    pub control_id: String,
    /// PEM file with the roots that the control plane's certificate chains to.
    pub roots: PathBuf,
    /// PEM file with this proxy's certificate chain.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

impl Bootstrap {
    /// Renders the bootstrap as JSON, which Envoy reads from a file named `*.json` or `*.yaml` alike. It holds no
    /// secret: the control plane knows the proxy by its certificate.
    pub fn to_json(&self) -> String {
        let ads = json!({ "ads": {}, "resource_api_version": "V3" });
        let services = json!([{ "envoy_grpc": { "cluster_name": CONTROL, "authority": "control" } }]);
        let loads = json!({ "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": services });
        let mut bootstrap = json!({
            "node": self.node(),
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": services,
                },
                "cds_config": ads,
                "lds_config": ads,
            },
            "cluster_manager": { "load_stats_config": loads },
            "static_resources": { "secrets": [self.identity()], "clusters": [self.control_plane()] },
        });
        if let Some(admin) = self.node.admin {
            bootstrap["admin"] = json!({ "address": socket(admin) });
        }
        // Everything in it is text, numbers and lists; pretty, since people read it.
        format!("{bootstrap:#}\n")
    }

    fn node(&self) -> Value {
        let mut metadata = json!({ "service": self.node.service });
        if let Some(admin) = self.node.admin {
            metadata["admin"] = json!(admin.to_string());
        }
        json!({
            "id": self.node.id,
            // Envoy refuses to use ADS without a cluster; a gateway has no service.
            "cluster": if self.node.service.is_empty() { &self.node.id } else { &self.node.service },
            "locality": { "region": self.node.region, "zone": self.node.zone },
            "metadata": metadata,
        })
    }

    /// The certificate that listeners and clusters refer to as `identity`.
    fn identity(&self) -> Value {
        json!({ "name": "identity", "tls_certificate": self.certificate() })
    }

    fn certificate(&self) -> Value {
        json!({
            "certificate_chain": { "filename": self.certificate },
            "private_key": { "filename": self.key },
        })
    }

    fn control_plane(&self) -> Value {
        let keepalive = json!({ "interval": "2s", "timeout": "2s" });
        json!({
            "name": CONTROL,
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": CONTROL,
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(self.control) } }] }],
            },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http2_protocol_options": { "connection_keepalive": keepalive } },
                },
            },
            "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "sni": "control",
                    "common_tls_context": {
                        "alpn_protocols": ["h2"],
                        "tls_certificates": [self.certificate()],
                        "validation_context": {
                            "trusted_ca": { "filename": self.roots },
                            "match_typed_subject_alt_names": [
                                { "san_type": "URI", "matcher": { "exact": self.control_id } },
                            ],
                        },
                    },
                },
            },
        })
    }
}

/// What an Envoy must know that is run by an agent of ours: all its talk goes over sockets of one folder.
#[derive(Clone, Debug)]
pub struct Attended {
    /// Who it is; its admin address is the agent's.
    pub node: NodeInfo,
    /// Unix socket on which the agent serves ADS.
    pub control: PathBuf,
    /// Unix socket on which its own admin interface is to listen.
    pub admin: PathBuf,
}

impl Attended {
    /// Renders the bootstrap as JSON. Certificate and key come by SDS.
    pub fn to_json(&self) -> String {
        let ads = json!({ "ads": {}, "resource_api_version": "V3" });
        let pipe = |path: &PathBuf| json!({ "pipe": { "path": path } });
        // The owner's alone: 0600.
        let admin = json!({ "pipe": { "path": self.admin, "mode": 0o600 } });
        let node = &self.node;
        let bootstrap = json!({
            "node": {
                "id": node.id,
                "cluster": if node.service.is_empty() { &node.id } else { &node.service },
                "locality": { "region": node.region, "zone": node.zone },
            },
            "admin": { "address": admin },
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{ "envoy_grpc": { "cluster_name": CONTROL, "authority": "control" } }],
                },
                "cds_config": ads,
                "lds_config": ads,
            },
            "layered_runtime": { "layers": [{ "name": LAYER, "rtds_layer": { "name": LAYER, "rtds_config": ads } }] },
            "static_resources": { "clusters": [{
                "name": CONTROL,
                "type": "STATIC",
                "connect_timeout": "5s",
                "load_assignment": {
                    "cluster_name": CONTROL,
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": pipe(&self.control) } }] }],
                },
                // No keepalive: the kernel tells when the agent is gone.
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": { "http2_protocol_options": {} },
                    },
                },
            }] },
        });
        format!("{bootstrap:#}\n")
    }
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
