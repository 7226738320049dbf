//! What a caller is answered: a response's body, streamed to its deadline and watched to its end.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{BodyError, Incoming};
use crate::{
    grpc,
    http::{alarm::Alarm, relay::Duplex},
};

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
    /// A part of the response has waited for its caller since then.
    fn caller_owes(&mut self, _since: Instant, _cx: &mut Context<'_>) -> Wait {
        Wait::Forever
    }
    /// The caller took that part, for which it was waited for so long.
    fn caller_took(&mut self, _waited: Duration) {}
    /// The endpoint has sent nothing since then; `owes` where it has promised more. When to be asked again.
    fn endpoint_silent(&mut self, _since: Instant, _owes: bool) -> Option<Instant> {
        None
    }
}

/// How long a response waits for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until then, when this is asked again.
    Until(Instant),
    /// As long as it takes.
    Forever,
    /// No longer.
    Over,
}

/// What ends a response that does not end by itself.
#[derive(Debug, Default)]
pub struct Ends {
    /// The caller's own deadline.
    pub call: Option<Instant>,
    /// Nothing passes in either direction for this long.
    pub idle: Option<Duration>,
    /// Bytes of the request's body that have come, which may still be under way.
    pub received: Option<Arc<AtomicU64>>,
}

/// What a caller is answered.
pub struct Answer {
    body: Source,
    watch: Option<Box<dyn Watch>>,
    ends: Ends,
    /// When a byte passed last, and how many had come of the request then.
    passed: Option<Instant>,
    seen: u64,
    /// Since when the caller has not taken what is here.
    blocked: Option<Instant>,
    /// An end that is not its own is told in gRPC's trailers.
    trailers: bool,
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
        Self::new(Source::Whole((!text.is_empty()).then_some(text)), Ends::default())
    }

    /// An endpoint's body.
    pub fn upstream(body: Incoming, ends: Ends) -> Self {
        Self::new(Source::Upstream(body), ends)
    }

    fn new(body: Source, ends: Ends) -> Self {
        let alarm = Alarm::default();
        Self { body, watch: None, ends, passed: None, seen: 0, blocked: None, trailers: false, silent: None, alarm }
    }

    /// Of a gRPC call: where the response ends early the caller is told so in trailers, since a stream that is reset says
    /// `INTERNAL` to it. A response of known length cannot end so.
    pub fn ends_in_trailers(mut self) -> Self {
        self.trailers = self.size_hint().exact().is_none();
        self
    }

    /// How long nothing may pass of what it switched to.
    pub fn silent_for(mut self, silent: Duration) -> Self {
        self.silent = Some(silent);
        self
    }

    /// The caller does not take what is here: the request is sent on meanwhile. Ready when it is not waited for any longer.
    pub fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Source::Upstream(body) = &mut self.body {
            body.drive(cx);
        }
        let since = *self.blocked.get_or_insert_with(Instant::now);
        loop {
            let Some(watch) = &mut self.watch else { return Poll::Pending };
            match watch.caller_owes(since, cx) {
                Wait::Forever => return Poll::Pending,
                Wait::Until(until) => ready!(self.alarm.poll(until, cx)),
                Wait::Over => {
                    if let Some(mut watch) = self.watch.take() {
                        watch.broken(&BodyError::Slow);
                    }
                    return Poll::Ready(());
                }
            }
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
    #[allow(clippy::result_large_err, reason = "it is the same answer, moved")]
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

    /// Ready when the response has to end, though its endpoint goes on.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        loop {
            let received = self.ends.received.as_ref().map_or(0, |received| received.load(Ordering::Relaxed));
            if self.seen != received {
                (self.seen, self.passed) = (received, None);
            }
            let (now, passed) = (Instant::now(), *self.passed.get_or_insert_with(Instant::now));
            if self.ends.call.is_some_and(|call| call <= now) {
                return Poll::Ready(BodyError::Timeout);
            }
            let idle = self.ends.idle.and_then(|idle| passed.checked_add(idle));
            if idle.is_some_and(|idle| idle <= now) {
                return Poll::Ready(BodyError::Idle);
            }
            let owes = self.size_hint().exact().is_some();
            let silent = self.watch.as_mut().and_then(|watch| watch.endpoint_silent(passed, owes));
            let Some(next) = [idle, self.ends.call, silent].into_iter().flatten().min() else { return Poll::Pending };
            ready!(self.alarm.poll(next, cx));
        }
    }

    /// What is left of an error where the caller reads trailers: the watch has heard of it then.
    fn in_trailers(
        &mut self,
        frame: Option<Result<Frame<Bytes>, BodyError>>,
    ) -> Option<Result<Frame<Bytes>, BodyError>> {
        let error = match frame {
            Some(Err(error)) if self.trailers => error,
            other => return other,
        };
        let status = match error {
            BodyError::Timeout | BodyError::Idle => grpc::DEADLINE_EXCEEDED,
            BodyError::Upstream(_) => grpc::UNAVAILABLE,
            BodyError::Caller(_) | BodyError::Superseded | BodyError::Slow => return Some(Err(error)),
        };
        let trailers = grpc::ending(status, &error.to_string());
        if let Some(mut watch) = self.watch.take() {
            watch.trailers(&trailers);
            watch.broken(&error);
        }
        self.body = Source::Whole(None);
        Some(Ok(Frame::trailers(trailers)))
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
        if let (Some(since), Some(watch)) = (this.blocked.take(), &mut this.watch) {
            watch.caller_took(since.elapsed());
        }
        let frame = match &mut this.body {
            Source::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Source::Upstream(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Ready(frame) => {
                    this.passed = None;
                    frame
                }
                Poll::Pending => Some(Err(ready!(this.poll_end(cx)))),
            },
        };
        let frame = this.in_trailers(frame);
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
