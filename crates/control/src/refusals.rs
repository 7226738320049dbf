//! How many were let in and refused, and how often refusals are told: what anybody who can connect may cause must not
//! fill logs. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Refusals told at once.
const BURST: u32 = 20;
/// After that, one in this time.
const PACE: Duration = Duration::from_secs(1);

/// A bucket of entries that may be told.
#[derive(Debug)]
pub(crate) struct Refusals {
    left: u32,
    filled: Instant,
    untold: u64,
    counted: BTreeMap<&'static str, u64>,
    tokens: u64,
    certificates: u64,
}

impl Refusals {
    /// A full bucket.
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: BURST, filled: now, untold: 0, counted: BTreeMap::new(), tokens: 0, certificates: 0 }
    }

    /// Tokens handed out, certificates signed, refusals by kind.
    pub(crate) fn counted(&self) -> (u64, u64, BTreeMap<&'static str, u64>) {
        (self.tokens, self.certificates, self.counted.clone())
    }

    /// A join token was handed out.
    pub(crate) fn token_created(&mut self) {
        self.tokens += 1;
    }

    /// A certificate was signed.
    pub(crate) fn certificate_issued(&mut self) {
        self.certificates += 1;
    }

    /// A refusal of a kind happened. Answers whether it is to be told: then with the number of those before it that
    /// were not.
    pub(crate) fn happened(&mut self, kind: &'static str, now: Instant) -> Option<u64> {
        *self.counted.entry(kind).or_default() += 1;
        let earned = now.saturating_duration_since(self.filled).as_secs() / PACE.as_secs();
        if earned > 0 {
            self.left = self.left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(BURST);
            self.filled = now;
        }
        if self.left == 0 {
            self.untold += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_in_part_and_counted_in_full() {
        let start = Instant::now();
        let mut refusals = Refusals::new(start);
        let (mut told, mut counted) = (0, 0);
        for milli in 0..10_000 {
            if let Some(before) = refusals.happened("x", start + Duration::from_millis(milli)) {
                told += 1;
                counted += before + 1;
            }
        }
        assert!((BURST..=BURST + 10).contains(&told), "{told}");
        assert_eq!(refusals.counted().2, BTreeMap::from([("x", 10_000)]));
        // Nothing is lost but what the next entry will count.
        assert_eq!(counted + refusals.untold, 10_000);
        // After a calm it tells as much as in the beginning.
        let later = start + Duration::from_secs(3600);
        let told = (0..2 * BURST).filter(|_| refusals.happened("y", later).is_some()).count();
        assert_eq!(told, BURST as usize);
    }
}
