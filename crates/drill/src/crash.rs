//! Attempts whose engine died: what they owe is paid, and they are sealed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evidence::{
    bundle,
    entry::rfc3339,
    ledger::Ledger,
    record::{Anchor, Attempt, Ending, JournalEntry, Nanos, Phase, Point, ProbeRecord, Registration, TimelinePoint},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    clock::seconds,
    context::LOOK,
    preflight::{differing, digests},
    record::{DrillError, LEASE_TTL, Places, Sealed, lock, open_ledger, seal},
    spool,
    target::Target,
    undo::{Settled, Undo, Undos},
};

/// Who runs undos here.
const BY: &str = "the next start of the drill engine";
/// What leases held must be gone by then: their TTL, and a second.
const GONE: Duration = Duration::from_secs(LEASE_TTL.as_secs() + 1);

/// Finds attempts whose engine died: undoes what their journals say, and seals each as crashed. To be called at every
/// start, before anything else is done with the state folder. With a target, leases that are still held are released,
/// and proxies are compared with before. While another engine runs with the same state folder, nothing is done.
///
/// # Errors
/// When the record cannot be read or kept.
pub async fn recover_crashed<T: Target>(target: Option<Arc<T>>, places: &Places) -> Result<Vec<Sealed>, DrillError> {
    let Some(_lock) = lock(&places.state)? else { return Ok(Vec::new()) };
    if !places.state.join("ledger").exists() {
        return Ok(Vec::new());
    }
    let mut ledger = open_ledger(places)?;
    std::fs::create_dir_all(&places.out).map_err(DrillError::record)?;
    let now = wall(target.as_deref(), None);
    let resumed = bundle::resume(&mut ledger, now, &places.out).map_err(DrillError::record)?;
    // Those of attempts that were sealed with an undo outstanding.
    let undos = Undos::of(&places.state);
    let earlier = undos.retry(|undo| is_sealed(&ledger, undo), BY, || wall(target.as_deref(), None)).await;
    earlier.map_err(DrillError::record)?;
    let mut sealed = Vec::new();
    for open in ledger.open_attempts().map_err(DrillError::record)? {
        sealed
            .push(recover(target.as_deref(), &mut ledger, places, open.registration, open.number, open.journal).await?);
    }
    // Nothing is open any more.
    spool::clear(&places.state).map_err(DrillError::record)?;
    for done in resumed {
        let bytes = std::fs::read(&done.path).map_err(DrillError::record)?;
        let (attempt, results) = bundle::read(&bytes).map_err(DrillError::record)?;
        sealed.push(Sealed { attempt, verdict: results.verdict, results, bundle: done.path });
    }
    Ok(sealed)
}

fn is_sealed(ledger: &Ledger, undo: &Undo) -> bool {
    ledger.attempts().get(&undo.drill, undo.attempt).is_none_or(|known| known.sealed.is_some())
}

/// Now, by the mesh's clock; without a mesh, no earlier than what is known.
fn wall<T: Target>(target: Option<&T>, known: Option<(&Anchor, &[JournalEntry])>) -> i64 {
    let journal = known.map_or(0, |(anchor, journal)| {
        anchor.wall.saturating_add(journal.iter().map(|entry| entry.time).max().unwrap_or(0))
    });
    match target {
        Some(target) => target.now().0.max(journal),
        None => system_time().max(journal),
    }
}

#[allow(clippy::disallowed_methods, reason = "without a mesh there is no shared clock to ask")]
fn system_time() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

