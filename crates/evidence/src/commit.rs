//! What is committed to the log, and what an interrupted append left behind. Pure.
//!
//! Three signed notes say how far the log goes. An append writes them in this order, each durable before the next step:
//!
//! 1. `checkpoint.next`: the head that the log is about to have;
//! 2. the line in `entries.log`;
//! 3. `checkpoint.next` becomes `checkpoint`: the entry is committed;
//! 4. `high-water`: the entry is acknowledged, and the append returns.
//!
//! So a tail behind the checkpoint is cut only if a signed `checkpoint.next` shows that its append began, and `high-water`
//! that it was never acknowledged. Everything else is a changed file, and the ledger refuses to open.

use crate::{merkle::Hash, note::Checkpoint};

/// Signed head of the log.
pub const CHECKPOINT: &str = "checkpoint";
/// Signed head of an append that is under way.
pub const NEXT: &str = "checkpoint.next";
/// Signed head that was last acknowledged.
pub const HIGH_WATER: &str = "high-water";

/// What is to be done before the log is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    None,
    /// Commit the whole entry behind the checkpoint: its append was interrupted after its line was durable.
    Commit,
    /// Cut what is behind the checkpoint: an append that was never acknowledged.
    Cut,
    /// Raise `high-water` to the checkpoint, and remove a `checkpoint.next` whose line was never written.
    Mark,
}

/// The notes, and what was found in the log.
#[derive(Debug)]
pub struct Found<'a> {
    /// `checkpoint`; the log has its root at its size.
    pub checkpoint: &'a Checkpoint,
    /// `high-water`, if there is one.
    pub high_water: Option<&'a Checkpoint>,
    /// Root of the log at the size of `high_water`, if the log is that long.
    pub root_at_high_water: Option<Hash>,
    /// `checkpoint.next`, if there is one.
    pub next: Option<&'a Checkpoint>,
    /// Bytes behind the checkpoint.
    pub tail: &'a [u8],
    /// Root of the log with the tail as one more entry, if the tail is a whole line with its hash.
    pub root_with_tail: Option<Hash>,
    /// Whether an entry of the log has the present format: such a log has always had a `high-water`.
    pub is_current: bool,
}

/// Decides; the text of an error says what to do.
pub fn judge(found: &Found<'_>) -> Result<Repair, String> {
    let size = found.checkpoint.size;
    let behind = match found.high_water {
        None if found.is_current => {
            return Err(format!(
                "the file {HIGH_WATER} is missing, so it cannot be told whether the {size} entries are all that were \
                 written. {RESTORE}"
            ));
        }
        None => true,
        Some(mark) if mark.size > size => {
            return Err(format!(
                "the checkpoint has {size} entries, but {} were acknowledged: it was replaced by an older one. {RESTORE}",
                mark.size
            ));
        }
        Some(mark) if found.root_at_high_water != Some(mark.root) => {
            return Err(format!(
                "the first {} entries are not those that were acknowledged (file {HIGH_WATER}): the files are of \
                 different copies of the ledger. {RESTORE}",
                mark.size
            ));
        }
        Some(mark) if found.is_current && mark.size.saturating_add(1) < size => {
            return Err(format!(
                "the checkpoint has {size} entries, and {HIGH_WATER} only {}: {HIGH_WATER} was replaced by an older one. \
                 {RESTORE}",
                mark.size
            ));
        }
        Some(mark) => mark.size < size,
    };
    let began = found.next.filter(|next| next.size == size.saturating_add(1));
    let lines = found.tail.iter().filter(|byte| **byte == b'\n').count();
    let is_whole = lines == 1 && found.tail.last() == Some(&b'\n');
    if found.tail.is_empty() {
        return Ok(if behind || found.next.is_some() { Repair::Mark } else { Repair::None });
    }
    match began {
        Some(next) if is_whole && found.root_with_tail == Some(next.root) => Ok(Repair::Commit),
        Some(_) if lines == 0 || (is_whole && found.root_with_tail.is_none()) => Ok(Repair::Cut),
        // Until the present format, an append had no `checkpoint.next`.
        None if lines == 0 && !found.is_current && found.high_water.is_none() => Ok(Repair::Cut),
        _ if lines > 0 => Err(format!(
            "{lines} whole {} behind the {size} of the signed checkpoint: it is older than they are. {RESTORE}",
            if lines == 1 { "entry stands" } else { "entries stand" }
        )),
        _ => Err(format!(
            "{} bytes stand behind the {size} entries of the signed checkpoint, and no append was under way: entries were \
             cut, or the checkpoint is older than they are. {RESTORE}",
            found.tail.len()
        )),
    }
}

/// What a person can do.
const RESTORE: &str = "Nothing was changed. Put the latest files back: the whole folder from its newest backup, or the \
                       checkpoint from the newest bundle of this ledger (its part `checkpoint`)";
