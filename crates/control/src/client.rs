//! A thin typed client of the control plane's API. Every call has a time limit; errors say who did not do what.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::api::{
    Applied, ApplyRequest, Certificate, CertificateRequest, ErrorBody, Events, JoinToken, LeaseReport, LeaseRequest,
    LoadReport, OverlayReport, OverlayRequest, Placement, Placements, ProxyConfiguration, ProxyReport, RecoveryReport,
    RecoveryRequest, RequestsReport, Revision, RollbackRequest, RunFile, SourceOfEndpoints, SourceReport, TokenRequest,
    Trust,
};

/// Limit of a call that does not wait for something.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Why a call did not succeed.
#[derive(Clone, Debug, Error)]
pub enum ClientError {
    /// Nobody answers there, or not in time.
    #[error("the control plane at {} does not answer ({what}): {reason}", socket.display())]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// Which call.
        what: String,
        /// What was seen.
        reason: String,
    },
    /// It answered no.
    #[error("the control plane refused to {what}: {reason}")]
    Refused {
        /// Which call.
        what: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        reason: String,
        /// Problems of manifests, as `model::Problem` serializes them.
        problems: Vec<Value>,
    },
    /// It answered what cannot be understood: probably another program or version.
    #[error("the control plane at {} gave an answer that cannot be understood ({what}): {reason}", socket.display())]
    Answer {
        /// Its socket.
        socket: PathBuf,
        /// Which call.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no running control plane in this state folder.
    #[error("no control plane is known in {folder}: {reason}; start one with `firedrill up` or `firedrill control`")]
    NoRunFile {
        /// The state folder.
        folder: String,
        /// What was seen.
        reason: String,
    },
}

impl ClientError {
    /// Whether the control plane was not reached, or not in time: the same call may succeed later.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoRunFile { .. })
    }
}

/// The client. Cheap to clone; makes a connection per call, over the Unix socket of the state folder: the token is sent only to
/// a process of the same user.
#[derive(Clone)]
pub struct Client {
    socket: PathBuf,
    token: String,
}

impl std::fmt::Debug for Client {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the API at a Unix socket with its bearer token.
    pub fn new(socket: impl Into<PathBuf>, token: impl Into<String>) -> Self {
        Self { socket: socket.into(), token: token.into() }
    }

