//! What is known of one request, told to metrics and access log when it is over.

use std::{fmt::Write, net::SocketAddr, sync::Arc, time::Instant};

use xds::snapshot::Direction;

use crate::{
    access::Line,
    http::body::{BodyError, Watch},
    metrics::RequestLabels,
    state::Shared,
};

/// Envoy's response flags that occur here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// No healthy endpoint.
    NoHealthyUpstream,
    /// Connecting failed.
    UpstreamConnectionFailure,
    /// The connection ended early.
    UpstreamConnectionTermination,
    /// The request's or the try's time ran out.
    UpstreamRequestTimeout,
    /// Repeats are used up.
    UpstreamRetryLimitExceeded,
    /// A circuit breaker is open, or the retry budget is spent.
    UpstreamOverflow,
    /// No route.
    NoRouteFound,
    /// The caller went away.
    DownstreamConnectionTermination,
    /// A fault answered.
    FaultInjected,
    /// A fault delayed.
    DelayInjected,
    /// The caller's request was malformed.
    DownstreamProtocolError,
    /// The caller may not.
    UnauthorizedExternalService,
}

impl Flag {
    fn short(self) -> &'static str {
        match self {
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamRequestTimeout => "UT",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::UpstreamOverflow => "UO",
            Self::NoRouteFound => "NR",
            Self::DownstreamConnectionTermination => "DC",
            Self::FaultInjected => "FI",
            Self::DelayInjected => "DI",
            Self::DownstreamProtocolError => "DPE",
            Self::UnauthorizedExternalService => "UAEX",
        }
    }
}

/// Who calls over a connection.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its address.
    pub address: SocketAddr,
    /// Its SPIFFE id, proven by its certificate.
    pub id: Option<String>,
    /// Whether the connection is TLS.
    pub tls: bool,
}

/// One request. Dropped before it is over, it tells that the caller went away.
#[derive(Debug)]
pub struct Record {
    shared: Arc<Shared>,
    start: Instant,
    line: Line,
    flags: Vec<Flag>,
    direction: Direction,
    tls: bool,
    service: String,
    region: String,
    over: bool,
    _in_flight: Arc<()>,
}

impl Record {
    /// At its arrival. `in_flight` is kept until it is over.
    pub fn new(shared: Arc<Shared>, in_flight: Arc<()>, listener: &str, direction: Direction, caller: &Caller) -> Self {
        let start = Instant::now();
        let line = Line {
            start_time: shared.clock.at(start).0,
            listener: listener.to_owned(),
            downstream_remote_address: caller.address.to_string(),
            downstream_peer_uri_san: caller.id.clone(),
            ..Line::default()
        };
        Self {
            shared,
            start,
            line,
            flags: Vec::new(),
            direction,
            tls: caller.tls,
            service: String::new(),
            region: String::new(),
            over: false,
            _in_flight: in_flight,
        }
    }

    /// What is asked for.
    pub fn asked(&mut self, request: &http::request::Parts) {
        self.line.method = request.method.to_string();
        self.line.path = request.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        self.line.protocol = format!("{:?}", request.version);
    }

    /// Of whom, and under which id.
    pub fn addressed(&mut self, authority: &str, request_id: &str) {
        authority.clone_into(&mut self.line.authority);
        request_id.clone_into(&mut self.line.request_id);
    }

    /// Which cluster it goes to.
    pub fn routed(&mut self, cluster: &str, service: &str) {
        self.line.upstream_cluster = Some(cluster.to_owned());
        service.clone_into(&mut self.service);
    }

    /// Which endpoint answered, after how many tries.
    pub fn answered_by(&mut self, address: SocketAddr, region: &str, tries: u32) {
        self.line.upstream_host = Some(address.to_string());
        region.clone_into(&mut self.region);
        self.line.upstream_request_attempt_count = tries;
    }

    /// Sets a flag.
    pub fn flag(&mut self, flag: Flag) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }

    /// Faults hit it.
    pub fn hit_by(&mut self, overlays: &[String]) {
        for overlay in overlays {
            if !self.line.overlays.contains(overlay) {
                self.line.overlays.push(overlay.clone());
            }
        }
    }

    /// Whether its answer has no body, whatever its headers say.
    pub fn is_head(&self) -> bool {
        self.line.method == "HEAD"
    }

    /// What it is answered.
    pub fn status(&mut self, status: u16) {
        self.line.response_code = status;
    }

    /// Since its arrival.
    pub fn began(&self) -> Instant {
        self.start
    }

    fn tell(&mut self) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let took = self.start.elapsed();
        let mut flags = self.flags.iter().fold(String::new(), |mut text, flag| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{}", if text.is_empty() { "" } else { "," }, flag.short());
            text
        });
        if flags.is_empty() {
            flags.push('-');
        }
        let inbound = self.direction == Direction::Inbound;
        let caller = self.line.downstream_peer_uri_san.as_deref();
        let source = match self.direction {
            Direction::Inbound => caller.and_then(|id| id.rsplit('/').next()).unwrap_or("unknown").to_owned(),
            Direction::Outbound => self.shared.service.clone(),
            Direction::Gateway => "unknown".to_owned(),
        };
        let labels = RequestLabels {
            reporter: if inbound { "destination" } else { "source" },
            source_workload: source,
            destination_service: self.service.clone(),
            destination_region: self.region.clone(),
            request_protocol: "http",
            response_code: self.line.response_code,
            response_flags: flags.clone(),
            connection_security_policy: if self.tls { "mutual_tls" } else { "none" },
        };
        self.shared.metrics.request(labels, took);
        if let Some(access) = &self.shared.access {
            let mut line = std::mem::take(&mut self.line);
            line.response_flags = flags;
            line.duration = took.as_secs_f64() * 1e3;
            access.line(line);
        }
    }
}

impl Watch for Record {
    fn passed(&mut self, bytes: usize) {
        self.line.bytes_sent += bytes as u64;
    }

    fn finished(&mut self) {
        self.tell();
    }

    fn broken(&mut self, error: &BodyError) {
        match error {
            BodyError::Timeout => self.flag(Flag::UpstreamRequestTimeout),
            BodyError::Upstream(_) => self.flag(Flag::UpstreamConnectionTermination),
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
