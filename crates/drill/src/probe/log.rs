//! What a probe has seen: one slot per due request, filled when it has ended.

use evidence::record::{Nanos, Outcome, ProbeRecord, Readback, Sample, Write, WritesRecord};

use super::ProbeSpec;
use crate::clock;

/// Regions that a probe tells apart; answers from more are recorded without a region.
const MOST_REGIONS: usize = 64;

/// How a request ended, as the sender saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// When.
    pub time: Nanos,
    /// How.
    pub outcome: Outcome,
    /// Who answered, as the mesh said.
    pub answered: Option<AnsweredBy>,
    /// When it was handed to a connection; `None` if it never was.
    pub sent: Option<Nanos>,
    /// Epoch that the store named.
    pub epoch: Option<u64>,
    /// Region that the store named as its own. The mesh knows only where the write's first hop went.
    pub store: Option<String>,
}

/// `x-firedrill-answered-by: <region>;<workload>;<version>;tries=<n>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredBy {
    /// `None` if no endpoint answered.
    pub region: Option<String>,
    /// 0 is unknown.
    pub tries: u8,
}

impl AnsweredBy {
    /// Reads the header's value. Fields that are missing or odd are unknown; nothing is refused.
    pub fn parse(value: &str) -> Self {
        let mut parts = value.split(';').map(str::trim);
        let known = |region: &&str| (1..=63).contains(&region.len()) && *region != "-";
        let region = parts.next().filter(known).map(str::to_owned);
        let tries = parts.find_map(|part| part.strip_prefix("tries=")).and_then(|n| n.parse().ok()).unwrap_or(0);
        Self { region, tries }
    }
}

/// The log of one probe.
#[derive(Clone, Debug)]
pub struct ProbeLog {
    name: String,
    first: Nanos,
    interval: Nanos,
    timeout: Nanos,
    regions: Vec<String>,
    slots: Vec<Option<Sample>>,
    writes: Option<Vec<Write>>,
    readbacks: Vec<Readback>,
}

impl ProbeLog {
    /// An empty log.
    pub fn new(spec: &ProbeSpec, first: Nanos, interval: Nanos) -> Self {
        Self {
            name: spec.name.clone(),
            first,
            interval,
            timeout: clock::nanos(spec.timeout),
            regions: Vec::new(),
            slots: Vec::new(),
            writes: spec.writes.as_ref().map(|_| Vec::new()),
            readbacks: Vec::new(),
        }
    }

    /// Probe name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names that samples index.
    pub fn regions(&self) -> &[String] {
        &self.regions
    }

    /// When the request with this sequence is due.
    pub fn due(&self, sequence: u64) -> Nanos {
        let steps = i64::try_from(sequence).unwrap_or(i64::MAX);
        self.first.saturating_add(self.interval.saturating_mul(steps))
    }

    /// Requests up to this one are due.
    pub fn begin(&mut self, sequence: u64) {
        let count = usize::try_from(sequence).map_or(usize::MAX, |n| n.saturating_add(1));
        while self.slots.len() < count {
            let sequence = self.slots.len() as u64;
            self.slots.push(None);
            if let Some(writes) = &mut self.writes {
                writes.push(Write { sequence, acknowledged: None, sent: None, region: None, epoch: None });
            }
        }
    }

    /// A request has ended.
    pub fn end(&mut self, sequence: u64, ended: &Ended) {
        self.begin(sequence);
        let due = self.due(sequence);
        let region = ended.answered.as_ref().and_then(|a| a.region.as_deref()).and_then(|name| self.region(name));
        let store = ended.store.as_deref().and_then(|name| self.region(name));
        let Ok(index) = usize::try_from(sequence) else { return };
        if let Some(slot) = self.slots.get_mut(index) {
            let tries = ended.answered.as_ref().map_or(0, |a| a.tries);
            *slot = Some(Sample { due, latency: (ended.time - due).max(0), outcome: ended.outcome, region, tries });
        }
        if let Some(write) = self.writes.as_mut().and_then(|writes| writes.get_mut(index)) {
            write.sent = ended.sent;
            if ended.outcome == Outcome::Ok {
                write.acknowledged = Some(ended.time);
                write.region = store.or(region);
                write.epoch = ended.epoch;
            }
        }
    }

    fn region(&mut self, name: &str) -> Option<u16> {
        let known = self.regions.iter().position(|r| r == name);
        let index = known.unwrap_or_else(|| {
            if self.regions.len() < MOST_REGIONS {
                self.regions.push(name.to_owned());
            }
            self.regions.len().saturating_sub(1)
        });
        // A full table must not give the last region credit for another's answer.
        if self.regions.get(index).is_some_and(|r| r == name) { u16::try_from(index).ok() } else { None }
    }

    /// Requests due in `[from, to)` in order: when due, and how they ended if they have.
    pub fn between(&self, from: Nanos, to: Nanos) -> impl Iterator<Item = (Nanos, Option<&Sample>)> {
        let index = |time: Nanos| {
            let steps = time.saturating_sub(self.first).max(0) as u64;
            usize::try_from(steps.div_ceil(self.interval.unsigned_abs().max(1))).unwrap_or(usize::MAX)
        };
        let to = index(to).min(self.slots.len());
        let from = index(from).min(to);
        let slots = self.slots.get(from..to).unwrap_or_default();
        slots.iter().zip(from as u64..).map(|(slot, sequence)| (self.due(sequence), slot.as_ref()))
    }

