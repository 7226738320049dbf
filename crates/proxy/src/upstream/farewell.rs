//! Whether an endpoint answers the end of a connection while it is well: only then does it say something that it does not.
//! Pure.

use std::time::{Duration, Instant};

/// So many in a row, while it is in, and not one answered: it keeps its half of a connection open by nature.
const ENOUGH: u32 = 3;
/// How long what is known of it counts.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// Farewells (our half of a connection ends, and nothing was asked over it) that were bidden to one endpoint while it was in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Farewells {
    answers: bool,
    /// In a row.
    unanswered: u32,
    /// What is known counts until then; `None` where nothing is.
    until: Option<Instant>,
}

impl Farewells {
    /// Whether it is known to answer them.
    pub fn answers(&self) -> bool {
        self.answers
    }

    /// Whether one is to be bidden, since it is not known, or not lately, what it does.
    pub fn is_due(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    /// One was bidden while it was in.
    pub fn bidden(&mut self, answered: bool, now: Instant) {
        self.unanswered = if answered { 0 } else { self.unanswered.saturating_add(1) };
        if answered || self.unanswered >= ENOUGH {
            *self = Self { answers: answered, unanswered: 0, until: now.checked_add(KNOWN_FOR) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_takes_one_answer_or_three_silences_and_is_asked_again_after_a_minute() {
        let t0 = Instant::now();
        let at = |seconds| t0 + Duration::from_secs(seconds);
        let mut farewells = Farewells::default();
        // Each step: when, whether it was answered, what is known then, and whether another one is due.
        for (step, (seconds, answered, answers, due)) in [
            (0, false, false, true),
            (1, false, false, true),
            (2, false, false, false),
            (62, true, true, false),
            (122, false, true, true),
            (123, true, true, false),
            (183, false, true, true),
            (184, false, true, true),
            (185, false, false, false),
        ]
        .into_iter()
        .enumerate()
        {
            assert!(farewells.is_due(at(seconds)), "step {step}");
            farewells.bidden(answered, at(seconds));
            assert_eq!((farewells.answers(), farewells.is_due(at(seconds))), (answers, due), "step {step}");
        }
    }
}
