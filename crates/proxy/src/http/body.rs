//! Bodies: where they come from; the request's, which may be sent again while it is small; and the response's, streamed
//! with its guards.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::CONTENT_LENGTH};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::{
    fault::Shape,
    http::{
        alarm::Alarm,
        h1::{inlet::Feed, wire::Wire},
        h2::{flow::Flow, stream::Stream},
        message,
        pool::Pool,
        relay::Duplex,
        shape::{Pace, Shaped, ShapedBytes},
    },
};

/// A request body up to this size can be sent again; beyond it the request is not repeated.
pub const REPLAY_LIMIT: usize = 64 * 1024;

/// How much of a response is waited for before any of it is passed on, where the request could be repeated.
const BEGINNING: u64 = 16 * 1024;
/// For how long, where the response says that it is no longer.
const LENGTH_KNOWN: Duration = Duration::from_millis(100);
/// For how long, where it does not: it may be a stream whose every piece is waited for.
const LENGTH_UNKNOWN: Duration = Duration::from_millis(5);

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The caller's side broke.
    #[error("the caller's body ended early: {0}")]
    Caller(String),
    /// The endpoint's side broke.
    #[error("the endpoint's body ended early: {0}")]
    Upstream(String),
    /// The route's timeout.
    #[error("the request's time is over")]
    Timeout,
    /// Nothing passed either way, after an upgrade.
    #[error("nothing passed for too long")]
    Idle,
    /// A later try reads the body now.
    #[error("a later try took over the body")]
    Superseded,
}

/// A body as it comes in.
pub enum Incoming {
    /// None.
    Empty,
    /// Of a caller's request, HTTP/1.1.
    Caller(Arc<Mutex<dyn Feed>>),
    /// Of an endpoint's response, HTTP/1.1. The connection goes back into the pool at its end.
    Endpoint(Box<Wire>, Arc<Pool>),
    /// Of a caller's request, HTTP/2.
    Flow(Flow),
    /// Of an endpoint's response, HTTP/2.
    Stream(Box<Stream>),
    /// An endpoint's, in the hand of a fault.
    Shaped(Box<Shaped<Self>>),
    /// No body: the endpoint took up an upgrade, and from here on these are its bytes.
    Switched(Box<dyn Duplex>),
    /// With its beginning already here.
    Begun(Beginning, Box<Incoming>),
}

/// What was read ahead of a response's body, up to an error or [`BEGINNING`].
type Beginning = VecDeque<Frame<Bytes>>;

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Caller(_) => "Caller",
            Self::Endpoint(..) => "Endpoint",
            Self::Flow(_) => "Flow",
            Self::Stream(_) => "Stream",
            Self::Shaped(_) => "Shaped",
            Self::Switched(_) => "Switched",
            Self::Begun(..) => "Begun",
        })
    }
}

impl Incoming {
    /// The body of a response over this connection.
    pub fn endpoint(wire: Box<Wire>, pool: Arc<Pool>) -> Self {
        Self::Endpoint(wire, pool).settled()
    }

    /// What a fault makes of a response's body, and of what its head says about it.
    pub fn shaped(self, shape: Shape, headers: &mut HeaderMap) -> Self {
        if let Self::Switched(io) = self {
            return Self::Switched(Box::new(ShapedBytes::new(io, shape)));
        }
        let shaped = Shaped::new(self, shape);
        if let (Some(length), true) = (shaped.size_hint().exact(), headers.contains_key(CONTENT_LENGTH)) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Self::Shaped(Box::new(shaped))
    }

    /// Gives the connection back when the response is over.
    fn settled(self) -> Self {
        match self {
            Self::Endpoint(wire, pool) if wire.done() => {
                pool.give_back(wire);
                Self::Empty
            }
            other => other,
        }
    }

