//! What proxies reported of their load: the last minute of each, and what all of them did ever. Pure, and bounded.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::load::{ClusterLoad, LocalityLoad};

/// How far back the view goes; who reports nothing for as long is left out.
const WINDOW: Duration = Duration::from_secs(60);
/// How often reports that are too old are forgotten.
const SWEEP: Duration = Duration::from_secs(10);
/// Localities of clusters that one proxy is remembered with.
const MOST_ROWS: usize = 20_000;
/// Regions of clusters that are counted apart; the rest is counted together.
const MOST_TOTALS: usize = 10_000;
/// Reports of a locality: twice as many as come in a window at the pace that is asked for.
const MOST_REPORTS: usize = 12;
/// Under which name.
const OTHERS: &str = "other";

/// The load that one proxy put on a locality of a cluster, over the last minute.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Whose report it is.
    pub proxy: String,
    /// The cluster.
    pub cluster: String,
    /// Where it went, and how much of it.
    pub locality: LocalityLoad,
    /// Time that the counts are of.
    pub over: Duration,
    /// Since the last report.
    pub age: Duration,
}

/// What all proxies did ever with a region of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Requests sent to it.
    pub issued: u64,
    /// Requests that ended well.
    pub successful: u64,
    /// Requests that failed.
    pub errors: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    cluster: String,
    priority: u32,
    region: String,
    zone: String,
}

#[derive(Debug)]
struct Report {
    at: Instant,
    interval: Duration,
    counts: Total,
}

#[derive(Debug, Default)]
struct Row {
    reports: VecDeque<Report>,
    in_progress: u64,
}

/// The reports.
#[derive(Debug, Default)]
pub(super) struct Book {
    proxies: BTreeMap<String, BTreeMap<Place, Row>>,
    totals: BTreeMap<(String, String), Total>,
    left_out: u64,
    /// When what is too old was last forgotten.
    swept: Option<Instant>,
}

impl Book {
    /// Takes a proxy's report.
    pub(super) fn note(&mut self, proxy: &str, loads: Vec<ClusterLoad>, now: Instant) {
        // Once for many reports: it goes through all of them.
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP) {
            self.forget(now);
        }
        for load in loads {
            for locality in load.localities {
                let counts =
                    Total { issued: locality.issued, successful: locality.successful, errors: locality.errors };
                self.count(&load.cluster, &locality.region, counts);
                let rows = self.proxies.entry(proxy.to_owned()).or_default();
                let place = Place {
                    cluster: load.cluster.clone(),
                    priority: locality.priority,
                    region: locality.region,
                    zone: locality.zone,
                };
                if rows.len() >= MOST_ROWS && !rows.contains_key(&place) {
                    self.left_out += 1;
                    continue;
                }
                let row = rows.entry(place).or_default();
                row.in_progress = locality.in_progress;
                if row.reports.len() >= MOST_REPORTS {
                    row.reports.pop_front();
                }
                row.reports.push_back(Report { at: now, interval: load.interval, counts });
            }
        }
    }

    fn count(&mut self, cluster: &str, region: &str, counts: Total) {
        let mut key = (cluster.to_owned(), region.to_owned());
        if self.totals.len() >= MOST_TOTALS && !self.totals.contains_key(&key) {
            key = (OTHERS.to_owned(), OTHERS.to_owned());
        }
        let total = self.totals.entry(key).or_default();
        total.issued = total.issued.saturating_add(counts.issued);
        total.successful = total.successful.saturating_add(counts.successful);
        total.errors = total.errors.saturating_add(counts.errors);
    }

    fn forget(&mut self, now: Instant) {
        self.swept = Some(now);
        self.proxies.retain(|_, rows| {
            rows.retain(|_, row| {
                while row.reports.front().is_some_and(|report| now.saturating_duration_since(report.at) > WINDOW) {
                    row.reports.pop_front();
                }
                !row.reports.is_empty()
            });
            !rows.is_empty()
        });
    }

    /// The last minute, by proxy, cluster, tier and locality.
    pub(super) fn view(&mut self, now: Instant) -> Vec<Load> {
        self.forget(now);
        let rows = self.proxies.iter().flat_map(|(proxy, rows)| rows.iter().map(move |row| (proxy, row)));
        rows.map(|(proxy, (place, row))| {
            let sum = |of: fn(&Total) -> u64| {
                row.reports.iter().map(|report| of(&report.counts)).fold(0, u64::saturating_add)
            };
            Load {
                proxy: proxy.clone(),
                cluster: place.cluster.clone(),
                locality: LocalityLoad {
                    region: place.region.clone(),
                    zone: place.zone.clone(),
                    priority: place.priority,
                    issued: sum(|counts| counts.issued),
                    successful: sum(|counts| counts.successful),
                    errors: sum(|counts| counts.errors),
                    in_progress: row.in_progress,
                },
                over: row.reports.iter().map(|report| report.interval).fold(Duration::ZERO, Duration::saturating_add),
                age: row.reports.back().map_or(Duration::ZERO, |report| now.saturating_duration_since(report.at)),
            }
        })
        .collect()
    }

    /// By cluster and region, since this process began.
    pub(super) fn totals(&self) -> BTreeMap<(String, String), Total> {
        self.totals.clone()
    }

    /// Localities that were left out of the view for their number.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(cluster: &str, region: &str, issued: u64) -> ClusterLoad {
        let locality = LocalityLoad {
            region: region.into(),
            issued,
            successful: issued,
            in_progress: 2,
            ..LocalityLoad::default()
        };
        ClusterLoad { cluster: cluster.into(), interval: Duration::from_secs(10), localities: vec![locality] }
    }

    #[test]
    fn the_view_is_of_the_last_minute_and_totals_are_of_ever() {
        let (mut book, start) = (Book::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in [0, 10, 20] {
            book.note("edge", vec![report("fx", "east", 100)], at(seconds));
        }
        book.note("shop", vec![report("fx", "west", 7)], at(20));
        let view = book.view(at(25));
        let seen: Vec<_> = view
            .iter()
            .map(|load| (load.proxy.as_str(), load.locality.region.as_str(), load.locality.issued))
            .collect();
        assert_eq!(seen, [("edge", "east", 300), ("shop", "west", 7)]);
        assert_eq!((view[0].over.as_secs(), view[0].age.as_secs(), view[0].locality.in_progress), (30, 5, 2));
        // The first report is too old now, then all of them are.
        assert_eq!(book.view(at(65))[0].locality.issued, 200);
        assert_eq!(book.view(at(81)), []);
        let total = |region: &str| book.totals()[&("fx".to_owned(), region.to_owned())].issued;
        assert_eq!((total("east"), total("west")), (300, 7));
    }

    #[test]
    fn a_proxy_with_any_number_of_names_is_held_in_bounds() {
        let (mut book, now) = (Book::default(), Instant::now());
        let many = (0..MOST_ROWS + 5).map(|number| report(&format!("c{number}"), "east", 1));
        book.note("edge", many.collect(), now);
        assert_eq!((book.view(now).len(), book.left_out()), (MOST_ROWS, 5));
        assert_eq!(book.totals().len(), MOST_TOTALS + 1);
        let others = book.totals()[&(OTHERS.to_owned(), OTHERS.to_owned())].issued;
        assert_eq!(others, (MOST_ROWS + 5 - MOST_TOTALS) as u64);
        // More reports than were asked for are not kept either.
        for _ in 0..1000 {
            book.note("other", vec![report("fx", "east", 1)], now);
        }
        assert!(book.view(now).iter().find(|load| load.proxy == "other").unwrap().locality.issued <= 12);
    }
}
