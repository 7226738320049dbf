//! How long a caller may let a request wait: a while, and longer with the bytes that it moves. Pure.

use std::time::{Duration, Instant};

/// Time that is left to a caller. It shrinks while the caller is waited for, and grows by what the caller moves at the least
/// rate, so that all the waiting for `n` bytes is at most `grace + n / rate`.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    grace: Duration,
    rate: u32,
    left: Duration,
}

impl Allowance {
    /// A grace of zero is without end; a rate of zero bounds each wait alone.
    pub fn new(grace: Duration, rate: u32) -> Self {
        Self { grace, rate, left: grace }
    }

    fn earned(&self, bytes: u64) -> Duration {
        match bytes.saturating_mul(1_000_000_000).checked_div(self.rate.into()) {
            Some(nanos) => Duration::from_nanos(nanos),
            None => self.grace,
        }
    }

    /// The caller sent so many bytes.
    pub fn sent(&mut self, bytes: u64) {
        self.left = self.left.saturating_add(self.earned(bytes)).min(self.grace);
    }

    /// So many bytes were handed to the caller, which it has to take now.
    pub fn handed(&mut self, bytes: u64) {
        let earned = self.earned(bytes);
        self.left = self.left.saturating_add(earned).min(self.grace.max(earned));
    }

    /// The caller was waited for.
    pub fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// Until when it is waited for from now on; `None` is for ever.
    pub fn until(&self, since: Instant) -> Option<Instant> {
        if self.grace.is_zero() { None } else { since.checked_add(self.left) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn time_is_earned_by_bytes() {
        let t0 = Instant::now();
        let mut upload = Allowance::new(seconds(60), 1024);
        assert_eq!(upload.until(t0), Some(t0 + seconds(60)));
        upload.waited(seconds(50));
        upload.sent(20 * 1024);
        assert_eq!(upload.until(t0), Some(t0 + seconds(30)));
        upload.sent(1 << 30);
        assert_eq!(upload.until(t0), Some(t0 + seconds(60)), "a silence is never longer than that");
        let mut response = Allowance::new(seconds(60), 1024);
        response.handed(90 * 1024);
        assert_eq!(response.until(t0), Some(t0 + seconds(90)), "it takes that long at this rate");
        response.waited(seconds(89));
        response.handed(1024);
        assert_eq!(response.until(t0), Some(t0 + seconds(2)));
    }

    #[test]
    fn without_a_rate_each_wait_has_the_whole_time_and_without_a_time_there_is_no_end() {
        let t0 = Instant::now();
        let mut patient = Allowance::new(seconds(60), 0);
        patient.waited(seconds(59));
        patient.sent(1);
        assert_eq!(patient.until(t0), Some(t0 + seconds(60)));
        assert_eq!(Allowance::new(Duration::ZERO, 1024).until(t0), None);
    }

    #[test]
    fn a_drip_below_the_rate_ends() {
        let t0 = Instant::now();
        let mut upload = Allowance::new(seconds(60), 1024);
        let drips = (0..).take_while(|_| {
            let goes_on = upload.until(t0).is_some_and(|until| until > t0 + seconds(1));
            upload.waited(seconds(1));
            upload.sent(512);
            goes_on
        });
        assert!((100..130).contains(&drips.count()));
    }
}
