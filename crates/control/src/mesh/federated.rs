//! Foreign trust domains: what their bundles said, and what of it counts; and what ours says to them.

use super::Mesh;
use crate::{
    api::{ControlEvent, FederatedReport, Stamp},
    bundle::{self, Bundle},
    compile::Change,
    foreign::News,
};

impl Mesh {
    /// Begins to follow a trust domain, or to follow it by another source.
    pub(crate) fn add_foreign(&self, domain: &str, source: String) {
        let mut state = self.state();
        state.foreign.entry(domain.to_owned()).or_default().source = source;
    }

    /// Drops a trust domain that the manifests do not have any more.
    pub(crate) fn forget_foreign(&self, domain: &str) {
        let mut state = self.state();
        if state.foreign.remove(domain).is_some() {
            self.publish(&mut state, &Change::Everything);
        }
    }

    /// What a trust domain said before this process began.
    pub(crate) fn remember_foreign(&self, domain: &str, bundle: Bundle, fresh: Stamp) {
        self.told(domain, Ok(bundle), fresh);
    }

    /// A trust domain was asked.
    pub(crate) fn foreign_said(&self, domain: &str, seen: Result<Bundle, String>) {
        self.told(domain, seen, self.clock.now());
    }

    fn told(&self, domain: &str, seen: Result<Bundle, String>, at: Stamp) {
        let mut state = self.state();
        let Some(foreign) = state.foreign.get_mut(domain) else { return };
        let Some(news) = foreign.saw(seen, at) else { return };
        let roots = foreign.bundle.as_ref().map_or(0, Bundle::count);
        let trust_domain = domain.to_owned();
        if news == News::Taken {
            self.publish(&mut state, &Change::Everything);
        }
        drop(state);
        self.log.say(match news {
            News::Taken | News::Mended => ControlEvent::FederationRefreshed { trust_domain, roots },
            News::Failing(reason) => ControlEvent::FederationFailing { trust_domain, reason, kept: roots },
        });
    }

    /// The roots of a trust domain as they are known, PEM.
    pub(crate) fn foreign_roots(&self, domain: &str) -> Option<String> {
        self.state().foreign.get(domain)?.roots()
    }

    /// Every foreign trust domain as it is now.
    pub(crate) fn report_foreign(&self) -> Vec<FederatedReport> {
        let now = self.clock.now();
        let state = self.state();
        let reports = state.foreign.iter().map(|(domain, foreign)| FederatedReport {
            trust_domain: domain.clone(),
            source: foreign.source.clone(),
            roots: foreign.roots().unwrap_or_default(),
            sequence: foreign.bundle.as_ref().and_then(|bundle| bundle.sequence),
            refreshed: foreign.fresh,
            failing: foreign.failing.clone(),
            stale: foreign.is_stale(now),
        });
        reports.collect()
    }

    /// Our bundle as others are told it.
    pub(crate) fn own_bundle(&self) -> Result<Bundle, String> {
        let lifetime = self.state().config.as_ref().map(|config| config.mesh.certificate_lifetime);
        bundle::own(&self.state_dir, lifetime)
    }
}
