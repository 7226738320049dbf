//! Plain TCP: bytes both ways, each way ending on its own.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
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
                let changed = trust.changed().await;
                let believed = cluster.tls().is_none_or(|tls| tls.verifier.accepts(&link.chain));
                if changed.is_err() || !believed {
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
    tokio::select! {
        ended = poll_fn(|cx| relay.poll(&mut caller, &mut link.stream, cx)) => match ended {
            Ended::Whole => {}
            ended => tracing::debug!(?ended, cluster = %cluster.name, "a TCP connection broke"),
        },
        () = ended => {}
    }
}

/// A connection to an endpoint, with what may end it: seen from before it was made, so that no change is missed.
struct Connected {
    link: Link,
    host: Arc<Host>,
    epoch: u64,
    trust: watch::Receiver<u64>,
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
        let (epoch, trust, config) = (host.epoch(), cluster.watch_trust(), &view.config);
        match Link::connect(cluster, &host, config.breakers.connections, config.connect_timeout).await {
            Ok(link) => {
                cluster.succeeded(&view, &host);
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
