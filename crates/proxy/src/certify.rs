//! Our certificate: a key made here, signed by the control plane, renewed at half of its life. The first is signed for a
//! join token, the others for the one before. It is kept in the state folder (0600), so that a restart needs neither a
//! control plane nor a token.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::TlsConnector;
use xds::spiffe::provider;

use crate::tls::identity::{Identity, IdentityError, Validity};

const TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// Between two renewals at least, where clocks disagree so much that even a new certificate has ended.
const RENEWALS: Duration = Duration::from_secs(1);
const ANSWER_BYTES: usize = 1024 * 1024;
const FILE: &str = "identity.json";

/// Asks for a certificate.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked<'a> {
    proxy: &'a str,
    csr: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    renews: Option<Renewal<'a>>,
}

/// The certificate that proves who asks.
#[derive(Serialize)]
struct Renewal<'a> {
    certificate: &'a str,
    /// By its key, over [`RENEWS`] and the request; in hexadecimal.
    signature: String,
}

/// What is signed to renew begins with this.
const RENEWS: &str = "firedrill renews a certificate\n";

/// The control plane's answer; more fields may come.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    certificate: String,
    roots: String,
    spiffe_id: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    certificate: String,
    key: String,
    roots: String,
    spiffe_id: String,
}

/// Whom the control plane's own certificate is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlTrust {
    /// PEM.
    pub roots: String,
    /// Our own SPIFFE id, which names the trust domain.
    pub spiffe_id: String,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// The control API cannot be reached, or broke off.
    #[error("the control API at {0}: {1}")]
    Unreachable(Api, String),
    /// It said no.
    #[error("the control API refused a certificate: {0} {1}")]
    Refused(StatusCode, String),
    /// Its answer makes no sense.
    #[error("the control API's certificate cannot be used: {0}")]
    Answer(String),
    /// There is nothing to prove ourselves with.
    #[error("there is neither a join token nor a certificate that is valid")]
    Nothing,
    /// Making key or request failed.
    #[error("a key could not be made: {0}")]
    Key(#[from] rcgen::Error),
    /// The certificate and key do not work.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The state folder cannot be used.
    #[error("the identity cannot be kept: {0}")]
    Store(#[from] io::Error),
}

/// How the control plane's API is reached. It proves itself before it is sent a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Api {
    /// Its Unix socket: it runs as the same user.
    Socket(PathBuf),
    /// Its address, over TLS: its certificate chains to these roots.
    Address {
        /// Where.
        address: SocketAddr,
        /// PEM.
        roots: String,
    },
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Address { address, .. } => write!(f, "{address}"),
        }
    }
}

/// The DNS name that the control plane's certificate has, and no workload's.
const CONTROL: &str = "control";

/// Obtains and renews.
#[derive(Debug)]
pub struct Certifier {
    /// The proxy's name.
    pub name: String,
    /// Of the control API.
    pub api: Api,
    /// Join token for the first certificate; empty: there is none.
    pub token: String,
    /// Where the identity is kept.
    pub folder: PathBuf,
    /// Where it is used.
    pub identity: Identity,
    /// Is given each certificate with its key, where another process beside us uses them too.
    pub beside: Option<watch::Sender<Option<xds::codec::KeyPair>>>,
}

/// The certificate in use.
struct Held {
    /// PEM.
    certificate: String,
    validity: Validity,
}

impl Certifier {
    /// Takes the kept identity, then gets new ones in time, for ever. Trust roots are told as they come. Answers when the
    /// control plane lets us in no more and there is no certificate that is valid: a new join token is needed then.
    pub async fn run(self, trust: Arc<watch::Sender<Option<ControlTrust>>>) -> CertifyError {
        let mut held = self.kept(&trust).unwrap_or_else(|error| {
            tracing::warn!(%error, "the kept identity is not used");
            None
        });
        let mut wait = held.as_ref().map_or(Duration::ZERO, |held| half_life(held.validity));
        let mut pause = RETRY_FIRST;
        // Kept until it is certified: a token is good for one key, and an answer may be lost.
        let mut key = None;
        loop {
            tokio::time::sleep(wait).await;
            let valid = held.as_ref().filter(|held| held.validity.until > now());
            wait = match self.renew(&mut key, valid, &trust).await {
                Ok(new) => {
                    pause = RETRY_FIRST;
                    let next = half_life(new.validity).max(RENEWALS);
                    held = Some(new);
                    next
                }
                Err(error @ (CertifyError::Nothing | CertifyError::Refused(StatusCode::UNAUTHORIZED, _)))
                    if valid.is_none() =>
                {
                    return error;
                }
                Err(error) => {
                    tracing::warn!(%error, "no certificate yet");
                    pause = (pause * 2).min(RETRY_MOST);
                    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
                }
            };
        }
    }

