//! A cluster's circuit breakers: what requests of each routing priority use at once, held against thresholds, and which of
//! them refuse. Using and leaving is one addition; only a refusal costs more.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use xds::{
    snapshot::{Bound, Cluster, RoutingPriority},
    status::BreakerStatus,
};

use crate::budget::TokenBucket;

/// One that refused nothing for this long is closed again. So transitions are told at this pace at most, however often
/// requests come and go around a threshold.
const QUIET: Duration = Duration::from_secs(1);

/// The breakers of a cluster.
#[derive(Debug)]
pub struct Breakers {
    by_priority: [Counters; 2],
    open: Mutex<Vec<Open>>,
}

/// What requests of one priority use.
#[derive(Debug)]
pub struct Counters {
    breakers: [Breaker; 4],
    budget: Mutex<TokenBucket>,
    /// Told when one of the connections ends.
    pub freed: Notify,
    /// Whether there ever was a request.
    asked: AtomicBool,
}

#[derive(Debug, Default)]
struct Breaker {
    used: AtomicU64,
    refused: AtomicU64,
    /// It is among those that are open; spares the lock.
    open: AtomicBool,
}

/// One that refused something not long ago.
#[derive(Debug)]
struct Open {
    priority: RoutingPriority,
    bound: Bound,
    /// When it was last looked at, and how many it had refused by then.
    looked: Instant,
    refused: u64,
}

/// One that is closed again, and how many it has ever refused.
pub type Closed = (RoutingPriority, Bound, u64);

impl Breakers {
    /// Nothing in use; budgets are as full as time makes them.
    pub fn new(config: &Cluster, now: Instant) -> Self {
        let counters = |priority| Counters {
            breakers: Default::default(),
            budget: Mutex::new(TokenBucket::new(config.breakers_of(priority), now)),
            freed: Notify::new(),
            asked: AtomicBool::new(false),
        };
        Self { by_priority: RoutingPriority::ALL.map(counters), open: Mutex::default() }
    }

    /// Of one priority.
    pub fn of(&self, priority: RoutingPriority) -> &Counters {
        match priority {
            RoutingPriority::Default => &self.by_priority[0],
            RoutingPriority::High => &self.by_priority[1],
        }
    }

    /// Takes note of a refusal; true when it opens the breaker.
    pub fn refuse(&self, priority: RoutingPriority, bound: Bound, now: Instant) -> bool {
        let breaker = self.of(priority).breaker(bound);
        let refused = breaker.refused.fetch_add(1, Ordering::Relaxed) + 1;
        if breaker.open.load(Ordering::Relaxed) {
            return false;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let opens = !breaker.open.swap(true, Ordering::Relaxed);
        if opens {
            open.push(Open { priority, bound, looked: now, refused });
        }
        opens
    }

    /// Those that have been quiet for long enough.
    pub fn close(&self, now: Instant) -> Vec<Closed> {
        let mut closed = Vec::new();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain_mut(|open| {
            if now.saturating_duration_since(open.looked) < QUIET {
                return true;
            }
            let breaker = self.of(open.priority).breaker(open.bound);
            let refused = breaker.refused.load(Ordering::Relaxed);
            if refused > open.refused {
                (open.looked, open.refused) = (now, refused);
                return true;
            }
            breaker.open.store(false, Ordering::Relaxed);
            closed.push((open.priority, open.bound, refused));
            false
        });
        closed
    }

    /// When to look again; `None` while all are closed.
    pub fn next_look(&self) -> Option<Instant> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().filter_map(|open| open.looked.checked_add(QUIET)).min()
    }

    /// Those that hold or have refused something.
    pub fn status(&self) -> Vec<BreakerStatus> {
        let each = RoutingPriority::ALL.into_iter().flat_map(|p| Bound::ALL.into_iter().map(move |bound| (p, bound)));
        let status = each.map(|(priority, bound)| {
            let Breaker { used, refused, open } = self.of(priority).breaker(bound);
            let (used, refused) = (used.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
            BreakerStatus { priority, bound, used, refused, open: open.load(Ordering::Relaxed) }
        });
        status.filter(|status| status.used > 0 || status.refused > 0).collect()
    }
}

impl Counters {
    /// Uses one more of what is bounded; false when there are as many as may be.
    pub fn enter(&self, bound: Bound, most: u32) -> bool {
        let breaker = self.breaker(bound);
        let enters = breaker.used.fetch_add(1, Ordering::Relaxed) < u64::from(most);
        if !enters {
            breaker.used.fetch_sub(1, Ordering::Relaxed);
        } else if bound == Bound::Requests && !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
        }
        enters
    }

    /// Gives back what [`Counters::enter`] took.
    pub fn leave(&self, bound: Bound) {
        self.breaker(bound).used.fetch_sub(1, Ordering::Relaxed);
    }

    /// At this moment.
    pub fn used(&self, bound: Bound) -> u64 {
        self.breaker(bound).used.load(Ordering::Relaxed)
    }

    /// Whether there ever was a request.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// What pays for retries and hedges.
    pub fn budget(&self) -> std::sync::MutexGuard<'_, TokenBucket> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breaker(&self, bound: Bound) -> &Breaker {
        match bound {
            Bound::Connections => &self.breakers[0],
            Bound::Pending => &self.breakers[1],
            Bound::Requests => &self.breakers[2],
            Bound::Retries => &self.breakers[3],
        }
    }
}

#[cfg(test)]
mod tests {
    use xds::snapshot::UpstreamProtocol;

    use super::*;

    fn breakers(now: Instant) -> Breakers {
        Breakers::new(&Cluster::new("x", UpstreamProtocol::Http1), now)
    }

    #[test]
    fn priorities_are_counted_apart() {
        let breakers = breakers(Instant::now());
        let [default, high] = RoutingPriority::ALL.map(|priority| breakers.of(priority));
        assert!(default.enter(Bound::Requests, 1));
        assert!(!default.enter(Bound::Requests, 1));
        assert!(default.enter(Bound::Pending, 1), "another bound");
        assert!(!high.asked());
        assert!(high.enter(Bound::Requests, 1), "another priority");
        assert!(high.asked());
        default.leave(Bound::Requests);
        assert!(default.enter(Bound::Requests, 1));
        assert_eq!([default, high].map(|counters| counters.used(Bound::Requests)), [1, 1]);
    }

    /// What happens at which millisecond, whether a refusal opens, and who closes.
    #[test]
    fn an_open_breaker_is_told_once_until_it_was_quiet() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let breakers = breakers(start);
        let refuse = |priority, millis| breakers.refuse(priority, Bound::Requests, at(millis));
        let (default, high) = (RoutingPriority::Default, RoutingPriority::High);
        assert_eq!(breakers.next_look(), None);
        assert!(refuse(default, 0));
        assert!(!refuse(default, 10), "told already");
        assert!(refuse(high, 500), "the other one was not");
        assert_eq!(breakers.next_look(), Some(at(1000)));
        assert_eq!(breakers.close(at(999)), []);
        assert_eq!(breakers.close(at(1000)), [], "it refused one more meanwhile");
        assert_eq!(breakers.next_look(), Some(at(1500)));
        assert_eq!(breakers.close(at(1500)), [(high, Bound::Requests, 1)]);
        assert_eq!(breakers.close(at(2000)), [(default, Bound::Requests, 2)]);
        assert_eq!(breakers.next_look(), None);
        let open = |priority, refused, open| BreakerStatus { priority, bound: Bound::Requests, used: 0, refused, open };
        assert!(refuse(default, 2500));
        assert_eq!(breakers.status(), [open(default, 3, true), open(high, 1, false)]);
    }
}
