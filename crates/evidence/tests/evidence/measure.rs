//! Recovery time against the truth and against the oracle, over seeds.

use evidence::{measure::measure, record::*};
use proptest::prelude::*;

use crate::{fixture::*, oracle};

#[derive(Clone, Copy, Debug)]
enum Kind {
    Refused,
    Blackhole,
    Status,
}

fn fate(kind: Kind) -> (Outcome, Nanos) {
    match kind {
        Kind::Refused => (Outcome::Connect, MS),
        Kind::Blackhole => (Outcome::Timeout, S),
        Kind::Status => (Outcome::Status(503), 2 * MS),
    }
}

/// Every request of an outage `[a, b)` fails; the measured time is within an interval + 10 ms, and inside its bound.
#[test]
fn truth() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let kind = [Kind::Refused, Kind::Blackhole, Kind::Status][random.usize(..3)];
        let a = 10 * S + random.i64(0..500 * MS);
        let b = a + random.i64(200 * MS..8 * S);
        let interval = [2 * MS, 5 * MS, 10 * MS, 20 * MS, 100 * MS][random.usize(..5)];
        let mut probes = Vec::new();
        for n in 0..random.usize(1..=2) {
            let (phase, interval) = (random.i64(0..interval), interval * (n as i64 + 1));
            let latency = random.i64(MS..8 * MS);
            probes.push(probe(&format!("p{n}"), phase, interval, 30 * S, |due| {
                if (a..b).contains(&due) { fate(kind) } else { (Outcome::Ok, latency) }
            }));
        }
        let interval = probes.iter().map(|probe| probe.interval).max().unwrap();
        let mut attempt = attempt(probes, 25 * S);
        attempt.objectives.success_rate = [99.9, 99.0, 50.0, 10.0][random.usize(..4)];
        let results = measure(&attempt);
        let recovery = results.measured.recovery.unwrap();
        let (truth, bound) = ((b - a) as f64 / 1e9, (interval + 10 * MS) as f64 / 1e9);
        let off = (recovery.seconds - truth).abs();
        assert!(!recovery.censored && recovery.client_visible, "seed {seed}: {recovery:?}");
        assert!(off <= bound, "seed {seed} {kind:?}: measured {recovery:?}, truth {truth}, interval {interval}");
        assert!(off <= recovery.error, "seed {seed} {kind:?}: error bound {recovery:?}, truth {truth}");
    }
}

/// Random outages, flaps, slow stretches, holes and background failures: the same t1 and t7 as the oracle.
#[test]
fn oracle_agrees() {
    let (mut recovered, mut censored) = (0, 0);
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(1_000_000 + seed);
        let mut outages: Vec<(Nanos, Nanos)> = Vec::new();
        for _ in 0..random.usize(1..5) {
            let from = 10 * S + random.i64(0..9 * S);
            outages.push((from, from + random.i64(MS..3 * S)));
        }
        let slow_from = 10 * S + random.i64(0..10 * S);
        let slow_to = slow_from + random.i64(0..2 * S);
        let background = [0.0, 0.0, 0.01, 0.2][random.usize(..4)];
        let probes: Vec<_> = (0..random.usize(1..=3))
            .map(|n| {
                let interval = [20 * MS, 50 * MS, 130 * MS, 400 * MS][random.usize(..4)];
                let flap = random.f64() * 0.1;
                let mut made = probe(&format!("p{n}"), random.i64(0..interval), interval, 30 * S, |due| {
                    let is_down = outages.iter().any(|(a, b)| (*a..*b).contains(&due)) && random.f64() >= flap;
                    if is_down || random.f64() < background {
                        (Outcome::Timeout, S)
                    } else if (slow_from..slow_to).contains(&due) {
                        // Some later than the timeout: failures too.
                        (Outcome::Ok, random.i64(200 * MS..1100 * MS))
                    } else {
                        (Outcome::Ok, 3 * MS)
                    }
                });
                if random.u8(..4) == 0 {
                    let hole = random.usize(..made.samples.len());
                    made.samples.remove(hole);
                }
                made
            })
            .collect();
        let end = 10 * S + random.i64(6 * S..18 * S);
        let mut attempt = attempt(probes, end);
        attempt.objectives.sustain = [S, 1500 * MS, 3 * S, 5 * S][random.usize(..4)];
        attempt.objectives.success_rate = [99.9, 90.0, 50.0][random.usize(..3)];
        let results = measure(&attempt);
        let recovery = results.measured.recovery.unwrap();
        match oracle::recovery(&attempt, 10 * S, end) {
            None => assert!(!recovery.client_visible, "seed {seed}"),
            Some((t1, Some(t7))) => {
                recovered += 1;
                assert!(!recovery.censored, "seed {seed}");
                assert!(
                    (recovery.seconds - (t7 - t1) as f64 / 1e9).abs() < 1e-6,
                    "seed {seed}: {recovery:?} {t1} {t7}"
                );
            }
            Some((t1, None)) => {
                censored += 1;
                assert!(recovery.censored && recovery.seconds > 0.0, "seed {seed}");
                assert!(recovery.seconds <= (end - t1) as f64 / 1e9 + 1e-6, "seed {seed}");
            }
        }
    }
    assert!(recovered > 50 && censored > 50, "the seeds cover both: {recovered} recovered, {censored} censored");
}

