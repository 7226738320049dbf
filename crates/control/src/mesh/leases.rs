//! Leases and overlays as the mesh holds them: every change is told to proxies at once. Where several control planes
//! share a store, the leases are rows in it, and what this one holds is a copy ([`Mesh::follow_leases`]).

use std::{
    collections::BTreeSet,
    sync::MutexGuard,
    time::{Duration, Instant},
};

use model::config::Config;
use xds::{node::ENVOY_AGENT, server::ProxyState};

use super::{Failure, Mesh, State};
use crate::{
    api::{ControlEvent, LeaseReport, LeaseRequest, OverlayReport, OverlayRequest, Placements},
    overlays::{self, Refusal, Table},
    store::LeaseRow,
};

impl Mesh {
    /// Changes leases, here and for every other instance, and tells proxies. What `change` refuses changes nothing.
    async fn change_leases<R>(
        &self,
        change: impl FnOnce(&mut Table, &Config, &Placements, Instant) -> Result<R, Refusal>,
    ) -> Result<(R, MutexGuard<'_, State>), Failure> {
        let (config, placements) = {
            let state = self.state();
            (Self::config(&state)?, state.placements.clone())
        };
        if !self.store.is_shared() {
            let mut state = self.state();
            let result = change(&mut state.table, &config, &placements, Instant::now())?;
            return Ok((result, state));
        }
        let _order = self.leasing.lock().await;
        let changed = |rows: &[LeaseRow]| {
            let now = Instant::now();
            let mut table = Table::of(rows, now);
            let result = change(&mut table, &config, &placements, now)?;
            let rows = table.rows(now);
            Ok::<_, Failure>(((result, table), rows))
        };
        let (result, table) = self.store.change_leases(changed).await?;
        let mut state = self.state();
        state.table = table;
        Ok((result, state))
    }

    /// Takes over what other instances did to leases.
    pub(crate) async fn follow_leases(&self) -> Result<(), Failure> {
        let _order = self.leasing.lock().await;
        let rows = self.store.leases().await?;
        let mut state = self.state();
        let (before, table) = (state.table.ids(), Table::of(&rows, Instant::now()));
        let others = before != table.ids();
        state.table = table;
        self.lay_all(&state);
        drop(state);
        self.leases_changed.notify_one();
        if others {
            self.changed();
        }
        Ok(())
    }

    /// Takes a lease.
    pub(crate) async fn take_lease(&self, id: &str, request: LeaseRequest) -> Result<LeaseReport, Failure> {
        let plan = request.plan.clone();
        let take = |table: &mut Table, config: &Config, placements: &Placements, now: Instant| {
            if let Some(plan) = &request.plan
                && !config.plans.keys().any(|p| p.as_str() == plan)
            {
                return Err(Refusal::Invalid(format!("there is no recovery plan `{plan}`")));
            }
            table.take(id, request, now)?;
            table.report(id, config, placements, now).ok_or_else(|| not_held(id))
        };
        let (report, state) = self.change_leases(take).await?;
        self.lay_all(&state);
        drop(state);
        self.log.say(ControlEvent::LeaseTaken { lease: id.to_owned(), plan });
        self.leases_changed.notify_one();
        self.changed();
        Ok(report)
    }

    /// A heartbeat: renews the lease, and everything under it at the proxies. Proxies hear of a lease only when its
    /// holder renews it, so that no overlay outlives the lease even if this process dies.
    pub(crate) async fn renew_lease(&self, id: &str) -> Result<LeaseReport, Failure> {
        let renew = |table: &mut Table, config: &Config, placements: &Placements, now: Instant| {
            if !table.renew(id, now) {
                return Err(Refusal::Missing(format!("lease {id} is not held, or has lapsed; take it anew")));
            }
            table.report(id, config, placements, now).ok_or_else(|| not_held(id))
        };
        let (report, state) = self.change_leases(renew).await?;
        let (config, now, under) = (Self::config(&state)?, Instant::now(), format!("{id}/"));
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
        drop(state);
        self.leases_changed.notify_one();
        Ok(report)
    }

    /// Gives a lease back; its overlays are taken back at once.
    pub(crate) async fn release_lease(&self, id: &str) -> Result<(), Failure> {
        let release = |table: &mut Table, _: &Config, _: &Placements, _: Instant| {
            if table.release(id) { Ok(()) } else { Err(not_held(id)) }
        };
        let ((), state) = self.change_leases(release).await?;
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

    /// Takes back the leases whose time has passed. (Shared ones end by the database's clock, for every instance.)
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

    /// Placed proxies that are stock Envoys, as they introduced themselves.
    fn envoys(&self) -> BTreeSet<String> {
        let is_envoy = |state: &ProxyState| state.node.as_ref().is_some_and(|node| node.agent.starts_with(ENVOY_AGENT));
        self.ads.proxies().into_iter().filter(|(_, state)| is_envoy(state)).map(|(name, _)| name).collect()
    }

    /// Lays overlays under a lease, all at once.
    pub(crate) async fn lay(
        &self,
        lease: &str,
        batch: Vec<(String, OverlayRequest)>,
    ) -> Result<Vec<OverlayReport>, Failure> {
        let envoys = self.envoys();
        let lay = |table: &mut Table, config: &Config, placements: &Placements, now: Instant| {
            for (_, request) in &batch {
                overlays::check(config, request)?;
                overlays::judge_envoys(config, placements, request, &envoys).map_err(Refusal::Invalid)?;
            }
            let mut reports = Vec::new();
            for (name, request) in batch {
                let (id, proxies) = (overlays::overlay_id(lease, &name), overlays::told(config, placements, &request));
                reports.push(OverlayReport { id, proxies, effect: request.effect.clone() });
                table.lay(lease, &name, request, now)?;
            }
            Ok(reports)
        };
        let (reports, state) = self.change_leases(lay).await?;
        self.lay_all(&state);
        drop(state);
        for OverlayReport { id, proxies, .. } in &reports {
            self.log.say(ControlEvent::OverlayLaid { overlay: id.clone(), proxies: proxies.clone() });
        }
        Ok(reports)
    }

    /// Takes overlays back whose lease and name the predicate picks.
    pub(crate) async fn take_back(&self, pick: impl Fn(&str, &str) -> bool) -> Result<Vec<String>, Failure> {
        if self.state().config.is_none() {
            return Ok(Vec::new());
        }
        let take_back = |table: &mut Table, _: &Config, _: &Placements, _: Instant| {
            let leases = table.ids();
            Ok(leases.iter().flat_map(|lease| table.take_back(lease, |name| pick(lease, name))).collect::<Vec<_>>())
        };
        let (ids, state) = self.change_leases(take_back).await?;
        if !ids.is_empty() {
            self.lay_all(&state);
        }
        drop(state);
        for overlay in &ids {
            self.log.say(ControlEvent::OverlayRemoved { overlay: overlay.clone() });
        }
        Ok(ids)
    }
}

fn not_held(id: &str) -> Refusal {
    Refusal::Missing(format!("lease {id} is not held"))
}
