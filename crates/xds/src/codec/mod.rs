//! Snapshot pieces and overlays ↔ Envoy v3 protobuf.
//!
//! What Envoy has a field for is written there; what it has none for travels in `metadata` under `firedrill`, which
//! Envoy ignores. Decoding is total: what this crate would not have written is refused with its path, never ignored.

mod admission;
mod authorization;
mod balancing;
mod beside;
mod check;
mod cluster;
mod differ;
mod endpoints;
mod fault;
mod forward;
mod headers;
mod health;
mod http;
mod json;
mod layer;
mod listener;
mod log;
mod matching;
mod overlay;
mod redirect;
mod retry;
mod routes;
#[cfg(test)]
mod tests;
mod tls;
mod trust;
mod tunnel;
mod wire;

use prost::Message;
use thiserror::Error;

use self::wire::{Checked, Problem};
pub use self::{
    beside::{Beside, IDENTITY, KeyPair},
    check::check,
    layer::{LAYER, Layer, REQUESTS, Share, Spot},
};
pub(crate) use self::{check::missing_cluster, layer::write as write_layer, log::CONTROL};

use crate::{
    overlay::Overlay,
    resource::ResourceKind,
    snapshot::{Cluster, EndpointSet, Listener, RouteTable, Snapshot, TrustBundle},
};

/// Why a resource cannot be encoded or was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{resource}: {path}{}{problem}", if path.is_empty() { "" } else { ": " })]
pub struct CodecError {
    /// Kind and name: `Cluster ledger`.
    pub resource: String,
    /// Where in it: `lb_policy`, `filter_chains[0].filters[1]`; empty for the whole.
    pub path: String,
    /// What is wrong: `RING_HASH is not supported`.
    pub problem: String,
}

/// One decoded resource.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one at a time, on its way into or out of a message")]
pub enum Resource {
    /// A trust bundle.
    Trust(TrustBundle),
    /// A cluster.
    Cluster(Cluster),
    /// A cluster's endpoints.
    Endpoints(EndpointSet),
    /// A listener.
    Listener(Listener),
    /// A route table.
    Routes(RouteTable),
    /// An overlay.
    Overlay(Overlay),
}

impl Resource {
    /// Its kind.
    pub fn kind(&self) -> ResourceKind {
        match self {
            Self::Trust(_) => ResourceKind::Trust,
            Self::Cluster(_) => ResourceKind::Cluster,
            Self::Endpoints(_) => ResourceKind::Endpoints,
            Self::Listener(_) => ResourceKind::Listener,
            Self::Routes(_) => ResourceKind::Routes,
            Self::Overlay(_) => ResourceKind::Overlay,
        }
    }

    /// The name by which it is subscribed to.
    pub fn name(&self) -> &str {
        match self {
            Self::Trust(bundle) => &bundle.name,
            Self::Cluster(cluster) => &cluster.name,
            Self::Endpoints(set) => &set.cluster,
            Self::Listener(listener) => &listener.name,
            Self::Routes(table) => &table.name,
            Self::Overlay(overlay) => &overlay.id,
        }
    }
}

