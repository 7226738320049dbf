//! What a verified bundle says about its ledger, and whether two bundles, or a bundle and a ledger, tell one history.
//!
//! A ledger that was copied or rolled back, and then continued twice, gives bundles that are each in order. They differ in
//! what they say about the same place of the log, and that is what is looked for here.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    bundle::{Check, CheckOutcome, closing::Proved},
    entry::{Entry, kind},
    ledger::Verified,
    merkle::{self, Hash},
    note::{Checkpoint, VerifierKey},
};

/// Name of the check in reports.
const HISTORY: &str = "history";

/// What is said about one ledger by one bundle, or by a checkpoint alone.
#[derive(Clone, Debug)]
pub struct Claim {
    key: VerifierKey,
    checkpoint: Checkpoint,
    entries: Vec<Claimed>,
}

/// One proved entry.
#[derive(Clone, Debug)]
struct Claimed {
    index: u64,
    leaf: Hash,
    path: Vec<Hash>,
    /// `seal of lose-east attempt 1, failed`.
    what: String,
    /// Drill, number and kind, for entries about attempts.
    attempt: Option<(String, u64, String)>,
}

impl Claim {
    pub(crate) fn new(key: VerifierKey, checkpoint: Checkpoint, proofs: Vec<Proved>) -> Self {
        let entries = proofs.into_iter().map(|proved| Claimed {
            index: proved.entry.index,
            leaf: proved.leaf,
            path: proved.path,
            what: describe(&proved.entry),
            attempt: attempt(&proved.entry),
        });
        Self { key, checkpoint, entries: entries.collect() }
    }

    /// A signed checkpoint without entries.
    pub fn of_checkpoint(key: VerifierKey, checkpoint: Checkpoint) -> Self {
        Self { key, checkpoint, entries: Vec::new() }
    }

    /// Root of the first `size` entries, if the proofs lead to it.
    fn root_at(&self, size: u64) -> Option<Hash> {
        if size == self.checkpoint.size {
            return Some(self.checkpoint.root);
        }
        let last = self.entries.iter().find(|entry| entry.index.checked_add(1) == Some(size))?;
        merkle::root_before(&last.leaf, last.index, self.checkpoint.size, &last.path)
    }

    /// Complete subtrees of the log by first leaf and level, as far as the proofs show them.
    fn subtrees(&self) -> BTreeMap<(u64, u32), Hash> {
        let mut known = BTreeMap::new();
        for entry in &self.entries {
            known.insert((entry.index, 0), entry.leaf);
            let (mut number, mut last, mut level) = (entry.index, self.checkpoint.size.saturating_sub(1), 0_u32);
            for sibling in &entry.path {
                let is_left = number & 1 == 1 || number == last;
                let beside = if is_left { number.saturating_sub(1) } else { number + 1 };
                let first = beside.checked_shl(level).unwrap_or(u64::MAX);
                let end = first.saturating_add(1_u64.checked_shl(level).unwrap_or(u64::MAX));
                if end <= self.checkpoint.size && (number != last || number & 1 == 1) {
                    known.insert((first, level), *sibling);
                }
                if is_left {
                    while number & 1 == 0 && number != 0 {
                        number >>= 1;
                        last >>= 1;
                        level += 1;
                    }
                }
                number >>= 1;
                last >>= 1;
                level += 1;
            }
        }
        known
    }
}

fn attempt(entry: &Entry) -> Option<(String, u64, String)> {
    let drill = entry.body.get("drill").and_then(Value::as_str)?;
    let number = entry.body.get("number").and_then(Value::as_u64)?;
    Some((drill.to_owned(), number, entry.kind.clone()))
}

fn describe(entry: &Entry) -> String {
    let Some((drill, number, kind)) = attempt(entry) else { return entry.kind.clone() };
    let verdict = entry.body.get("verdict").and_then(Value::as_str).map(|verdict| format!(", {verdict}"));
    let what = if kind == kind::SEALED { "seal" } else { "registration" };
    format!("{what} of {drill} attempt {number}{}", verdict.unwrap_or_default())
}

fn check(outcome: CheckOutcome, detail: impl Into<String>) -> Check {
    Check { name: HISTORY.to_owned(), outcome, detail: detail.into() }
}

const FORK: &str = "the ledger was copied or rolled back, and then continued twice";

