//! How many requests a workload gets at once: a limit that follows its latency. Pure.
//!
//! Source: Envoy's gradient controller (`adaptive_concurrency`), after Netflix's concurrency-limits:
//!
//! ```text
//! gradient = (minRTT + buffer) / sampleRTT, within 0.5 and 2
//! limit    = gradient × limit + √(gradient × limit)
//! ```
//!
//! Envoy lets few requests in to measure `minRTT`. We wait for windows in which there were few anyway: at the limit's floor
//! there always are, and a limit that stays there for [`PATIENCE`] windows is measured anew, as at Envoy.

use std::time::{Duration, Instant};

use xds::snapshot::Admission;

use crate::admission::sketch::Sketch;

/// No window changes the limit by more than this factor, or its inverse.
const STEEPEST: f64 = 2.0;
/// Windows at the floor after which the latency without a queue is no longer believed.
const PATIENCE: u32 = 5;

/// What came of one window.
#[derive(Debug)]
pub struct Window<'a> {
    /// Latencies of the answers.
    pub latencies: &'a Sketch,
    /// A request was let in while there were as many as the floor.
    pub crowded: bool,
}

/// The limit and what it is made from.
#[derive(Debug)]
pub struct Gradient {
    config: Admission,
    limit: f64,
    /// The latency without a queue; `None` until it is measured, which leaves the limit at its floor.
    ideal: Option<Duration>,
    /// Gathered for the next measurement.
    gathered: Sketch,
    /// When the next measurement begins.
    due: Instant,
    /// Windows in a row at the floor.
    at_floor: u32,
}

impl Gradient {
    /// Nothing is known: the limit is at its floor.
    pub fn new(config: &Admission, now: Instant) -> Self {
        Self {
            limit: f64::from(config.at_least),
            config: config.clone(),
            ideal: None,
            gathered: Sketch::default(),
            due: now,
            at_floor: 0,
        }
    }

    /// Requests at once.
    pub fn limit(&self) -> u32 {
        // Within bounds that are whole and positive.
        self.limit as u32
    }

    /// Sets the limit after a window; one without answers says nothing.
    pub fn turn(&mut self, window: &Window<'_>, now: Instant) {
        let Some(sample) = window.latencies.median() else { return };
        if let Some(ideal) = self.ideal {
            self.follow(ideal, sample);
        }
        if !window.crowded && (self.ideal.is_none() || now >= self.due) {
            self.measure(window.latencies, now);
        }
    }

    fn follow(&mut self, ideal: Duration, sample: Duration) {
        let buffered = ideal.as_secs_f64() * (1.0 + f64::from(self.config.buffer) / 100.0);
        let gradient = (buffered / sample.as_secs_f64()).clamp(1.0 / STEEPEST, STEEPEST);
        let limit = self.limit * gradient;
        let floor = f64::from(self.config.at_least);
        self.limit = (limit + limit.sqrt()).clamp(floor, f64::from(self.config.at_most));
        self.at_floor = if self.limit > floor { 0 } else { self.at_floor + 1 };
        if self.at_floor >= PATIENCE {
            self.ideal = None;
            self.at_floor = 0;
            self.gathered = Sketch::default();
        }
    }

