//! What proxies report of themselves: statuses on demand, events all the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::task::{AbortHandle, JoinSet};
use xds::{
    event::{Event, EventKind},
    node::NodeInfo,
    status::ProxyStatus,
};

use crate::{
    api::{ControlEvent, NackReport, Placements, ProxyConfiguration, ProxyReport, RequestsReport, Role},
    mesh::{AskError, Basis, Mesh},
    overlays::Refusal,
};

/// Bound on asking a proxy for its status: it is beside us, or it hangs.
const STATUS_LIMIT: Duration = Duration::from_millis(400);
/// Bound on asking one for its requests.
const REQUESTS_LIMIT: Duration = Duration::from_secs(2);
/// Proxies asked at once.
const ASKED_AT_ONCE: usize = 64;
/// Wait of one long poll.
const POLL: Duration = Duration::from_secs(5);
/// Pause after a proxy did not answer.
const PAUSE: Duration = Duration::from_millis(200);
/// The same for each of those that do not answer, so that many of them are not asked more often than a few.
const SHARE: Duration = Duration::from_millis(1);
/// Pause after a proxy answered something else than events: a stock Envoy has none.
const LONG_PAUSE: Duration = Duration::from_secs(5);

/// A piece of a proxy's own log.
#[derive(Deserialize)]
struct Batch {
    boot: String,
    events: Vec<Event>,
    #[serde(default)]
    dropped: u64,
}

