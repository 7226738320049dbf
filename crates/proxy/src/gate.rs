//! A gate on a region's links: while it is shut, bytes are neither read nor written, as when a network lost the region.
//! It may be shut one way only, as when a network lost one direction.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use xds::overlay::Way;

static NEXT_WAITER: AtomicU64 = AtomicU64::new(1);

/// The bit of what comes from the region.
const READS: u8 = 1;
/// The bit of what goes to it.
const WRITES: u8 = 2;

/// Which ways a gate is shut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shut(u8);

impl Shut {
    /// What an overlay shuts.
    pub fn of(way: Way) -> Self {
        match way {
            Way::Both => Self(READS | WRITES),
            Way::To => Self(WRITES),
            Way::From => Self(READS),
        }
    }

    /// Shut where one of them is.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Shared by all links to one region.
#[derive(Debug, Default)]
pub struct Gate {
    shut: AtomicU8,
    waiters: Mutex<HashMap<u64, Waker>>,
}

impl Gate {
    /// Shuts and opens. Whatever waits looks again.
    pub fn set(&self, shut: Shut) {
        if self.shut.swap(shut.0, Ordering::SeqCst) != shut.0 {
            let waiters = std::mem::take(&mut *self.waiters.lock().unwrap_or_else(PoisonError::into_inner));
            waiters.into_values().for_each(Waker::wake);
        }
    }

    /// Whether it is open both ways at this moment.
    pub fn is_open(&self) -> bool {
        self.shut.load(Ordering::Acquire) == 0
    }

    fn poll_open(&self, ways: u8, waiter: u64, cx: &Context<'_>) -> Poll<()> {
        if self.shut.load(Ordering::Acquire) & ways == 0 {
            return Poll::Ready(());
        }
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at again under the lock: an opening in between has already taken the list.
        if self.shut.load(Ordering::SeqCst) & ways == 0 {
            return Poll::Ready(());
        }
        waiters.insert(waiter, cx.waker().clone());
        Poll::Pending
    }

    /// Waits until the gate is open both ways: a connection takes packets each way.
    pub async fn opened(self: &Arc<Self>) {
        let pass = Pass::new(self.clone());
        std::future::poll_fn(|cx| pass.gate.poll_open(READS | WRITES, pass.waiter, cx)).await;
    }
}

/// One waiter's place at a gate.
#[derive(Debug)]
struct Pass {
    gate: Arc<Gate>,
    waiter: u64,
}

impl Pass {
    fn new(gate: Arc<Gate>) -> Self {
        Self { gate, waiter: NEXT_WAITER.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.waiters.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.waiter);
    }
}

/// A stream behind a gate. Reading and writing wait apart, since two tasks may hold the halves.
#[derive(Debug)]
pub struct Gated<T> {
    inner: T,
    read: Pass,
    write: Pass,
}

impl<T> Gated<T> {
    /// Puts the stream behind the gate.
    pub fn new(inner: T, gate: &Arc<Gate>) -> Self {
        Self { inner, read: Pass::new(gate.clone()), write: Pass::new(gate.clone()) }
    }

    /// The stream.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gated<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.read.gate.poll_open(READS, self.read.waiter, cx));
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        // Shut while the read waited: an end of stream must not be seen through a lost network either.
        if buf.filled().len() == before {
            return self.read.gate.poll_open(READS, self.read.waiter, cx).map(Ok);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gated<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.write.gate.poll_open(WRITES, self.write.waiter, cx));
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.write.gate.poll_open(WRITES, self.write.waiter, cx));
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.write.gate.poll_open(WRITES, self.write.waiter, cx));
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.write.gate.poll_open(WRITES, self.write.waiter, cx));
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_wait_behind_a_shut_gate_and_arrive_when_it_opens() {
        let (near, mut far) = tokio::io::duplex(64);
        let gate = Arc::new(Gate::default());
        let mut link = Gated::new(near, &gate);
        far.write_all(b"hello").await.unwrap();
        gate.set(Shut::of(Way::Both));
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 5];
            link.read_exact(&mut buffer).await.unwrap();
            link.write_all(&buffer).await.unwrap();
            buffer
        });
        tokio::task::yield_now().await;
        assert!(!reader.is_finished());
        assert_eq!(gate.waiters.lock().unwrap().len(), 1);
        gate.set(Shut::default());
        assert_eq!(&reader.await.unwrap(), b"hello");
        assert!(gate.waiters.lock().unwrap().is_empty());
    }
    #[tokio::test]
    async fn a_gate_may_be_shut_one_way() {
        for (way, reads, writes) in [(Way::To, true, false), (Way::From, false, true)] {
            let (near, mut far) = tokio::io::duplex(64);
            let gate = Arc::new(Gate::default());
            let mut link = Gated::new(near, &gate);
            gate.set(Shut::of(way));
            far.write_all(b"x").await.unwrap();
            let mut cx = Context::from_waker(Waker::noop());
            let mut buffer = [0; 1];
            assert_eq!(Pin::new(&mut link).poll_read(&mut cx, &mut ReadBuf::new(&mut buffer)).is_ready(), reads);
            assert_eq!(Pin::new(&mut link).poll_write(&mut cx, b"y").is_ready(), writes);
            let pass = Pass::new(gate.clone());
            assert!(gate.poll_open(READS | WRITES, pass.waiter, &cx).is_pending(), "no connection either way");
        }
        assert_eq!(Shut::of(Way::To).and(Shut::of(Way::From)), Shut::of(Way::Both));
    }
}
