//! A gate on a region's links: while it is shut, bytes are neither read nor written, as when a network lost the region.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

static NEXT_WAITER: AtomicU64 = AtomicU64::new(1);

/// Shared by all links to one region.
#[derive(Debug, Default)]
pub struct Gate {
    shut: AtomicBool,
    waiters: Mutex<HashMap<u64, Waker>>,
}

impl Gate {
    /// Shuts or opens. Opening wakes everything that waits.
    pub fn set_shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::SeqCst);
        if !shut {
            let waiters = std::mem::take(&mut *self.waiters.lock().unwrap_or_else(PoisonError::into_inner));
            waiters.into_values().for_each(Waker::wake);
        }
    }

    fn poll_open(&self, waiter: u64, cx: &Context<'_>) -> Poll<()> {
        if !self.shut.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at again under the lock: an opening in between has already taken the list.
        if !self.shut.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        waiters.insert(waiter, cx.waker().clone());
        Poll::Pending
    }

    /// Waits until the gate is open.
    pub async fn opened(self: &Arc<Self>) {
        let pass = Pass::new(self.clone());
        std::future::poll_fn(|cx| pass.gate.poll_open(pass.waiter, cx)).await;
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
        std::task::ready!(self.read.gate.poll_open(self.read.waiter, cx));
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        // Shut while the read waited: an end of stream must not be seen through a lost network either.
        if buf.filled().len() == before {
            return self.read.gate.poll_open(self.read.waiter, cx).map(Ok);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gated<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.write.gate.poll_open(self.write.waiter, cx));
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.write.gate.poll_open(self.write.waiter, cx));
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.write.gate.poll_open(self.write.waiter, cx));
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.write.gate.poll_open(self.write.waiter, cx));
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
        gate.set_shut(true);
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 5];
            link.read_exact(&mut buffer).await.unwrap();
            link.write_all(&buffer).await.unwrap();
            buffer
        });
        tokio::task::yield_now().await;
        assert!(!reader.is_finished());
        assert_eq!(gate.waiters.lock().unwrap().len(), 1);
        gate.set_shut(false);
        assert_eq!(&reader.await.unwrap(), b"hello");
        assert!(gate.waiters.lock().unwrap().is_empty());
    }
}
