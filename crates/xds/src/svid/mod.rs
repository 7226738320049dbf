//! Certificates that somebody else issues: read from files, or fetched from a SPIFFE Workload API. What came last is kept, and
//! what is new replaces it as a whole: certificate, key and roots belong together.

mod files;
#[cfg(test)]
mod testing;
mod workload;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use tokio::sync::watch;

use crate::{
    snapshot::TrustBundle,
    spiffe::{self, Roots},
};

/// An X.509-SVID with the roots that come with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Svid {
    /// Who we are.
    pub id: Arc<str>,
    /// PEM, leaf first.
    pub certificate: String,
    /// PEM.
    pub key: String,
    /// Roots of our own trust domain, PEM.
    pub roots: String,
    /// Roots of trust domains that ours is federated with, PEM, by name.
    pub federated: BTreeMap<String, String>,
}

impl fmt::Debug for Svid {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Svid {
    /// Checks that certificate and key belong together, that the certificate has a SPIFFE id, and that the roots can be used. That
    /// they vouch for the certificate is for its readers to find: in a rotation one of the two comes first.
    fn new(
        certificate: String,
        key: String,
        roots: String,
        federated: BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|e| format!("the certificate: {e}"))?;
        let leaf = chain.first().ok_or("there is no certificate in it")?;
        let id = spiffe::id(leaf).ok_or("the certificate has no SPIFFE id")?;
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| format!("the key: {e}"))?;
        CertifiedKey::from_der(chain, private, &spiffe::provider()).map_err(|e| format!("certificate and key: {e}"))?;
        for (name, roots) in
            [("own", &roots)].into_iter().chain(federated.iter().map(|(name, pem)| (name.as_str(), pem)))
        {
            let bundle = TrustBundle { name: name.to_owned(), roots: roots.clone(), ..TrustBundle::default() };
            Roots::read(&bundle).map_err(|e| e.to_string())?;
        }
        Ok(Self { id, certificate, key, roots, federated })
    }
}

/// Where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// PEM files, looked at again and again.
    Files(Files),
    /// The Unix socket of a Workload API.
    WorkloadApi(PathBuf),
}

/// Files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Certificate chain, leaf first.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Roots of our trust domain; `None`: nobody is believed by them.
    pub bundle: Option<PathBuf>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(files) => write!(f, "file {}", files.certificate.display()),
            Self::WorkloadApi(socket) => write!(f, "unix:{}", socket.display()),
        }
    }
}

/// The socket of a Workload API as `SPIFFE_ENDPOINT_SOCKET` names it: `unix:///run/spire/agent.sock`.
///
/// # Errors
/// If the text names no Unix socket.
pub fn socket(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or_default();
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    Err(format!("`{text}` is not a Unix socket; write it as `unix:///run/spire/agent.sock`"))
}

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What came last; `None`: nothing yet.
    pub svid: Option<Svid>,
    /// Why nothing newer comes now.
    pub failing: Option<String>,
}

/// Follows a source for as long as somebody listens. With an `id`, only an SVID of that id is taken.
pub fn follow(source: Source, id: Option<String>) -> watch::Receiver<Known> {
    let (known, told) = watch::channel(Known::default());
    tokio::spawn(async move {
        let ended = known.clone();
        tokio::select! {
            () = ended.closed() => {}
            () = async { match &source {
                Source::Files(files) => files::follow(files, id.as_deref(), &known).await,
                Source::WorkloadApi(socket) => workload::follow(socket, id.as_deref(), &known).await,
            }} => {}
        }
    });
    told
}

/// Tells what came, or why nothing did; the same is told once.
fn tell(known: &watch::Sender<Known>, seen: Result<Svid, String>) {
    known.send_if_modified(|known| {
        let before = known.clone();
        match seen {
            Ok(svid) => *known = Known { svid: Some(svid), failing: None },
            Err(reason) => known.failing = Some(reason),
        }
        *known != before
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_named_as_the_specification_does() {
        for text in ["unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock"] {
            assert_eq!(socket(text), Ok(PathBuf::from("/run/spire/agent.sock")));
        }
        for text in ["/run/agent.sock", "unix://run/agent.sock", "tcp://127.0.0.1:8081", "unix:", ""] {
            assert!(socket(text).is_err(), "{text}");
        }
    }
}
