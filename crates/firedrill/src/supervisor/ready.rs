//! Whether a process answers.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use http_body_util::Empty;
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

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
    /// The same at a Unix socket of a process of ours.
    Local {
        /// Where.
        socket: PathBuf,
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
    /// Whether a process of ours answers at all; `None` for what is not ours.
    pub fn alive(&self) -> Option<Self> {
        match self {
            Self::Local { socket, .. } => Some(Self::Local { socket: socket.clone(), path: "/healthz".to_owned() }),
            Self::Http { .. } | Self::Connect { .. } => None,
        }
    }

    /// Asks once.
    ///
    /// # Errors
    /// What was seen instead, for people.
    pub async fn ask(&self) -> Result<(), String> {
        let asked = async {
            match self {
                Self::Connect { address } => TcpStream::connect(address).await.map(drop).map_err(|e| e.to_string()),
                Self::Http { address, path } => {
                    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
                    get(stream, &address.to_string(), path).await
                }
                Self::Local { socket, path } => {
                    let stream = xds::local::connect(socket).await.map_err(|e| e.to_string())?;
                    get(stream, "localhost", path).await
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err("no answer".to_owned()))
    }
}

async fn get<IO>(stream: IO, host: &str, path: &str) -> Result<(), String>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    let request = Request::get(path).header("host", host).body(Empty::<Bytes>::new());
    let request = request.map_err(|e| e.to_string())?;
    tokio::select! {
        response = sender.send_request(request) => match response.map_err(|e| e.to_string())?.status().as_u16() {
            200 => Ok(()),
            status => Err(format!("GET {path} answers {status}")),
        },
        ended = connection => Err(ended.map_or_else(|e| e.to_string(), |()| "the connection was closed".to_owned())),
    }
}
