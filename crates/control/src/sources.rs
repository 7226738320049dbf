//! What sources of endpoints said, and what of it counts. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use model::config::Place;
use serde::{Deserialize, Serialize};

/// An answer with less than half of the addresses counts when it has stood for this long: a source that lost its own data
/// must not take a service away.
pub(crate) const SHRINK_HOLD: Duration = Duration::from_secs(60);

/// An address that a source named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Found {
    /// Where it is.
    pub address: SocketAddr,
    /// Share among the others, at least 1.
    pub weight: u32,
}

/// What is compiled: addresses by the name of their endpoint in the manifests.
pub type Addresses = BTreeMap<String, BTreeSet<Found>>;

/// A source that is followed.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) service: String,
    pub(crate) region: String,
    /// What it is, and how it is asked.
    pub(crate) place: Place,
    pub(crate) known: Known,
}

/// A place in words; the same words are the same source.
pub(crate) fn words(place: &Place) -> String {
    use model::config::DnsName;
    match place {
        Place::Dns(dns) => match &dns.name {
            DnsName::Addresses { name, port } => format!("dns {name}:{port}"),
            DnsName::Service(name) => format!("dns srv {name}"),
        },
        Place::File(file) => format!("file {}", file.path),
        Place::Address(address) => address.to_string(),
        Place::Run(argv) => argv.join(" "),
    }
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// These are the addresses now.
    Taken,
    /// The source fails; the last answer is kept.
    Failing(String),
    /// The source answers again, as it did.
    Mended,
    /// An answer of this many addresses is held back.
    HeldBack(usize),
    /// It failed for too long: there are no addresses any more.
    Dropped,
}

/// A source as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) addresses: BTreeSet<Found>,
    /// When the source last said so; `None`: never.
    pub(crate) fresh: Option<Instant>,
    /// Why it says nothing now.
    pub(crate) failing: Option<String>,
    /// An answer that is held back, since when.
    pub(crate) held_back: Option<(BTreeSet<Found>, Instant)>,
    /// How long the last answer is used when no other comes.
    stale_for: Duration,
}

impl Known {
    /// Of which nothing is known yet.
    pub(crate) fn new(stale_for: Duration) -> Self {
        Self { addresses: BTreeSet::new(), fresh: None, failing: None, held_back: None, stale_for }
    }

    /// What it said before this process began.
    pub(crate) fn remember(&mut self, addresses: BTreeSet<Found>, fresh: Instant) {
        (self.addresses, self.fresh) = (addresses, Some(fresh));
    }

    /// Takes an answer, or a failure. An answer without addresses is a failure: what is to have none is taken out of the
    /// manifests.
    ///
    /// An answer that takes most addresses away is held back while any of those is not known to be down; answers that follow
    /// it do not lengthen that.
    pub(crate) fn saw(
        &mut self,
        seen: Result<BTreeSet<Found>, String>,
        is_down: impl Fn(&Found) -> bool,
        now: Instant,
    ) -> Option<News> {
        let seen =
            seen.and_then(|found| if found.is_empty() { Err("it names no address".to_owned()) } else { Ok(found) });
        let found = match seen {
            Ok(found) => found,
            Err(reason) => return self.failed(reason, now),
        };
        let was_failing = self.failing.take().is_some();
        if found == self.addresses {
            (self.fresh, self.held_back) = (Some(now), None);
            return was_failing.then_some(News::Mended);
        }
        let stays_up = || self.addresses.difference(&found).any(|gone| !is_down(gone));
        if found.len() * 2 < self.addresses.len() && stays_up() {
            let (held, since) = match self.held_back.take() {
                Some((held, since)) => (Some(held), since),
                None => (None, now),
            };
            if now.saturating_duration_since(since) < SHRINK_HOLD {
                let news = (held.as_ref() != Some(&found)).then_some(News::HeldBack(found.len()));
                self.held_back = Some((found, since));
                return news;
            }
        }
        (self.addresses, self.fresh, self.held_back) = (found, Some(now), None);
        Some(News::Taken)
    }

    fn failed(&mut self, reason: String, now: Instant) -> Option<News> {
        self.held_back = None;
        let over = self.fresh.is_none_or(|fresh| now.saturating_duration_since(fresh) >= self.stale_for);
        let told = self.failing.as_ref() == Some(&reason);
        self.failing = Some(reason.clone());
        if over && !self.addresses.is_empty() {
            self.addresses.clear();
            return Some(News::Dropped);
        }
        (!told).then_some(News::Failing(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every address is well.
    fn up(_: &Found) -> bool {
        false
    }

    fn set(ports: std::ops::Range<u16>) -> BTreeSet<Found> {
        ports.map(|port| Found { address: ([127, 0, 0, 1], port).into(), weight: 1 }).collect()
    }

    #[test]
    fn what_a_source_said_last_is_kept_until_its_bound() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut known = Known::new(Duration::from_secs(100));
        let fails = || Err("no answer".to_owned());
        assert_eq!(known.saw(fails(), up, at(0)), Some(News::Failing("no answer".to_owned())));
        assert_eq!(known.saw(Ok(set(1..4)), up, at(1)), Some(News::Taken));
        assert_eq!(known.saw(Ok(set(1..4)), up, at(2)), None);
        assert_eq!(known.saw(fails(), up, at(3)), Some(News::Failing("no answer".to_owned())));
        assert_eq!(known.saw(fails(), up, at(4)), None, "told once");
        assert_eq!((known.addresses.len(), known.fresh), (3, Some(at(2))));
        // An answer without addresses is no answer.
        assert!(matches!(known.saw(Ok(BTreeSet::new()), up, at(5)), Some(News::Failing(_))));
        assert_eq!(known.saw(Ok(set(1..4)), up, at(6)), Some(News::Mended));
        assert_eq!(known.saw(fails(), up, at(105)), Some(News::Failing("no answer".to_owned())));
        assert_eq!(known.saw(fails(), up, at(106)), Some(News::Dropped));
        assert!(known.addresses.is_empty());
        assert_eq!(known.saw(Ok(set(7..8)), up, at(200)), Some(News::Taken));
    }

    #[test]
    fn what_shrinks_by_more_than_half_counts_when_it_stands() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut known = Known::new(Duration::from_secs(100));
        known.remember(set(0..10), start);
        assert_eq!(known.saw(Ok(set(0..5)), up, at(1)), Some(News::Taken), "half of it may go");
        assert_eq!(known.saw(Ok(set(0..2)), up, at(2)), Some(News::HeldBack(2)));
        assert_eq!(known.saw(Ok(set(0..2)), up, at(30)), None);
        // Another one of that kind does not lengthen it.
        assert_eq!(known.saw(Ok(set(0..1)), up, at(31)), Some(News::HeldBack(1)));
        assert_eq!(known.saw(Ok(set(0..1)), up, at(61)), None);
        assert_eq!(known.addresses.len(), 5);
        assert_eq!(known.saw(Ok(set(1..2)), up, at(62)), Some(News::Taken));
        // One that is whole again ends it.
        known.remember(set(0..10), at(70));
        assert_eq!(known.saw(Ok(set(0..2)), up, at(71)), Some(News::HeldBack(2)));
        assert_eq!(known.saw(Ok(set(0..10)), up, at(72)), None);
        assert_eq!(known.saw(Ok(set(0..2)), up, at(132)), Some(News::HeldBack(2)));
        // Addresses that are down are not kept for the sake of a slip.
        assert_eq!(known.saw(Ok(set(0..2)), |_| true, at(133)), Some(News::Taken));
        assert_eq!(known.addresses.len(), 2);
    }
}
