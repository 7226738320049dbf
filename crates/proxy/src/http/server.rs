//! A caller's HTTP connection: its requests are checked, routed, and answered.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, request::Parts};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use xds::snapshot::{Direction, HttpListener, Limits, ListenerProtocol, RouteAction};

use crate::{
    http::{
        body::{Answer, Watch},
        forward::{Refusal, Way, forward},
        guard::{Guard, Patience},
        message,
        pool::Pool,
        record::{Caller, Flag, Record},
    },
    listener::Listener,
    route,
    state::Shared,
};

/// Response bodies of HTTP/2 streams buffered for a slow caller, in bytes.
const SEND_BUFFER: usize = 256 * 1024;

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
    /// Requests ever.
    pub count: AtomicU64,
}

impl Connection {
    /// Serves until the caller is done, or told to go by `closing` and finished with what is in flight.
    pub async fn serve<T>(self: Arc<Self>, io: T, limits: Limits, closing: watch::Receiver<bool>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let patience = Patience { head: limits.header_timeout, idle: limits.idle_timeout };
        let (io, h2) = match Guard::sniff(io, patience, self.requests.clone()).await {
            Ok(sniffed) => sniffed,
            Err(error) => {
                if error.kind() == std::io::ErrorKind::TimedOut {
                    self.shared.metrics.refused("slowHead");
                }
                return;
            }
        };
        let io = TokioIo::new(io);
        let connection = self.clone();
        let service = service_fn(move |request| {
            let connection = connection.clone();
            async move { Ok::<_, Infallible>(connection.request(request).await) }
        });
        let result = if h2 {
            let serving = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(limits.concurrent_streams)
                .max_header_list_size(limits.header_bytes)
                .max_send_buf_size(SEND_BUFFER)
                .initial_stream_window_size(256 * 1024)
                .initial_connection_window_size(1024 * 1024)
                .keep_alive_interval(Duration::from_secs(30))
                .serve_connection(io, service);
            self.until_done(serving, http2::Connection::graceful_shutdown, limits.idle_timeout, closing).await
        } else {
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(None)
                .max_headers(usize::try_from(limits.headers).unwrap_or(usize::MAX))
                .max_buf_size(usize::try_from(limits.header_bytes).unwrap_or(usize::MAX).max(8192))
                .serve_connection(io, service);
            // Idleness on HTTP/1.1 is the guard's.
            self.until_done(serving, http1::Connection::graceful_shutdown, Duration::MAX, closing).await
        };
        if let Err(error) = result {
            self.refused(&error);
        }
    }

