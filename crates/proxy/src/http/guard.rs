//! The bytes of a caller's connection before hyper sees them: framing that smugglers play with is refused, and slow
//! senders are cut off.
//!
//! hyper is lenient where RFC 9112 allows a server to be (bare LF, `Content-Length` beside `Transfer-Encoding`). From the
//! byte on that makes a message ambiguous, what hyper reads is replaced by something that it refuses itself, so that the
//! 400 comes in the right order.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// No beginning and no rest of a request contains NUL; the empty line makes hyper look at it at once.
const REFUSED: &[u8] = b"\0\r\n\r\n";
/// A caller that takes nothing of an answer for this long is gone, and so is what its request holds.
const STALL: Duration = Duration::from_secs(60);
/// Longer lines of the framing headers and of chunk sizes are refused.
const LINE: usize = 256;

/// Where in a request the next byte lies. Pure.
#[derive(Debug, Default)]
pub struct Framing {
    place: Place,
    line: Vec<u8>,
    long: bool,
    carriage: bool,
    length: Option<u64>,
    chunked: bool,
    /// Whether any request's head has ended.
    headed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    Headers,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    Trailers,
    Refused,
}

impl Framing {
    /// Whether the next byte begins a request.
    pub fn between_requests(&self) -> bool {
        self.place == Place::Start && self.line.is_empty()
    }

    /// Whether a request's head has been seen whole.
    pub fn headed(&self) -> bool {
        self.headed
    }

    /// Whether the next byte belongs to a request's head.
    pub fn in_head(&self) -> bool {
        matches!(self.place, Place::Start | Place::Headers)
    }

    /// Walks over bytes; the place of the first one that makes the message ambiguous, if there is one.
    pub fn walk(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.place {
                Place::Refused => return None,
                Place::Body(left) | Place::ChunkData(left) => {
                    let skip = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= skip as u64;
                    at += skip;
                    if *left == 0 {
                        self.place = if matches!(self.place, Place::Body(_)) { Place::Start } else { Place::ChunkSize };
                    }
                }
                Place::Start | Place::Headers | Place::ChunkSize | Place::Trailers => {
                    if !self.byte(bytes[at]) {
                        self.place = Place::Refused;
                        return Some(at);
                    }
                    at += 1;
                }
            }
        }
        None
    }

    fn byte(&mut self, byte: u8) -> bool {
        if byte == b'\n' {
            return std::mem::take(&mut self.carriage) && self.line_ends();
        }
        if self.carriage {
            return false;
        }
        if byte == b'\r' {
            self.carriage = true;
        } else if self.line.len() < LINE {
            self.line.push(byte);
        } else {
            self.long = true;
        }
        true
    }

    fn line_ends(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        let long = std::mem::take(&mut self.long);
        match self.place {
            Place::Start => {
                // Empty lines before a request are ignored (RFC 9112, 2.2).
                if !line.is_empty() {
                    (self.length, self.chunked) = (None, false);
                    self.place = Place::Headers;
                }
                true
            }
            Place::Headers if line.is_empty() => self.head_ends(),
            Place::Headers => self.header(&line, long),
            Place::Trailers => {
                if line.is_empty() {
                    self.place = Place::Start;
                }
                true
            }
            Place::ChunkSize => self.chunk(&line, long),
            Place::Body(_) | Place::ChunkData(_) | Place::Refused => true,
        }
    }

    fn header(&mut self, line: &[u8], long: bool) -> bool {
        // A line that begins with white space continues the one before (obs-fold), or pretends to.
        if matches!(line[0], b' ' | b'\t') {
            return false;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return long };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit()));
            let Some(number) = number.and_then(|v| v.parse().ok()).filter(|_| !long) else { return false };
            return self.length.replace(number).is_none_or(|before| before == number);
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let known = !long && !self.chunked && value.eq_ignore_ascii_case(b"chunked");
            self.chunked = true;
            return known;
        }
        true
    }

    fn head_ends(&mut self) -> bool {
        self.headed = true;
        self.place = match (self.length, self.chunked) {
            (Some(_), true) => return false,
            (None, true) => Place::ChunkSize,
            (Some(0) | None, false) => Place::Start,
            (Some(length), false) => Place::Body(length),
        };
        true
    }

    fn chunk(&mut self, line: &[u8], long: bool) -> bool {
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let valid = !long && !size.is_empty() && size.iter().all(u8::is_ascii_hexdigit);
        let parsed = std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
        match parsed.filter(|_| valid) {
            None => false,
            Some(0) => {
                self.place = Place::Trailers;
                true
            }
            // The data and its CRLF.
            Some(size) => size.checked_add(2).is_some_and(|size| {
                self.place = Place::ChunkData(size);
                true
            }),
        }
    }
}

/// How long a caller may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To send a request's head.
    pub head: Duration,
    /// To begin another request.
    pub idle: Duration,
}

