//! A ledger with one writer and asynchronous replication.
//!
//! The standby pulls from the primary through the mesh every [`PULL`]; what the primary acknowledged since the last
//! pull is lost when its region is killed, as with any asynchronous replication. Promotion begins a new epoch. A
//! ledger that may have missed a promotion (it started, was stopped for a while, or lost its standby) asks its peers
//! before it writes on.

mod book;
mod journal;
mod peers;
mod serve;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

pub use book::Role;

use super::{SampleError, Workload, http};
use book::{Book, Change, Entry, Page, Refusal};
use journal::Journal;
use peers::Peers;

/// Pause between two pulls of a standby: what a killed primary can lose.
const PULL: Duration = Duration::from_millis(50);
/// A primary that was not scheduled for this long was stopped, and may have been replaced meanwhile. A busy machine must
/// not look like that.
const GAP: Duration = Duration::from_secs(1);
/// Once the mesh answers, a peer that is silent for this long is taken to be gone.
const SILENCE: Duration = Duration::from_secs(3);
/// Longest wait for the workload's own proxy.
const MESH: Duration = Duration::from_secs(30);
/// Longest time a write waits for a role to settle.
const SETTLE: Duration = Duration::from_secs(1);

/// Arguments of `firedrill sample ledger`.
#[derive(Clone, Debug, clap::Args)]
pub struct LedgerArgs {
    /// Role on the very first start; later starts take it from the data and the peers.
    #[arg(long, value_enum, default_value = "primary")]
    pub role: FirstRole,
    /// Put every write on disk before it is acknowledged (else: before the process can die).
    #[arg(long)]
    pub fsync: bool,
}

/// Role on the very first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FirstRole {
    /// Writes.
    Primary,
    /// Copies the primary of another region.
    Standby,
}

/// What the ledger is doing about its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// As asking, for the first time: not healthy yet.
    Starting,
    /// Finding out what happened meanwhile; takes no writes.
    Asking,
    /// Taking over; writes wait.
    Promoting,
    /// As its role says.
    Settled,
}

struct Inner {
    book: Book,
    journal: Journal,
    /// When the clock task last ran.
    ticked: Instant,
    /// When a peer last asked in this epoch; `None` if none did.
    heard: Option<Instant>,
    /// Region of the primary, as far as a standby knows.
    primary: Option<String>,
}

/// A ledger at work. Cheap to clone.
#[derive(Clone)]
struct Ledger {
    region: String,
    name: String,
    inner: Arc<Mutex<Inner>>,
    phase: Arc<watch::Sender<Phase>>,
    peers: Peers,
}

/// What became of a write.
enum Written {
    /// Stored here, in this epoch.
    Stored(u64),
    /// Another must be asked: the primary, if known.
    Elsewhere(Option<String>),
    /// Refused for good.
    Refused(Refusal),
    /// The file could not be written.
    Failed(std::io::Error),
}

/// Serves until told to end.
///
/// # Errors
/// When data cannot be opened or the address not listened on.
pub async fn run(workload: Workload, arguments: LedgerArgs) -> Result<(), SampleError> {
    let what = format!("data in {}", workload.data.display());
    std::fs::create_dir_all(&workload.data).map_err(SampleError::io(what.clone()))?;
    let ledger = Ledger::open(&workload, &arguments).map_err(SampleError::io(what))?;
    let upkeep = tokio::spawn(ledger.clone().keep());
    let served = http::serve(workload.listen, move |call| {
        let ledger = ledger.clone();
        async move { ledger.handle(call).await.unwrap_or_else(|refusal| refusal) }
    })
    .await;
    upkeep.abort();
    served
}

