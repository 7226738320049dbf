//! Earliest deadline first: weighted turns whose weights may change between them. Pure.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Who is next, by deadline; after its turn each one's next deadline is `1 / weight` later.
#[derive(Debug)]
pub struct Schedule {
    queue: BinaryHeap<Reverse<Due>>,
    turns: u64,
}

#[derive(Debug)]
struct Due {
    at: f64,
    /// Among equals, who waited longer.
    turn: u64,
    index: usize,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.total_cmp(&other.at).then(self.turn.cmp(&other.turn))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl Schedule {
    /// With these weights, begun at a random point of the cycle, so that many do not begin with the same one.
    pub fn new(weights: impl IntoIterator<Item = f64>, random: &mut fastrand::Rng) -> Self {
        let due = |(index, weight): (usize, f64)| Reverse(Due { at: random.f64() / weight, turn: index as u64, index });
        let queue: BinaryHeap<_> = weights.into_iter().enumerate().map(due).collect();
        Self { turns: queue.len() as u64, queue }
    }

    /// Whose turn it is. One that may not be taken loses its turn; `None` if nobody may be taken.
    pub fn next(&mut self, allowed: impl Fn(usize) -> bool, weight: impl Fn(usize) -> f64) -> Option<usize> {
        for _ in 0..self.queue.len() {
            let Some(mut first) = self.queue.peek_mut() else { break };
            let index = first.0.index;
            self.turns += 1;
            first.0.at += 1.0 / weight(index).max(f64::MIN_POSITIVE);
            first.0.turn = self.turns;
            drop(first);
            if allowed(index) {
                return Some(index);
            }
        }
        // A heavy one that may not be taken can have all of these turns.
        self.queue.iter().map(|Reverse(due)| due.index).find(|index| allowed(*index))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn turns_follow_weights(weights in prop::collection::vec(1u32..50, 1..8), seed: u64) {
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let total: f64 = weights.iter().sum();
            let mut schedule = Schedule::new(weights.iter().copied(), &mut fastrand::Rng::with_seed(seed));
            let mut counts = vec![0.0; weights.len()];
            for _ in 0..2000 {
                counts[schedule.next(|_| true, |index| weights[index]).unwrap()] += 1.0;
            }
            for (index, weight) in weights.iter().enumerate() {
                // Never more than a turn or two from the ideal.
                prop_assert!((counts[index] - 2000.0 * weight / total).abs() < 3.0, "{counts:?} for {weights:?}");
            }
        }

        #[test]
        fn whoever_is_left_is_found(weights in prop::collection::vec(1u32..10_000, 1..8), left in 0usize..8) {
            let mut schedule =
                Schedule::new(weights.iter().copied().map(f64::from), &mut fastrand::Rng::with_seed(1));
            for _ in 0..20 {
                let next = schedule.next(|index| index == left, |index| f64::from(weights[index]));
                prop_assert_eq!(next, Some(left).filter(|left| *left < weights.len()));
            }
        }
    }
}
