//! Who a proxy says it is on the stream to the control plane.

use std::net::SocketAddr;

use envoy_types::pb::{
    envoy::config::core::v3 as core,
    google::protobuf::{Struct, Value, value::Kind},
};
use serde::{Deserialize, Serialize};

/// Metadata of the node under which an incremental stream says which version of a snapshot is in force at the proxy.
pub(crate) const VERSION: &str = "version";

/// How the agent of a stock Envoy begins to say which program it is ([`NodeInfo::agent`]).
pub const ENVOY_AGENT: &str = "firedrill-envoy";

/// A proxy as it introduces itself in the first message of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// The proxy's name.
    pub id: String,
    /// The service whose workload it sits beside; empty for a gateway.
    pub service: String,
    /// The region it runs in.
    pub region: String,
    /// Inside the region; empty if there is only one.
    pub zone: String,
    /// Where its admin interface listens.
    pub admin: Option<SocketAddr>,
    /// The program, for people: `firedrill 0.1.0`, `envoy 1.40.0`. Only ours understands overlays.
    pub agent: String,
}

impl NodeInfo {
    pub(crate) fn to_proto(&self) -> core::Node {
        let (name, version) = self.agent.split_once(' ').unwrap_or((&self.agent, ""));
        let mut fields = vec![("service", self.service.clone())];
        fields.extend(self.admin.map(|admin| ("admin", admin.to_string())));
        let fields =
            fields.into_iter().map(|(key, value)| (key.to_owned(), Value { kind: Some(Kind::StringValue(value)) }));
        core::Node {
            id: self.id.clone(),
            cluster: self.service.clone(),
            metadata: Some(Struct { fields: fields.collect() }),
            locality: Some(core::Locality {
                region: self.region.clone(),
                zone: self.zone.clone(),
                sub_zone: String::new(),
            }),
            user_agent_name: name.to_owned(),
            user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentVersion(version.to_owned())),
            ..core::Node::default()
        }
    }

    /// With the version of the snapshot that is in force, where the protocol has no field for it.
    pub(crate) fn to_proto_with(&self, version: &str) -> core::Node {
        let mut node = self.to_proto();
        let value = Value { kind: Some(Kind::StringValue(version.to_owned())) };
        node.metadata.get_or_insert_default().fields.insert(VERSION.to_owned(), value);
        node
    }

    /// Lenient: a stock Envoy tells much more about itself than we ask for.
    pub(crate) fn from_proto(node: &core::Node) -> Self {
        use core::node::UserAgentVersionType as Version;
        let text = |key: &str| match node.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
            Kind::StringValue(text) => Some(text.clone()),
            _ => None,
        };
        let version = match &node.user_agent_version_type {
            Some(Version::UserAgentVersion(version)) => version.clone(),
            Some(Version::UserAgentBuildVersion(build)) => build
                .version
                .as_ref()
                .map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch))
                .unwrap_or_default(),
            None => String::new(),
        };
        let locality = node.locality.clone().unwrap_or_default();
        Self {
            id: node.id.clone(),
            service: text("service").unwrap_or_default(),
            region: locality.region,
            zone: locality.zone,
            admin: text("admin").and_then(|admin| admin.parse().ok()),
            agent: format!("{} {version}", node.user_agent_name).trim_end().to_owned(),
        }
    }
}
