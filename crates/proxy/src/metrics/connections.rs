//! What is counted of each TCP connection that is forwarded, while it lasts.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{self, AsyncRead, AsyncWrite, ReadBuf};

use crate::metrics::{
    peers,
    series::Series,
    text::{Kind, Labels, Text},
};

#[derive(Debug, Default)]
struct Numbers {
    opened: AtomicU64,
    closed: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// The TCP connections of a proxy.
#[derive(Debug)]
pub struct Connections(Series<Numbers>);

impl Default for Connections {
    fn default() -> Self {
        Self(Series::new(|| complete(peers::surplus())))
    }
}

fn complete(peers: Labels) -> Labels {
    peers.and("request_protocol", "tcp")
}

impl Connections {
    /// Counts a caller's connection, and what it carries, until it is dropped.
    pub fn counted<T>(&self, caller: T, peers: Labels) -> Counted<T> {
        let numbers = self.0.find(complete(peers));
        numbers.opened.fetch_add(1, Ordering::Relaxed);
        Counted { caller, numbers }
    }

    /// Their families.
    pub fn render(&self, text: &mut Text) {
        let all = self.0.all();
        let mut family = |name, help, of: fn(&Numbers) -> &AtomicU64| {
            text.family(name, Kind::Counter, help);
            all.iter().for_each(|(labels, n)| text.sample(name, labels, of(n).load(Ordering::Relaxed)));
        };
        family("istio_tcp_connections_opened_total", "TCP connections that an endpoint took.", |n| &n.opened);
        family("istio_tcp_connections_closed_total", "Of these, over.", |n| &n.closed);
        family("istio_tcp_received_bytes_total", "Bytes from callers.", |n| &n.received);
        family("istio_tcp_sent_bytes_total", "Bytes to callers.", |n| &n.sent);
    }
}

/// A caller's connection that is counted.
#[derive(Debug)]
pub struct Counted<T> {
    caller: T,
    numbers: Arc<Numbers>,
}

impl<T> Drop for Counted<T> {
    fn drop(&mut self) {
        self.numbers.closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.caller).poll_read(cx, into))?;
        self.numbers.received.fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.caller).poll_write(cx, bytes))?;
        self.numbers.sent.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.caller).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.caller).poll_shutdown(cx)
    }
}
