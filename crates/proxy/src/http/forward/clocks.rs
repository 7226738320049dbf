//! When a request without a response is given up: by whose move it is, and since when. Pure.

use std::time::{Duration, Instant};

use crate::http::body::Progress;

/// The bounds on one request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    /// From the end of the request to the head of the response, all tries included.
    pub(super) timeout: Option<Duration>,
    /// The same for one try.
    pub(super) per_try: Option<Duration>,
    /// Without a byte in either direction.
    pub(super) idle: Option<Duration>,
    /// The caller's own deadline for the whole call.
    pub(super) call: Option<Instant>,
}

/// Why a request is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The endpoint had the route's time and did not answer.
    Unanswered,
    /// The caller's own deadline is over.
    Deadline,
    /// Nothing passed in either direction.
    Idle,
    /// The caller did not go on with its request.
    Caller,
}

impl Bounds {
    /// When the request is given up, and why.
    pub(super) fn over(&self, progress: Progress) -> Option<(Instant, Reason)> {
        let (since, own, reason) = match progress {
            Progress::Complete(since) | Progress::Endpoint(since) => {
                (since, self.timeout.and_then(|timeout| since.checked_add(timeout)), Reason::Unanswered)
            }
            Progress::Caller(since, until) => (since, until, Reason::Caller),
        };
        let idle = self.idle.and_then(|idle| since.checked_add(idle));
        // Of two that are over at once, the first here is the reason.
        let all = [(own, reason), (self.call, Reason::Deadline), (idle, Reason::Idle)];
        all.into_iter().filter_map(|(at, reason)| at.map(|at| (at, reason))).min_by_key(|(at, _)| *at)
    }

    /// When a try is given up that was sent at `sent`; never while the caller owes a part of the body.
    pub(super) fn try_over(&self, progress: Progress, sent: Instant) -> Option<Instant> {
        match progress {
            Progress::Complete(since) | Progress::Endpoint(since) => since.max(sent).checked_add(self.per_try?),
            Progress::Caller(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_run_by_whose_move_it_is() {
        let t0 = Instant::now();
        let at = |seconds| t0 + Duration::from_secs(seconds);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let all = Bounds { timeout: seconds(15), per_try: seconds(5), idle: seconds(300), call: None };
        let none = Bounds::default();
        let called = Bounds { call: Some(at(30)), ..all };
        let silent = Bounds { idle: seconds(2), ..all };
        let unbounded = Bounds { timeout: None, per_try: None, ..all };
        for (bounds, progress, over, first) in [
            (all, Progress::Complete(at(100)), Some((at(115), Reason::Unanswered)), Some(at(105))),
            (all, Progress::Endpoint(at(100)), Some((at(115), Reason::Unanswered)), Some(at(105))),
            (all, Progress::Caller(at(100), Some(at(160))), Some((at(160), Reason::Caller)), None),
            (called, Progress::Complete(at(1)), Some((at(16), Reason::Unanswered)), Some(at(6))),
            (called, Progress::Complete(at(20)), Some((at(30), Reason::Deadline)), Some(at(25))),
            (called, Progress::Caller(at(20), Some(at(80))), Some((at(30), Reason::Deadline)), None),
            (silent, Progress::Caller(at(100), Some(at(160))), Some((at(102), Reason::Idle)), None),
            (unbounded, Progress::Complete(at(100)), Some((at(400), Reason::Idle)), None),
            (none, Progress::Complete(at(100)), None, None),
            (none, Progress::Caller(at(100), None), None, None),
        ] {
            assert_eq!(
                (bounds.over(progress), bounds.try_over(progress, t0)),
                (over, first),
                "{bounds:?} {progress:?}"
            );
        }
        assert_eq!(all.try_over(Progress::Complete(at(100)), at(103)), Some(at(108)), "a later try has its own time");
    }
}