    /// Goes on sending the request to which this is the response, while nobody asks for the response's next piece.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Endpoint(wire, _) => wire.drive(cx),
            Self::Stream(stream) => stream.drive(cx),
            Self::Shaped(shaped) => shaped.inner().drive(cx),
            Self::Begun(_, rest) => rest.drive(cx),
            Self::Empty | Self::Caller(_) | Self::Flow(_) | Self::Switched(_) => {}
        }
    }

    /// Whether it is short, or may be, and not all here.
    pub fn may_break_off(&self) -> bool {
        let here = match self {
            Self::Endpoint(wire, _) => wire.is_whole(),
            other => other.is_end_stream(),
        };
        !here && self.size_hint().exact().is_none_or(|length| length <= BEGINNING)
    }

    /// Its trailers, where they are here already and there is nothing before them.
    pub fn only_trailers(&self) -> Option<&HeaderMap> {
        match self {
            Self::Begun(beginning, _) => {
                let told = |frame: &&Frame<Bytes>| frame.data_ref().is_none_or(|data| !data.is_empty());
                beginning.iter().find(told).and_then(Frame::trailers_ref)
            }
            _ => None,
        }
    }

    /// Waits a moment for a short response's end, so that one that breaks off can still be asked for elsewhere: as long
    /// as nothing of it went to the caller, nobody saw it.
    ///
    /// # Errors
    /// When it breaks off.
    pub async fn begun(mut self) -> Result<Self, BodyError> {
        let wait = if self.size_hint().exact().is_some() { LENGTH_KNOWN } else { LENGTH_UNKNOWN };
        let mut beginning = Beginning::new();
        let result = {
            let mut reading = pin!(async {
                let mut read = 0;
                while read < BEGINNING && !self.is_end_stream() {
                    let Some(frame) = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await else { break };
                    let frame = frame?;
                    read += frame.data_ref().map_or(0, |data| data.len() as u64);
                    beginning.push_back(frame);
                }
                Ok(())
            });
            // Nearly always it is all here, and no timer is needed.
            let at_once = poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await;
            match at_once {
                Poll::Ready(result) => result,
                // What takes longer is passed on as it comes.
                Poll::Pending => tokio::time::timeout(wait, reading.as_mut()).await.unwrap_or(Ok(())),
            }
        };
        result?;
        Ok(if beginning.is_empty() { self } else { Self::Begun(beginning, Box::new(self)) })
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut frame = std::task::ready!(match &mut *self {
            Self::Empty | Self::Switched(_) => Poll::Ready(None),
            Self::Caller(feed) => lock(feed).poll_frame(cx),
            Self::Endpoint(wire, _) => {
                let frame = std::task::ready!(wire.poll_frame(cx));
                if wire.done() {
                    *self = std::mem::replace(&mut *self, Self::Empty).settled();
                }
                Poll::Ready(frame)
            }
            Self::Flow(flow) => flow
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|error| BodyError::Caller(error.to_string())))),
            Self::Stream(stream) => stream.poll_frame(cx),
            Self::Shaped(shaped) => Pin::new(&mut **shaped).poll_frame(cx),
            Self::Begun(beginning, rest) => match beginning.pop_front() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => Pin::new(&mut **rest).poll_frame(cx),
            },
        });
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            message::clean_trailers(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Switched(_) => false,
            Self::Caller(feed) => lock(feed).done(),
            Self::Endpoint(wire, _) => wire.done(),
            Self::Flow(flow) => flow.is_over(),
            Self::Stream(stream) => stream.done(),
            Self::Shaped(shaped) => shaped.is_end_stream(),
            Self::Begun(beginning, rest) => beginning.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Caller(feed) => lock(feed).size(),
            Self::Endpoint(wire, _) => wire.size(),
            Self::Flow(flow) => flow.size(),
            Self::Stream(stream) => stream.size(),
            Self::Switched(_) => SizeHint::new(),
            Self::Shaped(shaped) => shaped.size_hint(),
            Self::Begun(beginning, rest) => {
                let here = beginning.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum::<u64>();
                let (left, mut all) = (rest.size_hint(), SizeHint::new());
                all.set_lower(here + left.lower());
                if let Some(upper) = left.upper() {
                    all.set_upper(here + upper);
                }
                all
            }
        }
    }
}

/// A request body that several tries may read.
#[derive(Debug)]
pub struct Replay(Option<Arc<Mutex<Inner>>>);

#[derive(Debug)]
struct Inner {
    source: Incoming,
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    held: usize,
    total: SizeHint,
    received: Arc<AtomicU64>,
    started: bool,
    ended: bool,
    overflowed: bool,
    failed: bool,
    reader: u64,
}

impl Replay {
    /// Around a body that nobody has read yet.
    pub fn new(source: Incoming) -> Self {
        if source.is_end_stream() {
            return Self::empty();
        }
        let inner = Inner {
            total: source.size_hint(),
            source,
            chunks: Vec::new(),
            trailers: None,
            held: 0,
            received: Arc::default(),
            started: false,
            ended: false,
            overflowed: false,
            failed: false,
            reader: 0,
        };
        Self(Some(Arc::new(Mutex::new(inner))))
    }

    /// No body at all.
    pub fn empty() -> Self {
        Self(None)
    }

    /// Counts what is read of it; `None` without a body.
    pub fn received(&self) -> Option<Arc<AtomicU64>> {
        self.0.as_ref().map(|inner| lock(inner).received.clone())
    }