impl Ledger {
    fn open(workload: &Workload, arguments: &LedgerArgs) -> std::io::Result<Self> {
        let mut book = Book::new(match arguments.role {
            FirstRole::Primary => Role::Primary,
            FirstRole::Standby => Role::Standby,
        });
        let path: &Path = &workload.data.join("ledger.jsonl");
        let journal = Journal::open(path, arguments.fsync, &mut book)?;
        // A standby can serve what it has at once.
        let first = if book.role() == Role::Primary { Phase::Starting } else { Phase::Settled };
        let inner = Inner { book, journal, ticked: Instant::now(), heard: None, primary: None };
        Ok(Self {
            region: workload.region.clone(),
            name: workload.name.clone(),
            inner: Arc::new(Mutex::new(inner)),
            phase: Arc::new(watch::Sender::new(first)),
            peers: Peers::new(workload),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores changes, then applies them.
    fn commit(inner: &mut Inner, changes: Vec<Change>) -> std::io::Result<()> {
        inner.journal.append(&changes)?;
        for change in changes {
            inner.book.apply(change);
        }
        Ok(())
    }

    /// Takes a write if this is the primary and has not been away.
    fn write(&self, entry: Entry) -> Written {
        let mut inner = self.lock();
        // A process that was stopped may run this before its clock task has noticed.
        if *self.phase.borrow() != Phase::Settled || inner.ticked.elapsed() > GAP {
            return Written::Elsewhere(None);
        }
        match inner.book.write(entry) {
            Ok((change, epoch)) => match Self::commit(&mut inner, change.into_iter().collect()) {
                Ok(()) => Written::Stored(epoch),
                Err(error) => Written::Failed(error),
            },
            Err(Refusal::NotPrimary) => Written::Elsewhere(inner.primary.clone()),
            Err(refusal) => Written::Refused(refusal),
        }
    }

    /// Becomes a standby of a region (or of nobody known), durably.
    fn step_down(&self, epoch: u64, primary: Option<String>) -> std::io::Result<()> {
        let mut inner = self.lock();
        inner.primary = primary;
        inner.heard = None;
        if inner.book.role() == Role::Standby && inner.book.epoch() >= epoch {
            return Ok(());
        }
        let epoch = epoch.max(inner.book.epoch());
        tracing::info!(epoch, "standby from now on");
        Self::commit(&mut inner, vec![Change::Role { role: Role::Standby, epoch }])
    }

    /// Takes what a page holds. Returns whether there is more to pull.
    fn absorb(&self, page: &Page, from: &str) -> std::io::Result<bool> {
        let mut inner = self.lock();
        let changes = inner.book.follow(page);
        if let Some(Change::Keep(keep)) = changes.iter().find(|change| matches!(change, Change::Keep(_))) {
            let dropped = inner.book.len().saturating_sub(*keep);
            tracing::warn!(dropped, epoch = page.epoch, from, "entries that the primary does not have are discarded");
        }
        Self::commit(&mut inner, changes)?;
        if page.role == Role::Primary {
            inner.primary = Some(from.to_owned());
        }
        Ok(inner.book.len() < page.total)
    }

    /// The task that lives as long as the ledger: asks at the start, then pulls, or watches for having been away.
    async fn keep(self) {
        self.ask().await;
        let mut asked = Instant::now();
        loop {
            tokio::time::sleep(PULL).await;
            let (role, away, lonely) = {
                let mut inner = self.lock();
                let away = inner.ticked.elapsed() > GAP;
                inner.ticked = Instant::now();
                // Only one that had a standby and lost it: a survivor of a lost region does not keep calling there.
                let lonely = inner.heard.is_some_and(|heard| heard.elapsed() > GAP);
                if away && inner.book.role() == Role::Primary {
                    // Under the lock, so that no write gets in between.
                    self.phase.send_replace(Phase::Asking);
                }
                (inner.book.role(), away, lonely)
            };
            match role {
                Role::Primary if away => {
                    tracing::warn!("was stopped for a while");
                    self.ask().await;
                }
                Role::Primary if lonely && asked.elapsed() > GAP => {
                    asked = Instant::now();
                    self.check().await;
                }
                Role::Primary => {}
                Role::Standby => self.pull().await,
            }
        }
    }

    /// Asks the peers before anything is written, for a bounded time.
    async fn ask(&self) {
        let mut silent_since = None;
        let begun = Instant::now();
        // A standby writes nothing, so it need not wait for anybody.
        while {
            // Being stopped before this question is what it asks about.
            self.lock().ticked = Instant::now();
            !self.check().await && self.lock().book.role() == Role::Primary
        } {
            match self.peers.meshed().await {
                // Without its proxy nobody can reach this ledger either: waiting costs nothing, going on might.
                false if begun.elapsed() < MESH => {}
                false => break,
                true if silent_since.get_or_insert_with(Instant::now).elapsed() > SILENCE => break,
                true => {}
            }
            tokio::time::sleep(PULL).await;
        }
        // A primary that lost its own file takes its entries back from the standby before it writes on.
        if self.lock().book.role() == Role::Primary {
            self.recover().await;
        }
        self.phase.send_if_modified(|phase| {
            let asking = matches!(phase, Phase::Starting | Phase::Asking);
            if asking {
                *phase = Phase::Settled;
            }
            asking
        });
        let inner = self.lock();
        tracing::info!(role = ?inner.book.role(), epoch = inner.book.epoch(), entries = inner.book.len(), "settled");
    }

    /// Steps down if a peer is ahead. Returns whether every peer answered.
    async fn check(&self) -> bool {
        let mut all = true;
        for (region, status) in self.peers.statuses().await {
            let status = match status {
                Ok(status) => status,
                Err(error) => {
                    tracing::debug!(%error, region, "status");
                    all = false;
                    continue;
                }
            };
            let (role, own) = {
                let inner = self.lock();
                (inner.book.role(), inner.book.epoch())
            };
            let ahead = status.epoch > own;
            // Two primaries of one epoch can only come from a wrong start: the first region in order stays.
            let rival = status.epoch == own && status.role == Role::Primary;
            if !ahead && (!rival || (role == Role::Primary && self.peers.own_first(&region))) {
                continue;
            }
            let primary = (status.role == Role::Primary).then_some(region);
            if let Err(error) = self.step_down(status.epoch, primary) {
                tracing::error!(%error, "cannot store the role");
            }
        }
        all
    }

    /// Copies entries from a standby of the same epoch that has more.
    async fn recover(&self) {
        for (region, status) in self.peers.statuses().await {
            let Ok(status) = status else { continue };
            let (len, epoch) = {
                let inner = self.lock();
                (inner.book.len(), inner.book.epoch())
            };
            if status.epoch != epoch || status.entries <= len {
                continue;
            }
            if let Err(error) = self.step_down(epoch, None) {
                tracing::error!(%error, "cannot store the role");
                continue;
            }
            self.pull_all(&region).await;
            let mut inner = self.lock();
            if let Err(error) = Self::commit(&mut inner, vec![Change::Role { role: Role::Primary, epoch }]) {
                tracing::error!(%error, "cannot store the role");
            }
        }
    }

    /// One round of a standby: from the primary, or from whoever might know it.
    async fn pull(&self) {
        let (known, position) = {
            let inner = self.lock();
            (inner.primary.clone(), (inner.book.len(), inner.book.last_epoch()))
        };
        for region in self.peers.candidates(known.as_deref()) {
            match self.peers.page(&region, position.0, position.1).await {
                Ok(page) if page.role == Role::Primary => {
                    match self.absorb(&page, &region) {
                        Ok(true) => self.pull_all(&region).await,
                        Ok(false) => {}
                        Err(error) => tracing::error!(%error, "cannot store what the primary has"),
                    }
                    return;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, region, "pull"),
            }
        }
        // Nobody to follow: no need to hurry.
        tokio::time::sleep(PULL).await;
    }

    /// Pulls until nothing more is there, or a page cannot be had.
    async fn pull_all(&self, region: &str) {
        loop {
            let (len, last_epoch) = {
                let inner = self.lock();
                (inner.book.len(), inner.book.last_epoch())
            };
            let page = match self.peers.page(region, len, last_epoch).await {
                Ok(page) => page,
                Err(error) => return tracing::warn!(%error, region, "catch up"),
            };
            let useful = page.keep < len || !page.entries.is_empty();
            match self.absorb(&page, region) {
                Ok(true) if useful => {}
                Ok(_) => return,
                Err(error) => return tracing::error!(%error, "cannot store what the peer has"),
            }
        }
    }

    /// Waits until the role is settled, for a bounded time.
    async fn settled(&self) -> bool {
        let mut phase = self.phase.subscribe();
        tokio::time::timeout(SETTLE, phase.wait_for(|phase| *phase == Phase::Settled)).await.is_ok_and(|r| r.is_ok())
    }
}
