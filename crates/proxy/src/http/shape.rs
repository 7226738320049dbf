//! Bodies that a fault has in hand: no faster than a rate, and no longer than a number of bytes. Decisions are pure, and
//! are handed `now`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    fault::{Cut, Shape},
    http::{alarm::Alarm, body::BodyError, relay::Duplex},
};

/// Pieces in a second that a rate is made of.
const PIECES: u64 = 20;

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// Lets bytes pass no faster than a rate, in pieces. Each piece waits for as long as the bytes take that are in it.
#[derive(Debug)]
pub struct Pace {
    rate: u64,
    waiting: Bytes,
    /// When the piece that is next may pass.
    due: Option<Instant>,
    alarm: Alarm,
}

impl Pace {
    /// `rate` is in bytes a second, above zero.
    pub fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), waiting: Bytes::new(), due: None, alarm: Alarm::default() }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn next_length(&self) -> usize {
        let most = usize::try_from((self.rate / PIECES).max(1)).unwrap_or(usize::MAX);
        self.waiting.len().min(most)
    }

    /// The next piece, or when it may pass.
    fn piece(&mut self, now: Instant) -> Result<Bytes, Instant> {
        let length = self.next_length();
        let takes = Duration::from_secs_f64(length as f64 / self.rate as f64);
        let due = *self.due.get_or_insert(now + takes);
        if now < due {
            return Err(due);
        }
        self.due = None;
        Ok(self.waiting.split_to(length))
    }

    /// Passes frames on. `next` gives them.
    pub fn poll(&mut self, cx: &mut Context<'_>, next: impl FnOnce(&mut Context<'_>) -> Polled) -> Polled {
        if self.waiting.is_empty() {
            match ready!(next(cx)).transpose()?.map(Frame::into_data) {
                None => return Poll::Ready(None),
                Some(Err(other)) => return Poll::Ready(Some(Ok(other))),
                Some(Ok(data)) if data.is_empty() => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Ok(data)) => self.waiting = data,
            }
        }
        loop {
            match self.piece(Instant::now()) {
                Ok(piece) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                Err(due) => ready!(self.alarm.poll(due.into(), cx)),
            }
        }
    }
}

