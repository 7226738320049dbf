//! Who a peer is: the SPIFFE id in its certificate, believed only if the certificate chains to a root of the id's own trust
//! domain. So the roots of one trust domain vouch for nobody of another.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::snapshot::TrustBundle;

/// How every SPIFFE id begins.
const SCHEME: &str = "spiffe://";
/// Longest id, in bytes.
const LONGEST_ID: usize = 2048;
/// Longest trust domain, in bytes.
const LONGEST_DOMAIN: usize = 255;

/// The cryptography of this process.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}

/// The SPIFFE id of a certificate; `None` unless there is exactly one URI SAN and it is one (X.509-SVID, section 2).
pub fn id(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (first, second) = (uris.next()?, uris.next());
    (second.is_none() && trust_domain(first).is_some()).then(|| first.into())
}

/// The trust domain of a SPIFFE id; `None` if the text is none (SPIFFE-ID, section 2). Letters are small in one: a name that only
/// looks like another is none of ours.
pub fn trust_domain(id: &str) -> Option<&str> {
    let rest = id.strip_prefix(SCHEME).filter(|_| id.len() <= LONGEST_ID)?;
    let (domain, path) = match rest.split_once('/') {
        Some((domain, path)) => (domain, Some(path)),
        None => (rest, None),
    };
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    let named = !domain.is_empty() && domain.len() <= LONGEST_DOMAIN && domain.bytes().all(fits);
    (named && path.is_none_or(|path| path.split('/').all(is_segment))).then_some(domain)
}

/// Whether a text is a part of an id's path: letters, digits, `.`, `-` and `_`, and no relative one. Nothing in an id can be taken
/// for syntax of a header that it is written into.
fn is_segment(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(fits)
}

/// When a certificate ends, in seconds since the Unix epoch.
fn end(leaf: &CertificateDer<'_>) -> Option<u64> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    u64::try_from(parsed.validity().not_after.timestamp()).ok()
}

/// Now, or the certificate's end if that is over.
fn in_life(leaf: &CertificateDer<'_>) -> UnixTime {
    let now = UnixTime::now().as_secs();
    UnixTime::since_unix_epoch(Duration::from_secs(end(leaf).map_or(now, |until| until.min(now))))
}

fn no_id() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

fn stranger() -> Error {
    Error::InvalidCertificate(CertificateError::UnknownIssuer)
}

/// Why roots cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("trust bundle `{name}`: {reason}")]
pub struct RootsError {
    name: String,
    reason: String,
}

/// What vouches for SPIFFE ids.
#[derive(Clone, Debug)]
enum Vouching<T> {
    /// For every id; `None` for nobody.
    All(Option<T>),
    /// For the ids of one trust domain each.
    Domains(HashMap<String, T>),
}

impl<T> Vouching<T> {
    fn of(&self, id: &str) -> Option<&T> {
        match self {
            Self::All(all) => all.as_ref(),
            Self::Domains(domains) => domains.get(trust_domain(id)?),
        }
    }

    fn try_map<U, E>(&self, make: impl Fn(&T) -> Result<U, E>) -> Result<Vouching<U>, E> {
        Ok(match self {
            Self::All(all) => Vouching::All(all.as_ref().map(make).transpose()?),
            Self::Domains(domains) => {
                let made = domains.iter().map(|(domain, one)| Ok((domain.clone(), make(one)?)));
                Vouching::Domains(made.collect::<Result<_, E>>()?)
            }
        })
    }
}

/// The roots of a trust bundle.
#[derive(Clone, Debug)]
pub struct Roots(Vouching<Arc<RootCertStore>>);

