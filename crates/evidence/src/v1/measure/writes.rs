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
pub fn tally(record: &WritesRecord, failback: Option<Nanos>) -> Option<Tally> {
    let mut readbacks: Vec<(&Readback, HashSet<u64>)> =
        record.readbacks.iter().map(|readback| (readback, readback.found.iter().copied().collect())).collect();
    readbacks.sort_by_key(|(readback, _)| readback.time);
    let (last, _) = readbacks.last()?;
    let (duplicated, reordered) = order(last, &record.writes);
    let mut tally = Tally { duplicated, reordered, split_brain: is_split(&record.writes), ..Tally::default() };
    for write in &record.writes {
        if write.sent.is_some() && write.acknowledged.is_none() {
            tally.indeterminate += 1;
        }
        let seen: Vec<(bool, bool)> = readbacks
            .iter()
            .filter(|(readback, _)| write.sequence < readback.judged)
            .map(|(readback, found)| {
                (found.contains(&write.sequence), failback.is_some_and(|time| readback.time >= time))
            })
            .collect();
        tally.resurrected += u64::from(seen.windows(2).any(|pair| !pair[0].0 && pair[1].0));
        let Some(acknowledged) = write.acknowledged else { continue };
        let Some((found, after_failback)) = seen.last() else {
            tally.unjudged += 1;
            continue;
        };
        tally.acknowledged += 1;
        if *found {
            continue;
        }
        let before: Vec<bool> = seen.iter().filter(|(_, after)| !after).map(|(found, _)| *found).collect();
        let was_read_before = failback.is_some_and(|time| readbacks.iter().any(|(readback, _)| readback.time < time));
        // Not judged before failback, although there was a readback: it came after that, and was there.
        let was_there = before.last().copied().unwrap_or(was_read_before);
        if *after_failback && was_there {
            tally.lost_by_failback.push(acknowledged);
        } else {
            tally.lost.push(acknowledged);
        }
    }
    Some(tally)
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
