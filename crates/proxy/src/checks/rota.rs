//! Whose turn it is to be checked. Pure.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Instant,
};

use crate::upstream::host::HostId;

/// Entries of endpoints that left, or began anew, that are borne beside those that count.
const STALE: usize = 64;

/// Tells a turn from one that was given before the endpoint left or began anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn(u64);

/// Endpoints by when they are due. One that is due is not due again until [`Rota::again`].
#[derive(Debug, Default)]
pub struct Rota {
    queue: BinaryHeap<Reverse<(Instant, Turn, HostId)>>,
    turns: HashMap<HostId, Turn>,
    given: u64,
}

impl Rota {
    /// It is due at this time, whatever was known of it.
    pub fn enter(&mut self, id: HostId, at: Instant) {
        self.given += 1;
        let turn = Turn(self.given);
        self.turns.insert(id, turn);
        self.queue.push(Reverse((at, turn, id)));
        self.tidy();
    }

    /// It is never due again.
    pub fn leave(&mut self, id: HostId) {
        self.turns.remove(&id);
        self.tidy();
    }

    /// What was due in this turn is due again, unless it left or began anew meanwhile.
    pub fn again(&mut self, id: HostId, turn: Turn, at: Instant) {
        if self.turns.get(&id) == Some(&turn) {
            self.queue.push(Reverse((at, turn, id)));
        }
    }

    /// Whoever is due by now; `None` when that was all.
    pub fn due(&mut self, now: Instant) -> Option<(HostId, Turn)> {
        while self.next_deadline()? <= now {
            let Reverse((_, turn, id)) = self.queue.pop()?;
            if self.turns.get(&id) == Some(&turn) {
                return Some((id, turn));
            }
        }
        None
    }

    /// When to ask again.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, ..))| *at)
    }

    /// Endpoints that come and go between far deadlines leave nothing behind that grows.
    fn tidy(&mut self) {
        if self.queue.len() > 2 * self.turns.len() + STALE {
            self.queue.retain(|Reverse((_, turn, id))| self.turns.get(id) == Some(turn));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ids(count: u64) -> Vec<HostId> {
        (1..=count).map(HostId::of).collect()
    }

    #[test]
    fn the_earliest_is_first_and_not_due_twice() {
        let (mut rota, now, ids) = (Rota::default(), Instant::now(), ids(2));
        rota.enter(ids[0], now + Duration::from_secs(2));
        rota.enter(ids[1], now + Duration::from_secs(1));
        assert_eq!(rota.due(now), None);
        assert_eq!(rota.next_deadline(), Some(now + Duration::from_secs(1)));
        let later = now + Duration::from_secs(3);
        let (first, turn) = rota.due(later).unwrap();
        assert_eq!(first, ids[1]);
        assert_eq!(rota.due(later).unwrap().0, ids[0]);
        assert_eq!(rota.due(later), None);
        rota.again(first, turn, later);
        assert_eq!(rota.due(later), Some((first, turn)));
    }

    #[test]
    fn who_left_or_began_anew_is_not_due_by_an_old_turn() {
        let (mut rota, now, ids) = (Rota::default(), Instant::now(), ids(2));
        ids.iter().for_each(|id| rota.enter(*id, now));
        let (first, old) = rota.due(now).unwrap();
        rota.enter(first, now);
        rota.again(first, old, now);
        rota.leave(ids[1]);
        let (again, new) = rota.due(now).unwrap();
        assert_eq!(again, first);
        assert_ne!(new, old);
        assert_eq!(rota.due(now), None);
    }

    #[test]
    fn coming_and_going_leaves_nothing_that_grows() {
        let (mut rota, now) = (Rota::default(), Instant::now());
        for id in ids(10_000) {
            rota.enter(id, now + Duration::from_secs(3600));
            rota.leave(id);
        }
        assert!(rota.queue.len() <= STALE + 2);
    }
}
