//! Turns of tests that share a machine: each says how much of it its processes keep busy, and waits here until there is
//! room. `make e2e` gives every test a thread, so that those that mostly wait run side by side, and those that judge how
//! fast something is never run beside what burns the processors.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    num::NonZero,
    sync::{Condvar, LazyLock, Mutex, PoisonError},
    thread,
    time::Instant,
};

/// What a test keeps busy while it runs, in tenths of a processor: processor time by length, as measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Less than a mesh; it nearly only waits.
    Little,
    /// A mesh of our proxies; it mostly waits.
    Mesh,
    /// A mesh that is judged by how fast it is; twice what it needs, so that it finds that free.
    Judged,
    /// Envoys, whose starts take a second of a processor each; large bodies; load. Never beside what is judged.
    Busy,
    /// Everything.
    Machine,
}

impl Share {
    fn size(self, room: u32) -> u32 {
        match self {
            Self::Little => 1,
            Self::Mesh => 2,
            Self::Judged => 4,
            Self::Busy => 6,
            Self::Machine => room,
        }
    }
}

/// A test's turn; it ends when it is dropped.
#[derive(Debug)]
pub struct Turn {
    share: Share,
    began: Instant,
}

impl Turn {
    /// Waits until there is room. It blocks the thread, on which nothing of the test runs yet.
    pub fn take(share: Share) -> Self {
        let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = queue.arrive(share);
        while !queue.admit(ticket) {
            queue = CHANGED.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        // The next one may fit, too.
        CHANGED.notify_all();
        Self { share, began: Instant::now() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        QUEUE.lock().unwrap_or_else(PoisonError::into_inner).leave(self.share);
        CHANGED.notify_all();
        let took = self.began.elapsed().as_secs_f64();
        println!("turn: {took:.1} s of {}", thread::current().name().unwrap_or_default());
    }
}

static QUEUE: LazyLock<Mutex<Queue>> = LazyLock::new(|| {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    Mutex::new(Queue::new(u32::try_from(processors).unwrap_or(u32::MAX)))
});
static CHANGED: Condvar = Condvar::new();

/// Who waits: by size, then by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(Reverse<u32>, u64);

/// Who runs, and who waits. Pure.
#[derive(Debug)]
pub struct Queue {
    room: u32,
    running: Vec<Share>,
    arrived: u64,
    waiting: BTreeMap<Ticket, Share>,
}

impl Queue {
    /// Nobody, on so many processors. A fifth of them is left for starts, and for what else the machine does.
    pub fn new(processors: u32) -> Self {
        Self { room: processors.saturating_mul(8), running: Vec::new(), arrived: 0, waiting: BTreeMap::new() }
    }

    /// Somebody waits.
    pub fn arrive(&mut self, share: Share) -> Ticket {
        self.arrived += 1;
        let ticket = Ticket(Reverse(share.size(self.room)), self.arrived);
        self.waiting.insert(ticket, share);
        ticket
    }

    fn fits(&self, share: Share) -> bool {
        let taken: u32 = self.running.iter().map(|other| other.size(self.room)).sum();
        let foe = match share {
            Share::Judged => Some(Share::Busy),
            Share::Busy => Some(Share::Judged),
            _ => None,
        };
        taken + share.size(self.room) <= self.room && foe.is_none_or(|foe| !self.running.contains(&foe))
    }

    /// Whether it is this one's turn, which begins then: the largest that fits is next; what is too large waits until others
    /// have gone.
    pub fn admit(&mut self, ticket: Ticket) -> bool {
        let first = self.waiting.iter().find(|(_, share)| self.fits(**share));
        let Some((_, share)) = first.filter(|(first, _)| **first == ticket) else { return false };
        self.running.push(*share);
        self.waiting.remove(&ticket);
        true
    }

    /// A turn has ended.
    pub fn leave(&mut self, share: Share) {
        let at = self.running.iter().position(|other| *other == share).expect("it was admitted");
        self.running.swap_remove(at);
    }
}
