//! Metrics in the Prometheus text format, with the names that mesh dashboards read. Labels come from configuration only,
//! never from what callers send, so their number is bounded.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use xds::{event::EventKind, status::ProxyStatus};

/// Labels of a request, as Istio names them.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// `source` on the caller's side, `destination` before the workload.
    pub reporter: &'static str,
    /// The service that calls; `unknown` for callers outside the mesh.
    pub source_workload: String,
    /// The service that is called.
    pub destination_service: String,
    /// Its region; empty if no endpoint was chosen.
    pub destination_region: String,
    /// `http`.
    pub request_protocol: &'static str,
    /// HTTP status; 0 if the caller went away.
    pub response_code: u16,
    /// Envoy's response flags, `-` for none.
    pub response_flags: String,
    /// `mutual_tls` or `none`.
    pub connection_security_policy: &'static str,
}

/// Labels of a latency; fewer, since each is a histogram.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DurationLabels {
    /// `source` or `destination`.
    pub reporter: &'static str,
    /// The service that is called.
    pub destination_service: String,
    /// HTTP status.
    pub response_code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TierLabels {
    cluster: String,
    priority: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndpointLabels {
    cluster: String,
    endpoint: String,
    region: String,
}

const MILLISECONDS: [f64; 14] =
    [0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0];

/// Counters that the data path feeds.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    refused: Family<KindLabels, Counter>,
    repeats: Family<KindLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(MILLISECONDS)),
            refused: Family::default(),
            repeats: Family::default(),
        }
    }
}

impl Metrics {
    /// A request is over.
    pub fn request(&self, labels: RequestLabels, took: Duration) {
        let reporter = labels.reporter;
        let destination_service = labels.destination_service.clone();
        let durations = DurationLabels { reporter, destination_service, response_code: labels.response_code };
        self.durations.get_or_create(&durations).observe(took.as_secs_f64() * 1e3);
        self.requests.get_or_create(&labels).inc();
    }

    /// Hostile or excess input was refused.
    pub fn refused(&self, kind: &'static str) {
        self.refused.get_or_create(&KindLabels { kind }).inc();
    }

    /// A retry or a hedge was made, or had to be left.
    pub fn repeat(&self, kind: &'static str) {
        self.repeats.get_or_create(&KindLabels { kind }).inc();
    }

    /// Everything as text. State (tiers, ejections, overlays) is read from the status, so that it cannot disagree.
    pub fn render(
        &self,
        status: &ProxyStatus,
        events: &[(&'static str, u64)],
        lines_dropped: u64,
    ) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::default();
        registry.register("istio_requests", "Requests", self.requests.clone());
        registry.register("istio_request_duration_milliseconds", "Request durations", self.durations.clone());
        registry.register("firedrill_refused", "Refused input by kind", self.refused.clone());
        registry.register("firedrill_repeats", "Retries and hedges by kind", self.repeats.clone());
        let load = Family::<TierLabels, Gauge>::default();
        let healthy = Family::<EndpointLabels, Gauge>::default();
        let ejected = Family::<EndpointLabels, Gauge>::default();
        let active = Family::<EndpointLabels, Gauge>::default();
        let tries = Family::<EndpointLabels, Counter>::default();
        let failures = Family::<EndpointLabels, Counter>::default();
        for cluster in &status.clusters {
            for (priority, percent) in (0u64..).zip(&cluster.tier_load) {
                load.get_or_create(&TierLabels { cluster: cluster.name.clone(), priority }).set((*percent).into());
            }
            for endpoint in &cluster.endpoints {
                let labels = EndpointLabels {
                    cluster: cluster.name.clone(),
                    endpoint: endpoint.name.clone(),
                    region: endpoint.region.clone(),
                };
                healthy.get_or_create(&labels).set(endpoint.healthy.into());
                ejected.get_or_create(&labels).set(endpoint.ejected.into());
                active.get_or_create(&labels).set(i64::try_from(endpoint.active).unwrap_or(i64::MAX));
                tries.get_or_create(&labels).inc_by(endpoint.tries);
                failures.get_or_create(&labels).inc_by(endpoint.failures);
            }
        }
        registry.register("firedrill_tier_load_percent", "Share of a priority tier", load);
        registry.register("firedrill_endpoint_healthy", "By active checks", healthy);
        registry.register("firedrill_endpoint_ejected", "By outlier detection", ejected);
        registry.register("firedrill_endpoint_active_requests", "In flight", active);
        registry.register("firedrill_endpoint_tries", "Tries sent", tries);
        registry.register("firedrill_endpoint_failures", "Tries failed", failures);
        let overlays = Gauge::<i64>::default();
        overlays.set(i64::try_from(status.overlays.len()).unwrap_or(i64::MAX));
        registry.register("firedrill_overlays", "Active overlays", overlays);
        let connected = Gauge::<i64>::default();
        connected.set(status.connected.into());
        registry.register("firedrill_control_connected", "Stream to the control plane is up", connected);
        let transitions = Family::<KindLabels, Counter<u64, AtomicU64>>::default();
        for (kind, count) in events {
            transitions.get_or_create(&KindLabels { kind }).inc_by(*count);
        }
        registry.register("firedrill_events", "Transitions by kind", transitions);
        let dropped = Counter::<u64, AtomicU64>::default();
        dropped.inc_by(lines_dropped);
        registry.register("firedrill_access_log_dropped", "Lines that the disk could not follow", dropped);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// The name of an event's kind in metrics.
pub fn kind(event: &EventKind) -> &'static str {
    match event {
        EventKind::Started { .. } => "started",
        EventKind::SnapshotApplied { .. } => "snapshotApplied",
        EventKind::SnapshotRejected { .. } => "snapshotRejected",
        EventKind::OverlayApplied { .. } => "overlayApplied",
        EventKind::OverlayEnded { .. } => "overlayEnded",
        EventKind::Health { .. } => "health",
        EventKind::Ejected { .. } => "ejected",
        EventKind::Readmitted { .. } => "readmitted",
        EventKind::TierLoad { .. } => "tierLoad",
        EventKind::Panic { .. } => "panic",
        EventKind::Switched { .. } => "switched",
        EventKind::FirstAnswer { .. } => "firstAnswer",
        EventKind::ControlLost { .. } => "controlLost",
        EventKind::ControlConnected => "controlConnected",
        EventKind::Draining => "draining",
    }
}
