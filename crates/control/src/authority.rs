//! The certificate authority: workload certificates signed from requests by an intermediate of the root. A proxy's private
//! key stays in its process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use thiserror::Error;
use xds::{
    clock::Clock,
    snapshot::{TrustBundle, TrustDomain},
    spiffe,
    svid::Svid,
};

use crate::{
    api::{Certificate, Stamp},
    ca::{CaError, Folder, Material, SKEW, serial, set_validity, shift},
    peer::common_name,
};

/// Life of the control plane's own certificate; renewed at half of it.
const OWN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Common name of a certificate that is no one proxy's.
const UNNAMED: &str = "firedrill workload";
/// Largest request that is looked at, in bytes.
const MAX_CSR: usize = 16 * 1024;

/// Why nothing was signed.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The request is not acceptable; the requester is to blame.
    #[error("the certificate request is refused: {0}")]
    Request(String),
    /// The state folder does not hold what it should.
    #[error("the certificate authority: {0}")]
    State(#[from] CaError),
    /// Signing failed.
    #[error("signing failed: {0}")]
    Sign(String),
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Sign(error.to_string())
    }
}

/// The file of a state folder that holds the root, PEM.
pub fn roots_file(state_dir: &Path) -> PathBuf {
    state_dir.join("ca").join("root.pem")
}

/// A certificate request whose signature proves that its maker has the key. Nothing but the public key is taken from it.
pub struct Request(CertificateSigningRequestParams);

impl Request {
    /// Reads PKCS #10, PEM.
    ///
    /// # Errors
    /// If it is none, or too long, or its signature is not by the key in it.
    pub fn parse(csr: &str) -> Result<Self, AuthorityError> {
        if csr.len() > MAX_CSR {
            return Err(AuthorityError::Request(format!("it has {} bytes, more than {MAX_CSR}", csr.len())));
        }
        let request = CertificateSigningRequestParams::from_pem(csr).map_err(|error| {
            AuthorityError::Request(match error {
                rcgen::Error::InvalidCertificationRequestSignature => {
                    "its signature is not by the key in it".to_owned()
                }
                other => other.to_string(),
            })
        })?;
        Ok(Self(request))
    }

    /// The public key, DER.
    pub fn key(&self) -> &[u8] {
        self.0.public_key.der_bytes()
    }
}

/// The authority of one mesh.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Lets in who has a certificate of this authority.
    callers: Arc<dyn ClientCertVerifier>,
    material: Signing,
    clock: Clock,
}

/// What is handed out with each certificate, and how long the intermediate lasts.
struct Signing {
    roots: String,
    intermediate: String,
    ends: Stamp,
}

/// TLS of the control plane's servers.
#[derive(Clone)]
pub struct OwnTls {
    /// Clients must have a certificate of this authority; HTTP/2 by ALPN.
    pub ads: Arc<ServerConfig>,
    /// Anybody may ask for our trust bundle.
    pub bundle: Arc<ServerConfig>,
    /// What the control plane proves itself with where it is the client.
    own: Arc<CertifiedKey>,
    /// Roots of proxies on this control plane's own trust domain.
    roots: spiffe::Roots,
}

impl OwnTls {
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
        callers: Arc<dyn ClientCertVerifier>,
        roots: spiffe::Roots,
    ) -> Result<Self, rustls::Error> {
        let own = Arc::new(CertifiedKey::from_der(chain.clone(), key.clone_key(), &spiffe::provider())?);
        let builder = || ServerConfig::builder_with_provider(spiffe::provider()).with_safe_default_protocol_versions();
        let ads = builder()?.with_client_cert_verifier(callers);
        let mut ads = ads.with_single_cert(chain.clone(), key.clone_key())?;
        ads.alpn_protocols = vec![b"h2".to_vec()];
        let bundle = builder()?.with_no_client_auth().with_single_cert(chain, key.clone_key())?;
        Ok(Self { ads: Arc::new(ads), bundle: Arc::new(bundle), own, roots })
    }

    /// TLS towards a proxy that must prove to be `id`; it learns who we are.
    ///
    /// # Errors
    /// If the TLS library cannot.
    pub fn towards(&self, id: &str) -> Result<ClientConfig, rustls::Error> {
        let verifier = spiffe::ServerVerifier::new(self.roots.clone(), vec![id.to_owned()]);
        let mut config = ClientConfig::builder_with_provider(spiffe::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.own.clone())));
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }

    /// With a certificate that another authority issued; its roots vouch for clients of its own trust domain.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn issued(svid: &Svid) -> Result<Self, AuthorityError> {
        let unusable = |e: &dyn std::fmt::Display| AuthorityError::Sign(e.to_string());
        let name = spiffe::trust_domain(&svid.id).unwrap_or_default().to_owned();
        let own = TrustDomain { name: name.clone(), roots: svid.roots.clone() };
        let bundle = TrustBundle { name, domains: vec![own], ..TrustBundle::default() };
        let roots = spiffe::Roots::read(&bundle).map_err(|e| unusable(&e))?;
        let callers = spiffe::ClientVerifier::new(&roots).map_err(|e| unusable(&e))?;
        let chain = CertificateDer::pem_slice_iter(svid.certificate.as_bytes()).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(svid.key.as_bytes()).map_err(|e| unusable(&e))?;
        Self::new(chain.map_err(|e| unusable(&e))?, &key, Arc::new(callers), roots).map_err(|e| unusable(&e))
    }
}