    fn kept(&self, trust: &watch::Sender<Option<ControlTrust>>) -> Result<Option<Held>, CertifyError> {
        let bytes = match fs::read(self.folder.join(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| CertifyError::Answer(error.to_string()))?;
        let validity = self.identity.set_pem(&stored.certificate, &stored.key)?;
        self.hand_on(&stored.certificate, &stored.key);
        trust.send_replace(Some(ControlTrust { roots: stored.roots, spiffe_id: stored.spiffe_id }));
        Ok(Some(Held { certificate: stored.certificate, validity }))
    }

    fn hand_on(&self, certificate: &str, key: &str) {
        if let Some(beside) = &self.beside {
            let (certificate, key) = (certificate.to_owned(), key.to_owned());
            beside.send_replace(Some(xds::codec::KeyPair { certificate, key }));
        }
    }

    async fn renew(
        &self,
        key: &mut Option<KeyPair>,
        held: Option<&Held>,
        trust: &watch::Sender<Option<ControlTrust>>,
    ) -> Result<Held, CertifyError> {
        let new = match key.take() {
            Some(key) => key,
            None => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
        };
        let new = key.insert(new);
        let csr = CertificateParams::default().serialize_request(new)?.pem()?;
        let given = self.ask(&csr, held).await?;
        let validity = self.identity.set(&given.certificate, PrivatePkcs8KeyDer::from(new.serialize_der()).into())?;
        let Given { certificate, roots, spiffe_id } = given;
        self.store(&Stored {
            certificate: certificate.clone(),
            key: new.serialize_pem(),
            roots: roots.clone(),
            spiffe_id: spiffe_id.clone(),
        })?;
        self.hand_on(&certificate, &new.serialize_pem());
        *key = None;
        trust.send_if_modified(|present| {
            let new = Some(ControlTrust { roots, spiffe_id });
            let changed = *present != new;
            *present = new;
            changed
        });
        Ok(Held { certificate, validity })
    }

    /// By the certificate that we have; by the token, if that is not taken or there is none.
    async fn ask(&self, csr: &str, held: Option<&Held>) -> Result<Given, CertifyError> {
        let renewal = held.and_then(|held| self.renewal(csr, held));
        let refused = match renewal {
            None => CertifyError::Nothing,
            Some(renewal) => match self.send(csr, Some(renewal), None).await {
                Err(error @ CertifyError::Refused(StatusCode::UNAUTHORIZED, _)) => error,
                done => return done,
            },
        };
        if self.token.is_empty() { Err(refused) } else { self.send(csr, None, Some(&self.token)).await }
    }

    fn renewal<'a>(&self, csr: &str, held: &'a Held) -> Option<Renewal<'a>> {
        let signature = self.identity.sign(format!("{RENEWS}{csr}").as_bytes())?;
        let signature = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Renewal { certificate: &held.certificate, signature })
    }

    fn store(&self, stored: &Stored) -> Result<(), CertifyError> {
        xds::local::private_folder(&self.folder)?;
        let (path, next) = (self.folder.join(FILE), self.folder.join("identity.next"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(&serde_json::to_vec(stored).map_err(io::Error::from)?)?;
        file.sync_all()?;
        fs::rename(next, path)?;
        Ok(())
    }

    async fn send(&self, csr: &str, renews: Option<Renewal<'_>>, token: Option<&str>) -> Result<Given, CertifyError> {
        let unreachable = |error: String| CertifyError::Unreachable(self.api.clone(), error);
        let body = serde_json::to_vec(&Asked { proxy: &self.name, csr, renews }).map_err(io::Error::from)?;
        match tokio::time::timeout(TIMEOUT, self.exchange(body, token)).await {
            Err(_) => Err(unreachable("no answer in time".into())),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Ok(Ok((StatusCode::OK, body))) => {
                serde_json::from_slice(&body).map_err(|error| CertifyError::Answer(error.to_string()))
            }
            Ok(Ok((status, body))) => Err(CertifyError::Refused(status, String::from_utf8_lossy(&body).into_owned())),
        }
    }

    async fn exchange(
        &self,
        body: Vec<u8>,
        token: Option<&str>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        match &self.api {
            Api::Socket(path) => self.post(xds::local::connect(path).await?, body, token).await,
            Api::Address { address, roots } => {
                let connector = TlsConnector::from(Arc::new(towards(roots)?));
                let stream = TcpStream::connect(address).await?;
                let stream = connector.connect(ServerName::try_from(CONTROL)?, stream).await?;
                self.post(stream, body, token).await
            }
        }
    }

    async fn post<IO>(
        &self,
        stream: IO,
        body: Vec<u8>,
        token: Option<&str>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let mut request =
            Request::post("/v1/certificates").header("host", CONTROL).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await?.to_bytes();
        driver.abort();
        Ok((status, body))
    }
}

/// TLS towards a control plane that these roots vouch for.
fn towards(roots: &str) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root?)?;
    }
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(config.with_root_certificates(store).with_no_client_auth())
}

/// From now to the middle between now and the end: a fresh certificate at half of its life, a kept one sooner.
fn half_life(validity: Validity) -> Duration {
    Duration::from_millis(u64::try_from((validity.until - now()) * 500).unwrap_or(0))
}

/// Seconds since the Unix epoch.
#[allow(clippy::disallowed_methods, reason = "certificates are dated by the wall clock")]
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}
