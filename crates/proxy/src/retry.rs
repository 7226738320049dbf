//! What may be repeated, how often, when, and where the repeat goes. Pure.

use std::time::Duration;

use http::Method;
use xds::snapshot::{RetryOn, RetryPolicy};

/// Envoy's default back-off: full jitter below `25 ms × (2^n − 1)`, at most 250 ms. Ours leaves out the first wait: a
/// repeat goes to another endpoint, which no wait would spare, and what bounds a storm of repeats is their budget.
const BACKOFF_BASE: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, so nothing was sent.
    Connect,
    /// The peer refused the stream before it looked at the request, or the connection had ended before the request
    /// was sent.
    Refused,
    /// The sidecar beside the workload refused it before the workload saw it: there are as many as may be.
    Overloaded,
    /// A kept connection ended before anything came over it in answer: its peer may have closed it before it saw the request.
    Stale,
    /// The connection ended before response headers.
    Reset,
    /// The try's time ran out before response headers.
    Timeout,
    /// What came is not a response.
    Malformed,
    /// Answered with this status.
    Status(u16),
    /// Answered with this gRPC status, and nothing but headers, or trailers.
    Grpc(u8),
}

impl Failure {
    fn class(self) -> Option<RetryOn> {
        match self {
            Self::Connect => Some(RetryOn::ConnectFailure),
            Self::Refused | Self::Overloaded => Some(RetryOn::RefusedStream),
            Self::Stale | Self::Reset | Self::Timeout | Self::Malformed => Some(RetryOn::Reset),
            Self::Status(502..=504) => Some(RetryOn::GatewayError),
            Self::Grpc(1) => Some(RetryOn::GrpcCancelled),
            Self::Grpc(4) => Some(RetryOn::GrpcDeadlineExceeded),
            Self::Grpc(8) => Some(RetryOn::GrpcResourceExhausted),
            Self::Grpc(13) => Some(RetryOn::GrpcInternal),
            Self::Grpc(14) => Some(RetryOn::GrpcUnavailable),
            Self::Status(_) | Self::Grpc(_) => None,
        }
    }

    /// Whether the endpoint cannot have acted on the request.
    pub fn nothing_sent(self) -> bool {
        matches!(self, Self::Connect | Self::Refused | Self::Overloaded)
    }

    /// Whether it may be the connection's fault alone, so that a new one to the same endpoint is worth a try.
    pub fn of_connection(self) -> bool {
        matches!(self, Self::Refused | Self::Stale)
    }

    /// Whether a repeat costs the budget: what a sidecar refused was no work for anyone, so that its repeat is not more work
    /// than there was, and the number of repeats still bounds it.
    pub fn costs(self) -> bool {
        self != Self::Overloaded
    }

    /// Whether the policy that names it means every method: gRPC has only POST, and whoever names a status knows what it
    /// says of the call.
    fn of_every_method(self) -> bool {
        self.nothing_sent() || matches!(self, Self::Grpc(_))
    }
}

/// RFC 9110, 9.2.2.
pub fn idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE)
}

/// Where and when the next try goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// It is the last one allowed: it goes to the next tier.
    pub next_tier: bool,
    /// Upper bound of the jittered wait before it.
    pub backoff: Duration,
}

/// One request's repeats.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    policy: Option<&'a RetryPolicy>,
    idempotent: bool,
    /// Only what was not sent is repeated, whatever the policy says.
    only_unsent: bool,
    made: u32,
    spent: bool,
    /// A repeat was made that no policy has to allow.
    renewed: bool,
}

impl<'a> Plan<'a> {
    /// For a request of this method.
    pub fn new(policy: Option<&'a RetryPolicy>, method: &Method) -> Self {
        Self { policy, idempotent: idempotent(method), only_unsent: false, made: 0, spent: false, renewed: false }
    }

    /// For an upgrade: the endpoint that saw it may have begun what no repeat undoes.
    pub fn of_upgrade(policy: Option<&'a RetryPolicy>) -> Self {
        Self { policy, idempotent: false, only_unsent: true, made: 0, spent: false, renewed: false }
    }

