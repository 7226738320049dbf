//! The caller's side of an HTTP/1.1 connection: its bytes, and the body of the request that is being served.

use std::{
    fmt, io,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http::{
    body::BodyError,
    h1::{
        framing::{Decoder, Piece},
        outbox::poll_fill,
        parse::{self, Bounds, Refused, RequestHead, Scan},
    },
};

/// Gives the body of a request, whatever the connection is made of.
pub trait Feed: Send {
    /// The next piece of the body; `None` is its end.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, BodyError>>>;
    /// Whether the body is over.
    fn done(&self) -> bool;
    /// Bytes of it that are still to come.
    fn size(&self) -> SizeHint;
}

/// The caller's side.
pub struct Inlet<T> {
    /// The connection.
    pub io: T,
    buffer: BytesMut,
    scan: Scan,
    body: Decoder,
    broken: bool,
}

impl<T> fmt::Debug for Inlet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inlet").field("body", &self.body).finish_non_exhaustive()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Inlet<T> {
    /// Around a connection of which these bytes were read already.
    pub fn new(io: T, buffer: BytesMut) -> Self {
        Self { io, buffer, scan: Scan::default(), body: Decoder::default(), broken: false }
    }

    /// Whether no byte of another request has come.
    pub fn is_quiet(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next request's head, if it is here.
    ///
    /// # Errors
    /// When it is malformed or too large.
    pub fn head(&mut self, bounds: Bounds) -> Result<Option<RequestHead>, Refused> {
        let Some(head) = self.scan.head(&mut self.buffer, bounds)? else { return Ok(None) };
        let head = parse::request(&head, bounds)?;
        self.body = Decoder::new(head.framing);
        Ok(Some(head))
    }

    /// Reads more; `false` is the end of the stream.
    pub fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let count = ready!(poll_fill(&mut self.io, &mut self.buffer, self.body.expected(), cx))?;
        Poll::Ready(Ok(count > 0))
    }

    /// What came behind the head of a request that switches protocols.
    pub fn take_rest(&mut self) -> BytesMut {
        std::mem::take(&mut self.buffer)
    }

    /// Whether the caller's bytes cannot be told apart any more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether the caller is gone while it waits for its answer. Only what reads the body may look before its end. A caller
    /// that has sent more ahead is not gone, though it may have said its last.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.broken {
            return Poll::Ready(());
        }
        if !self.body.done() || !self.buffer.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.poll_more(cx)) {
            Ok(true) => Poll::Pending,
            Ok(false) | Err(_) => Poll::Ready(()),
        }
    }

    /// Takes what is left of the body, as far as it came already and up to this many bytes; whether it is over.
    pub fn poll_discard(&mut self, most: &mut usize, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            match self.body.decode(&mut self.buffer) {
                Ok(Piece::End | Piece::Trailers(_)) => return Poll::Ready(true),
                Ok(Piece::Data(data)) => *most = most.saturating_sub(data.len()),
                Ok(Piece::More) => {
                    if !matches!(ready!(self.poll_more(cx)), Ok(true)) {
                        return Poll::Ready(false);
                    }
                }
                Err(_) => return Poll::Ready(false),
            }
            if *most == 0 {
                return Poll::Ready(false);
            }
        }
    }

    /// Reads and forgets whatever comes; ready when the caller has closed.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.buffer.clear();
            match ready!(poll_fill(&mut self.io, &mut self.buffer, 0, cx)) {
                Ok(count) if count > 0 => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Feed for Inlet<T> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, BodyError>>> {
        loop {
            let broken = match self.body.decode(&mut self.buffer) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Piece::End) => return Poll::Ready(None),
                Err(refused) => refused.to_string(),
                Ok(Piece::More) => match ready!(self.poll_more(cx)) {
                    Ok(true) => continue,
                    Ok(false) => "the connection ended".to_owned(),
                    Err(error) => error.to_string(),
                },
            };
            self.broken = true;
            return Poll::Ready(Some(Err(BodyError::Caller(broken))));
        }
    }

    fn done(&self) -> bool {
        self.body.done()
    }

    fn size(&self) -> SizeHint {
        self.body.remaining().map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