#[test]
fn a_success_in_a_flap_does_not_count() {
    for rate in [99.9, 50.0] {
        let flap = 11 * S;
        let down = |due: Nanos| (10 * S..13 * S).contains(&due) && due != flap;
        let one = probe("one", 0, 5 * MS, 30 * S, |due| if down(due) { fate(Kind::Refused) } else { healthy(due) });
        let mut attempt = attempt(vec![one], 25 * S);
        attempt.objectives.success_rate = rate;
        let recovery = measure(&attempt).measured.recovery.unwrap();
        assert_eq!(recovery.seconds, 3.0, "at {rate} %");
    }
}

#[test]
fn a_request_under_way_at_the_fault_is_seen() {
    // Due 3 ms before the fault, reset 1 ms after it; nothing else fails.
    let caught = 10 * S - 3 * MS;
    let one =
        probe("one", 2 * MS, 5 * MS, 40 * S, |due| if due == caught { (Outcome::Reset, 4 * MS) } else { healthy(due) });
    let results = measure(&attempt(vec![one], 30 * S));
    let recovery = results.measured.recovery.unwrap();
    assert!(recovery.client_visible && !recovery.censored);
    assert_eq!((recovery.seconds, results.measured.bad_seconds), (0.002, 0.005));
}

#[test]
fn never_recovered_is_more_than() {
    let one = probe("one", 0, 5 * MS, 30 * S, |due| if due >= 11 * S { fate(Kind::Refused) } else { healthy(due) });
    let results = measure(&attempt(vec![one], 25 * S));
    let recovery = results.measured.recovery.unwrap();
    assert!(recovery.censored);
    assert_eq!(recovery.seconds, 14.0);
    assert_eq!(results.verdict, Verdict::Failed);
    assert!(results.reasons[0].contains("more than 14 s"), "{:?}", results.reasons);
    assert!(results.timeline.iter().all(|point| point.point != Point::T7));
}

#[test]
fn a_window_not_seen_whole_is_undecided() {
    // Down for 2 s, then well for 3 s, then the fault ends: W is 5 s.
    let one = probe("one", 0, 5 * MS, 30 * S, |due| {
        if (10 * S..12 * S).contains(&due) { fate(Kind::Refused) } else { healthy(due) }
    });
    let results = measure(&attempt(vec![one], 15 * S));
    let recovery = results.measured.recovery.as_ref().unwrap();
    assert!(recovery.censored);
    assert_eq!(recovery.seconds, 2.0);
    let judged = results.objectives.iter().find(|judged| judged.name == "recoveryTime").unwrap();
    assert_eq!(judged.met, None);
}

#[test]
fn no_client_visible_outage() {
    let mut made = attempt(vec![probe("one", 0, 5 * MS, 40 * S, healthy)], 30 * S);
    made.objectives.data_loss = None;
    let results = measure(&made);
    let recovery = results.measured.recovery.unwrap();
    assert!(!recovery.client_visible && !recovery.censored);
    assert_eq!((recovery.seconds, results.verdict), (0.0, Verdict::Passed));
    assert_eq!(results.reasons, Vec::<String>::new());
}

#[test]
fn a_later_outage_is_judged_and_named() {
    let down = |due: Nanos| (10 * S..11 * S).contains(&due) || (20 * S..21 * S).contains(&due);
    let one = probe("one", 0, 5 * MS, 40 * S, |due| if down(due) { fate(Kind::Refused) } else { healthy(due) });
    let results = measure(&attempt(vec![one], 30 * S));
    assert_eq!(results.measured.recovery.unwrap().seconds, 1.0);
    assert_eq!(results.verdict, Verdict::Failed);
    assert!(
        results
            .findings
            .iter()
            .any(|finding| finding.title == "clients were harmed again after recovery, before failback"
                && finding.detail == "For 1 s from +10 s on.")
    );
    let later = &results.measured.outages[1];
    assert_eq!((later.offset, later.seconds, later.failed, later.slow), (10.0, 1.0, 200, 0));
    assert_eq!(results.measured.bad_seconds, 2.0);
    assert_eq!(results.measured.longest_gap, 1.005);
}

proptest! {
    /// Total: no record makes it panic or overflow.
    #[test]
    fn total(
        times in proptest::collection::vec((any::<i64>(), any::<i64>(), 0_u8..6), 0..40),
        points in proptest::collection::vec(any::<i64>(), 6),
        (interval, timeout, sustain, wall) in (any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>()),
        rate in -10.0..200.0_f64,
    ) {
        let mut one = probe("one", 0, S, 0, healthy);
        (one.interval, one.timeout) = (interval, timeout);
        one.samples = times.iter().map(|(due, latency, kind)| Sample {
            due: *due,
            latency: *latency,
            outcome: [Outcome::Ok, Outcome::Ok, Outcome::Timeout, Outcome::Status(500), Outcome::Reset, Outcome::NotSent][usize::from(*kind)],
            region: Some(u16::from(*kind)),
            tries: *kind,
        }).collect();
        let mut made = attempt(vec![one], 25 * S);
        made.anchor = Anchor { wall, error: sustain };
        (made.objectives.sustain, made.objectives.success_rate) = (sustain, rate);
        for (point, time) in made.timeline.iter_mut().zip(&points) {
            (point.time, point.error) = (*time, *time);
        }
        for (phase, time) in made.phases.iter_mut().zip(&points) {
            (phase.from, phase.to) = (*time, Some(time.wrapping_neg()));
        }
        measure(&made);
    }
}
