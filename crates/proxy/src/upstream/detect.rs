//! Detection by live traffic: failures in a row, and rates compared over an interval. What is decided is pure.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xds::snapshot::OutlierDetection;

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an answer of this status.
    Answered(u16),
    /// Without one: no connection, a reset, no time left.
    Local,
}

/// An endpoint's failures in a row, by detector (Envoy's `consecutive_gateway_failure`, `consecutive_5xx`,
/// `consecutive_local_origin_failure`).
#[derive(Debug, Default)]
pub struct Rows {
    gateway: AtomicU32,
    server: AtomicU32,
    local: AtomicU32,
    /// Responses that broke off, among those that ended: their heads alone look like success.
    broken: AtomicU32,
}

impl Rows {
    /// Takes note of a try's end; whether some detector has had enough.
    pub fn count(&self, policy: &OutlierDetection, ended: Ended) -> bool {
        let split = policy.consecutive_local.is_some();
        if split && ended == Ended::Local {
            return step(&self.local, true, policy.consecutive_local);
        }
        if split {
            step(&self.local, false, None);
        }
        let status = match ended {
            Ended::Answered(status) => status,
            Ended::Local => 503,
        };
        let gateway = Some(policy.consecutive_errors).filter(|count| *count > 0);
        let gateway = step(&self.gateway, is_gateway(status), gateway);
        let server = step(&self.server, status >= 500, policy.consecutive_5xx);
        gateway || server
    }

    /// Takes note of a response's end, broken off or whole; whether that is enough.
    pub fn ended(&self, policy: &OutlierDetection, broken: bool) -> bool {
        let enough = policy.consecutive_local.unwrap_or(policy.consecutive_errors);
        step(&self.broken, broken, Some(enough).filter(|count| *count > 0))
    }

    /// Forgets them.
    pub fn clear(&self) {
        for row in [&self.gateway, &self.server, &self.local, &self.broken] {
            row.store(0, Ordering::Relaxed);
        }
    }
}

/// Whether a status says that the server behind could not be reached or could not serve.
pub fn is_gateway(status: u16) -> bool {
    matches!(status, 502..=504)
}

fn step(row: &AtomicU32, failed: bool, enough: Option<u32>) -> bool {
    if failed {
        let count = row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        return enough.is_some_and(|enough| count >= enough);
    }
    // Read first: a store on every answer would make all threads fight for the line.
    if row.load(Ordering::Relaxed) != 0 {
        row.store(0, Ordering::Relaxed);
    }
    false
}

/// What came of an endpoint's tries since the last look.
#[derive(Debug, Default)]
pub struct Tally {
    requests: AtomicU64,
    failed: AtomicU64,
}

/// An endpoint's share in a comparison of rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tries that ended in the interval.
    pub requests: u64,
    /// Of these, failed.
    pub failed: u64,
}

impl Tally {
    /// Takes note of a try's end, where rates are compared.
    pub fn count(&self, policy: &OutlierDetection, ended: Ended) {
        if policy.success_rate.is_none() && policy.failure_percentage.is_none() {
            return;
        }
        let failed = match ended {
            Ended::Answered(status) => status >= 500,
            // Split off, it is no answer of the endpoint.
            Ended::Local if policy.consecutive_local.is_some() => return,
            Ended::Local => true,
        };
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
    }

    /// Ends the interval.
    pub fn take(&self) -> Rate {
        let (failed, requests) = (self.failed.swap(0, Ordering::Relaxed), self.requests.swap(0, Ordering::Relaxed));
        Rate { requests: requests.max(failed), failed }
    }
}

