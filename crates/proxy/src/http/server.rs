//! A caller's HTTP connection: its requests are checked, routed, and answered.

use std::{
    borrow::Cow,
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Version,
    header::{EXPECT, RETRY_AFTER, UPGRADE, USER_AGENT},
    request::Parts,
    uri::Authority,
};
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use xds::snapshot::{Direction, HttpListener, Limits, ListenerProtocol, RouteAction};

use crate::{
    admission::{Admission, Class},
    grpc,
    http::{
        alarm::Alarm,
        allowance::Allowance,
        body::{Answer, Incoming, Watch},
        forward::{Refusal, Way, forward},
        guard::Guard,
        h1::{self, outbox::poll_fill},
        h2,
        interim::Interim,
        message,
        pool::Pool,
        record::{Caller, Flag, Record},
        tunnel,
    },
    listener::Listener,
    route::{self, authorization::Decision},
    seldom::Seldom,
    state::Shared,
};

/// RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One caller's connection.
#[derive(Debug)]
pub struct Connection {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// This worker's connections to endpoints.
    pub pool: Arc<Pool>,
    /// Where it came in.
    pub listener: Arc<Listener>,
    /// Who calls.
    pub caller: Caller,
    /// Cloned by each request in flight.
    pub requests: Arc<()>,
}

