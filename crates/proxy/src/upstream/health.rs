//! Active health checks: when results in a row change an endpoint's state. Pure.

use xds::snapshot::HealthCheck;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As expected.
    Passed,
    /// As expected, and it asks to be used only where healthy ones do not suffice.
    Degraded,
    /// No connection, no answer, or not in time.
    Unreachable(String),
    /// Another answer than the expected one: unhealthy at once.
    Unexpected(String),
}

impl Finding {
    /// Whether it speaks for the endpoint.
    pub fn passed(&self) -> bool {
        matches!(self, Self::Passed | Self::Degraded)
    }

    /// For people.
    pub fn cause(&self) -> String {
        match self {
            Self::Passed => "passed".into(),
            Self::Degraded => "degraded".into(),
            Self::Unreachable(why) => why.clone(),
            Self::Unexpected(what) => what.clone(),
        }
    }
}

/// One endpoint's state. Before its first check it counts as healthy: refusing all traffic until then would turn every
/// start into an outage, and the first check follows at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    healthy: bool,
    degraded: bool,
    checked: bool,
    row: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self { healthy: true, degraded: false, checked: false, row: 0 }
    }
}

impl Health {
    /// The present state.
    pub fn healthy(&self) -> bool {
        self.healthy
    }

    /// Whether it is used only where healthy ones do not suffice.
    pub fn degraded(&self) -> bool {
        self.degraded
    }

    /// Takes a result; whether the state changed. The first result decides alone.
    pub fn result(&mut self, policy: &HealthCheck, finding: &Finding) -> bool {
        let passed = finding.passed();
        let first = !std::mem::replace(&mut self.checked, true);
        let degraded = if passed { *finding == Finding::Degraded } else { self.degraded };
        let changed = std::mem::replace(&mut self.degraded, degraded) != degraded && self.healthy;
        if passed == self.healthy {
            self.row = 0;
            return changed;
        }
        self.row = self.row.saturating_add(1);
        let needed = if passed { policy.healthy_after } else { policy.unhealthy_after };
        if first || matches!(finding, Finding::Unexpected(_)) || self.row >= needed {
            self.healthy = passed;
            self.row = 0;
            return true;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn thresholds() {
        let policy = HealthCheck {
            http_path: None,
            grpc_service: None,
            exchange: None,
            every: Duration::from_secs(1),
            every_without_traffic: None,
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
        };
        let fail = || Finding::Unreachable("refused".into());
        let (well, ill) = (Some((true, false)), Some((false, false)));
        // Each step: a finding, and the state that it makes (healthy, degraded) if it changes.
        let steps = [
            (Finding::Passed, None),
            (fail(), None),
            (fail(), None),
            (Finding::Passed, None),
            (fail(), None),
            (fail(), None),
            (fail(), ill),
            (fail(), None),
            (Finding::Passed, None),
            (fail(), None),
            (Finding::Passed, None),
            (Finding::Passed, well),
            (Finding::Degraded, Some((true, true))),
            (Finding::Degraded, None),
            (Finding::Passed, well),
            (Finding::Unexpected("status 500".into()), ill),
        ];
        let mut health = Health::default();
        for (n, (finding, change)) in steps.iter().enumerate() {
            let changed = health.result(&policy, finding);
            assert_eq!(changed.then(|| (health.healthy(), health.degraded())), *change, "step {n}");
        }
        let mut fresh = Health::default();
        assert!(fresh.result(&policy, &fail()) && !fresh.healthy(), "the first result decides alone");
    }
}
