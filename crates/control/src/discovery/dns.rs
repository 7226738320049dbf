//! Endpoints by DNS: the addresses of a name with a port, or a service record (RFC 2782).

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{RData, RecordType},
};
use model::config::{DnsName, DnsSource};

use crate::sources::Found;

/// A record is asked for again when its time to live is over, but not sooner and not later than this.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Bound on one try; there are two.
const PATIENCE: Duration = Duration::from_secs(2);
/// Addresses of one source that are looked at.
const MOST: usize = 1000;

/// A resolver that asks the source's name server, or the first of `/etc/resolv.conf`.
///
/// # Errors
/// If there is none.
pub(crate) fn resolver(source: &DnsSource) -> Result<TokioResolver, String> {
    let server = match source.server {
        Some(server) => server,
        None => system_server()?,
    };
    let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
    (udp.port, tcp.port) = (server.port(), server.port());
    let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
    name_server.connections = vec![udp, tcp];
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
    let mut options = ResolverOpts::default();
    (options.timeout, options.attempts) = (PATIENCE, 2);
    // Each answer is kept here for its time to live already.
    options.cache_size = 0;
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.with_options(options).build().map_err(|e| e.to_string())
}

fn system_server() -> Result<SocketAddr, String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").map_err(|e| format!("/etc/resolv.conf: {e}"))?;
    let mut servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    let none = || "/etc/resolv.conf names no name server; name one with `server`".to_owned();
    servers.next().map(|ip| SocketAddr::new(ip, 53)).ok_or_else(none)
}

/// Asks once. Answers what was found, and when to ask again.
///
/// # Errors
/// Why nothing was found.
pub(crate) async fn ask(resolver: &TokioResolver, name: &DnsName) -> Result<(BTreeSet<Found>, Duration), String> {
    let mut ttl = AGAIN.1;
    let mut found = BTreeSet::new();
    match name {
        DnsName::Addresses { name, port } => {
            for ip in addresses(resolver, name, &mut ttl).await? {
                found.insert(Found { address: SocketAddr::new(ip, *port), weight: 1 });
            }
        }
        DnsName::Service(name) => {
            for (target, port, weight) in targets(resolver, name, &mut ttl).await? {
                for ip in addresses(resolver, &target, &mut ttl).await? {
                    found.insert(Found { address: SocketAddr::new(ip, port), weight });
                }
            }
        }
    }
    if found.is_empty() {
        return Err("it names no address".to_owned());
    }
    if found.len() > MOST {
        return Err(format!("it names {} addresses; {MOST} are the most", found.len()));
    }
    Ok((found, ttl.max(AGAIN.0)))
}

/// IPv4 and IPv6; one of both is enough.
async fn addresses(resolver: &TokioResolver, name: &str, ttl: &mut Duration) -> Result<Vec<IpAddr>, String> {
    let (v4, v6) =
        tokio::join!(resolver.lookup(absolute(name), RecordType::A), resolver.lookup(absolute(name), RecordType::AAAA));
    let mut found = Vec::new();
    let mut failed = None;
    for looked_up in [v4, v6] {
        match looked_up {
            Ok(lookup) => {
                for record in lookup.answers() {
                    let ip: IpAddr = match &record.data {
                        RData::A(a) => a.0.into(),
                        RData::AAAA(a) => a.0.into(),
                        _ => continue,
                    };
                    *ttl = (*ttl).min(Duration::from_secs(record.ttl.into()));
                    found.push(ip);
                }
            }
            Err(error) if error.is_no_records_found() => {}
            // Half an answer would look like a loss of endpoints.
            Err(error) => failed = Some(format!("{name}: {error}")),
        }
    }
    failed.map_or(Ok(found), Err)
}

/// Target, port, weight of the records that are to be used first.
async fn targets(resolver: &TokioResolver, name: &str, ttl: &mut Duration) -> Result<Vec<(String, u16, u32)>, String> {
    let lookup = resolver.lookup(absolute(name), RecordType::SRV).await.map_err(|e| format!("{name}: {e}"))?;
    let records = lookup.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some((record.ttl, srv)),
        _ => None,
    });
    let records: Vec<_> = records.take(MOST).collect();
    let first = records.iter().map(|(_, srv)| srv.priority).min();
    let of_first = records.into_iter().filter(|(_, srv)| Some(srv.priority) == first);
    let target = |(seconds, srv): (u32, &hickory_resolver::proto::rr::rdata::SRV)| {
        *ttl = (*ttl).min(Duration::from_secs(seconds.into()));
        // RFC 2782: a weight of 0 is a small chance.
        (srv.target.to_utf8(), srv.port, u32::from(srv.weight).max(1))
    };
    Ok(of_first.map(target).collect())
}

/// No search list is tried.
fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}
