//! The tries of one request: whom they go to, what is done by time, and what follows from the end of each.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::{
    HeaderValue, Method, StatusCode,
    header::{EXPECT, UPGRADE},
    request::Parts,
    uri::Authority,
};
use xds::snapshot;

use super::{
    Refusal, Way,
    clocks::{Bounds, Reason},
};
use crate::{
    admission::ATTEMPT,
    fault::{self, Faults, Hit, Instead, Shape},
    grpc,
    http::{
        alarm::Alarm,
        attempt::{self, Claim, Failed, Job, Reply},
        body::{Incoming, Progress, Replay},
        mirror,
        record::{Flag, Record},
    },
    retry::{Failure, Plan, Repeat},
    upstream::{
        affinity,
        cluster::Cluster,
        host::{Host, HostId},
        slow::{Place, SLOW},
        view::{Aim, Chosen, View},
    },
};

/// A try that was started.
pub(super) struct Made {
    pub(super) chosen: Chosen,
    pub(super) sent: Instant,
    pub(super) over: bool,
}

/// The answer that the caller gets, of the try with this number.
pub(super) struct Won {
    pub(super) index: usize,
    pub(super) reply: Reply,
}

/// A request on its way, with all its tries.
pub(super) struct Race<'a> {
    pub(super) way: &'a Way<'a>,
    pub(super) policy: &'a snapshot::Forward,
    pub(super) plan: Plan<'a>,
    pub(super) random: fastrand::Rng,
    pub(super) head: Arc<Parts>,
    pub(super) authority: Authority,
    pub(super) body: Replay,
    pub(super) cluster: Arc<Cluster>,
    pub(super) view: Arc<View>,
    /// Those that may take the request.
    pub(super) faults: Faults,
    pub(super) hit: Hit,
    pub(super) made: Vec<Made>,
    /// Tries after the first.
    pub(super) running: FuturesUnordered<BoxFuture<'static, Tried>>,
    /// What came of the try that failed last.
    pub(super) last: Option<Lost>,
    /// How long a try is waited for before one is made beside it, or, where it may not be sent twice, before its silence
    /// is told; `None` is for ever.
    pub(super) patience: Option<Duration>,
    /// One beside the others is enough.
    pub(super) hedged: bool,
    pub(super) bounds: Bounds,
    pub(super) began: Instant,
    /// The whole request is here: whoever is waited for now is an endpoint.
    pub(super) complete: bool,
    /// While its caller is slow.
    pub(super) place: Option<Place>,
    /// A second connection was raced against the first, or could not be.
    pub(super) raced: bool,
    /// Which of the tries may send a request that is not to be sent twice.
    pub(super) claim: Arc<Claim>,
    pub(super) due: Due,
}

/// What is done by time, unless something happens before.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// The request is given up.
    over: Option<(Instant, Reason)>,
    /// The first try is given up. Later ones mind their time themselves.
    first: Option<Instant>,
    hedge: Option<Instant>,
    /// The caller counts as slow.
    slow: Option<Instant>,
    repeat: Option<(Instant, Repeat)>,
}

impl Due {
    fn next(&self) -> Option<Instant> {
        let (over, repeat) = (self.over.map(|(at, _)| at), self.repeat.map(|(at, _)| at));
        [over, self.first, self.hedge, self.slow, repeat].into_iter().flatten().min()
    }
}

pub(super) type Tried = (usize, Result<Reply, Failed>);

enum Event {
    Ended(Tried),
    Due,
}

/// What follows from something that was due.
enum Step {
    Wait,
    Ended(Tried),
    GiveUp,
}

/// How a try ended that did not win.
pub(super) enum Lost {
    /// A status that is repeated: given to the caller when nothing better comes.
    Answered(Box<Won>),
    Failed(Failed),
}