/// Endpoints (by index) whose rates are out of line, each with the cause for people.
pub fn out_of_line(policy: &OutlierDetection, rates: &[Rate]) -> Vec<(usize, String)> {
    let succeeded = |rate: &Rate| 100.0 * (1.0 - rate.failed as f64 / rate.requests as f64);
    let with = |least: u32| rates.iter().enumerate().filter(move |(_, rate)| rate.requests >= u64::from(least.max(1)));
    let mut found = Vec::new();
    if let Some(wanted) = &policy.success_rate {
        let all: Vec<(usize, f64)> = with(wanted.requests).map(|(index, rate)| (index, succeeded(rate))).collect();
        if all.len() >= wanted.hosts as usize && !all.is_empty() {
            let count = all.len() as f64;
            let mean = all.iter().map(|(_, rate)| rate).sum::<f64>() / count;
            let variance = all.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
            let least = mean - f64::from(wanted.factor) / 1000.0 * variance.sqrt();
            let low = all.into_iter().filter(|(_, rate)| *rate < least);
            found.extend(low.map(|(index, rate)| (index, format!("{rate:.1} % succeed, {mean:.1} % on average"))));
        }
    }
    if let Some(wanted) = &policy.failure_percentage {
        let all: Vec<(usize, f64)> =
            with(wanted.requests).map(|(index, rate)| (index, 100.0 - succeeded(rate))).collect();
        if all.len() >= wanted.hosts as usize {
            let high = all.into_iter().filter(|(_, failed)| *failed >= f64::from(wanted.threshold));
            let new = high.filter(|(index, _)| found.iter().all(|(known, _)| known != index)).collect::<Vec<_>>();
            found.extend(new.into_iter().map(|(index, failed)| (index, format!("{failed:.1} % fail"))));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xds::snapshot::{FailurePercentage, SuccessRate};

    use super::*;

    const LOCAL: Ended = Ended::Local;

    fn ok(status: u16) -> Ended {
        Ended::Answered(status)
    }

    proptest! {
        /// Against the definition: the end of the history of tries that the detector counts.
        #[test]
        fn rows_are_what_the_history_ends_with(
            history in prop::collection::vec(prop_oneof![Just(LOCAL), Just(ok(200)), Just(ok(500)), Just(ok(503)), Just(ok(404))], 1..40),
            errors in 0u32..4, server in prop::option::of(1u32..5), local in prop::option::of(1u32..4),
        ) {
            let policy = OutlierDetection {
                consecutive_errors: errors, consecutive_5xx: server, consecutive_local: local, ..OutlierDetection::default()
            };
            let rows = Rows::default();
            let said: Vec<bool> = history.iter().map(|ended| rows.count(&policy, *ended)).collect();
            for (end, said) in said.into_iter().enumerate() {
                let seen = &history[..=end];
                let row = |counts: &dyn Fn(&Ended) -> Option<bool>| {
                    seen.iter().rev().filter_map(counts).take_while(|failed| *failed).count() as u32
                };
                let answers = |fails: fn(u16) -> bool| move |ended: &Ended| match ended {
                    Ended::Local => if local.is_some() { None } else { Some(true) },
                    Ended::Answered(status) => Some(fails(*status)),
                };
                let concerns_local = local.is_some() && seen[end] == LOCAL;
                let expected = if concerns_local {
                    local.is_some_and(|n| row(&|ended| Some(*ended == LOCAL)) >= n)
                } else {
                    let gateway = row(&answers(|status| matches!(status, 502..=504)));
                    let all = row(&answers(|status| status >= 500));
                    errors > 0 && gateway >= errors || server.is_some_and(|n| all >= n)
                };
                prop_assert_eq!(said, expected, "after {:?}", seen);
            }
        }
    }

    fn rates(of: &[(u64, u64)]) -> Vec<Rate> {
        of.iter().map(|(requests, failed)| Rate { requests: *requests, failed: *failed }).collect()
    }

    #[test]
    fn success_rates_are_compared_with_all_others() {
        let policy = OutlierDetection { success_rate: Some(SuccessRate::default()), ..OutlierDetection::default() };
        let out = |of: &[(u64, u64)]| out_of_line(&policy, &rates(of)).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(out(&[(100, 0), (100, 0), (100, 0), (100, 0), (100, 50)]), [4], "mean 90, σ 20: below 52");
        assert_eq!(
            out(&[(100, 0), (100, 0), (100, 0), (100, 0), (99, 99)]),
            [0; 0],
            "too few requests, so too few hosts"
        );
        assert_eq!(out(&[(100, 0), (100, 0), (100, 0), (100, 100)]), [0; 0], "too few hosts");
        assert_eq!(out(&[(100, 50); 6]), [0; 0], "all alike");
    }

    #[test]
    fn failure_percentage_is_absolute() {
        let failure_percentage = Some(FailurePercentage { threshold: 85, hosts: 2, requests: 50 });
        let policy = OutlierDetection { failure_percentage, ..OutlierDetection::default() };
        let out = |of: &[(u64, u64)]| out_of_line(&policy, &rates(of)).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(out(&[(100, 85), (100, 84)]), [0]);
        assert_eq!(out(&[(100, 90), (100, 90), (49, 49)]), [0, 1]);
        assert_eq!(out(&[(100, 90), (49, 0)]), [0; 0]);
    }
}
