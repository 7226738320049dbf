//! Label sets with their numbers, as many as are allowed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::metrics::text::Labels;

/// Label sets that are told apart; what comes beyond them is counted together.
const MOST: usize = 2048;

/// Numbers of type `S` by label set.
#[derive(Debug)]
pub struct Series<S> {
    sets: Mutex<BTreeMap<Labels, Arc<S>>>,
    surplus: fn() -> Labels,
}

impl<S: Default> Series<S> {
    /// None yet; `surplus` labels those that there is no room for.
    pub fn new(surplus: fn() -> Labels) -> Self {
        Self { sets: Mutex::default(), surplus }
    }

    /// The numbers of a label set, made when first asked for.
    pub fn find(&self, labels: Labels) -> Arc<S> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = if sets.len() < MOST || sets.contains_key(&labels) { labels } else { (self.surplus)() };
        sets.entry(labels).or_default().clone()
    }

    /// All, in the order of their labels.
    pub fn all(&self) -> Vec<(Labels, Arc<S>)> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.iter().map(|(labels, numbers)| (labels.clone(), numbers.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_counted_together() {
        let series = Series::<AtomicU64>::new(|| Labels::default().and("a", "other"));
        let count = |value: usize| series.find(Labels::default().and("a", value)).fetch_add(1, Ordering::Relaxed);
        for value in 0..MOST + 10 {
            count(value);
        }
        count(0);
        let all = series.all();
        assert_eq!(all.len(), MOST + 1);
        let of = |labels: Labels| all.iter().find(|(l, _)| *l == labels).unwrap().1.load(Ordering::Relaxed);
        assert_eq!(of(Labels::default().and("a", "other")), 10);
        assert_eq!(of(Labels::default().and("a", 0)), 2);
    }
}