impl Connection {
    /// Serves until the caller is done, or told to go when `leaving` is ready and finished with what is in flight.
    pub async fn serve<T>(self: Arc<Self>, mut io: T, limits: Limits, mut leaving: Seldom)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut seen = BytesMut::new();
        // Proxies of the mesh keep connections ready for a failover, over which nothing is asked until then.
        if self.caller.id.is_some() && !first_byte(&mut io, &mut seen, limits.idle_timeout, &mut leaving).await {
            return;
        }
        let sniffing = async {
            while seen.len() < PREFACE.len() && PREFACE.starts_with(&seen) {
                if poll_fn(|cx| poll_fill(&mut io, &mut seen, 0, cx)).await? == 0 {
                    break;
                }
            }
            std::io::Result::Ok(())
        };
        match tokio::time::timeout(limits.header_timeout, sniffing).await {
            Ok(Ok(())) if !seen.is_empty() => {}
            Ok(_) => return,
            Err(_) => return self.shared.metrics.refused("slowHead"),
        }
        // Boxed, so that a connection takes no more memory than its own protocol needs.
        if seen.starts_with(PREFACE) {
            Box::pin(h2::serve::serve(self, Guard::new(io, seen.freeze()), &limits, leaving)).await;
        } else {
            Box::pin(h1::serve::serve(self, io, seen, &limits, leaving)).await;
        }
    }

    /// Refuses what is no request, or one that no route may see. `head` is as much of it as was understood.
    pub fn refuse(&self, head: Option<&Parts>, status: StatusCode, reason: &str) -> Response<Answer> {
        let settings = self.listener.settings();
        let config = &settings.config;
        let (shared, in_flight) = (self.shared.clone(), self.requests.clone());
        let mut record = Record::new(shared, in_flight, &config.name, config.direction, &self.caller, None);
        if let Some(head) = head {
            record.asked(head);
        }
        refuse(Refusal::new(status, Flag::DownstreamProtocolError, reason), record, None)
    }

    /// Answers a request. What its endpoint says before the answer is put into `interim`.
    pub async fn request(
        &self,
        mut head: Parts,
        body: Incoming,
        interim: &Arc<Interim>,
        alarm: &mut Alarm,
    ) -> Response<Answer> {
        let settings = self.listener.settings();
        let config = &settings.config;
        let tracer = self.shared.tracer.as_ref();
        let hop = tracer.map(|tracer| tracer.hop(&mut head.headers, config.direction));
        let (shared, in_flight) = (self.shared.clone(), self.requests.clone());
        let mut record = Record::new(shared, in_flight, &config.name, config.direction, &self.caller, hop);
        record.asked(&head);
        let ListenerProtocol::Http(http) = &config.protocol else {
            let refusal = Refusal::new(StatusCode::NOT_FOUND, Flag::NoRouteFound, "not an HTTP listener");
            return refuse(refusal, record, None);
        };
        if message::upgrade(&head).is_some() && !body.is_end_stream() {
            self.shared.metrics.refused("malformed");
            let text = "a request that asks for an upgrade has no body";
            return refuse(Refusal::new(StatusCode::BAD_REQUEST, Flag::DownstreamProtocolError, text), record, None);
        }
        if let Some(reason) = message::misframed(&head.headers, body.size_hint().exact()) {
            self.shared.metrics.refused("malformed");
            return refuse(Refusal::new(StatusCode::BAD_REQUEST, Flag::DownstreamProtocolError, reason), record, None);
        }
        let asks_health = self.asks_health(&head.headers);
        // RFC 9110, 10.1.1: without a body, and in HTTP/1.0, it means nothing.
        let expect = head.headers.remove(EXPECT).filter(|_| head.version != Version::HTTP_10 && !body.is_end_stream());
        let (authority, id) = match self.check(&mut head, http, config.direction) {
            Ok(checked) => checked,
            Err(refusal) => {
                self.shared.metrics.refused("malformed");
                return refuse(refusal, record, None);
            }
        };
        head.headers.extend(expect.map(|expect| (EXPECT, expect)));
        record.addressed(authority.as_str(), id.to_str().unwrap_or_default());
        if let Some(permissions) = &settings.permissions {
            let decision = permissions.decide(self.caller.id.as_deref(), &head);
            record.decided(decision);
            if decision == Decision::Deny {
                self.shared.metrics.refused("denied");
                let text = "the caller may not do this";
                let refusal = Refusal::new(StatusCode::FORBIDDEN, Flag::UnauthorizedExternalService, text);
                return refuse(refusal, record, Some(id));
            }
        }
        let state = self.shared.state.load_full();
        let host = lower(authority.host());
        let entry =
            state.tables.get(&http.routes).and_then(|table| table.find(&host, self.caller.id.as_deref(), &head).ok());
        let Some(entry) = entry else {
            if head.method == Method::CONNECT {
                self.shared.metrics.refused("malformed");
                let refusal =
                    Refusal::new(StatusCode::NOT_IMPLEMENTED, Flag::DownstreamProtocolError, "no tunnels here");
                return refuse(refusal, record, Some(id));
            }
            return refuse(Refusal::new(StatusCode::NOT_FOUND, Flag::NoRouteFound, "no route"), record, Some(id));
        };
        match &entry.route().action {
            RouteAction::Answer { status, body } => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                answer(status, body.clone(), record, Some(id))
            }
            RouteAction::Redirect(redirect) => {
                let change = entry.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
                let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
                let location = route::location(redirect, change, &head, &authority, self.caller.tls);
                let mut response = answer(status, String::new(), record, Some(id));
                if let Some(location) = location {
                    response.headers_mut().insert(http::header::LOCATION, location);
                }
                response
            }
            RouteAction::Tunnel(policy) => {
                if let Err(class) = enter(settings.admission.as_ref(), &head, &authority, &mut record) {
                    return self.shed(class, record, id);
                }
                match tunnel::open(&state, policy, record).await {
                    Ok(response) => response,
                    Err((refusal, record)) => refuse(refusal, record, Some(id)),
                }
            }
            RouteAction::Forward(policy) => {
                let caller_side = config.direction != Direction::Inbound;
                let caller = match config.direction {
                    // Whoever comes from this side is our own workload.
                    Direction::Outbound if !state.faults.is_empty() => self.shared.identity.id(),
                    _ => self.caller.id.clone(),
                };
                let address = self.caller.address.ip();
                let allowance = match config.direction {
                    // The proxy on the caller's side minds its caller.
                    Direction::Inbound => Allowance::new(Duration::ZERO, 0),
                    Direction::Outbound => Allowance::new(http.limits.body_timeout, 0),
                    Direction::Gateway => Allowance::new(http.limits.body_timeout, http.limits.minimum_rate),
                };
                let way = Way {
                    shared: &self.shared,
                    state: &state,
                    pool: &self.pool,
                    address,
                    caller,
                    interim,
                    caller_side,
                    allowance,
                    shared_out: config.direction == Direction::Gateway,
                };
                let admission = settings.admission.as_ref().filter(|_| !asks_health);
                if let Err(class) = enter(admission, &head, &authority, &mut record) {
                    return self.shed(class, record, id);
                }
                let began = record.began();
                match forward(&way, entry, policy, (head, authority, body), alarm, record).await {
                    Ok(response) => {
                        // Failures may be quicker than work, and slower.
                        if let Some(admission) = admission.filter(|_| !response.status().is_server_error()) {
                            admission.answered(began, Instant::now());
                        }
                        response
                    }
                    Err((refusal, record)) => refuse(refusal, record, Some(id)),
                }
            }
        }
    }

    /// Whether a proxy asks for itself, whether the workload lives: what it forwards bears its mark.
    fn asks_health(&self, headers: &HeaderMap) -> bool {
        self.caller.id.is_some()
            && !headers.contains_key(message::REQUEST_ID)
            && headers.get(USER_AGENT).is_some_and(|agent| agent == message::CHECK_AGENT)
    }

    /// Refuses what is more than the workload should get, in words that only a sidecar may use.
    fn shed(&self, class: Class, record: Record, id: HeaderValue) -> Response<Answer> {
        self.shared.metrics.shed(class.name());
        let text = "the workload has as many requests as it can answer";
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamOverflow, text);
        let mut response = refuse(refusal, record, Some(id));
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        headers.insert(message::OVERLOADED, HeaderValue::from_static("true"));
        response
    }

    /// Checks a request's form, and makes its headers what the endpoint may see: of those of one hop
    /// only an upgrade is left. Returns whom it
    /// is for, and its id.
    fn check(
        &self,
        head: &mut Parts,
        http: &HttpListener,
        direction: Direction,
    ) -> Result<(Authority, HeaderValue), Refusal> {
        let refuse = |status, text: &str| Refusal::new(status, Flag::DownstreamProtocolError, text);
        let malformed = |text| refuse(StatusCode::BAD_REQUEST, text);
        if head.headers.len() > usize::try_from(http.limits.headers).unwrap_or(usize::MAX) {
            return Err(refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers"));
        }
        let authority = message::authority(head).map_err(malformed)?;
        let tunnel = || tunnel::refuse(head, &authority).filter(|_| head.method == Method::CONNECT);
        if let Some(reason) = message::refuse(head).or_else(tunnel) {
            return Err(malformed(reason));
        }
        let upgrade = message::upgrade(head);
        message::strip_hop_by_hop(&mut head.headers);
        if let Some(protocol) = upgrade {
            head.headers.insert(http::header::UPGRADE, protocol);
        }
        if head.version == Version::HTTP_2 {
            message::join_cookies(&mut head.headers);
        }
        let Caller { address, id, tls } = &self.caller;
        let mut random = fastrand::Rng::new();
        let request_id = message::mark(&mut head.headers, direction, *address, *tls, id.as_deref(), &mut random);
        Ok((authority, request_id))
    }
}