/// Decodes one resource from untrusted bytes.
///
/// # Errors
/// If the type is not one of ours, the bytes are no such message, or it holds anything we would not have written.
pub fn decode_resource(type_url: &str, bytes: &[u8]) -> Result<Resource, CodecError> {
    let Some(kind) = ResourceKind::of_type_url(type_url) else {
        let problem = "resources of this type are not supported".to_owned();
        return Err(CodecError { resource: type_url.to_owned(), path: String::new(), problem });
    };
    let mut name = String::new();
    let decoded = match kind {
        ResourceKind::Trust => {
            decode(bytes, &mut name, |m| &m.name, trust::read, trust::write, trust::validate).map(Resource::Trust)
        }
        ResourceKind::Cluster => {
            decode(bytes, &mut name, |m| &m.name, cluster::read, cluster::write, cluster::validate)
                .map(Resource::Cluster)
        }
        ResourceKind::Endpoints => {
            decode(bytes, &mut name, |m| &m.cluster_name, endpoints::read, endpoints::write, endpoints::validate)
                .map(Resource::Endpoints)
        }
        ResourceKind::Listener => {
            decode(bytes, &mut name, |m| &m.name, listener::read, listener::write, listener::validate)
                .map(Resource::Listener)
        }
        ResourceKind::Routes => {
            decode(bytes, &mut name, |m| &m.name, routes::read, routes::write, routes::validate).map(Resource::Routes)
        }
        ResourceKind::Overlay => {
            decode(bytes, &mut name, |m| &m.name, overlay::read, overlay::write, overlay::validate)
                .map(Resource::Overlay)
        }
    };
    decoded.map_err(|problem| locate(kind, &name, problem))
}

/// Reads, checks, and writes again what was read: whatever the message held beyond that is refused where it stands.
fn decode<M: Message + Default + PartialEq + std::fmt::Debug, T>(
    bytes: &[u8],
    name: &mut String,
    name_of: impl Fn(&M) -> &String,
    read: impl Fn(&M) -> Checked<T>,
    write: impl Fn(&T) -> M,
    validate: impl Fn(&T) -> Checked<()>,
) -> Checked<T> {
    // The name is worth having even where the message holds fields that we do not know.
    if let Ok(message) = M::decode(bytes) {
        name.clone_from(name_of(&message));
    }
    let message: M = wire::parse(bytes)?;
    let value = read(&message)?;
    validate(&value)?;
    wire::same(&message, &write(&value))?;
    Ok(value)
}

fn locate(kind: ResourceKind, name: &str, problem: Problem) -> CodecError {
    let resource = format!("{kind} {name}").trim_end().to_owned();
    CodecError { resource, path: problem.path, problem: problem.problem }
}

/// Encodes one resource to the bytes of its protobuf message.
///
/// # Errors
/// If a value is outside its domain: a weight of zero, a name twice, a duration that is longer than a year.
pub fn encode_resource(resource: &Resource) -> Result<Vec<u8>, CodecError> {
    let encoded = match resource {
        Resource::Trust(value) => trust::validate(value).map(|()| trust::write(value).encode_to_vec()),
        Resource::Cluster(value) => cluster::validate(value).map(|()| cluster::write(value).encode_to_vec()),
        Resource::Endpoints(value) => endpoints::validate(value).map(|()| endpoints::write(value).encode_to_vec()),
        Resource::Listener(value) => listener::validate(value).map(|()| listener::write(value).encode_to_vec()),
        Resource::Routes(value) => routes::validate(value).map(|()| routes::write(value).encode_to_vec()),
        Resource::Overlay(value) => overlay::validate(value).map(|()| overlay::write(value).encode_to_vec()),
    };
    encoded.map_err(|problem| locate(resource.kind(), resource.name(), problem))
}

/// The same with what no snapshot has.
///
/// # Errors
/// As [`encode_resource`].
pub(crate) fn encode_beside(resource: &Resource, beside: &Beside) -> Result<Vec<u8>, CodecError> {
    let encoded = encode_resource(resource)?;
    Ok(beside.amend(resource).unwrap_or(encoded))
}

/// Every resource of a snapshot.
pub fn resources(snapshot: &Snapshot) -> impl Iterator<Item = Resource> + '_ {
    let trust = snapshot.trust.iter().cloned().map(Resource::Trust);
    let clusters = snapshot.clusters.iter().cloned().map(Resource::Cluster);
    let endpoints = snapshot.endpoints.iter().cloned().map(Resource::Endpoints);
    let listeners = snapshot.listeners.iter().cloned().map(Resource::Listener);
    let routes = snapshot.routes.iter().map(|table| Resource::Routes(RouteTable::clone(table)));
    trust.chain(clusters).chain(endpoints).chain(listeners).chain(routes)
}
