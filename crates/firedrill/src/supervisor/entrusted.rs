//! Undo commands of drill engines: run when the engine's heartbeats stop, so that they are run without anybody starting
//! anything. The commands themselves are on disk, written by the engine before it ran what they take back.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use drill::undo::{Undo, Undos};
use tokio::sync::Notify;
use xds::lease::Leases;

use super::{
    api::{EventKind, MAX_TTL_MS, UndoRequest},
    journal::Journal,
};
use crate::seat;

/// Engines whose undos may be looked after at once; one at a time drills a state folder.
const MOST_LEASES: usize = 64;

/// Why an undo is not looked after.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The request makes no sense.
    #[error("{0}")]
    Malformed(String),
    /// There is no such undo on disk here.
    #[error("{0}")]
    Unknown(String),
    /// Heartbeats stayed away, and the undos were run; or none was entrusted.
    #[error("no undo of lease `{0}` is looked after")]
    Gone(String),
}

/// Is told what people should know.
type Trouble = Arc<dyn Fn(String) + Send + Sync>;

/// Leases whose undos are entrusted. Cheap to clone.
#[derive(Clone)]
pub struct Entrusted {
    leases: Arc<Mutex<Leases<String>>>,
    taken: Arc<Notify>,
    /// Held while undos are run.
    running: Arc<tokio::sync::Mutex<()>>,
    undos: Undos,
    state: Arc<Path>,
    journal: Arc<Journal>,
    trouble: Trouble,
}

impl Entrusted {
    /// None yet. [`Entrusted::lapse`] must run beside it.
    pub fn new(state: &Path, journal: Arc<Journal>, trouble: Trouble) -> Self {
        Self {
            leases: Arc::default(),
            taken: Arc::default(),
            running: Arc::default(),
            undos: Undos::of(state),
            state: state.into(),
            journal,
            trouble,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Leases<String>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an undo that is on disk: from now on it is run when the lease's heartbeats stop.
    ///
    /// # Errors
    /// When it makes no sense, or there is no such undo in this state folder.
    pub fn take(&self, request: &UndoRequest) -> Result<(), TrustError> {
        if request.lease.is_empty() || request.lease.len() > 200 {
            return Err(TrustError::Malformed("a lease has 1 to 200 characters".to_owned()));
        }
        if !(1..=MAX_TTL_MS).contains(&request.ttl_ms) {
            return Err(TrustError::Malformed(format!("ttlMs must be 1 to {MAX_TTL_MS}")));
        }
        let known = self.undos.get(&request.undo).map_err(|error| TrustError::Unknown(error.to_string()))?;
        if known.is_none_or(|undo| undo.lease != request.lease || undo.settled.is_some()) {
            let (undo, state) = (&request.undo, self.state.display());
            return Err(TrustError::Unknown(format!("there is no undo `{undo}` of this lease in {state}")));
        }
        {
            let mut leases = self.lock();
            if leases.len() >= MOST_LEASES && !leases.contains(&request.lease) {
                return Err(TrustError::Malformed("too many leases".to_owned()));
            }
            leases.take(request.lease.clone(), Duration::from_millis(request.ttl_ms), Instant::now());
        }
        self.taken.notify_one();
        let (undo, lease) = (request.undo.clone(), request.lease.clone());
        self.journal.add(EventKind::UndoEntrusted { undo, lease });
        Ok(())
    }

    /// The engine lives.
    ///
    /// # Errors
    /// When its undos are not looked after any more.
    pub fn heartbeat(&self, lease: &str) -> Result<(), TrustError> {
        let renewed = self.lock().renew(&lease.to_owned(), Instant::now());
        self.taken.notify_one();
        if renewed { Ok(()) } else { Err(TrustError::Gone(lease.to_owned())) }
    }

    /// The engine has run them itself.
    pub fn release(&self, lease: &str) {
        self.lock().release(&lease.to_owned());
    }

    /// Runs the undos of engines whose heartbeats stay away. Never returns.
    pub async fn lapse(self) {
        loop {
            let next = self.lock().next_deadline();
            match next {
                None => self.taken.notified().await,
                Some(deadline) => {
                    // Either way the table is looked at again.
                    let _ = tokio::time::timeout_at(deadline.into(), self.taken.notified()).await;
                }
            }
            let lapsed = self.lock().expire(Instant::now());
            if !lapsed.is_empty() {
                // In a task of its own: one engine's long undo does not hold up another's.
                let entrusted = self.clone();
                tokio::spawn(async move { entrusted.run(&lapsed).await });
            }
        }
    }

    /// Runs now what would be run when heartbeats stay away, and waits for what is being run: the supervisor ends. Undos of
    /// an engine that lives are its own business.
    pub async fn finish(&self) {
        if seat::holder(&self.state).is_none() {
            let leases: Vec<String> = self.lock().keys().cloned().collect();
            for lease in &leases {
                self.release(lease);
            }
            self.run(&leases).await;
        }
        drop(self.running.lock().await);
    }

    async fn run(&self, leases: &[String]) {
        let _running = self.running.lock().await;
        let journal = self.journal.clone();
        let of = |undo: &Undo| leases.contains(&undo.lease);
        match self.undos.retry(of, "the supervisor", || journal.clock().now().0).await {
            Err(error) => self.report(format!("undos of a drill whose engine died could not be run: {error}")),
            Ok(tried) => {
                for (undo, result) in tried {
                    let reason = result.err().unwrap_or_default();
                    let (id, ok) = (undo.id.clone(), reason.is_empty());
                    self.report(match ok {
                        true => format!("the drill engine died; {} was undone", undo.name),
                        false => format!("the drill engine died; the undo of {} failed: {reason}", undo.name),
                    });
                    self.journal.add(EventKind::UndoRun { undo: id, ok, reason });
                }
            }
        }
    }

    fn report(&self, text: String) {
        tracing::warn!("{text}");
        (self.trouble)(text);
    }
}
