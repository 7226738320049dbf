//! Where a case's endpoints are and how they are at its start, from one line of text.

use std::net::SocketAddr;

use xds::snapshot::{Endpoint, EndpointSet, Locality};

use super::place::Place;

/// How an endpoint is at the start of its case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Answers, its checks too.
    Fine,
    /// Answers requests, fails its active checks.
    FailsChecks,
    /// Nothing listens.
    Refuses,
}

/// An endpoint of a case.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Unique in the case; its first letter is its locality's.
    pub name: String,
    /// Share in its locality.
    pub weight: u32,
    /// At the start.
    pub state: State,
}

/// Clusters of tiers of localities of endpoints.
///
/// `a0 a1! / b0*3 | c0? ; d0`: two clusters; in the first, two localities in the first tier, one in the second. A locality's region
/// is its endpoints' first letter; `=2` among its endpoints is its weight. After a name, `*3` is the endpoint's weight, `!` says that it fails its
/// checks, `?` that nothing listens there.
#[derive(Clone, Debug)]
pub struct Topology {
    hosts: Vec<Spec>,
    clusters: Vec<Vec<Group>>,
}

/// A locality: the next endpoints in order of number.
#[derive(Clone, Copy, Debug)]
struct Group {
    tier: u32,
    weight: u32,
    hosts: usize,
}

impl Topology {
    /// Reads the text.
    pub fn new(text: &str) -> Self {
        let mut topology = Self { hosts: Vec::new(), clusters: Vec::new() };
        for cluster in text.split(';') {
            let mut groups = Vec::new();
            for (tier, localities) in cluster.split('|').enumerate() {
                for locality in localities.split('/') {
                    let mut group = Group { tier: u32::try_from(tier).expect("few tiers"), weight: 1, hosts: 0 };
                    for word in locality.split_whitespace() {
                        match word.strip_prefix('=') {
                            Some(number) => group.weight = number.parse().expect("a weight"),
                            None => {
                                topology.hosts.push(read(word));
                                group.hosts += 1;
                            }
                        }
                    }
                    groups.push(group);
                }
            }
            topology.clusters.push(groups);
        }
        topology
    }

    /// Every endpoint.
    pub fn hosts(&self) -> &[Spec] {
        &self.hosts
    }

    /// Where an endpoint listens.
    pub fn address(&self, place: Place, name: &str) -> SocketAddr {
        let index = self.hosts.iter().position(|host| host.name == name);
        place.endpoint(index.unwrap_or_else(|| panic!("no endpoint {name}")))
    }

    /// As a proxy is told, for each cluster.
    pub fn endpoints(&self, place: Place) -> Vec<EndpointSet> {
        let mut numbered = self.hosts.iter().enumerate();
        let mut sets = Vec::new();
        for (number, groups) in self.clusters.iter().enumerate() {
            let localities = groups.iter().map(|group| {
                let hosts: Vec<_> = numbered.by_ref().take(group.hosts).collect();
                Locality {
                    region: hosts.first().map_or_else(|| "none".to_owned(), |(_, host)| region(&host.name).to_owned()),
                    zone: String::new(),
                    priority: group.tier,
                    weight: group.weight,
                    endpoints: hosts.iter().map(|(index, host)| endpoint(place, *index, host)).collect(),
                }
            });
            sets.push(EndpointSet { cluster: place.cluster(number), localities: localities.collect() });
        }
        sets
    }
}

/// An endpoint's region.
pub fn region(name: &str) -> &str {
    &name[..1]
}

fn endpoint(place: Place, index: usize, host: &Spec) -> Endpoint {
    let (name, weight) = (host.name.clone(), host.weight);
    Endpoint { name, address: place.endpoint(index), version: String::new(), weight }
}

fn read(word: &str) -> Spec {
    let state = match word.chars().last() {
        Some('!') => State::FailsChecks,
        Some('?') => State::Refuses,
        _ => State::Fine,
    };
    let word = word.trim_end_matches(['!', '?']);
    let (name, weight) = word.split_once('*').unwrap_or((word, "1"));
    Spec { name: name.to_owned(), weight: weight.parse().expect("a weight"), state }
}
