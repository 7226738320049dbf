//! Requests for whoever asks: the lines of the access log, kept in a bounded ring as long as somebody comes to read them. Each
//! question keeps it going for a while; nobody needs to end it, and nothing is collected for nobody.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::watch;

use crate::access::Line;

/// Lines kept for a reader.
const CAPACITY: usize = 8192;
/// Lines in one answer.
const PAGE: usize = 2048;
/// How long lines are collected after a question.
const ATTENTION: Duration = Duration::from_secs(3);

/// Collects lines while it is asked.
#[derive(Debug)]
pub struct Tap {
    start: Instant,
    /// Until when, in milliseconds after the start; 0 if it was never asked.
    until: AtomicU64,
    /// The same for those who wait for it to change.
    asked: watch::Sender<Option<Instant>>,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Arc<Line>>,
    /// Of the newest line, from 1.
    last: u64,
}

/// What a reader gets.
#[derive(Debug, Serialize)]
pub struct Page {
    /// Number of the newest line in here, from which to read on.
    last: u64,
    /// Lines after the reader's position that were let go before it came.
    dropped: u64,
    /// In order of their ends.
    requests: Vec<Arc<Line>>,
}

impl Default for Tap {
    fn default() -> Self {
        let asked = watch::Sender::new(None);
        Self { start: Instant::now(), until: AtomicU64::new(0), asked, ring: Mutex::default() }
    }
}

impl Tap {
    /// Whether somebody wants lines now.
    pub fn is_open(&self, now: Instant) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until != 0 && self.millis(now) < until
    }

    /// Until when somebody wants lines, as it changes; `None` before the first question.
    pub fn asked(&self) -> watch::Receiver<Option<Instant>> {
        self.asked.subscribe()
    }

    /// Keeps a line.
    pub fn line(&self, line: Arc<Line>) {
        let mut ring = self.ring();
        if ring.lines.len() == CAPACITY {
            ring.lines.pop_front();
        }
        ring.lines.push_back(line);
        ring.last += 1;
    }

    /// Lines after a position; none without one, which is the beginning.
    pub fn read(&self, after: Option<u64>, now: Instant) -> Page {
        let was_open = self.is_open(now);
        let until = now + ATTENTION;
        self.until.store(self.millis(until), Ordering::Relaxed);
        self.asked.send_replace(Some(until));
        let mut ring = self.ring();
        if !was_open {
            // Between two readers nothing was collected: what is there is of no stretch that anybody asked for.
            ring.lines.clear();
        }
        let Some(after) = after else { return Page { last: ring.last, dropped: 0, requests: Vec::new() } };
        // A position that is not of this process is read from the beginning.
        let after = after.min(ring.last);
        let first = ring.last - ring.lines.len() as u64;
        let dropped = first.saturating_sub(after);
        let skip = usize::try_from(after.saturating_sub(first)).unwrap_or(usize::MAX);
        let requests: Vec<_> = ring.lines.iter().skip(skip).take(PAGE).cloned().collect();
        Page { last: first.max(after) + requests.len() as u64, dropped, requests }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    /// Plain data: a thread that panicked with it in hand left it usable.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64) -> Arc<Line> {
        Arc::new(Line { bytes_sent: number, ..Line::default() })
    }

    fn told(page: &Page) -> (u64, u64, Vec<u64>) {
        (page.last, page.dropped, page.requests.iter().map(|line| line.bytes_sent).collect())
    }

    #[test]
    fn it_is_open_for_a_while_after_each_question() {
        let tap = Tap::default();
        let start = Instant::now();
        assert!(!tap.is_open(start));
        assert_eq!(told(&tap.read(None, start)), (0, 0, vec![]));
        assert!(tap.is_open(start + ATTENTION / 2));
        assert!(!tap.is_open(start + ATTENTION * 2));
        assert!(tap.asked().borrow().is_some_and(|until| until == start + ATTENTION));
    }

    #[test]
    fn a_reader_gets_each_line_once_and_learns_what_it_missed() {
        let tap = Tap::default();
        let now = Instant::now();
        tap.read(None, now);
        (1..=3).for_each(|number| tap.line(line(number)));
        assert_eq!(told(&tap.read(Some(0), now)), (3, 0, vec![1, 2, 3]));
        assert_eq!(told(&tap.read(Some(2), now)), (3, 0, vec![3]));
        assert_eq!(told(&tap.read(Some(3), now)), (3, 0, vec![]));
        (4..=3 + CAPACITY as u64 + 10).for_each(|number| tap.line(line(number)));
        let page = tap.read(Some(3), now);
        assert_eq!((page.dropped, page.requests.len(), page.requests[0].bytes_sent), (10, PAGE, 14));
        assert_eq!(tap.read(Some(page.last), now).requests[0].bytes_sent, page.requests[PAGE - 1].bytes_sent + 1);
        // A position of another process.
        assert_eq!(tap.read(Some(u64::MAX), now).requests.len(), 0);
    }

    #[test]
    fn what_a_former_reader_left_is_nobodys() {
        let tap = Tap::default();
        let now = Instant::now();
        tap.read(None, now);
        tap.line(line(1));
        let late = now + ATTENTION * 2;
        let begun = tap.read(None, late);
        tap.line(line(2));
        assert_eq!(told(&tap.read(Some(begun.last), late)), (2, 0, vec![2]));
    }
}
