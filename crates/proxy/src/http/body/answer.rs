//! What a caller is answered: a response's body, streamed to its deadline and watched to its end.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{BodyError, Incoming};
use crate::http::{alarm::Alarm, relay::Duplex};

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
