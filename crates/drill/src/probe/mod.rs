//! Synthetic clients, open loop: requests are due at fixed times whether or not earlier ones have ended.

mod client;
pub mod log;
mod pace;
pub mod readback;
mod sender;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use evidence::record::{Nanos, ProbeRecord};
use model::config::{Expect, HttpRequest};
use tokio::sync::oneshot;

use crate::clock::AttemptClock;
use log::ProbeLog;
use pace::{Pace, Pacer};

/// One probe with everything resolved.
#[derive(Clone, Debug)]
pub struct ProbeSpec {
    /// From the manifest; also sent as `x-firedrill-probe`.
    pub name: String,
    /// Where connections go.
    pub address: SocketAddr,
    /// `Host` header.
    pub host: String,
    /// What is sent.
    pub request: HttpRequest,
    /// For a `writes` probe.
    pub writes: Option<WritesSpec>,
    /// Time between two due requests.
    pub interval: Duration,
    /// From due.
    pub timeout: Duration,
    /// Which answers are successes.
    pub expect: Expect,
    /// Service that the requests reach first, if a gateway decides it.
    pub service: Option<String>,
}

/// What a `writes` probe needs beyond its `put`.
#[derive(Clone, Debug)]
pub struct WritesSpec {
    /// Lists what is stored.
    pub get: HttpRequest,
    /// Tells this probe's writes from all others, ever.
    pub run: String,
}

impl ProbeSpec {
    /// Requests that may be in flight at once: twice what a blackhole piles up.
    fn in_flight_bound(&self) -> usize {
        let due_within_timeout = self.timeout.as_nanos() / self.interval.as_nanos().max(1);
        usize::try_from(due_within_timeout * 2).unwrap_or(usize::MAX).clamp(16, 10_000)
    }
}

/// What a probe has seen so far; written by the probing thread, read by the engine.
pub type SharedLog = Arc<Mutex<ProbeLog>>;

/// Locks a log. A panic while it was held cannot leave it half-written: every change is one assignment.
pub fn lock(log: &SharedLog) -> MutexGuard<'_, ProbeLog> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Running probes, on two threads of their own: one keeps time, one sends. Dropped, they stop.
#[derive(Debug)]
pub struct Prober {
    pacer: Pacer,
    logs: Vec<SharedLog>,
    ended: oneshot::Receiver<()>,
}

impl Prober {
    /// Starts all probes; their first requests are due at `from` and shortly after, spread so that probes do not send
    /// at the same moments.
    ///
    /// # Errors
    /// When no thread or runtime can be made.
    pub fn start(clock: AttemptClock, from: Nanos, specs: Vec<ProbeSpec>) -> io::Result<Self> {
        let count = i64::try_from(specs.len().max(1)).unwrap_or(1);
        let mut paces = Vec::new();
        let mut logs = Vec::new();
        for (spec, place) in specs.iter().zip(0i64..) {
            let interval = crate::clock::nanos(spec.interval).max(1);
            let first = from + interval / count * place;
            logs.push(Arc::new(Mutex::new(ProbeLog::new(spec, first, interval))));
            paces.push(Pace { first, interval });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (pacer, due) = Pacer::start(clock, paces)?;
        let (end, ended) = oneshot::channel();
        let shared = logs.clone();
        thread::Builder::new().name("probes".into()).spawn(move || {
            sender::send_all(&runtime, clock, specs, shared, due);
            // Nobody waits for the end when the prober was dropped.
            let _ = end.send(());
        })?;
        Ok(Self { pacer, logs, ended })
    }

    /// The logs, in the order of the specs.
    pub fn logs(&self) -> &[SharedLog] {
        &self.logs
    }

    /// Stops sending, waits until everything in flight has ended (at most one timeout), and gives the records.
    pub async fn stop(self) -> Vec<ProbeRecord> {
        self.pacer.stop();
        // An error means that the probing thread is gone: its log then says all there is.
        let _ = self.ended.await;
        self.logs.iter().map(|log| lock(log).record()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_in_flight() {
        let check = |interval_ms: u64, timeout_ms: u64, expected: usize| {
            let spec = ProbeSpec {
                name: "p".into(),
                address: SocketAddr::from(([127, 0, 0, 1], 1)),
                host: "h".into(),
                request: HttpRequest {
                    method: "GET".into(),
                    host: model::config::ProbeHost::Address(SocketAddr::from(([127, 0, 0, 1], 1))),
                    path: "/".into(),
                },
                writes: None,
                interval: Duration::from_millis(interval_ms),
                timeout: Duration::from_millis(timeout_ms),
                expect: Expect::default(),
                service: None,
            };
            assert_eq!(spec.in_flight_bound(), expected);
        };
        check(5, 1000, 400);
        check(1000, 1000, 16);
        check(1, 60_000, 10_000);
        check(0, 1000, 10_000);
    }
}
