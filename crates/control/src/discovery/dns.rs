//! Endpoints by DNS: the addresses of a name with a port, or a service record (RFC 2782).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
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
pub(crate) async fn ask(
    resolver: &TokioResolver,
    name: &DnsName,
    memory: &mut Memory,
) -> Result<(BTreeSet<Found>, Duration), String> {
    let mut ttl = AGAIN.1;
    let mut found = BTreeSet::new();
    let mut failed = None;
    let mut answered = false;
    match name {
        DnsName::Addresses { name, port } => {
            answered = true;
            for ip in addresses(resolver, name, &mut ttl, memory).await? {
                found.insert(Found { address: SocketAddr::new(ip, *port), weight: 1 });
            }
        }
        DnsName::Service(name) => {
            for (target, port, weight) in targets(resolver, name, &mut ttl).await? {
                match addresses(resolver, &target, &mut ttl, memory).await {
                    Ok(ips) => {
                        answered = true;
                        found.extend(ips.into_iter().map(|ip| Found { address: SocketAddr::new(ip, port), weight }));
                    }
                    // One target that nobody tells of is what it was last, and does not take the others away.
                    Err(reason) => {
                        let last = [RecordType::A, RecordType::AAAA].map(|kind| memory.recall(&target, kind));
                        let last = last.into_iter().flatten().flatten();
                        found.extend(last.map(|ip| Found { address: SocketAddr::new(ip, port), weight }));
                        failed = Some(reason);
                    }
                }
            }
        }
    }
    if found.is_empty() || !answered {
        return Err(failed.unwrap_or_else(|| "it names no address".to_owned()));
    }
    if found.len() > MOST {
        return Err(format!("it names {} addresses; {MOST} are the most", found.len()));
    }
    Ok((found, ttl.max(AGAIN.0)))
}

/// What each question was answered last, and when: half an answer would look like a loss of endpoints.
pub(crate) struct Memory {
    answers: BTreeMap<(String, RecordType), (Vec<IpAddr>, Instant)>,
    keep: Duration,
}

impl Memory {
    /// Answers are used for so long while no others come.
    pub(crate) fn new(keep: Duration) -> Self {
        Self { answers: BTreeMap::new(), keep }
    }

    fn learn(&mut self, name: &str, kind: RecordType, answer: Vec<IpAddr>) {
        let question = (name.to_owned(), kind);
        if answer.is_empty() {
            self.answers.remove(&question);
            return;
        }
        // Names come and go with service records.
        if self.answers.len() >= MOST && !self.answers.contains_key(&question) {
            self.answers.clear();
        }
        self.answers.insert(question, (answer, Instant::now()));
    }

    fn recall(&self, name: &str, kind: RecordType) -> Option<Vec<IpAddr>> {
        let (answer, at) = self.answers.get(&(name.to_owned(), kind))?;
        (at.elapsed() < self.keep).then(|| answer.clone())
    }
}

/// IPv4 and IPv6; one of both is enough, and of the other what it was last.
async fn addresses(
    resolver: &TokioResolver,
    name: &str,
    ttl: &mut Duration,
    memory: &mut Memory,
) -> Result<Vec<IpAddr>, String> {
    let (v4, v6) =
        tokio::join!(resolver.lookup(absolute(name), RecordType::A), resolver.lookup(absolute(name), RecordType::AAAA));
    let mut found = Vec::new();
    let mut failed = None;
    let mut answered = false;
    for (kind, looked_up) in [(RecordType::A, v4), (RecordType::AAAA, v6)] {
        match looked_up {
            Ok(lookup) => {
                let mut answer = Vec::new();
                for record in lookup.answers() {
                    // The chain of aliases is as good as its shortest link.
                    *ttl = (*ttl).min(Duration::from_secs(record.ttl.into()));
                    let ip: IpAddr = match &record.data {
                        RData::A(a) => a.0.into(),
                        RData::AAAA(a) => a.0.into(),
                        _ => continue,
                    };
                    answer.push(ip);
                }
                answered |= !answer.is_empty();
                found.extend_from_slice(&answer);
                memory.learn(name, kind, answer);
            }
            Err(error) if error.is_no_records_found() => memory.learn(name, kind, Vec::new()),
            Err(error) => {
                found.extend(memory.recall(name, kind).unwrap_or_default());
                failed = Some(format!("{name}: {error}"));
            }
        }
    }
    match failed {
        // Nobody told anything: what is used then is not fresh.
        Some(reason) if !answered => Err(reason),
        _ => Ok(found),
    }
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
    let of_first: Vec<_> = records.into_iter().filter(|(_, srv)| Some(srv.priority) == first).collect();
    // RFC 2782: the root as target says that there is no such service.
    let usable = |(_, srv): &(u32, &hickory_resolver::proto::rr::rdata::SRV)| srv.port != 0 && !srv.target.is_root();
    if !of_first.is_empty() && !of_first.iter().any(usable) {
        return Err(format!("{name}: its service records name no port to connect to"));
    }
    let of_first = of_first.into_iter().filter(usable);
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
