//! The answer that won: what the caller gets of it, and what is noted until its end.

use std::{
    net::IpAddr,
    sync::Arc,
    task::Context,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Response, header::UPGRADE};

use xds::snapshot::RoutingPriority;

use super::{
    InFlight,
    race::{Race, Won},
    share,
};
use crate::{
    grpc,
    http::{
        allowance::Allowance,
        attempt::{self, Held, Reply},
        body::{Answer, BodyError, Ends, Incoming, Wait, Watch},
        message,
        record::{Flag, Record},
    },
    route::Entry,
    upstream::{
        cluster::Cluster,
        host::Host,
        silence::Patience,
        slow::{Place, SLOW},
        view::View,
    },
};

impl Race<'_> {
    /// The winner's answer. The losers are dropped with the race, which cancels them.
    pub(super) fn answer(
        self,
        won: Won,
        entry: &Arc<Entry>,
        counted: InFlight,
        mut record: Record,
    ) -> Response<Answer> {
        let now = Instant::now();
        let made = &self.made[won.index];
        if won.reply.overloaded {
            record.flag(Flag::UpstreamOverflow);
        } else if self.complete {
            entry.latency.observe(now.saturating_duration_since(made.sent), now);
        }
        if let Some(waited) = self.patience {
            for loser in self.made.iter().filter(|other| !other.over && other.sent < made.sent) {
                self.remember(&loser.chosen.host);
                self.cluster.unanswered(&loser.chosen.host, loser.sent, waited, now);
            }
        }
        let host = &made.chosen.host;
        let tries = u32::try_from(self.made.len()).unwrap_or(u32::MAX);
        record.answered_by(host, tries);
        let Reply { mut head, body, held, overloaded: _ } = won.reply;
        let switched = head.headers.remove(UPGRADE).filter(|_| matches!(body, Some(Incoming::Switched(_))));
        record.status(head.status.as_u16());
        record.told(&head.headers);
        let (head_is_grpc, stream) = (grpc::is_call(&head.headers), message::is_stream(&head.headers));
        let switches = switched.is_some();
        let mut response = Response::from_parts(
            head,
            match body {
                Some(body) => {
                    let call = self.bounds.call.map(Into::into);
                    let ends = Ends { call, idle: self.bounds.idle, received: self.body.received() };
                    let answer = Answer::upstream(body, ends);
                    // Only a client of gRPC reads trailers.
                    if head_is_grpc && record.is_grpc() { answer.ends_in_trailers() } else { answer }
                }
                None if head_is_grpc => Answer::text(""),
                None => Answer::text(attempt::FAULT),
            },
        );
        message::strip_hop_by_hop(response.headers_mut());
        if let Some(rewrite) = &entry.rewrite {
            rewrite.response(response.headers_mut());
        }
        // A workload may not say it, and whoever called us would not know who did.
        response.headers_mut().remove(message::OVERLOADED);
        if let Some(protocol) = switched {
            response.headers_mut().insert(UPGRADE, protocol);
        }
        if self.way.caller_side {
            response.headers_mut().remove(message::ANSWERED_BY);
            if self.head.headers.contains_key(message::PROBE) {
                let text = format!("{};{};{};tries={tries}", host.region, host.name, host.version);
                if let Ok(value) = HeaderValue::try_from(text) {
                    response.headers_mut().insert(message::ANSWERED_BY, value);
                }
            }
        }
        let way = self.way;
        let (cluster, view, host) = (self.cluster.clone(), self.view.clone(), host.clone());
        let streaming = Streaming {
            slow: way.caller_side.then(|| Slow {
                allowance: way.allowance,
                client: way.address,
                shared_out: way.shared_out,
                priority: self.policy.priority,
                place: None,
            }),
            view,
            silence: Silence {
                patience: self.patience.map_or(STALL, |waited| Patience::after(waited).hang),
                stream: head_is_grpc || stream || switches,
                since: None,
                over: false,
            },
            record,
            cluster,
            host,
            _held: held,
            _counted: counted,
        };
        response.map(|body| body.watched(Box::new(streaming)))
    }
}

