//! What a ledger knows and decides, without I/O: entries in order, its role, and who wins when two disagree.
//!
//! One primary writes in an **epoch**; promotion begins the next one. Within an epoch there is one writer, so an entry
//! is known by its position and epoch, and two logs agree up to the last position whose epoch agrees (as in Raft).

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// A stored write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Chosen by the client; a second write with it changes nothing.
    pub id: String,
    /// Chosen by the client.
    pub sequence: u64,
    /// Account that pays.
    #[serde(default = "default_account")]
    pub account: String,
    /// In cents.
    #[serde(default = "default_amount")]
    pub amount: i64,
    /// Exchange rate at the time.
    #[serde(default)]
    pub rate: Option<f64>,
    /// Epoch in which it was acknowledged; set by the ledger.
    #[serde(default)]
    pub epoch: u64,
}

fn default_account() -> String {
    "42".to_owned()
}

fn default_amount() -> i64 {
    100
}

/// Longest id and account name.
const MAX_NAME: usize = 200;
/// Most entries of a ledger: it is a sample, and keeps them in memory.
pub const MAX_ENTRIES: usize = 1_000_000;
/// Most entries of one page.
const PAGE: usize = 1_000;
/// What every account begins with, in cents.
const OPENING: i64 = 1_000_000;

/// Who a ledger is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Writes.
    Primary,
    /// Copies.
    Standby,
}

/// One change, as it is kept on disk; a ledger is the sum of its changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// Appended.
    Entry(Entry),
    /// Became this.
    Role {
        /// Role.
        role: Role,
        /// Epoch.
        epoch: u64,
    },
    /// Only the first so many entries are kept; the others diverged from the primary's.
    Keep(usize),
}

/// A part of a ledger's entries, for a peer that follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// Role of the ledger asked.
    pub role: Role,
    /// Its epoch.
    pub epoch: u64,
    /// How many of the follower's entries agree.
    pub keep: usize,
    /// Entries from there on; bounded, more may follow.
    pub entries: Vec<Entry>,
    /// All that the ledger has.
    pub total: usize,
}

/// Why a write was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only the primary writes.
    #[error("this ledger is a standby")]
    NotPrimary,
    /// Names out of bounds.
    #[error("a payment needs an `id` and an `account` of 1 to {MAX_NAME} characters")]
    Name,
    /// Bound reached.
    #[error("the ledger is full")]
    Full,
}

/// Entries, role and epoch.
#[derive(Clone, Debug)]
pub struct Book {
    role: Role,
    epoch: u64,
    entries: Vec<Entry>,
    by_id: HashMap<String, usize>,
    paid: HashMap<String, i64>,
}

impl Book {
    /// An empty ledger in its first epoch.
    pub fn new(role: Role) -> Self {
        Self { role, epoch: 1, entries: Vec::new(), by_id: HashMap::new(), paid: HashMap::new() }
    }

    /// Role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Epoch of the last entry; 0 if there is none.
    pub fn last_epoch(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.epoch)
    }

    /// What an account has, in cents.
    pub fn balance(&self, account: &str) -> i64 {
        OPENING.saturating_sub(self.paid.get(account).copied().unwrap_or(0))
    }

    /// Entries in stored order; with `probe`, those whose id is `probe` or begins with it and a separator.
    pub fn list(&self, probe: Option<&str>) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| probe.is_none_or(|probe| belongs(&entry.id, probe)))
    }

    /// Decides on a write: the change to apply, or `None` and the entry's epoch if it is stored already.
    ///
    /// # Errors
    /// When it is refused.
    pub fn write(&self, mut entry: Entry) -> Result<(Option<Change>, u64), Refusal> {
        if self.role != Role::Primary {
            return Err(Refusal::NotPrimary);
        }
        if [&entry.id, &entry.account].iter().any(|name| name.is_empty() || name.len() > MAX_NAME) {
            return Err(Refusal::Name);
        }
        if let Some(stored) = self.by_id.get(&entry.id).and_then(|at| self.entries.get(*at)) {
            return Ok((None, stored.epoch));
        }
        if self.entries.len() >= MAX_ENTRIES {
            return Err(Refusal::Full);
        }
        entry.epoch = self.epoch;
        Ok((Some(Change::Entry(entry)), self.epoch))
    }

    /// What a follower with `after` entries, the last of them of epoch `last_epoch`, needs. Where they do not agree,
    /// the page only says how far to go back before asking again.
    pub fn page(&self, after: usize, last_epoch: u64) -> Page {
        // Epochs never fall along the log, so this is a prefix: at most all that a writer of `last_epoch` had seen.
        let known = self.entries.partition_point(|entry| entry.epoch <= last_epoch);
        let agree = after == 0
            || (after <= known && self.entries.get(after - 1).is_some_and(|entry| entry.epoch == last_epoch));
        let keep = match (agree, after > known) {
            (true, _) => after,
            (false, true) => known,
            (false, false) => after / 2,
        };
        let page = if agree { PAGE } else { 0 };
        let entries = self.entries.iter().skip(keep).take(page).cloned().collect();
        Page { role: self.role, epoch: self.epoch, keep, entries, total: self.entries.len() }
    }

    /// Changes that make this ledger follow the page's: its own divergent tail goes. A page of an older epoch, or one
    /// that was asked for in another state of this ledger, changes nothing.
    pub fn follow(&self, page: &Page) -> Vec<Change> {
        let mut changes = Vec::new();
        if page.epoch < self.epoch || page.keep > self.entries.len() || self.role == Role::Primary {
            return changes;
        }
        if page.epoch > self.epoch {
            changes.push(Change::Role { role: Role::Standby, epoch: page.epoch });
        }
        if page.keep < self.entries.len() {
            changes.push(Change::Keep(page.keep));
        }
        let room = MAX_ENTRIES.saturating_sub(page.keep);
        changes.extend(page.entries.iter().take(room).cloned().map(Change::Entry));
        changes
    }

    /// Applies one change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Entry(entry) => {
                self.by_id.insert(entry.id.clone(), self.entries.len());
                let paid = self.paid.entry(entry.account.clone()).or_default();
                *paid = paid.saturating_add(entry.amount);
                self.entries.push(entry);
            }
            Change::Role { role, epoch } => {
                self.role = role;
                self.epoch = epoch;
            }
            Change::Keep(count) => {
                let kept: Vec<Entry> = std::mem::take(&mut self.entries).into_iter().take(count).collect();
                self.by_id.clear();
                self.paid.clear();
                for entry in kept {
                    self.apply(Change::Entry(entry));
                }
            }
        }
    }
}

