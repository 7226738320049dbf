//! A request along its route: what must hold before its first try, then a race of tries in which the first answer wins.

mod answer;
mod clocks;
mod race;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::stream::FuturesUnordered;
use http::{
    Response, StatusCode,
    header::{SET_COOKIE, UPGRADE},
    request::Parts,
    uri::Authority,
};
use xds::snapshot::{self, Bound, RoutingPriority, STREAM_IDLE};

use self::{
    clocks::Bounds,
    race::{Due, Race},
};
use crate::{
    fault::{Asked, Faults, Hit},
    grpc,
    http::{
        alarm::Alarm,
        allowance::Allowance,
        body::{Answer, Incoming, Replay},
        interim::Interim,
        message,
        pool::Pool,
        record::{Flag, Record},
    },
    retry::Plan,
    route::{self, Entry, Rewrite},
    state::{Shared, State},
    upstream::{cluster::Cluster, slow::Place, view::View},
};

/// What forwarding needs beside the request.
#[derive(Debug)]
pub struct Way<'a> {
    /// What all threads share.
    pub shared: &'a Arc<Shared>,
    /// What was in force when the request came.
    pub state: &'a State,
    /// This worker's connections.
    pub pool: &'a Arc<Pool>,
    /// Where the caller connects from.
    pub address: IpAddr,
    /// Who calls: our workload, or a gateway's client, if it has an identity.
    pub caller: Option<Arc<str>>,
    /// Where interim answers to the caller go.
    pub interim: &'a Arc<Interim>,
    /// Whether faults apply and the answering endpoint is told: at the side that chooses for the client.
    pub caller_side: bool,
    /// How long the caller is waited for.
    pub allowance: Allowance,
    /// Whether callers are many, and none of them may have more than its share of requests that wait for it.
    pub shared_out: bool,
}

/// An answer of our own instead of an endpoint's.
#[derive(Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// Status for a gRPC client, where it is not that of the HTTP status.
    pub grpc: Option<u8>,
    /// For the access log.
    pub flag: Flag,
    /// For the caller.
    pub text: String,
}

impl Refusal {
    /// Of this flag.
    pub fn new(status: StatusCode, flag: Flag, text: impl Into<String>) -> Self {
        Self { status, grpc: None, flag, text: text.into() }
    }
}

