//! The audit of endpoints before a drill: each is asked, from outside the mesh, whether it would take over.
//!
//! `reachable`: it accepts connections, and no proxy that uses it sees it as unhealthy. For sidecars also: `identity`
//! (its certificate is of the mesh's authority, carries its service's SPIFFE id and lasts), `refusesPlaintext` and
//! `refusesStrangers` (no certificate; a certificate of an unknown authority).

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use control::api::{ProxyReport, SourceOfEndpoints, Trust};
use drill::target::EndpointReport;
use futures_util::future::join_all;
use model::{config::Config, name::PlanName};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};
use xds::clock::Stamp;

use super::tls::{self, PATIENCE, Presented};
use crate::supervisor::api::{MeshReport, OutsideReport, WorkloadReport};

/// What the audit asks where nothing should answer: harmless wherever it arrives.
pub const REQUEST: &[u8] = b"GET /.well-known/firedrill-audit HTTP/1.1\r\nhost: audit\r\nconnection: close\r\n\r\n";

/// A certificate must last at least this long: a drill must not fail because one ends in its middle.
const MARGIN: Duration = Duration::from_secs(600);

type Check = Result<(), String>;

/// Every endpoint of the plan's services, all at once.
pub async fn endpoints(
    config: &Config,
    mesh: &MeshReport,
    plan: &PlanName,
    trust: &Trust,
    proxies: &[ProxyReport],
    sources: &[SourceOfEndpoints],
    now: Stamp,
) -> Vec<EndpointReport> {
    let Some(plan) = config.plans.get(plan) else { return Vec::new() };
    let in_scope = |service: &str| plan.services.iter().any(|s| s.as_str() == service);
    let inside = mesh.workloads.iter().filter(|w| in_scope(&w.service)).map(|w| sidecar(w, trust, proxies, now));
    let outside = mesh.outside.iter().filter(|o| in_scope(&o.service)).cloned();
    let sources: Vec<&SourceOfEndpoints> = sources.iter().filter(|source| in_scope(&source.service)).collect();
    let outside = outside.chain(sources.iter().flat_map(|source| found(source)));
    let outside = outside.map(|endpoint| async move { plain(&endpoint, config, proxies).await });
    let (mut reports, others) = tokio::join!(join_all(inside), join_all(outside));
    reports.extend(others);
    reports.extend(sources.into_iter().filter(|source| source.addresses.is_empty()).map(names_none));
    reports
}

/// What DNS or a file names: each address is an endpoint, called as proxies call it.
fn found(source: &SourceOfEndpoints) -> impl Iterator<Item = OutsideReport> {
    source.addresses.iter().map(|address| OutsideReport {
        name: format!("{}@{address}", source.endpoint),
        service: source.service.clone(),
        region: source.region.clone(),
        address: *address,
    })
}

/// A source that has named no address yet, or none for too long.
fn names_none(source: &SourceOfEndpoints) -> EndpointReport {
    let why = source.failing.clone().unwrap_or_else(|| "it has not answered yet".to_owned());
    let checks = BTreeMap::from([("found".to_owned(), Err(format!("{} names no address: {why}", source.source)))]);
    report(&source.endpoint, &source.service, &source.region, checks)
}

async fn sidecar(workload: &WorkloadReport, trust: &Trust, proxies: &[ProxyReport], now: Stamp) -> EndpointReport {
    let name = &workload.process.name;
    let (connects, plaintext, nobody, stranger) = tokio::join!(
        connect(workload.inbound),
        refuses_plaintext(workload.inbound),
        tls::request(workload.inbound, Presented::Nothing),
        tls::request(workload.inbound, Presented::Stranger("spiffe://stranger.example/service/unknown")),
    );
    let identity = identity(&nobody.chain, &workload.service, trust, now);
    let checks = BTreeMap::from([
        ("reachable".to_owned(), connects.and_then(|()| seen_healthy(name, proxies))),
        ("identity".to_owned(), identity),
        ("refusesPlaintext".to_owned(), plaintext),
        (
            "refusesStrangers".to_owned(),
            refused(&nobody, "without a certificate").and_then(|()| refused(&stranger, "of an unknown authority")),
        ),
    ]);
    report(name, &workload.service, &workload.region, checks)
}

async fn plain(endpoint: &OutsideReport, config: &Config, proxies: &[ProxyReport]) -> EndpointReport {
    let path = config
        .services
        .values()
        .find(|service| service.name.as_str() == endpoint.service)
        .and_then(|service| service.policy.detection.active_check.as_ref())
        .and_then(|check| check.http.clone());
    let answers = match &path {
        Some(path) => healthy(endpoint.address, path).await,
        None => connect(endpoint.address).await,
    };
    let reachable = answers.and_then(|()| seen_healthy(&endpoint.name, proxies));
    let checks = BTreeMap::from([("reachable".to_owned(), reachable)]);
    report(&endpoint.name, &endpoint.service, &endpoint.region, checks)
}

fn report(workload: &str, service: &str, region: &str, checks: BTreeMap<String, Check>) -> EndpointReport {
    EndpointReport { workload: workload.to_owned(), service: service.to_owned(), region: region.to_owned(), checks }
}

async fn connect(address: SocketAddr) -> Check {
    match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{address}: {}", crate::manifests::reason(&error))),
        Err(_) => Err(format!("{address} accepts no connection within {} s", PATIENCE.as_secs())),
    }
}

