//! Our certificate: a key made here, signed by the control plane, renewed at half of its life. It is kept in the state
//! folder (0600), so that a restart needs no control plane.

use std::{
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
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, sync::watch};

use crate::tls::identity::{Identity, IdentityError, Validity};

const TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(5);
const ANSWER_BYTES: usize = 1024 * 1024;
const FILE: &str = "identity.json";

/// Asks for a certificate.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked<'a> {
    proxy: &'a str,
    csr: &'a str,
}

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
    Unreachable(SocketAddr, String),
    /// It said no.
    #[error("the control API refused a certificate: {0} {1}")]
    Refused(StatusCode, String),
    /// Its answer makes no sense.
    #[error("the control API's certificate cannot be used: {0}")]
    Answer(String),
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

/// Obtains and renews.
#[derive(Debug)]
pub struct Certifier {
    /// The proxy's name.
    pub name: String,
    /// Of the control API.
    pub api: SocketAddr,
    /// Join token.
    pub token: String,
    /// Where the identity is kept.
    pub folder: PathBuf,
    /// Where it is used.
    pub identity: Identity,
}

impl Certifier {
    /// Runs for ever: takes the kept identity, then gets new ones in time. Trust roots are told as they come.
    pub async fn run(self, trust: Arc<watch::Sender<Option<ControlTrust>>>) {
        let mut wait = match self.kept(&trust) {
            Ok(renew) => renew,
            Err(error) => {
                tracing::warn!(%error, "the kept identity is not used");
                Duration::ZERO
            }
        };
        let mut pause = RETRY_FIRST;
        loop {
            tokio::time::sleep(wait).await;
            wait = match self.renew(&trust).await {
                Ok(validity) => {
                    pause = RETRY_FIRST;
                    // With clocks that disagree even a new certificate may be past its half.
                    half_life(validity).max(RETRY_MOST)
                }
                Err(error) => {
                    tracing::warn!(%error, "no certificate yet");
                    pause = (pause * 2).min(RETRY_MOST);
                    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
                }
            };
        }
    }

    fn kept(&self, trust: &watch::Sender<Option<ControlTrust>>) -> Result<Duration, CertifyError> {
        let bytes = match fs::read(self.folder.join(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Duration::ZERO),
            Err(error) => return Err(error.into()),
        };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| CertifyError::Answer(error.to_string()))?;
        let validity = self.identity.set_pem(&stored.certificate, &stored.key)?;
        trust.send_replace(Some(ControlTrust { roots: stored.roots, spiffe_id: stored.spiffe_id }));
        Ok(half_life(validity))
    }

    async fn renew(&self, trust: &watch::Sender<Option<ControlTrust>>) -> Result<Validity, CertifyError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let csr = CertificateParams::default().serialize_request(&key)?.pem()?;
        let given = self.ask(&csr).await?;
        let validity = self.identity.set(&given.certificate, PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
        let Given { certificate, roots, spiffe_id } = given;
        self.store(&Stored {
            certificate,
            key: key.serialize_pem(),
            roots: roots.clone(),
            spiffe_id: spiffe_id.clone(),
        })?;
        trust.send_if_modified(|present| {
            let new = Some(ControlTrust { roots, spiffe_id });
            let changed = *present != new;
            *present = new;
            changed
        });
        Ok(validity)
    }

    fn store(&self, stored: &Stored) -> Result<(), CertifyError> {
        fs::create_dir_all(&self.folder)?;
        let (path, next) = (self.folder.join(FILE), self.folder.join("identity.next"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(&serde_json::to_vec(stored).map_err(io::Error::from)?)?;
        file.sync_all()?;
        fs::rename(next, path)?;
        Ok(())
    }

    async fn ask(&self, csr: &str) -> Result<Given, CertifyError> {
        let unreachable = |error: String| CertifyError::Unreachable(self.api, error);
        match tokio::time::timeout(TIMEOUT, self.exchange(csr)).await {
            Err(_) => Err(unreachable("no answer in time".into())),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Ok(Ok((StatusCode::OK, body))) => {
                serde_json::from_slice(&body).map_err(|error| CertifyError::Answer(error.to_string()))
            }
            Ok(Ok((status, body))) => Err(CertifyError::Refused(status, String::from_utf8_lossy(&body).into_owned())),
        }
    }

    async fn exchange(&self, csr: &str) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.api).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let body = serde_json::to_vec(&Asked { proxy: &self.name, csr })?;
        let request = Request::post("/v1/certificates")
            .header("host", self.api.to_string())
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await?.to_bytes();
        driver.abort();
        Ok((status, body))
    }
}

/// From now to the middle between now and the end: a fresh certificate at half of its life, a kept one sooner.
#[allow(clippy::disallowed_methods, reason = "certificates are dated by the wall clock")]
fn half_life(validity: Validity) -> Duration {
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let middle = validity.from + (validity.until - validity.from) / 2;
    Duration::from_secs(u64::try_from(middle - now).unwrap_or(0))
}
