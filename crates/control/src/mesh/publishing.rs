//! Telling proxies what is in force: snapshots are made for those that came for one, and made anew for those that a
//! change concerns.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Instant,
};

use model::config::Config;
use xds::{
    overlay::{Overlay, SwitchState},
    snapshot::Snapshot,
};

use super::{Mesh, State, version_of};
use crate::{
    api::{ControlEvent, Placement, Placements},
    compile::{Change, Compiler, Roots, Switches},
    foreign::Foreign,
    sources::Addresses,
};

/// What snapshots are made from, as it was at one moment.
pub(crate) struct Basis {
    config: Arc<Config>,
    placements: Arc<Placements>,
    switches: Switches,
    roots: Roots,
    found: Addresses,
}

impl Basis {
    /// Makes snapshots of it.
    pub(crate) fn compiler(&self) -> Compiler<'_> {
        Compiler::new(&self.config, &self.placements, &self.switches, &self.roots, &self.found)
    }
}

impl State {
    /// What snapshots are made from now; `None` before the first manifests.
    pub(crate) fn basis(&self) -> Option<Basis> {
        let switches = self.switches.values().flatten().map(|(s, r, to)| ((s.clone(), r.clone()), *to));
        Some(Basis {
            config: self.config.clone()?,
            placements: self.placements.clone(),
            switches: switches.collect::<BTreeMap<_, SwitchState>>(),
            roots: self.roots(),
            found: self.found(),
        })
    }

    /// Whom proxies believe.
    fn roots(&self) -> Roots {
        let known = |(domain, foreign): (&String, &Foreign)| Some((domain.clone(), foreign.roots()?));
        Roots { own: self.own_roots().to_owned(), federated: self.foreign.iter().filter_map(known).collect() }
    }

    /// The roots of our trust domain that traffic trusts, PEM.
    pub(crate) fn own_roots(&self) -> &str {
        self.issued.as_ref().map_or(&self.trust, |svid| &svid.roots)
    }

    /// The snapshot published for a proxy.
    pub(crate) fn published(&self, proxy: &str) -> Option<Arc<Snapshot>> {
        self.published.get(proxy).cloned()
    }

    /// The overlays that a proxy should have now.
    pub(crate) fn overlays(&self, placement: &Placement) -> Vec<Overlay> {
        let Some(config) = &self.config else { return Vec::new() };
        let leased = self.table.of_proxy(config, placement, Instant::now());
        leased.into_iter().map(|(overlay, _)| overlay).collect()
    }
}

impl Mesh {
    /// Publishes another trust bundle.
    pub(crate) fn trust(&self, bundle: String) {
        let mut state = self.state();
        state.trust = bundle;
        self.publish(&mut state, &Change::Everything);
    }

    /// Publishes what is in force; at the start.
    pub(crate) fn publish_all(&self) {
        self.publish(&mut self.state(), &Change::Everything);
        self.changed();
    }

    /// A proxy opens a stream: from now on there is a snapshot for it.
    pub(super) fn want(&self, proxy: &str) {
        let mut state = self.state();
        if !state.wanting.contains(proxy) {
            state.wanting.insert(proxy.to_owned());
            let Some(basis) = state.basis() else { return };
            let placed = basis.placements.proxies.iter().filter(|placement| placement.proxy == proxy);
            self.make(&mut state, &basis, placed);
        }
    }

    /// Tells proxies what a change did to their snapshots.
    pub(super) fn publish(&self, state: &mut State, change: &Change) {
        let Some(basis) = state.basis() else { return };
        let concerned = change.concerns(&basis.config, &basis.placements);
        self.make(state, &basis, concerned.iter().copied());
        let placed: HashSet<&str> = basis.placements.proxies.iter().map(|p| p.proxy.as_str()).collect();
        let gone: Vec<String> = state.wanting.iter().filter(|name| !placed.contains(name.as_str())).cloned().collect();
        for name in gone {
            self.ads.remove(&name);
            state.wanting.remove(&name);
            state.published.remove(&name);
            state.views.forget(&name);
        }
        self.lay_of(state, concerned);
    }

    fn make<'a>(&self, state: &mut State, basis: &Basis, placements: impl Iterator<Item = &'a Placement>) {
        let version = version_of(state.revision);
        let compiler = basis.compiler();
        for placement in placements.filter(|placement| state.wanting.contains(&placement.proxy)) {
            let proxy = &placement.proxy;
            let compiled = compiler.snapshot(placement).map(Arc::new).map_err(|e| e.reason);
            let published = compiled.and_then(|snapshot| {
                self.ads.publish(proxy, &version, snapshot.clone()).map_err(|e| e.to_string()).map(|_| snapshot)
            });
            match published {
                Ok(snapshot) => {
                    state.published.insert(proxy.clone(), snapshot);
                }
                // The proxy keeps what it has.
                Err(reason) => self.log.say(ControlEvent::PublishFailed { proxy: proxy.clone(), reason }),
            }
        }
    }

    /// Tells every proxy its overlays as they are now.
    pub(super) fn lay_all(&self, state: &State) {
        self.lay_of(state, &state.placements.proxies);
    }

    /// Tells proxies their overlays as they are now.
    fn lay_of<'a>(&self, state: &State, placements: impl IntoIterator<Item = &'a Placement>) {
        let Some(config) = &state.config else { return };
        let now = Instant::now();
        for placement in placements {
            let leased = state.table.of_proxy(config, placement, now);
            if let Err(error) = self.ads.set_overlays(&placement.proxy, leased) {
                self.log.say(ControlEvent::PublishFailed { proxy: placement.proxy.clone(), reason: error.to_string() });
            }
        }
    }
}
