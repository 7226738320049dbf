//! Whether the other side of a connection is still there: it is asked when it says nothing, and must answer.

use std::{future::poll_fn, time::Duration};

use h2::{Ping, PingPong};

/// Ready when the other side is gone. It is asked after each `pause` for which `quiet` says that something was waited for in
/// vain, and has `patience` to answer.
pub async fn lost(mut ping: PingPong, pause: Duration, patience: Duration, quiet: impl Fn() -> bool) {
    loop {
        tokio::time::sleep(pause).await;
        if !quiet() {
            continue;
        }
        if ping.send_ping(Ping::opaque()).is_err() {
            return;
        }
        match tokio::time::timeout(patience, poll_fn(|cx| ping.poll_pong(cx))).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
