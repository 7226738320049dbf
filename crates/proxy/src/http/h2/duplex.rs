//! Both ways of a stream as a connection: what an extended CONNECT (RFC 8441) opens.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::SendStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::h2::flow::Flow;

/// The stream. Dropped before both ways have ended, it is reset.
pub struct Duplex {
    from: Flow,
    /// What came and was not read.
    rest: Bytes,
    to: SendStream<Bytes>,
    ended: bool,
}

impl Duplex {
    /// Of a request and the response to it.
    pub fn new(from: Flow, to: SendStream<Bytes>) -> Self {
        Self { from, rest: Bytes::new(), to, ended: false }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.from.poll_frame(cx)).transpose().map_err(io::Error::other)? {
                None => return Poll::Ready(Ok(())),
                // Trailers say nothing here.
                Some(frame) => self.rest = frame.into_data().unwrap_or_default(),
            }
        }
        let count = self.rest.len().min(into.remaining());
        into.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.to.reserve_capacity(bytes.len());
        let mut room = self.to.capacity();
        if room == 0 {
            room = match ready!(self.to.poll_capacity(cx)) {
                Some(room) => room.map_err(io::Error::other)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let count = room.min(bytes.len());
        if count > 0 {
            self.to.send_data(Bytes::copy_from_slice(&bytes[..count]), false).map_err(io::Error::other)?;
        } else if !bytes.is_empty() {
            // Capacity that came and went is told again when it comes.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.ended, true) {
            self.to.send_data(Bytes::new(), true).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }
}
