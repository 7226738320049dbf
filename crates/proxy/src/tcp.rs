//! Plain TCP: bytes both ways, each way ending on its own.

use std::{
    future::poll_fn,
    sync::Arc,
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
        reach::{FirstAnswer, connect},
        record::Caller,
        relay::{DRAIN, Ended, Relay},
    },
    sides::Sides,
    state::Shared,
};

/// Forwards a caller's connection to an endpoint of the cluster until both ways are done, or silent for as long as `idle`.
pub async fn forward<T>(
    shared: &Arc<Shared>,
    cluster: &str,
    from: (T, Caller, Direction),
    idle: Duration,
    mut closing: watch::Receiver<bool>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let Some(cluster) = shared.state.load().clusters.get(cluster).cloned() else { return };
    let Ok(connected) = connect(&cluster).await else { return };
    let (mut link, host, _active, ended) = connected.split(cluster.clone());
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
    let drained = async {
        // An ended sender means the same as its word.
        tokio::select! {
            closing = closing.wait_for(|closing| *closing) => drop(closing),
            draining = draining.wait_for(|draining| *draining) => drop(draining),
        }
        tokio::time::sleep(DRAIN).await;
    };
    let mut relay = Relay::new(idle, BytesMut::new());
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
        () = drained => {}
        () = ended => {}
    }
}