    async fn until_done<C>(
        &self,
        serving: C,
        finish: fn(Pin<&mut C>),
        idle: Duration,
        mut closing: watch::Receiver<bool>,
    ) -> hyper::Result<()>
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let mut serving = pin!(serving);
        let mut draining = self.shared.draining.subscribe();
        let mut told = false;
        let mut seen = 0;
        loop {
            tokio::select! {
                // First what was read already: hyper closes a connection that is told to finish before it saw anything.
                biased;
                result = &mut serving => return result,
                // An ended sender is a listener that is gone.
                _ = closing.wait_for(|closing| *closing), if !told => {}
                _ = draining.wait_for(|draining| *draining), if !told => {}
                () = tokio::time::sleep(idle), if !told => {
                    let count = self.count.load(Ordering::Relaxed);
                    // Two belong to the connection and to its guard.
                    if Arc::strong_count(&self.requests) > 2 || count != seen {
                        seen = count;
                        continue;
                    }
                }
            }
            told = true;
            finish(serving.as_mut());
        }
    }

    fn refused(&self, error: &hyper::Error) {
        let kind = if error.is_parse_too_large() {
            "tooLarge"
        } else if error.is_parse() {
            "malformed"
        } else if error.is_timeout() {
            "slowHead"
        } else {
            return;
        };
        self.shared.metrics.refused(kind);
        tracing::debug!(caller = %self.caller.address, %error, "refused");
    }

    async fn request(&self, request: Request<Incoming>) -> Response<Answer> {
        self.count.fetch_add(1, Ordering::Relaxed);
        let settings = self.listener.settings();
        let config = &settings.config;
        let mut record =
            Record::new(self.shared.clone(), self.requests.clone(), &config.name, config.direction, &self.caller);
        let (mut head, body) = request.into_parts();
        record.asked(&head);
        let ListenerProtocol::Http(http) = &config.protocol else {
            let refusal = Refusal::new(StatusCode::NOT_FOUND, Flag::NoRouteFound, "not an HTTP listener");
            return refuse(refusal, record, "");
        };
        let (authority, id) = match self.check(&mut head, http, config.direction) {
            Ok(checked) => checked,
            Err((refusal, id)) => {
                self.shared.metrics.refused(if refusal.status == StatusCode::FORBIDDEN {
                    "denied"
                } else {
                    "malformed"
                });
                return refuse(refusal, record, &id);
            }
        };
        record.addressed(authority.as_str(), &id);
        let state = self.shared.state.load_full();
        let host = authority.host().to_ascii_lowercase();
        let entry = state.tables.get(&http.routes).and_then(|table| table.find(&host, &head).ok());
        let Some(entry) = entry else {
            return refuse(Refusal::new(StatusCode::NOT_FOUND, Flag::NoRouteFound, "no route"), record, &id);
        };
        match &entry.route.action {
            RouteAction::Answer { status, body } => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                answer(status, body.clone(), record, &id)
            }
            RouteAction::Forward(policy) => {
                let caller_side = config.direction != Direction::Inbound;
                let way = Way { shared: &self.shared, state: &state, pool: &self.pool, caller_side };
                match forward(&way, entry, policy, (head, authority, body), record).await {
                    Ok(response) => response,
                    Err((refusal, record)) => refuse(refusal, record, &id),
                }
            }
        }
    }

    /// Checks a request's form and its caller's rights, and makes its headers what the endpoint may see.
    fn check(
        &self,
        head: &mut Parts,
        http: &HttpListener,
        direction: Direction,
    ) -> Result<(http::uri::Authority, String), (Refusal, String)> {
        let malformed = |text: &str| {
            let refusal = Refusal::new(StatusCode::BAD_REQUEST, Flag::DownstreamProtocolError, text);
            (refusal, String::new())
        };
        if head.method == Method::CONNECT {
            let refusal = Refusal::new(StatusCode::NOT_IMPLEMENTED, Flag::DownstreamProtocolError, "no tunnels here");
            return Err((refusal, String::new()));
        }
        if head.headers.len() > usize::try_from(http.limits.headers).unwrap_or(usize::MAX) {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Err((Refusal::new(status, Flag::DownstreamProtocolError, "too many headers"), String::new()));
        }
        let authority = message::authority(head).map_err(malformed)?;
        if let Some(reason) = message::refuse(head) {
            return Err(malformed(reason));
        }
        message::strip_hop_by_hop(&mut head.headers);
        let Caller { address, id, tls } = &self.caller;
        let mut random = fastrand::Rng::new();
        let request_id = message::mark(&mut head.headers, direction, *address, *tls, id.as_deref(), &mut random);
        if let Some(policy) = &http.authorization
            && !route::allowed(policy, id.as_deref(), head)
        {
            let text = "the caller may not do this";
            let refusal = Refusal::new(StatusCode::FORBIDDEN, Flag::UnauthorizedExternalService, text);
            return Err((refusal, request_id));
        }
        Ok((authority, request_id))
    }
}

fn refuse(refusal: Refusal, mut record: Record, id: &str) -> Response<Answer> {
    refusal.flags.iter().for_each(|flag| record.flag(*flag));
    answer(refusal.status, refusal.text, record, id)
}

/// An answer of our own. It carries the request id, by which its reason is found in the access log.
fn answer(status: StatusCode, text: String, mut record: Record, id: &str) -> Response<Answer> {
    record.status(status.as_u16());
    if record.is_head() {
        // Nobody will read the text to its end.
        record.finished();
    }
    let mut response = Response::new(Answer::text(text).watched(Box::new(record)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if let Ok(id) = HeaderValue::try_from(id)
        && !id.is_empty()
    {
        headers.insert(message::REQUEST_ID, id);
    }
    response
}
