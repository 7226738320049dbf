//! Who gets to the workload: requests in flight against a limit, and the answers from which the limit is made. Costs a
//! request a count at its beginning, one at its answer and one at its end.

mod gradient;
mod sketch;

use std::{
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::{request::Parts, uri::Authority};
use xds::snapshot;

use self::{
    gradient::{Gradient, Window},
    sketch::{RANGES, Sketch},
};

/// What is refused first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// What somebody waits for.
    Ordinary,
    /// A copy, a repeat, or a hedge.
    Low,
}

impl Class {
    /// Of a request: copies are for a host named `…-shadow`, and a later try says so.
    pub fn of(head: &Parts, authority: &Authority) -> Self {
        let attempt = head.headers.get(ATTEMPT).and_then(|count| count.to_str().ok()?.parse::<u32>().ok());
        if authority.host().ends_with(SHADOW) || attempt.is_some_and(|attempt| attempt > 1) {
            Self::Low
        } else {
            Self::Ordinary
        }
    }

    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::Low => "low",
        }
    }
}

/// Behind the host of a copy, as at Envoy.
pub const SHADOW: &str = "-shadow";
/// Which try of a request it is, from 2: Envoy's header, which no stranger can set through a gateway.
pub const ATTEMPT: http::HeaderName = http::HeaderName::from_static("x-envoy-attempt-count");

/// One listener's limit, as all workers share it.
#[derive(Debug)]
pub struct Admission {
    config: snapshot::Admission,
    in_flight: AtomicU32,
    limit: AtomicU32,
    /// A request was let in while there were as many as the floor.
    crowded: AtomicBool,
    /// Answers of this window by latency.
    latencies: Box<[AtomicU32; RANGES]>,
    began: Instant,
    /// The window's end, in nanoseconds from `began`.
    ends: AtomicU64,
    core: Mutex<Gradient>,
}

impl Admission {
    /// Nothing in flight.
    pub fn new(config: &snapshot::Admission, now: Instant) -> Self {
        Self {
            config: config.clone(),
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(config.at_least),
            crowded: AtomicBool::new(false),
            latencies: Box::new([const { AtomicU32::new(0) }; RANGES]),
            began: now,
            ends: AtomicU64::new(nanos(config.window)),
            core: Mutex::new(Gradient::new(config, now)),
        }
    }

    /// As configured.
    pub fn config(&self) -> &snapshot::Admission {
        &self.config
    }

    /// Requests at once, at this moment.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Lets a request in; `None` when there are as many as may be.
    pub fn admit(self: &Arc<Self>, class: Class) -> Option<Admitted> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted(self.clone());
        let limit = self.limit();
        let most = match class {
            Class::Ordinary => u64::from(limit),
            Class::Low => u64::from(limit) * u64::from(self.config.low_percent) / 100,
        };
        if u64::from(before) >= most {
            return None;
        }
        if before >= self.config.at_least && !self.crowded.load(Ordering::Relaxed) {
            self.crowded.store(true, Ordering::Relaxed);
        }
        Some(admitted)
    }

    /// The workload answered a request that came at `began`. Whoever comes after a window's end sets the limit.
    pub fn answered(&self, began: Instant, now: Instant) {
        self.latencies[sketch::range(now.saturating_duration_since(began))].fetch_add(1, Ordering::Relaxed);
        let at = nanos(now.saturating_duration_since(self.began));
        if at < self.ends.load(Ordering::Relaxed) {
            return;
        }
        let mut core = match self.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody else is at it.
            Err(TryLockError::WouldBlock) => return,
        };
        // Whoever had the lock before may have done it already.
        if at < self.ends.load(Ordering::Relaxed) {
            return;
        }
        let latencies = self.latencies.each_ref().map(|count| u64::from(count.swap(0, Ordering::Relaxed)));
        let window = Window { latencies: &Sketch::of(latencies), crowded: self.crowded.swap(false, Ordering::Relaxed) };
        core.turn(&window, now);
        self.limit.store(core.limit(), Ordering::Relaxed);
        self.ends.store(at.saturating_add(nanos(self.config.window)), Ordering::Relaxed);
    }
}

/// A request that was let in, while it lives.
#[derive(Debug)]
pub struct Admitted(Arc<Admission>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_requests_are_refused_first_and_leaving_makes_room() {
        let config = snapshot::Admission { at_least: 10, ..snapshot::Admission::default() };
        let admission = Arc::new(Admission::new(&config, Instant::now()));
        let mut inside: Vec<_> = (0..8).map(|_| admission.admit(Class::Low).unwrap()).collect();
        assert!(admission.admit(Class::Low).is_none());
        inside.extend((0..2).map(|_| admission.admit(Class::Ordinary).unwrap()));
        assert!(admission.admit(Class::Ordinary).is_none(), "refused ones do not count");
        inside.pop();
        assert!(admission.admit(Class::Ordinary).is_some());
        inside.truncate(7);
        assert!(admission.admit(Class::Low).is_some());
    }

    #[test]
    fn a_windows_answers_move_the_limit_when_it_ends() {
        let config = snapshot::Admission { at_least: 10, samples: 5, ..snapshot::Admission::default() };
        let t0 = Instant::now();
        let admission = Admission::new(&config, t0);
        let answer = |millis| {
            let now = t0 + Duration::from_millis(millis);
            admission.answered(now - Duration::from_millis(5), now);
        };
        (0..5).for_each(|_| answer(6));
        answer(99);
        assert_eq!(admission.limit(), 10);
        answer(100);
        answer(199);
        assert_eq!(admission.limit(), 10, "measured, not yet followed");
        answer(200);
        assert_eq!(admission.limit(), 18);
    }

    #[test]
    fn copies_and_later_tries_are_low() {
        let class = |authority, attempt: Option<&str>| {
            let request = attempt.into_iter().fold(http::Request::get("/"), |r, count| r.header(ATTEMPT, count));
            Class::of(&request.body(()).unwrap().into_parts().0, &Authority::from_static(authority))
        };
        assert_eq!(class("fx", None), Class::Ordinary);
        assert_eq!(class("fx", Some("1")), Class::Ordinary);
        assert_eq!(class("fx", Some("2")), Class::Low);
        assert_eq!(class("fx-shadow:80", None), Class::Low);
    }
}
