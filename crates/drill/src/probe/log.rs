//! What a probe has seen: one slot per due request, filled when it has ended.

use evidence::record::{Lateness, Nanos, Outcome, ProbeRecord, Readback, Sample, Write, WritesRecord};

use super::{ProbeSpec, SharedLog, lock};
use crate::{clock, late::Late};

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
    service: Option<String>,
    first: Nanos,
    interval: Nanos,
    timeout: Nanos,
    regions: Vec<String>,
    slots: Vec<Option<Sample>>,
    writes: Option<Vec<Write>>,
    readbacks: Vec<Readback>,
    /// Sequences below this have all ended.
    ended: usize,
    /// Writes that were sent, have ended, and were not acknowledged.
    indeterminate: u64,
    /// Sequences that have ended since they were last taken; `None` if nobody takes them.
    ends: Option<Vec<u64>>,
    /// How late the sender took up what was due.
    late: Late,
    /// When this process first had no descriptor left for a connection.
    descriptor_limit: Option<Nanos>,
}

/// How many requests are copied while a log is locked: whoever sends does not wait for more than that.
const CHUNK: usize = 8_192;

impl ProbeLog {
    /// An empty log.
    pub fn new(spec: &ProbeSpec, first: Nanos, interval: Nanos) -> Self {
        let frame = (first, interval, clock::nanos(spec.timeout));
        let log = Self::of_frame(spec.name.clone(), frame, spec.writes.is_some());
        Self { service: spec.service.clone(), ..log }
    }

    /// An empty log: when its first request is due, the time between two, and the timeout.
    pub fn of_frame(name: String, (first, interval, timeout): (Nanos, Nanos, Nanos), writes: bool) -> Self {
        Self {
            name,
            service: None,
            first,
            interval,
            timeout,
            regions: Vec::new(),
            slots: Vec::new(),
            writes: writes.then(Vec::new),
            readbacks: Vec::new(),
            ended: 0,
            indeterminate: 0,
            ends: None,
            late: Late::default(),
            descriptor_limit: None,
        }
    }

    /// A due request was taken up this late.
    pub fn late(&mut self, by: Nanos) {
        self.late.note(by);
    }

    /// How late requests were taken up.
    pub fn lateness(&self) -> Lateness {
        self.late.summary()
    }

    /// There was no descriptor left.
    pub fn limited(&mut self, time: Nanos) {
        self.descriptor_limit.get_or_insert(time);
    }

    /// When there first was none left.
    pub fn descriptor_limit(&self) -> Option<Nanos> {
        self.descriptor_limit
    }

    /// Requests that were due before this and never taken up.
    pub fn missing(&self, until: Nanos) -> u64 {
        let since = until.saturating_sub(self.first);
        let due = if since < 0 { 0 } else { (since / self.interval.max(1)).unsigned_abs() + 1 };
        due.saturating_sub(self.slots.len() as u64)
    }

    /// When its first request is due, the time between two, and the timeout.
    pub fn frame(&self) -> (Nanos, Nanos, Nanos) {
        (self.first, self.interval, self.timeout)
    }

