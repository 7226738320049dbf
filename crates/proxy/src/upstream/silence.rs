//! Endpoints that hang: they refuse nothing and answer nothing. Pure.

use std::time::{Duration, Instant};

/// Tries that waited for longer than nearly all answers take although their endpoint had not answered anybody: abandoned
/// for a faster hedge, or still waited for where they may not be sent twice. Each alone proves nothing (the endpoint may be slow); a run of them without any answer makes the endpoint a suspect, and a run over a
/// time that is too long for anyone to wait is an endpoint that hangs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    unanswered: u32,
    /// When the first of them was sent.
    since: Option<Instant>,
    patience: Duration,
}

/// How long without any answer is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For new requests to go there while there is another endpoint.
    pub suspect: Duration,
    /// To be more than a pause (a collector, a busy machine).
    pub hang: Duration,
}

impl Patience {
    /// Shortest times.
    const LEAST: Self = Self { suspect: Duration::from_millis(50), hang: Duration::from_millis(200) };

    /// From the time that answers were waited for before a hedge was sent: several times what nearly all answers take.
    pub fn after(waited: Duration) -> Self {
        Self {
            suspect: Self::LEAST.suspect.max(waited.saturating_mul(2)),
            hang: Self::LEAST.hang.max(waited.saturating_mul(8)),
        }
    }
}

impl Silence {
    /// A try sent at `sent` is unanswered for too long. From at least `consecutive` in a row, over the patience for suspects:
    /// when the endpoint hangs, if it stays silent until then.
    pub fn unanswered(&mut self, sent: Instant, now: Instant, consecutive: u32, patience: Patience) -> Option<Instant> {
        self.unanswered = self.unanswered.saturating_add(1);
        let since = self.since.map_or(sent, |since| since.min(sent));
        self.since = Some(since);
        self.patience = patience.hang;
        let suspect = self.unanswered >= consecutive && now.saturating_duration_since(since) >= patience.suspect;
        if suspect { self.hangs_at() } else { None }
    }

    /// When a silence from its beginning until now is a hang.
    pub fn hangs_at(&self) -> Option<Instant> {
        self.since?.checked_add(self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_answer_is_no_silence_but_a_run_is() {
        let t0 = Instant::now();
        let at = |millis| t0 + Duration::from_millis(millis);
        let patience = Patience::after(Duration::from_millis(20));
        let mut silence = Silence::default();
        assert_eq!(silence.unanswered(at(0), at(500), 5, patience), None, "one alone says nothing");
        silence = Silence::default();
        for n in 0..14 {
            assert_eq!(silence.unanswered(at(n * 2), at(n * 2 + 20), 5, patience), None, "too early to tell");
        }
        assert_eq!(silence.unanswered(at(30), at(50), 5, patience), Some(at(200)));
    }

    #[test]
    fn what_is_slow_by_nature_is_waited_for_longer() {
        let patience = Patience::after(Duration::from_millis(300));
        assert_eq!(patience, Patience { suspect: Duration::from_millis(600), hang: Duration::from_millis(2400) });
        assert_eq!(Patience::after(Duration::from_millis(1)), Patience::LEAST);
    }
}