    fn measure(&mut self, latencies: &Sketch, now: Instant) {
        self.gathered.add(latencies);
        if self.gathered.count() < u64::from(self.config.samples) {
            return;
        }
        self.ideal = self.gathered.median();
        self.gathered = Sketch::default();
        self.due = now.checked_add(self.config.measure_every).unwrap_or(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_millis(100);

    struct Rig {
        gradient: Gradient,
        now: Instant,
    }

    impl Rig {
        fn new(at_least: u32, at_most: u32) -> Self {
            let config = Admission { at_least, at_most, buffer: 25, ..Admission::default() };
            let now = Instant::now();
            Self { gradient: Gradient::new(&config, now), now }
        }

        /// A window with so many answers of this latency; the limit after it.
        fn window(&mut self, answers: u32, millis: u64, crowded: bool) -> u32 {
            let mut latencies = Sketch::default();
            (0..answers).for_each(|_| latencies.observe(Duration::from_millis(millis)));
            self.now += WINDOW;
            self.gradient.turn(&Window { latencies: &latencies, crowded }, self.now);
            self.gradient.limit()
        }
    }

    #[test]
    fn the_limit_follows_latency() {
        let mut rig = Rig::new(10, 1000);
        assert_eq!(rig.window(49, 20, false), 10, "too few answers for a measurement");
        assert_eq!(rig.window(1, 20, false), 10, "measured, and followed from the next window on");
        // 10 × 1.25 + √12.5
        assert_eq!(rig.window(5, 20, false), 16);
        for _ in 0..40 {
            rig.window(50, 20, true);
        }
        assert_eq!(rig.gradient.limit(), 1000, "as quick as without a queue");
        // 1000 × 1.25 × 20 ÷ 40 + √625
        assert!((649..=650).contains(&rig.window(50, 40, true)), "{}", rig.gradient.limit());
        // Ten times as slow is not more than halved: 325 + √325.
        let halved = rig.window(50, 400, true);
        assert!((342..=343).contains(&halved), "{halved}");
        assert_eq!(rig.window(0, 0, true), halved, "no answers say nothing");
    }

    #[test]
    fn a_workload_that_became_slower_is_measured_anew_at_the_floor() {
        let mut rig = Rig::new(10, 1000);
        for _ in 0..20 {
            rig.window(50, 10, false);
        }
        assert!(rig.gradient.limit() > 500);
        let windows = (1..100).find(|_| rig.window(50, 100, false) == 10).unwrap();
        assert!(windows < 20, "{windows}");
        let again = (1..100).find(|_| rig.window(50, 100, false) > 10).unwrap();
        // The rest of its patience, whose last window is the measurement, and the first one that follows it.
        assert_eq!(again, PATIENCE);
    }

    #[test]
    fn a_crowd_is_no_measure() {
        let mut rig = Rig::new(10, 1000);
        for _ in 0..10 {
            assert_eq!(rig.window(50, 20, true), 10);
        }
        rig.window(50, 20, false);
        assert_eq!(rig.window(50, 20, false), 16);
        // Much slower, when the next measurement is due; but there was a queue.
        rig.now += Duration::from_secs(60);
        for _ in 0..3 {
            rig.window(50, 200, true);
        }
        assert!((rig.gradient.ideal.unwrap().as_secs_f64() - 0.02).abs() < 0.001, "{:?}", rig.gradient.ideal);
    }

    proptest! {
        #[test]
        fn floor_and_ceiling_hold(
            at_least in 1_u32..100, above in 0_u32..1000,
            windows in prop::collection::vec((0_u32..80, 0_u64..100_000, any::<bool>()), 0..100),
        ) {
            let mut rig = Rig::new(at_least, at_least + above);
            for (answers, millis, crowded) in windows {
                let limit = rig.window(answers, millis, crowded);
                prop_assert!((at_least..=at_least + above).contains(&limit));
            }
        }

        #[test]
        fn stable_latency_never_shrinks_the_limit(millis in 1_u64..10_000, windows in 2_usize..60) {
            let mut rig = Rig::new(10, 500);
            let mut before = rig.window(50, millis, false);
            for _ in 0..windows {
                let limit = rig.window(50, millis, true);
                prop_assert!(limit > before || limit == 500);
                before = limit;
            }
        }

        #[test]
        fn from_latency_that_doubles_with_each_window_the_limit_falls_to_its_floor(millis in 1_u64..100) {
            let mut rig = Rig::new(10, 500);
            for _ in 0..30 {
                rig.window(50, millis, false);
            }
            prop_assert_eq!(rig.gradient.limit(), 500);
            let mut before = 500;
            for doubling in 1..8 {
                let limit = rig.window(50, millis << doubling, true);
                prop_assert!(limit < before || limit == 10);
                before = limit;
            }
        }
    }
}
