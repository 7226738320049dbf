//! Several control planes over one store: this one takes over what the others did, and one of them leads.
//!
//! Every instance serves xDS and the API. Only the leader runs the recovery controller; what is asked of it reaches it as
//! an errand in the store. See `docs/decisions/several-control-planes.md`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    api::{ControlEvent, Stamp},
    mesh::{Failure, Mesh},
    recovery,
    store::{LEAD_TTL, Pulse},
};

/// Between two looks at what the others did.
const LOOK: Duration = Duration::from_millis(100);
/// Between two claims to lead.
const CLAIM: Duration = Duration::from_millis(500);
/// It stops to lead this long before others may begin, so that two never do at once.
const MARGIN: Duration = Duration::from_millis(500);

/// Claims to lead, for ever. `leading` holds the epoch while this instance leads.
pub(crate) async fn lead(mesh: Arc<Mesh>, leading: watch::Sender<Option<u64>>) {
    let mut until = Instant::now();
    let mut claims = interval(CLAIM);
    claims.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        claims.tick().await;
        let asked = Instant::now();
        let bound = if leading.borrow().is_some() { until.saturating_duration_since(asked) } else { LEAD_TTL };
        let epoch = match timeout(bound, mesh.store.lead(&mesh.instance)).await {
            Ok(Ok(epoch)) => {
                until = asked + LEAD_TTL - MARGIN;
                epoch.filter(|_| Instant::now() < until)
            }
            // Nothing is known: what it was, it is until its time has passed.
            Ok(Err(error)) => {
                tracing::warn!(%error, "who leads cannot be told");
                (*leading.borrow()).filter(|_| Instant::now() < until)
            }
            Err(_) => (*leading.borrow()).filter(|_| Instant::now() < until),
        };
        leading.send_if_modified(|leads| {
            let changed = *leads != epoch;
            if changed {
                mesh.log.say(match epoch {
                    Some(epoch) => ControlEvent::LeadershipTaken { epoch },
                    None => ControlEvent::LeadershipLost {},
                });
            }
            *leads = epoch;
            changed
        });
    }
}

/// Takes over what other instances did, for ever, and does what is asked of the leader while it is this one.
pub(crate) async fn follow(mesh: Arc<Mesh>, handle: recovery::Handle) {
    let mut known = Pulse::default();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        looks.tick().await;
        let looked = look(&mesh, &handle, &mut known).await;
        match looked {
            Ok(()) => failing = false,
            // Once, not ten times a second. Proxies keep what they have.
            Err(error) if !failing => {
                failing = true;
                tracing::error!(?error, "what other instances did cannot be read");
            }
            Err(_) => {}
        }
    }
}

async fn look(mesh: &Arc<Mesh>, handle: &recovery::Handle, known: &mut Pulse) -> Result<(), Failure> {
    let pulse = mesh.store.pulse().await?;
    let first = *known == Pulse::default();
    if first {
        // What leaders said before this instance was there is not news.
        known.said = pulse.said;
    }
    if pulse.revision != known.revision || pulse.placements != known.placements {
        mesh.follow_configuration().await?;
    }
    if pulse.recovery != known.recovery && !handle.leads() {
        mesh.follow_recovery(recovery::switches_of).await?;
    }
    if pulse.leases != known.leases {
        mesh.follow_leases().await?;
    }
    if pulse.said > known.said {
        for (time, event) in mesh.store.said(known.said, &mesh.instance).await? {
            mesh.log.hear(time, event);
        }
    }
    if pulse.errands && handle.leads() {
        for (id, errand) in mesh.store.errands().await? {
            // Each by itself: one that takes long does not hold up a drill's next step.
            let (mesh, handle) = (mesh.clone(), handle.clone());
            let answer = handle.run(errand).await;
            mesh.store.answer_errand(&id, &answer).await?;
        }
    }
    // Where this instance leads, recovery is its own; it is read when it no longer does.
    let recovery = if handle.leads() { String::new() } else { pulse.recovery.clone() };
    *known = Pulse { recovery, ..pulse };
    Ok(())
}

/// Passes on what this instance does as the leader, for ever, in order.
pub(crate) async fn speak(mesh: Arc<Mesh>, mut said: mpsc::Receiver<(Stamp, ControlEvent)>) {
    while let Some((time, event)) = said.recv().await {
        if let Err(error) = mesh.store.say(&mesh.instance, time, &event).await {
            tracing::warn!(%error, "other instances do not hear of an event");
        }
    }
    // The sender lives as long as the mesh.
    std::future::pending::<()>().await;
}