    fn is(&self, holds: impl FnOnce(&Inner) -> bool) -> Option<bool> {
        self.0.as_ref().map(|inner| holds(&lock(inner)))
    }

    /// Whether another try could send the whole body.
    pub fn replayable(&self) -> bool {
        self.is(|inner| !inner.failed && (!inner.started || !inner.overflowed)).unwrap_or(true)
    }

    /// Whether the whole body is here, so that two tries can send it at once.
    pub fn complete(&self) -> bool {
        self.is(|inner| inner.ended && !inner.overflowed && !inner.failed).unwrap_or(true)
    }

    /// Whether the caller broke off.
    pub fn failed(&self) -> bool {
        self.is(|inner| inner.failed).unwrap_or(false)
    }

    /// Stops earlier tries from reading on, so that what can be sent again now can be sent again later.
    pub fn hold(&self) {
        if let Some(inner) = &self.0 {
            lock(inner).reader += 1;
        }
    }

    /// For the next try; an earlier one cannot read on from the source.
    pub fn reader(&self) -> TryBody {
        let reader = self.0.as_ref().map_or(0, |inner| {
            let mut inner = lock(inner);
            inner.reader += 1;
            inner.reader
        });
        TryBody { inner: self.0.clone(), reader, position: 0, sent: 0, done: self.0.is_none(), pace: None }
    }
}

fn lock<T: ?Sized>(inner: &Mutex<T>) -> MutexGuard<'_, T> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one try sends.
#[derive(Debug)]
pub struct TryBody {
    inner: Option<Arc<Mutex<Inner>>>,
    reader: u64,
    position: usize,
    sent: u64,
    done: bool,
    /// Where a fault makes it slow.
    pace: Option<Box<Pace>>,
}

impl TryBody {
    /// Lets no more than this many bytes pass in a second.
    pub fn slow(&mut self, rate: u64) {
        self.pace = Some(Box::new(Pace::new(rate)));
    }

    /// The same from its beginning, for when nothing of it was sent.
    pub fn anew(&self) -> Self {
        let Self { inner, reader, .. } = self;
        Self { inner: inner.clone(), reader: *reader, position: 0, sent: 0, done: inner.is_none(), pace: None }
    }

    /// Whether all that was read can be read again.
    pub fn whole(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| !lock(inner).overflowed)
    }

    /// Whether the caller broke off.
    pub fn failed(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| lock(inner).failed)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(shared) = self.inner.clone() else { return Poll::Ready(None) };
        let mut inner = lock(&shared);
        inner.started = true;
        if !inner.overflowed && self.position < inner.chunks.len() {
            self.position += 1;
            let over = inner.ended && inner.trailers.is_none() && self.position == inner.chunks.len();
            self.done = over;
            return Poll::Ready(Some(Ok(Frame::data(inner.chunks[self.position - 1].clone()))));
        }
        if inner.ended {
            self.done = true;
            return Poll::Ready(inner.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if inner.failed {
            return Poll::Ready(Some(Err(BodyError::Caller("broken before".into()))));
        }
        if inner.reader != self.reader {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        let frame = std::task::ready!(Pin::new(&mut inner.source).poll_frame(cx));
        Poll::Ready(match frame {
            None => {
                inner.ended = true;
                self.done = true;
                None
            }
            Some(Err(error)) => {
                inner.failed = true;
                Some(Err(BodyError::Caller(error.to_string())))
            }
            Some(Ok(frame)) => Some(Ok(self.take(&mut inner, frame))),
        })
    }

    fn take(&mut self, inner: &mut Inner, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(data) => {
                inner.received.fetch_add(data.len() as u64, Ordering::Relaxed);
                if !inner.overflowed && inner.held + data.len() <= REPLAY_LIMIT {
                    inner.held += data.len();
                    inner.chunks.push(data.clone());
                    self.position += 1;
                } else {
                    inner.overflowed = true;
                    inner.chunks = Vec::new();
                }
                if inner.source.is_end_stream() {
                    inner.ended = true;
                    self.done = true;
                }
                Frame::data(data)
            }
            Err(frame) => {
                inner.trailers = frame.trailers_ref().cloned();
                inner.ended = true;
                self.done = true;
                frame
            }
        }
    }
}

