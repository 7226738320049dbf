//! Foreign trust domains: what their bundles said, and what of it counts; and what ours says to them.

use model::config::{Identity, IdentityFiles};
use xds::svid::Svid;

use super::{Mesh, State};
use crate::{
    api::{ControlEvent, FederatedReport, Stamp, Trust},
    bundle::{self, Bundle},
    compile::Change,
    foreign::{Foreign, News},
};

fn foreign_event(domain: &str, foreign: &Foreign, news: News) -> ControlEvent {
    let trust_domain = domain.to_owned();
    let roots = foreign.bundle.as_ref().map_or(0, Bundle::count);
    match news {
        News::Taken | News::Mended => ControlEvent::FederationRefreshed { trust_domain, roots },
        News::Failing(reason) => ControlEvent::FederationFailing { trust_domain, reason, kept: roots },
    }
}

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
        let taken = news == News::Taken;
        let event = foreign_event(domain, foreign, news);
        if taken {
            self.publish(&mut state, &Change::Everything);
        }
        drop(state);
        self.log.say(event);
    }

    /// What came with our own SVID of trust domains that have no other source. Answers whether anything changed.
    pub(super) fn foreign_issued(&self, state: &mut State, svid: &Svid) -> bool {
        let (now, config) = (self.clock.now(), state.config.clone());
        let federated = config.iter().flat_map(|config| &config.mesh.federation).filter(|one| one.bundle.is_none());
        let mut changed = false;
        for name in federated.map(|one| &one.trust_domain) {
            let none = || "it came with no SVID: the issuer is not federated with it".to_owned();
            let seen = svid.federated.get(name).ok_or_else(none).and_then(|pem| Bundle::of_pem(pem));
            let foreign = state.foreign.entry(name.clone()).or_default();
            foreign.source = "the Workload API".to_owned();
            let news = foreign.saw(seen, now);
            changed |= news == Some(News::Taken);
            let event = news.map(|news| foreign_event(name, foreign, news));
            event.into_iter().for_each(|event| self.log.say(event));
        }
        changed
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

    /// Whom the mesh trusts; `None` before the first manifests.
    pub(crate) fn report_trust(&self) -> Option<Trust> {
        let state = self.state();
        let config = state.config.as_ref()?;
        let source = match &config.mesh.identity {
            Identity::Builtin => "ca/trust.pem".to_owned(),
            Identity::Files(files) => {
                let [_, _, bundle] = files.of(IdentityFiles::CONTROL);
                format!("file {bundle}")
            }
            Identity::Spire { socket } => format!("the Workload API at {socket}"),
        };
        let nothing_came = state.is_issued_elsewhere() && state.issued.is_none();
        let roots = if nothing_came { String::new() } else { state.own_roots().to_owned() };
        let (trust_domain, failing) = (config.mesh.trust_domain.clone(), state.issue_failing.clone());
        drop(state);
        Some(Trust { trust_domain, roots, source, failing, federation: self.report_foreign() })
    }
}
