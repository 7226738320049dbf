//! A caller's HTTP/1.1 connection: requests are read, answered, and written one after the other, in one task.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use http::{HeaderMap, Method, Response, StatusCode, Version, response};
use hyper::body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use xds::snapshot::Limits;

use crate::{
    http::{
        alarm::Alarm,
        body::{Answer, Incoming, Switched},
        date,
        guard::STALL,
        h1::{
            encode::{self, Ending},
            framing::Framing,
            inlet::{Feed, Inlet},
            outbox::Outbox,
            parse::{Bounds, Refused, RequestHead},
        },
        interim::Interim,
        message,
        relay::{DRAIN, Ended, Relay},
        server::Connection,
    },
    seldom::Seldom,
};

/// What is read and thrown away of a body that nobody wanted, so that the connection can go on.
const DISCARDED: usize = 64 * 1024;
/// How long a caller may take to see that the connection is over, before what it still sends resets it.
const LINGER: Duration = Duration::from_secs(1);

/// Serves requests until the caller is done, or told to go and answered. `seen` was read already.
pub async fn serve<T>(connection: Arc<Connection>, io: T, seen: BytesMut, limits: &Limits, leaving: Seldom)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
    let mut serving = Serving {
        connection,
        inlet: Arc::new(Mutex::new(Inlet::new(io, seen))),
        out: Outbox::default(),
        alarm: Alarm::default(),
        leaving,
        bounds: Bounds { bytes: size(limits.header_bytes), headers: size(limits.headers) },
        patience: (limits.header_timeout, limits.idle_timeout),
        waits: Waits::default(),
        stalled: None,
        served: false,
        interim: Arc::default(),
    };
    let last = loop {
        match poll_fn(|cx| serving.poll_next(cx)).await {
            Next::Request(head) => match serving.answer(*head).await {
                Last::Kept => serving.served = true,
                last => break last,
            },
            Next::Refused(refused) => break serving.refuse(refused).await,
            Next::End => return,
        }
    };
    if last == Last::Whole {
        serving.linger().await;
    }
}

/// How a request was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// Another may follow.
    Kept,
    /// None may follow; the caller has its whole answer.
    Whole,
    /// The connection is of no use any more.
    Broken,
}

enum Next {
    Request(Box<RequestHead>),
    Refused(Refused),
    /// Closed by the caller, or for its silence.
    End,
}

/// Until when the next request is waited for.
#[derive(Debug, Default)]
struct Waits {
    /// For its first byte.
    idle: Option<Instant>,
    /// For the rest of its head.
    head: Option<Instant>,
}

struct Serving<T> {
    connection: Arc<Connection>,
    inlet: Arc<Mutex<Inlet<T>>>,
    out: Outbox,
    alarm: Alarm,
    leaving: Seldom,
    bounds: Bounds,
    /// For a head, and for the next request.
    patience: (Duration, Duration),
    waits: Waits,
    /// Since when the caller takes nothing of its answer.
    stalled: Option<Instant>,
    /// Whether a request was answered.
    served: bool,
    /// What an endpoint says before its answer.
    interim: Arc<Interim>,
}

