//! What an Envoy thinks of its hosts, by its page `/clusters`.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::Value;
use xds::{lower::Lowered, snapshot::EndpointSet};

/// A host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its tier.
    pub priority: u32,
    /// Its share in its locality.
    pub weight: u32,
    /// Region and zone.
    pub place: (String, String),
    /// Failed its active checks, or was not checked yet.
    pub failed: bool,
    /// Not checked yet.
    pub pending: bool,
    /// The last check had no answer in time.
    pub silent: bool,
    /// Out by outlier detection.
    pub ejected: bool,
    /// Gets nothing new, as it was told.
    pub draining: bool,
    /// Requests in flight.
    pub active: u64,
    /// Requests sent to it, and connects that failed.
    pub tries: u64,
    /// Of these, failed.
    pub failures: u64,
    /// Requests that it answered.
    pub answers: u64,
}

/// Hosts by cluster and address.
pub type Hosts = BTreeMap<String, BTreeMap<SocketAddr, Host>>;

/// Reads the answer of `/clusters?format=json`.
///
/// # Errors
/// When it is none.
pub fn read(bytes: &[u8]) -> Result<Hosts, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    // Without any cluster the list is left out.
    let clusters = value["cluster_statuses"].as_array().into_iter().flatten();
    let mut all = Hosts::new();
    for cluster in clusters {
        let name = cluster["name"].as_str().ok_or("a cluster without a name")?;
        let hosts = all.entry(name.to_owned()).or_default();
        for host in cluster["host_statuses"].as_array().into_iter().flatten() {
            let socket = &host["address"]["socket_address"];
            let ip = socket["address"].as_str().and_then(|ip| ip.parse().ok());
            let port = socket["port_value"].as_u64().and_then(|port| u16::try_from(port).ok());
            // Our own socket to it is no address of IP.
            let Some((ip, port)) = ip.zip(port) else { continue };
            hosts.insert(SocketAddr::new(ip, port), one(host));
        }
    }
    Ok(all)
}

fn one(host: &Value) -> Host {
    let health = &host["health_status"];
    let flag = |name: &str| health[name].as_bool().unwrap_or_default();
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default();
    let stats = host["stats"].as_array().map(Vec::as_slice).unwrap_or_default();
    let stat = |name: &str| stats.iter().find(|stat| stat["name"] == name).map_or(0, |stat| number(&stat["value"]));
    let small = |value: &Value| u32::try_from(number(value)).unwrap_or(u32::MAX);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Host {
        priority: small(&host["priority"]),
        weight: small(&host["weight"]),
        place: (text(&host["locality"]["region"]), text(&host["locality"]["zone"])),
        failed: flag("failed_active_health_check"),
        pending: flag("pending_active_hc"),
        silent: flag("active_hc_timeout"),
        ejected: flag("failed_outlier_check"),
        draining: health["eds_health_status"] == "DRAINING",
        active: stat("rq_active"),
        tries: stat("rq_total") + stat("cx_connect_fail"),
        failures: stat("rq_error") + stat("cx_connect_fail"),
        answers: stat("rq_success"),
    }
}

/// How the hosts differ from what Envoy was told; empty if not at all.
pub fn differences(hosts: &Hosts, lowered: &Lowered) -> Vec<String> {
    let mut differences = Vec::new();
    for set in &lowered.snapshot.endpoints {
        let nothing = BTreeMap::new();
        let has = hosts.get(&set.cluster).unwrap_or(&nothing);
        let wanted = wanted(set, lowered);
        for (address, (priority, weight, place, draining)) in &wanted {
            let fits = has.get(address).is_some_and(|host| {
                (host.priority, host.weight, &host.place, host.draining) == (*priority, *weight, place, *draining)
            });
            if !fits {
                differences.push(format!("endpoint {address} of {}: {:?}", set.cluster, has.get(address)));
            }
        }
        let more = has.keys().filter(|address| !wanted.contains_key(address));
        differences.extend(more.map(|address| format!("endpoint {address} of {} is beside it", set.cluster)));
    }
    differences
}

type Wanted = (u32, u32, (String, String), bool);

fn wanted(set: &EndpointSet, lowered: &Lowered) -> BTreeMap<SocketAddr, Wanted> {
    let mut all = BTreeMap::new();
    for locality in &set.localities {
        for endpoint in &locality.endpoints {
            let draining = lowered.draining.contains(&(set.cluster.clone(), endpoint.name.clone()));
            let place = (locality.region.clone(), locality.zone.clone());
            all.insert(endpoint.address, (locality.priority, endpoint.weight, place, draining));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;
    use xds::snapshot::{Endpoint, Locality, Snapshot};

    use super::*;

    fn page(health: &Value) -> Hosts {
        let host = json!({
            "address": { "socket_address": { "address": "127.0.0.1", "port_value": 80 } },
            "stats": [
                { "name": "rq_total", "value": "7" }, { "name": "rq_error", "value": "2" }, { "name": "rq_success" },
                { "name": "cx_connect_fail", "value": "1" }, { "name": "rq_active", "type": "GAUGE", "value": "3" },
            ],
            "health_status": health, "weight": 1, "priority": 1, "locality": { "region": "east" },
        });
        let ours = json!({ "address": { "pipe": { "path": "/a" } } });
        let page = json!({ "cluster_statuses": [{ "name": "fx", "host_statuses": [host, ours] }] });
        read(page.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn hosts_are_told_from_their_page() {
        let hosts = page(&json!({ "failed_active_health_check": true, "eds_health_status": "DRAINING" }));
        let host = &hosts["fx"][&([127, 0, 0, 1], 80).into()];
        assert_eq!((host.tries, host.failures, host.active, host.answers), (8, 3, 3, 0));
        assert_eq!((host.failed, host.pending, host.ejected, host.draining), (true, false, false, true));
        assert!(read(b"{}").unwrap().is_empty());
        assert!(read(b"[").is_err());
    }

    #[test]
    fn a_host_that_is_not_as_told_is_a_difference() {
        let endpoint = |port| Endpoint {
            name: format!("fx-{port}"),
            address: ([127, 0, 0, 1], port).into(),
            version: String::new(),
            weight: 1,
        };
        let lowered = |priority, port, drains: bool| {
            let locality = Locality {
                region: "east".into(),
                zone: String::new(),
                priority,
                weight: 1,
                endpoints: vec![endpoint(port)],
            };
            let set = EndpointSet { cluster: "fx".into(), localities: vec![locality] };
            let draining = if drains { BTreeSet::from([("fx".into(), format!("fx-{port}"))]) } else { BTreeSet::new() };
            let snapshot = Snapshot { endpoints: vec![set], ..Snapshot::default() };
            Lowered { draining, ..xds::lower::lower(&snapshot, []) }
        };
        let hosts = page(&json!({ "eds_health_status": "HEALTHY" }));
        for (told, expected) in [
            (lowered(1, 80, false), 0),
            (lowered(0, 80, false), 1),
            (lowered(1, 80, true), 1),
            (lowered(1, 81, false), 2),
        ] {
            assert_eq!(differences(&hosts, &told).len(), expected);
        }
    }
}
