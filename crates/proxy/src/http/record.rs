//! What is known of one request, told to metrics and access log when it is over. Words for the access log are only
//! collected when there is one.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use http::{HeaderMap, HeaderName, Method, header::USER_AGENT};
use xds::snapshot::{self, Direction};

pub use crate::http::flags::Flag;
use crate::{
    access::Line,
    admission::Admitted,
    grpc,
    http::{
        body::{BodyError, Watch},
        flags::Flags,
        message,
    },
    metrics::requests::{Key, Sizes},
    route::authorization::Decision,
    sides::Sides,
    state::Shared,
    trace::{Finished, context::Hop},
    upstream::host::Host,
};

/// What Envoy says of a request that no permission fits.
const DENIED: &str = "rbac_access_denied_matched_policy[none]";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Who calls over a connection.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its address.
    pub address: SocketAddr,
    /// Its SPIFFE id, proven by its certificate.
    pub id: Option<Arc<str>>,
    /// Whether the connection is TLS.
    pub tls: bool,
}

/// One request. Dropped before it is over, it tells that the caller went away.
#[derive(Debug)]
pub struct Record {
    shared: Arc<Shared>,
    start: Instant,
    /// `None` when there is neither an access log nor a trace that is recorded, and nobody asks for requests.
    line: Option<Box<Line>>,
    /// Its span, if it is recorded.
    hop: Option<Hop>,
    flags: Flags,
    status: u16,
    direction: Direction,
    tls: bool,
    caller: Option<Arc<str>>,
    head: bool,
    grpc: bool,
    grpc_status: Option<u16>,
    received: Option<Arc<AtomicU64>>,
    sent: u64,
    cluster: Option<Arc<snapshot::Cluster>>,
    host: Option<Arc<Host>>,
    over: bool,
    admitted: Option<Admitted>,
    _in_flight: Arc<()>,
}

impl Record {
    /// At its arrival. `in_flight` is kept until it is over; `hop` is its span, where traces are made.
    pub fn new(
        shared: Arc<Shared>,
        in_flight: Arc<()>,
        listener: &str,
        direction: Direction,
        caller: &Caller,
        hop: Option<Hop>,
    ) -> Self {
        let start = Instant::now();
        let recorded = hop.filter(|hop| hop.context.sampled());
        let line = (shared.access.is_some() || recorded.is_some() || shared.tap.is_open(start)).then(|| {
            Box::new(Line {
                trace_id: hop.map(|hop| format!("{:032x}", hop.context.trace)).unwrap_or_default(),
                start_time: shared.clock.at(start).0,
                listener: listener.to_owned(),
                downstream_remote_address: caller.address.to_string(),
                downstream_peer_uri_san: caller.id.as_deref().map(str::to_owned),
                ..Line::default()
            })
        });
        Self {
            shared,
            start,
            line,
            hop: recorded,
            flags: Flags::default(),
            status: 0,
            direction,
            tls: caller.tls,
            caller: caller.id.clone(),
            head: false,
            grpc: false,
            grpc_status: None,
            received: None,
            sent: 0,
            cluster: None,
            host: None,
            over: false,
            admitted: None,
            _in_flight: in_flight,
        }
    }

    /// What is asked for.
    pub fn asked(&mut self, request: &http::request::Parts) {
        self.head = request.method == Method::HEAD;
        self.grpc = grpc::is_call(&request.headers);
        if let Some(line) = &mut self.line {
            line.method = request.method.to_string();
            line.path = request.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
            line.protocol = format!("{:?}", request.version);
            line.user_agent = text(&request.headers, USER_AGENT);
            line.x_forwarded_for = text(&request.headers, FORWARDED_FOR);
        }
    }

    /// Of whom, and under which id.
    pub fn addressed(&mut self, authority: &str, request_id: &str) {
        if let Some(line) = &mut self.line {
            authority.clone_into(&mut line.authority);
            request_id.clone_into(&mut line.request_id);
        }
    }

    /// Whether it may be made.
    pub fn decided(&mut self, decision: Decision) {
        self.shared.metrics.decisions.count(decision);
        if let Some(line) = &mut self.line {
            line.authorization = decision.name();
            line.authorization_rule = decision.rule();
            if decision == Decision::Deny {
                line.response_code_details = DENIED.into();
            }
        }
    }

    /// Which cluster it goes to.
    pub fn routed(&mut self, cluster: &Arc<snapshot::Cluster>) {
        if let Some(line) = &mut self.line {
            line.upstream_cluster = Some(cluster.name.clone());
        }
        self.cluster = Some(cluster.clone());
    }

