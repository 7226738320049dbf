//! Retry budget: a token bucket fed by first tries and by time, so that it does not shrink in an outage.

use std::time::Instant;

use xds::snapshot::CircuitBreakers;

/// Seconds of the steady allowance that may be saved up. A region that hangs needs one hedge for every request between
/// the first one and its ejection, all at once.
const SAVED_SECONDS: f64 = 10.0;

/// In hundredths.
const TOKEN: f64 = 100.0;

/// Pays for retries and hedges, one token each.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    /// Hundredths of a token: what a first try deposits is then a whole number, and sums are exact.
    hundredths: f64,
    filled: Instant,
}

impl TokenBucket {
    /// A bucket that holds the saved-up steady allowance.
    pub fn new(breakers: &CircuitBreakers, now: Instant) -> Self {
        Self { hundredths: f64::from(breakers.retries_per_second) * SAVED_SECONDS * TOKEN, filled: now }
    }

    /// A first try deposits its percentage of a token.
    pub fn deposit(&mut self, breakers: &CircuitBreakers) {
        self.hundredths = (self.hundredths + f64::from(breakers.retry_percent)).min(capacity(breakers));
    }

    /// Takes a token for a repeat; false when there is none.
    pub fn take(&mut self, breakers: &CircuitBreakers, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        let steady = elapsed * f64::from(breakers.retries_per_second) * TOKEN;
        self.hundredths = (self.hundredths + steady).min(capacity(breakers));
        if self.hundredths < TOKEN {
            return false;
        }
        self.hundredths -= TOKEN;
        true
    }
}

/// As many as may be saved by time, and as many as the requests in flight may deposit.
fn capacity(breakers: &CircuitBreakers) -> f64 {
    f64::from(breakers.retries_per_second) * SAVED_SECONDS * TOKEN
        + f64::from(breakers.retry_percent) * f64::from(breakers.requests)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_tries_pay_for_a_fifth() {
        let breakers = CircuitBreakers { retries_per_second: 0, ..CircuitBreakers::default() };
        let now = Instant::now();
        let mut bucket = TokenBucket::new(&breakers, now);
        assert!(!bucket.take(&breakers, now));
        for _ in 0..100 {
            bucket.deposit(&breakers);
        }
        assert_eq!((0..100).filter(|_| bucket.take(&breakers, now)).count(), 20);
    }

    proptest! {
        #[test]
        fn repeats_never_exceed_what_was_paid(steps in prop::collection::vec((0u64..200, any::<bool>()), 1..400)) {
            let breakers = CircuitBreakers::default();
            let start = Instant::now();
            let (mut now, mut first, mut taken) = (start, 0.0, 0.0);
            let mut bucket = TokenBucket::new(&breakers, now);
            for (millis, is_first) in steps {
                now += Duration::from_millis(millis);
                if is_first {
                    bucket.deposit(&breakers);
                    first += 1.0;
                } else if bucket.take(&breakers, now) {
                    taken += 1.0;
                }
            }
            let elapsed = now.duration_since(start).as_secs_f64();
            prop_assert!(taken <= 100.0 + first * 0.2 + elapsed * 10.0 + 1e-6);
        }
    }
}
