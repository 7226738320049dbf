//! Holds: a region is kept down only as long as somebody says so.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use xds::lease::Leases;

use super::{
    api::{EventKind, HoldReport, HoldRequest, MAX_TTL_MS},
    journal::Journal,
    keeper::Keeper,
};

/// Why a hold is not had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// The request makes no sense.
    #[error("{0}")]
    Malformed(String),
    /// It cannot be taken now.
    #[error("{0}")]
    Conflict(String),
    /// It lapsed, was released, or never was.
    #[error("no hold `{0}` is in force")]
    Gone(String),
}

#[derive(Default)]
struct Table {
    leases: Leases<String>,
    regions: BTreeMap<String, Held>,
}

struct Held {
    request: HoldRequest,
    /// Once it is certain.
    report: Option<HoldReport>,
}

/// Holds in force. Cheap to clone.
#[derive(Clone)]
pub struct Holds {
    table: Arc<Mutex<Table>>,
    taken: Arc<Notify>,
    keeper: Keeper,
    journal: Arc<Journal>,
}

impl Holds {
    /// None yet. [`Holds::lapse`] must run beside it.
    pub fn new(keeper: Keeper, journal: Arc<Journal>) -> Self {
        Self { table: Arc::default(), taken: Arc::default(), keeper, journal }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a hold; returns when the region is certainly down. The same request again gives the same report.
    ///
    /// # Errors
    /// When it makes no sense, or the region cannot be held.
    pub async fn take(&self, request: HoldRequest) -> Result<HoldReport, HoldError> {
        if request.id.is_empty() || request.id.len() > 200 {
            return Err(HoldError::Malformed("a hold's id has 1 to 200 characters".to_owned()));
        }
        if !(1..=MAX_TTL_MS).contains(&request.ttl_ms) {
            return Err(HoldError::Malformed(format!("ttlMs must be 1 to {MAX_TTL_MS}")));
        }
        let id = request.id.clone();
        {
            let mut table = self.lock();
            if let Some(held) = table.regions.get(&id) {
                let same = held.request.region == request.region && held.request.how == request.how;
                return match held.report.clone().filter(|_| same) {
                    Some(report) => {
                        table.leases.renew(&id, Instant::now());
                        Ok(report)
                    }
                    None => Err(HoldError::Conflict(format!("hold `{id}` is in force already"))),
                };
            }
            table.leases.take(id.clone(), Duration::from_millis(request.ttl_ms), Instant::now());
            table.regions.insert(id.clone(), Held { request: request.clone(), report: None });
        }
        self.taken.notify_one();
        self.journal.add(EventKind::HoldTaken { hold: id.clone(), region: request.region.clone() });
        // In a task of its own: a caller that goes away must not leave a region half down.
        let keeper = self.keeper.clone();
        let (region, how, hold) = (request.region.clone(), request.how, id.clone());
        let struck = tokio::spawn(async move { keeper.hold(&region, how, &hold).await }).await;
        match struck.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(hit) => {
                let report = HoldReport {
                    id: id.clone(),
                    workloads: hit.workloads,
                    proxies: hit.proxies,
                    effective: hit.first,
                    complete: hit.last,
                };
                if let Some(held) = self.lock().regions.get_mut(&id) {
                    held.report = Some(report.clone());
                }
                Ok(report)
            }
            Err(reason) => {
                self.drop_failed(&id, &request.region);
                Err(HoldError::Conflict(reason))
            }
        }
    }

    /// A hold that failed half-way releases what it struck, unless another one has the region.
    fn drop_failed(&self, id: &str, region: &str) {
        let another = {
            let mut table = self.lock();
            table.leases.release(&id.to_owned());
            table.regions.remove(id);
            table.regions.values().any(|held| held.request.region == region)
        };
        if !another {
            self.keeper.release(region);
        }
        self.journal.add(EventKind::HoldEnded { hold: id.to_owned(), lapsed: false });
    }

    /// Renews a hold.
    ///
    /// # Errors
    /// When it is not in force any more.
    pub fn heartbeat(&self, id: &str) -> Result<(), HoldError> {
        let renewed = self.lock().leases.renew(&id.to_owned(), Instant::now());
        self.taken.notify_one();
        if renewed { Ok(()) } else { Err(HoldError::Gone(id.to_owned())) }
    }

    /// Ends a hold; one that is not in force is ended already.
    pub fn release(&self, id: &str) {
        let held = {
            let mut table = self.lock();
            table.leases.release(&id.to_owned());
            table.regions.remove(id)
        };
        if let Some(held) = held {
            self.end(held, false);
        }
    }

    fn end(&self, held: Held, lapsed: bool) {
        self.keeper.release(&held.request.region);
        self.journal.add(EventKind::HoldEnded { hold: held.request.id, lapsed });
    }

    /// Ends holds whose heartbeats stay away. Never returns.
    pub async fn lapse(self) {
        loop {
            let next = self.lock().leases.next_deadline();
            match next {
                None => self.taken.notified().await,
                Some(deadline) => {
                    // Either way the table is looked at again.
                    let _ = tokio::time::timeout_at(deadline.into(), self.taken.notified()).await;
                }
            }
            let lapsed: Vec<Held> = {
                let mut table = self.lock();
                let ids = table.leases.expire(Instant::now());
                ids.iter().filter_map(|id| table.regions.remove(id)).collect()
            };
            for held in lapsed {
                tracing::warn!(hold = held.request.id, region = held.request.region, "hold lapsed");
                self.end(held, true);
            }
        }
    }
}
