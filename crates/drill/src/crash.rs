//! Attempts whose engine died: what they owe is paid, and they are sealed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evidence::{
    bundle,
    ledger::Ledger,
    record::{Anchor, Attempt, Ending, JournalEntry, Phase, Point, Registration, TimelinePoint},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    clock::seconds,
    command,
    context::{LOOK, Owed},
    preflight::{differing, digests},
    record::{DrillError, LEASE_TTL, Places, Sealed, lock, open_ledger, seal},
    target::Target,
};

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
    let mut sealed = Vec::new();
    for open in ledger.open_attempts().map_err(DrillError::record)? {
        sealed
            .push(recover(target.as_deref(), &mut ledger, places, open.registration, open.number, open.journal).await?);
    }
    for done in resumed {
        let bytes = std::fs::read(&done.path).map_err(DrillError::record)?;
        let (attempt, results) = bundle::read(&bytes).map_err(DrillError::record)?;
        sealed.push(Sealed { attempt, verdict: results.verdict, results, bundle: done.path });
    }
    Ok(sealed)
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
    for (step, owed) in owed(&journal).into_iter().rev() {
        let result = command::run(&owed.command, &owed.environment, owed.timeout).await;
        let text = match &result {
            Ok(_) => format!("{}: undone after the crash", owed.name),
            Err(reason) => format!("{}: could not be undone after the crash: {reason}", owed.name),
        };
        note("undo", text, json!({"step": step, "ok": result.is_ok()}))?;
    }
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
    attempt.programs = target.map(Target::programs).unwrap_or_default();
    seal(attempt, ledger, now, &places.out)
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
fn owed(journal: &[JournalEntry]) -> BTreeMap<u64, Owed> {
    let mut owed = BTreeMap::new();
    for entry in journal {
        let Some(step) = entry.detail.get("step").and_then(Value::as_u64) else { continue };
        match entry.kind.as_str() {
            "intent" => {
                if let Some(undo) = entry.detail.get("undo").and_then(|undo| read_owed(entry, undo)) {
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

fn read_owed(entry: &JournalEntry, undo: &Value) -> Option<Owed> {
    let command = serde_json::from_value(undo.get("command")?.clone()).ok()?;
    let environment = serde_json::from_value(undo.get("environment")?.clone()).ok()?;
    let timeout = Duration::try_from_secs_f64(undo.get("timeoutSeconds")?.as_f64()?).ok()?;
    Some(Owed { name: entry.text.clone(), command, environment, timeout })
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

    #[test]
    fn only_what_was_not_undone_is_owed() {
        let intent = |step: u64| {
            let undo = json!({"command": ["true"], "environment": {"A": "b"}, "timeoutSeconds": 1.5});
            entry("intent", json!({"step": step, "undo": undo}))
        };
        let undone = |step: u64, ok: bool| entry("undo", json!({"step": step, "ok": ok}));
        let check = |journal: &[JournalEntry], expected: &[u64]| {
            assert_eq!(owed(journal).into_keys().collect::<Vec<_>>(), expected);
        };
        check(&[], &[]);
        check(&[intent(0), intent(1)], &[0, 1]);
        check(&[intent(0), intent(1), undone(0, true)], &[1]);
        check(&[intent(0), undone(0, false)], &[0]);
        check(&[entry("intent", json!({"step": 3, "lease": "x"}))], &[]);
        check(&[entry("intent", json!({"step": 3, "undo": {"command": 7}}))], &[]);
        let known = owed(&[intent(0)]).remove(&0).unwrap();
        assert_eq!(known.timeout, Duration::from_millis(1500));
        assert_eq!(known.environment, BTreeMap::from([("A".to_owned(), "b".to_owned())]));
    }
}
