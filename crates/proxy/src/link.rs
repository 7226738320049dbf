//! A connection to an endpoint: TCP behind its region's gate, with or without TLS.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use xds::snapshot::{Bound, RoutingPriority, UpstreamProtocol};

use crate::{
    gate::Gated,
    tls::UpstreamTls,
    upstream::{cluster::Cluster, host::Host},
};

/// An endpoint is asked after a connection to it has been idle for this long, and is gone when it has not acknowledged that
/// after as long again.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// An endpoint that speaks HTTP and has acknowledged nothing for this long is gone. For other bytes there is no such bound:
/// the kernel also ends a connection whose other side acknowledges, and takes nothing for so long, as it may there.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Bytes to and from an endpoint.
#[derive(Debug)]
pub enum Stream {
    /// Without TLS.
    Plain(Gated<TcpStream>),
    /// With TLS.
    Tls(Box<TlsStream<Gated<TcpStream>>>),
}

/// A connection and what it proved.
#[derive(Debug)]
pub struct Link {
    /// The bytes.
    pub stream: Stream,
    /// The peer's certificates; empty without TLS.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whether HTTP/2 was negotiated.
    pub h2: bool,
    /// Counts it at its cluster while it lives.
    pub counted: Counted,
}

/// Why no connection could be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Refused, unreachable, or TLS failed.
    #[error("{0}")]
    Failed(String),
    /// Not in time.
    #[error("no connection in time")]
    Timeout,
    /// The cluster has as many connections as it may.
    #[error("too many connections")]
    Overflow,
}

impl Stream {
    /// Whether reading might bring something at once.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> bool {
        self.tcp().poll_read_ready(cx).is_ready()
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream.get_ref(),
            Self::Tls(stream) => stream.get_ref().0.get_ref(),
        }
    }
}

impl Link {
    /// Connects within `timeout`, TLS handshake included, unless requests of this priority have as many as `most`.
    pub async fn connect(
        cluster: &Arc<Cluster>,
        host: &Host,
        (priority, most): (RoutingPriority, u32),
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let counted = Counted::new(cluster, priority, most).ok_or(ConnectError::Overflow)?;
        let http = cluster.view().config.protocol != UpstreamProtocol::Tcp;
        let connecting = establish(host, cluster.tls(), http);
        let (stream, chain, h2) = match tokio::time::timeout(timeout, connecting).await {
            Ok(result) => result.map_err(|error| ConnectError::Failed(describe(&error)))?,
            Err(_) => return Err(ConnectError::Timeout),
        };
        Ok(Self { stream, chain, h2, counted })
    }

    /// Ends our half of it, with nothing asked; whether the endpoint answers that within `patience`: by its own end or by
    /// bytes, as a server does that lives. A sidecar passes both ends on, so that it is the process behind it that answers.
    /// A connection that breaks is no answer: those of a process that is killed break, too.
    pub async fn farewell(mut self, patience: Duration) -> bool {
        let answer = async {
            self.stream.shutdown().await?;
            self.stream.read(&mut [0]).await
        };
        let answered = matches!(tokio::time::timeout(patience, answer).await, Ok(Ok(_)));
        if !answered {
            // Whoever waits for more from us, or passes it on, is to know that nothing comes. It is gone either way.
            let _ = SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO));
        }
        answered
    }
}

type Established = (Stream, Vec<CertificateDer<'static>>, bool);

async fn establish(host: &Host, tls: Option<Arc<UpstreamTls>>, http: bool) -> io::Result<Established> {
    host.gate.opened().await;
    let tcp = TcpStream::connect(host.address).await?;
    tcp.set_nodelay(true)?;
    notice_loss(&tcp, http)?;
    let gated = Gated::new(tcp, &host.gate);
    let Some(tls) = tls else { return Ok((Stream::Plain(gated), Vec::new(), false)) };
    let name = ServerName::IpAddress(host.address.ip().into());
    // Boxed: without TLS a connection under way is small.
    let stream = Box::pin(TlsConnector::from(tls.config.clone()).connect(name, gated)).await?;
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
    let h2 = session.alpn_protocol() == Some(crate::tls::H2);
    Ok((Stream::Tls(Box::new(stream)), chain, h2))
}

/// Lets the kernel end a connection whose other side is gone without a word, sent bytes and idle ones alike.
fn notice_loss(tcp: &TcpStream, http: bool) -> io::Result<()> {
    let socket = SockRef::from(tcp);
    let alive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 5).with_retries(5);
    socket.set_tcp_keepalive(&alive)?;
    #[cfg(target_os = "linux")]
    if http {
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    }
    Ok(())
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        _ => error.to_string(),
    }
}

/// One of a cluster's connections.
#[derive(Debug)]
pub struct Counted {
    cluster: Arc<Cluster>,
    priority: RoutingPriority,
}

impl Counted {
    fn new(cluster: &Arc<Cluster>, priority: RoutingPriority, most: u32) -> Option<Self> {
        cluster.enter(priority, Bound::Connections, most).then(|| Self { cluster: cluster.clone(), priority })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let counters = self.cluster.counters(self.priority);
        counters.leave(Bound::Connections);
        counters.freed.notify_one();
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
