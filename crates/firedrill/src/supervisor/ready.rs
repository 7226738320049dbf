//! Whether a process answers.

use std::{net::SocketAddr, time::Duration};

use http_body_util::Empty;
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Bound on one question.
const PATIENCE: Duration = Duration::from_secs(2);

/// What being ready is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// GET of the path answers 200.
    Http {
        /// Where.
        address: SocketAddr,
        /// Path.
        path: String,
    },
    /// A connection can be made.
    Connect {
        /// Where.
        address: SocketAddr,
    },
}

impl Ready {
    /// Asks once.
    ///
    /// # Errors
    /// What was seen instead, for people.
    pub async fn ask(&self) -> Result<(), String> {
        let asked = async {
            match self {
                Self::Connect { address } => TcpStream::connect(address).await.map(drop).map_err(|e| e.to_string()),
                Self::Http { address, path } => get(*address, path).await,
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err("no answer".to_owned()))
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    let request = Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(|e| e.to_string())?;
    tokio::select! {
        response = sender.send_request(request) => match response.map_err(|e| e.to_string())?.status().as_u16() {
            200 => Ok(()),
            status => Err(format!("GET {path} answers {status}")),
        },
        ended = connection => Err(ended.map_or_else(|e| e.to_string(), |()| "the connection was closed".to_owned())),
    }
}