    /// Whether a try may run beside another one (a hedge).
    pub fn may_hedge(&self) -> bool {
        self.idempotent
    }

    fn wants(&self, policy: &RetryPolicy, failure: Failure, replayable: bool) -> bool {
        let any_method = failure.of_every_method() || self.idempotent || policy.non_idempotent;
        let may = if self.only_unsent { failure.nothing_sent() } else { any_method };
        wants(policy, failure) && replayable && may
    }

    /// Whether there would be a repeat after this failure. `replayable` says whether the request's body can be sent again.
    pub fn would_repeat(&self, failure: Failure, replayable: bool) -> bool {
        self.policy.is_some_and(|policy| self.wants(policy, failure, replayable) && self.made < policy.attempts)
    }

    /// Whether a gRPC call would be repeated by some status, so that one that comes behind a head is worth a moment's wait.
    pub fn awaits_status(&self, replayable: bool) -> bool {
        (1..=16).any(|status| self.would_repeat(Failure::Grpc(status), replayable))
    }

    /// Decides after a failed try.
    pub fn after(&mut self, failure: Failure, replayable: bool) -> Option<Repeat> {
        // RFC 9112, 9.3.1: what kept connections cost, the caller would not have met over a connection of its own.
        if failure == Failure::Stale && self.idempotent && replayable && !self.renewed {
            self.renewed = true;
            return Some(Repeat { next_tier: false, backoff: Duration::ZERO });
        }
        let policy = self.policy?;
        let wanted = self.wants(policy, failure, replayable);
        self.spent = wanted && self.made == policy.attempts;
        if !wanted || self.spent {
            return None;
        }
        self.made += 1;
        let backoff = if failure.nothing_sent() { Duration::ZERO } else { backoff(self.made - 1) };
        Some(Repeat { next_tier: self.made == policy.attempts, backoff })
    }

    /// Whether the failure asked about last would be repeated, were not all repeats used up.
    pub fn spent(&self) -> bool {
        self.spent
    }

    /// Whether an answer is a failure that this plan repeats, so that it is held back.
    pub fn repeats(&self, answer: Failure) -> bool {
        self.policy.is_some_and(|policy| wants(policy, answer))
    }
}

/// As at Envoy, a gateway error is also what a caller would be told as one: no connection, no answer, none in time.
fn wants(policy: &RetryPolicy, failure: Failure) -> bool {
    let class = failure.class();
    let gateway = !matches!(failure, Failure::Grpc(_)) && policy.on.contains(&RetryOn::GatewayError);
    class.is_some_and(|class| gateway || policy.on.contains(&class))
}