    /// Whether it is of a `writes` probe.
    pub fn has_writes(&self) -> bool {
        self.writes.is_some()
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
            let sample = Sample { due, latency: (ended.time - due).max(0), outcome: ended.outcome, region, tries };
            if slot.replace(sample).is_none() && ended.sent.is_some() && ended.outcome != Outcome::Ok {
                self.indeterminate += u64::from(self.writes.is_some());
            }
        }
        if let Some(write) = self.writes.as_mut().and_then(|writes| writes.get_mut(index)) {
            write.sent = ended.sent;
            if ended.outcome == Outcome::Ok {
                write.acknowledged = Some(ended.time);
                write.region = store.or(region);
                write.epoch = ended.epoch;
            }
        }
        self.advance();
        if let Some(ends) = &mut self.ends {
            ends.push(sequence);
        }
    }

    fn advance(&mut self) {
        while self.slots.get(self.ended).is_some_and(Option::is_some) {
            self.ended += 1;
        }
    }

    /// From now on it is noted what ends, beginning with what has.
    pub fn note_ends(&mut self) {
        self.ends = Some((0..).zip(&self.slots).filter(|(_, slot)| slot.is_some()).map(|(at, _)| at).collect());
    }

    /// From now on that is not noted any more.
    pub fn forget_ends(&mut self) {
        self.ends = None;
    }

    /// What has ended since this was last asked.
    pub fn take_ends(&mut self) -> Vec<(u64, Sample, Option<Write>)> {
        let ends = self.ends.as_mut().map(std::mem::take).unwrap_or_default();
        let known = ends.into_iter().filter_map(|sequence| {
            let at = usize::try_from(sequence).ok()?;
            let write = self.writes.as_ref().and_then(|writes| writes.get(at)).cloned();
            Some((sequence, self.slots.get(at)?.clone()?, write))
        });
        known.collect()
    }

    /// Puts back what was taken.
    pub fn restore(&mut self, sequence: u64, sample: Sample, write: Option<Write>) {
        self.begin(sequence);
        let Ok(at) = usize::try_from(sequence) else { return };
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Some(sample);
        }
        if let Some((slot, write)) = self.writes.as_mut().and_then(|writes| writes.get_mut(at)).zip(write) {
            *slot = write;
        }
        self.advance();
    }

    /// The next name that samples index.
    pub fn name_region(&mut self, name: String) {
        if self.regions.len() < MOST_REGIONS {
            self.regions.push(name);
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
        self.indeterminate
    }

    /// Sequences below this have all ended.
    pub fn ended_below(&self) -> u64 {
        self.ended as u64
    }

    /// What was read back.
    pub fn readbacks(&self) -> &[Readback] {
        &self.readbacks
    }

    /// Keeps what was read back.
    pub fn read_back(&mut self, readback: Readback) {
        self.readbacks.push(readback);
    }

    /// For the bundle: every request up to the last that ended with all before it.
    pub fn record(&self) -> ProbeRecord {
        let mut record = self.empty_record();
        self.copy(self.ended, &mut record);
        record
    }

    fn empty_record(&self) -> ProbeRecord {
        let writes = || WritesRecord { writes: Vec::new(), readbacks: self.readbacks.clone() };
        ProbeRecord {
            name: self.name.clone(),
            service: self.service.clone(),
            interval: self.interval,
            timeout: self.timeout,
            regions: self.regions.clone(),
            samples: Vec::new(),
            writes: self.has_writes().then(writes),
        }
    }

    /// Adds the requests that follow those of a record, up to this one.
    fn copy(&self, to: usize, record: &mut ProbeRecord) {
        let from = record.samples.len();
        record.samples.extend(self.slots.get(from..to).unwrap_or_default().iter().flatten().cloned());
        if let (Some(record), Some(writes)) = (&mut record.writes, &self.writes) {
            record.writes.extend(writes.get(from..to).unwrap_or_default().iter().cloned());
        }
    }
}

/// The record of a log that is being written, as it is now. Whoever writes it is held up for a moment only, however much it
/// holds.
pub fn record_of(log: &SharedLog) -> ProbeRecord {
    let (mut record, ended) = {
        let log = lock(log);
        (log.empty_record(), log.ended)
    };
    let mut to = 0;
    while to < ended {
        to = to.saturating_add(CHUNK).min(ended);
        lock(log).copy(to, &mut record);
    }
    record
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn log(interval: Nanos, writes: bool) -> ProbeLog {
        ProbeLog::of_frame("p".into(), (100, interval, 50), writes)
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
    fn what_was_never_taken_up_is_counted() {
        let mut log = log(10, false);
        assert_eq!((log.missing(99), log.missing(100), log.missing(109), log.missing(110)), (0, 1, 1, 2));
        log.begin(1);
        assert_eq!((log.missing(119), log.missing(1_100)), (0, 99));
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
