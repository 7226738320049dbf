//! Bodies: the request's, which may be sent again while it is small; and the response's, streamed with its guards.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// A request body up to this size can be sent again; beyond it the request is not repeated.
pub const REPLAY_LIMIT: usize = 64 * 1024;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The caller's side broke.
    #[error("the caller's body ended early: {0}")]
    Caller(String),
    /// The endpoint's side broke.
    #[error("the endpoint's body ended early: {0}")]
    Upstream(#[from] hyper::Error),
    /// The route's timeout.
    #[error("the request's time is over")]
    Timeout,
    /// A later try reads the body now.
    #[error("a later try took over the body")]
    Superseded,
}

/// A request body that several tries may read.
#[derive(Debug)]
pub struct Replay {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    source: Option<Incoming>,
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    held: usize,
    total: SizeHint,
    started: bool,
    ended: bool,
    overflowed: bool,
    failed: bool,
    reader: u64,
}

impl Replay {
    /// Around a body that nobody has read yet.
    pub fn new(source: Incoming) -> Self {
        let (total, ended) = (source.size_hint(), source.is_end_stream());
        Self::with(Some(source), total, ended)
    }

    /// No body at all.
    pub fn empty() -> Self {
        Self::with(None, SizeHint::with_exact(0), true)
    }

    fn with(source: Option<Incoming>, total: SizeHint, ended: bool) -> Self {
        let inner = Inner {
            source,
            chunks: Vec::new(),
            trailers: None,
            held: 0,
            total,
            started: false,
            ended,
            overflowed: false,
            failed: false,
            reader: 0,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Whether another try could send the whole body.
    pub fn replayable(&self) -> bool {
        let inner = lock(&self.inner);
        !inner.failed && (!inner.started || !inner.overflowed)
    }

    /// Whether the whole body is here, so that two tries can send it at once.
    pub fn complete(&self) -> bool {
        let inner = lock(&self.inner);
        inner.ended && !inner.overflowed && !inner.failed
    }

    /// Whether the caller broke off.
    pub fn failed(&self) -> bool {
        lock(&self.inner).failed
    }

    /// Stops earlier tries from reading on, so that what can be sent again now can be sent again later.
    pub fn hold(&self) {
        lock(&self.inner).reader += 1;
    }

    /// For the next try; an earlier one cannot read on from the source.
    pub fn reader(&self) -> TryBody {
        let mut inner = lock(&self.inner);
        inner.reader += 1;
        let done = inner.ended && inner.chunks.is_empty() && inner.trailers.is_none();
        TryBody { reader: inner.reader, position: 0, sent: 0, done, inner: self.inner.clone() }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one try sends.
#[derive(Debug)]
pub struct TryBody {
    inner: Arc<Mutex<Inner>>,
    reader: u64,
    position: usize,
    sent: u64,
    done: bool,
}

impl TryBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let shared = self.inner.clone();
        let mut inner = lock(&shared);
        inner.started = true;
        if !inner.overflowed && self.position < inner.chunks.len() {
            self.position += 1;
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
        let Some(source) = &mut inner.source else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(source).poll_frame(cx));
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
                if !inner.overflowed && inner.held + data.len() <= REPLAY_LIMIT {
                    inner.held += data.len();
                    inner.chunks.push(data.clone());
                    self.position += 1;
                } else {
                    inner.overflowed = true;
                    inner.chunks = Vec::new();
                }
                if inner.source.as_ref().is_none_or(Body::is_end_stream) {
                    inner.ended = true;
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
        if self.done {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(self.poll(cx));
        if let Some(Ok(frame)) = &frame {
            self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        let total = lock(&self.inner).total;
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
    fn passed(&mut self, bytes: usize);
    /// Ended as it should.
    fn finished(&mut self);
    /// Broke off on the endpoint's side, or ran out of time.
    fn broken(&mut self, error: &BodyError);
}

/// What a caller is answered.
pub struct Answer {
    body: Source,
    watch: Option<Box<dyn Watch>>,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
}

enum Source {
    Whole(Option<Bytes>),
    Upstream(Box<Incoming>),
}

impl Answer {
    /// A short text of our own.
    pub fn text(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        Self { body: Source::Whole((!text.is_empty()).then_some(text)), watch: None, deadline: None }
    }

    /// An endpoint's body, until the deadline.
    pub fn upstream(body: Incoming, deadline: Option<tokio::time::Instant>) -> Self {
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        Self { body: Source::Upstream(Box::new(body)), watch: None, deadline }
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
                Poll::Ready(frame) => frame.map(|frame| frame.map_err(BodyError::Upstream)),
                Poll::Pending => {
                    let Some(deadline) = &mut this.deadline else { return Poll::Pending };
                    std::task::ready!(deadline.as_mut().poll(cx));
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
                if let (Some(watch), Some(data)) = (&mut this.watch, frame.data_ref()) {
                    watch.passed(data.len());
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
