//! A request's body, which several tries may read while it is small.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

use super::{BodyError, Incoming, lock};
use crate::http::{allowance::Allowance, shape::Pace};

/// A request body up to this size can be sent again; beyond it the request is not repeated.
pub const REPLAY_LIMIT: usize = 64 * 1024;

/// Whose move it is while a request's body is sent, and since when: the clocks of a request run by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The caller has sent all of it.
    Complete(Instant),
    /// The caller owes the next piece, until the second time; `None` is for ever.
    Caller(Instant, Option<Instant>),
    /// The endpoint has not taken what is here.
    Endpoint(Instant),
}

/// A request body that several tries may read.
#[derive(Clone, Debug)]
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
    /// Why it did.
    why: String,
    reader: u64,
    progress: Progress,
    allowance: Allowance,
}

impl Inner {
    fn end(&mut self) {
        self.ended = true;
        self.progress = Progress::Complete(Instant::now());
    }
}

impl Replay {
    /// Around a body that nobody has read yet, for which the caller is waited for as long as this.
    pub fn new(source: Incoming, allowance: Allowance) -> Self {
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
            why: String::new(),
            reader: 0,
            progress: Progress::Endpoint(Instant::now()),
            allowance,
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

    /// Where it stands; `None` without a body.
    pub fn progress(&self) -> Option<Progress> {
        self.0.as_ref().map(|inner| lock(inner).progress)
    }

    /// Whether the caller broke off.
    pub fn failed(&self) -> bool {
        self.is(|inner| inner.failed).unwrap_or(false)
    }

    /// Why the caller broke off.
    pub fn why(&self) -> String {
        self.0.as_ref().map(|inner| lock(inner).why.clone()).unwrap_or_default()
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

    /// Reads it from now on, whoever was to read it.
    pub fn take_over(&self) {
        if let Some(inner) = &self.inner {
            lock(inner).reader = self.reader;
        }
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
        let Poll::Ready(frame) = Pin::new(&mut inner.source).poll_frame(cx) else {
            if !matches!(inner.progress, Progress::Caller(..)) {
                let now = Instant::now();
                inner.progress = Progress::Caller(now, inner.allowance.until(now));
            }
            return Poll::Pending;
        };
        if let Progress::Caller(since, _) = inner.progress {
            inner.allowance.waited(since.elapsed());
        }
        Poll::Ready(match frame {
            None => {
                inner.end();
                self.done = true;
                None
            }
            Some(Err(error)) => {
                inner.failed = true;
                if let BodyError::Caller(why) = &error {
                    inner.why.clone_from(why);
                }
                Some(Err(BodyError::Caller(error.to_string())))
            }
            Some(Ok(frame)) => Some(Ok(self.take(&mut inner, frame))),
        })
    }

    fn take(&mut self, inner: &mut Inner, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(data) => {
                inner.received.fetch_add(data.len() as u64, Ordering::Relaxed);
                inner.allowance.sent(data.len() as u64);
                if !inner.overflowed && inner.held + data.len() <= REPLAY_LIMIT {
                    inner.held += data.len();
                    inner.chunks.push(data.clone());
                    self.position += 1;
                } else {
                    inner.overflowed = true;
                    inner.chunks = Vec::new();
                }
                if inner.source.is_end_stream() {
                    inner.end();
                    self.done = true;
                } else {
                    inner.progress = Progress::Endpoint(Instant::now());
                }
                Frame::data(data)
            }
            Err(frame) => {
                inner.trailers = frame.trailers_ref().cloned();
                inner.end();
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