/// What the proxies that use the endpoint say of it.
fn seen_healthy(endpoint: &str, proxies: &[ProxyReport]) -> Check {
    let mut seen = false;
    for proxy in proxies {
        let clusters = proxy.status.iter().flat_map(|status| &status.clusters);
        // The sidecar's own `local` cluster bears the workload's name too; it tells the same from nearer by.
        for endpoint in clusters.flat_map(|cluster| &cluster.endpoints).filter(|e| e.name == endpoint) {
            seen = true;
            if !endpoint.healthy {
                return Err(format!("{} sees it as unhealthy", proxy.name));
            }
            if endpoint.ejected {
                return Err(format!("{} has ejected it after errors", proxy.name));
            }
        }
    }
    if seen { Ok(()) } else { Err("no proxy has it among its endpoints".to_owned()) }
}

async fn refuses_plaintext(address: SocketAddr) -> Check {
    match timeout(PATIENCE, exchange(address, REQUEST)).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/") => {
            Err(format!("{address} answers plaintext with `{}`", answer.lines().next().unwrap_or_default()))
        }
        Ok(Ok(_)) => Ok(()),
        // Refused at the door or closed: nothing gets through in plaintext.
        Ok(Err(error)) if error.kind() != std::io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(Err(error)) => Err(format!("{address}: {}", crate::manifests::reason(&error))),
        Err(_) => Err(format!("{address} keeps a plaintext connection open")),
    }
}

async fn exchange(address: SocketAddr, request: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request).await?;
    let mut answer = [0u8; 256];
    let length = stream.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

async fn healthy(address: SocketAddr, path: &str) -> Check {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    match timeout(PATIENCE, exchange(address, request.as_bytes())).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200") => Ok(()),
        Ok(Ok(answer)) => {
            let line = answer.lines().next().unwrap_or_default();
            Err(format!("{address} answers GET {path} with `{line}`, not with status 200"))
        }
        Ok(Err(error)) => Err(format!("{address}: {}", crate::manifests::reason(&error))),
        Err(_) => Err(format!("{address} does not answer GET {path} within {} s", PATIENCE.as_secs())),
    }
}

/// A client that should have been refused was, if it got no HTTP answer from a server that did present itself.
fn refused(outcome: &tls::Outcome, who: &str) -> Check {
    match &outcome.answer {
        Ok(answer) => Err(format!("it answers a client {who} with `{}`", answer.lines().next().unwrap_or_default())),
        Err(reason) if outcome.chain.is_empty() => Err(format!("it could not be asked over TLS: {reason}")),
        Err(_) => Ok(()),
    }
}

fn identity(chain: &[CertificateDer<'static>], service: &str, trust: &Trust, now: Stamp) -> Check {
    tls::trusted(chain, &trust.roots, now)?;
    let leaf = chain.first().ok_or("it presents no certificate")?;
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(leaf.as_ref())
        .map_err(|e| format!("its certificate cannot be read: {e}"))?;
    let names = leaf.subject_alternative_name().map_err(|e| format!("its names cannot be read: {e}"))?;
    let found: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let expected = format!("spiffe://{}/service/{service}", trust.trust_domain);
    if found != [expected.as_str()] {
        return Err(format!("its certificate is for `{}`, not for `{expected}`", found.join(", ")));
    }
    let left = leaf.validity().not_after.timestamp().saturating_sub(now.0 / 1_000_000_000);
    if left < MARGIN.as_secs() as i64 {
        return Err(format!("its certificate ends in {left} s"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(chain: usize, answer: Result<&str, &str>) -> tls::Outcome {
        tls::Outcome {
            chain: vec![CertificateDer::from(vec![0]); chain],
            answer: answer.map(str::to_owned).map_err(str::to_owned),
        }
    }

    #[test]
    fn what_is_found_is_called_as_proxies_call_it() {
        let mut source = SourceOfEndpoints {
            endpoint: "web-east-0".to_owned(),
            service: "web".to_owned(),
            region: "east".to_owned(),
            source: "dns web.test:80".to_owned(),
            addresses: vec![([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], 80).into()],
            age_ms: None,
            failing: None,
            held_back: None,
        };
        let names: Vec<String> = found(&source).map(|endpoint| endpoint.name).collect();
        assert_eq!(names, ["web-east-0@10.0.0.1:80", "web-east-0@10.0.0.2:80"]);
        source.addresses.clear();
        source.failing = Some("no answer".to_owned());
        let report = names_none(&source);
        assert_eq!(report.checks["found"], Err("dns web.test:80 names no address: no answer".to_owned()));
    }

    #[test]
    fn refusal_needs_a_server_that_presented_itself() {
        assert_eq!(refused(&outcome(1, Err("alert")), "x"), Ok(()));
        assert!(refused(&outcome(1, Ok("HTTP/1.1 200 OK\r\n")), "x").is_err());
        assert!(refused(&outcome(0, Err("connection refused")), "x").is_err());
    }

    #[test]
    fn a_chain_that_is_none_is_no_identity() {
        let trust = Trust {
            trust_domain: "bank.example".to_owned(),
            roots: String::new(),
            source: "ca/trust.pem".to_owned(),
            failing: None,
            federation: Vec::new(),
        };
        assert!(identity(&[], "ledger", &trust, Stamp(0)).is_err());
        assert!(identity(&[CertificateDer::from(vec![1, 2, 3])], "ledger", &trust, Stamp(0)).is_err());
    }
}
