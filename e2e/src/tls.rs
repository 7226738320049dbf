//! A TLS client that presents any certificate and lets any server in, and authorities to make certificates with.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// Bound on one exchange.
const BOUND: Duration = Duration::from_secs(5);

/// Signs certificates.
pub struct Authority(Issuer<'static, KeyPair>);

/// A certificate with its key.
pub struct Presented {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// Both in PEM.
    text: [String; 2],
}

impl Presented {
    /// As files for other programs: of the certificate, and of the key.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let [certificate, key] = ["pem", "key"].map(|end| folder.join(format!("{name}.{end}")));
        std::fs::write(&certificate, &self.text[0]).expect("written");
        std::fs::write(&key, &self.text[1]).expect("written");
        (certificate, key)
    }
}

impl Authority {
    /// The mesh's own, by the key in its state folder.
    pub fn of(state: &Path) -> Self {
        Self::of_files(&state.join("ca/root.key"), &state.join("ca/root.pem"))
    }

    /// Of a root's key and certificate.
    pub fn of_files(key: &Path, root: &Path) -> Self {
        let read = |path: &Path| std::fs::read_to_string(path).expect("the authority's file");
        let key = KeyPair::from_pem(&read(key)).expect("a key");
        Self(Issuer::from_ca_cert_pem(&read(root), key).expect("a root"))
    }

    /// One that nobody knows.
    pub fn stranger() -> Self {
        Self::with_root().0
    }

    /// The same, with its root in PEM for those who are to know it.
    pub fn with_root() -> (Self, String) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("signed").pem();
        (Self(Issuer::new(params, key)), root)
    }

    /// A certificate for either side, valid from `from` days ago for `days`.
    pub fn certificate(&self, spiffe_id: Option<&str>, from: u32, days: u32) -> Presented {
        let mut params = CertificateParams::default();
        params.subject_alt_names.extend(spiffe_id.map(|id| SanType::URI(id.try_into().expect("ASCII"))));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let day = Duration::from_secs(24 * 3600);
        let now = rcgen::date_time_ymd(1970, 1, 1)
            + std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock that is right within decades");
        params.not_before = now - day * from;
        params.not_after = params.not_before + day * days;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        let text = [certificate.pem(), key.serialize_pem()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Presented { chain: vec![certificate.der().clone()], key, text }
    }
}

/// A GET over TLS: the status, or how it was refused.
///
/// # Errors
/// What the server did instead of answering.
pub async fn get(address: SocketAddr, presented: Option<Presented>, path: &str) -> Result<u16, String> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.expect("listens");
        let name = ServerName::IpAddress(address.ip().into());
        let connector = TlsConnector::from(Arc::new(config(presented)));
        let mut stream = connector.connect(name, stream).await.map_err(|e| format!("handshake: {e}"))?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        // With TLS 1.3 a client learns that it was refused only from what it reads.
        stream.write_all(request.as_bytes()).await.map_err(|e| format!("write: {e}"))?;
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer);
        let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        status.ok_or_else(|| format!("{ended:?}, answer {text:?}"))
    };
    tokio::time::timeout(BOUND, exchange).await.unwrap_or_else(|_| Err(format!("neither answer nor end in {BOUND:?}")))
}

/// The chain that a server presents, leaf first; whether it lets us in matters not.
pub async fn presented(address: SocketAddr) -> Vec<CertificateDer<'static>> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.expect("listens");
        let connector = TlsConnector::from(Arc::new(config(None)));
        let stream = connector.connect(ServerName::IpAddress(address.ip().into()), stream).await.expect("TLS");
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        chain.iter().map(|one| one.clone().into_owned()).collect()
    };
    tokio::time::timeout(BOUND, exchange).await.expect("a handshake in time")
}

/// Whether a chain is valid now and leads to a root of the bundle.
///
/// # Errors
/// Why it does not.
pub fn trusted(chain: &[CertificateDer<'_>], bundle: &str) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    let (leaf, rest) = chain.split_first().ok_or("no certificate")?;
    let leaf = ParsedCertificate::try_from(leaf).map_err(|e| e.to_string())?;
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&leaf, &roots, rest, UnixTime::now(), algorithms)
        .map_err(|e| e.to_string())
}

fn config(presented: Option<Presented>) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let mut config = match presented {
        Some(presented) => builder.with_client_auth_cert(presented.chain, presented.key).expect("a usable key"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