fn belongs(id: &str, probe: &str) -> bool {
    id.strip_prefix(probe).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str) -> Entry {
        Entry { id: id.to_owned(), sequence: 0, account: default_account(), amount: 100, rate: None, epoch: 0 }
    }

    fn write(book: &mut Book, ids: &[&str]) {
        for id in ids {
            if let (Some(change), _) = book.write(entry(id)).unwrap() {
                book.apply(change);
            }
        }
    }

    fn ids(book: &Book) -> Vec<&str> {
        book.list(None).map(|e| e.id.as_str()).collect()
    }

    /// Pulls pages until nothing changes.
    fn follow(follower: &mut Book, primary: &Book) {
        for _ in 0..50 {
            for change in follower.follow(&primary.page(follower.len(), follower.last_epoch())) {
                follower.apply(change);
            }
        }
    }

    fn promote(book: &mut Book, epoch: u64) {
        book.apply(Change::Role { role: Role::Primary, epoch });
    }

    #[test]
    fn a_divergent_tail_gives_way_to_the_higher_epoch() {
        let (mut east, mut west) = (Book::new(Role::Primary), Book::new(Role::Standby));
        write(&mut east, &["a", "b"]);
        follow(&mut west, &east);
        write(&mut east, &["lost-1", "lost-2"]);
        promote(&mut west, 2);
        write(&mut west, &["c"]);
        assert_eq!(west.balance("42"), OPENING - 300);

        east.apply(Change::Role { role: Role::Standby, epoch: 1 });
        follow(&mut east, &west);
        assert_eq!(ids(&east), ["a", "b", "c"]);
        assert_eq!((east.epoch(), east.role(), east.balance("42")), (2, Role::Standby, OPENING - 300));
    }

    #[test]
    fn logs_agree_after_any_history_of_failovers() {
        for seed in 0..200_u64 {
            let mut random = fastrand_like(seed);
            let mut books = [Book::new(Role::Primary), Book::new(Role::Standby)];
            let (mut primary, mut epoch, mut next) = (0_usize, 1, 0);
            for _ in 0..40 {
                match random() % 4 {
                    0 | 1 => {
                        next += 1;
                        write(&mut books[primary], &[&format!("w-{next}")]);
                    }
                    2 => {
                        let (from, to) = (books[primary].clone(), &mut books[1 - primary]);
                        follow(to, &from);
                    }
                    _ => {
                        books[primary].apply(Change::Role { role: Role::Standby, epoch });
                        primary = 1 - primary;
                        epoch += 1;
                        promote(&mut books[primary], epoch);
                    }
                }
            }
            let from = books[primary].clone();
            follow(&mut books[1 - primary], &from);
            assert_eq!(ids(&books[0]), ids(&books[1]), "seed {seed}");
        }
    }

    /// A xorshift: the crate has no random numbers among its dependencies, and this needs none better.
    fn fastrand_like(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state >> 33
        }
    }

    #[test]
    fn only_the_primary_writes_and_each_id_once() {
        let mut book = Book::new(Role::Primary);
        write(&mut book, &["a", "a"]);
        assert_eq!(book.len(), 1);
        assert_eq!(book.write(entry("")), Err(Refusal::Name));
        book.apply(Change::Role { role: Role::Standby, epoch: 1 });
        assert_eq!(book.write(entry("b")), Err(Refusal::NotPrimary));
    }

    #[test]
    fn a_page_of_an_older_epoch_changes_nothing() {
        let (old, mut new) = (Book::new(Role::Primary), Book::new(Role::Standby));
        new.apply(Change::Role { role: Role::Standby, epoch: 3 });
        assert!(new.follow(&old.page(0, 0)).is_empty());
        promote(&mut new, 4);
        assert!(new.follow(&Page { epoch: 9, ..old.page(0, 0) }).is_empty(), "a primary follows nobody");
    }

    #[test]
    fn lists_are_narrowed_by_run() {
        let mut book = Book::new(Role::Primary);
        write(&mut book, &["run-1-1", "run-1", "run-10-1", "run-2-1"]);
        assert_eq!(book.list(Some("run-1")).count(), 2);
    }
}
