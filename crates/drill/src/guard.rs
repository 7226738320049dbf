//! What aborts a drill, decided from what probes have seen.

use evidence::record::{Nanos, Outcome, Sample};
use model::{
    config::{Guard, GuardCondition},
    unit::print_duration,
};

use crate::{
    clock::{duration, nanos},
    probe::log::ProbeLog,
};

/// A guard in words: `balance successRate < 50 % over 5 s`.
pub fn describe(guard: &Guard) -> String {
    let condition = match &guard.condition {
        GuardCondition::SuccessRateBelow { percent, over } => {
            format!("successRate < {percent} over {}", print_duration(*over))
        }
        GuardCondition::LatencyP99Above { latency, over } => {
            format!("latencyP99 > {} over {}", print_duration(*latency), print_duration(*over))
        }
        GuardCondition::IndeterminateAbove { count } => format!("indeterminate > {count}"),
    };
    format!("{} {condition}", guard.probe)
}

/// What one look at a guard gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Look {
    /// Its window has not been full yet, or nothing in it has ended.
    TooEarly,
    /// All right.
    Holds,
    /// It trips; what was seen.
    Trips(String),
}

/// Looks at a guard of this probe at `now`; it is watched since `since`.
///
/// A window is judged only once it has been full, so that the first failures of a short life cannot trip it. Requests
/// in flight are neither good nor bad, except that one older than a latency bound has certainly broken it, and that one
/// older than half the window has no success in it: with a timeout as long as the window, a guard would see nothing else.
pub fn look(condition: &GuardCondition, log: &ProbeLog, since: Nanos, now: Nanos) -> Look {
    match condition {
        GuardCondition::SuccessRateBelow { percent, over } => {
            let Some(from) = window(nanos(*over), since, now) else { return Look::TooEarly };
            let (mut ended, mut good) = (0u64, 0u64);
            for (due, sample) in log.between(from, now).filter(asked) {
                ended += u64::from(sample.is_some() || now - due > nanos(*over) / 2);
                good += u64::from(sample.is_some_and(|s| s.outcome == Outcome::Ok));
            }
            if ended == 0 {
                return Look::TooEarly;
            }
            let rate = good as f64 * 100.0 / ended as f64;
            if rate < percent.0 { Look::Trips(format!("{rate:.1} % ({good} of {ended})")) } else { Look::Holds }
        }
        GuardCondition::LatencyP99Above { latency, over } => {
            let Some(from) = window(nanos(*over), since, now) else { return Look::TooEarly };
            p99(nanos(*latency), log, from, now)
        }
        GuardCondition::IndeterminateAbove { count } => {
            let seen = log.indeterminate();
            if seen > *count { Look::Trips(format!("{seen} writes without acknowledgement")) } else { Look::Holds }
        }
    }
}

/// What the engine did not send is nothing that the service did.
fn asked((_, sample): &(Nanos, Option<&Sample>)) -> bool {
    sample.is_none_or(|sample| sample.outcome != Outcome::NotSent)
}

fn window(over: Nanos, since: Nanos, now: Nanos) -> Option<Nanos> {
    let from = now.saturating_sub(over);
    (from >= since).then_some(from)
}

fn p99(bound: Nanos, log: &ProbeLog, from: Nanos, now: Nanos) -> Look {
    let age = |due: Nanos| now - due;
    let known = log.between(from, now).filter(asked).filter_map(|(due, sample)| match sample {
        Some(sample) => Some(sample.latency),
        None => Some(age(due)).filter(|age| *age > bound),
    });
    let mut latencies: Vec<Nanos> = known.collect();
    match percentile(&mut latencies, 99) {
        None => Look::TooEarly,
        Some(p99) if p99 > bound => Look::Trips(format!("p99 {:.1?}", duration(p99))),
        Some(_) => Look::Holds,
    }
}

