//! Envoy's admin interface, over its socket.

use std::{io, path::Path, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

/// Bound on one question.
const PATIENCE: Duration = Duration::from_secs(2);
/// Largest answer: the configuration of an Envoy in bytes.
const LARGEST: usize = 256 * 1024 * 1024;

/// Asks for a page.
///
/// # Errors
/// When nobody answers in time, or not with 200.
pub async fn get(socket: &Path, page: &str) -> io::Result<Bytes> {
    send(socket, Method::GET, page).await
}

/// Tells it to do something.
///
/// # Errors
/// As [`get`].
pub async fn post(socket: &Path, page: &str) -> io::Result<Bytes> {
    send(socket, Method::POST, page).await
}

async fn send(socket: &Path, method: Method, page: &str) -> io::Result<Bytes> {
    let (status, body) = timeout(PATIENCE, exchange(socket, method, page)).await??;
    if status == StatusCode::OK { Ok(body) } else { Err(io::Error::other(format!("{page} answers {status}"))) }
}

async fn exchange(socket: &Path, method: Method, page: &str) -> io::Result<(StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let driver = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(page).header("host", "envoy");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST).collect().await.map_err(io::Error::other)?;
    driver.abort();
    Ok((status, body.to_bytes()))
}
