//! A body that goes out over a stream, as fast as the other side takes it.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::body::Body;

use crate::http::body::BodyError;

/// The body on its way. Dropped before its end, the stream is reset.
pub struct Sending<B> {
    stream: SendStream<Bytes>,
    body: B,
    data: Bytes,
}

impl<B> fmt::Debug for Sending<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}

/// Why it cannot go on.
#[derive(Debug)]
pub enum Stopped {
    /// The body broke off. The stream is reset.
    Body(BodyError),
    /// The other side wants no more of it, or the connection ended.
    Stream,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Sending<B> {
    /// A body that is not over.
    pub fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self { stream, body, data: Bytes::new() }
    }

    /// Whether the other side does not take what is here.
    pub fn is_blocked(&self) -> bool {
        !self.data.is_empty()
    }

    /// Where the body comes from.
    pub fn body(&mut self) -> &mut B {
        &mut self.body
    }

    /// Sends what can be sent; ready at the end.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            while !self.data.is_empty() {
                let mut room = self.stream.capacity();
                if room == 0 {
                    room = match ready!(self.stream.poll_capacity(cx)) {
                        Some(room) => room.map_err(|_| Stopped::Stream)?,
                        None => return Poll::Ready(Err(Stopped::Stream)),
                    };
                }
                let part = self.data.split_to(room.min(self.data.len()));
                let last = self.data.is_empty() && self.body.is_end_stream();
                if !part.is_empty() {
                    self.stream.send_data(part, last).map_err(|_| Stopped::Stream)?;
                }
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => {
                    return self.stream.poll_reset(cx).map(|_| Err(Stopped::Stream));
                }
                Poll::Ready(None) => {
                    return Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(|_| Stopped::Stream));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.stream.reserve_capacity(data.len());
                        self.data = data;
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Poll::Ready(self.stream.send_trailers(trailers).map_err(|_| Stopped::Stream));
                    }
                },
                Poll::Ready(Some(Err(error))) => {
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(Stopped::Body(error)));
                }
            }
        }
    }
}