impl Roots {
    /// Reads a bundle. One without certificates trusts nobody.
    ///
    /// # Errors
    /// If something in it is no root.
    pub fn read(bundle: &TrustBundle) -> Result<Self, RootsError> {
        let read = |pem: &str| store(&bundle.name, pem);
        if bundle.domains.is_empty() {
            return Ok(Self(Vouching::All(read(&bundle.roots)?)));
        }
        let domains = bundle.domains.iter().map(|domain| Ok((domain.name.clone(), read(&domain.roots)?)));
        let domains: Vec<_> = domains.collect::<Result<_, RootsError>>()?;
        Ok(Self(Vouching::Domains(domains.into_iter().filter_map(|(domain, roots)| Some((domain, roots?))).collect())))
    }
}

fn store(name: &str, pem: &str) -> Result<Option<Arc<RootCertStore>>, RootsError> {
    let error = |reason: String| RootsError { name: name.to_owned(), reason };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|e| error(e.to_string()))?;
        store.add(certificate).map_err(|e| error(e.to_string()))?;
    }
    if store.is_empty() && !pem.trim().is_empty() {
        return Err(error("no certificate in it".into()));
    }
    Ok((!store.is_empty()).then(|| Arc::new(store)))
}

/// Verifies callers: any SPIFFE id that roots vouch for. What it may do is decided per request.
#[derive(Debug)]
pub struct ClientVerifier(Vouching<Arc<dyn ClientCertVerifier>>);

impl ClientVerifier {
    /// By these roots.
    ///
    /// # Errors
    /// If the TLS library refuses them.
    pub fn new(roots: &Roots) -> Result<Self, Error> {
        let make = |roots: &Arc<RootCertStore>| {
            let built = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build();
            built.map_err(|error| Error::General(error.to_string()))
        };
        Ok(Self(roots.0.try_map(make)?))
    }

