//! The figures of a failover, from what became of every request. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::stats::quantile;

/// A good answer that took longer is slow.
pub const SLOW: Duration = Duration::from_millis(100);

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered by this origin.
    Answered(String),
    /// Not answered, or badly: how.
    Failed(String),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was due, whether or not earlier ones were answered.
    pub due: Instant,
    /// When it was over.
    pub done: Instant,
    /// How.
    pub outcome: Outcome,
}

impl Record {
    /// Whether this origin answered it.
    pub fn is_of(&self, origin: &str) -> bool {
        matches!(&self.outcome, Outcome::Answered(name) if name == origin)
    }

    fn failure(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Answered(_) => None,
            Outcome::Failed(how) => Some(how),
        }
    }

    fn took(&self) -> Duration {
        self.done.saturating_duration_since(self.due)
    }
}

/// The moments of a case.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The fault.
    pub fault: Instant,
    /// Its end.
    pub back: Instant,
    /// The end of the observation.
    pub end: Instant,
}

/// What is told of a case. Times are in milliseconds; `None` is never.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests due while the fault lasted.
    pub sent: usize,
    /// Of these, and of those in flight when it came, failed.
    pub failed: usize,
    /// How, and how often.
    pub kinds: BTreeMap<String, usize>,
    /// From the fault to the first answer of the standby.
    pub first_standby: Option<f64>,
    /// From the fault to when the last request was due that failed.
    pub last_failure: Option<f64>,
    /// Median before the fault.
    pub median_before: Option<f64>,
    /// Of answers while the fault lasted.
    pub p99: Option<f64>,
    /// The slowest of them.
    pub longest: Option<f64>,
    /// Of them, longer than [`SLOW`].
    pub slow: usize,
    /// Failed after the primary's return.
    pub back_failed: usize,
    /// After the return, answered later than [`SLOW`].
    pub back_slow: usize,
    /// From the return to the first answer of the primary.
    pub first_primary: Option<f64>,
    /// From the return to when the last request was due that the standby answered.
    pub settled: Option<f64>,
}

/// Figures of all records of a case, with the names of the origins.
pub fn figures(records: &[Record], span: Span, primary: &str, standby: &str) -> Figures {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let since = |from: Instant, to: Instant| ms(to.saturating_duration_since(from));
    let before = records.iter().filter(|r| r.due < span.fault);
    let during: Vec<&Record> = records.iter().filter(|r| (span.fault..span.back).contains(&r.due)).collect();
    let after: Vec<&Record> = records.iter().filter(|r| (span.back..span.end).contains(&r.due)).collect();
    let in_flight = before.clone().filter(|r| r.done >= span.fault && r.failure().is_some());
    let failed: Vec<&Record> = in_flight.chain(during.iter().copied().filter(|r| r.failure().is_some())).collect();
    let mut kinds = BTreeMap::new();
    for how in failed.iter().filter_map(|r| r.failure()) {
        *kinds.entry(how.to_owned()).or_default() += 1;
    }
    let good = || during.iter().filter(|r| r.failure().is_none());
    let took = |part| quantile(good().map(|r| ms(r.took())), part);
    let settled = after.iter().filter(|r| r.is_of(standby)).map(|r| since(span.back, r.due));
    let returned = after.iter().filter(|r| r.is_of(primary)).map(|r| since(span.back, r.done));
    let first_primary = returned.min_by(f64::total_cmp);
    Figures {
        sent: during.len(),
        failed: failed.len(),
        kinds,
        first_standby: during
            .iter()
            .filter(|r| r.is_of(standby))
            .map(|r| since(span.fault, r.done))
            .min_by(f64::total_cmp),
        last_failure: failed.iter().map(|r| since(span.fault, r.due)).max_by(f64::total_cmp),
        median_before: quantile(before.filter(|r| r.failure().is_none()).map(|r| ms(r.took())), 0.5),
        p99: took(0.99),
        longest: took(1.0),
        slow: good().filter(|r| r.took() > SLOW).count(),
        back_failed: after.iter().filter(|r| r.failure().is_some()).count(),
        back_slow: after.iter().filter(|r| r.failure().is_none() && r.took() > SLOW).count(),
        settled: first_primary.map(|_| settled.max_by(f64::total_cmp).unwrap_or_default()),
        first_primary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_in_figures() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let good =
            |due, done, who: &str| Record { due: at(due), done: at(done), outcome: Outcome::Answered(who.into()) };
        let bad = |due, done| Record { due: at(due), done: at(done), outcome: Outcome::Failed("503".into()) };
        let records = [
            good(0, 1, "a"),
            bad(99, 102),
            bad(100, 101),
            good(102, 105, "b"),
            good(104, 354, "b"),
            bad(106, 107),
            good(500, 501, "b"),
            good(502, 503, "a"),
            good(504, 505, "b"),
            bad(506, 507),
        ];
        let span = Span { fault: at(100), back: at(500), end: at(600) };
        let expected = Figures {
            sent: 4,
            failed: 3,
            kinds: [("503".to_owned(), 3)].into(),
            first_standby: Some(5.0),
            last_failure: Some(6.0),
            median_before: Some(1.0),
            p99: Some(3.0),
            longest: Some(250.0),
            slow: 1,
            back_failed: 1,
            back_slow: 0,
            first_primary: Some(3.0),
            settled: Some(4.0),
        };
        assert_eq!(figures(&records, span, "a", "b"), expected);
    }

    #[test]
    fn who_never_comes_back_has_no_time() {
        let start = Instant::now();
        let record = Record { due: start, done: start, outcome: Outcome::Answered("b".into()) };
        let figures = figures(&[record], Span { fault: start, back: start, end: start + SLOW }, "a", "b");
        assert_eq!((figures.first_primary, figures.settled, figures.sent), (None, None, 0));
    }
}
