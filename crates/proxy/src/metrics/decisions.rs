//! What authorization decided, by decision and permission.

use std::sync::atomic::{AtomicU64, Ordering};

use xds::snapshot::Authorization;

use crate::{
    metrics::text::{Kind, Labels, Text},
    route::authorization::Decision,
};

/// Permissions that are counted one by one; those behind them are counted together.
const APART: usize = 64;

/// Counters; a decision costs one addition.
#[derive(Debug)]
pub struct Decisions {
    allowed: [AtomicU64; APART],
    allowed_by_others: AtomicU64,
    denied: AtomicU64,
    shadow_denied: AtomicU64,
}

impl Default for Decisions {
    fn default() -> Self {
        Self {
            allowed: std::array::from_fn(|_| AtomicU64::default()),
            allowed_by_others: AtomicU64::default(),
            denied: AtomicU64::default(),
            shadow_denied: AtomicU64::default(),
        }
    }
}

impl Decisions {
    /// Counts one.
    pub fn count(&self, decision: Decision) {
        let counter = match decision {
            Decision::Allow(index) => self.allowed.get(index).unwrap_or(&self.allowed_by_others),
            Decision::Deny => &self.denied,
            Decision::ShadowDeny => &self.shadow_denied,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// What ever occurred. `policy` is a permission's place in `allow`.
    pub fn render(&self, text: &mut Text) {
        let name = "firedrill_authorization_decisions_total";
        text.family(name, Kind::Counter, "Requests by what authorization decided, and by which permission.");
        let mut sample = |decision: &str, policy: &str, counter: &AtomicU64| {
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                text.sample(name, &Labels::default().and("decision", decision).and("policy", policy), count);
            }
        };
        for (index, counter) in self.allowed.iter().enumerate() {
            sample("allow", &Authorization::rule(index), counter);
        }
        sample("allow", "others", &self.allowed_by_others);
        sample("deny", "none", &self.denied);
        sample("shadow_deny", "none", &self.shadow_denied);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decision_is_counted_and_labels_are_bounded() {
        let decisions = Decisions::default();
        (0..1000).for_each(|index| decisions.count(Decision::Allow(index)));
        decisions.count(Decision::Allow(3));
        decisions.count(Decision::Deny);
        decisions.count(Decision::ShadowDeny);
        let mut text = Text::default();
        decisions.render(&mut text);
        let page = text.finish();
        let lines: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), APART + 3, "{page}");
        for line in [
            "firedrill_authorization_decisions_total{decision=\"allow\",policy=\"allow[3]\"} 2",
            "firedrill_authorization_decisions_total{decision=\"allow\",policy=\"others\"} 936",
            "firedrill_authorization_decisions_total{decision=\"deny\",policy=\"none\"} 1",
            "firedrill_authorization_decisions_total{decision=\"shadow_deny\",policy=\"none\"} 1",
        ] {
            assert!(lines.contains(&line), "{line} is not in {page}");
        }
    }
}
