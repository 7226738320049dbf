//! Plain TCP: bytes both ways, each way ending on its own.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::Context,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use xds::snapshot::Direction;

use crate::{
    http::{
        alarm::Alarm,
        record::Caller,
        relay::{DRAIN, Ended, Relay},
    },
    link::{ConnectError, Link},
    sides::Sides,
    state::Shared,
    upstream::{
        cluster::Cluster,
        host::{Active, Host},
        view::Aim,
    },
};

/// Endpoints tried before the caller's connection is closed. Nothing was sent to those that did not connect.
const TRIES: usize = 3;
/// The usual time to an endpoint's first bytes, held within these bounds, is how long they are waited for.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(2500));
/// A connection over which nothing passes for this long is closed. Envoy's default.
const IDLE: Duration = Duration::from_secs(3600);

/// Forwards a caller's connection to an endpoint of the cluster until both ways are done.
pub async fn forward<T>(
    shared: &Arc<Shared>,
    cluster: &str,
    from: (T, Caller, Direction),
    mut closing: watch::Receiver<bool>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let Some(cluster) = shared.state.load().clusters.get(cluster).cloned() else { return };
    let Some(Connected { mut link, host, epoch, mut trust, _active }) = connect(&cluster).await else { return };
    let (stream, caller, direction) = from;
    let sides = Sides {
        shared,
        direction,
        tls: caller.tls,
        caller: caller.id.as_deref().unwrap_or_default(),
        cluster: Some(&cluster.view().config),
        host: Some(&host),
    };
    let mut caller = shared.metrics.connections.counted(stream, sides.labels());
    let mut draining = shared.draining.subscribe();
    let ended = async {
        let distrusted = async {
            loop {
                cluster.trust.over(trust).await;
                trust = cluster.trust.number();
                if !cluster.tls().is_none_or(|tls| tls.verifier.accepts(&link.chain)) {
                    return;
                }
            }
        };
        // An ended sender means the same as its word.
        let told = async {
            tokio::select! {
                () = host.epoch_over(epoch) => {}
                closing = closing.wait_for(|closing| *closing) => drop(closing),
                draining = draining.wait_for(|draining| *draining) => drop(draining),
            }
        };
        let drained = async {
            told.await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            () = drained => {}
            () = distrusted => {}
        }
    };
    let mut relay = Relay::new(IDLE, BytesMut::new());
    let mut first = FirstAnswer::default();
    let relayed = poll_fn(|cx| {
        let ended = relay.poll(&mut caller, &mut link.stream, cx);
        first.poll(relay.passed(), &cluster, &host, cx);
        ended
    });
    tokio::select! {
        ended = relayed => match ended {
            Ended::Whole => cluster.came_whole(&host),
            ended => {
                if matches!(ended, Ended::Endpoint(_)) {
                    cluster.broke_off(&host, Instant::now());
                }
                tracing::debug!(?ended, cluster = %cluster.name, "a TCP connection broke");
            }
        },
        () = ended => {}
    }
}

/// Waits for the first bytes that an endpoint sends after the caller's first. Of a protocol in which endpoints answer, a
/// silence says what it says of a request: the kernel takes connections and bytes for a process that hangs.
#[derive(Debug, Default)]
struct FirstAnswer {
    sent: Option<Instant>,
    /// How long it is waited for; `None` where nothing is known of this cluster's answers, or the silence is told.
    patience: Option<Duration>,
    over: bool,
    alarm: Alarm,
}

impl FirstAnswer {
    fn poll(&mut self, (asked, answered): (u64, u64), cluster: &Cluster, host: &Host, cx: &mut Context<'_>) {
        if self.over || asked == 0 && answered == 0 {
            return;
        }
        let now = Instant::now();
        let sent = *self.sent.get_or_insert_with(|| {
            self.patience = cluster.first_bytes.usual().map(|usual| usual.clamp(PATIENCE.0, PATIENCE.1));
            now
        });
        if answered > 0 {
            self.over = true;
            host.spoke();
            if asked > 0 {
                cluster.first_bytes.observe(now.saturating_duration_since(sent), now);
            }
        } else if let Some(patience) = self.patience
            && let Some(until) = sent.checked_add(patience)
            && self.alarm.poll(until.into(), cx).is_ready()
        {
            self.patience = None;
            cluster.unanswered(host, sent, patience, now);
        }
    }
}

/// A connection to an endpoint, with what may end it: seen from before it was made, so that no change is missed.
struct Connected {
    link: Link,
    host: Arc<Host>,
    epoch: u64,
    trust: u64,
    _active: Active,
}

async fn connect(cluster: &Arc<Cluster>) -> Option<Connected> {
    let mut tried = Vec::new();
    let mut random = fastrand::Rng::new();
    let mut aim = Aim::Load;
    for left in (0..TRIES).rev() {
        let view = cluster.view();
        let chosen = view.choose(aim, &tried, &mut random)?;
        // The last try crosses tiers, as a request's does.
        aim = if left == 1 { Aim::Beyond(chosen.tier) } else { Aim::Load };
        let host = chosen.host;
        host.tries.fetch_add(1, Ordering::Relaxed);
        let (epoch, trust, config) = (host.epoch(), cluster.trust.number(), &view.config);
        match Link::connect(cluster, &host, config.breakers.connections, config.connect_timeout).await {
            Ok(link) => {
                cluster.connected(&view, &host);
                let active = Active::new(&host);
                return Some(Connected { link, host, epoch, trust, _active: active });
            }
            Err(ConnectError::Overflow) => return None,
            Err(error) => cluster.failed(&host, &error.to_string(), Instant::now()),
        }
        tried.push(host.id);
    }
    None
}
