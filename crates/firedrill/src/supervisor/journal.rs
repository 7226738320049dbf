//! The supervisor's bounded event log.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use xds::clock::Clock;

use super::api::{Event, EventKind, Events};

/// Events kept.
const KEPT: usize = 10_000;
/// Longest time that a reader may wait.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// Events in order.
#[derive(Debug)]
pub struct Journal {
    boot: String,
    clock: Clock,
    events: Mutex<VecDeque<Event>>,
    last: watch::Sender<u64>,
}

impl Journal {
    /// An empty log.
    pub fn new(boot: String, clock: Clock) -> Self {
        Self { boot, clock, events: Mutex::default(), last: watch::Sender::new(0) }
    }

    /// The clock of all stamps.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Adds an event.
    pub fn add(&self, kind: EventKind) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = *self.last.borrow() + 1;
        if events.len() >= KEPT {
            events.pop_front();
        }
        events.push_back(Event { sequence, time: self.clock.now(), kind });
        self.last.send_replace(sequence);
    }

    /// Events after a position, waiting at most `wait` for one.
    pub async fn after(&self, after: u64, wait: Duration) -> Events {
        let mut last = self.last.subscribe();
        // The wait being over is an answer too: no events.
        let _ = tokio::time::timeout(wait.min(MAX_WAIT), last.wait_for(|last| *last > after)).await;
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let first = events.front().map_or(after + 1, |event| event.sequence);
        Events {
            boot: self.boot.clone(),
            events: events.iter().filter(|event| event.sequence > after).cloned().collect(),
            dropped: first.saturating_sub(after.saturating_add(1)),
        }
    }
}
