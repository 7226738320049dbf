//! When a process that died is started again. Pure.

use std::time::Duration;

/// Before the first start again: at once would be a busy loop, later would be an outage of our own making.
const FIRST: Duration = Duration::from_millis(50);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(5);
/// One that lived this long is taken to have been well.
const WELL: Duration = Duration::from_secs(10);
/// Early deaths in a row that make a crash loop.
const LOOP: u32 = 5;

/// Deaths in a row that came early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    early: u32,
}

/// What to do after a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Wait before the next start.
    pub wait: Duration,
    /// It died so often that people should be told.
    pub crash_loop: bool,
}

impl Restarts {
    /// A death after having lived this long. The wait doubles with each early death.
    pub fn died(&mut self, lived: Duration) -> Verdict {
        self.early = if lived >= WELL { 1 } else { self.early.saturating_add(1) };
        let doublings = self.early.saturating_sub(1).min(16);
        Verdict { wait: (FIRST * (1 << doublings)).min(LONGEST), crash_loop: self.early >= LOOP }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_a_long_life_forgives() {
        let mut restarts = Restarts::default();
        let waits: Vec<_> = (0..9).map(|_| restarts.died(Duration::ZERO)).collect();
        let millis: Vec<_> = waits.iter().map(|v| v.wait.as_millis()).collect();
        assert_eq!(millis, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(waits.iter().position(|v| v.crash_loop), Some(4));
        assert_eq!(restarts.died(WELL), Verdict { wait: FIRST, crash_loop: false });
        for _ in 0..100 {
            assert!(restarts.died(Duration::ZERO).wait <= LONGEST);
        }
    }
}