impl Authority {
    /// Opens the folder `ca` of the state folder; what a mesh begins with is made at the first start.
    ///
    /// # Errors
    /// If it cannot be read or made, or does not belong together.
    pub fn open(state_dir: &Path, clock: Clock) -> Result<Self, AuthorityError> {
        Self::new(Folder::of(state_dir, clock).prepare()?, clock)
    }

    /// Signs with an intermediate.
    ///
    /// # Errors
    /// If what it signs would not be believed by who trusts the roots.
    pub fn new(material: Material, clock: Clock) -> Result<Self, AuthorityError> {
        let Material { roots, intermediate, key, ends } = material;
        let sign = |e: &dyn std::fmt::Display| AuthorityError::Sign(e.to_string());
        let der = CertificateDer::from_pem_slice(intermediate.as_bytes()).map_err(|e| sign(&e))?;
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        let callers = verifier(&roots).map_err(|e| sign(&e))?;
        let authority = Self { issuer, callers, material: Signing { roots, intermediate, ends }, clock };
        let (_, chain) = authority.own("spiffe://firedrill/trial")?;
        authority.verify(&chain).map_err(|reason| {
            AuthorityError::Sign(format!("the roots in ca/root.pem do not vouch for ca/intermediate.pem: {reason}"))
        })?;
        Ok(authority)
    }

    /// The roots, PEM: what proxies trust the control plane by, and what the trust bundle of traffic begins as.
    pub fn roots(&self) -> &str {
        &self.material.roots
    }

    /// Signs a certificate for the key of a request.
    ///
    /// # Errors
    /// If signing failed.
    pub fn sign(&self, request: &Request, spiffe_id: &str, lifetime: Duration) -> Result<Certificate, AuthorityError> {
        self.issue(&request.0.public_key, spiffe_id, UNNAMED, &[], lifetime)
    }

    /// The same for one proxy among those with this id: no other may open its stream or renew its certificate.
    ///
    /// # Errors
    /// If signing failed.
    pub fn sign_for(
        &self,
        request: &Request,
        spiffe_id: &str,
        proxy: &str,
        lifetime: Duration,
    ) -> Result<Certificate, AuthorityError> {
        self.issue(&request.0.public_key, spiffe_id, &common_name(proxy), &[], lifetime)
    }

    /// The SPIFFE id of a certificate chain (leaf first) of this authority that is valid now.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Arc<str>, String> {
        let (leaf, rest) = chain.split_first().ok_or("there is none")?;
        self.callers.verify_client_cert(leaf, rest, UnixTime::now()).map_err(|error| error.to_string())?;
        spiffe::id(leaf).ok_or_else(|| "it has no SPIFFE id".to_owned())
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        spiffe_id: &str,
        name: &str,
        dns: &[&str],
        lifetime: Duration,
    ) -> Result<Certificate, AuthorityError> {
        let now = self.clock.now();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // The identity is in the URI SAN alone (SPIFFE X.509-SVID §4.1); the name only narrows who may use it here.
        params.distinguished_name.push(DnType::CommonName, name);
        let bad = |e: rcgen::Error| AuthorityError::Sign(e.to_string());
        params.subject_alt_names.push(SanType::URI(spiffe_id.try_into().map_err(bad)?));
        for name in dns {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into().map_err(bad)?));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        let (not_before, not_after) = (shift(now, SKEW, false), shift(now, lifetime, true).min(self.material.ends));
        set_validity(&mut params, not_before, not_after);
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Certificate {
            certificate: format!("{}{}", certificate.pem(), self.material.intermediate),
            roots: self.material.roots.clone(),
            spiffe_id: spiffe_id.to_owned(),
            not_before,
            not_after,
        })
    }

    fn own(&self, spiffe_id: &str) -> Result<(KeyPair, Vec<CertificateDer<'static>>), AuthorityError> {
        let key = KeyPair::generate()?;
        let own = self.issue(&key, spiffe_id, UNNAMED, &["control"], OWN_LIFETIME)?;
        let chain = CertificateDer::pem_slice_iter(own.certificate.as_bytes()).collect::<Result<_, _>>();
        Ok((key, chain.map_err(|e| AuthorityError::Sign(e.to_string()))?))
    }

    /// TLS of the control plane's servers: a certificate for `spiffe_id` and DNS name `control`.
    ///
    /// # Errors
    /// If signing failed.
    pub fn own_tls(&self, spiffe_id: &str) -> Result<OwnTls, AuthorityError> {
        let (key, chain) = self.own(spiffe_id)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| AuthorityError::Sign(e.to_string()))?;
        let name = spiffe::trust_domain(spiffe_id).unwrap_or_default().to_owned();
        let own = TrustDomain { name: name.clone(), roots: self.material.roots.clone() };
        let bundle = TrustBundle { name, domains: vec![own], ..TrustBundle::default() };
        let roots = spiffe::Roots::read(&bundle).map_err(|e| AuthorityError::Sign(e.to_string()))?;
        OwnTls::new(chain, &key, self.callers.clone(), roots).map_err(|e| AuthorityError::Sign(e.to_string()))
    }

    /// When the control plane's own certificate made at `now` should be replaced.
    pub fn renew_own_at(now: Instant) -> Instant {
        now + OWN_LIFETIME / 2
    }
}

fn verifier(bundle: &str) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), spiffe::provider()).build().map_err(|e| e.to_string())
}
