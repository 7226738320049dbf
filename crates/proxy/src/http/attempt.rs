//! One try: a connection, the request, the response's head.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, StatusCode, request::Parts, response, uri::Authority};
use hyper::body::Body;
use xds::snapshot::{Bound, RoutingPriority, UpstreamProtocol};

use crate::{
    fault::{Hit, Instead, Shape},
    grpc,
    http::{
        alarm::Alarm,
        body::{Incoming, Progress, Replay, TryBody},
        fate::Busy,
        flags::Flag,
        h1::wire::Trouble,
        h2::{
            self,
            stream::{End, Stream},
        },
        interim::Interim,
        message,
        pool::Pool,
    },
    link::ConnectError,
    retry::Failure,
    upstream::{
        cluster::Cluster,
        host::{Active, Host},
        slow::SLOW,
        view::View,
    },
};

/// The part of a health check's answer that is read, so that its connection can be used again.
const CHECK_BODY: u64 = 64 * 1024;
/// How long it is read for.
const CHECK_READ: Duration = Duration::from_millis(100);

/// What a fault says to the caller.
pub const FAULT: &str = "fault injected";

/// What a try needs.
#[derive(Debug)]
pub struct Job {
    /// This worker's connections.
    pub pool: Arc<Pool>,
    /// Where it goes.
    pub cluster: Arc<Cluster>,
    /// As it was when the endpoint was chosen.
    pub view: Arc<View>,
    /// The endpoint.
    pub host: Arc<Host>,
    /// Whose connections it uses, and against which limits it counts.
    pub priority: RoutingPriority,
    /// The request.
    pub head: Arc<Parts>,
    /// Whom it is for.
    pub authority: Authority,
    /// What is sent.
    pub body: TryBody,
    /// Faults.
    pub hit: Hit,
    /// Whether a short response's end may lead to its being asked for elsewhere.
    pub repeatable: bool,
    /// Whether it needs a new connection, since a kept one has just failed.
    pub fresh: bool,
    /// Where it is not to be sent twice: what decides which of its tries sends it, and this one's number.
    pub claim: Option<(Arc<Claim>, usize)>,
    /// Where interim answers go.
    pub interim: Option<Arc<Interim>>,
}

/// Which of a request's tries sends it, where only one may: the first one that has a connection.
#[derive(Debug, Default)]
pub struct Claim(AtomicUsize);

impl Claim {
    /// Whether this try may send the request; from then on no other may.
    fn take(&self, index: usize) -> bool {
        let taken = self.0.compare_exchange(0, index + 1, Ordering::AcqRel, Ordering::Acquire);
        taken.map_or_else(|holder| holder == index + 1, |_| true)
    }