fn lock<T>(inlet: &Mutex<Inlet<T>>) -> MutexGuard<'_, Inlet<T>> {
    inlet.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Serving<T> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let mut inlet = lock(&self.inlet);
        loop {
            match inlet.head(self.bounds) {
                Ok(Some(head)) => {
                    self.waits = Waits::default();
                    return Poll::Ready(Next::Request(Box::new(head)));
                }
                Ok(None) => {}
                Err(refused) => return Poll::Ready(Next::Refused(refused)),
            }
            match inlet.poll_more(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(Next::End),
                Poll::Pending => break,
            }
        }
        // A request that has begun is waited for, whoever wants to leave.
        let idle = self.served && inlet.is_quiet();
        if idle && self.leaving.poll(cx).is_ready() {
            return Poll::Ready(Next::End);
        }
        let (head, next) = self.patience;
        let (until, patience) = if idle { (&mut self.waits.idle, next) } else { (&mut self.waits.head, head) };
        let until = *until.get_or_insert_with(|| Instant::now() + patience);
        ready!(self.alarm.poll(until, cx));
        if !idle {
            self.connection.shared.metrics.refused("slowHead");
        }
        Poll::Ready(Next::End)
    }

    async fn refuse(&mut self, refused: Refused) -> Last {
        let kind = match refused {
            Refused::TooLarge | Refused::LongTarget => "tooLarge",
            Refused::Malformed(_) | Refused::Version => "malformed",
        };
        self.connection.shared.metrics.refused(kind);
        tracing::debug!(caller = %self.connection.caller.address, %refused, "refused");
        let response = self.connection.refuse(None, refused.status(), &refused.to_string());
        let asked = Asked { head_only: false, version: Version::HTTP_11, keep_alive: false, upgrade: false };
        self.respond(asked, response).await.unwrap_or(Last::Broken)
    }

    async fn answer(&mut self, head: RequestHead) -> Last {
        let RequestHead { parts, keep_alive, .. } = head;
        let asked = Asked {
            head_only: parts.method == Method::HEAD,
            version: parts.version,
            keep_alive,
            upgrade: parts.method == Method::CONNECT || message::upgrade(&parts).is_some(),
        };
        let inlet = self.inlet.clone();
        let body = if lock(&inlet).done() { Incoming::Empty } else { Incoming::Caller(inlet.clone()) };
        let response = {
            let Self { connection, out, alarm, interim, .. } = self;
            interim.renew();
            let mut request = pin!(connection.request(parts, body, interim, alarm));
            poll_fn(|cx| {
                let response = request.as_mut().poll(cx);
                // HTTP/1.0 has no interim answers (RFC 9110, 15.2).
                while asked.version != Version::HTTP_10
                    && out.has_room()
                    && let Some((status, headers)) = interim.take()
                {
                    encode::interim(out.head(), status, &headers);
                }
                let mut inlet = lock(&inlet);
                match response {
                    Poll::Ready(response) => return Poll::Ready(Some(response)),
                    Poll::Pending if out.is_empty() => {}
                    Poll::Pending => {
                        if let Poll::Ready(Err(_)) = out.poll_flush(&mut inlet.io, cx) {
                            return Poll::Ready(None);
                        }
                    }
                }
                inlet.poll_gone(cx).map(|()| None)
            })
            .await
        };
        let Some(response) = response else { return Last::Broken };
        match self.respond(asked, response).await {
            Ok(last) => last,
            Err(_) => Last::Broken,
        }
    }

    async fn respond(&mut self, asked: Asked, response: Response<Answer>) -> io::Result<Last> {
        let (head, body) = response.into_parts();
        let mut body = match body.switched() {
            Ok(switched) => return self.switch(&head, switched).await,
            Err(body) => body,
        };
        let inlet = self.inlet.clone();
        let mut close = !asked.keep_alive || poll_fn(|cx| Poll::Ready(self.leaving.poll(cx).is_ready())).await;
        // Whoever cannot be understood now may mean another thing by what follows.
        close |= body.is_ours() && matches!(head.status.as_u16(), 400 | 405 | 431 | 501);
        close |= lock(&inlet).is_broken();
        // What follows may be bytes of the protocol that was asked for: nothing of it is taken for a request.
        close |= asked.upgrade;
        if !close && !lock(&inlet).done() {
            // An endpoint that answered early may be reading on, so what is left of the body is for it alone.
            close = !body.is_ours() || !discard(&inlet).await;
        }
        let (mut framing, announced) = asked.framing(head.status, &head.headers, &body);
        close |= framing == Some(Framing::UntilClose);
        let ending = Ending { framing, announced, close, keep: !close && asked.version == Version::HTTP_10 };
        self.write_head(head.status, &head.headers, ending);
        if framing.is_none_or(|framing| framing == Framing::Length(0)) {
            framing = None;
            body.leave_out();
        }
        poll_fn(|cx| self.poll_write(&mut body, &mut framing, cx)).await?;
        drop(body);
        if !close && (lock(&inlet).done() || discard(&inlet).await) {
            return Ok(Last::Kept);
        }
        Ok(Last::Whole)
    }

    /// Passes the other protocol's bytes both ways until they end, or until it is time to leave.
    async fn switch(&mut self, head: &response::Parts, switched: Switched) -> io::Result<Last> {
        let Switched { io: mut endpoint, watch, silent } = switched;
        self.write_head(
            head.status,
            &head.headers,
            Ending { framing: None, announced: None, close: false, keep: false },
        );
        poll_fn(|cx| self.poll_flush(cx)).await?;
        let inlet = self.inlet.clone();
        let mut relay = Relay::new(silent.unwrap_or(self.patience.1), lock(&inlet).take_rest());
        let mut until = None;
        let ended = poll_fn(|cx| {
            if let Poll::Ready(ended) = relay.poll(&mut lock(&inlet).io, &mut *endpoint, cx) {
                return Poll::Ready(ended);
            }
            ready!(self.leaving.poll(cx));
            let until = *until.get_or_insert_with(|| Instant::now() + DRAIN);
            self.alarm.poll(until, cx).map(|()| Ended::Whole)
        });
        let ended = ended.await;
        let last = if matches!(ended, Ended::Whole) { Last::Whole } else { Last::Broken };
        if let Some(mut watch) = watch {
            relay.tell(ended, &mut *watch);
        }
        Ok(last)
    }

    fn write_head(&mut self, status: StatusCode, headers: &HeaderMap, ending: Ending) {
        let out = self.out.head();
        date::with(&self.connection.shared.clock, |date| encode::response(out, status, headers, ending, date));
    }

    /// Writes what was begun and the body. `framing` is what is left of it; `None` at its end.
    fn poll_write(
        &mut self,
        body: &mut Answer,
        framing: &mut Option<Framing>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut broken = None;
            let mut waits = false;
            while self.out.has_room() && !waits && broken.is_none() && framing.is_some() {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Pending => waits = true,
                    Poll::Ready(frame) => broken = self.put(frame, framing).err(),
                }
            }
            match self.poll_flush(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    return body.poll_blocked(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
                }
            }
            if let Some(broken) = broken {
                // The caller has what there is, and sees by the missing end that it is not all.
                return Poll::Ready(Err(broken));
            }
            if framing.is_none() {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return lock(&self.inlet).poll_gone(cx).map(|()| Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn put(
        &mut self,
        frame: Option<Result<hyper::body::Frame<bytes::Bytes>, crate::http::body::BodyError>>,
        framing: &mut Option<Framing>,
    ) -> io::Result<()> {
        let chunked = *framing == Some(Framing::Chunked);
        match frame.transpose().map_err(io::Error::other)?.map(hyper::body::Frame::into_data) {
            Some(Ok(data)) if data.is_empty() => {}
            Some(Ok(data)) => {
                if let Some(Framing::Length(left)) = framing {
                    let length = data.len() as u64;
                    let left = left.checked_sub(length).ok_or(io::ErrorKind::InvalidData)?;
                    *framing = (left > 0).then_some(Framing::Length(left));
                }
                self.out.data(data, chunked);
            }
            Some(Err(frame)) if chunked => {
                encode::trailers(self.out.head(), frame.trailers_ref().unwrap_or(&HeaderMap::new()));
                *framing = None;
            }
            Some(Err(_)) | None => {
                if let Some(Framing::Length(_)) = framing {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if chunked {
                    self.out.head().extend_from_slice(encode::LAST_CHUNK);
                }
                *framing = None;
            }
        }
        Ok(())
    }

    /// Writes what is in the outbox; an error when the caller takes nothing for too long.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.out.sent();
        let flushed = self.out.poll_flush(&mut lock(&self.inlet).io, cx);
        if flushed.is_ready() {
            self.stalled = None;
            return flushed;
        }
        if self.out.sent() != before {
            self.stalled = None;
        }
        let since = *self.stalled.get_or_insert_with(Instant::now);
        self.alarm.poll(since + STALL, cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Says that nothing more comes, and waits until the caller has seen it: closing at once would reset the connection
    /// over what the caller still sends, and take the answer away from it.
    async fn linger(&mut self) {
        let inlet = self.inlet.clone();
        let until = Instant::now() + LINGER;
        let mut shut = false;
        poll_fn(|cx| {
            let mut inlet = lock(&inlet);
            if !shut {
                match Pin::new(&mut inlet.io).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return self.alarm.poll(until, cx),
                }
            }
            if inlet.poll_drain(cx).is_ready() { Poll::Ready(()) } else { self.alarm.poll(until, cx) }
        })
        .await;
    }
}

/// Throws away what is left of a request's body; false when it is long, or slow.
async fn discard<T: AsyncRead + AsyncWrite + Unpin>(inlet: &Mutex<Inlet<T>>) -> bool {
    let mut most = DISCARDED;
    poll_fn(|cx| Poll::Ready(lock(inlet).poll_discard(&mut most, cx) == Poll::Ready(true))).await
}

/// What of a request decides how its response is written.
#[derive(Clone, Copy, Debug)]
struct Asked {
    head_only: bool,
    version: Version,
    keep_alive: bool,
    upgrade: bool,
}

impl Asked {
    /// How the body is written (`None` without one), and the length that the head announces where there can be none.
    fn framing(self, status: StatusCode, headers: &HeaderMap, body: &Answer) -> (Option<Framing>, Option<u64>) {
        if self.head_only || status == StatusCode::NOT_MODIFIED {
            return (None, message::announced(headers));
        }
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            return (None, None);
        }
        let framing = match body.size_hint().exact() {
            Some(length) => Framing::Length(length),
            None if self.version == Version::HTTP_10 => Framing::UntilClose,
            None => Framing::Chunked,
        };
        (Some(framing), None)
    }
}
