//! What becomes of a connection to an endpoint while it is used: told by those who retire endpoints and take trust away.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, oneshot};

use crate::upstream::host::Host;

/// How long a busy connection of a retired endpoint may finish its work.
const DRAIN: Duration = Duration::from_secs(5);

/// How long a connection may bring nothing after its endpoint was ejected for its silence. Who is in again by then had a
/// pause.
const SILENT: Duration = Duration::from_secs(5);

/// Shared by a connection, by what is under way on it, and by who decides about it.
#[derive(Debug)]
pub struct Fate {
    /// The host's epoch when it was made.
    pub epoch: u64,
    /// What the peer proved; empty without TLS.
    pub chain: Vec<CertificateDer<'static>>,
    /// When it takes no more requests, since a certificate ends; never without TLS.
    until: Option<Instant>,
    retired: AtomicBool,
    cut: AtomicBool,
    busy: AtomicUsize,
    /// Whether anything came since this was last asked.
    heard: AtomicBool,
    /// Whether it brought an answer.
    served: AtomicBool,
    /// Whether its endpoint was ejected for its silence, and nothing came since.
    doubted: AtomicBool,
    waker: AtomicWaker,
    /// Who wants to know when the peer has answered; only where it can be asked.
    asks: OnceLock<mpsc::Sender<oneshot::Sender<()>>>,
}

impl Fate {
    /// Of a new connection.
    pub fn new(epoch: u64, chain: Vec<CertificateDer<'static>>, until: Option<Instant>) -> Self {
        Self {
            epoch,
            chain,
            until,
            retired: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            heard: AtomicBool::new(false),
            served: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            asks: OnceLock::new(),
        }
    }

    /// It takes no more requests (it ended, or its peer said GOAWAY); those on it may finish.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Whether it takes no more requests.
    pub fn retired(&self) -> bool {
        self.retired.load(Ordering::Acquire) || self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Its endpoint is retired: it takes no more requests, and those on it have [`DRAIN`] to finish.
    pub fn doom(self: &Arc<Self>) {
        self.retire();
        self.waker.wake();
        let fate = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(DRAIN).await;
            if let Some(fate) = fate.upgrade() {
                fate.cut();
            }
        });
    }

    /// Its endpoint was ejected for its silence: what is under way on it ends if that goes on for [`SILENT`].
    pub fn doubt(self: &Arc<Self>, host: &Arc<Host>) {
        self.doubted.store(true, Ordering::Release);
        let (fate, host) = (Arc::downgrade(self), host.clone());
        tokio::spawn(async move {
            tokio::time::sleep(SILENT).await;
            let silent =
                |fate: &Arc<Self>| fate.doubted.load(Ordering::Acquire) && host.ejected.load(Ordering::Relaxed);
            if let Some(fate) = fate.upgrade().filter(silent) {
                fate.cut();
            }
        });
    }

    /// Ends it, whatever is under way.
    pub fn cut(&self) {
        self.retire();
        self.cut.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ready when it is cut. One task waits at a time.
    pub fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.cut.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ready when it is cut, or retired and idle.
    pub fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        let idle = self.retired() && self.busy() == 0;
        if idle || self.cut.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// For the task that asks the peer.
    pub fn takes_asks(&self) -> mpsc::Receiver<oneshot::Sender<()>> {
        let (asks, asked) = mpsc::channel(1);
        // There is one such task for a connection.
        let _ = self.asks.set(asks);
        asked
    }

    /// Waits until the peer has answered a question of now, before which it sent its settings; or until it is lost.
    pub async fn answered(&self) {
        let Some(asks) = self.asks.get() else { return };
        let (asker, answer) = oneshot::channel();
        if asks.send(asker).await.is_ok() {
            // An error is a connection that is gone.
            let _ = answer.await;
        }
    }

    /// Something came.
    pub fn heard(&self) {
        self.heard.store(true, Ordering::Release);
        if self.doubted.load(Ordering::Acquire) {
            self.doubted.store(false, Ordering::Release);
        }
        if !self.served() {
            self.served.store(true, Ordering::Release);
        }
    }

    /// Whether it brought an answer, ever.
    pub fn served(&self) -> bool {
        self.served.load(Ordering::Acquire)
    }

    /// Whether requests wait on it and nothing came since this was last asked.
    pub fn quiet(&self) -> bool {
        !self.heard.swap(false, Ordering::AcqRel) && self.busy() > 0
    }

    /// Requests on it.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Acquire)
    }
}

/// A request on a shared connection.
#[derive(Debug)]
pub struct Busy(Arc<Fate>);

impl Busy {
    /// Counts one more.
    pub fn new(fate: &Arc<Fate>) -> Self {
        fate.busy.fetch_add(1, Ordering::AcqRel);
        Self(fate.clone())
    }

    /// Of its connection.
    pub fn fate(&self) -> &Arc<Fate> {
        &self.0
    }

    /// See [`Fate::retire`].
    pub fn retire(&self) {
        self.0.retire();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::AcqRel) == 1 && self.0.retired() {
            self.0.waker.wake();
        }
    }
}