    /// Nothing of the request was sent by this try after all.
    pub fn release(&self, index: usize) {
        // An error is another one's claim.
        let _ = self.0.compare_exchange(index + 1, 0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The try that sends the request.
    pub fn holder(&self) -> Option<usize> {
        self.0.load(Ordering::Acquire).checked_sub(1)
    }

    /// Whether some try has begun to send it.
    pub fn is_taken(&self) -> bool {
        self.holder().is_some()
    }
}

/// Response headers came.
#[derive(Debug)]
pub struct Reply {
    /// The head.
    pub head: response::Parts,
    /// The body; `None` where a fault answered.
    pub body: Option<Incoming>,
    /// To be kept until the body is over.
    pub held: Held,
    /// The sidecar beside the workload answered in its place, since there are as many requests as may be.
    pub overloaded: bool,
}

/// No response headers came.
#[derive(Debug)]
pub struct Failed {
    /// For the plan of repeats.
    pub failure: Failure,
    /// For the access log.
    pub flag: Flag,
    /// For people.
    pub cause: String,
}

impl Failed {
    fn new(failure: Failure, cause: impl Into<String>) -> Self {
        let flag = match failure {
            Failure::Connect => Flag::UpstreamConnectionFailure,
            Failure::Refused
            | Failure::Overloaded
            | Failure::Stale
            | Failure::Reset
            | Failure::Status(_)
            | Failure::Grpc(_) => Flag::UpstreamConnectionTermination,
            Failure::Timeout => Flag::UpstreamRequestTimeout,
            Failure::Malformed => Flag::UpstreamProtocolError,
        };
        Self { failure, flag, cause: cause.into() }
    }

    fn malformed(reason: &str) -> Self {
        Self::new(Failure::Malformed, format!("malformed response: {reason}"))
    }

    /// A circuit breaker refused it; the endpoint is not to blame.
    pub fn overflow(&self) -> bool {
        self.flag == Flag::UpstreamOverflow
    }

    /// The endpoint lives, and takes no upgrades.
    fn unfit() -> Self {
        let cause = "the endpoint takes no upgrades over HTTP/2";
        Self { flag: Flag::UpstreamProtocolError, ..Self::new(Failure::Refused, cause) }
    }

    /// See [`Failed::unfit`]: nothing was sent.
    pub fn is_unfit(&self) -> bool {
        self.flag == Flag::UpstreamProtocolError && self.failure == Failure::Refused
    }

    /// Another try sends the request.
    fn outrun() -> Self {
        Self { flag: Flag::DownstreamConnectionTermination, ..Self::new(Failure::Refused, "another try was faster") }
    }

    /// See [`Failed::outrun`]: it says nothing about the request.
    pub fn is_outrun(&self) -> bool {
        self.flag == Flag::DownstreamConnectionTermination && self.failure == Failure::Refused
    }

    /// Nothing came in time.
    pub fn timeout() -> Self {
        Self::new(Failure::Timeout, "no answer in time")
    }
}

/// Counts a try as active at its endpoint and its connection as busy.
#[derive(Debug)]
pub struct Held {
    _busy: Option<Busy>,
    _active: Active,
}

/// An answer of our own in an endpoint's place.
struct Ours {
    status: StatusCode,
    grpc: u8,
}

/// A request that waits for a connection.
struct Waiting<'a> {
    cluster: &'a Cluster,
    priority: RoutingPriority,
}

impl<'a> Waiting<'a> {
    fn new(cluster: &'a Cluster, view: &View, priority: RoutingPriority) -> Result<Self, Failed> {
        let full =
            || Failed { flag: Flag::UpstreamOverflow, ..Failed::new(Failure::Refused, "too many waiting requests") };
        let most = view.config.breakers_of(priority).pending;
        cluster.enter(priority, Bound::Pending, most).then(|| Self { cluster, priority }).ok_or_else(full)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.cluster.counters(self.priority).leave(Bound::Pending);
    }
}

/// Makes the try.
pub async fn run(mut job: Job) -> Result<Reply, Failed> {
    job.host.tries.fetch_add(1, Ordering::Relaxed);
    let active = Active::new(&job.host);
    // A fault that hits a request takes it as an endpoint would; only a connection that is not made leaves it unsent.
    let unsent = job.hit == Hit::default() || job.hit.instead == Some(Instead::NoConnection);
    if !unsent && !may_send(job.claim.as_ref(), &job.body) {
        return Err(Failed::outrun());
    }
    let shape = job.hit.shape;
    if job.hit != Hit::default()
        && let Some(ours) = meet(std::mem::take(&mut job.hit), job.view.config.connect_timeout).await?
    {
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.status = ours.status;
        if grpc::is_call(&job.head.headers) {
            head.status = StatusCode::OK;
            grpc::refuse(ours.grpc, FAULT, &mut head.headers);
        }
        return Ok(Reply { head, body: None, held: Held { _busy: None, _active: active }, overloaded: false });
    }
    if let Some(rate) = shape.rate {
        job.body.slow(rate);
    }
    let Job { pool, cluster, view, host, priority, head, authority, body, hit: _, repeatable, fresh, claim, interim } =
        job;
    let claim = claim.as_ref();
    let over = Over { pool: &pool, cluster: &cluster, view: &view, host: &host, priority, fresh, claim };
    let (mut head, mut body, busy) = exchange(over, (&head, &authority, body), interim.as_deref()).await?;
    // Whoever has no certificate of the mesh may say anything.
    let overloaded = view.config.tls.is_some() && head.headers.contains_key(message::OVERLOADED);
    if shape != Shape::default() {
        body = body.shaped(shape, &mut head.headers);
    } else if repeatable && body.may_break_off() {
        // Boxed, since it is large and seldom needed.
        let begun = Box::pin(body.begun()).await;
        body = begun.map_err(|error| Failed::new(Failure::Reset, error.to_string()))?;
    }
    Ok(Reply { head, body: Some(body), held: Held { _busy: busy, _active: active }, overloaded })
}

/// Makes a try of which nobody wants to know anything.
pub async fn forget(job: Job) {
    if let Ok(Reply { body: Some(body), held, .. }) = run(job).await {
        // Nobody asks how it ends.
        let _ = read_out(body, held).await;
    }
}

/// The same within a time, which does not run while the caller owes a part of the request's body.
pub async fn run_within(job: Job, bound: Option<Duration>, body: Replay) -> Result<Reply, Failed> {
    let Some(bound) = bound else { return run(job).await };
    let began = Instant::now();
    let mut alarm = Alarm::default();
    let mut trying = pin!(run(job));
    poll_fn(|cx| {
        if let Poll::Ready(result) = trying.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        let since = match body.progress() {
            None => began,
            Some(Progress::Complete(at) | Progress::Endpoint(at)) => at.max(began),
            Some(Progress::Caller(..)) => return Poll::Pending,
        };
        let Some(until) = since.checked_add(bound) else { return Poll::Pending };
        alarm.poll(until.into(), cx).map(|()| Err(Failed::timeout()))
    })
    .await
}

/// What faults do at an endpoint: an answer in its place, a failure, or nothing more than delay.
async fn meet(hit: Hit, connect_timeout: Duration) -> Result<Option<Ours>, Failed> {
    if let Some(delay) = hit.delay {
        tokio::time::sleep(delay).await;
    }
    match hit.instead {
        None => Ok(None),
        Some(Instead::Answer { status, grpc }) => Ok(Some(Ours { status, grpc })),
        Some(Instead::Fail(failure, cause)) => Err(Failed::new(failure, cause)),
        Some(Instead::NoConnection) => {
            tokio::time::sleep(connect_timeout).await;
            Err(Failed::new(Failure::Connect, "no connection in time, by a fault"))
        }
        Some(Instead::Hang) => std::future::pending().await,
    }
}

type Exchanged = Result<(response::Parts, Incoming, Option<Busy>), Failed>;

/// What a request is sent over.
#[derive(Clone, Copy)]
struct Over<'a> {
    pool: &'a Arc<Pool>,
    cluster: &'a Arc<Cluster>,
    view: &'a View,
    host: &'a Arc<Host>,
    priority: RoutingPriority,
    /// Never over a connection that waited for it.
    fresh: bool,
    /// See [`Job::claim`].
    claim: Option<&'a (Arc<Claim>, usize)>,
}

