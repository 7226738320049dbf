//! The attempt's clock: monotonic, with its zero at the attempt's anchor.

use std::time::{Duration, Instant};

use evidence::record::Nanos;

/// Places monotonic instants on the attempt's clock.
#[derive(Clone, Copy, Debug)]
pub struct AttemptClock {
    instant: Instant,
    at: Nanos,
}

impl AttemptClock {
    /// A clock that shows `now` at this moment.
    pub fn showing(now: Nanos) -> Self {
        Self { instant: Instant::now(), at: now }
    }

    /// The present.
    pub fn now(&self) -> Nanos {
        self.of(Instant::now())
    }

    /// When this instant was.
    pub fn of(&self, instant: Instant) -> Nanos {
        let offset = match instant.checked_duration_since(self.instant) {
            Some(after) => nanos(after),
            None => -nanos(self.instant.duration_since(instant)),
        };
        self.at.saturating_add(offset)
    }

    /// The instant at which this clock shows `time`. A time too far in the past to be an instant gives the clock's own start.
    pub fn instant(&self, time: Nanos) -> Instant {
        let offset = time.saturating_sub(self.at);
        let by = Duration::from_nanos(offset.unsigned_abs());
        let moved = if offset >= 0 { self.instant.checked_add(by) } else { self.instant.checked_sub(by) };
        moved.unwrap_or(self.instant)
    }
}

/// A duration as nanoseconds; saturates after 292 years.
pub fn nanos(duration: Duration) -> Nanos {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Nanoseconds as a duration; nothing below zero.
pub fn duration(time: Nanos) -> Duration {
    Duration::from_nanos(u64::try_from(time).unwrap_or(0))
}

/// Nanoseconds as seconds.
pub fn seconds(time: Nanos) -> f64 {
    time as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_and_times_are_inverse() {
        let clock = AttemptClock::showing(5_000);
        for time in [5_000, 5_001, 9_000_000_000, 4_000] {
            assert_eq!(clock.of(clock.instant(time)), time);
        }
        assert_eq!(duration(-1), Duration::ZERO);
        assert_eq!(nanos(Duration::MAX), i64::MAX);
    }
}
