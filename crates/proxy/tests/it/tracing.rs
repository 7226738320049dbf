//! Traces reach a collector that speaks OpenTelemetry's own definition of the protocol.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};
use proxy::TraceOptions;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use xds::snapshot::Direction;

use crate::support::*;

/// A collector that can be hurt.
#[derive(Clone, Default)]
struct Collector {
    /// Service name and span.
    spans: Arc<Mutex<Vec<(String, Span)>>>,
    refusals: Arc<AtomicU32>,
    hung: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.hung.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Status::unavailable("not now"));
        }
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let service = attributes.into_iter().find(|attribute| attribute.key == "service.name").unwrap();
            let Some(Value::StringValue(service)) = service.value.unwrap().value else { panic!("no name") };
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().unwrap().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind((ip(), 4317)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, format!("http://{address}"))
    }

    fn spans(&self) -> Vec<(String, Span)> {
        self.spans.lock().unwrap().clone()
    }
}

fn attributes(span: &Span) -> HashMap<&str, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let pairs = span.attributes.iter();
    pairs.map(|a| (a.key.as_str(), text(a.value.as_ref().unwrap().value.as_ref().unwrap()))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const TOLD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[tokio::test(flavor = "multi_thread")]
async fn each_hop_is_a_span_of_one_trace() {
    let (collector, url) = Collector::start().await;
    collector.refusals.store(1, Ordering::SeqCst);
    let origin = Origin::start("fx-1");
    let traced = |ratio| {
        let collector = url.clone();
        move |options: &mut proxy::Options| options.trace = Some(TraceOptions { collector, ratio })
    };
    let inner = simple(Direction::Outbound, &[&[&origin]]);
    // It would record nothing by itself.
    let mut inner_proxy = Proxy::with(&inner, None, traced(0.0));
    let mut outer = simple(Direction::Gateway, &[&[&origin]]);
    outer.endpoints[0].localities[0].endpoints[0].address = inner.listeners[0].address;
    let mut outer_proxy = Proxy::with(&outer, None, |options| {
        traced(1.0)(options);
        options.name = "edge".into();
        options.service = String::new();
    });
    let reply = http1(outer.listeners[0].address, get("/v1/rates?secret=x")).await.unwrap();
    assert_eq!(reply.status, 200);
    // An end sends what waits.
    outer_proxy.stop_blocking();
    inner_proxy.stop_blocking();
    let spans = collector.spans();
    let of =
        |service: &str| spans.iter().find(|(name, _)| name == service).unwrap_or_else(|| panic!("{spans:?}")).1.clone();
    let (edge, client) = (of("edge"), of("client"));
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert!(edge.parent_span_id.is_empty() && client.parent_span_id == edge.span_id);
    assert_eq!(reply.header("seen-traceparent"), format!("00-{}-{}-03", hex(&client.trace_id), hex(&client.span_id)));
    assert_eq!(edge.trace_id, client.trace_id);
    assert_eq!((edge.kind, client.kind), (SpanKind::Server as i32, SpanKind::Client as i32));
    assert!(edge.start_time_unix_nano <= client.start_time_unix_nano);
    assert!(client.start_time_unix_nano < client.end_time_unix_nano);
    assert_eq!((edge.name.as_str(), edge.status), ("GET fx", None));
    let attributes = attributes(&client);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/v1/rates"),
        ("server.address", "fx"),
        ("http.response.status_code", "200"),
        ("network.peer.address", &origin.address.to_string()),
        ("firedrill.response_flags", "-"),
    ] {
        assert_eq!(attributes.get(key).map(String::as_str), Some(value), "{key}");
    }
    let log = std::fs::read_to_string(inner_proxy.folder.path().join("access.log")).unwrap();
    assert!(log.contains(&format!("\"trace_id\":\"{}\"", hex(&edge.trace_id))), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_caller_decided_holds_inside_the_mesh() {
    let (collector, url) = Collector::start().await;
    let origin = Origin::start("fx-1");
    let snapshot = simple(Direction::Outbound, &[&[&origin]]);
    let to = snapshot.listeners[0].address;
    let mut proxy =
        Proxy::with(&snapshot, None, |options| options.trace = Some(TraceOptions { collector: url, ratio: 1.0 }));
    let ask = |pairs: [(&'static str, &'static str); 2]| {
        let mut request = get("/");
        pairs.into_iter().for_each(|(name, value)| drop(request.headers_mut().insert(name, value.parse().unwrap())));
        http1(to, request)
    };
    let reply = ask([("traceparent", TOLD), ("tracestate", "vendor=1")]).await.unwrap();
    let seen = reply.header("seen-traceparent");
    assert!(seen.starts_with(&TOLD[..36]) && seen.ends_with("-00") && seen != TOLD, "{seen}");
    assert_eq!(reply.header("seen-tracestate"), "vendor=1");
    let reply = ask([("traceparent", "junk"), ("tracestate", "vendor=1")]).await.unwrap();
    assert_eq!(reply.header("seen-tracestate"), "");
    proxy.stop_blocking();
    let spans = collector.spans();
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_ne!(hex(&spans[0].1.trace_id), &TOLD[3..35]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_holds_nobody_up() {
    let (collector, url) = Collector::start().await;
    collector.hung.store(true, Ordering::SeqCst);
    let origin = Origin::start("fx-1");
    let snapshot = simple(Direction::Outbound, &[&[&origin]]);
    let to = snapshot.listeners[0].address;
    let mut proxy =
        Proxy::with(&snapshot, None, |options| options.trace = Some(TraceOptions { collector: url, ratio: 1.0 }));
    let mut sender = http2(to).await;
    for _ in 0..20 {
        let request = http::Request::get("http://fx/").body(Default::default()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    }
    assert!(collector.spans().is_empty());
    proxy.stop_blocking();
}
