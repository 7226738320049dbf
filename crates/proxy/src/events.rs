//! The ordered, bounded event log: every transition with its time and cause, for the drill and for the audit.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;
use xds::{
    clock::Clock,
    event::{Event, EventKind},
};

/// Events kept; older ones are counted as dropped for readers that come late.
const CAPACITY: usize = 4096;

/// What a reader of the log gets.
#[derive(Clone, Debug)]
pub struct Page {
    /// In order, without gaps among themselves.
    pub events: Vec<Event>,
    /// How many events after the reader's position were discarded before it came.
    pub dropped: u64,
}

#[derive(Debug)]
struct Entries {
    kept: VecDeque<Event>,
    counts: BTreeMap<&'static str, u64>,
}

/// Appended to by whoever makes a transition, at the moment it takes effect.
#[derive(Debug)]
pub struct EventLog {
    clock: Clock,
    entries: Mutex<Entries>,
    last: watch::Sender<u64>,
}

impl EventLog {
    /// An empty log whose events carry this clock's readings.
    pub fn new(clock: Clock) -> Self {
        let entries = Entries { kept: VecDeque::with_capacity(256), counts: BTreeMap::new() };
        Self { clock, entries: Mutex::new(entries), last: watch::Sender::new(0) }
    }

    /// Appends an event that happens now.
    pub fn push(&self, kind: EventKind) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, so that the order of the log is the order of its times.
        let time = self.clock.now();
        let sequence = *self.last.borrow() + 1;
        tracing::info!(sequence, event = ?kind, "event");
        *entries.counts.entry(name(&kind)).or_default() += 1;
        if entries.kept.len() == CAPACITY {
            entries.kept.pop_front();
        }
        entries.kept.push_back(Event { sequence, time, kind });
        self.last.send_replace(sequence);
    }

    /// Appends several in order.
    pub fn extend(&self, kinds: Vec<EventKind>) {
        for kind in kinds {
            self.push(kind);
        }
    }

    /// At most `limit` events with a sequence above `after`.
    pub fn after(&self, after: u64, limit: usize) -> Page {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = entries.kept.front().map(|event| event.sequence) else {
            return Page { events: Vec::new(), dropped: 0 };
        };
        let dropped = first.saturating_sub(after.saturating_add(1));
        let skip = usize::try_from(after.saturating_add(1).saturating_sub(first)).unwrap_or(usize::MAX);
        Page { events: entries.kept.iter().skip(skip).take(limit).cloned().collect(), dropped }
    }

    /// Sees the newest sequence change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// How many of each kind there were since the start.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.counts.iter().map(|(kind, count)| (*kind, *count)).collect()
    }
}

/// The name of an event's kind in metrics.
fn name(event: &EventKind) -> &'static str {
    match event {
        EventKind::Started { .. } => "started",
        EventKind::SnapshotApplied { .. } => "snapshotApplied",
        EventKind::SnapshotRejected { .. } => "snapshotRejected",
        EventKind::OverlayApplied { .. } => "overlayApplied",
        EventKind::OverlayEnded { .. } => "overlayEnded",
        EventKind::Health { .. } => "health",
        EventKind::Ejected { .. } => "ejected",
        EventKind::Readmitted { .. } => "readmitted",
        EventKind::TierLoad { .. } => "tierLoad",
        EventKind::Panic { .. } => "panic",
        EventKind::BreakerOpened { .. } => "breakerOpened",
        EventKind::BreakerClosed { .. } => "breakerClosed",
        EventKind::Switched { .. } => "switched",
        EventKind::FirstAnswer { .. } => "firstAnswer",
        EventKind::IdentityApplied { .. } => "identityApplied",
        EventKind::IdentityFailing { .. } => "identityFailing",
        EventKind::ControlLost { .. } => "controlLost",
        EventKind::ControlConnected => "controlConnected",
        EventKind::Draining => "draining",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_has_no_gaps_and_late_readers_learn_what_they_missed() {
        let log = EventLog::new(Clock::anchored());
        for _ in 0..CAPACITY + 10 {
            log.push(EventKind::ControlConnected);
        }
        let page = log.after(0, usize::MAX);
        assert_eq!(page.dropped, 10);
        assert_eq!(page.events.len(), CAPACITY);
        assert!(page.events.windows(2).all(|w| w[1].sequence == w[0].sequence + 1 && w[0].time <= w[1].time));
        let newest = page.events[CAPACITY - 1].sequence;
        assert_eq!(log.after(newest - 1, 10).events.len(), 1);
        assert!(log.after(newest, 10).events.is_empty());
        assert!(log.after(u64::MAX, 10).events.is_empty());
        assert_eq!(log.after(20, 5).events.len(), 5);
    }
}
