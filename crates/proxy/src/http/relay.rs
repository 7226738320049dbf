//! Bytes both ways between two connections: each way ends on its own, and silence ends both.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use crate::http::{
    alarm::Alarm,
    body::{BodyError, Watch},
    h1::outbox::poll_fill,
};

/// Bytes that one read may bring, which is all that is held of one way: who sends is read on when who receives has taken them.
/// At 8 KiB a gibibyte costs nearly twice as much CPU (docs/decisions/splice.md).
const PIECE: usize = 64 * 1024;

/// How long the bytes of another protocol than HTTP, whose end nobody can ask for, may go on when their listener is removed
/// or the process drains.
pub const DRAIN: Duration = Duration::from_secs(5);

/// How long a caller is waited for who said nothing, has ended its half, and has heard nothing. It may be a check that found
/// the endpoint hanging, and gone: over TLS nothing more can be read from it that would tell.
const UNASKED: Duration = Duration::from_secs(10);

/// Bytes to and from a peer.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// Both ways at their ends.
    Whole,
    /// Nothing passed either way for too long.
    Idle,
    /// The caller's side broke.
    Caller(io::Error),
    /// The endpoint's side broke.
    Endpoint(io::Error),
}

/// Both ways.
#[derive(Debug)]
pub struct Relay {
    up: Way,
    down: Way,
    idle: Duration,
    /// Bytes that had passed when the silence began.
    seen: u64,
    /// The caller ended its half, and nothing has passed.
    unasked: bool,
    since: Option<Instant>,
    alarm: Alarm,
}

/// One way.
#[derive(Debug, Default)]
struct Way {
    waiting: BytesMut,
    passed: u64,
    unflushed: bool,
    /// What sends has said its last.
    ended: bool,
    over: bool,
}

/// Which side of one way broke.
enum Broken {
    From(io::Error),
    To(io::Error),
}

impl Relay {
    /// Ends when nothing passed for as long as `idle`; zero is for ever, except for who ends its half before it said anything:
    /// the endpoint has ten seconds to speak then. `sent` is what the caller has sent already.
    pub fn new(idle: Duration, sent: BytesMut) -> Self {
        let up = Way { waiting: sent, ..Way::default() };
        Self { up, down: Way::default(), idle, seen: 0, unasked: false, since: None, alarm: Alarm::default() }
    }

    /// Tells how it ended, and how much passed.
    pub fn tell(&self, ended: Ended, watch: &mut dyn Watch) {
        watch.received(self.up.passed);
        watch.passed(self.down.passed);
        match ended {
            Ended::Whole => watch.finished(),
            Ended::Idle => watch.broken(&BodyError::Idle),
            Ended::Caller(error) => watch.broken(&BodyError::Caller(error.to_string())),
            Ended::Endpoint(error) => watch.broken(&BodyError::Upstream(error.to_string())),
        }
    }

    /// Bytes that the endpoint has got, and that the caller has got.
    pub fn passed(&self) -> (u64, u64) {
        (self.up.passed, self.down.passed)
    }

