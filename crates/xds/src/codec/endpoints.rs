//! Endpoint sets ↔ `ClusterLoadAssignment`.

use envoy_types::pb::envoy::config::{
    core::v3 as core,
    endpoint::v3::{self as pb, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
};
use serde::{Deserialize, Serialize};

use super::wire::{
    At, Checked, ensure, ensure_name, ensure_unique, metadata, number, read_metadata, read_number, read_socket, socket,
    wrong,
};
use crate::snapshot::{Endpoint, EndpointSet, Locality};

/// Envoy's bound on priorities.
const LAST_PRIORITY: u32 = 128;

/// The region is the locality's; it is repeated so that Envoy can name it in the `x-firedrill-answered-by` header.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Extra {
    name: String,
    region: String,
    version: String,
}

pub(super) fn validate(set: &EndpointSet) -> Checked<()> {
    ensure_name(&set.cluster, "cluster_name")?;
    let highest = set.localities.iter().map(|locality| locality.priority).max();
    for priority in 0..=highest.unwrap_or(0).min(LAST_PRIORITY) {
        let used = highest.is_none() || set.localities.iter().any(|locality| locality.priority == priority);
        ensure(used, "endpoints", || format!("no locality has priority {priority}: priorities must be gapless"))?;
    }
    ensure_unique(set.localities.iter().map(|l| (l.priority, &l.region, &l.zone)), "endpoints")?;
    for priority in 0..=highest.unwrap_or(0).min(LAST_PRIORITY) {
        let weights = set.localities.iter().filter(|locality| locality.priority == priority).map(|l| l.weight);
        ensure_weights(weights, "endpoints")?;
    }
    for (index, locality) in set.localities.iter().enumerate() {
        let path = format!("endpoints[{index}]");
        ensure(locality.priority <= LAST_PRIORITY, &format!("{path}.priority"), || "is above 128".to_owned())?;
        ensure_weights(locality.endpoints.iter().map(|endpoint| endpoint.weight), &format!("{path}.lb_endpoints"))?;
        for (index, endpoint) in locality.endpoints.iter().enumerate() {
            ensure_name(&endpoint.name, &format!("{path}.lb_endpoints[{index}].metadata.firedrill.name"))?;
        }
    }
    let endpoints = set.localities.iter().flat_map(|locality| &locality.endpoints);
    ensure_unique(endpoints.clone().map(|endpoint| endpoint.address), "endpoints")?;
    ensure_unique(endpoints.map(|endpoint| &endpoint.name), "endpoints")
}

/// Envoy refuses a weight of zero, and weights whose sum does not fit 32 bits.
pub(super) fn ensure_weights(weights: impl Iterator<Item = u32>, path: &str) -> Checked<()> {
    let mut sum = 0_u32;
    for weight in weights {
        ensure(weight > 0, path, || "a weight is zero".to_owned())?;
        match sum.checked_add(weight) {
            Some(total) => sum = total,
            None => return wrong(path, "the sum of the weights is too large"),
        }
    }
    Ok(())
}

pub(super) fn write(set: &EndpointSet) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: set.cluster.clone(),
        endpoints: set.localities.iter().map(write_locality).collect(),
        ..ClusterLoadAssignment::default()
    }
}

fn write_locality(locality: &Locality) -> LocalityLbEndpoints {
    LocalityLbEndpoints {
        locality: Some(core::Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            ..core::Locality::default()
        }),
        priority: locality.priority,
        load_balancing_weight: number(locality.weight),
        lb_endpoints: locality.endpoints.iter().map(|endpoint| write_endpoint(endpoint, &locality.region)).collect(),
        ..LocalityLbEndpoints::default()
    }
}

fn write_endpoint(endpoint: &Endpoint, region: &str) -> LbEndpoint {
    let address = pb::Endpoint { address: socket(endpoint.address), ..pb::Endpoint::default() };
    let (name, version) = (endpoint.name.clone(), endpoint.version.clone());
    LbEndpoint {
        metadata: metadata(&Extra { name, region: region.to_owned(), version }),
        load_balancing_weight: number(endpoint.weight),
        host_identifier: Some(HostIdentifier::Endpoint(address)),
        ..LbEndpoint::default()
    }
}

pub(super) fn read(set: &ClusterLoadAssignment) -> Checked<EndpointSet> {
    let localities = set.endpoints.iter().enumerate();
    let localities = localities.map(|(index, locality)| read_locality(locality).at(format!("endpoints[{index}]")));
    Ok(EndpointSet { cluster: set.cluster_name.clone(), localities: localities.collect::<Checked<_>>()? })
}

fn read_locality(locality: &LocalityLbEndpoints) -> Checked<Locality> {
    let place = locality.locality.clone().unwrap_or_default();
    let endpoints = locality.lb_endpoints.iter().enumerate();
    let endpoints = endpoints.map(|(index, endpoint)| read_endpoint(endpoint).at(format!("lb_endpoints[{index}]")));
    Ok(Locality {
        region: place.region,
        zone: place.zone,
        priority: locality.priority,
        weight: read_number(&locality.load_balancing_weight, "load_balancing_weight")?,
        endpoints: endpoints.collect::<Checked<_>>()?,
    })
}

fn read_endpoint(endpoint: &LbEndpoint) -> Checked<Endpoint> {
    let Some(HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else {
        return wrong("host_identifier", "only an endpoint is supported");
    };
    let extra: Extra = read_metadata(&endpoint.metadata)?;
    Ok(Endpoint {
        name: extra.name,
        address: read_socket(&host.address, "endpoint.address")?,
        version: extra.version,
        weight: read_number(&endpoint.load_balancing_weight, "load_balancing_weight")?,
    })
}
