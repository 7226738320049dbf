//! What the data path reads of a cluster: immutable, replaced whole.

use std::sync::Arc;

use xds::snapshot;

use crate::upstream::{
    balance::Candidates,
    host::{Host, HostId},
};

/// What the data path reads: immutable, replaced whole at the moment that something changes.
#[derive(Debug)]
pub struct View {
    /// As configured.
    pub config: Arc<snapshot::Cluster>,
    /// From priority 0.
    pub tiers: Vec<Tier>,
    /// All regions of its endpoints, sorted.
    pub regions: Vec<Arc<str>>,
}

/// One tier of a view.
#[derive(Debug)]
pub struct Tier {
    /// Its share of the load.
    pub percent: u8,
    /// Who may be sent to, load or no load.
    pub candidates: Candidates,
}

/// Where a try should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// By the tiers' shares.
    Load,
    /// To another tier than this one, if there is any.
    Beyond(usize),
}

/// A chosen endpoint.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The endpoint.
    pub host: Arc<Host>,
    /// Its tier.
    pub tier: usize,
}

impl View {
    /// Chooses an endpoint; `None` when nobody is left who is not to be avoided.
    pub fn choose(&self, aim: Aim, avoid: &[HostId], random: &mut fastrand::Rng) -> Option<Chosen> {
        let first = match aim {
            Aim::Load => self.by_share(random)?,
            Aim::Beyond(tier) => tier + 1,
        };
        // A tier whose hosts are all to be avoided hands over to the next, then to those before it.
        let last = self.tiers.len();
        let order = (first..last).chain((0..first.min(last)).rev());
        let all_off = self.tiers.iter().all(|tier| tier.percent == 0);
        if all_off {
            return None;
        }
        order.into_iter().find_map(|tier| {
            let host = self.tiers[tier].candidates.choose(self.config.balancer, avoid, random)?;
            Some(Chosen { host: host.clone(), tier })
        })
    }

    fn by_share(&self, random: &mut fastrand::Rng) -> Option<usize> {
        let mut draw = random.u8(..100);
        for (tier, share) in self.tiers.iter().enumerate() {
            if draw < share.percent {
                return Some(tier);
            }
            draw -= share.percent;
        }
        None
    }
}