/// Asks every proxy for its status and lays it beside what it should have.
pub(crate) async fn report(mesh: &Mesh) -> Vec<ProxyReport> {
    let placements = mesh.state().placements.clone();
    let asked = stream::iter(placements.proxies.clone())
        .map(|placement| async move {
            let status = mesh.ask::<ProxyStatus>(&placement.proxy, "/status", STATUS_LIMIT).await;
            (placement, status)
        })
        .buffer_unordered(ASKED_AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let known = mesh.ads.proxies();
    let (wanted, basis): (BTreeMap<String, _>, _) = {
        let state = mesh.state();
        let wanted = asked.iter().map(|(p, _)| (p.proxy.clone(), (state.published(&p.proxy), state.overlays(p))));
        (wanted.collect(), state.basis())
    };
    let compiler = basis.as_ref().map(Basis::compiler);
    let mut reports: Vec<ProxyReport> = asked
        .into_iter()
        .map(|(placement, status)| {
            let ads = known.get(&placement.proxy).cloned().unwrap_or_default();
            let (published, overlays) = wanted.get(&placement.proxy).cloned().unwrap_or_default();
            // Who never came has none published.
            let snapshot = published.or_else(|| Some(Arc::new(compiler.as_ref()?.snapshot(&placement).ok()?)));
            let wanted_digest = snapshot.map(|snapshot| xds::digest::digest(&snapshot, &overlays));
            let mut wanted_overlays: Vec<String> = overlays.into_iter().map(|o| o.id).collect();
            wanted_overlays.sort();
            let (region, service, gateway) = match placement.role.clone() {
                Role::Sidecar { region, service, .. } => (Some(region), Some(service), None),
                Role::Gateway { gateway, .. } => (None, None, Some(gateway)),
            };
            let (status, error, foreign) = match status {
                Ok(status) => (Some(status), None, false),
                Err(AskError::Silent(reason)) => (None, Some(reason), false),
                Err(AskError::Foreign(reason)) => (None, Some(foreign(ads.node.as_ref(), &reason)), true),
            };
            let in_sync = match &status {
                Some(status) => Some(&status.digest) == wanted_digest.as_ref(),
                // It takes no overlays, so one that it should have is one that it lacks.
                None => foreign && ads.connected && ads.settled && ads.nack.is_none() && wanted_overlays.is_empty(),
            };
            ProxyReport {
                name: placement.proxy.clone(),
                region,
                service,
                gateway,
                admin: placement.admin,
                connected: ads.connected,
                published: ads.published,
                acked: ads.acked,
                nack: ads.nack.map(|n| NackReport { kind: n.kind, version: n.version, detail: n.detail }),
                wanted_digest,
                wanted_overlays,
                in_sync,
                status,
                error,
            }
        })
        .collect();
    reports.sort_by(|a, b| a.name.cmp(&b.name));
    reports
}

/// What a proxy should have now; `None` if there is no snapshot for it.
pub(crate) fn configuration(mesh: &Mesh, proxy: &str) -> Option<ProxyConfiguration> {
    let (published, overlays, placement, basis) = {
        let state = mesh.state();
        let placement = state.placements.proxies.iter().find(|p| p.proxy == proxy)?.clone();
        (state.published(proxy), state.overlays(&placement), placement, state.basis()?)
    };
    let snapshot = match published {
        Some(snapshot) => snapshot,
        None => Arc::new(basis.compiler().snapshot(&placement).ok()?),
    };
    Some(ProxyConfiguration {
        proxy: proxy.to_owned(),
        version: mesh.ads.proxy(proxy).and_then(|state| state.published),
        digest: xds::digest::digest(&snapshot, &overlays),
        overlays,
        snapshot: Arc::unwrap_or_clone(snapshot),
    })
}

/// What a proxy says of its requests after a position.
///
/// # Errors
/// When there is no such proxy, or it does not answer.
pub(crate) async fn requests(mesh: &Mesh, proxy: &str, after: Option<u64>) -> Result<RequestsReport, Refusal> {
    if !mesh.state().placements.proxies.iter().any(|placed| placed.proxy == proxy) {
        return Err(Refusal::Missing(format!("there is no proxy {proxy}")));
    }
    let path = after.map_or_else(|| "/requests".to_owned(), |after| format!("/requests?after={after}"));
    mesh.ask(proxy, &path, REQUESTS_LIMIT).await.map_err(|error| {
        let (AskError::Silent(reason) | AskError::Foreign(reason)) = error;
        Refusal::Conflict(format!("proxy {proxy} tells nothing of its requests: {reason}"))
    })
}

/// Why a proxy that is up says nothing of itself.
fn foreign(node: Option<&NodeInfo>, reason: &str) -> String {
    match node.map(|node| node.agent.as_str()).filter(|agent| !agent.is_empty() && !agent.starts_with("firedrill")) {
        Some(agent) => format!(
            "it is {agent}, not a Firedrill proxy: it tells neither its configuration's digest nor events, and takes \
             no faults and no routing controls"
        ),
        None => reason.to_owned(),
    }
}

/// Follows the events of every placed proxy, for ever.
pub(crate) async fn collect(mesh: Arc<Mesh>) {
    let mut changes = mesh.changes();
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<(String, SocketAddr), AbortHandle> = BTreeMap::new();
    let silent = Arc::new(Silent::default());
    let mut followed: Option<Arc<Placements>> = None;
    loop {
        let placements = mesh.state().placements.clone();
        // Most changes are of something else.
        let same = followed.as_ref().is_some_and(|followed| Arc::ptr_eq(followed, &placements));
        if !same {
            let placed: BTreeSet<(&str, SocketAddr)> =
                placements.proxies.iter().map(|p| (p.proxy.as_str(), p.admin)).collect();
            running.retain(|(proxy, admin), task| {
                let keep = placed.contains(&(proxy.as_str(), *admin));
                if !keep {
                    task.abort();
                    mesh.state().views.forget(proxy);
                }
                keep
            });
            for (proxy, admin) in placed {
                let key = (proxy.to_owned(), admin);
                running
                    .entry(key)
                    .or_insert_with_key(|(proxy, _)| tasks.spawn(follow(mesh.clone(), proxy.clone(), silent.clone())));
            }
            followed = Some(placements);
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Number of proxies that do not answer.
#[derive(Default)]
struct Silent(AtomicU32);

/// One of them, until it is dropped.
struct Silence(Arc<Silent>);

impl Silence {
    fn of(silent: Arc<Silent>) -> Self {
        silent.0.fetch_add(1, Ordering::Relaxed);
        Self(silent)
    }

    /// How long it is left alone.
    fn pause(&self) -> Duration {
        PAUSE.max(SHARE * self.0.0.load(Ordering::Relaxed))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Follows one proxy over its restarts.
async fn follow(mesh: Arc<Mesh>, proxy: String, silent: Arc<Silent>) {
    let mut at: Option<(String, u64)> = None;
    // When it was last heard: a status that is old says nothing of the present.
    let mut heard = Instant::now();
    // Who answers after a silence may be a new process, which does not know our position: it is not waited for.
    let mut wait = Duration::ZERO;
    // Held while it does not answer.
    let mut silence = None;
    loop {
        let after = at.as_ref().map_or(0, |(_, sequence)| *sequence);
        let path = format!("/events?after={after}&wait_ms={}", wait.as_millis());
        match mesh.ask::<Batch>(&proxy, &path, POLL + Duration::from_secs(1)).await {
            Ok(batch) => {
                heard = Instant::now();
                wait = POLL;
                silence = None;
                take_in(&mesh, &proxy, &mut at, batch).await;
            }
            Err(error) => {
                wait = Duration::ZERO;
                let pause = match error {
                    AskError::Silent(_) => silence.get_or_insert_with(|| Silence::of(silent.clone())).pause(),
                    AskError::Foreign(reason) => {
                        tracing::debug!(proxy, reason, "this proxy has no event log");
                        LONG_PAUSE
                    }
                };
                if heard.elapsed() > PAUSE {
                    mesh.state().views.forget(&proxy);
                    mesh.changed();
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn take_in(mesh: &Mesh, proxy: &str, at: &mut Option<(String, u64)>, batch: Batch) {
    let same = at.as_ref().is_some_and(|(boot, _)| *boot == batch.boot);
    if at.is_some() && !same {
        // Positions of the former process mean nothing to this one: read it from its beginning.
        *at = Some((batch.boot, 0));
        mesh.state().views.forget(proxy);
        return;
    }
    let after = at.as_ref().map_or(0, |(_, sequence)| *sequence);
    let expected = after + 1;
    let first = batch.events.first().map(|event| event.sequence);
    let missed = batch.dropped.max(first.map_or(0, |first| first.saturating_sub(expected)));
    if missed > 0 {
        mesh.log.say(ControlEvent::EventsMissed { proxy: proxy.to_owned(), count: missed });
    }
    // Clusters may have come or gone with a snapshot; and what was not seen from its beginning is asked for as a whole.
    let resync =
        !same || missed > 0 || batch.events.iter().any(|e| matches!(e.kind, EventKind::SnapshotApplied { .. }));
    let last = batch.events.last().map_or(after, |event| event.sequence);
    let mut changed = false;
    for event in batch.events {
        changed |= mesh.state().views.follow(proxy, &event);
        mesh.log.tell(proxy, &batch.boot, event);
    }
    *at = Some((batch.boot, last));
    if resync || !mesh.state().views.knows(proxy) {
        match mesh.ask::<ProxyStatus>(proxy, "/status", STATUS_LIMIT).await {
            Ok(status) => changed |= mesh.state().views.replace(proxy, &status),
            // The next batch tries again, since the proxy is not known then.
            Err(_) => {
                mesh.state().views.forget(proxy);
                changed = true;
            }
        }
    }
    if changed {
        mesh.changed();
    }
}
