//! Keeping time for open-loop probes.
//!
//! A thread of its own, because the timers of an async runtime have a granularity of 1 ms, and latency counts from due.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use evidence::record::Nanos;
use tokio::sync::mpsc;

use crate::clock::AttemptClock;

/// Due requests that may wait for the sender: many seconds of any sensible rate.
const BACKLOG: usize = 65_536;

/// When a probe's requests are due.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub first: Nanos,
    pub interval: Nanos,
}

/// A request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub probe: usize,
    pub sequence: u64,
    pub time: Nanos,
}

/// The next due request of all probes, in order of time.
#[derive(Debug)]
struct Agenda {
    next: Vec<(Due, Nanos)>,
}

impl Agenda {
    fn new(paces: &[Pace]) -> Self {
        let first =
            |(probe, pace): (usize, &Pace)| (Due { probe, sequence: 0, time: pace.first }, pace.interval.max(1));
        Self { next: paces.iter().enumerate().map(first).collect() }
    }

    fn peek(&self) -> Option<Due> {
        self.next.iter().map(|(due, _)| *due).min_by_key(|due| due.time)
    }

    fn advance(&mut self, probe: usize) {
        if let Some((due, interval)) = self.next.get_mut(probe) {
            due.sequence += 1;
            due.time = due.time.saturating_add(*interval);
        }
    }
}

/// The running time keeper.
#[derive(Debug)]
pub struct Pacer {
    stopped: Arc<AtomicBool>,
    thread: Thread,
}

impl Pacer {
    /// Starts it; due requests come out of the receiver, which ends when the pacer is stopped or dropped.
    pub fn start(clock: AttemptClock, paces: Vec<Pace>) -> io::Result<(Self, mpsc::Receiver<Due>)> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = stopped.clone();
        let handle = thread::Builder::new().name("pace".into()).spawn(move || {
            let mut agenda = Agenda::new(&paces);
            while let Some(due) = agenda.peek() {
                let at = clock.instant(due.time);
                loop {
                    if flag.load(Ordering::Acquire) {
                        return;
                    }
                    let wait = at.saturating_duration_since(Instant::now());
                    if wait == Duration::ZERO {
                        break;
                    }
                    thread::park_timeout(wait);
                }
                // A full backlog means that the sender has stood still for seconds: it waits here, and what is then
                // late counts as not sent.
                if sender.blocking_send(due).is_err() {
                    return;
                }
                agenda.advance(due.probe);
            }
        })?;
        Ok((Self { stopped, thread: handle.thread().clone() }, receiver))
    }

    /// Nothing is due any more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_requests_come_in_order_of_time() {
        let mut agenda = Agenda::new(&[Pace { first: 0, interval: 10 }, Pace { first: 5, interval: 4 }]);
        let mut seen = Vec::new();
        for _ in 0..6 {
            let due = agenda.peek().unwrap();
            seen.push((due.time, due.probe, due.sequence));
            agenda.advance(due.probe);
        }
        assert_eq!(seen, [(0, 0, 0), (5, 1, 0), (9, 1, 1), (10, 0, 1), (13, 1, 2), (17, 1, 3)]);
        assert_eq!(Agenda::new(&[]).peek(), None);
    }
}