/// A caller's connection.
#[derive(Debug)]
pub struct Guard<T> {
    inner: T,
    prefix: Bytes,
    framing: Option<Framing>,
    patience: Patience,
    timer: Pin<Box<Sleep>>,
    waits_for: Option<Wait>,
    /// Runs while the caller takes nothing of what is to be written.
    stalled: Option<Pin<Box<Sleep>>>,
    requests: Arc<()>,
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Head,
    Next,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Guard<T> {
    /// Reads until it is clear which protocol is spoken; true for HTTP/2. `requests` is cloned by every request in
    /// flight on the connection, so that a long one is not taken for idleness.
    ///
    /// # Errors
    /// When the connection ends before.
    pub async fn sniff(mut inner: T, patience: Patience, requests: Arc<()>) -> io::Result<(Self, bool)> {
        let mut seen = Vec::with_capacity(PREFACE.len());
        let reading = async {
            while seen.len() < PREFACE.len() && PREFACE.starts_with(&seen) {
                let mut buffer = [0; PREFACE.len()];
                let count = inner.read(&mut buffer[..PREFACE.len() - seen.len()]).await?;
                if count == 0 {
                    break;
                }
                seen.extend_from_slice(&buffer[..count]);
            }
            io::Result::Ok(())
        };
        tokio::time::timeout(patience.head, reading).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if seen.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let h2 = seen == PREFACE;
        let guard = Self {
            inner,
            prefix: seen.into(),
            framing: (!h2).then(Framing::default),
            patience,
            timer: Box::pin(tokio::time::sleep(patience.head)),
            waits_for: None,
            stalled: None,
            requests,
            refused: false,
        };
        Ok((guard, h2))
    }

    /// Polled while nothing can be read: an error when the caller takes too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(framing) = &self.framing else { return Poll::Pending };
        let wait = match (framing.in_head(), framing.between_requests() && framing.headed()) {
            (false, _) => None,
            (true, true) => Some(Wait::Next),
            (true, false) => Some(Wait::Head),
        };
        if wait != self.waits_for {
            self.waits_for = wait;
            let patience = if wait == Some(Wait::Next) { self.patience.idle } else { self.patience.head };
            self.timer.as_mut().reset(tokio::time::Instant::now() + patience);
        }
        let Some(wait) = wait else { return Poll::Pending };
        while self.timer.as_mut().poll(cx).is_ready() {
            // Two belong to the connection and to this guard.
            if wait == Wait::Head || Arc::strong_count(&self.requests) <= 2 {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.as_mut().reset(tokio::time::Instant::now() + self.patience.idle);
        }
        Poll::Pending
    }
}

impl<T> Guard<T> {
    /// Looks at how writing went: an error when nothing went for too long.
    fn poll_stall<R>(&mut self, written: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if this.prefix.has_remaining() {
            let count = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix.split_to(count));
        } else if this.refused {
            return Poll::Ready(Ok(()));
        } else if Pin::new(&mut this.inner).poll_read(cx, buf)?.is_pending() {
            return this.poll_patience(cx);
        }
        let Some(framing) = this.framing.as_mut().filter(|_| !this.refused) else { return Poll::Ready(Ok(())) };
        if let Some(at) = framing.walk(&buf.filled()[before..]) {
            this.refused = true;
            this.prefix = Bytes::from_static(REFUSED);
            buf.set_filled(before + at);
            if at == 0 {
                // An empty read would be the end of the stream.
                return self.poll_read(cx, buf);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<T> {
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
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> bool {
        Framing::default().walk(text.as_bytes()).is_some()
    }

    #[test]
    fn what_smugglers_send_is_refused() {
        for (text, expected) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", false),
            ("\r\nPOST / HTTP/1.1\r\ncontent-length: 4\r\n\r\na\n\n\rGET / HTTP/1.1\r\n\r\n", false),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\na\nb\r\n0\r\nt: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
                false,
            ),
            ("POST / HTTP/1.1\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nabcd", false),
            ("GET / HTTP/1.1\nhost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nhost: a\n\r\n", true),
            ("GET / HTTP/1.1\r\nhost: a\r\n\n", true),
            ("GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nx: a\r\n\tb\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ncontent-length: +4\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\r\n", true),
        ] {
            assert_eq!(refused(text), expected, "{text:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_connection_is_idle_and_not_slow() {
        let (mut caller, io) = tokio::io::duplex(1024);
        tokio::io::AsyncWriteExt::write_all(&mut caller, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let patience = Patience { head: Duration::from_secs(10), idle: Duration::from_secs(60) };
        let (connection, began) = (Arc::new(()), tokio::time::Instant::now());
        let (mut guard, _) = Guard::sniff(io, patience, connection.clone()).await.unwrap();
        let mut head = [0; 256];
        let mut read = 0;
        while read < 27 {
            read += guard.read(&mut head[read..]).await.unwrap();
        }
        let end = guard.read(&mut head).await.unwrap_err();
        assert_eq!((end.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_reads_nothing_is_cut_off() {
        let (mut caller, io) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut caller, b"GET / HTTP/1.1\r\n").await.unwrap();
        let patience = Patience { head: Duration::from_secs(10), idle: Duration::from_secs(3600) };
        let (mut guard, _) = Guard::sniff(io, patience, Arc::new(())).await.unwrap();
        let began = tokio::time::Instant::now();
        let writing = tokio::io::AsyncWriteExt::write_all(&mut guard, &[b'x'; 1000]);
        let end = tokio::time::timeout(Duration::from_secs(7200), writing).await.unwrap().unwrap_err();
        assert_eq!((end.kind(), began.elapsed()), (io::ErrorKind::TimedOut, STALL));
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(1usize..9, 1..60)) {
            let text = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\na\nb\r\n0\r\n\r\nGET / HTTP/1.1\r\nx: 1\r\n\r\n";
            let mut framing = Framing::default();
            let mut rest = text.to_vec();
            for cut in cuts {
                let piece: Vec<u8> = rest.drain(..cut.min(rest.len())).collect();
                prop_assert_eq!(framing.walk(&piece), None);
            }
            prop_assert_eq!(framing.walk(&rest), None);
            prop_assert!(framing.between_requests());
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let refused = Framing::default().walk(&bytes);
            prop_assert!(refused.is_none_or(|at| at < bytes.len()));
        }
    }
}