/// Forwards a request along a route. The alarm is lent: a connection has one for all its requests.
///
/// # Errors
/// When no endpoint's answer can be given.
pub async fn forward(
    way: &Way<'_>,
    entry: &Arc<Entry>,
    policy: &snapshot::Forward,
    request: (Parts, Authority, Incoming),
    alarm: &mut Alarm,
    mut record: Record,
) -> Result<Response<Answer>, (Refusal, Record)> {
    let (mut head, mut authority, body) = request;
    let mut random = fastrand::Rng::new();
    let choice = route::choose(policy, &head, &mut random);
    let cluster = choice.as_ref().and_then(|choice| way.state.clusters.get(choice.cluster)).cloned();
    let (Some(choice), Some(cluster)) = (choice, cluster) else {
        return Err((
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Flag::NoHealthyUpstream, "no such cluster"),
            record,
        ));
    };
    let view = cluster.view();
    record.routed(&view.config);
    let Some(counted) = InFlight::new(&cluster, &view, policy.priority) else {
        let text = "too many requests in flight";
        return Err((Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamOverflow, text), record));
    };
    let upgrade = head.headers.get(UPGRADE);
    if let Some(protocol) = upgrade
        && !policy.upgrades.iter().any(|allowed| protocol.as_bytes().eq_ignore_ascii_case(allowed.as_bytes()))
    {
        let text = "the route allows no such upgrade";
        return Err((Refusal::new(StatusCode::FORBIDDEN, Flag::UnauthorizedExternalService, text), record));
    }
    let plan = match upgrade {
        Some(_) => Plan::of_upgrade(policy.retry.as_ref()),
        None => Plan::new(policy.retry.as_ref(), &head.method),
    };
    let mut faults = Faults::default();
    if way.caller_side && !way.state.faults.is_empty() {
        let service = &view.config.service;
        faults = way.state.faults.of(&Asked { service, caller: way.caller.as_deref(), head: &head });
    }
    if let Some(rewrite) = &entry.rewrite
        && let Err(refusal) = rewritten(rewrite, &mut head, &mut authority)
    {
        return Err((refusal, record));
    }
    let bounds = bounds(policy, &head, &record);
    // Messages of a gRPC call may be hours apart, whoever sends them.
    let allowance = if record.is_grpc() { Allowance::new(Duration::ZERO, 0) } else { way.allowance };
    let body = Replay::new(body, allowance);
    record.receives(body.received());
    let mut race = Race {
        way,
        policy,
        random,
        head: Arc::new(head),
        authority,
        body,
        cluster,
        view,
        faults,
        hit: Hit::default(),
        made: Vec::new(),
        running: FuturesUnordered::new(),
        last: None,
        plan,
        patience: policy.hedge.as_ref().map(|hedge| entry.latency.hedge_after(hedge)),
        hedged: false,
        bounds,
        began: record.began(),
        complete: false,
        place: None,
        raced: false,
        claim: Arc::default(),
        due: Due::default(),
    };
    // A copy needs the whole body: it goes now, or when the request is answered.
    let copied = race.body.complete();
    if copied {
        race.mirror();
    }
    let outcome = race.run(alarm, &mut record).await;
    if !copied {
        race.mirror();
    }
    match outcome {
        Ok(won) => {
            let mut response = race.answer(won, entry, counted, record);
            if let Some(cookie) = choice.cookie {
                response.headers_mut().append(SET_COOKIE, cookie);
            }
            Ok(response)
        }
        Err(refusal) => Err((refusal, record)),
    }
}

fn bounds(policy: &snapshot::Forward, head: &Parts, record: &Record) -> Bounds {
    let bound = |time: Duration| Some(time).filter(|time| !time.is_zero());
    let called = Some(&head.headers).filter(|_| record.is_grpc()).and_then(grpc::timeout);
    Bounds {
        timeout: bound(policy.timeout),
        per_try: policy.retry.as_ref().and_then(|retry| retry.per_try),
        idle: bound(policy.idle_timeout.unwrap_or(STREAM_IDLE)),
        call: called.and_then(|called| record.began().checked_add(called)),
    }
}

/// What the endpoint sees instead of what the caller wrote.
fn rewritten(rewrite: &Rewrite, head: &mut Parts, authority: &mut Authority) -> Result<(), Refusal> {
    rewrite
        .request(head, authority)
        .map_err(|reason| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, Flag::NoRouteFound, reason))?;
    match message::refuse(head) {
        None => Ok(()),
        Some(reason) => Err(Refusal::new(StatusCode::BAD_REQUEST, Flag::DownstreamProtocolError, reason)),
    }
}

impl Way<'_> {
    /// A request's place among those that wait for their callers.
    fn place(&self, cluster: &Cluster, view: &View, priority: RoutingPriority, since: Instant) -> Place {
        let most = view.config.breakers_of(priority).requests;
        cluster.slow.enter(since, (self.address, share(most, self.shared_out)), priority)
    }
}

/// How many requests of one client may wait for it: half of what the limit allows, where clients are many.
fn share(most: u32, shared_out: bool) -> usize {
    if shared_out { usize::try_from(most.div_ceil(2)).unwrap_or(usize::MAX) } else { usize::MAX }
}

/// A request that counts against its cluster's breaker.
pub struct InFlight {
    cluster: Arc<Cluster>,
    priority: RoutingPriority,
}

impl InFlight {
    /// `None` when there are as many as may be.
    pub fn new(cluster: &Arc<Cluster>, view: &View, priority: RoutingPriority) -> Option<Self> {
        let most = view.config.breakers_of(priority).requests;
        cluster.enter_request(priority, most).then(|| Self { cluster: cluster.clone(), priority })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.cluster.counters(self.priority).leave(Bound::Requests);
    }
}
