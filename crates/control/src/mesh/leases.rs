//! Leases and overlays as the mesh holds them: every change is told to proxies at once.

use std::time::{Duration, Instant};

use super::{Failure, Mesh};
use crate::{
    api::{ControlEvent, LeaseReport, LeaseRequest, OverlayReport, OverlayRequest},
    overlays::{self, Refusal},
};

impl Mesh {
    /// Takes a lease.
    pub(crate) fn take_lease(&self, id: &str, request: LeaseRequest) -> Result<LeaseReport, Failure> {
        let now = Instant::now();
        let mut state = self.state();
        let config = Self::config(&state)?;
        let plan = request.plan.clone();
        if let Some(plan) = &plan
            && !config.plans.keys().any(|p| p.as_str() == plan)
        {
            return Err(Refusal::Invalid(format!("there is no recovery plan `{plan}`")).into());
        }
        state.table.take(id, request, now)?;
        self.lay_all(&state);
        let report = state.table.report(id, &config, &state.placements, now);
        drop(state);
        self.log.say(ControlEvent::LeaseTaken { lease: id.to_owned(), plan });
        self.leases_changed.notify_one();
        self.changed();
        report.ok_or_else(|| Refusal::Missing(format!("lease {id} is not held")).into())
    }

    /// A heartbeat: renews the lease here, and everything under it at the proxies. Proxies hear of a lease only when its
    /// holder renews it, so that no overlay outlives the lease even if this process dies.
    pub(crate) fn renew_lease(&self, id: &str) -> Result<LeaseReport, Failure> {
        let now = Instant::now();
        let mut state = self.state();
        let config = Self::config(&state)?;
        if !state.table.renew(id, now) {
            return Err(Refusal::Missing(format!("lease {id} is not held, or has lapsed; take it anew")).into());
        }
        let under = format!("{id}/");
        for placement in &state.placements.proxies {
            let leased = state.table.of_proxy(&config, placement, now);
            let renewed: Vec<(String, Duration)> = leased
                .into_iter()
                .filter(|(overlay, _)| overlay.id.starts_with(&under))
                .map(|(overlay, left)| (overlay.id, left))
                .collect();
            if !renewed.is_empty() {
                self.ads.heartbeat(&placement.proxy, &renewed);
            }
        }
        let report = state.table.report(id, &config, &state.placements, now);
        drop(state);
        self.leases_changed.notify_one();
        report.ok_or_else(|| Refusal::Missing(format!("lease {id} is not held")).into())
    }

    /// Gives a lease back; its overlays are taken back at once.
    pub(crate) fn release_lease(&self, id: &str) -> Result<(), Failure> {
        let mut state = self.state();
        if !state.table.release(id) {
            return Err(Refusal::Missing(format!("lease {id} is not held")).into());
        }
        self.lay_all(&state);
        drop(state);
        self.log.say(ControlEvent::LeaseReleased { lease: id.to_owned() });
        self.changed();
        Ok(())
    }

    /// Takes leases back as they lapse, for ever.
    pub(crate) async fn lapse_leases(&self) {
        loop {
            let deadline = self.state().table.next_deadline();
            match deadline {
                Some(deadline) => tokio::select! {
                    () = tokio::time::sleep_until(deadline.into()) => {}
                    () = self.leases_changed.notified() => {}
                },
                None => self.leases_changed.notified().await,
            }
            self.expire_leases();
        }
    }

    /// Takes back the leases whose time has passed.
    pub(crate) fn expire_leases(&self) {
        let lapsed = {
            let mut state = self.state();
            let lapsed = state.table.expire(Instant::now());
            if !lapsed.is_empty() {
                self.lay_all(&state);
            }
            lapsed
        };
        for lease in &lapsed {
            self.log.say(ControlEvent::LeaseLapsed { lease: lease.clone() });
        }
        if !lapsed.is_empty() {
            self.changed();
        }
    }

    /// Lays overlays under a lease, all at once.
    pub(crate) fn lay(&self, lease: &str, batch: Vec<(String, OverlayRequest)>) -> Result<Vec<OverlayReport>, Refusal> {
        let now = Instant::now();
        let mut state = self.state();
        let config = Self::config(&state)?;
        for (_, request) in &batch {
            overlays::check(&config, request)?;
        }
        let mut reports = Vec::new();
        for (name, request) in batch {
            let (id, proxies) =
                (overlays::overlay_id(lease, &name), overlays::told(&config, &state.placements, &request));
            reports.push(OverlayReport { id, proxies, effect: request.effect.clone() });
            state.table.lay(lease, &name, request, now)?;
        }
        self.lay_all(&state);
        drop(state);
        for OverlayReport { id, proxies, .. } in &reports {
            self.log.say(ControlEvent::OverlayLaid { overlay: id.clone(), proxies: proxies.clone() });
        }
        Ok(reports)
    }

    /// Takes overlays of a lease back whose names the predicate picks.
    pub(crate) fn take_back(&self, lease: &str, pick: impl Fn(&str) -> bool) -> Vec<String> {
        let mut state = self.state();
        let ids = state.table.take_back(lease, pick);
        if !ids.is_empty() {
            self.lay_all(&state);
        }
        drop(state);
        for overlay in &ids {
            self.log.say(ControlEvent::OverlayRemoved { overlay: overlay.clone() });
        }
        ids
    }
}
