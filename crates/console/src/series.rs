//! Raw samples, second by second: what the charts draw.

use std::collections::BTreeMap;

use evidence::record::{Nanos, Outcome, ProbeRecord};

/// One second of one probe.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Second {
    /// Answered well.
    pub(crate) ok: u32,
    /// Anything else.
    pub(crate) failed: u32,
    /// Latencies of what was answered well, in nanoseconds, sorted.
    latencies: Vec<Nanos>,
    /// Good answers by region.
    pub(crate) regions: BTreeMap<String, u32>,
}

impl Second {
    /// Percent that were answered well; `None` if nothing was due.
    pub(crate) fn success(&self) -> Option<f64> {
        let total = self.ok + self.failed;
        (total > 0).then(|| 100.0 * f64::from(self.ok) / f64::from(total))
    }

    /// Latency below which this share (0–1) of good answers lies, nearest rank, in milliseconds.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (share * self.latencies.len() as f64).ceil() as usize;
        let nanos = self.latencies.get(rank.max(1) - 1)?;
        Some(*nanos as f64 / 1e6)
    }
}

/// Seconds of a probe, from the attempt's zero moved to `origin`.
pub(crate) fn by_second(probe: &ProbeRecord, origin: Nanos) -> BTreeMap<i64, Second> {
    let mut seconds: BTreeMap<i64, Second> = BTreeMap::new();
    for sample in &probe.samples {
        let second = seconds.entry((sample.due - origin).div_euclid(1_000_000_000)).or_default();
        if sample.outcome == Outcome::Ok {
            second.ok += 1;
            second.latencies.push(sample.latency);
            if let Some(region) = sample.region.and_then(|index| probe.regions.get(usize::from(index))) {
                *second.regions.entry(region.clone()).or_default() += 1;
            }
        } else {
            second.failed += 1;
        }
    }
    for second in seconds.values_mut() {
        second.latencies.sort_unstable();
    }
    seconds
}

#[cfg(test)]
mod tests {
    use evidence::record::Sample;

    use super::*;

    fn sample(due_ms: i64, latency_ms: i64, outcome: Outcome, region: Option<u16>) -> Sample {
        Sample { due: due_ms * 1_000_000, latency: latency_ms * 1_000_000, outcome, region, tries: 1 }
    }

    #[test]
    fn samples_fall_into_the_second_they_were_due_in() {
        let probe = ProbeRecord {
            name: "p".into(),
            interval: 500_000_000,
            timeout: 1_000_000_000,
            regions: vec!["east".into(), "west".into()],
            samples: vec![
                sample(-200, 3, Outcome::Ok, Some(0)),
                sample(100, 5, Outcome::Ok, Some(0)),
                sample(600, 7, Outcome::Ok, Some(1)),
                sample(900, 1000, Outcome::Timeout, None),
            ],
            ..ProbeRecord::default()
        };
        let seconds = by_second(&probe, 0);
        assert_eq!(seconds[&-1].ok, 1);
        let first = &seconds[&0];
        assert_eq!((first.ok, first.failed), (2, 1));
        assert_eq!(first.regions, BTreeMap::from([("east".to_owned(), 1), ("west".to_owned(), 1)]));
        assert_eq!(first.quantile(0.5), Some(5.0));
        assert_eq!(first.quantile(0.99), Some(7.0));
        assert_eq!(Second::default().quantile(0.99), None);
        assert_eq!(Second::default().success(), None);
    }
}
