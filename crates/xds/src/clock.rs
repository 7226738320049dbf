//! One clock per process: monotonic readings placed on the wall clock by one anchor.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// An instant in nanoseconds since the Unix epoch, as the anchored monotonic clock of the observing process saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(pub i64);

/// Turns monotonic instants into [`Stamp`]s. Made once per process, so that a step of the wall clock during a
/// measurement cannot bend it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    instant: Instant,
    wall: i64,
    error: Duration,
}

impl Clock {
    /// Reads both clocks. The error bound is how long the reading took, so a pre-empted reading says so.
    #[allow(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    pub fn anchored() -> Self {
        let mut best: Option<Self> = None;
        for _ in 0..8 {
            let before = Instant::now();
            let wall = SystemTime::now();
            let error = before.elapsed();
            if best.is_none_or(|b| error < b.error) {
                let wall =
                    wall.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
                best = Some(Self { instant: before, wall, error });
            }
        }
        best.unwrap_or(Self { instant: Instant::now(), wall: 0, error: Duration::MAX })
    }

    /// The present instant.
    pub fn now(&self) -> Stamp {
        self.at(Instant::now())
    }

    /// Where a monotonic instant lies on the wall clock.
    pub fn at(&self, instant: Instant) -> Stamp {
        let offset = match instant.checked_duration_since(self.instant) {
            Some(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            None => -i64::try_from(self.instant.duration_since(instant).as_nanos()).unwrap_or(i64::MAX),
        };
        Stamp(self.wall.saturating_add(offset))
    }

    /// How far a [`Stamp`] of this clock may be from the machine's wall clock at the time of anchoring.
    pub fn error(&self) -> Duration {
        self.error
    }
}
