//! Loss: what became of acknowledged writes. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::v1::record::{Nanos, Readback, Write, WritesRecord};

/// Counts over one `writes` probe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Acknowledged and judged.
    pub acknowledged: u64,
    /// Acknowledge times of those absent in the last readback that judged them, not counting `lost_by_failback`.
    pub lost: Vec<Nanos>,
    /// Acknowledge times of those that were there after recovery (or came later) and are absent after failback.
    pub lost_by_failback: Vec<Nanos>,
    /// Sent and never acknowledged.
    pub indeterminate: u64,
    /// Extra copies in the last readback.
    pub duplicated: u64,
    /// Stored behind a write that was sent only after this one had been acknowledged.
    pub reordered: u64,
    /// Absent, then found.
    pub resurrected: u64,
    /// Acknowledged after the last readback.
    pub unjudged: u64,
    /// Two regions acknowledged within one exclusive epoch.
    pub split_brain: bool,
}

/// Judges the writes of one probe; `failback` is when failback was commanded. `None` if nothing was ever read back.
///
/// In time that grows with writes, readbacks and sequences found, not with writes times readbacks: writes are judged from
/// the highest sequence down, while the readbacks that judge them become more.
pub fn tally(record: &WritesRecord, failback: Option<Nanos>) -> Option<Tally> {
    let mut readbacks: Vec<&Readback> = record.readbacks.iter().collect();
    readbacks.sort_by_key(|readback| readback.time);
    let last = readbacks.last()?;
    let (duplicated, reordered) = order(last, &record.writes);
    let mut tally = Tally { duplicated, reordered, split_brain: is_split(&record.writes), ..Tally::default() };
    // Readbacks from here on are after failback.
    let failed_back = failback.map_or(readbacks.len(), |time| readbacks.partition_point(|one| one.time < time));
    let was_read_before = failback.is_some() && failed_back > 0;
    let found = found(&readbacks);
    let mut fates = vec![Fate::Unjudged; record.writes.len()];
    let mut judging = Judging::new(&readbacks, failed_back);
    let mut by_sequence: Vec<usize> = (0..record.writes.len()).collect();
    by_sequence.sort_unstable_by_key(|at| std::cmp::Reverse(record.writes[*at].sequence));
    for at in by_sequence {
        let sequence = record.writes[at].sequence;
        judging.lower_to(sequence);
        let from = found.partition_point(|(other, _)| *other < sequence);
        let to = found.partition_point(|(other, _)| *other <= sequence);
        let seen = &found[from..to];
        // Found first and then never again, or always: else it was absent and came back.
        let is_prefix = seen.last().is_none_or(|(_, last)| judging.rank(*last) == seen.len());
        tally.resurrected += u64::from(!is_prefix);
        let Some(judge) = judging.last else { continue };
        let is_found = |position: usize| seen.binary_search_by_key(&position, |(_, position)| *position).is_ok();
        fates[at] = if is_found(judge) {
            Fate::Kept
        } else if judge >= failed_back && judging.last_before.map_or(was_read_before, is_found) {
            // Not judged before failback, although there was a readback: it came after that, and was there.
            Fate::LostByFailback
        } else {
            Fate::Lost
        };
    }
    for (write, fate) in record.writes.iter().zip(fates) {
        if write.sent.is_some() && write.acknowledged.is_none() {
            tally.indeterminate += 1;
        }
        let Some(acknowledged) = write.acknowledged else { continue };
        match fate {
            Fate::Unjudged => tally.unjudged += 1,
            _ => tally.acknowledged += 1,
        }
        match fate {
            Fate::Lost => tally.lost.push(acknowledged),
            Fate::LostByFailback => tally.lost_by_failback.push(acknowledged),
            Fate::Kept | Fate::Unjudged => {}
        }
    }
    Some(tally)
}

/// What the readbacks say of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unjudged,
    Kept,
    Lost,
    LostByFailback,
}

/// Sequences and the readbacks that found and judged them, in order.
fn found(readbacks: &[&Readback]) -> Vec<(u64, usize)> {
    let mut found = Vec::new();
    for (position, readback) in readbacks.iter().enumerate() {
        let judged = readback.found.iter().filter(|sequence| **sequence < readback.judged);
        found.extend(judged.map(|sequence| (*sequence, position)));
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The readbacks that judge a sequence, while the sequence goes down.
struct Judging {
    /// Positions and bounds of those that do not judge it yet, the highest bound last.
    waiting: Vec<(u64, usize)>,
    /// Counts of those that judge it, as a Fenwick tree over positions.
    counts: Vec<u32>,
    /// The last one that judges it.
    last: Option<usize>,
    /// The last one of them before failback.
    last_before: Option<usize>,
    failed_back: usize,
}

impl Judging {
    fn new(readbacks: &[&Readback], failed_back: usize) -> Self {
        let mut waiting: Vec<_> = readbacks.iter().enumerate().map(|(at, readback)| (readback.judged, at)).collect();
        waiting.sort_unstable();
        Self { waiting, counts: vec![0; readbacks.len() + 1], last: None, last_before: None, failed_back }
    }

    fn lower_to(&mut self, sequence: u64) {
        while let Some((_, position)) = self.waiting.pop_if(|(judged, _)| *judged > sequence) {
            self.last = self.last.max(Some(position));
            if position < self.failed_back {
                self.last_before = self.last_before.max(Some(position));
            }
            let mut at = position + 1;
            while let Some(count) = self.counts.get_mut(at) {
                *count += 1;
                at += at & at.wrapping_neg();
            }
        }
    }

    /// How many of those that judge it are at or before `position`.
    fn rank(&self, position: usize) -> usize {
        let (mut at, mut rank) = (position + 1, 0);
        while at > 0 {
            rank += self.counts.get(at).map_or(0, |count| *count as usize);
            at &= at - 1;
        }
        rank
    }
}

/// Extra copies, and writes stored behind one that was sent only after they had been acknowledged.
fn order(readback: &Readback, writes: &[Write]) -> (u64, u64) {
    let by_sequence: HashMap<u64, &Write> = writes.iter().map(|write| (write.sequence, write)).collect();
    let (mut seen, mut latest_sent) = (HashSet::new(), Nanos::MIN);
    let (mut duplicated, mut reordered) = (0, 0);
    for sequence in &readback.found {
        if !seen.insert(*sequence) {
            duplicated += 1;
            continue;
        }
        let Some(write) = by_sequence.get(sequence) else { continue };
        if write.acknowledged.is_some_and(|acknowledged| latest_sent > acknowledged) {
            reordered += 1;
        }
        latest_sent = latest_sent.max(write.sent.unwrap_or(Nanos::MIN));
    }
    (duplicated, reordered)
}

/// Whether two regions acknowledged within one epoch, by the epochs that the store named.
fn is_split(writes: &[Write]) -> bool {
    let mut regions: BTreeMap<u64, BTreeSet<u16>> = BTreeMap::new();
    for write in writes.iter().filter(|write| write.acknowledged.is_some()) {
        if let (Some(epoch), Some(region)) = (write.epoch, write.region) {
            regions.entry(epoch).or_default().insert(region);
        }
    }
    regions.values().any(|regions| regions.len() > 1)
}