impl Body for TryBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let this = &mut *self;
        let frame = std::task::ready!(match this.pace.take() {
            None => this.poll(cx),
            Some(mut pace) => {
                let frame = pace.poll(cx, |cx| if this.done { Poll::Ready(None) } else { this.poll(cx) });
                this.pace = Some(pace);
                frame
            }
        });
        if let Some(Ok(frame)) = &frame {
            self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.done && self.pace.as_ref().is_none_or(|pace| pace.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        let total = self.inner.as_ref().map_or(SizeHint::with_exact(0), |inner| lock(inner).total);
        let mut hint = SizeHint::new();
        hint.set_lower(total.lower().saturating_sub(self.sent));
        if let Some(upper) = total.upper() {
            hint.set_upper(upper.saturating_sub(self.sent));
        }
        hint
    }
}

/// What is told when a response's body is over.
pub trait Watch: Send {
    /// Bytes passed.
    fn passed(&mut self, bytes: u64);
    /// Bytes went the other way, after an upgrade.
    fn received(&mut self, bytes: u64);
    /// Trailers passed.
    fn trailers(&mut self, trailers: &HeaderMap);
    /// Ended as it should.
    fn finished(&mut self);
    /// Broke off on the endpoint's side, or ran out of time.
    fn broken(&mut self, error: &BodyError);
}

/// What a caller is answered.
pub struct Answer {
    body: Source,
    watch: Option<Box<dyn Watch>>,
    deadline: Option<Instant>,
    silent: Option<Duration>,
    alarm: Alarm,
}

/// An endpoint's bytes after an upgrade. Whoever has it passes them on and tells the watch.
pub struct Switched {
    /// To and from the endpoint.
    pub io: Box<dyn Duplex>,
    /// Told at the end.
    pub watch: Option<Box<dyn Watch>>,
    /// How long nothing may pass; `None` is as long as on the caller's connection.
    pub silent: Option<Duration>,
}

enum Source {
    Whole(Option<Bytes>),
    Upstream(Incoming),
}

impl Answer {
    /// A short text of our own.
    pub fn text(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        Self {
            body: Source::Whole((!text.is_empty()).then_some(text)),
            watch: None,
            deadline: None,
            silent: None,
            alarm: Alarm::default(),
        }
    }

    /// An endpoint's body, until the deadline.
    pub fn upstream(body: Incoming, deadline: Option<Instant>) -> Self {
        Self { body: Source::Upstream(body), watch: None, deadline, silent: None, alarm: Alarm::default() }
    }

    /// How long nothing may pass of what it switched to.
    pub fn silent_for(mut self, silent: Duration) -> Self {
        self.silent = Some(silent);
        self
    }

    /// Goes on sending the request while the response is not read on.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Source::Upstream(body) = &mut self.body {
            body.drive(cx);
        }
    }

    /// The body is left out, as in the answer to HEAD: nobody will read it to its end.
    pub fn leave_out(&mut self) {
        self.finish();
    }

    /// Whether it is not an endpoint's.
    pub fn is_ours(&self) -> bool {
        matches!(self.body, Source::Whole(_))
    }

    /// What an upgrade switched to.
    ///
    /// # Errors
    /// Gives the answer back if it is one in HTTP.
    pub fn switched(self) -> Result<Switched, Self> {
        match self {
            Self { body: Source::Upstream(Incoming::Switched(io)), watch, silent, .. } => {
                Ok(Switched { io, watch, silent })
            }
            other => Err(other),
        }
    }

    /// Tells the watch what becomes of the body; dropped early means that the caller went away.
    pub fn watched(mut self, mut watch: Box<dyn Watch>) -> Self {
        if self.body_is_end() {
            watch.finished();
        } else {
            self.watch = Some(watch);
        }
        self
    }

    fn body_is_end(&self) -> bool {
        match &self.body {
            Source::Whole(bytes) => bytes.is_none(),
            Source::Upstream(body) => body.is_end_stream(),
        }
    }

    fn finish(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            watch.finished();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = match &mut this.body {
            Source::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Source::Upstream(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let Some(deadline) = this.deadline else { return Poll::Pending };
                    std::task::ready!(this.alarm.poll(deadline, cx));
                    Some(Err(BodyError::Timeout))
                }
            },
        };
        match &frame {
            None => this.finish(),
            Some(Err(error)) => {
                if let Some(mut watch) = this.watch.take() {
                    watch.broken(error);
                }
            }
            Some(Ok(frame)) => {
                match (&mut this.watch, frame.data_ref(), frame.trailers_ref()) {
                    (Some(watch), Some(data), _) => watch.passed(data.len() as u64),
                    (Some(watch), None, Some(trailers)) => watch.trailers(trailers),
                    _ => {}
                }
                // A body of known length is over with its last byte; nobody polls it again.
                if this.body_is_end() {
                    this.finish();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body_is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Upstream(body) => body.size_hint(),
        }
    }
}