async fn exchange(over: Over<'_>, request: (&Parts, &Authority, TryBody), interim: Option<&Interim>) -> Exchanged {
    match over.view.config.protocol {
        UpstreamProtocol::Http2 => over_http2(over, request, interim).await,
        UpstreamProtocol::Http1 | UpstreamProtocol::Tcp => over_http1(over, request, interim).await,
    }
}

fn unconnected(error: ConnectError) -> Failed {
    let failed = Failed::new(Failure::Connect, error.to_string());
    if error == ConnectError::Overflow { Failed { flag: Flag::UpstreamOverflow, ..failed } } else { failed }
}

/// Whether this try sends the request. Only it reads the body from then on.
fn may_send(claim: Option<&(Arc<Claim>, usize)>, body: &TryBody) -> bool {
    claim.is_none_or(|(claim, index)| {
        let may = claim.take(*index);
        if may {
            body.take_over();
        }
        may
    })
}

async fn over_http1(
    Over { pool, cluster, view, host, priority, fresh, claim }: Over<'_>,
    (head, authority, mut body): (&Parts, &Authority, TryBody),
    interim: Option<&Interim>,
) -> Exchanged {
    loop {
        let idle = if fresh { None } else { pool.idle(host, priority) };
        let kept = idle.is_some();
        let mut wire = match idle {
            Some(wire) => wire,
            None => {
                let _waiting = Waiting::new(cluster, view, priority)?;
                // Boxed, since it is large and seldom needed.
                match Box::pin(pool.connect(cluster, view, host, priority)).await {
                    Err(ConnectError::Overflow) => {
                        // One that a slow caller keeps is free in a moment; who is slow shows only after a while.
                        cluster.slow.give_way(priority);
                        let freed = pool.freed(cluster, host, priority);
                        // Over or not, it is tried again.
                        let _ = tokio::time::timeout(SLOW, freed).await;
                        continue;
                    }
                    connected => connected.map_err(unconnected)?,
                }
            }
        };
        if !may_send(claim, &body) {
            pool.give_back(Box::new(wire.kept()));
            return Err(Failed::outrun());
        }
        let again = body.anew();
        wire.begin(head, authority, body);
        match poll_fn(|cx| wire.poll_head(interim, cx)).await {
            Ok(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                return Ok((head, Incoming::Switched(wire), None));
            }
            Ok(head) => return Ok((head, Incoming::endpoint(wire, pool.clone()), None)),
            // A kept connection had ended in this moment.
            Err(Trouble::Unsent) if kept && again.whole() => body = again,
            Err(Trouble::Unsent) => return Err(Failed::new(Failure::Refused, "connection ended before the request")),
            Err(Trouble::Stale(cause)) => return Err(Failed::new(Failure::Stale, cause)),
            Err(Trouble::Broken(cause)) => return Err(Failed::new(Failure::Reset, cause)),
            Err(Trouble::Malformed(cause)) => return Err(Failed::malformed(&cause)),
        }
    }
}

