//! Metrics in the Prometheus text format, with the names that mesh dashboards read. Labels come from configuration, from
//! certificates of the mesh and from status codes, never from what callers write, and their number is bounded.

pub mod connections;
pub mod decisions;
mod histogram;
pub mod peers;
pub mod requests;
mod series;
pub mod text;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use xds::status::{BreakerStatus, ClusterStatus, EndpointStatus, ProxyStatus};

use crate::metrics::{
    connections::Connections,
    decisions::Decisions,
    requests::Requests,
    text::{Kind, Labels, Text},
};

/// Counters that the data path feeds.
#[derive(Debug, Default)]
pub struct Metrics {
    /// HTTP requests that are over.
    pub requests: Requests,
    /// TCP connections.
    pub connections: Connections,
    /// Of authorization.
    pub decisions: Decisions,
    refused: Kinds,
    shed: Kinds,
    repeats: Kinds,
    mirrors: Kinds,
    faults: Kinds,
    standby: Kinds,
}

/// Things counted by kind; for what is rare.
#[derive(Debug, Default)]
struct Kinds(Mutex<BTreeMap<&'static str, u64>>);

impl Kinds {
    fn count(&self, kind: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }

    fn all(&self) -> Vec<(&'static str, u64)> {
        let kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.iter().map(|(kind, count)| (*kind, *count)).collect()
    }
}

/// What others count.
#[derive(Debug)]
pub struct Elsewhere<'a> {
    /// State (tiers, ejections, overlays) is read from here, so that it cannot disagree.
    pub status: &'a ProxyStatus,
    /// Events by kind.
    pub events: &'a [(&'static str, u64)],
    /// Access log lines that were dropped.
    pub lines_dropped: u64,
    /// Spans that the collector took, and those that were dropped; `None` when there are no traces.
    pub spans: Option<(u64, u64)>,
    /// Requests that a workload gets at once, by listener.
    pub limits: &'a [(String, u32)],
}

impl Metrics {
    /// Hostile or excess input was refused.
    pub fn refused(&self, kind: &'static str) {
        self.refused.count(kind);
    }

    /// A request was refused to spare the workload.
    pub fn shed(&self, class: &'static str) {
        self.shed.count(class);
    }

    /// A retry or a hedge was made, or had to be left.
    pub fn repeat(&self, kind: &'static str) {
        self.repeats.count(kind);
    }

    /// A copy of a request was sent, or had to be left.
    pub fn mirror(&self, kind: &'static str) {
        self.mirrors.count(kind);
    }

    /// A connection was opened to an endpoint that takes over next, or could not be.
    pub fn standby(&self, kind: &'static str) {
        self.standby.count(kind);
    }

    /// A fault took a request or a try.
    pub fn fault(&self, kind: &'static str) {
        self.faults.count(kind);
    }

    /// Everything as text.
    pub fn render(&self, elsewhere: &Elsewhere<'_>) -> String {
        let Elsewhere { status, events, lines_dropped, spans, limits: limits_of } = elsewhere;
        let mut text = Text::default();
        self.requests.render(&mut text);
        self.connections.render(&mut text);
        self.decisions.render(&mut text);
        by_kind(&mut text, "firedrill_refused_total", "Refused input.", &self.refused.all());
        let help = "Requests refused to spare the workload.";
        by_kind(&mut text, "firedrill_shed_total", help, &self.shed.all());
        limits(&mut text, limits_of);
        by_kind(&mut text, "firedrill_repeats_total", "Retries and hedges.", &self.repeats.all());
        by_kind(&mut text, "firedrill_mirrors_total", "Copies of requests.", &self.mirrors.all());
        by_kind(&mut text, "firedrill_faults_total", "Requests and tries that faults took.", &self.faults.all());
        let help = "Connections opened ahead to endpoints that take over next.";
        by_kind(&mut text, "firedrill_standby_connections_total", help, &self.standby.all());
        clusters(&mut text, &status.clusters);
        let overlays = status.overlays.len();
        text.single("firedrill_overlays", Kind::Gauge, "Overlays in force.", overlays);
        let connected = u8::from(status.connected);
        text.single("firedrill_control_connected", Kind::Gauge, "The stream to the control plane is up.", connected);
        by_kind(&mut text, "firedrill_events_total", "Transitions.", events);
        let help = "Access log lines that the disk could not follow.";
        text.single("firedrill_access_log_dropped_total", Kind::Counter, help, lines_dropped);
        if let Some((exported, dropped)) = spans {
            text.single("firedrill_spans_exported_total", Kind::Counter, "Spans that the collector took.", exported);
            let help = "Spans that found no room, or that the collector did not take.";
            text.single("firedrill_spans_dropped_total", Kind::Counter, help, dropped);
        }
        text.finish()
    }
}

fn by_kind(text: &mut Text, name: &str, help: &str, kinds: &[(&'static str, u64)]) {
    text.family(name, Kind::Counter, help);
    for (kind, count) in kinds {
        text.sample(name, &Labels::default().and("kind", kind), count);
    }
}

fn limits(text: &mut Text, limits: &[(String, u32)]) {
    let name = "firedrill_admission_limit";
    text.family(name, Kind::Gauge, "Requests that the workload gets at once.");
    for (listener, limit) in limits {
        text.sample(name, &Labels::default().and("listener", listener), limit);
    }
}

fn clusters(text: &mut Text, clusters: &[ClusterStatus]) {
    let named = |cluster: &ClusterStatus| Labels::default().and("cluster", &cluster.name);
    text.family("firedrill_tier_load_percent", Kind::Gauge, "Share of a priority tier.");
    for cluster in clusters {
        for (priority, percent) in cluster.tier_load.iter().enumerate() {
            text.sample("firedrill_tier_load_percent", &named(cluster).and("priority", priority), percent);
        }
    }
    let mut breakers = |name, kind, help, of: fn(&BreakerStatus) -> u64| {
        text.family(name, kind, help);
        for cluster in clusters {
            for breaker in &cluster.breakers {
                let labels = named(cluster).and("routing_priority", breaker.priority.name());
                text.sample(name, &labels.and("bound", breaker.bound.name()), of(breaker));
            }
        }
    };
    breakers("firedrill_breaker_open", Kind::Gauge, "It refused something just now.", |b| b.open.into());
    breakers("firedrill_breaker_used", Kind::Gauge, "What it bounds, at this moment.", |b| b.used);
    breakers("firedrill_breaker_refused_total", Kind::Counter, "What it refused.", |b| b.refused);
    let mut endpoints = |name, kind, help, of: fn(&EndpointStatus) -> u64| {
        text.family(name, kind, help);
        for cluster in clusters {
            for endpoint in &cluster.endpoints {
                let labels = named(cluster).and("endpoint", &endpoint.name).and("region", &endpoint.region);
                text.sample(name, &labels, of(endpoint));
            }
        }
    };
    endpoints("firedrill_endpoint_healthy", Kind::Gauge, "By active checks.", |e| e.healthy.into());
    endpoints("firedrill_endpoint_ejected", Kind::Gauge, "Out by outlier detection.", |e| e.ejected.into());
    endpoints("firedrill_endpoint_active_requests", Kind::Gauge, "In flight.", |e| e.active);
    endpoints("firedrill_endpoint_tries_total", Kind::Counter, "Tries sent.", |e| e.tries);
    endpoints("firedrill_endpoint_failures_total", Kind::Counter, "Tries failed.", |e| e.failures);
}
