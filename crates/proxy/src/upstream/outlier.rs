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
    fault: Fault,
    /// A look at it since then got no answer.
    missed: bool,
}

/// What an endpoint was ejected for, as far as that says what ends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// No answer, or no connection: any answer disproves it.
    Silence,
    /// No answer over TCP, where it is the kernel that takes connections: that there is one proves nothing.
    Hang,
    /// What it answered: that it answers proves nothing.
    #[default]
    Answers,
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
    pub fn eject(&mut self, policy: &OutlierDetection, fault: Fault, now: Instant) {
        self.fault = fault;
        self.missed = false;
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

    /// An active check that began at `began` proved this: one begun before the ejection says nothing about it. True if the
    /// endpoint came back.
    pub fn checked(&mut self, began: Instant, proof: Proof, now: Instant) -> bool {
        if !self.ejected() || self.since.is_none_or(|since| began <= since) {
            return false;
        }
        let over = self.until.is_some_and(|until| until <= now) || self.fault == Fault::Silence;
        let proves = match proof {
            Proof::Well => true,
            // Who had hung, and has taken leave of us now, hangs no more.
            Proof::Farewell if self.fault == Fault::Hang && self.missed => true,
            Proof::Farewell | Proof::Seeming => over || self.held(now),
            Proof::Alive => over,
            Proof::None => false,
        };
        self.missed |= matches!(proof, Proof::Seeming | Proof::None);
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
    /// Over TCP: it answered the end of a connection. As [`Proof::Well`] if it hung and, at an earlier look, did not; else as
    /// [`Proof::Seeming`], since it was alive all the time.
    Farewell,
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
            record.eject(&policy, Fault::Answers, now);
            assert_eq!(record.until(), Some(now + Duration::from_secs(seconds)));
            assert!(!record.expire(now + Duration::from_secs(seconds - 1)));
            now += Duration::from_secs(seconds);
            assert!(record.expire(now));
            assert!(!record.ejected());
        }
        record.eject(&policy, Fault::Answers, now + Duration::from_secs(95));
        assert_eq!(record.count, 1, "three clean intervals forgive three ejections");
    }

    #[test]
    fn only_a_check_begun_after_the_ejection_ends_it() {
        let (policy, t0) = (policy(), Instant::now());
        let mut record = Record::default();
        record.eject(&policy, Fault::Answers, t0 + Duration::from_millis(5));
        let at = |millis| t0 + Duration::from_millis(millis);
        assert!(!record.checked(at(0), Proof::Well, at(9)));
        assert!(record.checked(at(6), Proof::Well, at(9)));
        assert!(!record.ejected());
    }

    #[test]
    fn an_endpoint_that_only_answers_waits_for_the_end_of_its_time() {
        let (policy, t0) = (policy(), Instant::now());
        let at = |seconds| t0 + Duration::from_secs(seconds);
        let mut record = Record::default();
        record.eject(&policy, Fault::Answers, t0);
        assert!(!record.checked(at(1), Proof::Alive, at(29)));
        assert!(!record.checked(at(1), Proof::None, at(90)), "never a user's request to a dead one");
        assert!(record.checked(at(30), Proof::Alive, at(30)));
        record.eject(&policy, Fault::Silence, at(40));
        assert!(record.checked(at(41), Proof::Alive, at(41)), "it was silent, and answers");
    }

    #[test]
    fn who_seems_well_and_fails_again_is_believed_later_each_time() {
        let (policy, mut now) = (policy(), Instant::now());
        let mut record = Record::default();
        for hold in [1, 2, 4, 8] {
            record.eject(&policy, Fault::Answers, now);
            let early = now + Duration::from_secs(hold) - Duration::from_millis(1);
            assert!(!record.checked(early, Proof::Seeming, early), "{hold} s");
            now += Duration::from_secs(hold);
            assert!(record.checked(now, Proof::Seeming, now), "{hold} s");
        }
        record.eject(&policy, Fault::Silence, now);
        now += Duration::from_millis(1);
        assert!(record.checked(now, Proof::Seeming, now), "it was silent, and answers");
    }

    #[test]
    fn the_end_of_a_hang_is_seen_by_an_endpoints_farewells() {
        use Fault::{Answers, Hang, Silence};
        use Proof::{Farewell, None, Seeming, Well};
        // Looks each quarter of a second, and the one that ends the ejection, if one does. An endpoint that is known to
        // answer farewells, and does not, proves nothing; one that is not known to seems well.
        let hour = 4 * 3600;
        for (fault, looks, ends) in [
            // It hung, and hangs no more.
            (Hang, vec![None, None, Farewell], Some(3)),
            (Hang, vec![Seeming, Farewell], Some(2)),
            // As long as it hangs, even when the ejection's time is over.
            (Hang, vec![None; hour], Option::None),
            // It lived all the time, and answered nobody: believed when it was out for a second.
            (Hang, vec![Farewell; 8], Some(4)),
            // It was never known to answer farewells.
            (Hang, vec![Seeming; 8], Some(4)),
            // What it says to those that waited is proof enough.
            (Hang, vec![None, Well], Some(2)),
            // That it takes leave says nothing of what it answers.
            (Answers, vec![Farewell; 8], Some(4)),
            (Answers, vec![None, Farewell, Farewell, Farewell], Some(4)),
            // It took no connections, and takes them.
            (Silence, vec![None, Farewell], Some(2)),
        ] {
            let (policy, t0) = (policy(), Instant::now());
            let at = |look: usize| t0 + Duration::from_millis(250) * u32::try_from(look).unwrap();
            let mut record = Record::default();
            record.eject(&policy, fault, t0);
            let ended = (1..).zip(&looks).find(|(look, proof)| record.checked(at(*look), **proof, at(*look)));
            assert_eq!(ended.map(|(look, _)| look), ends, "{fault:?}, then {:?}", &looks[..looks.len().min(4)]);
        }
    }

    #[test]
    fn what_was_missed_in_one_ejection_says_nothing_in_the_next() {
        let (policy, t0) = (policy(), Instant::now());
        let at = |millis| t0 + Duration::from_millis(millis);
        let mut record = Record::default();
        record.eject(&policy, Fault::Hang, t0);
        assert!(!record.checked(at(10), Proof::None, at(10)));
        assert!(record.checked(at(20), Proof::Farewell, at(20)));
        record.eject(&policy, Fault::Hang, at(30));
        assert!(!record.checked(at(40), Proof::Farewell, at(40)));
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
