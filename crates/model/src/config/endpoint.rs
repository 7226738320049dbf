//! Instances of a service, and where they are.

use std::{net::SocketAddr, time::Duration};

use crate::{
    name::{RegionName, WorkloadName},
    unit::Rate,
};

/// One instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `<service>-<region>-<n>`, n from 0 over the service's instances in the region.
    pub workload: WorkloadName,
    /// Its failure domain.
    pub region: RegionName,
    /// Default `v1`.
    pub version: String,
    /// Requests a second that it can take, if declared.
    pub capacity: Option<Rate>,
    /// Share among the region's endpoints. Default 1.
    pub weight: u32,
    /// Where it is.
    pub place: Place,
}

/// Where an instance is.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// Started by the supervisor; a sidecar stands before it. argv; never empty.
    Run(Vec<String>),
    /// Already running outside the mesh: no sidecar of ours stands before it.
    Address(SocketAddr),
    /// As [`Place::Address`], any number of them, as DNS names them.
    Dns(DnsSource),
    /// As [`Place::Address`], any number of them, as a file lists them.
    File(FileSource),
}

impl Place {
    /// Whether it is outside the mesh: no sidecar of ours stands before it.
    pub fn is_outside(&self) -> bool {
        !matches!(self, Self::Run(_))
    }
}

/// Where DNS is asked for instances.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsSource {
    /// What is asked for.
    pub name: DnsName,
    /// Who is asked; `None`: the first name server of `/etc/resolv.conf`.
    pub server: Option<SocketAddr>,
    /// How long the last answer is used while no other comes. Default 24 h.
    pub stale_for: Duration,
}

/// What DNS is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsName {
    /// Addresses (A and AAAA) of a name, all with one port.
    Addresses {
        /// The name.
        name: String,
        /// The port; not 0.
        port: u16,
    },
    /// Service records (SRV) of a name.
    Service(String),
}

/// A file that lists instances.
#[derive(Clone, Debug, PartialEq)]
pub struct FileSource {
    /// Absolute.
    pub path: String,
    /// How long the last list is used while the file cannot be read. Default 24 h.
    pub stale_for: Duration,
}