/// Waits for the first byte; false when the caller went, when nothing came in this time, or when it is time to leave.
async fn first_byte<T>(io: &mut T, seen: &mut BytesMut, patience: Duration, leaving: &mut Seldom) -> bool
where
    T: AsyncRead + Unpin,
{
    let first = poll_fn(|cx| match poll_fill(io, seen, 0, cx) {
        Poll::Ready(read) => Poll::Ready(read.is_ok_and(|count| count > 0)),
        Poll::Pending => leaving.poll(cx).map(|()| false),
    });
    tokio::time::timeout(patience, first).await.unwrap_or(false)
}

/// Lets a request in where there is a limit.
///
/// # Errors
/// Its class, when there are as many as may be.
fn enter(
    admission: Option<&Arc<Admission>>,
    head: &Parts,
    authority: &Authority,
    record: &mut Record,
) -> Result<(), Class> {
    let Some(admission) = admission else { return Ok(()) };
    let class = Class::of(head, authority);
    let admitted = admission.admit(class).ok_or(class)?;
    // An upgrade or a tunnel lasts as long as it likes, which is no sign of load.
    if head.method != Method::CONNECT && !head.headers.contains_key(UPGRADE) {
        record.admitted(admitted);
    }
    Ok(())
}

/// A host as routes know it: in lower case (RFC 9110, 4.2.3), and without the dot that makes a name absolute.
fn lower(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').filter(|host| !host.is_empty()).unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() }
}

fn refuse(refusal: Refusal, mut record: Record, id: Option<HeaderValue>) -> Response<Answer> {
    record.flag(refusal.flag);
    if matches!(refusal.flag, Flag::DownstreamProtocolError | Flag::UpstreamProtocolError) {
        record.details(&refusal.text);
    }
    if record.is_grpc() {
        let status = refusal.grpc.unwrap_or_else(|| grpc::of_http(refusal.status));
        return answer_grpc(status, &refusal.text, record, id);
    }
    answer(refusal.status, refusal.text, record, id)
}

/// An answer of our own. It carries the request id, by which its reason is found in the access log.
fn answer(status: StatusCode, text: String, mut record: Record, id: Option<HeaderValue>) -> Response<Answer> {
    if record.is_grpc() {
        return answer_grpc(grpc::of_http(status), &text, record, id);
    }
    record.status(status.as_u16());
    if record.is_head() {
        // Nobody will read the text to its end.
        record.finished();
    }
    let mut response = Response::new(Answer::text(text).watched(Box::new(record)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if let Some(id) = id {
        headers.insert(message::REQUEST_ID, id);
    }
    response
}

fn answer_grpc(status: u8, text: &str, mut record: Record, id: Option<HeaderValue>) -> Response<Answer> {
    record.status(StatusCode::OK.as_u16());
    record.grpc_status(status);
    let mut response = Response::new(Answer::text("").watched(Box::new(record)));
    grpc::refuse(status, text, response.headers_mut());
    if let Some(id) = id {
        response.headers_mut().insert(message::REQUEST_ID, id);
    }
    response
}
