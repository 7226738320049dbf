//! HTTP servers of our own processes: at a Unix socket for processes of the same user, and at a loopback address with bounds
//! on what others can hold.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;
use xds::{
    arrivals::Arrivals,
    local,
    origin::{self, Claim},
};

/// Connections at once at an address. A newcomer beyond that ends the oldest one.
const CONNECTIONS: usize = 256;
/// Connections at once at a socket, all of the same user.
const LOCAL_CONNECTIONS: usize = 1024;
/// Bound on the head of a request, and on a connection without one.
const HEAD: Duration = Duration::from_secs(10);
/// Largest head.
const HEAD_BYTES: usize = 64 * 1024;
/// First byte of a TLS handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// Pause after the machine could not accept (out of file descriptors).
const PAUSE: Duration = Duration::from_millis(50);
/// Set by browsers; hyper has no name for it.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Serves processes of the same user until `stopping` says true (or its sender is gone), then finishes requests in flight.
pub async fn serve_local(listener: UnixListener, router: Router, mut stopping: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(LOCAL_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept_local(&listener, &permits) => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        let Some((stream, permit)) = accepted else { continue };
        let service = TowerToHyperService::new(router.clone());
        let stopping = stopping.clone();
        connections.spawn(async move {
            connection(stream, service, stopping, std::future::pending()).await;
            drop(permit);
        });
    }
    while connections.join_next().await.is_some() {}
}

async fn accept_local(
    listener: &UnixListener,
    permits: &Arc<Semaphore>,
) -> Option<(tokio::net::UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) if local::is_trusted(&stream) => Some((stream, permit)),
        Ok(_) => {
            tracing::warn!("another user connected to the socket; refused");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "the socket cannot accept");
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

/// Serves whoever reaches the address until `stopping` says true, then finishes requests in flight. Requests of web pages are
/// refused before the router sees them.
pub async fn serve_address(listener: TcpListener, router: Router, stopping: watch::Receiver<bool>) {
    serve_either(listener, router, stopping, || None).await;
}

/// As [`serve_address`], and over TLS for who begins with a handshake: so the server proves itself before it is sent a secret.
pub(crate) async fn serve_either(
    listener: TcpListener,
    router: Router,
    mut stopping: watch::Receiver<bool>,
    tls: impl Fn() -> Option<Arc<ServerConfig>>,
) {
    let arrivals = Arrivals::new(CONNECTIONS);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the API cannot accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(local) = stream.local_addr() else { continue };
        let arrival = arrivals.admit(peer.ip());
        let (router, stopping, tls) = (TowerToHyperService::new(router.clone()), stopping.clone(), tls());
        connections.spawn(async move {
            let secured = tokio::select! {
                secured = timeout(HEAD, secure(stream, tls)) => secured,
                () = arrival.shed() => return,
            };
            let (stream, secure) = match secured {
                Ok(Ok(Secured::Tls(stream))) => (Either::Left(*stream), true),
                Ok(Ok(Secured::Plain(stream))) => (Either::Right(stream), false),
                Ok(Err(error)) => return tracing::debug!(%peer, %error, "a connection to the API failed"),
                Err(_) => return tracing::debug!(%peer, "a connection to the API said nothing"),
            };
            let service = service_fn(move |request: Request<Incoming>| {
                // A page cannot have our certificate, whatever it is called.
                let refused = if secure { None } else { refusal(local, &request) };
                let routed = if refused.is_none() { Some(router.call(request)) } else { None };
                async move {
                    match (refused, routed) {
                        (Some(reason), _) => Ok(forbidden(reason)),
                        (None, Some(routed)) => routed.await,
                        (None, None) => Ok(Response::new(Body::empty())),
                    }
                }
            });
            connection(stream, service, stopping, arrival.shed()).await;
        });
    }
    while connections.join_next().await.is_some() {}
}

enum Secured {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
}

/// Shakes hands, if that is what the peer begins with.
async fn secure(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Secured> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match tls.filter(|_| first == [TLS_HANDSHAKE]) {
        Some(tls) => TlsAcceptor::from(tls).accept(stream).await.map(|stream| Secured::Tls(Box::new(stream))),
        None => Ok(Secured::Plain(stream)),
    }
}

/// One connection until its end, or until it must make room for another.
async fn connection<IO, S>(io: IO, service: S, mut stopping: watch::Receiver<bool>, shed: impl Future<Output = ()>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(serving, shed);
    let mut ending = false;
    loop {
        tokio::select! {
            served = &mut serving => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection to the API broke");
                }
                return;
            }
            () = &mut shed => return,
            _ = stopping.wait_for(|stopping| *stopping), if !ending => {
                ending = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

fn refusal(local: SocketAddr, request: &Request<Incoming>) -> Option<&'static str> {
    let values = |name: HeaderName| request.headers().get_all(name).iter().map(|value| value.as_bytes());
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let claim = Claim {
        hosts: values(header::HOST).chain(target).collect(),
        origins: values(header::ORIGIN).collect(),
        sites: values(FETCH_SITE).collect(),
    };
    origin::refusal(local, &claim)
}

fn forbidden(reason: &str) -> Response<Body> {
    let body = serde_json::json!({ "error": reason }).to_string();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
