//! A tier's way back: its share grows in steps after it was lost, never 0 → 100 % at once, and slower when it flaps.

use std::time::{Duration, Instant};

use xds::snapshot::Ramp;

/// A tier lost again within this many dwells of full share is flapping.
const CALM_DWELLS: u32 = 10;
/// Doublings of the dwell at most: eight times as long.
const MOST_FLAPS: u32 = 3;

/// One tier's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierRamp {
    phase: Phase,
    flaps: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Was never lost, so nothing is held back.
    #[default]
    Full,
    /// No host is available.
    Lost,
    /// Available again since then.
    Returning(Instant),
}

impl TierRamp {
    /// Takes note of whether the tier has an available host.
    pub fn observe(&mut self, ramp: &Ramp, available: bool, now: Instant) {
        self.phase = match (self.phase, available) {
            (Phase::Lost, true) => Phase::Returning(now),
            (Phase::Lost, false) => Phase::Lost,
            (Phase::Full, true) => Phase::Full,
            (Phase::Full, false) => {
                self.flaps = 0;
                Phase::Lost
            }
            (Phase::Returning(since), true) => Phase::Returning(since),
            (Phase::Returning(since), false) => {
                let calm = self.length(ramp) + ramp.dwell * CALM_DWELLS;
                let flapping = now.saturating_duration_since(since) < calm;
                self.flaps = if flapping { (self.flaps + 1).min(MOST_FLAPS) } else { 0 };
                Phase::Lost
            }
        };
    }

    /// Percent of its load that the tier may take now.
    pub fn percent(&self, ramp: &Ramp, now: Instant) -> u8 {
        match self.phase {
            Phase::Full => 100,
            Phase::Lost => 0,
            Phase::Returning(since) => {
                let step = self.step(ramp, since, now);
                // The first dwell is waited out at nothing: a host that is up for a moment is not back.
                if step == 0 { 0 } else { ramp.steps.get(step - 1).copied().unwrap_or(100) }
            }
        }
    }

    /// When the percentage will change by itself.
    pub fn next_change(&self, ramp: &Ramp, now: Instant) -> Option<Instant> {
        let Phase::Returning(since) = self.phase else { return None };
        let step = self.step(ramp, since, now);
        (step <= ramp.steps.len()).then(|| since + self.dwell(ramp) * u32::try_from(step + 1).unwrap_or(u32::MAX))
    }

    fn step(&self, ramp: &Ramp, since: Instant, now: Instant) -> usize {
        let dwell = self.dwell(ramp).as_nanos();
        let elapsed = now.saturating_duration_since(since).as_nanos();
        elapsed.checked_div(dwell).map_or(usize::MAX, |step| usize::try_from(step).unwrap_or(usize::MAX))
    }

    fn dwell(&self, ramp: &Ramp) -> Duration {
        ramp.dwell * (1 << self.flaps)
    }

    fn length(&self, ramp: &Ramp) -> Duration {
        self.dwell(ramp) * u32::try_from(ramp.steps.len() + 1).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> Ramp {
        Ramp { steps: vec![10, 50, 100], dwell: Duration::from_secs(1) }
    }

    #[test]
    fn share_grows_in_steps_after_a_dwell() {
        let (ramp, t0) = (ramp(), Instant::now());
        let at = |millis| t0 + Duration::from_millis(millis);
        let mut tier = TierRamp::default();
        tier.observe(&ramp, true, t0);
        assert_eq!(tier.percent(&ramp, t0), 100, "the start is no return");
        tier.observe(&ramp, false, t0);
        tier.observe(&ramp, true, t0);
        for (millis, percent) in [(0, 0), (999, 0), (1000, 10), (1999, 10), (2000, 50), (3000, 100), (90_000, 100)] {
            assert_eq!(tier.percent(&ramp, at(millis)), percent, "at {millis} ms");
        }
        assert_eq!(tier.next_change(&ramp, at(0)), Some(at(1000)));
        assert_eq!(tier.next_change(&ramp, at(2500)), Some(at(3000)));
        assert_eq!(tier.next_change(&ramp, at(4500)), None);
    }

    #[test]
    fn flapping_lengthens_the_dwell_up_to_eight_times() {
        let (ramp, t0) = (ramp(), Instant::now());
        let mut tier = TierRamp::default();
        tier.observe(&ramp, false, t0);
        for doubled in [1u32, 2, 4, 8, 8] {
            tier.observe(&ramp, true, t0);
            assert_eq!(tier.next_change(&ramp, t0), Some(t0 + ramp.dwell * doubled));
            tier.observe(&ramp, false, t0);
        }
        tier.observe(&ramp, true, t0);
        tier.observe(&ramp, false, t0 + Duration::from_secs(3600));
        tier.observe(&ramp, true, t0);
        assert_eq!(tier.next_change(&ramp, t0), Some(t0 + ramp.dwell), "calm for long: forgiven");
    }

    #[test]
    fn a_ramp_without_dwell_is_at_once() {
        let (ramp, t0) = (Ramp { steps: vec![50, 100], dwell: Duration::ZERO }, Instant::now());
        let mut tier = TierRamp::default();
        tier.observe(&ramp, false, t0);
        tier.observe(&ramp, true, t0);
        assert_eq!(tier.percent(&ramp, t0), 100);
        assert_eq!(tier.next_change(&ramp, t0), None);
    }
}
