//! A body that comes in over a stream.

use std::{
    fmt,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header::CONTENT_LENGTH};
use hyper::body::{Frame, SizeHint};

/// The body. What its sender may send is given back as the other side takes what came: whoever asks for the next piece
/// has taken the one before.
pub struct Flow {
    stream: RecvStream,
    /// Bytes still to come, where the head said so; `h2` holds the sender to it.
    left: Option<u64>,
    /// Bytes handed on that the sender was not told of.
    taken: usize,
    over: bool,
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Flow {
    /// The body that follows this head.
    pub fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let left = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { stream, left, taken: 0, over: false }
    }

    /// The next piece.
    ///
    /// # Errors
    /// What ended the stream early.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.taken > 0 {
            // It fails only for more than was taken.
            let _ = self.stream.flow_control().release_capacity(std::mem::take(&mut self.taken));
        }
        if !self.over {
            if let Some(data) = ready!(self.stream.poll_data(cx)) {
                if let Ok(data) = &data {
                    self.taken = data.len();
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                }
                return Poll::Ready(Some(data.map(Frame::data)));
            }
            self.over = true;
        }
        Poll::Ready(ready!(self.stream.poll_trailers(cx))?.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    /// Whether nothing more comes.
    pub fn is_over(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// Bytes still to come.
    pub fn size(&self) -> SizeHint {
        if self.is_over() {
            SizeHint::with_exact(0)
        } else {
            self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
        }
    }
}