    /// Which endpoint answered, after how many tries.
    pub fn answered_by(&mut self, host: &Arc<Host>, tries: u32) {
        if let Some(line) = &mut self.line {
            line.upstream_host = Some(host.address.to_string());
            line.upstream_request_attempt_count = tries;
        }
        self.host = Some(host.clone());
    }

    /// Counts the bytes of its body that are read.
    pub fn receives(&mut self, bytes: Option<Arc<AtomicU64>>) {
        self.received = bytes;
    }

    /// The response's headers, or its trailers: either may hold gRPC's status.
    pub fn told(&mut self, headers: &HeaderMap) {
        if self.grpc
            && let Some(status) = grpc::status(headers)
        {
            self.grpc_status(status);
        }
        if self.admitted.is_some() && (self.grpc || message::is_stream(headers)) {
            self.admitted = None;
        }
    }

    /// It was let in, and counts until it is over. A stream counts until it begins: afterwards it lasts as long as it likes,
    /// and most of the time nothing is done for it. A unary gRPC call is over when its headers come.
    pub fn admitted(&mut self, admitted: Admitted) {
        self.admitted = Some(admitted);
    }

    /// Sets a flag.
    pub fn flag(&mut self, flag: Flag) {
        self.flags.set(flag);
    }

    /// Why it went as it did, in a sentence.
    pub fn details(&mut self, reason: &str) {
        if let Some(line) = &mut self.line {
            line.response_code_details = reason.to_owned().into();
        }
    }

    /// Faults hit it.
    pub fn hit_by(&mut self, overlays: &[String]) {
        let Some(line) = &mut self.line else { return };
        for overlay in overlays {
            if !line.overlays.contains(overlay) {
                line.overlays.push(overlay.clone());
            }
        }
    }

    /// Whether its answer has no body, whatever its headers say.
    pub fn is_head(&self) -> bool {
        self.head
    }

    /// Whether it is a gRPC call.
    pub fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// The gRPC status that it is answered.
    pub fn grpc_status(&mut self, status: u8) {
        self.grpc_status = Some(status.into());
    }

    /// What it is answered.
    pub fn status(&mut self, status: u16) {
        self.status = status;
    }

    /// Since its arrival.
    pub fn began(&self) -> Instant {
        self.start
    }

    fn tell(&mut self) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.admitted = None;
        let took = self.start.elapsed();
        let key = Key {
            cluster: self.cluster.take(),
            endpoint: self.host.as_ref().map_or(0, |host| host.id.number()),
            caller: self.caller.take(),
            listener: Some((self.direction, self.tls)),
            code: self.status,
            flags: self.flags.bits(),
            grpc: self.grpc,
            grpc_status: self.grpc_status,
        };
        let received = self.received.as_ref().map_or(0, |received| received.load(Ordering::Relaxed));
        let sizes = Sizes { took, received, sent: self.sent };
        self.shared.metrics.requests.over(key, sizes, |key| {
            let sides = Sides {
                shared: &self.shared,
                direction: self.direction,
                tls: self.tls,
                caller: key.caller.as_deref().unwrap_or_default(),
                cluster: key.cluster.as_deref(),
                host: self.host.as_deref(),
            };
            (sides.labels(), self.flags.to_string())
        });
        if let Some(mut line) = self.line.take() {
            line.response_code = self.status;
            line.response_flags = self.flags.to_string();
            line.bytes_received = received;
            line.bytes_sent = self.sent;
            line.duration = took.as_secs_f64() * 1e3;
            let line = Arc::from(line);
            if let Some((tracer, hop)) = self.shared.tracer.as_ref().zip(self.hop) {
                tracer.finished(Finished { hop, direction: self.direction, took, line: Arc::clone(&line) });
            }
            if self.shared.tap.is_open(Instant::now()) {
                self.shared.tap.line(Arc::clone(&line));
            }
            if let Some(access) = &self.shared.access {
                access.line(line);
            }
        }
    }
}

