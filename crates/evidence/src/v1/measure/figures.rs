//! Counts and percentiles per probe, and the timeline as it is shown. Pure.

use std::collections::BTreeMap;

use crate::{
    entry::rfc3339,
    v1::{
        measure::series::{Series, is_good},
        record::{Anchor, Nanos, Outcome, ProbeRecord, Sample, TimelinePoint},
        results::{Stretch, TimelineResult},
    },
};

/// Seconds, to the microsecond.
pub fn seconds(nanos: Nanos) -> f64 {
    let micros = (nanos as f64 / 1e3).round();
    // Adding zero turns -0 into 0.
    micros / 1e6 + 0.0
}

/// `6.2 s`: to the millisecond, for people.
pub fn text(nanos: Nanos) -> String {
    number(nanos as f64 / 1e9, "s")
}

/// A number of at most three decimals with its unit.
pub fn number(value: f64, unit: &str) -> String {
    let text = format!("{value:.3}");
    format!("{} {unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Counts of failures by class.
pub fn failures(probe: &ProbeRecord) -> BTreeMap<String, u64> {
    let mut classes = BTreeMap::new();
    for sample in probe.samples.iter().filter(|sample| !is_good(sample, probe)) {
        *classes.entry(class(sample)).or_default() += 1;
    }
    classes
}

/// What became of a request, in words: `status 503`, `timeout`, `connection refused`.
pub fn outcome(outcome: Outcome) -> String {
    match outcome {
        Outcome::Ok => "answered late".to_owned(),
        Outcome::Status(status) => format!("status {status}"),
        Outcome::Timeout => "timeout".to_owned(),
        Outcome::Connect => "no connection".to_owned(),
        Outcome::Reset => "connection reset".to_owned(),
        Outcome::NotSent => "could not be sent".to_owned(),
    }
}

/// `1 request`, `12 requests`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn class(sample: &Sample) -> String {
    match sample.outcome {
        Outcome::Ok => "late".to_owned(),
        Outcome::Status(status) => format!("status {status}"),
        Outcome::Timeout => "timeout".to_owned(),
        Outcome::Connect => "connect".to_owned(),
        Outcome::Reset => "reset".to_owned(),
        Outcome::NotSent => "notSent".to_owned(),
    }
}

/// Figures over the samples due in `from..to`; `None` if there are none.
pub fn stretch(series: &Series<'_>, from: Nanos, to: Nanos) -> Option<Stretch> {
    let first = series.before(from);
    let last = series.before(to).max(first);
    if first == last {
        return None;
    }
    let good = series.good_in(first, last);
    let mut latencies = Vec::with_capacity(good);
    let mut answers = vec![0_u64; series.probe.regions.len()];
    for at in (first..last).filter(|at| series.good(*at)) {
        let sample = series.samples[at];
        latencies.push(sample.latency);
        if let Some(count) = sample.region.and_then(|region| answers.get_mut(usize::from(region))) {
            *count += 1;
        }
    }
    let mut regions: BTreeMap<String, u64> = BTreeMap::new();
    for (name, count) in series.probe.regions.iter().zip(answers).filter(|(_, count)| *count > 0) {
        *regions.entry(name.clone()).or_default() += count;
    }
    latencies.sort_unstable();
    let known: u64 = regions.values().sum();
    let share = |count: u64| (count as f64 * 1e4 / known as f64).round() / 1e2;
    Some(Stretch {
        offered: (last - first) as u64,
        failed: (last - first - good) as u64,
        success_rate: percent(good, last - first),
        p50: quantile(&latencies, 50).map(seconds),
        p99: quantile(&latencies, 99).map(seconds),
        max: latencies.last().copied().map(seconds),
        regions: regions.into_iter().map(|(name, count)| (name, share(count))).collect(),
    })
}

/// Percent to four decimals; only all of them is 100.
pub fn percent(part: usize, whole: usize) -> f64 {
    let percent = part as f64 * 100.0 / whole as f64;
    if part < whole { (percent * 1e4).floor() / 1e4 } else { percent }
}

/// Nearest rank.
pub fn quantile(sorted: &[Nanos], percent: usize) -> Option<Nanos> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// Longest time between the due times of two successes with a failure in between, from `start` on.
pub fn longest_gap(series: &Series<'_>, start: Nanos) -> Nanos {
    let mut longest = 0;
    let first = series.before(start);
    let mut previous = (0..first).rev().find(|at| series.good(*at)).map_or(start, |at| series.samples[at].due);
    let mut failed = false;
    for at in first..series.samples.len() {
        let due = series.samples[at].due;
        if series.good(at) {
            if failed {
                longest = longest.max(due.saturating_sub(previous));
            }
            (previous, failed) = (due, false);
        } else {
            failed = true;
        }
    }
    match series.samples.last() {
        Some(last) if failed => longest.max(last.due.saturating_add(series.probe.interval).saturating_sub(previous)),
        _ => longest,
    }
}

/// Points in order of time, on the wall clock and relative to `zero`.
pub fn timeline(mut points: Vec<TimelinePoint>, anchor: &Anchor, zero: Nanos) -> Vec<TimelineResult> {
    points.sort_by_key(|point| (point.time, point.point));
    points
        .into_iter()
        .map(|point| TimelineResult {
            point: point.point,
            // To the microsecond, as everything that is shown.
            time: rfc3339(anchor.wall.saturating_add(point.time).div_euclid(1000).saturating_mul(1000)),
            offset: seconds(point.time.saturating_sub(zero)),
            error: seconds(point.error),
            observer: point.observer,
            note: point.note,
        })
        .collect()
}
