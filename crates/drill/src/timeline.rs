//! Points of the timeline, from what the engine did and what the mesh reported. Pure.

use std::collections::{BTreeMap, BTreeSet};

use evidence::record::{Nanos, Point, TimelinePoint};

use crate::target::Meaning;

/// Overlays whose application is remembered.
const MOST_OVERLAYS: usize = 4096;

/// First and last application of one overlay.
#[derive(Clone, Debug)]
struct Applied {
    first: (Nanos, String),
    /// Among proxies outside the lost region.
    last: Option<(Nanos, String)>,
}

/// What is known so far.
#[derive(Clone, Debug)]
pub struct Timeline {
    plan: String,
    primary: String,
    error: Nanos,
    inside: BTreeSet<String>,
    points: BTreeMap<Point, TimelinePoint>,
    applied: BTreeMap<String, Applied>,
    faults: BTreeSet<String>,
    shifts: BTreeSet<String>,
    frozen: bool,
}

impl Timeline {
    /// Nothing seen. `error` bounds the difference of observers' clocks; `primary` is the region that is to be lost.
    pub fn new(plan: &str, primary: &str, error: Nanos) -> Self {
        Self {
            plan: plan.to_owned(),
            primary: primary.to_owned(),
            error,
            inside: BTreeSet::new(),
            points: BTreeMap::new(),
            applied: BTreeMap::new(),
            faults: BTreeSet::new(),
            shifts: BTreeSet::new(),
            frozen: false,
        }
    }

    /// Names of proxies in the lost region: they are not waited for.
    pub fn set_inside(&mut self, proxies: BTreeSet<String>) {
        self.inside = proxies.iter().map(|name| format!("proxy {name}")).collect();
    }

    /// Whether this source is a proxy in the lost region.
    pub fn is_inside(&self, source: &str) -> bool {
        self.inside.contains(source)
    }

    /// Clock error of observers.
    pub fn error(&self) -> Nanos {
        self.error
    }

    /// The point, if it was seen.
    pub fn get(&self, point: Point) -> Option<&TimelinePoint> {
        self.points.get(&point)
    }

    /// All points, in order of their names.
    pub fn points(&self) -> Vec<TimelinePoint> {
        self.points.values().cloned().collect()
    }

    /// The engine saw a point that comes once. A second time changes nothing.
    pub fn set(&mut self, point: Point, time: Nanos, error: Nanos, observer: &str, note: &str) {
        let error = error.saturating_add(self.error);
        let (observer, note) = (observer.to_owned(), note.to_owned());
        self.points.entry(point).or_insert(TimelinePoint { point, time, error, observer, note });
    }

    /// As [`Timeline::set`], for a point that is the earliest of several observations.
    fn earliest(&mut self, point: Point, time: Nanos, error: Nanos, observer: &str, note: &str) {
        if self.points.get(&point).is_none_or(|known| time < known.time) {
            self.points.remove(&point);
            self.set(point, time, error, observer, note);
        }
    }

    /// A fault took effect.
    pub fn effective(&mut self, time: Nanos, error: Nanos, observer: &str, note: &str) {
        self.earliest(Point::T0e, time, error, observer, note);
    }

    /// These overlays carry a fault; some may have been applied already.
    pub fn faults(&mut self, overlays: &[String]) {
        self.faults.extend(overlays.iter().cloned());
        self.first_fault();
    }

    fn first_fault(&mut self) {
        let first = self.faults.iter().filter_map(|id| self.applied.get(id)).map(|a| a.first.clone()).min();
        if let Some((time, source)) = first {
            self.effective(time, 0, &source, "the first proxy applied it");
        }
    }

    fn last_shift(&mut self) {
        let last = self.shifts.iter().filter_map(|id| self.applied.get(id)).filter_map(|a| a.last.clone()).max();
        if let Some((time, source)) = last
            && !self.frozen
        {
            self.points.remove(&Point::T5);
            self.set(Point::T5, time, 0, &source, "the last proxy outside the lost region has it");
        }
    }

    /// The fault is being taken back: what proxies apply from now on is not the answer to it.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Something was seen in the mesh.
    pub fn observe(&mut self, time: Nanos, source: &str, meaning: &Meaning) {
        match meaning {
            Meaning::OverlayApplied { id } => self.overlay_applied(time, source, id),
            Meaning::FailbackCommanded { plan } if *plan == self.plan && self.frozen => {
                self.set(Point::T8, time, 0, source, "failback commanded");
            }
            _ if self.frozen => {}
            Meaning::Detected { service, region, cause }
                if *region == self.primary && self.is_after_fault(time) && !self.is_inside(source) =>
            {
                self.earliest(Point::T2, time, 0, source, &format!("{service} in {region}: {cause}"));
            }
            Meaning::RecoveryDetected { plan } if *plan == self.plan && self.is_after_fault(time) => {
                self.earliest(Point::T2, time, 0, source, "recovery controller saw the primary as lost");
            }
            Meaning::Decided { plan } if *plan == self.plan && self.is_after_fault(time) => {
                self.set(Point::T3, time, 0, source, "failover decided");
            }
            Meaning::ShiftCommanded { plan, overlays } if *plan == self.plan && self.is_after_fault(time) => {
                self.set(Point::T4, time, 0, source, "shift commanded");
                self.shifts.extend(overlays.iter().cloned());
                self.last_shift();
            }
            _ => {}
        }
    }