/// A header for the log; empty if there is none that is text.
fn text(headers: &HeaderMap, name: HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

impl Watch for Record {
    fn passed(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    fn received(&mut self, bytes: u64) {
        self.received = Some(Arc::new(bytes.into()));
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.told(trailers);
    }

    fn finished(&mut self) {
        self.tell();
    }

    fn broken(&mut self, error: &BodyError) {
        match error {
            BodyError::Timeout => self.flag(Flag::UpstreamRequestTimeout),
            BodyError::Upstream(_) => self.flag(Flag::UpstreamConnectionTermination),
            BodyError::Idle | BodyError::Slow => self.flag(Flag::StreamIdleTimeout),
            BodyError::Caller(_) | BodyError::Superseded => self.flag(Flag::DownstreamConnectionTermination),
        }
        self.tell();
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.over {
            self.flag(Flag::DownstreamConnectionTermination);
            self.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use xds::{
        clock::Clock,
        snapshot::{Endpoint, UpstreamProtocol},
    };

    use super::*;
    use crate::{allocations, state::Setting};

    fn shared(direction: Direction) -> Arc<Shared> {
        let service = if direction == Direction::Gateway { "" } else { "shop" }.to_owned();
        Arc::new(Shared::new(Setting {
            name: "here".into(),
            service,
            clock: Clock::anchored(),
            access: None,
            tracer: None,
        }))
    }

    fn cluster() -> Arc<snapshot::Cluster> {
        let config = snapshot::Cluster::new("fx.east", UpstreamProtocol::Http1);
        Arc::new(snapshot::Cluster { service: "fx".into(), ..config })
    }

    fn host() -> Arc<Host> {
        let endpoint =
            Endpoint { name: "fx-east-0".into(), address: ([127, 0, 0, 1], 9).into(), version: "v2".into(), weight: 1 };
        Arc::new(Host::new(&endpoint, "east".into(), Arc::default()))
    }

    fn caller(id: Option<&str>) -> Caller {
        Caller { address: ([127, 0, 0, 1], 8).into(), id: id.map(Into::into), tls: id.is_some() }
    }

    /// The number in the one line of `istio_requests_total` that has all of these labels.
    fn total(shared: &Shared, labels: &[&str]) -> u64 {
        let mut text = crate::metrics::text::Text::default();
        shared.metrics.requests.render(&mut text);
        let page = text.finish();
        let fits = |line: &&str| line.starts_with("istio_requests_total{") && labels.iter().all(|l| line.contains(l));
        let found: Vec<&str> = page.lines().filter(fits).collect();
        assert_eq!(found.len(), 1, "{labels:?}\n{page}");
        found[0].rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_request_like_an_earlier_one_allocates_nothing() {
        let (shared, cluster, host) = (shared(Direction::Outbound), cluster(), host());
        let (in_flight, caller) = (Arc::new(()), caller(None));
        let (head, ()) = http::Request::get("/v1/rates?x=1").header("host", "fx").body(()).unwrap().into_parts();
        let request = || {
            let mut record =
                Record::new(shared.clone(), in_flight.clone(), "outbound", Direction::Outbound, &caller, None);
            record.asked(&head);
            record.addressed("fx", "0123");
            record.routed(&cluster);
            record.answered_by(&host, 0);
            record.status(200);
            record.passed(1024);
            record.finished();
        };
        request();
        assert_eq!(allocations::during(|| (0..1000).for_each(|_| request())), 0);
        let labels = ["source_workload=\"shop\"", "destination_service=\"fx\"", "destination_region=\"east\""];
        assert_eq!(total(&shared, &labels), 1001);
    }

    #[test]
    fn both_sides_say_who_called_whom() {
        let id = "spiffe://bank/service/shop";
        let cases = [
            (Direction::Outbound, None, "source", "shop", "unknown", "none"),
            (Direction::Gateway, None, "source", "here", "unknown", "none"),
            (Direction::Inbound, Some(id), "destination", "shop", id, "mutual_tls"),
        ];
        for (direction, id, reporter, source, principal, policy) in cases {
            let shared = shared(direction);
            let mut record = Record::new(shared.clone(), Arc::new(()), "l", direction, &caller(id), None);
            record.routed(&cluster());
            record.answered_by(&host(), 1);
            record.status(503);
            record.flag(Flag::UpstreamRetryLimitExceeded);
            record.finished();
            let labels = [
                format!("reporter=\"{reporter}\""),
                format!("source_workload=\"{source}\""),
                format!("source_principal=\"{principal}\""),
                format!("connection_security_policy=\"{policy}\""),
                "destination_version=\"v2\"".into(),
                "response_code=\"503\",grpc_response_status=\"\",response_flags=\"URX\"".into(),
            ];
            assert_eq!(total(&shared, &labels.each_ref().map(String::as_str)), 1, "{direction:?}");
        }
    }

    #[test]
    fn a_dropped_record_is_a_caller_that_went_away() {
        let shared = shared(Direction::Outbound);
        let record = Record::new(shared.clone(), Arc::new(()), "l", Direction::Outbound, &caller(None), None);
        drop(record);
        let mut finished = Record::new(shared.clone(), Arc::new(()), "l", Direction::Outbound, &caller(None), None);
        finished.finished();
        drop(finished);
        assert_eq!(total(&shared, &["response_flags=\"DC\""]), 1);
        assert_eq!(total(&shared, &["response_flags=\"-\""]), 1);
    }
}