    /// Passes on what comes; ready at the end. An end of one way is passed on, too, and the other goes on.
    pub fn poll<C, E>(&mut self, caller: &mut C, endpoint: &mut E, cx: &mut Context<'_>) -> Poll<Ended>
    where
        C: AsyncRead + AsyncWrite + Unpin + ?Sized,
        E: AsyncRead + AsyncWrite + Unpin + ?Sized,
    {
        let up = match self.up.poll(caller, endpoint, cx) {
            Poll::Ready(Err(Broken::From(error))) => return Poll::Ready(Ended::Caller(error)),
            Poll::Ready(Err(Broken::To(error))) => return Poll::Ready(Ended::Endpoint(error)),
            up => up.is_ready(),
        };
        let down = match self.down.poll(endpoint, caller, cx) {
            Poll::Ready(Err(Broken::From(error))) => return Poll::Ready(Ended::Endpoint(error)),
            Poll::Ready(Err(Broken::To(error))) => return Poll::Ready(Ended::Caller(error)),
            down => down.is_ready(),
        };
        if up && down {
            return Poll::Ready(Ended::Whole);
        }
        let passed = self.up.passed + self.down.passed;
        let unasked = up && passed == 0;
        if (self.seen, self.unasked) != (passed, unasked) {
            (self.seen, self.unasked, self.since) = (passed, unasked, None);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let idle = if self.idle.is_zero() { Duration::MAX } else { self.idle };
        match since.checked_add(if unasked { idle.min(UNASKED) } else { idle }) {
            Some(until) => self.alarm.poll(until, cx).map(|()| Ended::Idle),
            None => Poll::Pending,
        }
    }
}

impl Way {
    fn poll<F, T>(&mut self, from: &mut F, to: &mut T, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>
    where
        F: AsyncRead + Unpin + ?Sized,
        T: AsyncWrite + Unpin + ?Sized,
    {
        if self.over {
            return Poll::Ready(Ok(()));
        }
        loop {
            while !self.waiting.is_empty() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting)).map_err(Broken::To)?;
                if count == 0 {
                    return Poll::Ready(Err(Broken::To(io::ErrorKind::WriteZero.into())));
                }
                self.waiting.advance(count);
                self.passed += count as u64;
                self.unflushed = true;
            }
            if self.ended {
                // Whoever is gone needs not be told that nothing more comes.
                let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                self.over = true;
                return Poll::Ready(Ok(()));
            }
            match poll_fill(from, &mut self.waiting, PIECE, cx) {
                Poll::Ready(count) => self.ended = count.map_err(Broken::From)? == 0,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::To)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// The far ends of a relay between two connections that hold this many bytes.
    fn relay(
        idle: Duration,
        sent: &str,
        holds: usize,
    ) -> (DuplexStream, DuplexStream, impl Future<Output = (Ended, Relay)>) {
        let ((caller, mut near), (endpoint, mut far)) = (duplex(holds), duplex(holds));
        let mut relay = Relay::new(idle, sent.into());
        let running = async move {
            let ended = poll_fn(|cx| relay.poll(&mut near, &mut far, cx)).await;
            (ended, relay)
        };
        (caller, endpoint, running)
    }

    #[tokio::test]
    async fn each_way_ends_on_its_own() {
        let (mut caller, mut endpoint, running) = relay(HOUR, "early ", 3);
        let running = tokio::spawn(running);
        let asked = tokio::spawn(async move {
            caller.write_all(b"question").await.unwrap();
            caller.shutdown().await.unwrap();
            let mut answer = String::new();
            caller.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let mut question = String::new();
        endpoint.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "early question");
        endpoint.write_all(b"answer").await.unwrap();
        endpoint.shutdown().await.unwrap();
        assert_eq!(asked.await.unwrap(), "answer");
        let (ended, relay) = running.await.unwrap();
        assert!(matches!(ended, Ended::Whole), "{ended:?}");
        assert_eq!((relay.up.passed, relay.down.passed), (14, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_bytes_of_either_way_put_that_off() {
        let (mut caller, mut endpoint, running) = relay(Duration::from_secs(10), "", 100);
        let (began, running) = (Instant::now(), tokio::spawn(running));
        for (side, after) in [(&mut caller, 7), (&mut endpoint, 14)] {
            tokio::time::sleep_until(began + Duration::from_secs(after)).await;
            side.write_all(b"x").await.unwrap();
        }
        let (ended, _) = running.await.unwrap();
        assert!(matches!(ended, Ended::Idle), "{ended:?}");
        assert_eq!(began.elapsed().as_secs(), 24);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_before_it_asked_anything_is_not_waited_for_long() {
        for (idle, heard) in [(HOUR, false), (Duration::ZERO, false), (HOUR, true)] {
            let (mut caller, mut endpoint, running) = relay(idle, "", 100);
            let (began, running) = (Instant::now(), tokio::spawn(running));
            tokio::time::sleep_until(began + Duration::from_secs(7)).await;
            caller.shutdown().await.unwrap();
            tokio::time::sleep_until(began + Duration::from_secs(14)).await;
            if heard {
                // It has asked without a word.
                endpoint.write_all(b"x").await.unwrap();
                tokio::time::sleep_until(began + Duration::from_secs(100)).await;
                assert!(!running.is_finished());
                continue;
            }
            let (ended, _) = running.await.unwrap();
            assert!(matches!(ended, Ended::Idle), "{ended:?}");
            assert_eq!(began.elapsed().as_secs(), 17, "{idle:?}");
        }
    }

    #[tokio::test]
    async fn who_takes_nothing_stops_who_sends() {
        let (mut caller, endpoint, running) = relay(HOUR, "", 1000);
        let running = tokio::spawn(running);
        let mut sent = 0;
        // What a relay that takes no more leaves in the sender's hand.
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(100), caller.write(&[0; 1000])).await {
            sent += written.unwrap();
            assert!(sent <= PIECE + 3000, "{sent} bytes are held");
        }
        drop(endpoint);
        let (ended, _) = running.await.unwrap();
        assert!(matches!(ended, Ended::Endpoint(_)), "{ended:?}");
    }
}