    /// What happened before the fault was commanded is not its consequence.
    fn is_after_fault(&self, time: Nanos) -> bool {
        self.get(Point::T0c).is_some_and(|commanded| time >= commanded.time - commanded.error)
    }

    fn overlay_applied(&mut self, time: Nanos, source: &str, id: &str) {
        if self.applied.len() >= MOST_OVERLAYS && !self.applied.contains_key(id) {
            return;
        }
        let inside = self.is_inside(source);
        let seen = (time, source.to_owned());
        let applied = self.applied.entry(id.to_owned()).or_insert(Applied { first: seen.clone(), last: None });
        applied.first = seen.clone().min(applied.first.clone());
        if !inside && !self.frozen {
            applied.last = Some(seen).max(applied.last.clone());
        }
        if self.faults.contains(id) {
            self.first_fault();
        }
        if self.shifts.contains(id) {
            self.last_shift();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(id: &str) -> Meaning {
        Meaning::OverlayApplied { id: id.into() }
    }

    fn detected(region: &str) -> Meaning {
        Meaning::Detected { service: "app".into(), region: region.into(), cause: "connection refused".into() }
    }

    fn time(timeline: &Timeline, point: Point) -> Option<Nanos> {
        timeline.get(point).map(|p| p.time)
    }

    fn commanded() -> Timeline {
        let mut timeline = Timeline::new("plan", "east", 5);
        timeline.set_inside(BTreeSet::from(["app-east-0".to_owned()]));
        timeline.set(Point::T0c, 1000, 0, "engine", "");
        timeline
    }

    #[test]
    fn fault_effect_is_the_first_of_all() {
        let mut timeline = commanded();
        timeline.observe(1020, "proxy edge", &applied("cut-1"));
        assert_eq!(time(&timeline, Point::T0e), None, "not known to be a fault yet");
        timeline.faults(&["cut-1".to_owned()]);
        assert_eq!(time(&timeline, Point::T0e), Some(1020));
        timeline.observe(1010, "proxy app-west-0", &applied("cut-1"));
        timeline.observe(1030, "proxy x", &applied("cut-1"));
        timeline.effective(1015, 0, "supervisor", "");
        let point = timeline.get(Point::T0e).unwrap();
        assert_eq!((point.time, point.observer.as_str(), point.error), (1010, "proxy app-west-0", 5));
    }

    #[test]
    fn detection_counts_from_outside_and_after() {
        let mut timeline = commanded();
        timeline.observe(900, "proxy edge", &detected("east"));
        timeline.observe(1001, "proxy app-east-0", &detected("east"));
        timeline.observe(1002, "proxy edge", &detected("west"));
        assert_eq!(time(&timeline, Point::T2), None);
        timeline.observe(1050, "control", &Meaning::RecoveryDetected { plan: "plan".into() });
        timeline.observe(1040, "proxy edge", &detected("east"));
        assert_eq!(time(&timeline, Point::T2), Some(1040));
    }

    #[test]
    fn last_proxy_outside_has_the_shift() {
        let mut timeline = commanded();
        timeline.observe(1100, "control", &Meaning::Decided { plan: "plan".into() });
        timeline.observe(1099, "control", &Meaning::Decided { plan: "other".into() });
        timeline.observe(1112, "proxy edge", &applied("off"));
        let shift = Meaning::ShiftCommanded { plan: "plan".into(), overlays: vec!["off".into()] };
        timeline.observe(1110, "control", &shift);
        timeline.observe(1120, "proxy app-west-0", &applied("off"));
        timeline.observe(1115, "proxy app-west-1", &applied("off"));
        timeline.observe(1130, "proxy app-east-0", &applied("off"));
        assert_eq!(time(&timeline, Point::T3), Some(1100));
        assert_eq!(time(&timeline, Point::T4), Some(1110));
        assert_eq!(time(&timeline, Point::T5), Some(1120));
        timeline.freeze();
        timeline.observe(1140, "proxy app-west-2", &applied("off"));
        assert_eq!(time(&timeline, Point::T5), Some(1120));
    }
}
