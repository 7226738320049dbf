//! Open-loop load: requests are due at fixed times whether or not earlier ones were answered.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::{JoinHandle, JoinSet};

use crate::web::{Web, get};

/// One request's end.
#[derive(Clone, Debug)]
pub struct Shot {
    /// When it was due, from the start of the load.
    pub due: Duration,
    /// From due to the end of the answer.
    pub latency: Duration,
    /// Region that answered, or what went wrong.
    pub outcome: Result<String, String>,
}

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Shot>>,
}

impl Load {
    /// GETs at a rate (a second) until stopped, at most for twenty minutes.
    pub fn start(address: SocketAddr, path: &'static str, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let web = Web::default();
            let start = Instant::now();
            let mut shots = JoinSet::new();
            for n in 0..rate * 1200 {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let due = Duration::from_secs(1) * n / rate;
                tokio::time::sleep_until((start + due).into()).await;
                let web = web.clone();
                shots.spawn(async move {
                    let outcome = match web.send(get(address, path), Duration::from_secs(5)).await {
                        Ok(answer) if answer.status.is_success() => Ok(answer.answered_by.unwrap_or_default()),
                        Ok(answer) => Err(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))),
                        Err(reason) => Err(reason),
                    };
                    Shot { due, latency: start.elapsed() - due, outcome }
                });
            }
            let mut shots = shots.join_all().await;
            shots.sort_by_key(|s| s.due);
            shots
        });
        Self { stop, task }
    }

    /// Ends the load and waits for what is in flight.
    pub async fn stop(self) -> Vec<Shot> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the load ran")
    }
}

/// Those that failed.
pub fn failed(shots: &[Shot]) -> Vec<&Shot> {
    shots.iter().filter(|s| s.outcome.is_err()).collect()
}

/// The longest latency.
pub fn slowest(shots: &[Shot]) -> Duration {
    shots.iter().map(|s| s.latency).max().unwrap_or_default()
}
