//! Loss: what became of acknowledged writes. Pure.
//!
//! Every read-back is judged, and a write that is absent in any of them is lost, also if it is there again later: whoever
//! read in between did not get it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::figures;
use crate::{
    record::{Finding, Nanos, Readback, Severity, Write, WritesRecord},
    results::Loss,
};

/// Counts over one `writes` probe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Acknowledged and judged.
    pub acknowledged: u64,
    /// Acknowledge times of those absent in a read-back before failback, or in every one that judged them.
    pub lost: Vec<Nanos>,
    /// Acknowledge times of those that were there until failback (or came later), and are absent after it.
    pub lost_by_failback: Vec<Nanos>,
    /// Absent in a read-back before failback.
    pub absent_at_recovery: u64,
    /// Absent in the last read-back that judged them.
    pub lost_for_good: u64,
    /// Sent and never acknowledged.
    pub indeterminate: u64,
    /// Extra copies in the read-back that has most of them.
    pub duplicated: u64,
    /// Stored behind a write that was sent only after this one had been acknowledged, in the read-back that has most.
    pub reordered: u64,
    /// Absent, then found.
    pub resurrected: u64,
    /// Acknowledged, and judged by no read-back.
    pub unjudged: u64,
    /// Two regions acknowledged within one exclusive epoch.
    pub split_brain: bool,
}

/// Judges the writes of one probe; `failback` is when failback was commanded, and `settle` the time that the store may
/// take to show a write. `None` if nothing was ever read back.
pub fn tally(record: &WritesRecord, failback: Option<Nanos>, settle: Nanos) -> Option<Tally> {
    let mut readbacks: Vec<(&Readback, HashSet<u64>)> =
        record.readbacks.iter().map(|readback| (readback, readback.found.iter().copied().collect())).collect();
    readbacks.sort_by_key(|(readback, _)| readback.time);
    if readbacks.is_empty() {
        return None;
    }
    let writes: HashMap<u64, &Write> = record.writes.iter().map(|write| (write.sequence, write)).collect();
    let mut tally = Tally { split_brain: is_split(&record.writes), ..Tally::default() };
    for (readback, _) in &readbacks {
        let (duplicated, reordered) = order(readback, &writes);
        tally.duplicated = tally.duplicated.max(duplicated);
        tally.reordered = tally.reordered.max(reordered);
    }
    let is_after = |readback: &Readback| failback.is_some_and(|time| readback.time >= time);
    for write in &record.writes {
        if write.sent.is_some() && write.acknowledged.is_none() {
            tally.indeterminate += 1;
        }
        let (mut is_judged, mut is_absent, mut was_absent) = (false, false, false);
        let (mut absent_before, mut is_resurrected) = (false, false);
        for (readback, found) in &readbacks {
            let is_found = found.contains(&write.sequence);
            let is_settled = write.acknowledged.is_none_or(|time| time.saturating_add(settle.max(0)) <= readback.time);
            if write.sequence >= readback.judged || !(is_found || is_settled) {
                continue;
            }
            is_judged = true;
            is_absent = !is_found;
            is_resurrected |= was_absent && is_found;
            was_absent |= is_absent;
            absent_before |= is_absent && !is_after(readback);
        }
        tally.resurrected += u64::from(is_resurrected);
        let Some(acknowledged) = write.acknowledged else { continue };
        if !is_judged {
            tally.unjudged += 1;
            continue;
        }
        tally.acknowledged += 1;
        tally.absent_at_recovery += u64::from(absent_before);
        tally.lost_for_good += u64::from(is_absent);
        // Without a read-back before failback, nobody knows which of the two lost it: the fault, which is worse.
        let was_read_before = readbacks.iter().any(|(readback, _)| !is_after(readback));
        if absent_before || (was_absent && !was_read_before) {
            tally.lost.push(acknowledged);
        } else if was_absent {
            tally.lost_by_failback.push(acknowledged);
        }
    }
    Some(tally)
}

/// Extra copies, and writes stored behind one that was sent only after they had been acknowledged.
fn order(readback: &Readback, writes: &HashMap<u64, &Write>) -> (u64, u64) {
    let (mut seen, mut latest_sent) = (HashSet::new(), Nanos::MIN);
    let (mut duplicated, mut reordered) = (0, 0);
    for sequence in &readback.found {
        if !seen.insert(*sequence) {
            duplicated += 1;
            continue;
        }
        let Some(write) = writes.get(sequence) else { continue };
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

/// What the store did wrong, as findings.
pub fn findings(loss: &Loss) -> Vec<Finding> {
    let count = |number: u64, noun: &str| figures::count(usize::try_from(number).unwrap_or(usize::MAX), noun);
    let lost = (
        Severity::Medium,
        loss.lost,
        format!("{} of {} lost", loss.lost, count(loss.acknowledged, "acknowledged write")),
        format!(
            "{} absent at recovery, {} lost by failback; {} lost for good, {} there again later.",
            loss.absent_at_recovery.unwrap_or(0),
            loss.lost_by_failback.unwrap_or(0),
            loss.lost_for_good.unwrap_or(0),
            loss.resurrected
        ),
        "Replicate before acknowledging, or accept the loss in the plan's dataLoss objective.",
    );
    let violations = [
        (
            loss.duplicated,
            "duplicated",
            "The store holds more copies than were written.",
            "Make writes idempotent: a repeat of the same id must not be stored again.",
        ),
        (
            loss.reordered,
            "reordered",
            "The store holds writes behind others that were sent only after these had been acknowledged.",
            "Apply replicated writes in the order in which they were acknowledged.",
        ),
        (
            loss.resurrected,
            "resurrected",
            "Writes were absent in one read-back and there again in a later one: what was decided in between is in doubt.",
            "Discard what the old primary alone has, or merge it by a rule, before it serves again.",
        ),
    ];
    let violations = violations.into_iter().map(|(number, what, detail, fix)| {
        (Severity::High, number, format!("{} {what}", count(number, "write")), detail.to_owned(), fix)
    });
    [lost]
        .into_iter()
        .chain(violations)
        .filter(|(_, number, ..)| *number > 0)
        .map(|(severity, _, title, detail, fix)| Finding { severity, title, detail, fix: fix.to_owned() })
        .collect()
}
