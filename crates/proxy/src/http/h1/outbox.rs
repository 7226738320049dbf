//! Bytes on their way into a connection: small ones are collected, large ones go as they are, all in one call.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::h1::encode;

/// Data up to this size is copied behind the head: cheaper than a longer list of slices, and one packet for TLS.
const COPIED: usize = 4096;
/// Memory that an idle connection keeps for what it will send next.
const KEPT: usize = 2048;
/// Bytes that one read brings at most.
const READ: usize = 64 * 1024;
/// Above this, a body is read into memory of its own instead of being copied there.
const LARGE: usize = 16 * 1024;

/// What is to be written.
#[derive(Debug, Default)]
pub struct Outbox {
    first: Vec<u8>,
    sent: usize,
    data: Bytes,
    last: &'static [u8],
    unflushed: bool,
    /// Whether any byte was written since [`Outbox::renew`]: flushing does not make it unwritten.
    touched: bool,
}

impl Outbox {
    /// For heads. What is written here goes before data that is put in later.
    pub fn head(&mut self) -> &mut Vec<u8> {
        self.unflushed = true;
        &mut self.first
    }

    /// Puts data in. What was put in before must have been flushed if it was large.
    pub fn data(&mut self, data: Bytes, chunked: bool) {
        self.unflushed = true;
        if chunked {
            encode::chunk(&mut self.first, data.len());
        }
        let last: &'static [u8] = if chunked { b"\r\n" } else { b"" };
        if data.len() <= COPIED {
            self.first.extend_from_slice(&data);
            self.first.extend_from_slice(last);
        } else {
            (self.data, self.last) = (data, last);
        }
    }

    /// Whether more may be put in without flushing before.
    pub fn has_room(&self) -> bool {
        self.data.is_empty() && self.last.is_empty() && self.first.len() < LARGE
    }

    /// Whether anything waits.
    pub fn is_empty(&self) -> bool {
        !self.unflushed
    }

    /// How much was written of what was put in: it changes with every byte until all is written.
    pub fn sent(&self) -> (usize, usize) {
        (self.sent, self.data.len())
    }

    /// Another message begins.
    pub fn renew(&mut self) {
        self.touched = false;
    }

    /// Whether no byte of the message has been written. What the other side did with one that was written, nobody knows.
    pub fn is_untouched(&self) -> bool {
        !self.touched
    }

    /// Writes everything.
    pub fn poll_flush<T: AsyncWrite + Unpin>(&mut self, io: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        loop {
            let first = &self.first[self.sent..];
            let count = match (first.is_empty(), self.data.is_empty() && self.last.is_empty()) {
                (true, true) => break,
                (false, true) => ready!(Pin::new(&mut *io).poll_write(cx, first))?,
                _ => {
                    let slices = [IoSlice::new(first), IoSlice::new(&self.data), IoSlice::new(self.last)];
                    ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices))?
                }
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(count);
        }
        ready!(Pin::new(io).poll_flush(cx))?;
        self.clear();
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        self.touched = true;
        let of_first = count.min(self.first.len() - self.sent);
        self.sent += of_first;
        count -= of_first;
        let of_data = count.min(self.data.len());
        self.data.advance(of_data);
        count -= of_data;
        self.last = self.last.get(count..).unwrap_or_default();
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.first.clear();
        self.first.shrink_to(KEPT);
        self.data = Bytes::new();
        (self.sent, self.last, self.unflushed) = (0, b"", false);
    }
}

/// Reads once, appending to the buffer; 0 is the end of the stream. While nothing comes, no memory is held for it.
/// `expected` is how much of a body may come.
pub fn poll_fill<T: AsyncRead + Unpin + ?Sized>(
    io: &mut T,
    buffer: &mut BytesMut,
    expected: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    thread_local! {
        static SCRATCH: std::cell::RefCell<Box<[u8]>> = std::cell::RefCell::new(vec![0; LARGE].into());
    }
    if expected > LARGE {
        buffer.reserve(expected.min(READ));
        let read = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(io, buffer));
        let read = read.poll(cx);
        if read.is_pending() && buffer.is_empty() {
            *buffer = BytesMut::new();
        }
        return read;
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let mut read = ReadBuf::new(scratch);
        ready!(Pin::new(io).poll_read(cx, &mut read))?;
        buffer.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn what_was_flushed_stays_written() {
        let (mut outbox, mut written) = (Outbox::default(), Vec::new());
        let cx = &mut Context::from_waker(Waker::noop());
        outbox.head().extend_from_slice(b"POST / HTTP/1.1\r\n\r\n");
        assert!(outbox.is_untouched());
        assert!(outbox.poll_flush(&mut written, cx).is_ready());
        outbox.data(Bytes::from_static(b"more"), false);
        assert!(!outbox.is_untouched(), "the first part of the message is out");
        outbox.clear();
        assert!(!outbox.is_untouched());
        outbox.renew();
        assert!(outbox.is_untouched());
    }
}
