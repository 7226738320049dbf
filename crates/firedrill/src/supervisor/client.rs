//! Typed client of the supervisor API.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};

use super::api::{Door, ErrorBody, Events, HoldReport, HoldRequest, MeshReport, UndoRequest};

/// Bound on one answer, beyond the time that it may wait by itself.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bound on an answer's size.
const MAX_ANSWER: usize = 8 << 20;

/// Why the supervisor did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// No answer: it is gone, or hangs.
    #[error("the supervisor does not answer: {0}")]
    Unreachable(String),
    /// It answered no.
    #[error("the supervisor refused: {reason}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Why, as it said.
        reason: String,
    },
}

/// Asks a running supervisor. Cheap to clone; each request is a connection of its own, over the Unix socket of the state folder:
/// the token is sent only to a process of the same user.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    token: String,
}

impl Client {
    /// A client for the supervisor of a state folder, behind this door.
    pub fn new(state: &Path, door: &Door) -> Self {
        Self { socket: Door::socket(state), token: door.token.clone() }
    }

    /// The supervisor of a state folder, if one is running and answers.
    ///
    /// # Errors
    /// When none ever ran there, or it is gone.
    pub async fn of_state(state: &Path) -> Result<Self, ClientError> {
        let door = Door::read(state).map_err(|e| ClientError::Unreachable(format!("no mesh runs here ({e})")))?;
        let client = Self::new(state, &door);
        client.mesh().await?;
        Ok(client)
    }

    /// The whole mesh.
    ///
    /// # Errors
    /// No answer, or refused.
    pub async fn mesh(&self) -> Result<MeshReport, ClientError> {
        self.ask(Method::GET, "/v1/mesh", None::<&()>, Duration::ZERO).await
    }

    /// Takes a hold; answers when every process of the region is dead or stopped.
    ///
    /// # Errors
    /// No answer, or refused (unknown region, nothing to hold, id in use).
    pub async fn hold(&self, request: &HoldRequest) -> Result<HoldReport, ClientError> {
        self.ask(Method::POST, "/v1/holds", Some(request), Duration::ZERO).await
    }

    /// Renews a hold.
    ///
    /// # Errors
    /// No answer, or refused because it lapsed.
    pub async fn heartbeat(&self, hold: &str) -> Result<(), ClientError> {
        let path = format!("/v1/holds/{hold}/heartbeat");
        self.ask::<serde_json::Value>(Method::POST, &path, None::<&()>, Duration::ZERO).await.map(drop)
    }

    /// Ends a hold; one that is not held (any more) is no error.
    ///
    /// # Errors
    /// No answer.
    pub async fn release(&self, hold: &str) -> Result<(), ClientError> {
        let path = format!("/v1/holds/{hold}");
        self.ask::<serde_json::Value>(Method::DELETE, &path, None::<&()>, Duration::ZERO).await.map(drop)
    }

    /// Entrusts an undo.
    ///
    /// # Errors
    /// No answer, or refused: the supervisor does not find it in its state folder.
    pub async fn entrust_undo(&self, request: &UndoRequest) -> Result<(), ClientError> {
        self.ask::<serde_json::Value>(Method::POST, "/v1/undos", Some(request), Duration::ZERO).await.map(drop)
    }

    /// Renews the trust that the undos of a lease are in.
    ///
    /// # Errors
    /// No answer, or refused because it lapsed, and they were run.
    pub async fn renew_undos(&self, lease: &str) -> Result<(), ClientError> {
        let path = format!("/v1/undos/{lease}/heartbeat");
        self.ask::<serde_json::Value>(Method::POST, &path, None::<&()>, Duration::ZERO).await.map(drop)
    }

    /// The undos of a lease are nobody's but the engine's again.
    ///
    /// # Errors
    /// No answer.
    pub async fn keep_undos(&self, lease: &str) -> Result<(), ClientError> {
        let path = format!("/v1/undos/{lease}");
        self.ask::<serde_json::Value>(Method::DELETE, &path, None::<&()>, Duration::ZERO).await.map(drop)
    }

    /// Events after a position, waiting at most `wait` for one.
    ///
    /// # Errors
    /// No answer, or refused.
    pub async fn events(&self, after: u64, wait: Duration) -> Result<Events, ClientError> {
        let path = format!("/v1/events?after={after}&wait_ms={}", wait.as_millis());
        self.ask(Method::GET, &path, None::<&()>, wait).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        wait: Duration,
    ) -> Result<T, ClientError> {
        let lost = |e: &dyn std::fmt::Display| ClientError::Unreachable(e.to_string());
        let body = body.map(serde_json::to_vec).transpose().map_err(|e| lost(&e))?.unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "supervisor")
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| lost(&e))?;
        let answer = tokio::time::timeout(wait + PATIENCE, exchange(&self.socket, request))
            .await
            .map_err(|_| ClientError::Unreachable("no answer in time".to_owned()))?;
        let (status, body) = answer.map_err(|e| lost(&e))?;
        if !(200..300).contains(&status) {
            let reason = serde_json::from_slice::<ErrorBody>(&body).map(|b| b.error);
            return Err(ClientError::Refused { status, reason: reason.unwrap_or_else(|_| format!("status {status}")) });
        }
        serde_json::from_slice(&body).map_err(|e| lost(&e))
    }
}

async fn exchange(
    socket: &Path,
    request: Request<Full<Bytes>>,
) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = xds::local::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let pump = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes();
    pump.abort();
    Ok((status, body))
}
