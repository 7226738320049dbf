//! One try: a connection, the request, the response's head.

use std::{
    error::Error,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{request::Parts, response, uri::Authority};
use hyper::body::Incoming;
use xds::overlay::FaultAction;

use crate::{
    fault::Hit,
    http::{
        body::TryBody,
        message,
        pool::{Busy, Pool, Sender},
    },
    link::ConnectError,
    retry::Failure,
    upstream::{
        cluster::Cluster,
        host::{Active, Host},
        view::View,
    },
};

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
    /// The request.
    pub head: Arc<Parts>,
    /// Whom it is for.
    pub authority: Authority,
    /// What is sent.
    pub body: TryBody,
    /// Bound until response headers.
    pub per_try: Option<Duration>,
    /// Faults.
    pub hit: Hit,
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
}

/// No response headers came.
#[derive(Debug)]
pub struct Failed {
    /// For the plan of repeats.
    pub failure: Failure,
    /// For people.
    pub cause: String,
    /// A circuit breaker refused it; the endpoint is not to blame.
    pub overflow: bool,
}

impl Failed {
    fn new(failure: Failure, cause: impl Into<String>) -> Self {
        Self { failure, cause: cause.into(), overflow: false }
    }
}

/// Counts a try as active at its endpoint and its connection as busy.
#[derive(Debug)]
pub struct Held {
    _busy: Option<Busy>,
    _active: Active,
}

/// A request that waits for a connection.
struct Waiting<'a>(&'a Cluster);

impl<'a> Waiting<'a> {
    fn new(cluster: &'a Cluster, most: u32) -> Option<Self> {
        let before = cluster.pending.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(cluster);
        (before < u64::from(most)).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes the try.
pub async fn run(job: Job) -> Result<Reply, Failed> {
    job.host.tries.fetch_add(1, Ordering::Relaxed);
    let active = Active::new(&job.host);
    let per_try = job.per_try;
    let work = go(job, active);
    match per_try {
        None => work.await,
        Some(bound) => match tokio::time::timeout(bound, work).await {
            Ok(result) => result,
            Err(_) => Err(Failed::new(Failure::Timeout, "no answer in time")),
        },
    }
}

async fn go(job: Job, active: Active) -> Result<Reply, Failed> {
    if let Some(delay) = job.hit.delay {
        tokio::time::sleep(delay).await;
    }
    match &job.hit.action {
        None | Some(FaultAction::Delay { .. }) => {}
        Some(FaultAction::Abort { status }) => {
            let (mut head, ()) = http::Response::new(()).into_parts();
            head.status = http::StatusCode::from_u16(*status).unwrap_or(http::StatusCode::SERVICE_UNAVAILABLE);
            return Ok(Reply { head, body: None, held: Held { _busy: None, _active: active } });
        }
        Some(FaultAction::Refuse) => return Err(Failed::new(Failure::Connect, "connection refused by a fault")),
        Some(FaultAction::Reset) => return Err(Failed::new(Failure::Reset, "connection reset by a fault")),
        Some(FaultAction::Blackhole) => std::future::pending().await,
    }
    exchange(job, active).await
}

async fn exchange(job: Job, active: Active) -> Result<Reply, Failed> {
    let (cluster, config) = (&job.cluster, &job.view.config);
    let mut body = job.body;
    // A kept connection may have ended in this moment. The request comes back unsent, and goes over a new one.
    let mut again = true;
    loop {
        let taken = {
            let full = || Failed { overflow: true, ..Failed::new(Failure::Refused, "too many waiting requests") };
            let _waiting = Waiting::new(cluster, config.breakers.pending).ok_or_else(full)?;
            job.pool.take(cluster, &job.view, &job.host).await.map_err(|error| Failed {
                overflow: error == ConnectError::Overflow,
                ..Failed::new(Failure::Connect, error.to_string())
            })?
        };
        let (mut sender, busy) = (taken.sender, taken.busy);
        let head = message::for_upstream(&job.head, &job.authority, config.protocol, config.tls.is_some());
        let request = head.map(|()| body);
        let result = match &mut sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        match result {
            Ok(response) => {
                job.pool.give_back(job.host.id, sender, &busy);
                let (head, body) = response.into_parts();
                return Ok(Reply { head, body: Some(body), held: Held { _busy: Some(busy), _active: active } });
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) if again => {
                    busy.close_to_new();
                    again = false;
                    body = unsent.into_body();
                }
                Some(_) => return Err(Failed::new(Failure::Refused, "connection ended before the request")),
                None => return Err(classify(&error.into_error())),
            },
        }
    }
}

fn classify(error: &hyper::Error) -> Failed {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            // A GOAWAY without error names streams that were not looked at, as REFUSED_STREAM does.
            let unseen = h2.reason() == Some(h2::Reason::REFUSED_STREAM)
                || h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR);
            let failure = if unseen { Failure::Refused } else { Failure::Reset };
            return Failed::new(failure, format!("stream ended: {h2}"));
        }
        source = cause.source();
    }
    Failed::new(Failure::Reset, format!("connection ended: {error}"))
}