async fn over_http2(
    Over { pool, cluster, view, host, priority, claim, .. }: Over<'_>,
    (head, authority, body): (&Parts, &Authority, TryBody),
    interim: Option<&Interim>,
) -> Exchanged {
    let config = &view.config;
    // A kept connection may have ended in this moment. Nothing was sent over it, and the request goes over a new one.
    let mut refused = None;
    for _ in 0..2 {
        let (mut sender, busy) = {
            let _waiting = Waiting::new(cluster, view, priority)?;
            pool.share(cluster, view, host, priority).await.map_err(unconnected)?
        };
        let mut request = message::for_http2(head, authority, config.tls.is_some());
        let asked = message::ask_over_http2(&mut request);
        let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        message::announce(request.headers_mut(), length.filter(|_| asked.is_none()));
        if !may_send(claim, &body) {
            return Err(Failed::outrun());
        }
        let kept = busy.fate().served();
        let begun = match poll_fn(|cx| sender.poll_ready(cx)).await {
            Ok(()) if asked.is_some() => {
                // Whether it takes them is said with its settings, which a new connection may still wait for.
                if !sender.is_extended_connect_protocol_enabled() {
                    busy.fate().answered().await;
                }
                match sender.is_extended_connect_protocol_enabled() {
                    true => Stream::connect(&mut sender, request, &busy),
                    false if busy.fate().retired() => continue,
                    false => return Err(Failed::unfit()),
                }
            }
            Ok(()) => Stream::begin(&mut sender, request, body.anew(), &busy),
            Err(error) => Err(error),
        };
        match begun {
            Ok(mut stream) => {
                let answered = poll_fn(|cx| stream.poll_head(interim, cx)).await;
                return match (answered, asked) {
                    (Err(trouble), _) => Err(ended(trouble, kept)),
                    (Ok(answer), Some(protocol)) => Ok(taken_up(answer, stream, (protocol, head), busy)),
                    (Ok(answer), None) if stream.done() => Ok((answer, Incoming::Empty, None)),
                    (Ok(answer), None) => Ok((answer, Incoming::Stream(Box::new(stream)), Some(busy))),
                };
            }
            Err(error) => {
                busy.retire();
                refused = Some(error);
            }
        }
    }
    let cause = refused.map_or_else(String::new, |error| format!("connection ended before the request: {error}"));
    Err(Failed::new(Failure::Refused, cause))
}