    /// Writes that were sent, have ended, and were not acknowledged.
    pub fn indeterminate(&self) -> u64 {
        let ended = |write: &&Write| {
            let slot = usize::try_from(write.sequence).ok().and_then(|index| self.slots.get(index));
            write.sent.is_some() && write.acknowledged.is_none() && slot.is_some_and(Option::is_some)
        };
        self.writes.iter().flatten().filter(ended).count() as u64
    }

    /// Sequences below this have all ended.
    pub fn ended_below(&self) -> u64 {
        self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len()) as u64
    }

    /// Keeps what was read back.
    pub fn read_back(&mut self, readback: Readback) {
        self.readbacks.push(readback);
    }

    /// For the bundle: every request up to the last that ended with all before it.
    pub fn record(&self) -> ProbeRecord {
        let ended = usize::try_from(self.ended_below()).unwrap_or(usize::MAX);
        let samples: Vec<Sample> = self.slots.iter().take(ended).flatten().cloned().collect();
        let writes = self.writes.as_ref().map(|writes| WritesRecord {
            writes: writes.iter().take(ended).cloned().collect(),
            readbacks: self.readbacks.clone(),
        });
        ProbeRecord {
            name: self.name.clone(),
            service: None,
            interval: self.interval,
            timeout: self.timeout,
            regions: self.regions.clone(),
            samples,
            writes,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn log(interval: Nanos, writes: bool) -> ProbeLog {
        ProbeLog {
            name: "p".into(),
            first: 100,
            interval,
            timeout: 50,
            regions: Vec::new(),
            slots: Vec::new(),
            writes: writes.then(Vec::new),
            readbacks: Vec::new(),
        }
    }

    fn ended(time: Nanos, outcome: Outcome, region: Option<&str>, sent: Option<Nanos>) -> Ended {
        let answered = region.map(|r| AnsweredBy { region: Some(r.into()), tries: 1 });
        Ended { time, outcome, answered, sent, epoch: None, store: None }
    }

    #[test]
    fn answered_by_is_read_tolerantly() {
        let check = |value: &str, region: Option<&str>, tries: u8| {
            assert_eq!(AnsweredBy::parse(value), AnsweredBy { region: region.map(str::to_owned), tries }, "{value}");
        };
        check("east;accounts-east-0;v1;tries=2", Some("east"), 2);
        check("east", Some("east"), 0);
        check(";;;tries=3", None, 3);
        check("-;-;-;tries=x", None, 0);
        check("", None, 0);
        check("west; a; b; tries=300", Some("west"), 0);
        check(&"x".repeat(64), None, 0);
    }

    #[test]
    fn slots_keep_order_and_holes() {
        let mut log = log(10, true);
        log.begin(2);
        log.end(1, &ended(115, Outcome::Ok, Some("east"), Some(111)));
        log.end(0, &ended(160, Outcome::Timeout, None, Some(101)));
        assert_eq!(log.ended_below(), 2);
        assert_eq!(log.indeterminate(), 1);
        let seen: Vec<_> = log.between(100, 130).map(|(due, sample)| (due, sample.map(|s| s.latency))).collect();
        assert_eq!(seen, [(100, Some(60)), (110, Some(5)), (120, None)]);
        assert_eq!(log.between(101, 120).count(), 1);
        assert_eq!(log.between(0, 1000).count(), 3);
        let record = log.record();
        assert_eq!(record.samples.len(), 2);
        assert_eq!(record.samples[1].region, Some(0));
        let writes = record.writes.unwrap().writes;
        assert_eq!(writes.iter().map(|w| w.acknowledged).collect::<Vec<_>>(), [None, Some(115)]);
    }

    #[test]
    fn a_write_belongs_to_the_region_that_its_store_names() {
        let mut log = log(10, true);
        log.begin(1);
        let stored = |store: Option<&str>| Ended {
            store: store.map(Into::into),
            ..ended(5, Outcome::Ok, Some("west"), Some(1))
        };
        log.end(0, &stored(Some("east")));
        log.end(1, &stored(None));
        let record = log.record();
        let name = |region: Option<u16>| region.map(|index| record.regions[usize::from(index)].as_str());
        let writes = &record.writes.as_ref().unwrap().writes;
        assert_eq!((name(writes[0].region), name(writes[1].region)), (Some("east"), Some("west")));
        assert_eq!(name(record.samples[0].region), Some("west"), "traffic share is where the mesh sent it");
    }

    #[test]
    fn regions_are_bounded() {
        let mut log = log(10, false);
        for n in 0..100u64 {
            log.end(n, &ended(0, Outcome::Ok, Some(&format!("r{n}")), None));
        }
        assert_eq!(log.regions().len(), MOST_REGIONS);
        assert_eq!(log.record().samples[99].region, None);
        log.end(100, &ended(0, Outcome::Ok, Some("r3"), None));
        assert_eq!(log.record().samples[100].region, Some(3));
    }
}