fn backoff(repeat: u32) -> Duration {
    let factor = 2u32.saturating_pow(repeat.min(16)).saturating_sub(1);
    BACKOFF_BASE.saturating_mul(factor).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const ALL: [RetryOn; 4] = [RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Reset, RetryOn::GatewayError];

    fn policy(attempts: u32, on: &[RetryOn], non_idempotent: bool) -> RetryPolicy {
        RetryPolicy { attempts, per_try: None, on: on.iter().copied().collect::<BTreeSet<_>>(), non_idempotent }
    }

    #[test]
    fn what_may_be_repeated() {
        use Failure::*;
        // method, route allows non-idempotent, body replayable, failure, repeated
        let cases = [
            (Method::GET, false, true, Connect, true),
            (Method::GET, false, true, Reset, true),
            (Method::GET, false, true, Timeout, true),
            (Method::GET, false, true, Status(503), true),
            (Method::GET, false, true, Status(500), false),
            (Method::GET, false, true, Status(404), false),
            (Method::POST, false, true, Connect, true),
            (Method::POST, false, true, Refused, true),
            (Method::POST, false, true, Overloaded, true),
            (Method::POST, false, false, Overloaded, false),
            (Method::POST, false, true, Reset, false),
            (Method::POST, false, true, Timeout, false),
            (Method::POST, false, true, Status(503), false),
            (Method::POST, true, true, Reset, true),
            (Method::PATCH, false, true, Reset, false),
            (Method::PUT, false, true, Reset, true),
            (Method::PUT, false, false, Reset, false),
            (Method::PUT, false, false, Connect, false),
        ];
        for (method, non_idempotent, replayable, failure, repeated) in cases {
            let policy = policy(2, &ALL, non_idempotent);
            let mut plan = Plan::new(Some(&policy), &method);
            assert_eq!(plan.after(failure, replayable).is_some(), repeated, "{method} {failure:?}");
        }
    }

    #[test]
    fn a_stale_connection_costs_a_safe_request_nothing() {
        let policy = policy(1, &ALL, false);
        for policy in [None, Some(&policy)] {
            let mut plan = Plan::new(policy, &Method::GET);
            assert!(plan.after(Failure::Stale, true).is_some(), "once, whatever the policy");
            assert_eq!(plan.after(Failure::Stale, true).is_some(), policy.is_some(), "then as any reset");
            assert_eq!(plan.after(Failure::Stale, true), None);
            assert_eq!(Plan::new(policy, &Method::GET).after(Failure::Stale, false), None, "the body is gone");
            assert_eq!(Plan::new(policy, &Method::POST).after(Failure::Stale, true), None, "it may have been acted on");
            assert_eq!(Plan::of_upgrade(policy).after(Failure::Stale, true), None);
        }
    }

    #[test]
    fn an_upgrade_is_repeated_only_if_nothing_was_sent() {
        let policy = policy(9, &ALL, true);
        let mut plan = Plan::of_upgrade(Some(&policy));
        assert!(!plan.may_hedge());
        for failure in [Failure::Reset, Failure::Timeout, Failure::Malformed, Failure::Status(503), Failure::Grpc(14)] {
            assert_eq!(plan.after(failure, true), None, "{failure:?}");
        }
        for failure in [Failure::Connect, Failure::Refused, Failure::Overloaded] {
            assert!(plan.after(failure, true).is_some(), "{failure:?}");
        }
    }

    #[test]
    fn a_plan_is_spent_when_a_repeat_is_wanted_and_none_is_left() {
        let policy = policy(1, &[RetryOn::GatewayError], false);
        let mut plan = Plan::new(Some(&policy), &Method::GET);
        // failure, repeated, spent
        for (failure, repeated, spent) in [
            (Failure::Status(404), false, false),
            (Failure::Reset, true, false),
            (Failure::Status(500), false, false),
            (Failure::Status(503), false, true),
            (Failure::Malformed, false, true),
        ] {
            assert_eq!((plan.after(failure, true).is_some(), plan.spent()), (repeated, spent), "{failure:?}");
        }
        let none = RetryPolicy { attempts: 0, ..policy };
        let mut plan = Plan::new(Some(&none), &Method::GET);
        assert_eq!((plan.after(Failure::Timeout, true), plan.spent()), (None, true));
    }

    #[test]
    fn the_last_repeat_crosses_tiers() {
        let policy = policy(3, &ALL, false);
        let mut plan = Plan::new(Some(&policy), &Method::GET);
        let repeats: Vec<_> = (0..5).map(|_| plan.after(Failure::Reset, true)).collect();
        let tiers: Vec<_> = repeats.iter().map(|repeat| repeat.map(|r| r.next_tier)).collect();
        assert_eq!(tiers, [Some(false), Some(false), Some(true), None, None]);
        let waits: Vec<_> = repeats.iter().flatten().map(|r| r.backoff.as_millis()).collect();
        assert_eq!(waits, [0, 25, 75]);
        let mut none = Plan::new(None, &Method::GET);
        assert_eq!(none.after(Failure::Connect, true), None);
    }

    proptest! {
        #[test]
        fn never_more_than_allowed(attempts in 0u32..6, failures in prop::collection::vec(0usize..5, 0..12)) {
            let policy = policy(attempts, &ALL, true);
            let mut plan = Plan::new(Some(&policy), &Method::POST);
            let kinds = [Failure::Connect, Failure::Refused, Failure::Reset, Failure::Timeout, Failure::Status(502)];
            let granted = failures.iter().filter(|n| plan.after(kinds[**n], true).is_some()).count();
            prop_assert!(granted <= attempts as usize);
        }
    }
}