/// The answer to an upgrade that was asked for over HTTP/2, in the words of HTTP/1.1.
fn taken_up(
    mut answer: response::Parts,
    mut stream: Stream,
    (protocol, asked): (HeaderValue, &Parts),
    busy: Busy,
) -> (response::Parts, Incoming, Option<Busy>) {
    let duplex = if answer.status.is_success() { stream.switched() } else { None };
    let Some(duplex) = duplex else {
        stream.stay();
        let body = if stream.done() { Incoming::Empty } else { Incoming::Stream(Box::new(stream)) };
        return (answer, body, Some(busy));
    };
    answer.status = StatusCode::SWITCHING_PROTOCOLS;
    message::takes_up(protocol, &asked.headers, &mut answer.headers);
    (answer, Incoming::Switched(Box::new(duplex)), Some(busy))
}

fn ended(trouble: h2::stream::Trouble, kept: bool) -> Failed {
    let h2::stream::Trouble { end, cause } = trouble;
    if end == End::Malformed {
        return Failed::malformed(&cause);
    }
    let failure = match end {
        End::Unseen | End::Refused => Failure::Refused,
        End::Connection if kept => Failure::Stale,
        End::Connection | End::Reset | End::Body | End::Malformed => Failure::Reset,
    };
    let failed = Failed::new(failure, cause);
    let reset = matches!(end, End::Reset | End::Refused);
    if reset { Failed { flag: Flag::UpstreamRemoteReset, ..failed } } else { failed }
}

/// A request of our own to an endpoint, without a body and without faults: the head of its answer, whose body did not
/// break off.
///
/// # Errors
/// A sentence, when there is no answer.
pub async fn ask(
    pool: &Arc<Pool>,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    (method, path): (Method, &str),
    agent: &'static str,
) -> Result<response::Parts, String> {
    let view = cluster.view();
    let priority = RoutingPriority::Default;
    let over = Over { pool, cluster, view: &view, host, priority, fresh: false, claim: None };
    let unsendable = || "the path or the service's name cannot be sent".to_owned();
    let head = Request::builder().method(method).uri(path).header(http::header::USER_AGENT, agent).body(());
    let authority = Authority::try_from(view.config.service.as_str()).map_err(|_| unsendable())?;
    let (head, ()) = head.map_err(|_| unsendable())?.into_parts();
    // A kept connection may have ended unnoticed; only a fresh one that fails tells about the endpoint.
    let mut failed = None;
    for _ in 0..2 {
        match exchange(over, (&head, &authority, Replay::empty().reader()), None).await {
            Ok((head, body, busy)) => {
                // A long one proves by its beginning what a short one proves by its end.
                return match tokio::time::timeout(CHECK_READ, read_out(body, busy)).await {
                    Ok(Err(())) => Err("the answer broke off".to_owned()),
                    Ok(Ok(())) | Err(_) => Ok(head),
                };
            }
            Err(error) if error.failure == Failure::Connect => return Err(error.cause),
            Err(error) => failed = Some(error.cause),
        }
    }
    Err(failed.unwrap_or_default())
}

/// Reads a short body to its end, which leaves its connection for others; an error when it breaks off.
async fn read_out<H>(mut body: Incoming, _held: H) -> Result<(), ()> {
    let mut read = 0;
    while read < CHECK_BODY {
        match poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => return Err(()),
            None => break,
        }
    }
    Ok(())
}
