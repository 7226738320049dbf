//! Outlier detection: who is ejected, for how long, and how many at once. Pure: time is handed in.

use std::time::{Duration, Instant};

use xds::snapshot::OutlierDetection;

/// One endpoint's ejections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    until: Option<Instant>,
    since: Option<Instant>,
    /// Ejection time is `base × count`; one less for every clean base interval.
    count: u32,
    settled: Option<Instant>,
}

impl Record {
    /// Whether the endpoint is out.
    pub fn ejected(&self) -> bool {
        self.until.is_some()
    }

    /// When it comes back by itself.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Takes the endpoint out. Its length is `base × (number of recent ejections)`, at most the longest.
    pub fn eject(&mut self, policy: &OutlierDetection, now: Instant) {
        if let Some(settled) = self.settled {
            let clean = now.saturating_duration_since(settled).as_nanos();
            let forgiven = clean.checked_div(policy.base_ejection.as_nanos()).unwrap_or(u128::MAX);
            self.count = self.count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        }
        self.count = self.count.saturating_add(1);
        let longest = policy.max_ejection.max(policy.base_ejection);
        let length = policy.base_ejection.checked_mul(self.count).map_or(longest, |length| length.min(longest));
        self.since = Some(now);
        self.until = now.checked_add(length);
    }

    /// Brings it back when its time is over; true if it came back.
    pub fn expire(&mut self, now: Instant) -> bool {
        let due = self.until.is_some_and(|until| until <= now);
        if due {
            self.readmit(now);
        }
        due
    }

    /// An active check that began at `began` passed: one begun before the ejection says nothing about it. True if the
    /// endpoint came back.
    pub fn check_passed(&mut self, began: Instant, now: Instant) -> bool {
        let proves = self.until.is_some() && self.since.is_some_and(|since| began > since);
        if proves {
            self.readmit(now);
        }
        proves
    }

    fn readmit(&mut self, now: Instant) {
        self.until = None;
        self.settled = Some(now);
    }
}

/// Whether one more of a tier's endpoints may be ejected: within the cap of the tier, or freely where a later tier has
/// endpoints to take the load (istio#34605).
pub fn may_eject(policy: &OutlierDetection, tier_hosts: usize, tier_ejected: usize, later_tier: bool) -> bool {
    later_tier || (tier_ejected + 1) * 100 <= usize::from(policy.max_percent) * tier_hosts
}

/// Tries that were abandoned for a faster hedge although their endpoint had not answered at all. Each alone proves
/// nothing (the endpoint may be slow); a run of them without any answer, over a time that is too long for anyone to
/// wait, is an endpoint that hangs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    abandoned: u32,
    since: Option<Instant>,
}

impl Silence {
    /// A try sent at `sent` was abandoned unanswered. True when the endpoint counts as hanging: at least
    /// `consecutive` abandoned in a row, the first of them sent `patience` ago or earlier.
    pub fn abandoned(&mut self, sent: Instant, now: Instant, consecutive: u32, patience: Duration) -> bool {
        self.abandoned = self.abandoned.saturating_add(1);
        let since = self.since.map_or(sent, |since| since.min(sent));
        self.since = Some(since);
        self.abandoned >= consecutive && now.saturating_duration_since(since) >= patience
    }

    /// The endpoint answered something.
    pub fn broken(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> OutlierDetection {
        OutlierDetection {
            consecutive_errors: 5,
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(70),
            max_percent: 10,
        }
    }

    #[test]
    fn ejections_grow_and_are_forgiven() {
        let (policy, t0) = (policy(), Instant::now());
        let mut record = Record::default();
        let mut now = t0;
        for seconds in [30, 60, 70] {
            record.eject(&policy, now);
            assert_eq!(record.until(), Some(now + Duration::from_secs(seconds)));
            assert!(!record.expire(now + Duration::from_secs(seconds - 1)));
            now += Duration::from_secs(seconds);
            assert!(record.expire(now));
            assert!(!record.ejected());
        }
        record.eject(&policy, now + Duration::from_secs(95));
        assert_eq!(record.count, 1, "three clean intervals forgive three ejections");
    }

    #[test]
    fn only_a_check_begun_after_the_ejection_ends_it() {
        let (policy, t0) = (policy(), Instant::now());
        let mut record = Record::default();
        record.eject(&policy, t0 + Duration::from_millis(5));
        assert!(!record.check_passed(t0, t0 + Duration::from_millis(9)));
        assert!(record.check_passed(t0 + Duration::from_millis(6), t0 + Duration::from_millis(9)));
        assert!(!record.ejected());
    }

    #[test]
    fn cap_counts_per_tier_and_lifts_with_a_later_one() {
        let policy = policy();
        for (hosts, ejected, later, allowed) in [
            (1, 0, false, false),
            (9, 0, false, false),
            (10, 0, false, true),
            (10, 1, false, false),
            (1, 0, true, true),
            (3, 2, true, true),
        ] {
            assert_eq!(may_eject(&policy, hosts, ejected, later), allowed, "{ejected} of {hosts}, later {later}");
        }
    }

    #[test]
    fn one_slow_answer_is_no_silence_but_a_run_is() {
        let t0 = Instant::now();
        let at = |millis| t0 + Duration::from_millis(millis);
        let patience = Duration::from_millis(200);
        let mut silence = Silence::default();
        assert!(!silence.abandoned(at(0), at(500), 5, patience), "one alone never ejects");
        silence.broken();
        for n in 0..20 {
            assert!(
                !silence.abandoned(at(n * 5), at(n * 5 + 50), 5, patience),
                "too early to tell a pause from a hang"
            );
        }
        assert!(silence.abandoned(at(150), at(200), 5, patience));
    }
}