/// Nearest-rank percentile: the smallest value that at least this share of values does not exceed.
pub fn percentile(values: &mut [Nanos], percent: usize) -> Option<Nanos> {
    let rank = (values.len() * percent).div_ceil(100).checked_sub(1)?;
    let (_, value, _) = values.select_nth_unstable(rank);
    Some(*value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::unit::Percent;

    use super::*;
    use crate::probe::log::{Ended, tests::log};

    const S: Nanos = 1_000;

    /// A log at one request per 10 ns from 100 on; `.` ok, `x` failed, `s` slow (400 ns), `?` in flight, `u` not sent.
    fn filled(pattern: &str) -> ProbeLog {
        let mut log = log(10, true);
        for (sequence, kind) in (0u64..).zip(pattern.chars()) {
            let due = log.due(sequence);
            let (outcome, latency) = match kind {
                '.' => (Outcome::Ok, 1),
                's' => (Outcome::Ok, 400),
                'x' => (Outcome::Timeout, 5),
                'u' => (Outcome::NotSent, 400),
                _ => {
                    log.begin(sequence);
                    continue;
                }
            };
            let sent = Some(due);
            log.end(sequence, &Ended { time: due + latency, outcome, answered: None, sent, epoch: None, store: None });
        }
        log
    }

    fn tripped(look: &Look) -> Option<bool> {
        match look {
            Look::TooEarly => None,
            Look::Holds => Some(false),
            Look::Trips(_) => Some(true),
        }
    }

    #[test]
    fn success_rate() {
        let check = |pattern: &str, over: u64, now: Nanos, expected: Option<bool>| {
            let condition =
                GuardCondition::SuccessRateBelow { percent: Percent(50.0), over: Duration::from_nanos(over) };
            assert_eq!(tripped(&look(&condition, &filled(pattern), 100, now)), expected, "{pattern} {over} {now}");
        };
        check("xxxx", 50, 140, None);
        check("xxxxx", 50, 150, Some(true));
        check(".....", 50, 150, Some(false));
        check("..xx", 40, 140, Some(false));
        check(".xxx", 40, 140, Some(true));
        check("xxxx....", 40, 180, Some(false));
        check("....????", 40, 180, Some(true));
        check("...?...?", 40, 180, Some(false));
        check("....???x", 40, 180, Some(true));
        check("", 40, S, None);
        check("uuuu", 40, 140, None);
        check("uuu.", 40, 140, Some(false));
        check("uuux", 40, 140, Some(true));
    }

    #[test]
    fn latency() {
        let check = |pattern: &str, now: Nanos, expected: Option<bool>| {
            let condition = GuardCondition::LatencyP99Above {
                latency: Duration::from_nanos(300),
                over: Duration::from_nanos(1_000),
            };
            assert_eq!(tripped(&look(&condition, &filled(pattern), 100, now)), expected, "{pattern} {now}");
        };
        let hundred = ".".repeat(99);
        check(&format!("s{hundred}"), 1_100, Some(false));
        check(&format!("ss{}", ".".repeat(98)), 1_100, Some(true));
        check(&format!("??{}", ".".repeat(98)), 1_100, Some(true));
        check(&format!("{}??", ".".repeat(98)), 1_100, Some(false));
        check(&format!("ss{}", ".".repeat(98)), 1_000, None);
    }

    #[test]
    fn indeterminate() {
        let check = |pattern: &str, expected: bool| {
            let condition = GuardCondition::IndeterminateAbove { count: 2 };
            assert_eq!(tripped(&look(&condition, &filled(pattern), 100, 101)), Some(expected), "{pattern}");
        };
        check("..xx??", false);
        check("x.xx", true);
    }

    #[test]
    fn percentiles() {
        let check = |mut values: Vec<Nanos>, expected: Option<Nanos>| {
            assert_eq!(percentile(&mut values, 99), expected);
        };
        check(vec![], None);
        check(vec![7], Some(7));
        check((1..=100).rev().collect(), Some(99));
        check((1..=101).collect(), Some(100));
    }
}
