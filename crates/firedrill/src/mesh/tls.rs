//! A TLS client that lets any server in, and says afterwards who it was: an audit must see a wrong certificate, not
//! fail on it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Bound on one connection of the audit.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Who the client says it is.
#[derive(Clone, Copy, Debug)]
pub enum Presented {
    /// Nobody: no certificate.
    Nothing,
    /// Somebody of an authority that nobody knows, with this SPIFFE id.
    Stranger(&'static str),
}

/// What became of a request over TLS.
#[derive(Debug)]
pub struct Outcome {
    /// The server's certificates, leaf first; empty if it presented none.
    pub chain: Vec<CertificateDer<'static>>,
    /// First bytes of an HTTP answer, if one came; else why none did.
    pub answer: Result<String, String>,
}

/// Connects, presents what is asked, sends a request, and waits for an answer or the end.
pub async fn request(address: SocketAddr, presented: Presented) -> Outcome {
    let recorder = Arc::new(Recorder { provider: Arc::new(aws_lc_rs::default_provider()), seen: Mutex::default() });
    let answer = match timeout(PATIENCE, exchange(address, presented, &recorder)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    let chain = recorder.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Outcome { chain, answer }
}

async fn exchange(address: SocketAddr, presented: Presented, recorder: &Arc<Recorder>) -> Result<String, String> {
    let config = config(presented, recorder)?;
    let stream = TcpStream::connect(address).await.map_err(|e| format!("cannot connect: {e}"))?;
    let name = ServerName::IpAddress(address.ip().into());
    let mut stream =
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| format!("handshake: {e}"))?;
    stream.write_all(super::audit::REQUEST).await.map_err(|e| e.to_string())?;
    // With TLS 1.3 a client learns that it was refused only from what it reads.
    let mut answer = [0u8; 256];
    match stream.read(&mut answer).await {
        Ok(0) => Err("closed without an answer".to_owned()),
        Ok(length) => Ok(String::from_utf8_lossy(&answer[..length]).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn config(presented: Presented, recorder: &Arc<Recorder>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(recorder.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(recorder.clone());
    let mut config = match presented {
        Presented::Nothing => builder.with_no_client_auth(),
        Presented::Stranger(id) => {
            let (chain, key) = stranger(id).map_err(|e| format!("cannot make a certificate: {e}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn stranger(id: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(rcgen::SanType::URI(id.try_into()?));
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((vec![certificate.der().clone()], key))
}

/// Whether a chain ends at one of the roots (PEM) and is valid at `now`; the names in it are not looked at.
///
/// # Errors
/// What is wrong with it.
pub fn trusted(chain: &[CertificateDer<'static>], roots: &str, now: xds::clock::Stamp) -> Result<(), String> {
    let (leaf, intermediates) = chain.split_first().ok_or("it presents no certificate")?;
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        let root = root.map_err(|e| format!("the mesh's trust bundle cannot be read: {e}"))?;
        store.add(root).map_err(|e| format!("the mesh's trust bundle cannot be used: {e}"))?;
    }
    let seconds = u64::try_from(now.0 / 1_000_000_000).unwrap_or(0);
    let leaf = ParsedCertificate::try_from(leaf).map_err(|e| format!("its certificate cannot be read: {e}"))?;
    verify_server_cert_signed_by_trust_anchor(
        &leaf,
        &store,
        intermediates,
        UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
        aws_lc_rs::default_provider().signature_verification_algorithms.all,
    )
    .map_err(|e| format!("its certificate is not of the mesh's authority: {e}"))
}

/// Remembers what the server presents. Signatures of the handshake are checked, so the server holds the key.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(leaf).chain(intermediates).map(|c| c.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