/// Whether two bundles tell one history. `names` are what the reader calls them.
pub fn compare(a: &Claim, b: &Claim, names: (&str, &str)) -> Check {
    let ((a, a_name), (b, b_name)) = match a.checkpoint.size <= b.checkpoint.size {
        true => ((a, names.0), (b, names.1)),
        false => ((b, names.1), (a, names.0)),
    };
    if a.key != b.key {
        return check(
            CheckOutcome::NotChecked,
            format!(
                "{a_name} and {b_name} are of different ledgers ({}, {}): there is no common history to compare",
                a.key.name(),
                b.key.name()
            ),
        );
    }
    if let Some(why) = contradiction(a, b, a_name, b_name) {
        return check(CheckOutcome::Failed, format!("{why}: {FORK}"));
    }
    let (small, large) = (a.checkpoint.size, b.checkpoint.size);
    match b.root_at(small) {
        Some(root) if root == a.checkpoint.root => check(
            CheckOutcome::Passed,
            format!("{b_name} ({large} entries) continues the history of {a_name} ({small} entries)"),
        ),
        Some(_) => check(
            CheckOutcome::Failed,
            format!("the first {small} entries of the ledger are others in {b_name} than in {a_name}: {FORK}"),
        ),
        None => check(
            CheckOutcome::NotChecked,
            format!(
                "{a_name} and {b_name} do not contradict each other, but no proof leads from the {large} entries of \
                 {b_name} to the {small} of {a_name}: compare each with the ledger (--ledger DIR)"
            ),
        ),
    }
}

/// A place of the log, or an attempt, about which the two say different things.
fn contradiction(a: &Claim, b: &Claim, a_name: &str, b_name: &str) -> Option<String> {
    let by_index: BTreeMap<u64, &Claimed> = b.entries.iter().map(|entry| (entry.index, entry)).collect();
    let by_attempt: BTreeMap<_, &Claimed> =
        b.entries.iter().filter_map(|entry| Some((entry.attempt.as_ref()?, entry))).collect();
    for entry in &a.entries {
        if let Some(other) = by_index.get(&entry.index).filter(|other| other.leaf != entry.leaf) {
            return Some(format!(
                "entry {} of the ledger is \"{}\" in {a_name}, and \"{}\" in {b_name}",
                entry.index, entry.what, other.what
            ));
        }
        let same = entry.attempt.as_ref().and_then(|attempt| by_attempt.get(attempt));
        if let Some(other) = same.filter(|other| (other.index, other.leaf) != (entry.index, entry.leaf)) {
            return Some(format!(
                "there are two records of one attempt: \"{}\" is entry {} in {a_name}, and \"{}\" is entry {} in {b_name}",
                entry.what, entry.index, other.what, other.index
            ));
        }
    }
    let known = b.subtrees();
    let differs = a
        .subtrees()
        .into_iter()
        .find(|((first, level), hash)| known.get(&(*first, *level)).is_some_and(|other| other != hash));
    differs.map(|((first, level), _)| {
        let last = first.saturating_add((1_u64 << level.min(63)) - 1);
        format!("entries {first} to {last} of the ledger are others in {a_name} than in {b_name}")
    })
}

/// Whether what a bundle says about its ledger is what the ledger says.
pub fn compare_with_ledger(claim: &Claim, ledger: &Verified, name: &str) -> Check {
    let report = &ledger.report;
    if claim.key != report.key {
        let detail = format!("{name} is of another ledger: {}, not {}", claim.key.name(), report.key.name());
        return check(CheckOutcome::Failed, detail);
    }
    let leaf = |index: u64| usize::try_from(index).ok().and_then(|index| ledger.leaves.get(index));
    let (claimed, entries) = (claim.checkpoint.size, report.entries);
    if let Some(entry) = claim.entries.iter().find(|entry| leaf(entry.index).is_some_and(|leaf| *leaf != entry.leaf)) {
        let detail =
            format!("\"{}\" (entry {}) of {name} is not what the ledger has there: {FORK}", entry.what, entry.index);
        return check(CheckOutcome::Failed, detail);
    }
    if claimed > entries {
        let detail = format!(
            "the ledger has {entries} entries, and had {claimed} when {name} was sealed: it was rolled back, or is an \
             older copy"
        );
        return check(CheckOutcome::Failed, detail);
    }
    let root = usize::try_from(claimed).ok().and_then(|size| ledger.tree.root(size));
    if root != Some(claim.checkpoint.root) {
        let detail =
            format!("the first {claimed} entries of the ledger are not those that {name} was sealed with: {FORK}");
        return check(CheckOutcome::Failed, detail);
    }
    check(
        CheckOutcome::Passed,
        format!("the ledger ({entries} entries) continues the history of {name} ({claimed} entries)"),
    )
}
