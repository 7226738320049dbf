//! The clocks of an attempt. Processes on one machine share its boot-time clock; between machines the offset is measured.

use serde::{Deserialize, Serialize};

use super::Nanos;

/// What is known of the clocks of all observers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClockRecord {
    /// Observers whose clock is not the engine's.
    #[serde(default)]
    pub observers: Vec<ObserverClock>,
    /// Steps of the engine's wall clock against its boot-time clock.
    #[serde(default)]
    pub steps: Vec<ClockStep>,
}

/// The clock of one observer against the engine's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObserverClock {
    /// As in [`super::TimelinePoint::observer`].
    pub observer: String,
    /// At the start of the attempt; `None` if it could not be measured.
    #[serde(default)]
    pub start: Option<ClockReading>,
    /// At its end.
    #[serde(default)]
    pub end: Option<ClockReading>,
}

/// An offset, as it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClockReading {
    /// When.
    pub time: Nanos,
    /// Observer's clock less engine's.
    pub offset: Nanos,
    /// Bound on the error of `offset`.
    pub uncertainty: Nanos,
}

/// A step of a wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClockStep {
    /// When it was detected.
    pub time: Nanos,
    /// By how much; positive is forward.
    pub by: Nanos,
}

impl ClockRecord {
    /// Bound on the difference between any two clocks after correction: the largest uncertainty, and the drift between
    /// the readings at start and end, during which no correction is exact.
    pub fn uncertainty(&self) -> Nanos {
        let of = |observer: &ObserverClock| {
            let readings = [observer.start, observer.end];
            let uncertainty = readings.iter().flatten().map(|reading| reading.uncertainty.max(0)).max().unwrap_or(0);
            let drift = match readings {
                [Some(start), Some(end)] => end.offset.saturating_sub(start.offset).saturating_abs(),
                _ => 0,
            };
            uncertainty.saturating_add(drift)
        };
        self.observers.iter().map(of).max().unwrap_or(0)
    }
}
