//! The frozen rules of format 1 run in linear time: the same results as the rules as they were written, slowly and literally.

use std::collections::HashSet;

use evidence::v1::{
    measure::{
        recovery::{Frame, outage, sustained_from},
        series::Series,
        writes::tally,
    },
    record::*,
};
use proptest::prelude::*;

const MS: Nanos = 1_000_000;
const S: Nanos = 1_000_000_000;

fn objectives(success_rate: f64, latency_p99: Option<Nanos>, sustain: Nanos) -> Objectives {
    serde_json::from_value(serde_json::json!({
        "recoveryTime": null, "dataLoss": null, "successRate": success_rate, "latencyP99": latency_p99, "sustain": sustain,
    }))
    .unwrap()
}

fn holds(series: &[Series<'_>], time: Nanos, end: Nanos, is_whole: bool) -> bool {
    series.iter().all(|series| series.up_at(time))
        && (!is_whole || series.iter().all(|series| series.is_complete(time, end)))
        && series.iter().all(|series| series.sustains(time, end))
}

fn candidates(series: &[Series<'_>], from: Nanos, to: Nanos) -> Vec<Nanos> {
    let mut times: Vec<Nanos> = series
        .iter()
        .flat_map(|series| series.samples.iter().map(|sample| sample.due).filter(|due| (from..to).contains(due)))
        .collect();
    times.sort_unstable();
    times
}

fn sustained_slowly(series: &[Series<'_>], frame: &Frame, from: Nanos) -> Option<Nanos> {
    let is_found = |time: &Nanos| time + frame.sustain <= frame.end && holds(series, *time, time + frame.sustain, true);
    candidates(series, from, frame.end).into_iter().find(is_found)
}

fn earliest_slowly(series: &[Series<'_>], frame: &Frame, from: Nanos) -> Nanos {
    let end = |time: Nanos| (time + frame.sustain).min(frame.end);
    let found = candidates(series, from, frame.end).into_iter().find(|time| holds(series, *time, end(*time), false));
    found.unwrap_or(frame.end)
}

/// Lost, lost by failback, acknowledged, unjudged, resurrected.
type Counts = (Vec<Nanos>, Vec<Nanos>, u64, u64, u64);

fn tally_slowly(record: &WritesRecord, failback: Option<Nanos>) -> Option<Counts> {
    let mut readbacks: Vec<(&Readback, HashSet<u64>)> =
        record.readbacks.iter().map(|readback| (readback, readback.found.iter().copied().collect())).collect();
    readbacks.sort_by_key(|(readback, _)| readback.time);
    readbacks.last()?;
    let (mut lost, mut by_failback, mut judged, mut unjudged, mut resurrected) = (vec![], vec![], 0, 0, 0);
    for write in &record.writes {
        let seen: Vec<(bool, bool)> = readbacks
            .iter()
            .filter(|(readback, _)| write.sequence < readback.judged)
            .map(|(readback, found)| {
                (found.contains(&write.sequence), failback.is_some_and(|time| readback.time >= time))
            })
            .collect();
        resurrected += u64::from(seen.windows(2).any(|pair| !pair[0].0 && pair[1].0));
        let Some(acknowledged) = write.acknowledged else { continue };
        let Some((found, after_failback)) = seen.last() else {
            unjudged += 1;
            continue;
        };
        judged += 1;
        if *found {
            continue;
        }
        let before: Vec<bool> = seen.iter().filter(|(_, after)| !after).map(|(found, _)| *found).collect();
        let was_read_before = failback.is_some_and(|time| readbacks.iter().any(|(readback, _)| readback.time < time));
        if *after_failback && before.last().copied().unwrap_or(was_read_before) {
            by_failback.push(acknowledged);
        } else {
            lost.push(acknowledged);
        }
    }
    Some((lost, by_failback, judged, unjudged, resurrected))
}

/// A probe whose requests are due at regular or odd times, with stretches in which some fail or are slow.
fn probe() -> impl Strategy<Value = ProbeRecord> {
    let interval = prop_oneof![Just(20 * MS), Just(250 * MS), Just(333 * MS), Just(S), Just(1700 * MS), 1..2 * S];
    let fates = proptest::collection::vec((1..60_usize, 0..8_u8, any::<u64>()), 1..8);
    (interval, 0..S, any::<bool>(), fates).prop_map(|(interval, phase, is_odd, fates)| {
        let (mut due, mut samples) = (phase, Vec::new());
        for (count, kind, seed) in fates {
            let mut random = fastrand::Rng::with_seed(seed);
            for _ in 0..count {
                let is_bad = match kind {
                    0 => true,
                    1 => random.u8(..) < 25,
                    2 => random.u8(..) < 3,
                    3 => random.bool(),
                    _ => false,
                };
                let latency = if kind == 4 && random.bool() { 300 * MS } else { 2 * MS };
                let outcome = if is_bad { Outcome::Status(503) } else { Outcome::Ok };
                samples.push(Sample { due, latency, outcome, region: None, tries: 1 });
                due += match is_odd {
                    true => random.i64(0..=interval * 2),
                    false => interval,
                };
            }
        }
        ProbeRecord { name: "a".to_owned(), interval, timeout: S, regions: vec![], samples, writes: None }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn windows_are_those_of_the_rule(
        probes in proptest::collection::vec(probe(), 1..4),
        rate in prop_oneof![Just(99.9), Just(99.0), Just(100.0), Just(50.0), Just(0.0), Just(90.0), 0.0..100.0],
        p99 in prop_oneof![Just(None), Just(Some(100 * MS))],
        sustain in prop_oneof![Just(5 * S), Just(S), Just(1), Just(400 * MS), Just(2500 * MS), Just(60 * S), 1..9 * S],
        start in 0..10 * S,
        length in 1..90 * S,
    ) {
        let objectives = objectives(rate, p99, sustain);
        let series: Vec<_> = probes.iter().map(|probe| Series::new(probe, &objectives)).collect();
        let frame = Frame { start, effective: start, end: start + length, sustain };
        prop_assert_eq!(sustained_from(&series, &frame, start), sustained_slowly(&series, &frame, start));
        if let Some(outage) = outage(&series, &frame, MS) {
            prop_assert_eq!(outage.t7, sustained_slowly(&series, &frame, outage.t1));
            if outage.t7.is_none() {
                prop_assert_eq!(outage.earliest, earliest_slowly(&series, &frame, outage.t1));
            }
        }
    }

    #[test]
    fn tallies_are_those_of_the_rule(
        writes in proptest::collection::vec((0..12_u64, any::<bool>()), 0..14),
        readbacks in proptest::collection::vec(
            (0..6_i64, 0..14_u64, proptest::collection::vec(0..14_u64, 0..12)),
            0..6,
        ),
        failback in proptest::option::of(0..6_i64),
    ) {
        let write = |(at, (sequence, is_acknowledged)): (usize, &(u64, bool))| Write {
            sequence: *sequence,
            acknowledged: is_acknowledged.then_some(at as Nanos),
            sent: Some(at as Nanos),
            region: None,
            epoch: None,
        };
        let record = WritesRecord {
            writes: writes.iter().enumerate().map(write).collect(),
            readbacks: readbacks
                .into_iter()
                .map(|(time, judged, found)| Readback { phase: String::new(), time, judged, found })
                .collect(),
        };
        let fast = tally(&record, failback);
        let fast = fast.map(|tally| {
            (tally.lost, tally.lost_by_failback, tally.acknowledged, tally.unjudged, tally.resurrected)
        });
        prop_assert_eq!(fast, tally_slowly(&record, failback));
    }
}