    /// Whether a certificate chain that was let in would be let in now, but for its end: a connection does not outlast
    /// its certificate by much, and needs not be cut for that.
    pub fn accepts(&self, chain: &[CertificateDer<'_>]) -> bool {
        chain.split_first().is_some_and(|(leaf, rest)| self.verify_client_cert(leaf, rest, in_life(leaf)).is_ok())
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let id = id(leaf).ok_or_else(no_id)?;
        self.0.of(&id).ok_or_else(stranger)?.verify_client_cert(leaf, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies servers: one of the expected SPIFFE ids. Names and addresses mean nothing here.
#[derive(Debug)]
pub struct ServerVerifier {
    roots: Roots,
    ids: Vec<String>,
}

impl ServerVerifier {
    /// By these roots; one of the ids.
    pub fn new(roots: Roots, ids: Vec<String>) -> Self {
        Self { roots, ids }
    }

    /// Whether a certificate chain that was believed would be now, but for its end.
    pub fn accepts(&self, chain: &[CertificateDer<'_>]) -> bool {
        chain.split_first().is_some_and(|(leaf, rest)| self.verify(leaf, rest, in_life(leaf)).is_ok())
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = provider().signature_verification_algorithms.all;
        let id = id(leaf).ok_or_else(no_id)?;
        let roots = self.roots.0.of(&id).ok_or_else(stranger)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        if self.ids.iter().any(|expected| **expected == *id) {
            Ok(())
        } else {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName))
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

    use super::*;
    use crate::snapshot::TrustDomain;

    struct Authority(Issuer<'static, KeyPair>, String);

    impl Authority {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).unwrap().pem();
            Self(Issuer::new(params, key), pem)
        }

        fn issue(&self, uris: &[&str]) -> Vec<CertificateDer<'static>> {
            let mut params = CertificateParams::default();
            params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
            let key = KeyPair::generate().unwrap();
            vec![params.signed_by(&key, &self.0).unwrap().der().clone()]
        }
    }

    fn federated(domains: &[(&str, &Authority)]) -> Roots {
        let domains = domains.iter().map(|(name, of)| TrustDomain { name: (*name).to_owned(), roots: of.1.clone() });
        let bundle = TrustBundle { name: "mesh".to_owned(), domains: domains.collect(), ..TrustBundle::default() };
        Roots::read(&bundle).unwrap()
    }

    #[test]
    fn roots_vouch_for_ids_of_their_own_trust_domain_only() {
        let (ours, theirs, third) = (Authority::new(), Authority::new(), Authority::new());
        let roots = federated(&[("a.example", &ours), ("b.example", &theirs)]);
        let (own, foreign) = ("spiffe://a.example/service/web", "spiffe://b.example/service/fx");
        let callers = ClientVerifier::new(&roots).unwrap();
        let servers = ServerVerifier::new(roots, vec![own.to_owned(), foreign.to_owned()]);
        for (authority, id, believed) in [
            (&ours, own, true),
            (&theirs, foreign, true),
            (&theirs, own, false),
            (&ours, foreign, false),
            (&third, own, false),
            (&third, "spiffe://c.example/service/fx", false),
            (&ours, "spiffe://a.example.b.example/service/web", false),
            (&ours, "spiffe://A.example/service/web", false),
        ] {
            let chain = authority.issue(&[id]);
            assert_eq!((callers.accepts(&chain), servers.accepts(&chain)), (believed, believed), "{id}");
        }
        // Not by one id for another.
        assert!(!callers.accepts(&theirs.issue(&[foreign, own])) && !callers.accepts(&ours.issue(&[])));
        let strict = ServerVerifier::new(federated(&[("b.example", &theirs)]), vec![foreign.to_owned()]);
        assert!(!strict.accepts(&theirs.issue(&["spiffe://b.example/service/other"])));
    }

    #[test]
    fn a_bundle_without_trust_domains_vouches_for_every_id_and_an_empty_one_for_nobody() {
        let authority = Authority::new();
        let read = |roots: &str| {
            let (name, roots) = ("mesh".to_owned(), roots.to_owned());
            Roots::read(&TrustBundle { name, roots, ..TrustBundle::default() })
        };
        let chain = authority.issue(&["spiffe://c.example/x"]);
        assert!(ClientVerifier::new(&read(&authority.1).unwrap()).unwrap().accepts(&chain));
        assert!(!ClientVerifier::new(&read("").unwrap()).unwrap().accepts(&chain));
        assert!(read("rubbish").unwrap_err().to_string().contains("trust bundle `mesh`: no certificate in it"));
    }

    #[test]
    fn a_trust_domain_is_what_stands_before_the_path() {
        for (id, domain) in [
            ("spiffe://bank.example/service/fx", Some("bank.example")),
            ("spiffe://bank_1.example", Some("bank_1.example")),
            ("spiffe:///fx", None),
            ("spiffe://Bank.example/fx", None),
            ("spiffe://bank.example:80/fx", None),
            ("spiffe://u@bank.example/fx", None),
            ("https://bank.example/fx", None),
            ("bank.example", None),
            // Nothing that means something in a URI or a header, no empty or relative part, no slash at the end.
            ("spiffe://bank.example/", None),
            ("spiffe://bank.example/fx/", None),
            ("spiffe://bank.example//fx", None),
            ("spiffe://bank.example/./fx", None),
            ("spiffe://bank.example/fx/..", None),
            ("spiffe://bank.example/fx,gx", None),
            ("spiffe://bank.example/fx;By=spiffe:x", None),
            ("spiffe://bank.example/fx\"", None),
            ("spiffe://bank.example/f%78", None),
            ("spiffe://bank.example/fx?a=b", None),
            ("spiffe://bank.example/fx#a", None),
            ("spiffe://bank.example/f x", None),
            ("spiffe://bank.example?a", None),
            ("spiffe://bank.example/.../A_b.c-d", Some("bank.example")),
        ] {
            assert_eq!(trust_domain(id), domain, "{id}");
        }
        let long = |bytes: usize| format!("spiffe://b/{}", "x".repeat(bytes - 11));
        assert_eq!((trust_domain(&long(2048)), trust_domain(&long(2049))), (Some("b"), None));
        assert_eq!(trust_domain(&format!("spiffe://{}/x", "b".repeat(256))), None);
    }
}