    /// The same control plane, called with another bearer token.
    #[must_use]
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self::new(&self.socket, token)
    }

    /// A client of the control plane whose state folder this is (reads `run/control.json`).
    ///
    /// # Errors
    /// If there is no such file.
    pub fn from_state(state_dir: &Path) -> Result<Self, ClientError> {
        let file = read_run_file(state_dir)?;
        Ok(Self::new(RunFile::socket(state_dir), file.token))
    }

    /// Succeeds when the control plane serves the API and ADS.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.call::<(), Value>(Method::GET, "/readyz", "be ready", None, TIMEOUT).await.map(|_| ())
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// Refused with `problems` if they have errors, with status 412 if another revision is in force than expected.
    pub async fn apply(&self, request: &ApplyRequest) -> Result<Applied, ClientError> {
        self.call(Method::PUT, "/v1/config", "apply the manifests", Some(request), TIMEOUT).await
    }

    /// The revision in force, with files.
    ///
    /// # Errors
    /// Refused (404) if nothing was applied yet.
    pub async fn config(&self) -> Result<Revision, ClientError> {
        self.get("/v1/config", "tell the configuration").await
    }

    /// Every revision, newest first, without files.
    ///
    /// # Errors
    /// As every call.
    pub async fn revisions(&self) -> Result<Vec<Revision>, ClientError> {
        self.get("/v1/revisions", "list the revisions").await
    }

    /// One revision, with files.
    ///
    /// # Errors
    /// Refused (404) if it does not exist.
    pub async fn revision(&self, number: u64) -> Result<Revision, ClientError> {
        self.get(&format!("/v1/revisions/{number}"), &format!("tell revision {number}")).await
    }

    /// Makes a new revision with the files of an old one.
    ///
    /// # Errors
    /// Refused (404) if there is no such revision, else as [`Client::apply`].
    pub async fn roll_back(&self, number: u64, request: &RollbackRequest) -> Result<Applied, ClientError> {
        let path = format!("/v1/revisions/{number}/rollback");
        self.call(Method::POST, &path, &format!("roll back to revision {number}"), Some(request), TIMEOUT).await
    }

    /// Tells how watched manifests stand.
    ///
    /// # Errors
    /// As every call.
    pub async fn put_source(&self, report: &SourceReport) -> Result<(), ClientError> {
        let what = "note how the watched manifests stand";
        self.call::<_, Value>(Method::PUT, "/v1/source", what, Some(report), TIMEOUT).await.map(|_| ())
    }

    /// How watched manifests stand; `None` if nobody watches any.
    ///
    /// # Errors
    /// As every call.
    pub async fn source(&self) -> Result<Option<SourceReport>, ClientError> {
        match self.get("/v1/source", "tell how the watched manifests stand").await {
            Err(ClientError::Refused { status: 404, .. }) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Tells where everything runs.
    ///
    /// # Errors
    /// Refused if a name or an address is there twice.
    pub async fn put_placements(&self, placements: &Placements) -> Result<(), ClientError> {
        let what = "take the placements";
        self.call::<_, Value>(Method::PUT, "/v1/placements", what, Some(placements), TIMEOUT).await.map(|_| ())
    }

    /// Tells where one proxy runs; the others stay where they are.
    ///
    /// # Errors
    /// Refused if one of its addresses is another's.
    pub async fn put_placement(&self, placement: &Placement) -> Result<(), ClientError> {
        let (path, what) = (format!("/v1/placements/{}", escape(&placement.proxy)), "take the placement");
        self.call::<_, Value>(Method::PUT, &path, what, Some(placement), TIMEOUT).await.map(|_| ())
    }

    /// Takes one proxy away. Succeeds if it is not placed any more.
    ///
    /// # Errors
    /// As every call.
    pub async fn remove_placement(&self, proxy: &str) -> Result<(), ClientError> {
        self.gone(&format!("/v1/placements/{}", escape(proxy)), &format!("remove the placement of {proxy}")).await
    }

    /// Sources of endpoints that are found rather than written.
    ///
    /// # Errors
    /// As every call.
    pub async fn sources(&self) -> Result<Vec<SourceOfEndpoints>, ClientError> {
        self.get("/v1/sources", "list the sources of endpoints").await
    }

    /// The load that proxies reported over the last minute.
    ///
    /// # Errors
    /// As every call.
    pub async fn loads(&self) -> Result<Vec<LoadReport>, ClientError> {
        self.get("/v1/loads", "list the loads").await
    }

    /// Where everything runs.
    ///
    /// # Errors
    /// As every call.
    pub async fn placements(&self) -> Result<Placements, ClientError> {
        self.get("/v1/placements", "tell the placements").await
    }

    /// Makes a join token.
    ///
    /// # Errors
    /// Refused if there is no such service or gateway, or the time is out of bounds.
    pub async fn create_token(&self, request: &TokenRequest) -> Result<JoinToken, ClientError> {
        self.call(Method::POST, "/v1/tokens", "make a join token", Some(request), TIMEOUT).await
    }

    /// Asks for a certificate. This client's token must be a join token, unless the request renews a certificate.
    ///
    /// # Errors
    /// Refused if the token, the proxy or the request is not accepted.
    pub async fn certificate(&self, request: &CertificateRequest) -> Result<Certificate, ClientError> {
        let what = format!("sign a certificate for {}", request.proxy);
        self.call(Method::POST, "/v1/certificates", &what, Some(request), TIMEOUT).await
    }

    /// Whom the mesh trusts.
    ///
    /// # Errors
    /// Refused (404) if nothing was applied yet.
    pub async fn trust(&self) -> Result<Trust, ClientError> {
        self.get("/v1/trust", "tell the trust bundle").await
    }

    /// Every proxy, asked now.
    ///
    /// # Errors
    /// As every call; a proxy that does not answer is no error of the call.
    pub async fn proxies(&self) -> Result<Vec<ProxyReport>, ClientError> {
        self.get("/v1/proxies", "report on the proxies").await
    }

    /// What a proxy should have now.
    ///
    /// # Errors
    /// Refused (404) if nothing is published for a proxy of this name.
    pub async fn proxy_configuration(&self, name: &str) -> Result<ProxyConfiguration, ClientError> {
        let path = format!("/v1/proxies/{}/config", escape(name));
        self.get(&path, &format!("tell the configuration of {name}")).await
    }

    /// Requests that were over at a proxy after a position; none without one, which is the beginning.
    ///
    /// # Errors
    /// Refused if there is no proxy of this name, or it does not answer.
    pub async fn requests(&self, name: &str, after: Option<u64>) -> Result<RequestsReport, ClientError> {
        let query = after.map(|after| format!("?after={after}")).unwrap_or_default();
        self.get(&format!("/v1/proxies/{}/requests{query}", escape(name)), &format!("tell the requests of {name}"))
            .await
    }

    /// Takes a lease.
    ///
    /// # Errors
    /// Refused if the time to live is out of bounds, the plan is unknown, or another lease has the plan.
    pub async fn take_lease(&self, id: &str, request: &LeaseRequest) -> Result<LeaseReport, ClientError> {
        let path = format!("/v1/leases/{}", escape(id));
        self.call(Method::PUT, &path, &format!("take lease {id}"), Some(request), TIMEOUT).await
    }

    /// Renews a lease and everything under it.
    ///
    /// # Errors
    /// Refused (404) if it is not held any more.
    pub async fn heartbeat(&self, id: &str) -> Result<LeaseReport, ClientError> {
        let path = format!("/v1/leases/{}/heartbeat", escape(id));
        let limit = Duration::from_secs(1);
        self.call::<(), _>(Method::POST, &path, &format!("renew lease {id}"), None, limit).await
    }

    /// Gives a lease back; everything under it is taken back at once. Succeeds if it is not held any more.
    ///
    /// # Errors
    /// As every call.
    pub async fn release_lease(&self, id: &str) -> Result<(), ClientError> {
        let path = format!("/v1/leases/{}", escape(id));
        self.gone(&path, &format!("release lease {id}")).await
    }

    /// Every lease.
    ///
    /// # Errors
    /// As every call.
    pub async fn leases(&self) -> Result<Vec<LeaseReport>, ClientError> {
        self.get("/v1/leases", "list the leases").await
    }

    /// Lays an overlay under a lease. When it answers, proxies were told; that they did it is in their events.
    ///
    /// # Errors
    /// Refused if the lease is not held or the effect makes no sense.
    pub async fn lay_overlay(
        &self,
        lease: &str,
        name: &str,
        request: &OverlayRequest,
    ) -> Result<OverlayReport, ClientError> {
        let path = format!("/v1/leases/{}/overlays/{}", escape(lease), escape(name));
        self.call(Method::PUT, &path, &format!("lay overlay {name}"), Some(request), TIMEOUT).await
    }

    /// Takes one overlay back. Succeeds if it is not there any more.
    ///
    /// # Errors
    /// As every call.
    pub async fn remove_overlay(&self, lease: &str, name: &str) -> Result<(), ClientError> {
        let path = format!("/v1/leases/{}/overlays/{}", escape(lease), escape(name));
        self.gone(&path, &format!("remove overlay {name}")).await
    }

    /// Entries of the merged log after a position, waiting at most `wait` (30 s) for one.
    ///
    /// # Errors
    /// As every call.
    pub async fn events(&self, after: u64, wait: Duration) -> Result<Events, ClientError> {
        let wait = wait.min(Duration::from_secs(30));
        let path = format!("/v1/events?after={after}&wait_ms={}", wait.as_millis());
        self.call::<(), _>(Method::GET, &path, "tell its events", None, wait + TIMEOUT).await
    }

    /// Recovery of every plan.
    ///
    /// # Errors
    /// As every call.
    pub async fn recovery(&self) -> Result<Vec<RecoveryReport>, ClientError> {
        self.get("/v1/recovery", "report on recovery").await
    }

    /// Commands failover of a plan.
    ///
    /// # Errors
    /// Refused if there is no such plan or it is not `normal`.
    pub async fn failover(&self, plan: &str, reason: &str) -> Result<RecoveryReport, ClientError> {
        self.recover(plan, "failover", reason).await
    }

    /// Commands failback of a plan. It begins when the primary is healthy.
    ///
    /// # Errors
    /// Refused if there is no such plan or it is not `failedOver`.
    pub async fn failback(&self, plan: &str, reason: &str) -> Result<RecoveryReport, ClientError> {
        self.recover(plan, "failback", reason).await
    }

    async fn recover(&self, plan: &str, verb: &str, reason: &str) -> Result<RecoveryReport, ClientError> {
        let path = format!("/v1/recovery/{}/{verb}", escape(plan));
        let request = RecoveryRequest { reason: reason.to_owned() };
        self.call(Method::POST, &path, &format!("begin {verb} of {plan}"), Some(&request), TIMEOUT).await
    }

    async fn get<A: DeserializeOwned>(&self, path: &str, what: &str) -> Result<A, ClientError> {
        self.call::<(), A>(Method::GET, path, what, None, TIMEOUT).await
    }

    async fn gone(&self, path: &str, what: &str) -> Result<(), ClientError> {
        match self.call::<(), Value>(Method::DELETE, path, what, None, TIMEOUT).await {
            Ok(_) | Err(ClientError::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        what: &str,
        body: Option<&Q>,
        limit: Duration,
    ) -> Result<A, ClientError> {
        let socket = || self.socket.clone();
        let answer = |reason: String| ClientError::Answer { socket: socket(), what: what.to_owned(), reason };
        let body = match body {
            Some(body) => {
                serde_json::to_vec(body).map_err(|e| answer(format!("the request cannot be written: {e}")))?
            }
            None => Vec::new(),
        };
        let unreachable = |reason: String| ClientError::Unreachable { socket: socket(), what: what.to_owned(), reason };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "control")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| answer(format!("the request cannot be written: {e}")))?;
        let exchanged = async {
            let stream = xds::local::connect(&self.socket).await.map_err(|e| e.to_string())?;
            exchange(stream, request).await
        };
        let (status, bytes) = match tokio::time::timeout(limit, exchanged).await {
            Ok(Ok(done)) => done,
            Ok(Err(reason)) => return Err(unreachable(reason)),
            Err(_) => return Err(unreachable(format!("no answer within {} ms", limit.as_millis()))),
        };
        if (200..300).contains(&status) {
            return serde_json::from_slice(&bytes).map_err(|e| answer(e.to_string()));
        }
        let refusal = serde_json::from_slice::<ErrorBody>(&bytes).unwrap_or_else(|_| ErrorBody {
            error: format!("status {status}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)])),
            problems: Vec::new(),
        });
        Err(ClientError::Refused { what: what.to_owned(), status, reason: refusal.error, problems: refusal.problems })
    }
}

/// Reads `run/control.json`.
///
/// # Errors
/// If it is not there or is not one.
pub fn read_run_file(state_dir: &Path) -> Result<RunFile, ClientError> {
    let path = state_dir.join("run").join("control.json");
    let failed = |reason: String| ClientError::NoRunFile { folder: state_dir.display().to_string(), reason };
    let text = std::fs::read(&path).map_err(|e| failed(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))
}

/// One request on a connection of its own.
pub(crate) async fn exchange<IO>(stream: IO, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), String>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
        Ok((status, body.to_bytes()))
    };
    // The connection is driven beside the exchange and dropped with it: no task outlives a call.
    tokio::pin!(connection);
    tokio::pin!(exchange);
    let mut driving = true;
    loop {
        tokio::select! {
            done = &mut exchange => return done,
            ended = &mut connection, if driving => {
                driving = false;
                if let Err(error) = ended {
                    return Err(error.to_string());
                }
            }
        }
    }
}

/// Percent-encodes what may not stand in one segment of a path.
fn escape(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
