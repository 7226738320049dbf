//! Whether somebody answers.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How long a program may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a program is asked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 in plaintext, without an upgrade.
    Http2,
    /// Lines over TCP.
    Lines,
}

/// Asks until the answer is good (200 to a GET of the path); false when that took too long, or `alive` says that nobody will answer.
pub async fn answers(address: SocketAddr, speaks: Speaks, path: &str, mut alive: impl FnMut() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while alive() && tokio::time::Instant::now() < deadline {
        let asked = tokio::time::timeout(Duration::from_secs(1), ask(address, speaks, path)).await;
        if matches!(asked, Ok(Some(StatusCode::OK))) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

async fn ask(address: SocketAddr, speaks: Speaks, path: &str) -> Option<StatusCode> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    if speaks == Speaks::Lines {
        stream.write_all(b"who\n").await.ok()?;
        let mut line = String::new();
        stream.read_to_string(&mut line).await.ok()?;
        return line.ends_with('\n').then_some(StatusCode::OK);
    }
    let io = TokioIo::new(stream);
    let request = Request::get(format!("http://{address}{path}"));
    // HTTP/2 has it in its pseudo-headers.
    let request = if speaks == Speaks::Http1 { request.header("host", address.to_string()) } else { request };
    let request = request.body(Empty::<Bytes>::new()).ok()?;
    let response = if speaks == Speaks::Http2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.ok()?;
        let driving = tokio::spawn(connection);
        let response = sender.send_request(request).await;
        driving.abort();
        response
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        let driving = tokio::spawn(connection);
        let response = sender.send_request(request).await;
        driving.abort();
        response
    };
    response.ok().map(|response| response.status())
}