async fn recover<T: Target>(
    target: Option<&T>,
    ledger: &mut Ledger,
    places: &Places,
    registration: Registration,
    number: u64,
    journal: Vec<JournalEntry>,
) -> Result<Sealed, DrillError> {
    let mut kept = ledger.journal(&registration.drill, number).map_err(DrillError::record)?;
    let anchor = registration.anchor.clone();
    let mut note = |kind: &str, text: String, detail: Value| {
        let time = wall(target, Some((&anchor, &journal))).saturating_sub(anchor.wall);
        kept.append(JournalEntry { time, kind: kind.to_owned(), text, detail }).map_err(DrillError::record)
    };
    let undos = Undos::of(&places.state);
    for (step, owed) in owed(&journal, &registration, number).into_iter().rev() {
        // The record knows more than the journal: who ran it meanwhile, and what came of it.
        let known = undos.get(&owed.id).map_err(DrillError::record)?.unwrap_or(owed);
        let result = undos.run(&known, BY, false, || wall(target, Some((&anchor, &journal)))).await;
        let text = match &result {
            Ok(settled) => undone(&known.name, settled),
            Err(reason) => format!("{}: could not be undone after the crash: {reason}", known.name),
        };
        note("undo", text, json!({"step": step, "ok": result.is_ok()}))?;
    }
    let owes = undos.all().map_err(DrillError::record)?;
    let owes = owes.into_iter().filter(|undo| undo.drill == registration.drill && undo.attempt == number);
    let (settled, outstanding): (Vec<Undo>, Vec<Undo>) = owes.partition(|undo| undo.settled.is_some());
    let before = before(&journal);
    let mut after = BTreeMap::new();
    if let Some(target) = target {
        for lease in leases(&journal) {
            // Long lapsed, as a rule; a mesh that does not know it is as good as one that releases it.
            let released = matches!(timeout(LEASE_TTL, target.release_lease(&lease)).await, Ok(Ok(())));
            note("effect", format!("lease {lease} released or lapsed"), json!({"lease": lease, "released": released}))?;
        }
        after = compare(target, &before).await;
    }
    let last = journal.iter().map(|entry| entry.time).max().unwrap_or(0);
    let reason = format!("the drill engine died; its last sign of life was {:.1} s into the attempt", seconds(last));
    let now = wall(target, Some((&anchor, &journal)));
    let entries = kept.into_entries();
    let mut attempt = registration.attempt(number, Ending::Crashed { reason }).map_err(DrillError::record)?;
    fill(&mut attempt, &journal);
    attempt.residue.before = before;
    attempt.residue.after = after;
    attempt.journal = entries;
    attempt.probes =
        spool::read(&spool::path(&places.state, &registration.drill, number)).map_err(DrillError::record)?;
    attempt.truncated = attempt.probes.iter().map(whole_until).min();
    attempt.findings = outstanding.iter().map(Undo::finding).collect();
    attempt.undos = outstanding.iter().map(Undo::record).collect();
    attempt.programs = target.map(Target::programs).unwrap_or_default();
    let sealed = seal(attempt, ledger, now, &places.out)?;
    for undo in settled {
        undos.forget(&undo.id).map_err(DrillError::record)?;
    }
    Ok(sealed)
}

/// Every request that was due before has a sample.
fn whole_until(probe: &ProbeRecord) -> Nanos {
    probe.samples.last().map_or(0, |last| last.due.saturating_add(probe.interval))
}

/// Who did it, and when, if that was not this start.
fn undone(name: &str, settled: &Settled) -> String {
    match settled {
        Settled { by, .. } if by == BY => format!("{name}: undone after the crash"),
        Settled { by, time, confirmed: false } => format!("{name}: undone by {by} at {}", rfc3339(*time)),
        Settled { by, time, confirmed: true } => format!("{name}: confirmed as undone by {by} at {}", rfc3339(*time)),
    }
}

/// Waits until every proxy is as before, or what leases held must be gone.
async fn compare<T: Target>(target: &T, before: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let until = Instant::now() + GONE;
    let mut after = BTreeMap::new();
    loop {
        if let Ok(Ok(proxies)) = timeout(LEASE_TTL, target.proxies()).await {
            after = digests(&proxies);
        }
        if differing(before, &after).is_empty() || Instant::now() > until {
            return after;
        }
        sleep(LOOK * 2).await;
    }
}

/// Undo commands that were journalled with their intent, and never done.
fn owed(journal: &[JournalEntry], registration: &Registration, number: u64) -> BTreeMap<u64, Undo> {
    let mut owed = BTreeMap::new();
    for entry in journal {
        let Some(step) = entry.detail.get("step").and_then(Value::as_u64) else { continue };
        match entry.kind.as_str() {
            "intent" => {
                let undo = entry.detail.get("undo").and_then(|undo| read_owed(entry, step, undo, registration, number));
                if let Some(undo) = undo {
                    owed.insert(step, undo);
                }
            }
            "undo" if entry.detail.get("ok") == Some(&Value::Bool(true)) => {
                owed.remove(&step);
            }
            _ => {}
        }
    }
    owed
}

