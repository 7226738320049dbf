//! The certificate authority: one root, workload certificates signed from requests. Private keys stay where they were
//! made: the root's in the state folder, a proxy's in its process.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use thiserror::Error;
use xds::clock::Clock;

use crate::{
    api::{Certificate, Stamp},
    peer, secret,
};

/// Life of the root: longer than any mesh on one machine.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Validity begins a little before now, for machines whose clocks lag.
const SKEW: Duration = Duration::from_secs(60);
/// Life of the control plane's own certificate; renewed at half of it.
const OWN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Largest request that is looked at, in bytes.
const MAX_CSR: usize = 16 * 1024;

/// Why nothing was signed.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The request is not acceptable; the requester is to blame.
    #[error("the certificate request is refused: {0}")]
    Request(String),
    /// The state folder does not hold what it should.
    #[error("the certificate authority in {path}: {reason}")]
    State {
        /// Which file.
        path: String,
        /// What is wrong.
        reason: String,
    },
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
    roots: String,
    clock: Clock,
}

impl Authority {
    /// Opens `ca/root.key` and `ca/root.pem` of the state folder; both are made at the first start.
    ///
    /// # Errors
    /// If they cannot be read, made, or do not belong together.
    pub fn open(state_dir: &Path, clock: Clock) -> Result<Self, AuthorityError> {
        let folder = state_dir.join("ca");
        let (key_path, root_path) = (folder.join("root.key"), roots_file(state_dir));
        let state = |path: &Path, reason: String| AuthorityError::State { path: path.display().to_string(), reason };
        secret::private_folder(&folder).map_err(|e| state(&folder, e.to_string()))?;
        let make_key = || Ok(KeyPair::generate().map_err(io::Error::other)?.serialize_pem());
        let key = secret::read_or_make(&key_path, make_key).map_err(|e| state(&key_path, e.to_string()))?;
        let key = KeyPair::from_pem(&key).map_err(|e| state(&key_path, e.to_string()))?;
        let make_root = || self_sign(&key, &clock).map_err(io::Error::other);
        let roots = secret::read_or_make(&root_path, make_root).map_err(|e| state(&root_path, e.to_string()))?;
        let der = CertificateDer::from_pem_slice(roots.as_bytes()).map_err(|e| state(&root_path, e.to_string()))?;
        let (_, root) = x509_parser::parse_x509_certificate(&der).map_err(|e| state(&root_path, e.to_string()))?;
        if root.public_key().raw != key.subject_public_key_info() {
            let reason = format!("the certificate is not of the key in {}; restore the pair", key_path.display());
            return Err(state(&root_path, reason));
        }
        let callers = verifier(der.clone()).map_err(|e| state(&root_path, e))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| state(&root_path, e.to_string()))?;
        Ok(Self { issuer, callers, roots, clock })
    }

    /// The root, PEM: what proxies trust the control plane by, and what the trust bundle of traffic begins as.
    pub fn roots(&self) -> &str {
        &self.roots
    }

    /// Signs a certificate for the key of a request.
    ///
    /// # Errors
    /// If signing failed.
    pub fn sign(&self, request: &Request, spiffe_id: &str, lifetime: Duration) -> Result<Certificate, AuthorityError> {
        self.issue(&request.0.public_key, spiffe_id, &[], lifetime)
    }

    /// The SPIFFE id of a certificate chain (leaf first) of this authority that is valid now.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Arc<str>, String> {
        let (leaf, rest) = chain.split_first().ok_or("there is none")?;
        self.callers.verify_client_cert(leaf, rest, UnixTime::now()).map_err(|error| error.to_string())?;
        peer::spiffe_id(leaf).ok_or_else(|| "it has no SPIFFE id".to_owned())
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        spiffe_id: &str,
        dns: &[&str],
        lifetime: Duration,
    ) -> Result<Certificate, AuthorityError> {
        let now = self.clock.now();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // The identity is in the URI SAN alone (SPIFFE X.509-SVID §4.1).
        params.distinguished_name.push(DnType::CommonName, "firedrill workload");
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
        let (not_before, not_after) = (shift(now, SKEW, false), shift(now, lifetime, true));
        set_validity(&mut params, not_before, not_after);
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Certificate {
            certificate: certificate.pem(),
            roots: self.roots.clone(),
            spiffe_id: spiffe_id.to_owned(),
            not_before,
            not_after,
        })
    }

    /// TLS of the ADS server: a certificate for `spiffe_id` and DNS name `control`, HTTP/2 by ALPN. Clients must have a
    /// certificate of this authority.
    ///
    /// # Errors
    /// If signing failed.
    pub fn server_config(&self, spiffe_id: &str) -> Result<Arc<ServerConfig>, AuthorityError> {
        let key = KeyPair::generate()?;
        let own = self.issue(&key, spiffe_id, &["control"], OWN_LIFETIME)?;
        let sign = |e: &dyn std::fmt::Display| AuthorityError::Sign(e.to_string());
        let chain = CertificateDer::pem_slice_iter(own.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| sign(&e))?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| sign(&e))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| sign(&e))?
            .with_client_cert_verifier(self.callers.clone())
            .with_single_cert(chain, key)
            .map_err(|e| sign(&e))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// When the control plane's own certificate made at `now` should be replaced.
    pub fn renew_own_at(now: Instant) -> Instant {
        now + OWN_LIFETIME / 2
    }
}

fn verifier(root: CertificateDer<'_>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(root.into_owned()).map_err(|e| e.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|e| e.to_string())
}

fn self_sign(key: &KeyPair, clock: &Clock) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "firedrill mesh root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, shift(clock.now(), SKEW, false), shift(clock.now(), ROOT_LIFETIME, true));
    Ok(params.self_signed(key)?.pem())
}

/// 127 random bits, so that the number is positive (RFC 5280 §4.1.2.2).
fn serial() -> Result<SerialNumber, AuthorityError> {
    use aws_lc_rs::rand::SecureRandom as _;
    let mut bytes = [0_u8; 16];
    let random = aws_lc_rs::rand::SystemRandom::new();
    random.fill(&mut bytes).map_err(|_| AuthorityError::Sign("the system has no randomness".to_owned()))?;
    bytes[0] &= 0x7f;
    bytes[0] |= 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn shift(stamp: Stamp, by: Duration, later: bool) -> Stamp {
    let nanos = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
    Stamp(if later { stamp.0.saturating_add(nanos) } else { stamp.0.saturating_sub(nanos) })
}

/// Certificates carry whole seconds.
fn set_validity(params: &mut CertificateParams, from: Stamp, to: Stamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = |stamp: Stamp| Duration::from_secs(stamp.0.max(0).unsigned_abs() / 1_000_000_000);
    params.not_before = epoch + since_epoch(from);
    params.not_after = epoch + since_epoch(to);
}
