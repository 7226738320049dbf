//! How much of its share an endpoint gets that is new or healthy again. Pure.

use std::time::{Duration, Instant};

use xds::snapshot::SlowStart;

/// Changes of weights in a window.
const STEPS: u32 = 20;

/// Part of the weight, above 0 and at most 1: `max(least, (time / window)^(1 / aggression))`, Envoy's formula.
pub fn part(config: &SlowStart, since: Instant, now: Instant) -> f64 {
    let elapsed = now.saturating_duration_since(since);
    if elapsed >= config.window {
        return 1.0;
    }
    // Envoy counts the first second as a whole one.
    let time = elapsed.max(Duration::from_secs(1)).as_secs_f64() / config.window.as_secs_f64();
    time.powf(1.0 / config.aggression).max(f64::from(config.at_least) / 100.0).min(1.0)
}

/// When to weigh again.
pub fn next_change(config: &SlowStart, since: Instant, now: Instant) -> Option<Instant> {
    let step = config.window / STEPS;
    let done = now.saturating_duration_since(since);
    if done >= config.window {
        return None;
    }
    let steps = done.as_nanos().checked_div(step.as_nanos()).and_then(|steps| u32::try_from(steps).ok())?;
    Some(since + step * (steps + 1).min(STEPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_whole_share() {
        let t0 = Instant::now();
        let at = |seconds| t0 + Duration::from_secs(seconds);
        let mut config = SlowStart { window: Duration::from_secs(60), aggression: 1.0, at_least: 10 };
        for (seconds, expected) in [(0, 0.1), (3, 0.1), (15, 0.25), (30, 0.5), (60, 1.0), (600, 1.0)] {
            assert!((part(&config, t0, at(seconds)) - expected).abs() < 1e-9, "at {seconds} s");
        }
        config.aggression = 2.0;
        assert!((part(&config, t0, at(15)) - 0.5).abs() < 1e-9);
        assert_eq!(next_change(&config, t0, t0), Some(at(3)));
        assert_eq!(next_change(&config, t0, at(58)), Some(at(60)));
        assert_eq!(next_change(&config, t0, at(60)), None);
    }
}
