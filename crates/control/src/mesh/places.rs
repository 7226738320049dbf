//! Where proxies run, as the mesh takes it: all at once, or one that joins, moves or leaves.

use std::{collections::HashSet, sync::Arc};

use super::{Failure, Mesh};
use crate::{
    api::{ControlEvent, Placement, Placements, Role},
    compile::Change,
    overlays::Refusal,
};

impl Mesh {
    /// Stores and publishes placements.
    pub(crate) async fn place(&self, placements: Placements) -> Result<(), Failure> {
        self.change_places(|_| Ok(placements)).await
    }

    /// Stores and publishes where one proxy is.
    pub(crate) async fn place_one(&self, placement: Placement) -> Result<(), Failure> {
        let place = |mut placements: Placements| {
            match placements.proxies.iter_mut().find(|known| known.proxy == placement.proxy) {
                Some(known) => *known = placement,
                None => placements.proxies.push(placement),
            }
            Ok(placements)
        };
        self.change_places(place).await
    }

    /// Takes one proxy away.
    pub(crate) async fn displace(&self, proxy: &str) -> Result<(), Failure> {
        let displace = |mut placements: Placements| {
            let before = placements.proxies.len();
            placements.proxies.retain(|known| known.proxy != proxy);
            if placements.proxies.len() == before {
                return Err(Refusal::Missing(format!("proxy {proxy} is not placed")));
            }
            Ok(placements)
        };
        self.change_places(displace).await
    }

    async fn change_places(
        &self,
        change: impl FnOnce(Placements) -> Result<Placements, Refusal>,
    ) -> Result<(), Failure> {
        let _order = self.changing.lock().await;
        let before = self.state().placements.clone();
        let placements = change(Placements::clone(&before))?;
        check(&placements).map_err(Refusal::Invalid)?;
        self.store.set_placements(&placements).await?;
        let proxies = placements.proxies.len() as u64;
        let change = Change::between(&before, &placements);
        let changed = *before != placements;
        {
            let mut state = self.state();
            state.placements = Arc::new(placements);
            self.publish(&mut state, &change);
        }
        if changed {
            self.log.say(ControlEvent::PlacementsApplied { proxies });
        }
        self.changed();
        Ok(())
    }
}

/// Names and listening addresses must be there once.
fn check(placements: &Placements) -> Result<(), String> {
    let mut names = HashSet::new();
    let mut addresses = HashSet::new();
    for placement in &placements.proxies {
        if !names.insert(&placement.proxy) {
            return Err(format!("proxy {} is there twice", placement.proxy));
        }
        let mut own = vec![placement.admin];
        match &placement.role {
            Role::Sidecar { workload, app, inbound, outbound, .. } => {
                if *workload != placement.proxy {
                    return Err(format!("proxy {} must have the name of its workload {workload}", placement.proxy));
                }
                own.extend([*app, *inbound, *outbound]);
            }
            Role::Gateway { gateway, listen } => {
                if *gateway != placement.proxy {
                    return Err(format!("proxy {} must have the name of its gateway {gateway}", placement.proxy));
                }
                own.extend(*listen);
            }
        }
        for address in own {
            if !addresses.insert(address) {
                return Err(format!("address {address} of proxy {} is there twice", placement.proxy));
            }
        }
    }
    Ok(())
}
