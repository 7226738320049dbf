//! A connection to an endpoint that speaks HTTP/1.1: one request and its response after the other. Whoever polls for the
//! response also sends what is left of the request.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, header::UPGRADE, request, response, uri::Authority};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    http::{
        body::{BodyError, TryBody},
        fate::Fate,
        h1::{
            encode,
            framing::{Decoder, Framing, Piece},
            outbox::{Outbox, poll_fill},
            parse::{self, Bounds, Scan},
        },
        interim::{self, Interim},
    },
    link::{Counted, Stream},
    upstream::host::Lane,
};

/// Bounds on a response's head.
const HEAD: Bounds = Bounds { bytes: 64 * 1024, headers: 256 };

/// A connection.
pub struct Wire {
    /// Where it leads, and for whom.
    pub lane: Lane,
    /// What is decided about it.
    pub fate: Arc<Fate>,
    /// When it was last seen idle, to the accuracy of a sweep.
    pub since: Instant,
    stream: Stream,
    _counted: Counted,
    buffer: BytesMut,
    scan: Scan,
    out: Outbox,
    body: Option<TryBody>,
    /// Bytes of the request's body still to come; `None` in chunks.
    left: Option<u64>,
    answer: Decoder,
    head_only: bool,
    keep: bool,
    /// Whether it served a request before, or waited for one: its peer may have closed it.
    used: bool,
    /// What the request would change to.
    upgrade: Option<HeaderValue>,
    /// Interim answers to the request.
    interim: u32,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("lane", &self.lane).field("answer", &self.answer).finish_non_exhaustive()
    }
}

/// Why there is no response.
#[derive(Debug)]
pub enum Trouble {
    /// It had ended before any byte of the request was written.
    Unsent,
    /// A kept connection ended before any byte of an answer came, as it does when its peer closes it for its idleness while
    /// a request is on its way. Whether the request was looked at, nobody knows.
    Stale(String),
    /// It ended.
    Broken(String),
    /// What came is not a response.
    Malformed(String),
}

impl Wire {
    /// Around a new connection.
    pub fn new(lane: Lane, fate: Arc<Fate>, stream: Stream, counted: Counted) -> Self {
        Self {
            lane,
            fate,
            since: Instant::now(),
            stream,
            _counted: counted,
            buffer: BytesMut::new(),
            scan: Scan::default(),
            out: Outbox::default(),
            body: None,
            left: Some(0),
            answer: Decoder::default(),
            head_only: false,
            keep: true,
            used: false,
            upgrade: None,
            interim: 0,
        }
    }

    /// Marks a connection that waits for its first request: its peer may close it meanwhile, as one that was used.
    pub fn kept(mut self) -> Self {
        self.used = true;
        self
    }

