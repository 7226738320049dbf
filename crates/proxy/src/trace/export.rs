//! Sends spans to a collector, in batches, and gives up on those that it does not take.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::uri::PathAndQuery;
use tokio::sync::{mpsc, watch};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use xds::snapshot::Direction;

use crate::{
    access::Line,
    trace::{
        Counts, Finished,
        otlp::{
            AnyValue, ArrayValue, CLIENT, ERROR, ExportTraceServiceRequest, ExportTraceServiceResponse,
            InstrumentationScope, KeyValue, Resource, ResourceSpans, SERVER, ScopeSpans, Span, Status as Outcome,
            Value,
        },
    },
};

/// Spans sent at once.
const BATCH: usize = 512;
/// How long a span may wait for others.
const LINGER: Duration = Duration::from_secs(1);
/// Bound on one export.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Exports of one batch.
const TRIES: u32 = 4;
/// Pause before the second; it doubles.
const PAUSE: Duration = Duration::from_millis(200);

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Sends spans of this process.
#[derive(Debug)]
pub struct Exporter {
    collector: Grpc<Channel>,
    resource: Resource,
    counts: Arc<Counts>,
}

impl Exporter {
    /// Connects when there is something to send.
    pub fn new(collector: Endpoint, service: &str, instance: &str, counts: Arc<Counts>) -> Self {
        let channel = collector.connect_timeout(TIMEOUT).timeout(TIMEOUT).connect_lazy();
        let attributes = vec![
            text("service.name", if service.is_empty() { instance } else { service }),
            text("service.instance.id", instance),
        ];
        Self { collector: Grpc::new(channel), resource: Resource { attributes }, counts }
    }

    /// Until the channel ends, or `closing` turns true and what waits is sent.
    pub async fn run(mut self, mut spans: mpsc::Receiver<Finished>, mut closing: watch::Receiver<bool>) {
        let mut batch = Vec::new();
        let mut last = false;
        while !last {
            // An ended sender means the same as its word.
            let asked = async { drop(closing.wait_for(|closing| *closing).await) };
            tokio::select! {
                biased;
                () = asked => last = true,
                open = gather(&mut spans, &mut batch) => last = !open,
            }
            if last {
                spans.close();
                // Closed, so this ends with what waits, and that is bounded.
                while spans.recv_many(&mut batch, BATCH).await > 0 {}
            }
            while !batch.is_empty() {
                let rest = batch.split_off(batch.len().min(BATCH));
                let sent = std::mem::replace(&mut batch, rest);
                self.send(sent).await;
            }
        }
    }

    async fn send(&mut self, spans: Vec<Finished>) {
        let count = spans.len() as u64;
        let request = self.request(&spans);
        let mut pause = PAUSE;
        for left in (0..TRIES).rev() {
            match self.export(request.clone()).await {
                Ok(rejected) => {
                    self.counts.exported.fetch_add(count - rejected.min(count), Ordering::Relaxed);
                    self.counts.dropped.fetch_add(rejected.min(count), Ordering::Relaxed);
                    return;
                }
                Err(status) if left > 0 && may_repeat(status.code()) => {
                    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    pause *= 2;
                }
                Err(status) => {
                    tracing::warn!(code = %status.code(), reason = status.message(), spans = count, "spans are lost");
                    break;
                }
            }
        }
        self.counts.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// How many spans the collector did not want.
    async fn export(&mut self, request: ExportTraceServiceRequest) -> Result<u64, Status> {
        let unready = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        self.collector.ready().await.map_err(unready)?;
        let codec = ProstCodec::<ExportTraceServiceRequest, ExportTraceServiceResponse>::default();
        let path = PathAndQuery::from_static(EXPORT);
        let response = self.collector.unary(Request::new(request), path, codec).await?.into_inner();
        let rejected = response.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }

    fn request(&self, spans: &[Finished]) -> ExportTraceServiceRequest {
        let scope = InstrumentationScope { name: "firedrill".into(), version: env!("CARGO_PKG_VERSION").into() };
        let spans = spans.iter().map(span).collect();
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
            }],
        }
    }
}

/// Waits for a span, and a little for those after it; false when there will be none any more. What was received is in
/// the batch whenever this is dropped.
async fn gather(spans: &mut mpsc::Receiver<Finished>, batch: &mut Vec<Finished>) -> bool {
    if spans.recv_many(batch, BATCH).await == 0 {
        return false;
    }
    let more = async {
        while batch.len() < BATCH {
            if spans.recv_many(batch, BATCH - batch.len()).await == 0 {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(LINGER, more).await.unwrap_or(true)
}

/// OTLP/gRPC, "Failures".
fn may_repeat(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
    )
}

fn value(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn text(key: &str, text: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value(Value::Text(text.to_owned()))) }
}

fn number(key: &str, number: u64) -> KeyValue {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    KeyValue { key: key.to_owned(), value: Some(value(Value::Number(number))) }
}

/// A span as OpenTelemetry's conventions for HTTP have it. The query stays out: it may hold secrets.
fn span(finished: &Finished) -> Span {
    let Finished { hop, direction, took, line } = finished;
    let client = *direction == Direction::Outbound;
    let Line { method, authority, response_code, upstream_cluster, .. } = &**line;
    let path = line.path.split('?').next().unwrap_or_default();
    let mut attributes = vec![
        text("http.request.method", method),
        text("url.path", path),
        text("server.address", authority),
        text("network.protocol.version", line.protocol.trim_start_matches("HTTP/")),
        text("client.address", &line.downstream_remote_address),
        text("firedrill.listener", &line.listener),
        text("firedrill.request_id", &line.request_id),
        text("firedrill.response_flags", &line.response_flags),
        number("http.request.body.size", line.bytes_received),
        number("http.response.body.size", line.bytes_sent),
        number("http.request.resend_count", line.upstream_request_attempt_count.saturating_sub(1).into()),
    ];
    if *response_code != 0 {
        attributes.push(number("http.response.status_code", (*response_code).into()));
    }
    let words = [
        ("firedrill.cluster", upstream_cluster),
        ("network.peer.address", &line.upstream_host),
        ("firedrill.caller", &line.downstream_peer_uri_san),
    ];
    attributes.extend(words.into_iter().filter_map(|(key, word)| Some(text(key, word.as_deref()?))));
    if !line.overlays.is_empty() {
        let values = line.overlays.iter().map(|overlay| value(Value::Text(overlay.clone()))).collect();
        let several = Some(value(Value::Several(ArrayValue { values })));
        attributes.push(KeyValue { key: "firedrill.overlays".into(), value: several });
    }
    // A client's span fails with the caller's own mistakes too, a server's only with the server's.
    let failed = *response_code == 0 || *response_code >= if client { 400 } else { 500 };
    let start = u64::try_from(line.start_time).unwrap_or(0);
    Span {
        trace_id: hop.context.trace.to_be_bytes().to_vec(),
        span_id: hop.context.span.to_be_bytes().to_vec(),
        parent_span_id: hop.parent.map_or_else(Vec::new, |parent| parent.to_be_bytes().to_vec()),
        name: upstream_cluster.as_ref().map_or_else(|| method.clone(), |cluster| format!("{method} {cluster}")),
        kind: if client { CLIENT } else { SERVER },
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)),
        attributes,
        status: failed.then_some(Outcome { code: ERROR }),
    }
}
