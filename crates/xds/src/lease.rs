//! The lease table: deadline arithmetic and nothing else. Time is passed in, so that tests own it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Leases by key. A lease that is not renewed within its time to live lapses; whoever holds the table asks
/// [`Leases::expire`] at [`Leases::next_deadline`].
#[derive(Clone, Debug)]
pub struct Leases<K> {
    held: BTreeMap<K, Lease>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Duration,
    deadline: Option<Instant>,
}

impl Lease {
    /// A deadline beyond what the clock can express never comes.
    fn until(ttl: Duration, now: Instant) -> Self {
        Self { ttl, deadline: now.checked_add(ttl) }
    }

    fn lapsed(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

impl<K> Default for Leases<K> {
    fn default() -> Self {
        Self { held: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Leases<K> {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a lease for `ttl` from `now`, or takes it anew if it is held. Returns whether it is new (a lease that
    /// lapsed but was not yet collected by [`Leases::expire`] counts as held).
    pub fn take(&mut self, key: K, ttl: Duration, now: Instant) -> bool {
        self.held.insert(key, Lease::until(ttl, now)).is_none()
    }

    /// A heartbeat: the deadline moves to `now` plus the lease's time to live. Returns false, and changes nothing, if
    /// the lease is not held or lapsed before `now`: a lapsed lease cannot be revived, only taken again.
    pub fn renew(&mut self, key: &K, now: Instant) -> bool {
        let Some(lease) = self.held.get_mut(key).filter(|lease| !lease.lapsed(now)) else { return false };
        *lease = Lease::until(lease.ttl, now);
        true
    }

    /// A heartbeat that also changes the time to live. Same answer as [`Leases::renew`].
    pub fn renew_for(&mut self, key: &K, ttl: Duration, now: Instant) -> bool {
        let Some(lease) = self.held.get_mut(key).filter(|lease| !lease.lapsed(now)) else { return false };
        *lease = Lease::until(ttl, now);
        true
    }

    /// Gives a lease back. Returns whether it was held.
    pub fn release(&mut self, key: &K) -> bool {
        self.held.remove(key).is_some()
    }

    /// Removes and returns every lease whose deadline is `now` or earlier, in order of keys.
    pub fn expire(&mut self, now: Instant) -> Vec<K> {
        let lapsed: Vec<K> =
            self.held.iter().filter(|(_, lease)| lease.lapsed(now)).map(|(key, _)| key.clone()).collect();
        for key in &lapsed {
            self.held.remove(key);
        }
        lapsed
    }

    /// When the next lease lapses if nobody renews it; `None` if none can.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.held.values().filter_map(|lease| lease.deadline).min()
    }

    /// Time left to a held lease at `now`: zero if it lapsed and was not collected yet, `None` if it is not held.
    pub fn remaining(&self, key: &K, now: Instant) -> Option<Duration> {
        let lease = self.held.get(key)?;
        Some(lease.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now)))
    }

    /// Whether a lease is held (and not collected).
    pub fn contains(&self, key: &K) -> bool {
        self.held.contains_key(key)
    }

    /// Keys of the leases held, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.held.keys()
    }

    /// Number of leases held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether no lease is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