/// How long the rest of a response may be owed where nothing is known of the usual time to an answer.
const STALL: Duration = Duration::from_secs(5);

/// A caller that is to take the response.
struct Slow {
    allowance: Allowance,
    client: IpAddr,
    shared_out: bool,
    priority: RoutingPriority,
    /// While it is slow.
    place: Option<Place>,
}

/// An endpoint that is to send the rest of the response.
struct Silence {
    /// How long that may take.
    patience: Duration,
    /// Whether it sends what there is when there is something: its silence says nothing.
    stream: bool,
    since: Option<Instant>,
    /// The response has ended, or its silence was told.
    over: bool,
}

/// Follows a response's body to its end.
struct Streaming {
    slow: Option<Slow>,
    view: Arc<View>,
    silence: Silence,
    record: Record,
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    _held: Held,
    _counted: InFlight,
}

impl Streaming {
    /// The response stalls. Its head was an answer, so that this is told apart from a try that is not answered.
    fn stalled(&mut self, now: Instant) {
        self.silence.over = true;
        self.cluster.stalled(&self.host, now);
    }
}

impl Watch for Streaming {
    fn passed(&mut self, bytes: u64) {
        self.record.passed(bytes);
        self.silence.since = None;
        if let Some(slow) = &mut self.slow {
            slow.allowance.handed(bytes);
        }
    }

    fn received(&mut self, bytes: u64) {
        self.record.received(bytes);
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.record.trailers(trailers);
    }

    fn finished(&mut self) {
        self.silence.over = true;
        self.cluster.came_whole(&self.host);
        self.record.finished();
    }

    fn broken(&mut self, error: &BodyError) {
        self.silence.over = true;
        // What we end ourselves says nothing about the endpoint.
        if matches!(error, BodyError::Upstream(_)) {
            self.cluster.broke_off(&self.host, Instant::now());
        }
        self.record.broken(error);
    }

    fn caller_owes(&mut self, since: tokio::time::Instant, cx: &mut Context<'_>) -> Wait {
        let Some(slow) = &mut self.slow else { return Wait::Forever };
        let (since, now) = (since.into_std(), Instant::now());
        let until = slow.allowance.until(since);
        if until.is_some_and(|until| until <= now) {
            return Wait::Over;
        }
        let counts = since + SLOW;
        if slow.place.is_none() && counts > now {
            return Wait::Until(until.map_or(counts, |until| until.min(counts)).into());
        }
        let place = slow.place.get_or_insert_with(|| {
            let (most, client) = (self.view.config.breakers_of(slow.priority).requests, slow.client);
            self.cluster.slow.enter(since, (client, share(most, slow.shared_out)), slow.priority)
        });
        if place.poll_cut(cx).is_ready() {
            return Wait::Over;
        }
        until.map_or(Wait::Forever, |until| Wait::Until(until.into()))
    }

    fn caller_took(&mut self, waited: Duration) {
        if let Some(slow) = &mut self.slow {
            slow.allowance.waited(waited);
            slow.place = None;
        }
    }

    fn endpoint_silent(&mut self, since: tokio::time::Instant, owes: bool) -> Option<tokio::time::Instant> {
        let since = since.into_std();
        self.silence.since = Some(since);
        if self.silence.over || self.silence.stream || !owes {
            return None;
        }
        let (now, told) = (Instant::now(), since.checked_add(self.silence.patience)?);
        if told > now {
            return Some(told.into());
        }
        self.stalled(now);
        None
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // A caller that leaves while the rest is owed for long has not been answered.
        let now = Instant::now();
        let waited = self.silence.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if !self.silence.over && !self.silence.stream && waited >= self.silence.patience {
            self.stalled(now);
        }
    }
}
