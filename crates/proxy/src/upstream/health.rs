//! Active health checks: when results in a row change an endpoint's state. Pure.

use xds::snapshot::HealthCheck;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As expected.
    Passed,
    /// No connection, no answer, or not in time.
    Unreachable(String),
    /// An answer with another status than 200: unhealthy at once.
    Status(u16),
}

impl Finding {
    /// For people.
    pub fn cause(&self) -> String {
        match self {
            Self::Passed => "passed".into(),
            Self::Unreachable(why) => why.clone(),
            Self::Status(status) => format!("status {status}"),
        }
    }
}

/// One endpoint's state. Before its first check it counts as healthy: refusing all traffic until then would turn every
/// start into an outage, and the first check follows at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    healthy: bool,
    checked: bool,
    row: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self { healthy: true, checked: false, row: 0 }
    }
}

impl Health {
    /// The present state.
    pub fn healthy(&self) -> bool {
        self.healthy
    }

    /// Takes a result; returns the new state if it changed. The first result decides alone.
    pub fn result(&mut self, policy: &HealthCheck, finding: &Finding) -> Option<bool> {
        let passed = *finding == Finding::Passed;
        let first = !std::mem::replace(&mut self.checked, true);
        if passed == self.healthy {
            self.row = 0;
            return None;
        }
        self.row = self.row.saturating_add(1);
        let needed = if passed { policy.healthy_after } else { policy.unhealthy_after };
        if first || matches!(finding, Finding::Status(_)) || self.row >= needed {
            self.healthy = passed;
            self.row = 0;
            return Some(passed);
        }
        None
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
            every: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
        };
        let fail = || Finding::Unreachable("refused".into());
        // Each step: a finding and the change it makes.
        let steps = [
            (Finding::Passed, None),
            (fail(), None),
            (fail(), None),
            (Finding::Passed, None),
            (fail(), None),
            (fail(), None),
            (fail(), Some(false)),
            (fail(), None),
            (Finding::Passed, None),
            (fail(), None),
            (Finding::Passed, None),
            (Finding::Passed, Some(true)),
            (Finding::Status(500), Some(false)),
        ];
        let mut health = Health::default();
        for (n, (finding, change)) in steps.iter().enumerate() {
            assert_eq!(health.result(&policy, finding), *change, "step {n}");
        }
        let mut fresh = Health::default();
        assert_eq!(fresh.result(&policy, &fail()), Some(false), "the first result decides alone");
    }
}
