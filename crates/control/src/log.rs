//! The merged event log: what proxies told and what the control plane did, in order of arrival; bounded.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use xds::{
    clock::{Clock, Stamp},
    event::Event,
};

use crate::{
    api::{ControlEvent, Events, LogEntry, Logged},
    secret,
};

/// Entries that are kept.
const KEPT: usize = 100_000;
/// Entries in one answer.
const PAGE: usize = 1_000;

/// The log.
pub(crate) struct Log {
    clock: Clock,
    boot: String,
    entries: Mutex<Entries>,
    last: watch::Sender<u64>,
}

struct Entries {
    first: u64,
    kept: VecDeque<LogEntry>,
}

impl Log {
    /// An empty log. Its sequence begins at the wall clock in microseconds, so that it goes on growing over a restart.
    pub(crate) fn new(clock: Clock) -> io::Result<Self> {
        let first = clock.now().0.max(0).unsigned_abs() / 1_000 + 1;
        let entries = Mutex::new(Entries { first, kept: VecDeque::new() });
        Ok(Self { clock, boot: secret::random_hex(8)?, entries, last: watch::Sender::new(first - 1) })
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, time: Stamp, what: Logged) {
        let mut entries = self.entries();
        let sequence = entries.first + entries.kept.len() as u64;
        entries.kept.push_back(LogEntry { sequence, time, what });
        if entries.kept.len() > KEPT {
            entries.kept.pop_front();
            entries.first += 1;
        }
        self.last.send_replace(sequence);
    }

    /// Adds what the control plane did or saw.
    pub(crate) fn say(&self, event: ControlEvent) {
        tracing::info!(event = %serde_json::to_string(&event).unwrap_or_default(), "control event");
        self.push(self.clock.now(), Logged::Control(event));
    }

    /// Adds what another instance of the control plane did.
    pub(crate) fn hear(&self, time: Stamp, event: ControlEvent) {
        self.push(time, Logged::Control(event));
    }

    /// Adds what a proxy told.
    pub(crate) fn tell(&self, proxy: &str, boot: &str, event: Event) {
        let (proxy, boot) = (proxy.to_owned(), boot.to_owned());
        self.push(event.time, Logged::Proxy { proxy, boot, event });
    }

    fn page(&self, after: u64) -> Events {
        let entries = self.entries();
        let end = entries.first + entries.kept.len() as u64;
        // A position from the future is of another log; what it missed of this one cannot be known, so it gets nothing
        // until the log is there.
        let from = after.saturating_add(1).clamp(entries.first, end);
        let dropped = if after == 0 { 0 } else { entries.first.saturating_sub(after.saturating_add(1)) };
        let skip = usize::try_from(from - entries.first).unwrap_or(usize::MAX);
        let events: Vec<_> = entries.kept.iter().skip(skip).take(PAGE).cloned().collect();
        let next = events.last().map_or(from - 1, |last| last.sequence);
        Events { boot: self.boot.clone(), events, next, dropped }
    }

    /// Entries after a position; waits for one at most this long.
    pub(crate) async fn after(&self, after: u64, wait: Duration) -> Events {
        let mut last = self.last.subscribe();
        let page = self.page(after);
        if !page.events.is_empty() || wait.is_zero() {
            return page;
        }
        // Out of time is an empty page; the sender lives as long as self.
        let _ = tokio::time::timeout(wait, last.changed()).await;
        self.page(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(log: &Log, n: usize) {
        for _ in 0..n {
            log.push(Stamp(0), Logged::Control(ControlEvent::FailbackDone { plan: String::new() }));
        }
    }

    #[tokio::test]
    async fn pages_follow_each_other_and_gaps_are_told() {
        let log = Log::new(Clock::anchored()).unwrap();
        let empty = log.after(0, Duration::ZERO).await;
        assert_eq!((empty.events.len(), empty.dropped), (0, 0));
        lost(&log, 2_500);
        let mut after = 0;
        for expected in [1_000, 1_000, 500, 0] {
            let page = log.after(after, Duration::ZERO).await;
            assert_eq!((page.events.len(), page.dropped), (expected, 0));
            after = page.next;
        }
        lost(&log, KEPT + 7);
        let page = log.after(after, Duration::ZERO).await;
        assert_eq!((page.events.len(), page.dropped), (PAGE, 7));
        assert_eq!(page.events[0].sequence, after + 8);
    }

    #[tokio::test]
    async fn a_waiting_reader_gets_the_next_entry() {
        let log = std::sync::Arc::new(Log::new(Clock::anchored()).unwrap());
        let after = log.after(0, Duration::ZERO).await.next;
        let reader = tokio::spawn({
            let log = log.clone();
            async move { log.after(after, Duration::from_secs(30)).await }
        });
        tokio::task::yield_now().await;
        lost(&log, 1);
        assert_eq!(reader.await.unwrap().events.len(), 1);
    }
}