impl Race<'_> {
    pub(super) async fn run(&mut self, alarm: &mut Alarm, record: &mut Record) -> Result<Won, Refusal> {
        self.follow_body();
        self.meet_faults(record).await?;
        self.cluster.deposit(&self.view, self.policy.priority);
        let Some(job) = self.prepare(Aim::Load, record) else {
            let text = "no healthy endpoint";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Flag::NoHealthyUpstream, text));
        };
        if self.complete {
            let sent = self.made[0].sent;
            self.due.first = self.bounds.try_over(Progress::Complete(sent), sent);
            self.due.hedge = self.patience.and_then(|wait| sent.checked_add(wait));
        }
        // Nearly always the only one, so it has no allocation of its own.
        let mut first = pin!(Some(attempt::run(job)));
        loop {
            let event = poll_fn(|cx| {
                if let Some(running) = first.as_mut().as_pin_mut()
                    && let Poll::Ready(result) = running.poll(cx)
                {
                    return Poll::Ready(Event::Ended((0, result)));
                }
                self.poll(alarm, cx)
            });
            let (index, result) = match event.await {
                Event::Ended(tried) => tried,
                Event::Due => match self.due(record)? {
                    Step::Wait => continue,
                    Step::Ended(tried) => tried,
                    Step::GiveUp => return self.give_up(record),
                },
            };
            if index == 0 {
                first.set(None);
                self.due.first = None;
            }
            if let Some(won) = self.ended(index, result) {
                return Ok(won);
            }
            if first.is_none() && self.running.is_empty() {
                let Some(next) = self.next(record) else { return self.give_up(record) };
                let wait = next.backoff.mul_f64(self.random.f64());
                self.due.repeat = Some((Instant::now() + wait, next));
                self.due.hedge = None;
            }
        }
    }

    fn poll(&mut self, alarm: &mut Alarm, cx: &mut Context<'_>) -> Poll<Event> {
        if !self.running.is_empty()
            && let Poll::Ready(Some(tried)) = self.running.poll_next_unpin(cx)
        {
            return Poll::Ready(Event::Ended(tried));
        }
        self.follow_body();
        if self.place.as_ref().is_some_and(|place| place.poll_cut(cx).is_ready()) {
            self.due.over = Some((self.began, Reason::Caller));
            return Poll::Ready(Event::Due);
        }
        let Some(next) = self.due.next() else { return Poll::Pending };
        // Timers are as fine as a millisecond; a repeat without a wait is made now.
        if self.due.repeat.is_none_or(|(at, _)| at > Instant::now()) {
            ready!(alarm.poll(next.into(), cx));
        }
        Poll::Ready(Event::Due)
    }

    /// Sets the clocks by whose move it is: those for endpoints run when the whole request is here, as Envoy's do, or while
    /// an endpoint takes nothing of it.
    fn follow_body(&mut self) {
        if self.complete {
            return;
        }
        let progress = match self.body.progress().unwrap_or(Progress::Complete(self.began)) {
            // It waits for the endpoint to say that it may go on.
            Progress::Caller(since, _) if self.head.headers.contains_key(EXPECT) && !self.way.interim.continued() => {
                Progress::Endpoint(since)
            }
            progress => progress,
        };
        self.due.over = self.bounds.over(progress);
        let first = self.made.first().filter(|made| !made.over);
        self.due.first = first.and_then(|made| self.bounds.try_over(progress, made.sent));
        if let (Progress::Caller(since, _), true) = (progress, self.way.caller_side) {
            self.due.slow = since.checked_add(SLOW).filter(|_| self.place.is_none());
        } else {
            (self.due.slow, self.place) = (None, None);
        }
        // Nothing of it was sent: whoever connects first gets it, whatever its method.
        let connecting = self.is_connecting() && !matches!(progress, Progress::Caller(..));
        if connecting && self.due.hedge.is_none() {
            let sent = self.made.last().map(|made| made.sent);
            self.due.hedge = sent.zip(self.patience).and_then(|(sent, wait)| sent.checked_add(wait));
        } else if !connecting {
            self.due.hedge = None;
        }
        let Progress::Complete(at) = progress else { return };
        self.complete = true;
        self.made.iter_mut().filter(|made| !made.over).for_each(|made| made.sent = made.sent.max(at));
        let silence = !self.hedged || !self.plan.may_hedge();
        if let Some(made) = self.made.last().filter(|made| !made.over && silence) {
            self.due.hedge = self.patience.and_then(|wait| made.sent.checked_add(wait));
        }
    }

    /// Whether its first try has no connection yet.
    fn is_connecting(&self) -> bool {
        !self.hedged && !self.raced && !self.claim.is_taken() && self.made.last().is_some_and(|made| !made.over)
    }

    /// Does what is due.
    fn due(&mut self, record: &mut Record) -> Result<Step, Refusal> {
        let now = Instant::now();
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if let Some((_, reason)) = self.due.over.filter(|(at, _)| *at <= now) {
            return Err(self.out_of_time(reason));
        }
        if is_over(self.due.slow)
            && let Some(Progress::Caller(since, _)) = self.body.progress()
        {
            self.place = Some(self.way.place(&self.cluster, &self.view, self.policy.priority, since));
            self.due.slow = None;
        }
        if is_over(self.due.first) {
            return Ok(Step::Ended((0, Err(Failed::timeout()))));
        }
        if let Some((_, repeat)) = self.due.repeat.take_if(|(at, _)| *at <= now) {
            // All tries before it are over; which of them sent the request does not bind this one.
            self.claim = Arc::default();
            let aim = self.aim(repeat);
            if !self.start(aim, record) {
                return Ok(Step::GiveUp);
            }
            let patience = self.patience.filter(|_| self.complete && !self.hedged);
            self.due.hedge = patience.and_then(|wait| now.checked_add(wait));
        } else if is_over(self.due.hedge) {
            // What cannot be paid now may be later, at the latest when the endpoint is suspected.
            self.due.hedge =
                if self.hedge(record) { self.patience.and_then(|wait| now.checked_add(wait)) } else { None };
        }
        Ok(Step::Wait)
    }

    /// Faults that hurt the request before an endpoint is chosen.
    async fn meet_faults(&mut self, record: &mut Record) -> Result<(), Refusal> {
        if self.faults.is_empty() && self.policy.faults.is_empty() {
            return Ok(());
        }
        let mut hit =
            fault::standing(&self.policy.faults, &mut self.random).and(self.faults.draw(None, &mut self.random));
        self.tell(&hit, record);
        if let Some(delay) = hit.delay.take() {
            record.flag(Flag::DelayInjected);
            let until = Instant::now() + delay;
            let over = self.due.over.filter(|(over, _)| *over < until);
            tokio::time::sleep_until(over.map_or(until, |(over, _)| over).into()).await;
            if let Some((_, reason)) = over {
                return Err(self.out_of_time(reason));
            }
        }
        if let Some(Instead::Answer { status, grpc }) = hit.instead {
            let refusal = Refusal::new(status, Flag::FaultInjected, attempt::FAULT);
            return Err(Refusal { grpc: Some(grpc), ..refusal });
        }
        self.hit = hit;
        Ok(())
    }

    fn tell(&self, hit: &Hit, record: &mut Record) {
        hit.kinds().for_each(|kind| self.way.shared.metrics.fault(kind));
        record.hit_by(&hit.overlays);
    }

    /// Starts a try beside or after the first; false when there is nobody to send it to.
    fn start(&mut self, aim: Aim, record: &mut Record) -> bool {
        let index = self.made.len();
        let Some(job) = self.prepare(aim, record) else { return false };
        let (bound, body) = (self.bounds.per_try, self.body.clone());
        self.running.push(Box::pin(async move { (index, attempt::run_within(job, bound, body).await) }));
        true
    }

    /// Chooses an endpoint for a try; `None` when there is nobody to send it to.
    fn prepare(&mut self, aim: Aim, record: &mut Record) -> Option<Job> {
        let tried: Vec<HostId> = self.made.iter().map(|made| made.chosen.host.id).collect();
        self.view = self.cluster.view();
        let key = affinity::key(&self.view.config.balancing.hash, &self.head.headers, self.way.address);
        let chosen = self.view.choose_for(key, aim, &tried, &mut self.random).or_else(|| {
            // The only endpoint ended a kept connection: that says nothing against it.
            let of_connection = matches!(&self.last, Some(Lost::Failed(failed)) if failed.failure.of_connection());
            of_connection.then(|| self.view.choose_for(key, Aim::Load, &[], &mut self.random)).flatten()
        });
        let chosen = chosen?;
        let fresh = tried.contains(&chosen.host.id);
        let mut hit = self.hit.clone();
        if !self.faults.is_empty() {
            let there = self.faults.draw(Some(&chosen.host.region), &mut self.random);
            self.tell(&there, record);
            hit = hit.and(there);
        }
        if hit.delay.is_some() {
            record.flag(Flag::DelayInjected);
        }
        if hit.instead.is_some() || hit.shape != Shape::default() {
            record.flag(Flag::FaultInjected);
        }
        let job = Job {
            pool: self.way.pool.clone(),
            cluster: self.cluster.clone(),
            view: self.view.clone(),
            host: chosen.host.clone(),
            priority: self.policy.priority,
            head: self.attempt_head(),
            authority: self.authority.clone(),
            body: self.body.reader(),
            hit,
            repeatable: self.may_be_asked_elsewhere(),
            fresh,
            // Two tries can only send at once what may be sent twice, and is wholly here.
            claim: (!self.plan.may_hedge() || !self.body.complete()).then(|| (self.claim.clone(), self.made.len())),
            interim: Some(self.way.interim.clone()),
        };
        self.made.push(Made { chosen, sent: Instant::now(), over: false });
        Some(job)
    }

    /// The request's head; in the mesh a later try says which one it is, so that it can be refused before others are.
    fn attempt_head(&self) -> Arc<Parts> {
        if self.made.is_empty() || self.view.config.tls.is_none() {
            return self.head.clone();
        }
        let mut head = Parts::clone(&self.head);
        head.headers.insert(ATTEMPT, HeaderValue::from(self.made.len() + 1));
        Arc::new(head)
    }

    /// Whether the end of a short response would decide about a repeat: that it breaks off, or a gRPC status in its trailers.
    fn may_be_asked_elsewhere(&self) -> bool {
        let replayable = self.body.replayable();
        self.plan.would_repeat(Failure::Reset, replayable)
            || grpc::is_call(&self.head.headers) && self.plan.awaits_status(replayable)
    }

    /// Takes note of a try's end; an answer that is not held back wins.
    fn ended(&mut self, index: usize, result: Result<Reply, Failed>) -> Option<Won> {
        self.made[index].over = true;
        let (host, sent, now) = (self.made[index].chosen.host.clone(), self.made[index].sent, Instant::now());
        match result {
            Ok(reply) => {
                let answer = answered(&reply);
                if answer == Failure::Overloaded {
                    // It lives, and says nothing about the workload: neither a failure nor a fast answer.
                    host.answered();
                    return self.decide(answer, Won { index, reply });
                }
                let status = match answer {
                    Failure::Grpc(status) => grpc::to_http(status).as_u16(),
                    _ => reply.head.status.as_u16(),
                };
                if status >= 500 {
                    self.remember(&host);
                }
                // What an early answer took says nothing: the request was still on its way.
                let took = self.complete.then(|| now.saturating_duration_since(sent));
                self.cluster.answered(&self.view, &host, status, took, now);
                self.decide(answer, Won { index, reply })
            }
            // It is to blame for being late, and said nothing about the request.
            Err(failed) if failed.is_outrun() => None,
            Err(failed) => {
                if failed.failure.nothing_sent() {
                    self.claim.release(index);
                }
                if !self.body.failed() && !failed.overflow() && !failed.is_unfit() {
                    self.remember(&host);
                    self.cluster.failed(&host, &failed.cause, now);
                }
                // An answer that is held back is better than none.
                if !matches!(self.last, Some(Lost::Answered(_))) {
                    self.last = Some(Lost::Failed(failed));
                }
                None
            }
        }
    }

    /// Holds an answer back that is repeated.
    fn decide(&mut self, answer: Failure, won: Won) -> Option<Won> {
        if self.plan.repeats(answer) {
            self.last = Some(Lost::Answered(Box::new(won)));
            return None;
        }
        Some(won)
    }

    /// A request that changes nothing is what an endpoint can be asked again before it is trusted again.
    pub(super) fn remember(&self, host: &Host) {
        if matches!(self.head.method, Method::GET | Method::HEAD) {
            host.remember(self.head.uri.path());
        }
    }

    /// Whether the failed request is repeated, and paid for.
    fn next(&mut self, record: &mut Record) -> Option<Repeat> {
        if self.body.failed() {
            return None;
        }
        let failure = match self.last.as_ref()? {
            Lost::Answered(won) => answered(&won.reply),
            Lost::Failed(failed) => failed.failure,
        };
        let repeat = self.plan.after(failure, self.body.replayable())?;
        let paid = !failure.costs() || self.pay();
        self.way.shared.metrics.repeat(if paid { "retry" } else { "retryOverBudget" });
        if paid {
            // Who answered early may still be reading, and the wait before the repeat would outgrow what is buffered.
            self.body.hold();
        } else {
            record.flag(Flag::UpstreamOverflow);
        }
        paid.then_some(repeat)
    }

    fn pay(&self) -> bool {
        self.cluster.pay(&self.view, self.policy.priority, Instant::now())
    }

    fn aim(&self, repeat: Repeat) -> Aim {
        match self.made.last() {
            Some(made) if repeat.next_tier => Aim::Beyond(made.chosen.tier),
            _ => Aim::Load,
        }
    }

    /// Makes a try beside the slow one, or tells its silence where it may not be sent twice; true when it is worth asking
    /// again later.
    fn hedge(&mut self, record: &mut Record) -> bool {
        let Some(made) = self.made.last() else { return false };
        let connecting = self.is_connecting() && (!self.plan.may_hedge() || !self.body.complete());
        self.raced |= connecting;
        if !self.plan.may_hedge() && !connecting {
            let Some(made) = self.claim.holder().and_then(|index| self.made.get(index)) else { return true };
            let waited = self.patience.unwrap_or_default();
            self.cluster.unanswered(&made.chosen.host, made.sent, waited, Instant::now());
            return false;
        }
        // Two tries at once can only share a body that is wholly here, unless one of them alone will send it.
        if !self.body.complete() && !connecting {
            return true;
        }
        let tier = made.chosen.tier;
        // Who answers nobody does no work for the first try, so the second one is no more work than there was.
        if !made.chosen.host.is_suspect() && !self.pay() {
            self.way.shared.metrics.repeat("hedgeOverBudget");
            return true;
        }
        self.hedged = self.start(Aim::Beyond(tier), record);
        if self.hedged {
            self.way.shared.metrics.repeat("hedge");
        }
        // The silence of whoever gets a request that is not to be sent twice is told in its turn.
        self.hedged && !self.plan.may_hedge()
    }

    /// Nothing more is tried: an answer that was held back, or one of our own.
    fn give_up(&mut self, record: &mut Record) -> Result<Won, Refusal> {
        if self.plan.spent() {
            record.flag(Flag::UpstreamRetryLimitExceeded);
        }
        match self.last.take() {
            Some(Lost::Answered(won)) => Ok(*won),
            Some(Lost::Failed(_)) if self.body.failed() => {
                let text = format!("the body ended early: {}", self.body.why());
                Err(Refusal::new(StatusCode::BAD_REQUEST, Flag::DownstreamProtocolError, text))
            }
            Some(Lost::Failed(failed)) => {
                let (status, text) = match failed.failure {
                    _ if failed.overflow() => (StatusCode::SERVICE_UNAVAILABLE, failed.cause.as_str()),
                    _ if failed.is_unfit() => (StatusCode::NOT_IMPLEMENTED, failed.cause.as_str()),
                    Failure::Timeout => (StatusCode::GATEWAY_TIMEOUT, "no answer in time"),
                    Failure::Malformed => {
                        let text = format!("the endpoint sent a {}", failed.cause);
                        return Err(Refusal::new(StatusCode::BAD_GATEWAY, failed.flag, text));
                    }
                    Failure::Overloaded | Failure::Stale | Failure::Reset | Failure::Status(_) | Failure::Grpc(_) => {
                        (StatusCode::SERVICE_UNAVAILABLE, "the endpoint ended the connection")
                    }
                    Failure::Connect | Failure::Refused => {
                        (StatusCode::SERVICE_UNAVAILABLE, "no connection to an endpoint")
                    }
                };
                let grpc = (failed.failure == Failure::Timeout).then_some(grpc::DEADLINE_EXCEEDED);
                Err(Refusal { grpc, ..Refusal::new(status, failed.flag, text) })
            }
            None => {
                let text = "no healthy endpoint";
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Flag::NoHealthyUpstream, text))
            }
        }
    }

    /// The request is given up. Whoever was waited for is to blame only if it had the time that the route gives.
    fn out_of_time(&self, reason: Reason) -> Refusal {
        if reason == Reason::Unanswered {
            let now = Instant::now();
            for made in self.made.iter().filter(|made| !made.over) {
                self.cluster.failed(&made.chosen.host, "no answer in time", now);
            }
        }
        let (status, flag, text) = match reason {
            Reason::Unanswered | Reason::Deadline => {
                (StatusCode::GATEWAY_TIMEOUT, Flag::UpstreamRequestTimeout, "no answer in time")
            }
            Reason::Idle => (StatusCode::GATEWAY_TIMEOUT, Flag::StreamIdleTimeout, "nothing passed for too long"),
            Reason::Caller => {
                (StatusCode::REQUEST_TIMEOUT, Flag::StreamIdleTimeout, "the rest of the request's body did not come")
            }
        };
        Refusal { grpc: Some(grpc::DEADLINE_EXCEEDED), ..Refusal::new(status, flag, text) }
    }

    pub(super) fn mirror(&mut self) {
        // A copy of an upgrade would be a connection that nobody uses.
        if !self.policy.mirrors.is_empty() && !self.head.headers.contains_key(UPGRADE) {
            mirror::send(self.way, self.policy, (&self.head, &self.authority, &self.body), &mut self.random);
        }
    }
}

/// What an endpoint's answer says of the request, as a failure would.
fn answered(reply: &Reply) -> Failure {
    if reply.overloaded {
        return Failure::Overloaded;
    }
    // A call that failed has its status in the head, or in trailers with nothing before them.
    let trailers = || reply.body.as_ref().and_then(Incoming::only_trailers).and_then(grpc::status);
    match grpc::status(&reply.head.headers).or_else(trailers) {
        Some(status) if status != 0 && grpc::is_call(&reply.head.headers) => Failure::Grpc(status),
        _ => Failure::Status(reply.head.status.as_u16()),
    }
}