fn read_owed(entry: &JournalEntry, step: u64, undo: &Value, registration: &Registration, number: u64) -> Option<Undo> {
    let timeout = Duration::try_from_secs_f64(undo.get("timeoutSeconds")?.as_f64()?).ok()?;
    let services = registration.about.get("services").cloned().unwrap_or_default();
    Some(Undo {
        id: Undo::id_of(&registration.drill, number, step),
        name: entry.text.clone(),
        drill: registration.drill.clone(),
        attempt: number,
        step,
        plan: registration.plan.clone(),
        services: serde_json::from_value(services).unwrap_or_default(),
        lease: String::new(),
        command: serde_json::from_value(undo.get("command")?.clone()).ok()?,
        environment: serde_json::from_value(undo.get("environment")?.clone()).ok()?,
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        registered: registration.anchor.wall.saturating_add(entry.time),
        failed: None,
        settled: None,
    })
}

fn leases(journal: &[JournalEntry]) -> Vec<String> {
    let lease = |entry: &JournalEntry| entry.detail.get("lease").and_then(Value::as_str).map(str::to_owned);
    let mut leases: Vec<String> = journal.iter().filter_map(lease).collect();
    leases.sort();
    leases.dedup();
    leases
}

fn before(journal: &[JournalEntry]) -> BTreeMap<String, String> {
    let before = journal.iter().find_map(|entry| entry.detail.get("before"));
    before.and_then(|before| serde_json::from_value(before.clone()).ok()).unwrap_or_default()
}

/// What the journal tells of phases and timeline.
fn fill(attempt: &mut Attempt, journal: &[JournalEntry]) {
    for entry in journal.iter().filter(|entry| entry.kind == "phase") {
        if let Some(last) = attempt.phases.last_mut() {
            last.to = Some(entry.time);
        }
        attempt.phases.push(Phase { name: entry.text.clone(), from: entry.time, to: None });
    }
    let mut known: BTreeMap<Point, TimelinePoint> = BTreeMap::new();
    for point in journal.iter().filter_map(|entry| entry.detail.get("point")) {
        if let Ok(point) = serde_json::from_value::<TimelinePoint>(point.clone()) {
            known.entry(point.point).or_insert(point);
        }
    }
    attempt.timeline = known.into_values().collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, detail: Value) -> JournalEntry {
        JournalEntry { time: 0, kind: kind.into(), text: "t".into(), detail }
    }

    fn registration() -> Registration {
        Registration {
            drill: "d".into(),
            plan: "p".into(),
            registered: json!({}),
            about: json!({"services": ["app"]}),
            lost_region: None,
            recovery_regions: Vec::new(),
            anchor: Anchor { wall: 0, error: 0 },
            objectives: evidence::record::Objectives::default(),
            tested: evidence::record::Tested::default(),
            normal: Vec::new(),
        }
    }

    #[test]
    fn only_what_was_not_undone_is_owed() {
        let intent = |step: u64| {
            let undo = json!({"command": ["true"], "environment": {"A": "b"}, "timeoutSeconds": 1.5});
            entry("intent", json!({"step": step, "undo": undo}))
        };
        let undone = |step: u64, ok: bool| entry("undo", json!({"step": step, "ok": ok}));
        let check = |journal: &[JournalEntry], expected: &[u64]| {
            assert_eq!(owed(journal, &registration(), 3).into_keys().collect::<Vec<_>>(), expected);
        };
        check(&[], &[]);
        check(&[intent(0), intent(1)], &[0, 1]);
        check(&[intent(0), intent(1), undone(0, true)], &[1]);
        check(&[intent(0), undone(0, false)], &[0]);
        check(&[entry("intent", json!({"step": 3, "lease": "x"}))], &[]);
        check(&[entry("intent", json!({"step": 3, "undo": {"command": 7}}))], &[]);
        let known = owed(&[intent(0)], &registration(), 3).remove(&0).unwrap();
        assert_eq!((known.timeout(), known.id.as_str()), (Duration::from_millis(1500), "d-3-1"));
        assert_eq!(known.services, ["app"]);
        assert_eq!(known.environment, BTreeMap::from([("A".to_owned(), "b".to_owned())]));
    }
}
