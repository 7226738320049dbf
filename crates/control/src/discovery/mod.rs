//! Endpoints that are found rather than written: every source of the manifests in force is asked again and again, and what
//! it says is compiled into snapshots. What was said last is kept on disk, so that a control plane that starts while a
//! source is down takes nothing away.

mod dns;
mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use model::config::{Config, DnsSource, Place};
use serde::{Deserialize, Serialize};
use tokio::task::{AbortHandle, JoinSet};

use crate::{
    api::Stamp,
    mesh::Mesh,
    secret,
    sources::{Found, Known, Origin, words},
};

/// Between two looks at a file; and before DNS that failed is asked again.
const LOOK: Duration = Duration::from_secs(1);
/// Between two writes of what is kept, when nothing changed but how fresh it is.
const KEEP: Duration = Duration::from_secs(60);

/// What a source said last.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    /// What it is, in words: another source of the same name begins anew.
    source: String,
    addresses: BTreeSet<Found>,
    fresh: Stamp,
}

/// By the name of the endpoint.
type AllKept = BTreeMap<String, Kept>;

/// Follows every source of the manifests in force, for ever.
pub(crate) async fn follow(mesh: Arc<Mesh>, path: PathBuf) {
    let mut changes = mesh.changes();
    let mut kept = load(&path);
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<String, (Place, AbortHandle)> = BTreeMap::new();
    let mut written = String::new();
    let mut followed: Option<Arc<Config>> = None;
    loop {
        let config = mesh.state().config.clone();
        // Most changes are of something else; what came is followed already.
        let same =
            config.as_ref().zip(followed.as_ref()).is_some_and(|(config, followed)| Arc::ptr_eq(config, followed));
        let wanted = config.as_deref().filter(|_| !same).map(sources).unwrap_or_default();
        followed = config;
        running.retain(|endpoint, (place, task)| {
            let keep = same || wanted.get(endpoint).is_some_and(|source| source.place == *place);
            if !keep {
                task.abort();
                mesh.forget_source(endpoint);
            }
            keep
        });
        for (endpoint, mut source) in wanted {
            if running.contains_key(&endpoint) {
                continue;
            }
            if let Some(kept) = kept.remove(&endpoint).filter(|kept| kept.source == words(&source.place)) {
                source.known.remember(kept.addresses, instant(&mesh, kept.fresh));
            }
            let place = source.place.clone();
            mesh.add_source(endpoint.clone(), source);
            let task = tasks.spawn(ask_for_ever(mesh.clone(), endpoint.clone(), place.clone()));
            running.insert(endpoint, (place, task));
        }
        let text = serde_json::to_string(&all_kept(&mesh)).unwrap_or_default();
        if text != written && !running.is_empty() {
            match secret::replace_private(&path, text.as_bytes()) {
                Ok(()) => written = text,
                Err(error) => tracing::error!(%error, "what sources said is not kept"),
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = mesh.found.notified() => {}
            () = tokio::time::sleep(KEEP) => {}
            Some(_) = tasks.join_next() => {}
        }
    }
}

fn sources(config: &Config) -> BTreeMap<String, Origin> {
    let mut sources = BTreeMap::new();
    for service in config.services.values() {
        for endpoint in &service.endpoints {
            let stale_for = match &endpoint.place {
                Place::Dns(dns) => dns.stale_for,
                Place::File(file) => file.stale_for,
                Place::Run(_) | Place::Address(_) => continue,
            };
            let source = Origin {
                service: service.name.to_string(),
                region: endpoint.region.to_string(),
                place: endpoint.place.clone(),
                known: Known::new(stale_for),
            };
            sources.insert(endpoint.workload.to_string(), source);
        }
    }
    sources
}

async fn ask_for_ever(mesh: Arc<Mesh>, endpoint: String, place: Place) {
    match place {
        Place::Dns(dns) => ask_dns(&mesh, &endpoint, &dns).await,
        Place::File(list) => loop {
            let path = PathBuf::from(&list.path);
            let seen = tokio::task::spawn_blocking(move || file::read(&path)).await;
            mesh.source_said(&endpoint, seen.unwrap_or_else(|e| Err(e.to_string())));
            tokio::time::sleep(LOOK).await;
        },
        Place::Run(_) | Place::Address(_) => {}
    }
}

async fn ask_dns(mesh: &Mesh, endpoint: &str, source: &DnsSource) {
    let mut resolver = None;
    let mut memory = dns::Memory::new(source.stale_for);
    loop {
        if resolver.is_none() {
            match dns::resolver(source) {
                Ok(made) => resolver = Some(made),
                Err(reason) => mesh.source_said(endpoint, Err(reason)),
            }
        }
        let mut again = LOOK;
        if let Some(resolver) = &resolver {
            let seen = dns::ask(resolver, &source.name, &mut memory).await;
            let seen = seen.map(|(found, ttl)| {
                again = ttl;
                found
            });
            mesh.source_said(endpoint, seen);
        }
        tokio::time::sleep(again).await;
    }
}

fn load(path: &Path) -> AllKept {
    let Ok(text) = std::fs::read(path) else { return AllKept::new() };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::error!(%error, path = %path.display(), "what sources said cannot be read");
        AllKept::new()
    })
}

fn all_kept(mesh: &Mesh) -> AllKept {
    let (now, wall) = (Instant::now(), mesh.clock.now());
    let state = mesh.state();
    let kept = state.sources.iter().filter_map(|(endpoint, source)| {
        let ago = now.saturating_duration_since(source.known.fresh?);
        // To the minute, so that a source that says the same again and again is not written each time.
        let fresh = Stamp(wall.0.saturating_sub(i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX)));
        let fresh = Stamp(fresh.0 - fresh.0.rem_euclid(60_000_000_000));
        let addresses = source.known.addresses.clone();
        Some((endpoint.clone(), Kept { source: words(&source.place), addresses, fresh }))
    });
    kept.collect()
}

/// When that was; now, if this machine does not reach back so far.
fn instant(mesh: &Mesh, stamp: Stamp) -> Instant {
    let ago = mesh.clock.now().0.saturating_sub(stamp.0).max(0).unsigned_abs();
    let now = Instant::now();
    now.checked_sub(Duration::from_nanos(ago)).unwrap_or(now)
}
