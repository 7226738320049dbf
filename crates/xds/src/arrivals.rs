//! A bound on connections that have not proved anything yet. When it is reached, the newcomer is served and the oldest
//! connection of the source with the most connections is ended, so that idle ones cannot keep others out.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

/// Connections in the order of their arrival. Pure.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<u64, IpAddr>,
    by_source: BTreeMap<IpAddr, usize>,
    next: u64,
}

impl Queue {
    /// Adds one; answers its number and the one to end for it, if there are more than `most` now.
    fn add(&mut self, source: IpAddr, most: usize) -> (u64, Option<u64>) {
        let number = self.next;
        self.next += 1;
        let victim = if self.waiting.len() >= most { self.oldest_of_the_largest(source) } else { None };
        if let Some(victim) = victim {
            self.remove(victim);
        }
        self.waiting.insert(number, source);
        *self.by_source.entry(source).or_default() += 1;
        (number, victim)
    }

    /// The newcomer counts as one of its source, so that a source alone at the bound makes room for itself.
    fn oldest_of_the_largest(&self, newcomer: IpAddr) -> Option<u64> {
        let size = |source: &IpAddr, count: &usize| count + usize::from(*source == newcomer);
        let largest = self.by_source.iter().map(|(source, count)| size(source, count)).max()?;
        let is_largest =
            |source: &IpAddr| self.by_source.get(source).is_some_and(|count| size(source, count) == largest);
        self.waiting.iter().find(|(_, source)| is_largest(source)).map(|(number, _)| *number)
    }

    fn remove(&mut self, number: u64) {
        let Some(source) = self.waiting.remove(&number) else { return };
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    ends: BTreeMap<u64, Arc<Notify>>,
}

/// The bound. Clones share it.
#[derive(Clone, Debug)]
pub struct Arrivals {
    state: Arc<Mutex<State>>,
    most: usize,
}

impl Arrivals {
    /// At most `most` connections at once.
    pub fn new(most: usize) -> Self {
        Self { state: Arc::default(), most: most.max(1) }
    }

    /// Takes a connection in. If there are too many, another one is told to end.
    pub fn admit(&self, source: IpAddr) -> Arrival {
        let end = Arc::new(Notify::new());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, victim) = state.queue.add(source, self.most);
        let victim = victim.and_then(|victim| state.ends.remove(&victim));
        state.ends.insert(number, end.clone());
        drop(state);
        if let Some(victim) = victim {
            victim.notify_one();
        }
        Arrival { arrivals: self.clone(), number, end }
    }

    /// Number of connections that count now.
    pub fn count(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).queue.waiting.len()
    }
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
pub struct Arrival {
    arrivals: Arrivals,
    number: u64,
    end: Arc<Notify>,
}

impl Arrival {
    /// Waits until the connection must make room for another one.
    pub async fn shed(&self) {
        self.end.notified().await;
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut state = self.arrivals.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.queue.remove(self.number);
        state.ends.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    #[test]
    fn the_oldest_of_the_largest_source_makes_room() {
        let mut queue = Queue::default();
        let add = |queue: &mut Queue, source| queue.add(ip(source), 4).1;
        // A quiet source first; then one that fills the bound.
        for source in [1, 2, 2, 2] {
            assert_eq!(add(&mut queue, source), None);
        }
        assert_eq!(add(&mut queue, 2), Some(1), "its own oldest, not the quiet source's");
        assert_eq!(add(&mut queue, 3), Some(2), "a newcomer is served at the cost of the largest");
        // 1, 2, 2, 3: the oldest of those that are the largest with the newcomer.
        assert_eq!(add(&mut queue, 3), Some(3));
        queue.remove(0);
        assert_eq!(add(&mut queue, 9), None, "an end makes room");
        assert_eq!(queue.waiting.len(), 4);
        assert_eq!(queue.by_source.values().sum::<usize>(), 4);
    }

    #[tokio::test]
    async fn any_number_of_newcomers_leaves_the_bound_of_connections() {
        let arrivals = Arrivals::new(8);
        let mut held: Vec<Arrival> = Vec::new();
        for number in 0..1000u32 {
            held.push(arrivals.admit(IpAddr::from((0x7f00_0000 + number % 300).to_be_bytes())));
            assert!(arrivals.count() <= 8);
        }
        // The first was told to end; the last was not.
        held[0].shed().await;
        let last = held.last().unwrap().shed();
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), last).await.is_err());
        drop(held);
        assert_eq!(arrivals.count(), 0);
    }
}
