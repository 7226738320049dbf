//! The answer that won: what the caller gets of it, and what is noted until its end.

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, Response, header::UPGRADE};

use super::{
    InFlight,
    race::{Race, Won},
};
use crate::{
    grpc,
    http::{
        attempt::{self, Held, Reply},
        body::{Answer, BodyError, Ends, Incoming, Watch},
        message,
        record::{Flag, Record},
    },
    route::Entry,
    upstream::{cluster::Cluster, host::Host},
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
        let head_is_grpc = grpc::is_call(&head.headers);
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
        let (cluster, host) = (self.cluster.clone(), host.clone());
        response.map(|body| body.watched(Box::new(Streaming { record, cluster, host, _held: held, _counted: counted })))
    }
}

/// Follows a response's body to its end.
struct Streaming {
    record: Record,
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    _held: Held,
    _counted: InFlight,
}

impl Watch for Streaming {
    fn passed(&mut self, bytes: u64) {
        self.record.passed(bytes);
    }

    fn received(&mut self, bytes: u64) {
        self.record.received(bytes);
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.record.trailers(trailers);
    }

    fn finished(&mut self) {
        self.cluster.came_whole(&self.host);
        self.record.finished();
    }

    fn broken(&mut self, error: &BodyError) {
        // What we end ourselves says nothing about the endpoint.
        if matches!(error, BodyError::Upstream(_)) {
            self.cluster.broke_off(&self.host, Instant::now());
        }
        self.record.broken(error);
    }
}
