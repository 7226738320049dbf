//! CONNECT taken up: from here on the caller speaks with an endpoint in bytes (RFC 9110, 9.3.6).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{
    HeaderMap, Response, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    request::Parts,
    uri::Authority,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use xds::snapshot::Tunnel;

use crate::{
    http::{
        body::{Answer, BodyError, Ends, Incoming, Watch},
        flags::Flag,
        forward::Refusal,
        reach::{self, FirstAnswer, Unreached},
        record::Record,
    },
    link::{Counted, Link, Stream},
    seldom::Seldom,
    state::State,
    upstream::{
        cluster::Cluster,
        host::{Active, Host},
    },
};

/// Why a request for a tunnel is refused whatever its route.
pub fn refuse(request: &Parts, authority: &Authority) -> Option<&'static str> {
    // RFC 9110, 9.3.6: an empty or invalid port is refused.
    if authority.port_u16().is_none_or(|port| port == 0) {
        return Some("CONNECT names a host and a port");
    }
    // What follows the head is the tunnel's, whatever the head says of it: nobody may take it for a body.
    let framed = [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| request.headers.contains_key(name));
    framed.then_some("CONNECT has no body")
}

/// Opens the tunnel: an answer whose bytes are the endpoint's.
///
/// # Errors
/// When no endpoint takes it.
pub async fn open(state: &State, tunnel: &Tunnel, mut record: Record) -> Result<Response<Answer>, (Refusal, Record)> {
    let refused = |flag, text| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, flag, text);
    let Some(cluster) = state.clusters.get(&tunnel.cluster).cloned() else {
        return Err((refused(Flag::NoHealthyUpstream, "no such cluster"), record));
    };
    record.routed(&cluster.view().config);
    let connected = match reach::connect(&cluster).await {
        Ok(connected) => connected,
        Err(why) => {
            let refusal = match why {
                Unreached::Nobody => refused(Flag::NoHealthyUpstream, "no healthy endpoint"),
                Unreached::Overflow => refused(Flag::UpstreamOverflow, "too many connections"),
                Unreached::Failed => refused(Flag::UpstreamConnectionFailure, "no connection to an endpoint"),
            };
            return Err((refusal, record));
        }
    };
    let tries = connected.tries;
    let (Link { stream, counted, .. }, host, active, ended) = connected.split(cluster.clone());
    record.answered_by(&host, tries.saturating_sub(1));
    record.status(StatusCode::OK.as_u16());
    let left = Arc::new(AtomicBool::new(false));
    let bytes = Endpoint {
        stream,
        ended: Seldom::new(ended),
        left: left.clone(),
        first: FirstAnswer::default(),
        asked: 0,
        answered: 0,
        cluster: cluster.clone(),
        host: host.clone(),
        _counted: counted,
        _active: active,
    };
    let answer = Answer::upstream(Incoming::Switched(Box::new(bytes)), Ends::default()).silent_for(tunnel.idle_timeout);
    Ok(Response::new(answer.watched(Box::new(Streaming { record, cluster, host, left }))))
}

/// An endpoint's bytes.
struct Endpoint {
    stream: Stream,
    /// The endpoint left, or is not believed any more.
    ended: Seldom,
    /// That this ended it.
    left: Arc<AtomicBool>,
    first: FirstAnswer,
    /// Bytes that it got, and that came from it.
    asked: u64,
    answered: u64,
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    _counted: Counted,
    _active: Active,
}

impl AsyncRead for Endpoint {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ended.poll(cx).is_ready() {
            this.left.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the endpoint left")));
        }
        let before = into.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, into);
        this.answered += (into.filled().len() - before) as u64;
        this.first.poll((this.asked, this.answered), &this.cluster, &this.host, cx);
        read
    }
}

impl AsyncWrite for Endpoint {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.asked += count as u64;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Follows a tunnel to its end.
struct Streaming {
    record: Record,
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    left: Arc<AtomicBool>,
}

impl Watch for Streaming {
    fn passed(&mut self, bytes: u64) {
        self.record.passed(bytes);
    }

    fn received(&mut self, bytes: u64) {
        self.record.received(bytes);
    }

    fn trailers(&mut self, _trailers: &HeaderMap) {}

    fn finished(&mut self) {
        self.cluster.came_whole(&self.host);
        self.record.finished();
    }

    fn broken(&mut self, error: &BodyError) {
        if matches!(error, BodyError::Upstream(_)) && !self.left.load(Ordering::Relaxed) {
            self.cluster.broke_off(&self.host, Instant::now());
        }
        self.record.broken(error);
    }
}
