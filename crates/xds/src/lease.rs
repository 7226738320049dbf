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

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        Take(&'static str, u64, bool),
        Renew(&'static str, bool),
        RenewFor(&'static str, u64, bool),
        Release(&'static str, bool),
        Expire(&'static [&'static str]),
        Next(Option<u64>),
        Left(&'static str, Option<u64>),
    }

    /// Each step at a time in milliseconds after the start; deadlines are in the same measure.
    fn run(steps: &[(u64, Step)]) {
        let start = Instant::now();
        let mut leases = Leases::new();
        for (index, (at, step)) in steps.iter().enumerate() {
            let now = start + Duration::from_millis(*at);
            let millis = |ms: &u64| Duration::from_millis(*ms);
            match step {
                Step::Take(key, ttl, new) => assert_eq!(leases.take(*key, millis(ttl), now), *new, "step {index}"),
                Step::Renew(key, held) => assert_eq!(leases.renew(key, now), *held, "step {index}"),
                Step::RenewFor(key, ttl, held) => {
                    assert_eq!(leases.renew_for(key, millis(ttl), now), *held, "step {index}");
                }
                Step::Release(key, held) => assert_eq!(leases.release(key), *held, "step {index}"),
                Step::Expire(keys) => assert_eq!(leases.expire(now), *keys, "step {index}"),
                Step::Next(deadline) => {
                    let next = leases.next_deadline().map(|next| next - start);
                    assert_eq!(next, deadline.as_ref().map(millis), "step {index}");
                }
                Step::Left(key, left) => {
                    assert_eq!(leases.remaining(key, now), left.as_ref().map(millis), "step {index}");
                }
            }
        }
    }

    #[test]
    fn a_lease_lapses_at_its_deadline_and_not_before() {
        run(&[
            (0, Step::Next(None)),
            (0, Step::Take("a", 3000, true)),
            (0, Step::Take("b", 1000, true)),
            (0, Step::Next(Some(1000))),
            (999, Step::Expire(&[])),
            (999, Step::Left("b", Some(1))),
            (1000, Step::Expire(&["b"])),
            (1000, Step::Left("b", None)),
            (1000, Step::Next(Some(3000))),
            (9000, Step::Expire(&["a"])),
            (9000, Step::Next(None)),
        ]);
    }

    #[test]
    fn a_heartbeat_moves_the_deadline_and_cannot_revive() {
        run(&[
            (0, Step::Take("a", 1000, true)),
            (900, Step::Renew("a", true)),
            (900, Step::Next(Some(1900))),
            (1000, Step::Expire(&[])),
            (1000, Step::RenewFor("a", 200, true)),
            (1100, Step::Renew("a", true)),
            (1100, Step::Left("a", Some(200))),
            (1300, Step::Renew("a", false)),
            (1300, Step::Left("a", Some(0))),
            (1300, Step::Take("a", 1000, false)),
            (1300, Step::Expire(&[])),
            (1300, Step::Renew("b", false)),
        ]);
    }

    #[test]
    fn what_is_released_does_not_lapse() {
        run(&[
            (0, Step::Take("a", 1000, true)),
            (0, Step::Take("b", 1000, true)),
            (500, Step::Release("a", true)),
            (500, Step::Release("a", false)),
            (2000, Step::Expire(&["b"])),
        ]);
    }

    #[test]
    fn an_endless_lease_has_no_deadline() {
        let mut leases = Leases::new();
        let now = Instant::now();
        leases.take("a", Duration::MAX, now);
        assert_eq!(leases.next_deadline(), None);
        assert!(leases.expire(now + Duration::from_secs(1_000_000)).is_empty());
    }
}