    /// Whether nothing says that the peer closed it.
    pub fn is_open(&mut self) -> bool {
        if !self.stream.poll_readable(&mut Context::from_waker(Waker::noop())) {
            return true;
        }
        // Readable may be left over from before; bytes that nobody asked for, and the end, speak against it.
        poll_fill(&mut self.stream, &mut self.buffer, 0, &mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Begins a request. Its headers are without those of one hop.
    pub fn begin(&mut self, head: &request::Parts, authority: &Authority, body: TryBody) {
        let framing = match body.size_hint().exact() {
            _ if body.is_end_stream() => None,
            Some(0) => None,
            Some(length) => Some(Framing::Length(length)),
            None => Some(Framing::Chunked),
        };
        self.out.renew();
        encode::request(self.out.head(), head, authority, framing);
        self.left = if let Some(Framing::Length(length)) = framing { Some(length) } else { None };
        self.body = framing.is_some().then_some(body);
        self.head_only = head.method == Method::HEAD;
        self.upgrade = head.headers.get(UPGRADE).cloned();
        // Where an upgrade was asked for, both sides may disagree about what the bytes that follow are.
        self.keep = self.upgrade.is_none() && head.method != Method::CONNECT;
        self.interim = 0;
    }

    /// Sends the request; ready when all of it is sent. An early response ends it, and the connection with it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        loop {
            let mut waits = false;
            while self.out.has_room()
                && let Some(body) = &mut self.body
            {
                match Pin::new(body).poll_frame(cx) {
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                    Poll::Ready(frame) => self.put(frame)?,
                }
            }
            match ready!(self.out.poll_flush(&mut self.stream, cx)) {
                Ok(()) => {}
                Err(_) if self.out.is_untouched() => return Poll::Ready(Err(Trouble::Unsent)),
                Err(error) => return Poll::Ready(Err(Trouble::Broken(describe(&error)))),
            }
            if waits {
                return Poll::Pending;
            }
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn put(&mut self, frame: Option<Result<Frame<Bytes>, BodyError>>) -> Result<(), Trouble> {
        let short = || Trouble::Broken("the caller's body is not as long as it said".to_owned());
        match frame.transpose().map_err(|error| Trouble::Broken(error.to_string()))?.map(Frame::into_data) {
            Some(Ok(data)) if data.is_empty() => {}
            Some(Ok(data)) => {
                if let Some(left) = &mut self.left {
                    *left = left.checked_sub(data.len() as u64).ok_or_else(short)?;
                }
                self.out.data(data, self.left.is_none());
                if self.left == Some(0) {
                    self.body = None;
                }
            }
            Some(Err(frame)) => {
                match (self.left, frame.trailers_ref()) {
                    (None, Some(trailers)) => encode::trailers(self.out.head(), trailers),
                    (None, None) => self.out.head().extend_from_slice(encode::LAST_CHUNK),
                    (Some(_), _) => return Err(short()),
                }
                self.body = None;
            }
            None => {
                if self.left.is_some() {
                    return Err(short());
                }
                self.out.head().extend_from_slice(encode::LAST_CHUNK);
                self.body = None;
            }
        }
        Ok(())
    }

    fn sends(&self) -> bool {
        self.body.is_some() || !self.out.is_empty()
    }

    /// Goes on sending beside a response. What breaks here shows in the response.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if self.sends()
            && let Poll::Ready(Err(_)) = self.poll_send(cx)
        {
            self.body = None;
            self.out.clear();
            self.keep = false;
        }
    }

    /// The response's head. Interim ones go to whoever waits for them.
    pub fn poll_head(
        &mut self,
        interim: Option<&Interim>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<response::Parts, Trouble>> {
        if self.fate.poll_cut(cx).is_ready() {
            return Poll::Ready(Err(Trouble::Broken("connection cut off".to_owned())));
        }
        if self.sends()
            && let Poll::Ready(Err(trouble)) = self.poll_send(cx)
        {
            let caller_broke = self.body.as_ref().is_some_and(TryBody::failed);
            if caller_broke || matches!(trouble, Trouble::Unsent) {
                return Poll::Ready(Err(trouble));
            }
            // It may have answered before it stopped reading.
            self.body = None;
            self.out.clear();
            self.keep = false;
        }
        let malformed = |refused: parse::Refused| Trouble::Malformed(refused.to_string());
        loop {
            if let Some(head) = self.scan.head(&mut self.buffer, HEAD).map_err(malformed)? {
                let head = parse::response(&head, self.head_only, HEAD).map_err(malformed)?;
                if head.parts.status == StatusCode::SWITCHING_PROTOCOLS {
                    let to = head.parts.headers.get(UPGRADE);
                    let same = |(asked, to): (&HeaderValue, &HeaderValue)| {
                        asked.as_bytes().eq_ignore_ascii_case(to.as_bytes())
                    };
                    return Poll::Ready(match self.upgrade.as_ref().zip(to).is_some_and(same) {
                        true => Ok(head.parts),
                        false => Err(Trouble::Malformed("101 to a request that asked for no such upgrade".to_owned())),
                    });
                }
                if head.parts.status.is_informational() {
                    self.interim += 1;
                    if self.interim > interim::MOST {
                        return Poll::Ready(Err(Trouble::Malformed(interim::TOO_MANY.to_owned())));
                    }
                    if let Some(interim) = interim {
                        interim.put(head.parts.status, head.parts.headers);
                    }
                    continue;
                }
                self.answer = Decoder::new(head.framing);
                self.keep &= head.keep_alive;
                self.used = true;
                return Poll::Ready(Ok(head.parts));
            }
            let cause = match ready!(poll_fill(&mut self.stream, &mut self.buffer, 0, cx)) {
                Ok(0) => "connection ended".to_owned(),
                Ok(_) => continue,
                Err(error) => describe(&error),
            };
            let stale = self.used && self.buffer.is_empty() && self.interim == 0;
            return Poll::Ready(Err(if stale { Trouble::Stale(cause) } else { Trouble::Broken(cause) }));
        }
    }

    /// The next piece of the response's body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.drive(cx);
        loop {
            let broken = match self.answer.decode(&mut self.buffer) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Piece::End) => return Poll::Ready(None),
                Err(refused) => refused.to_string(),
                Ok(Piece::More) => {
                    if self.fate.poll_cut(cx).is_ready() {
                        return Poll::Ready(Some(Err(BodyError::Upstream("connection cut off".to_owned()))));
                    }
                    match ready!(poll_fill(&mut self.stream, &mut self.buffer, self.answer.expected(), cx)) {
                        Ok(0) if self.answer.ended() => return Poll::Ready(None),
                        Ok(0) => "connection ended".to_owned(),
                        Ok(_) => {
                            self.fate.heard();
                            continue;
                        }
                        Err(error) => describe(&error),
                    }
                }
            };
            return Poll::Ready(Some(Err(BodyError::Upstream(broken))));
        }
    }

    /// Whether the response is over.
    pub fn done(&self) -> bool {
        self.answer.done()
    }

    /// Whether all that is left of the response has been read from the connection.
    pub fn is_whole(&self) -> bool {
        self.answer.remaining().is_some_and(|left| left <= self.buffer.len() as u64)
    }

    /// Bytes of the response still to come.
    pub fn size(&self) -> SizeHint {
        self.answer.remaining().map_or_else(SizeHint::new, SizeHint::with_exact)
    }

    /// Whether another request may be sent over it.
    pub fn reusable(&self) -> bool {
        self.keep && self.done() && !self.sends() && self.buffer.is_empty() && !self.fate.retired()
    }
}

/// After it switched protocols: what came behind the response's head, then the connection's bytes.
impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.fate.poll_cut(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, "connection cut off")));
        }
        if self.buffer.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let count = self.buffer.len().min(into.remaining());
        into.put_slice(&self.buffer.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "connection reset".to_owned(),
        _ => error.to_string(),
    }
}
