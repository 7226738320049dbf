//! Looks at Envoy: its configuration, its runtime, its hosts.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc, watch};

use super::{ask, dump::Dump, holder::Look, hosts};

/// Between two looks at Envoy's hosts.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks while something is awaited.
pub const SOON: Duration = Duration::from_millis(25);
/// Looks at hosts for one at the configuration, while nothing is awaited.
const SELDOM: u32 = 20;

/// Looks at Envoy, for ever.
pub async fn keep(socket: PathBuf, looks: mpsc::Sender<Look>, now: Arc<Notify>, awaited: watch::Receiver<bool>) {
    let mut dump: Option<(Instant, Dump)> = None;
    let mut count = 0_u32;
    loop {
        let began = Instant::now();
        let busy = *awaited.borrow();
        let whole = busy || dump.is_none() || count.is_multiple_of(SELDOM);
        count = count.wrapping_add(1);
        match look(&socket, whole).await {
            Ok((new, hosts)) => {
                if let Some(new) = new {
                    dump = Some((began, new));
                }
                // The older part of a look says how old it is.
                if let Some((began, dump)) = &dump
                    && looks.send(Look { began: *began, dump: dump.clone(), hosts }).await.is_err()
                {
                    return;
                }
            }
            Err(reason) => {
                dump = None;
                tracing::debug!(reason, "Envoy tells nothing of itself");
            }
        }
        let pause = if *awaited.borrow() { SOON } else { LOOK };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = now.notified() => tokio::time::sleep(SOON).await,
        }
    }
}

async fn look(socket: &Path, whole: bool) -> Result<(Option<Dump>, hosts::Hosts), String> {
    let told = |error: io::Error| error.to_string();
    // Not before its main loop runs: until then it takes no traffic.
    let pages = async {
        if !whole {
            return Ok(None);
        }
        tokio::try_join!(ask::get(socket, "/config_dump"), ask::get(socket, "/runtime")).map(Some)
    };
    let (state, pages, clusters) =
        tokio::join!(ask::get(socket, "/ready"), pages, ask::get(socket, "/clusters?format=json"));
    state.map_err(told)?;
    let dump = match pages.map_err(told)? {
        None => None,
        Some((configuration, runtime)) => {
            let mut dump = Dump::read(&configuration)?;
            dump.read_layer(&runtime)?;
            Some(dump)
        }
    };
    Ok((dump, hosts::read(&clusters.map_err(told)?)?))
}
