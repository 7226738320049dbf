//! What a drill tests, so that its record cannot be taken for that of another mesh.

use std::{fs, io, net::SocketAddr, path::Path};

use control::api::SourceOfEndpoints;
use drill::target::TargetError;
use evidence::{
    canonical::{hex, sha256},
    record::{Binary, Configuration, Tested, TestedEndpoint},
};
use model::{config::Config, name::ServiceName};
use serde::{Deserialize, Serialize};

use crate::{manifests::reason, supervisor::api::MeshReport};

/// `evidence.json` in the state folder: which mesh its evidence is of.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Identity {
    /// Random, from the first drill on.
    id: String,
    /// Name of the mesh.
    name: String,
    /// Its trust domain.
    trust_domain: String,
}

/// What is tested now: the endpoints of these services.
pub async fn tested(
    mesh: &MeshReport,
    config: &Config,
    services: &[ServiceName],
    configuration: Configuration,
    found: Vec<SourceOfEndpoints>,
) -> Result<Tested, TargetError> {
    let refused = |reason: String| TargetError::Refused {
        who: "state folder",
        what: "say which mesh it is of".to_owned(),
        reason,
    };
    let id = identify(&mesh.state, &config.mesh.name, &config.mesh.trust_domain).map_err(refused)?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let local = || Some(host.clone());
    let inside = mesh.workloads.iter().map(|w| endpoint(&w.service, &w.region, w.address, local()));
    let outside = mesh.outside.iter().map(|o| endpoint(&o.service, &o.region, o.address, None));
    let found = found.iter().flat_map(|source| {
        let named = source.source.strip_prefix("dns ").map(str::to_owned);
        source.addresses.iter().map(move |address| endpoint(&source.service, &source.region, *address, named.clone()))
    });
    let in_scope = |endpoint: &TestedEndpoint| services.iter().any(|service| service.as_str() == endpoint.service);
    let mut endpoints: Vec<TestedEndpoint> = inside.chain(outside).chain(found).filter(in_scope).collect();
    endpoints.sort();
    endpoints.dedup();
    // An unreadable file leaves the digest unknown, which the record says.
    let digest = tokio::task::spawn_blocking(program).await.ok().and_then(Result::ok);
    Ok(Tested {
        mesh: Some(id),
        operator: None,
        host: local(),
        configuration: Some(configuration),
        binary: Some(Binary { version: env!("CARGO_PKG_VERSION").to_owned(), digest }),
        endpoints,
    })
}

fn endpoint(service: &str, region: &str, address: SocketAddr, host: Option<String>) -> TestedEndpoint {
    let (service, region) = (service.to_owned(), region.to_owned());
    TestedEndpoint { service, region, address: address.to_string(), host }
}

/// The id of the mesh whose evidence a state folder holds; another mesh is refused, since its attempts would be numbered
/// into this one's.
fn identify(state: &Path, name: &str, trust_domain: &str) -> Result<String, String> {
    let path = state.join("evidence.json");
    let cannot = |e: io::Error| format!("`{}`: {}", path.display(), reason(&e));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let random = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(cannot)?;
            let new =
                Identity { id: random.trim().to_owned(), name: name.to_owned(), trust_domain: trust_domain.to_owned() };
            let text = serde_json::to_string(&new).map_err(|e| e.to_string())?;
            let whole = path.with_extension("new");
            fs::write(&whole, &text).and_then(|()| fs::rename(&whole, &path)).map_err(cannot)?;
            text
        }
        Err(error) => return Err(cannot(error)),
    };
    let known: Identity = serde_json::from_str(&text).map_err(|e| format!("`{}`: {e}", path.display()))?;
    if (known.name.as_str(), known.trust_domain.as_str()) != (name, trust_domain) {
        return Err(format!(
            "`{}` holds the evidence of mesh {} ({}), and this is mesh {name} ({trust_domain}); use another `--state DIR`",
            state.display(),
            known.name,
            known.trust_domain
        ));
    }
    Ok(known.id)
}

/// Digest of the running program's file.
fn program() -> io::Result<String> {
    Ok(format!("sha256:{}", hex(&sha256(&fs::read("/proc/self/exe")?))))
}

/// Who runs this process: the name of its user, or the number of one without a name.
pub fn operator() -> String {
    let id = rustix::process::getuid().as_raw();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    format!("user {}", name.unwrap_or_else(|| id.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_is_of_one_mesh() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id = identify(one.path(), "bank", "bank.example").unwrap();
        assert_eq!(identify(one.path(), "bank", "bank.example"), Ok(id.clone()), "it stays");
        assert_ne!(identify(other.path(), "bank", "bank.example"), Ok(id), "the same manifests, another mesh");
        let refused = identify(one.path(), "shop", "bank.example").unwrap_err();
        assert!(refused.contains("mesh bank") && refused.contains("--state"), "{refused}");
        assert!(identify(one.path(), "bank", "shop.example").is_err());
        fs::write(one.path().join("evidence.json"), "{}").unwrap();
        assert!(identify(one.path(), "bank", "bank.example").is_err());
    }

    #[test]
    fn the_operator_has_a_name() {
        assert!(operator().len() > "user ".len());
    }
}
