//! Traces: a span for each request at each hop, exported to a collector.

pub mod context;
mod export;
mod otlp;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tonic::transport::Endpoint;
use xds::snapshot::Direction;

use crate::{
    access::Line,
    trace::{context::Hop, export::Exporter},
};

/// Spans that may wait to be exported.
const WAITING: usize = 4096;

/// What is traced, and where it goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// A collector's OTLP gRPC address: `http://127.0.0.1:4317`.
    pub collector: String,
    /// Share of the traces beginning here that are recorded, 0 to 1.
    pub ratio: f64,
}

/// A request's span, when it is over.
#[derive(Debug)]
pub struct Finished {
    /// Where it stands in its trace.
    pub hop: Hop,
    /// Which way its listener looks.
    pub direction: Direction,
    /// From its arrival to the end of its response.
    pub took: Duration,
    /// What the access log would say of it.
    pub line: Arc<Line>,
}

/// What became of spans.
#[derive(Debug, Default)]
pub struct Counts {
    /// The collector took them.
    pub exported: AtomicU64,
    /// There was no room, or the collector did not take them.
    pub dropped: AtomicU64,
}

/// Decides what is recorded, and hands it to the exporter. Nothing waits for the collector.
#[derive(Debug)]
pub struct Tracer {
    ratio: f64,
    spans: mpsc::Sender<Finished>,
    counts: Arc<Counts>,
    closing: watch::Sender<bool>,
    exporter: Mutex<Option<JoinHandle<()>>>,
}

impl Tracer {
    /// Starts the exporter as a task of the current runtime. `service` and `instance` name the process.
    ///
    /// # Errors
    /// A sentence, when the collector's address is none.
    pub fn start(options: &Options, service: &str, instance: &str) -> Result<Self, String> {
        let Options { collector, ratio } = options;
        let wrong = || format!("`{collector}` is not a collector's address like http://127.0.0.1:4317");
        let endpoint = Endpoint::from_shared(collector.clone()).map_err(|_| wrong())?;
        if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().port_u16().is_none() {
            return Err(wrong());
        }
        let (spans, waiting) = mpsc::channel(WAITING);
        let counts = Arc::new(Counts::default());
        let closing = watch::Sender::new(false);
        let exporter = Exporter::new(endpoint, service, instance, counts.clone());
        let exporter = tokio::spawn(exporter.run(waiting, closing.subscribe()));
        Ok(Self { ratio: *ratio, spans, counts, closing, exporter: Mutex::new(Some(exporter)) })
    }

    /// Makes a request's span and writes it into its headers. What callers outside the mesh decided does not count.
    pub fn hop(&self, headers: &mut HeaderMap, direction: Direction) -> Hop {
        context::hop(headers, direction != Direction::Gateway, self.ratio, &mut fastrand::Rng::new())
    }

    /// A request is over whose trace is recorded.
    pub fn finished(&self, span: Finished) {
        if self.spans.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans that the collector took, and those that were dropped.
    pub fn counts(&self) -> (u64, u64) {
        let Counts { exported, dropped } = &*self.counts;
        (exported.load(Ordering::Relaxed), dropped.load(Ordering::Relaxed))
    }

    /// Sends what waits, for at most this long.
    pub async fn close(&self, bound: Duration) {
        self.closing.send_replace(true);
        let exporter = self.exporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(exporter) = exporter
            && tokio::time::timeout(bound, exporter).await.is_err()
        {
            tracing::warn!("the last spans could not be exported in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(collector: &str) -> Result<Tracer, String> {
        Tracer::start(&Options { collector: collector.to_owned(), ratio: 1.0 }, "fx", "fx-1")
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_dropped_and_counted() {
        let tracer = start("http://127.0.0.1:9").unwrap();
        // The exporter has no chance to run meanwhile.
        for _ in 0..WAITING + 10 {
            let hop = tracer.hop(&mut HeaderMap::new(), Direction::Outbound);
            let line = Arc::default();
            tracer.finished(Finished { hop, direction: Direction::Outbound, took: Duration::ZERO, line });
        }
        assert_eq!(tracer.counts(), (0, 10));
    }

    #[tokio::test]
    async fn a_collector_has_an_address() {
        for wrong in ["", "127.0.0.1:4317", "https://127.0.0.1:4317", "http://127.0.0.1", "http://a b"] {
            let reason = start(wrong).unwrap_err();
            assert!(reason.contains("is not a collector's address"), "{reason}");
        }
    }
}
