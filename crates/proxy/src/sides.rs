//! Both sides of a request or a connection, as far as this proxy knows them, in labels.

use xds::snapshot::{self, Direction};

use crate::{
    metrics::{peers::Peers, text::Labels},
    state::Shared,
    upstream::host::Host,
};

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// This proxy.
    pub shared: &'a Shared,
    /// Which way the listener looks.
    pub direction: Direction,
    /// Whether the caller's connection is TLS.
    pub tls: bool,
    /// The caller's SPIFFE id; empty if it proved none.
    pub caller: &'a str,
    /// Where it goes.
    pub cluster: Option<&'a snapshot::Cluster>,
    /// Who answered.
    pub host: Option<&'a Host>,
}

impl Sides<'_> {
    /// In Istio's labels.
    pub fn labels(&self) -> Labels {
        let Self { shared, direction, tls, caller, cluster, host } = *self;
        let own = shared.identity.id();
        let own = own.as_deref().unwrap_or_default();
        let service = cluster.map_or("", |cluster| cluster.service.as_str());
        let (region, version) = host.map_or(("", ""), |host| (&*host.region, host.version.as_str()));
        let upstream = cluster.and_then(|cluster| cluster.tls.as_ref());
        let towards = Peers {
            destination: service,
            // With several ids it is not known here which of them answered.
            destination_principal: match upstream.map(|tls| tls.server_ids.as_slice()) {
                Some([only]) => only,
                _ => "",
            },
            destination_version: version,
            destination_region: region,
            mutual_tls: upstream.is_some(),
            ..Peers::default()
        };
        match direction {
            Direction::Inbound => Peers {
                destination_side: true,
                source: caller.rsplit('/').next().unwrap_or_default(),
                source_principal: caller,
                destination: if service.is_empty() { &shared.service } else { service },
                destination_principal: own,
                mutual_tls: tls,
                ..towards
            },
            Direction::Outbound => Peers { source: &shared.service, source_principal: own, ..towards },
            Direction::Gateway => Peers { source: &shared.name, source_principal: own, ..towards },
        }
        .labels()
    }
}
