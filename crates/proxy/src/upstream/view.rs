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
    /// The part of its share that degraded hosts take, 0 to 1.
    pub degraded_part: f32,
    /// Who may be sent to, load or no load.
    pub candidates: Candidates,
    /// Who may be sent to where healthy ones do not suffice.
    pub degraded: Candidates,
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
        self.choose_for(None, aim, avoid, random)
    }

    /// The same; a hashing balancer goes by this key.
    pub fn choose_for(
        &self,
        key: Option<u64>,
        aim: Aim,
        avoid: &[HostId],
        random: &mut fastrand::Rng,
    ) -> Option<Chosen> {
        if self.tiers.iter().all(|tier| tier.percent == 0) {
            return None;
        }
        let (first, degraded) = match aim {
            Aim::Load => self.by_share(random)?,
            Aim::Beyond(tier) => (tier + 1, false),
        };
        let trusted = |host: &Host| !host.is_suspect() && !avoid.contains(&host.id);
        // Whoever answers nobody right now is still better than no one.
        self.search(&trusted, key, first, degraded, random).or_else(|| {
            let anyone = |host: &Host| !avoid.contains(&host.id);
            self.search(&anyone, key, first, degraded, random)
        })
    }

    /// Who takes over when the tiers that serve are lost: the hosts of the first tier without load that could serve, except
    /// those that answer nobody. Nobody while nobody serves.
    pub fn standby(&self) -> impl Iterator<Item = &Arc<Host>> {
        let serves = self.tiers.iter().any(|tier| tier.percent > 0);
        let idle = |tier: &&Tier| serves && tier.percent == 0 && tier.candidates.hosts().next().is_some();
        let hosts = self.tiers.iter().find(idle).into_iter().flat_map(|tier| tier.candidates.hosts());
        hosts.filter(|host| !host.is_suspect())
    }

    /// A tier none of whose hosts is allowed hands over to the next, then to those before it.
    fn search(
        &self,
        allowed: &impl Fn(&Host) -> bool,
        key: Option<u64>,
        first: usize,
        degraded: bool,
        random: &mut fastrand::Rng,
    ) -> Option<Chosen> {
        let last = self.tiers.len();
        let mut order = (first..last).chain((0..first.min(last)).rev());
        order.find_map(|index| {
            let tier = &self.tiers[index];
            let (one, other) = match degraded && index == first {
                true => (&tier.degraded, &tier.candidates),
                false => (&tier.candidates, &tier.degraded),
            };
            let host = one.choose(allowed, key, random).or_else(|| other.choose(allowed, key, random))?;
            Some(Chosen { host: host.clone(), tier: index })
        })
    }

    /// A tier by the shares, and whether one of its degraded hosts is to serve.
    fn by_share(&self, random: &mut fastrand::Rng) -> Option<(usize, bool)> {
        let mut draw = random.u8(..100);
        for (tier, share) in self.tiers.iter().enumerate() {
            if draw < share.percent {
                return Some((tier, share.degraded_part > 0.0 && random.f32() < share.degraded_part));
            }
            draw -= share.percent;
        }
        None
    }
}
