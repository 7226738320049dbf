//! Whether the other side of a connection is still there: it is asked when it says nothing, and must answer.

use std::{future::poll_fn, time::Duration};

use h2::{Ping, PingPong};
use tokio::sync::{mpsc, oneshot};

/// Ready when the other side is gone. It is asked after each `pause` for which `quiet` says that something was waited for in
/// vain, and has `patience` to answer. It is asked at once for whoever waits on `asks`, which is told of its answer.
pub async fn lost(
    mut ping: PingPong,
    pause: Duration,
    patience: Duration,
    quiet: impl Fn() -> bool,
    mut asks: mpsc::Receiver<oneshot::Sender<()>>,
) {
    loop {
        let asker = tokio::select! {
            () = tokio::time::sleep(pause) => None,
            Some(asker) = asks.recv() => Some(asker),
        };
        if asker.is_none() && !quiet() {
            continue;
        }
        if ping.send_ping(Ping::opaque()).is_err() {
            return;
        }
        match tokio::time::timeout(patience, poll_fn(|cx| ping.poll_pong(cx))).await {
            // Whoever asked may have gone.
            Ok(Ok(_)) => drop(asker.map(|asker| asker.send(()))),
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
