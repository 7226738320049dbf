//! A caller's HTTP/2 connection: bytes that were read to tell the protocol come first, and a caller that takes nothing is cut
//! off.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::http::alarm::Alarm;

/// A caller that takes nothing of an answer for this long is gone, and so is what its request holds.
pub const STALL: Duration = Duration::from_secs(60);

/// The connection.
#[derive(Debug)]
pub struct Guard<T> {
    inner: T,
    prefix: Bytes,
    /// Since when the caller takes nothing of what is to be written.
    stalled: Option<Instant>,
    alarm: Alarm,
}

impl<T> Guard<T> {
    /// Around a connection of which these bytes were read already.
    pub fn new(inner: T, prefix: Bytes) -> Self {
        Self { inner, prefix, stalled: None, alarm: Alarm::default() }
    }

    /// Looks at how writing went: an error when nothing went for too long.
    fn poll_stall<R>(&mut self, written: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let since = *self.stalled.get_or_insert_with(Instant::now);
        self.alarm.poll(since + STALL, cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guard<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let count = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.poll_stall(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.poll_stall(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.poll_stall(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_reads_nothing_is_cut_off() {
        let (_caller, io) = tokio::io::duplex(64);
        let mut guard = Guard::new(io, Bytes::new());
        let began = Instant::now();
        let writing = guard.write_all(&[b'x'; 1000]);
        let end = tokio::time::timeout(Duration::from_secs(7200), writing).await.unwrap().unwrap_err();
        assert_eq!((end.kind(), began.elapsed()), (io::ErrorKind::TimedOut, STALL));
    }
}
