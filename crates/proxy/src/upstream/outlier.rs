//! Outlier detection: who is ejected, for how long, and how many at once. Pure: time is handed in.

use std::time::{Duration, Instant};

use xds::snapshot::OutlierDetection;

/// How long an endpoint that seems well stays out the first time; twice as long each further time.
const FIRST_HOLD: Duration = Duration::from_secs(1);
/// Doublings of it at most.
const MOST_HOLDS: u32 = 5;

/// One endpoint's ejections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    until: Option<Instant>,
    since: Option<Instant>,
    /// Ejection time is `base × count`; one less for every clean base interval.
    count: u32,
    settled: Option<Instant>,
    /// It was ejected for what it answered, not for being silent: that it answers proves nothing then.
    answering: bool,
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
    /// `answering` says that it is for what it answered.
    pub fn eject(&mut self, policy: &OutlierDetection, answering: bool, now: Instant) {
        self.answering = answering;
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

    /// An active check that began at `began` passed, with this proof beside it: one begun before the ejection says nothing
    /// about it. True if the endpoint came back.
    pub fn check_passed(&mut self, began: Instant, proof: Proof, now: Instant) -> bool {
        let fresh = self.since.is_some_and(|since| began > since);
        let over = self.until.is_some_and(|until| until <= now);
        let proves = self.ejected()
            && fresh
            && match proof {
                Proof::Well => true,
                Proof::Seeming => over || !self.answering || self.held(now),
                Proof::Alive => over || !self.answering,
                Proof::None => false,
            };
        if proves {
            self.readmit(now);
        }
        proves
    }

    /// Whether it is out for long enough to be believed by its looks: who fails again at once is believed later.
    fn held(&self, now: Instant) -> bool {
        let hold = FIRST_HOLD * 2u32.pow(self.count.saturating_sub(1).min(MOST_HOLDS));
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= hold)
    }

    fn readmit(&mut self, now: Instant) {
        self.until = None;
        self.settled = Some(now);
    }
}

/// What a check of an ejected endpoint proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// What failed works again: the ejection ends.
    Well,
    /// What failed may not be asked again, and something else works: as [`Proof::Well`], after a while that grows with
    /// recent ejections.
    Seeming,
    /// It answers, but not what failed: the ejection ends when its time is over, or at once if silence was its reason.
    Alive,
    /// It does not even answer.
    None,
}

/// Whether one more of a tier's endpoints may be ejected: within the cap of the tier, or freely where a later tier has
/// endpoints to take the load (istio#34605).
pub fn may_eject(policy: &OutlierDetection, tier_hosts: usize, tier_ejected: usize, later_tier: bool) -> bool {
    later_tier || (tier_ejected + 1) * 100 <= usize::from(policy.max_percent) * tier_hosts
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn policy() -> OutlierDetection {
        OutlierDetection {
            consecutive_errors: 5,
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(70),
            max_percent: 10,
            ..OutlierDetection::default()
        }
    }

    #[test]
    fn ejections_grow_and_are_forgiven() {
        let (policy, t0) = (policy(), Instant::now());
        let mut record = Record::default();
        let mut now = t0;
        for seconds in [30, 60, 70] {
            record.eject(&policy, true, now);
            assert_eq!(record.until(), Some(now + Duration::from_secs(seconds)));
            assert!(!record.expire(now + Duration::from_secs(seconds - 1)));
            now += Duration::from_secs(seconds);
            assert!(record.expire(now));
            assert!(!record.ejected());
        }
        record.eject(&policy, true, now + Duration::from_secs(95));
        assert_eq!(record.count, 1, "three clean intervals forgive three ejections");
    }

    #[test]
    fn only_a_check_begun_after_the_ejection_ends_it() {
        let (policy, t0) = (policy(), Instant::now());
        let mut record = Record::default();
        record.eject(&policy, true, t0 + Duration::from_millis(5));
        let at = |millis| t0 + Duration::from_millis(millis);
        assert!(!record.check_passed(at(0), Proof::Well, at(9)));
        assert!(record.check_passed(at(6), Proof::Well, at(9)));
        assert!(!record.ejected());
    }

    #[test]
    fn an_endpoint_that_only_answers_waits_for_the_end_of_its_time() {
        let (policy, t0) = (policy(), Instant::now());
        let at = |seconds| t0 + Duration::from_secs(seconds);
        let mut record = Record::default();
        record.eject(&policy, true, t0);
        assert!(!record.check_passed(at(1), Proof::Alive, at(29)));
        assert!(!record.check_passed(at(1), Proof::None, at(90)), "never a user's request to a dead one");
        assert!(record.check_passed(at(30), Proof::Alive, at(30)));
        record.eject(&policy, false, at(40));
        assert!(record.check_passed(at(41), Proof::Alive, at(41)), "it was silent, and answers");
    }

    #[test]
    fn who_seems_well_and_fails_again_is_believed_later_each_time() {
        let (policy, mut now) = (policy(), Instant::now());
        let mut record = Record::default();
        for hold in [1, 2, 4, 8] {
            record.eject(&policy, true, now);
            let early = now + Duration::from_secs(hold) - Duration::from_millis(1);
            assert!(!record.check_passed(early, Proof::Seeming, early), "{hold} s");
            now += Duration::from_secs(hold);
            assert!(record.check_passed(now, Proof::Seeming, now), "{hold} s");
        }
        record.eject(&policy, false, now);
        now += Duration::from_millis(1);
        assert!(record.check_passed(now, Proof::Seeming, now), "it was silent, and answers");
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
}
