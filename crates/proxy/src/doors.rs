//! The ways to an admin interface: a Unix socket for processes of the same user, and an address. At the address the control
//! plane proves itself over TLS and reads everything; anybody else reads in plaintext what is no secret, and changes nothing.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use xds::{
    arrivals::Arrivals,
    local,
    origin::{self, Claim},
    reserved,
    snapshot::TrustBundle,
    spiffe::{self, Roots},
};

use crate::{
    admin::text,
    certify::ControlTrust,
    control::control_id,
    tls::{ServerTls, identity::Identity},
};

/// Connections at once of those that proved nothing. A newcomer beyond that ends the oldest one.
const CONNECTIONS: usize = 256;
/// Connections at once of the same user; and of control planes.
const TRUSTED_CONNECTIONS: usize = 256;
/// Bound on the head of a request, on a handshake, and on a connection without a request.
const HEAD: Duration = Duration::from_secs(10);
/// Largest head.
const HEAD_BYTES: usize = 16 * 1024;
/// Pause after the machine could not accept (out of file descriptors).
const PAUSE: Duration = Duration::from_millis(50);
/// First byte of a TLS handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// The one page of which the content is of the mesh's users: paths and queries of requests.
const PRIVATE: &str = "/requests";
/// Set by browsers.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How the control plane is known at the address.
#[derive(Clone, Debug)]
pub struct Proof {
    /// What we prove ourselves with.
    pub identity: Identity,
    /// Whom the control plane's certificate is checked against.
    pub trust: watch::Receiver<Option<ControlTrust>>,
}

/// An admin interface that listens.
#[derive(Debug)]
pub struct Doors {
    address: TcpListener,
    socket: UnixListener,
}

/// Where the Unix socket of a proxy is, in its state folder.
pub fn socket(state: &Path) -> PathBuf {
    state.join("admin.sock")
}

impl Doors {
    /// Listens at both.
    ///
    /// # Errors
    /// If one is not to be had; with its name.
    pub fn bind(address: SocketAddr, state: &Path) -> Result<Self, (String, io::Error)> {
        let bound = reserved::listen(address).map_err(|error| (address.to_string(), error))?;
        let socket = socket(state);
        let listening = local::listen(&socket).map_err(|error| (socket.display().to_string(), error))?;
        Ok(Self { address: bound, socket: listening })
    }

    /// Gives each request its answer, until dropped.
    pub async fn serve<F>(self, proof: Proof, answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static)
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        tokio::join!(at_socket(self.socket, answer.clone()), at_address(self.address, proof, answer));
    }
}

async fn at_socket<F>(listener: UnixListener, answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(TRUSTED_CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) if local::is_trusted(&stream) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    connection(stream, answer).await;
                    drop(permit);
                });
            }
            Ok(_) => tracing::warn!("another user connected to the admin socket; refused"),
            Err(error) => {
                tracing::warn!(%error, "the admin socket could not accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn at_address<F>(
    listener: TcpListener,
    proof: Proof,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let arrivals = Arrivals::new(CONNECTIONS);
    let permits = Arc::new(Semaphore::new(TRUSTED_CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the admin interface could not accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let arrival = arrivals.admit(peer.ip());
        let (answer, proof, permits) = (answer.clone(), proof.clone(), permits.clone());
        tokio::spawn(async move {
            let came = tokio::select! {
                came = timeout(HEAD, Came::of(stream, &proof)) => came,
                () = arrival.shed() => return,
            };
            match came {
                Ok(Ok(Came::Control(stream))) => {
                    // It has proved itself and is ended for nobody.
                    drop(arrival);
                    let Ok(_permit) = permits.try_acquire_owned() else { return };
                    connection(*stream, move |request| of_control(answer.clone(), request)).await;
                }
                Ok(Ok(Came::Anybody(stream, local))) => tokio::select! {
                    () = connection(stream, move |request| of_anybody(answer.clone(), local, request)) => {}
                    () = arrival.shed() => {}
                },
                Ok(Err(error)) => tracing::debug!(%peer, %error, "an admin connection was refused"),
                Err(_) => tracing::debug!(%peer, "an admin connection said nothing"),
            }
        });
    }
}

/// Who came to the address.
enum Came {
    Control(Box<TlsStream<TcpStream>>),
    Anybody(TcpStream, SocketAddr),
}

impl Came {
    async fn of(stream: TcpStream, proof: &Proof) -> io::Result<Self> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first != [TLS_HANDSHAKE] {
            let local = stream.local_addr()?;
            return Ok(Self::Anybody(stream, local));
        }
        let trust = proof.trust.borrow().clone().ok_or_else(|| io::Error::other("no control plane is known yet"))?;
        let bundle = TrustBundle { name: "control".into(), roots: trust.roots.clone(), ..TrustBundle::default() };
        let roots = Roots::read(&bundle).map_err(io::Error::other)?;
        let tls = ServerTls::new(&roots, &proof.identity, false).map_err(io::Error::other)?;
        let stream = TlsAcceptor::from(tls.config).accept(stream).await?;
        let id = stream.get_ref().1.peer_certificates().and_then(|chain| spiffe::id(chain.first()?));
        if id.as_deref() == Some(control_id(&trust.spiffe_id).as_str()) {
            return Ok(Self::Control(Box::new(stream)));
        }
        Err(io::Error::other(format!("{} is not the control plane", id.as_deref().unwrap_or("the peer"))))
    }
}

/// The control plane reads everything and changes nothing here: it has the stream of configuration for that.
async fn of_control<F>(answer: impl Fn(Request<Incoming>) -> F, request: Request<Incoming>) -> Response<Full<Bytes>>
where
    F: Future<Output = Response<Full<Bytes>>>,
{
    if changes(request.method()) {
        return text(StatusCode::FORBIDDEN, "only the proxy's own user changes something, over its socket\n");
    }
    answer(request).await
}

async fn of_anybody<F>(
    answer: impl Fn(Request<Incoming>) -> F,
    local: SocketAddr,
    request: Request<Incoming>,
) -> Response<Full<Bytes>>
where
    F: Future<Output = Response<Full<Bytes>>>,
{
    let values = |name: HeaderName| request.headers().get_all(name).iter().map(|value| value.as_bytes());
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let claim = Claim {
        hosts: values(header::HOST).chain(target).collect(),
        origins: values(header::ORIGIN).collect(),
        sites: values(FETCH_SITE).collect(),
    };
    if let Some(reason) = origin::refusal(local, &claim) {
        return text(StatusCode::FORBIDDEN, format!("{reason}\n"));
    }
    if changes(request.method()) || request.uri().path() == PRIVATE {
        let hint = "this is for the proxy's own user: curl --unix-socket STATE/proxies/NAME/admin.sock http://proxy";
        return text(StatusCode::FORBIDDEN, format!("{hint}{}\n", request.uri().path()));
    }
    answer(request).await
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

async fn connection<IO, F>(stream: IO, answer: impl Fn(Request<Incoming>) -> F + Send + Sync)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = serving.await {
        tracing::debug!(%error, "an admin connection broke");
    }
}