/// A body that is cut, or slow, or both.
#[derive(Debug)]
pub struct Shaped<B> {
    body: B,
    cut: Option<Cut>,
    pace: Option<Pace>,
    passed: u64,
    over: bool,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Shaped<B> {
    /// Around a body of which nothing was read.
    pub fn new(body: B, shape: Shape) -> Self {
        let mut shaped = Self { body, cut: shape.cut, pace: shape.rate.map(Pace::new), passed: 0, over: false };
        shaped.over = shaped.is_cut();
        shaped
    }

    /// What is in it.
    pub fn inner(&mut self) -> &mut B {
        &mut self.body
    }

    /// Whether it is over here, and looks whole.
    fn is_cut(&self) -> bool {
        self.cut.is_some_and(|cut| cut.whole && self.passed >= cut.after)
    }

    fn shorten(&mut self, data: Bytes) -> Bytes {
        let left = self.cut.map_or(u64::MAX, |cut| cut.after.saturating_sub(self.passed));
        let data = data.slice(..data.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        self.passed += data.len() as u64;
        data
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Body for Shaped<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        if this.cut.is_some_and(|cut| !cut.whole && this.passed >= cut.after) {
            this.over = true;
            return Poll::Ready(Some(Err(BodyError::Upstream("connection reset by a fault".into()))));
        }
        let frame = match &mut this.pace {
            None => ready!(Pin::new(&mut this.body).poll_frame(cx)),
            Some(pace) => ready!(pace.poll(cx, |cx| Pin::new(&mut this.body).poll_frame(cx))),
        };
        Poll::Ready(frame.transpose()?.map(|frame| {
            Ok(match frame.into_data() {
                Ok(data) => {
                    let data = this.shorten(data);
                    this.over = this.is_cut();
                    Frame::data(data)
                }
                Err(other) => other,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        let unpaced = self.pace.as_ref().is_none_or(Pace::is_empty);
        // A cut that breaks it off is an end, too, but none that may be taken for the body's.
        let broken = self.cut.is_some_and(|cut| !cut.whole) && !self.over;
        self.over || (unpaced && !broken && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let waiting = self.pace.as_ref().map_or(0, |pace| pace.waiting.len() as u64);
        let left = self.cut.filter(|cut| cut.whole).map_or(u64::MAX, |cut| cut.after.saturating_sub(self.passed));
        if let Some(exact) = hint.exact() {
            return SizeHint::with_exact((exact + waiting).min(left));
        }
        hint.set_lower(hint.lower().saturating_add(waiting).min(left));
        hint
    }
}

/// What an upgrade switched to, in the hand of the same faults: cut by what the endpoint sent, slow both ways.
pub struct ShapedBytes {
    io: Box<dyn Duplex>,
    cut: Option<Cut>,
    passed: u64,
    /// Of the endpoint's bytes, and of the caller's.
    rates: Option<[Rate; 2]>,
}

impl ShapedBytes {
    /// Around a connection of which nothing was read.
    pub fn new(io: Box<dyn Duplex>, shape: Shape) -> Self {
        let rate = |rate| Rate { rate, due: None, alarm: Alarm::default() };
        Self { io, cut: shape.cut, passed: 0, rates: shape.rate.map(|bytes| [rate(bytes), rate(bytes)]) }
    }
}

/// No more than so many bytes in a second: each piece is followed by as long a pause as its bytes take.
#[derive(Debug)]
struct Rate {
    rate: u64,
    due: Option<tokio::time::Instant>,
    alarm: Alarm,
}

impl Rate {
    /// How many bytes may pass at once, when they may.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if let Some(due) = self.due {
            ready!(self.alarm.poll(due, cx));
        }
        Poll::Ready(usize::try_from((self.rate / PIECES).max(1)).unwrap_or(usize::MAX))
    }

    fn passed(&mut self, bytes: usize) {
        let now = tokio::time::Instant::now();
        self.due = Some(now + Duration::from_secs_f64(bytes as f64 / self.rate.max(1) as f64));
    }
}

impl AsyncRead for ShapedBytes {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut most = into.remaining();
        if let Some([down, _]) = &mut this.rates {
            most = most.min(ready!(down.poll(cx)));
        }
        if let Some(cut) = this.cut {
            let left = cut.after.saturating_sub(this.passed);
            if left == 0 {
                let broken = || io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by a fault");
                return Poll::Ready(if cut.whole { Ok(()) } else { Err(broken()) });
            }
            most = most.min(usize::try_from(left).unwrap_or(usize::MAX));
        }
        let mut part = ReadBuf::new(into.initialize_unfilled_to(most));
        ready!(Pin::new(&mut *this.io).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        into.advance(count);
        this.passed += count as u64;
        if let Some([down, _]) = &mut this.rates {
            down.passed(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ShapedBytes {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some([_, up]) = &mut this.rates else { return Pin::new(&mut *this.io).poll_write(cx, bytes) };
        let most = ready!(up.poll(cx)).min(bytes.len());
        let count = ready!(Pin::new(&mut *this.io).poll_write(cx, &bytes[..most]))?;
        up.passed(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, future::poll_fn};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[derive(Debug)]
    struct Pieces(VecDeque<&'static [u8]>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Polled {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(Bytes::from_static(piece)))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
        }
    }

    async fn read(shape: Shape) -> (Vec<u8>, bool, Option<u64>) {
        let mut body = Shaped::new(Pieces(VecDeque::from([&b"hello"[..], b", ", b"world"])), shape);
        let (size, mut read) = (body.size_hint().exact(), Vec::new());
        while !body.is_end_stream() {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(Ok(frame)) => read.extend_from_slice(&frame.into_data().unwrap()),
                Some(Err(_)) => return (read, true, size),
                None => break,
            }
        }
        (read, false, size)
    }

    #[tokio::test]
    async fn a_cut_ends_a_body_whole_or_broken() {
        let cut = |after, whole| Shape { cut: Some(Cut { after, whole }), rate: None };
        assert_eq!(read(Shape::default()).await, (b"hello, world".to_vec(), false, Some(12)));
        assert_eq!(read(cut(6, true)).await, (b"hello,".to_vec(), false, Some(6)));
        assert_eq!(read(cut(0, true)).await, (b"".to_vec(), false, Some(0)));
        assert_eq!(read(cut(100, true)).await, (b"hello, world".to_vec(), false, Some(12)));
        assert_eq!(read(cut(6, false)).await, (b"hello,".to_vec(), true, Some(12)));
        assert_eq!(read(cut(0, false)).await, (b"".to_vec(), true, Some(12)));
        // It would have been reset later than it ended.
        assert_eq!(read(cut(100, false)).await, (b"hello, world".to_vec(), false, Some(12)));
    }

    #[test]
    fn bytes_pass_no_faster_than_their_rate() {
        let (mut pace, start) = (Pace::new(1000), Instant::now());
        pace.waiting = Bytes::from(vec![0; 1005]);
        let (mut now, mut passed, mut pieces) = (start, 0, 0);
        while !pace.is_empty() {
            match pace.piece(now) {
                Ok(piece) => {
                    passed += piece.len();
                    pieces += 1;
                    let most = (now - start).as_secs_f64() * 1000.0;
                    assert!(passed as f64 <= most + 1e-6, "{passed} after {:?}", now - start);
                }
                Err(due) => {
                    assert!(due > now);
                    now = due;
                }
            }
        }
        assert_eq!((passed, pieces), (1005, 21));
        assert_eq!((now - start).as_millis(), 1005);
    }

    #[tokio::test(start_paused = true)]
    async fn faults_have_upgraded_connections_in_hand_too() {
        for (cut, comes, broken) in [
            (None, &b"hello, world"[..], false),
            (Some(Cut { after: 5, whole: true }), b"hello", false),
            (Some(Cut { after: 5, whole: false }), b"hello", true),
        ] {
            let (mut far, near) = tokio::io::duplex(100);
            let mut near = ShapedBytes::new(Box::new(near), Shape { cut, rate: Some(20) });
            let began = tokio::time::Instant::now();
            far.write_all(b"hello, world").await.unwrap();
            far.shutdown().await.unwrap();
            let mut read = Vec::new();
            assert_eq!(near.read_to_end(&mut read).await.is_err(), broken, "{cut:?}");
            assert_eq!(read, comes);
            near.write_all(b"four").await.unwrap();
            let mut sent = [0; 4];
            far.read_exact(&mut sent).await.unwrap();
            assert_eq!(&sent, b"four");
            // Twenty bytes a second, one by one; the last one's pause is nobody's concern.
            let least = 50 * (comes.len() as u128 - 1 + 3);
            assert!(began.elapsed().as_millis() >= least, "{cut:?}: {:?}", began.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_is_whole() {
        let shape = Shape { cut: Some(Cut { after: 11, whole: true }), rate: Some(1_000_000) };
        assert_eq!(read(shape).await, (b"hello, worl".to_vec(), false, Some(11)));
    }
}
