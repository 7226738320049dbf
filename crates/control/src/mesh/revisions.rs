//! Manifests as the mesh takes them: validated as a whole, stored, then in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::config::{Config, Place};
use serde_json::Value;

use super::{Failure, Mesh, State, sources};
use crate::{
    api::{
        Applied, ApplyRequest, ControlEvent, ManifestFile, ObjectChanges, Placements, Revision, RollbackRequest,
        SourceReport, Stamp,
    },
    compile::{self, Change},
    overlays::Refusal,
    standing,
    store::{Before, NewRevision},
};

/// Longest author, message, commit, in bytes.
const WORDS: [(&str, usize); 3] = [("author", 200), ("message", 2000), ("commit", 100)];

impl Mesh {
    /// Validates, stores and publishes manifests.
    pub(crate) async fn apply(&self, request: ApplyRequest) -> Result<Applied, Failure> {
        self.change(request, None).await
    }

    /// Makes a new revision with the files of an old one, and publishes it.
    pub(crate) async fn roll_back(&self, number: u64, request: RollbackRequest) -> Result<Applied, Failure> {
        let missing = || Refusal::Missing(format!("there is no revision {number}"));
        let Revision { files, commit, .. } = self.store.revision(number).await?.ok_or_else(missing)?;
        let RollbackRequest { author, message, expect, dry_run, during_drill } = request;
        let request = ApplyRequest { files, author, message, commit, expect, prune: true, dry_run, during_drill };
        self.change(request, Some(number)).await
    }

    async fn change(&self, request: ApplyRequest, restores: Option<u64>) -> Result<Applied, Failure> {
        check_words(&request)?;
        let problem = |p: &model::Problem| serde_json::to_value(p).unwrap_or_default();
        let parsed = model::parse(&sources(&request.files))
            .map_err(|problems| Failure::Manifests(problems.iter().map(problem).collect()))?;
        let unsupported = compile::unsupported(&parsed.config);
        if !unsupported.is_empty() {
            return Err(Refusal::Invalid(unsupported.join("; ")).into());
        }
        let _order = self.changing.lock().await;
        let ApplyRequest { author, message, commit, .. } = &request;
        let (commit, time) = (commit.as_deref(), self.clock.now());
        let new = NewRevision { files: &request.files, author, message, commit, restores, time };
        let mut objects = ObjectChanges::default();
        let connected = self.ads.proxies().values().filter(|proxy| proxy.connected).count();
        let held = self.state().table.ids();
        let check = |before: Before<'_>| {
            objects = judge(&before, &request, &parsed.config, connected)?;
            undisturbed(&request, &objects, &held)?;
            Ok::<_, Failure>(())
        };
        let stored = self.store.apply(new, !request.dry_run, check).await?;
        let unplaced = unplaced(&parsed.config, &self.state().placements);
        if !request.dry_run {
            self.put_in_force(&stored.revision, Arc::new(parsed.config));
            if stored.changed {
                self.say_applied(&stored.revision);
            }
        }
        Ok(Applied {
            revision: stored.revision.number,
            previous: stored.previous,
            changed: stored.changed,
            digest: stored.revision.digest,
            objects,
            unplaced,
            warnings: parsed.warnings.iter().map(problem).collect(),
        })
    }

    fn put_in_force(&self, revision: &Revision, config: Arc<Config>) {
        let mut state: std::sync::MutexGuard<'_, State> = self.state();
        state.config = Some(config);
        state.revision = revision.number;
        self.publish(&mut state, &Change::Everything);
        drop(state);
        self.changed();
    }

    pub(super) fn say_applied(&self, revision: &Revision) {
        let Revision { number, digest, author, commit, restores, .. } = revision.clone();
        self.log.say(ControlEvent::RevisionApplied { revision: number, digest, author, commit, restores });
    }

    /// Takes note of how watched manifests stand; what is new is told.
    pub(crate) fn note_source(&self, report: SourceReport) {
        let mut state = self.state();
        let known = state.source.replace(report.clone());
        drop(state);
        if known.as_ref() != Some(&report) {
            self.log.say(ControlEvent::SourceChanged(report));
        }
    }
}

/// What is stored for ever is bounded, and can be printed.
fn check_words(request: &ApplyRequest) -> Result<(), Refusal> {
    let given = [request.author.as_str(), &request.message, request.commit.as_deref().unwrap_or_default()];
    for ((what, most), text) in WORDS.into_iter().zip(given) {
        if text.len() > most {
            return Err(Refusal::Invalid(format!("the {what} has {} bytes; {most} are the most", text.len())));
        }
        if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            return Err(Refusal::Invalid(format!("the {what} has control characters in it")));
        }
    }
    if request.author.trim().is_empty() {
        return Err(Refusal::Invalid("say who applies: the author is empty".to_owned()));
    }
    Ok(())
}

/// What would change, if it may while as many proxies are connected.
fn judge(
    before: &Before<'_>,
    request: &ApplyRequest,
    config: &Config,
    connected: usize,
) -> Result<ObjectChanges, Failure> {
    let in_force = before.latest.map_or(0, |latest| latest.number);
    if let Some(expected) = request.expect.filter(|expected| *expected != in_force) {
        return Err(Failure::Stale(stale(expected, before.latest)));
    }
    // What is not accepted any more is in force nowhere: nothing is lost with it.
    let old = before.latest.and_then(|latest| parsed(&latest.files));
    let objects = compare(&old.as_ref().map(objects).unwrap_or_default(), &self::objects(config));
    if !request.prune && !objects.removed.is_empty() {
        let removed = objects.removed.join(", ");
        return Err(Refusal::Conflict(format!(
            "these are in force and not in the manifests: {removed}; name all manifests, or remove them with `--prune`"
        ))
        .into());
    }
    let lost: Vec<&str> = before
        .recovering
        .iter()
        .map(|(plan, _)| plan.as_str())
        .filter(|plan| !config.plans.keys().any(|known| known.as_str() == *plan))
        .collect();
    if !lost.is_empty() {
        return Err(Refusal::Conflict(format!(
            "recovery of {} is not at rest, and without its plan nothing would take it back; fail it back first",
            lost.join(", ")
        ))
        .into());
    }
    for (plan, row) in before.recovering {
        let of = |config: &Config| config.plans.values().find(|known| known.name.as_str() == plan).cloned();
        if let (Some(old), Some(new)) = (old.as_ref().and_then(of), of(config))
            && let Some(reason) = standing::edit_refused(row, &old, &new)
        {
            return Err(Refusal::Conflict(format!("{reason}; wait for its end, or fail it back first")).into());
        }
    }
    if let Some(old) = old.filter(|_| connected > 0) {
        keeps_identity(&old, config, connected)?;
    }
    Ok(objects)
}

/// A drill compares its mesh with what it was before: it is not changed under it unless that is wanted.
fn undisturbed(request: &ApplyRequest, objects: &ObjectChanges, held: &[String]) -> Result<(), Refusal> {
    if request.during_drill || request.dry_run || held.is_empty() || *objects == ObjectChanges::default() {
        return Ok(());
    }
    Err(Refusal::Conflict(format!(
        "a drill is under way (lease {}), and would end on another configuration than it began with; wait for its end, or \
         apply with `--during-drill`: its verdict will name the revision",
        held.join(", ")
    )))
}

/// Proxies hold certificates of one issuer and one trust domain, and take others only when they start: in between, the old
/// and the new would refuse each other.
fn keeps_identity(old: &Config, new: &Config, connected: usize) -> Result<(), Refusal> {
    let (old, new) = (&old.mesh, &new.mesh);
    let field = match (old.trust_domain == new.trust_domain, old.identity == new.identity) {
        (true, true) => return Ok(()),
        (true, false) => "identity",
        (false, _) => "trustDomain",
    };
    Err(Refusal::Conflict(format!(
        "`{field}` of the Mesh cannot change while proxies run ({connected} are connected): those with certificates of \
         before and those with new ones would refuse each other. Stop the mesh and start it with these manifests; \
         docs/identity.md, \"Another issuer\", says how"
    )))
}

fn stale(expected: u64, latest: Option<&Revision>) -> String {
    match latest {
        None => format!("no manifests are in force yet, not revision {expected} as expected"),
        Some(latest) => {
            let said = if latest.message.is_empty() { String::new() } else { format!(" (\"{}\")", latest.message) };
            format!(
                "revision {} is in force, not {expected} as expected: {} applied it at {}{said}; look at `firedrill diff \
                 {expected} {}` and apply again",
                latest.number,
                latest.author,
                when(latest.time),
                latest.number
            )
        }
    }
}

/// In whole seconds, UTC.
fn when(time: Stamp) -> String {
    jiff::Timestamp::from_second(time.0.div_euclid(1_000_000_000)).unwrap_or_default().to_string()
}

fn parsed(files: &[ManifestFile]) -> Option<Config> {
    model::parse(&sources(files)).ok().map(|parsed| parsed.config)
}

/// Every object with all that it says, as `Kind/name`.
fn objects(config: &Config) -> BTreeMap<String, Value> {
    let Value::Array(documents) = model::canonical(config) else { return BTreeMap::new() };
    let name = |document: &Value| {
        let (kind, name) = (document["kind"].as_str()?, document["metadata"]["name"].as_str()?);
        Some(format!("{kind}/{name}"))
    };
    documents.into_iter().filter_map(|document| Some((name(&document)?, document))).collect()
}

fn compare(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> ObjectChanges {
    let names = |of: &BTreeMap<String, Value>, pick: &dyn Fn(&String, &Value) -> bool| -> Vec<String> {
        of.iter().filter(|(name, value)| pick(name, value)).map(|(name, _)| name.clone()).collect()
    };
    ObjectChanges {
        added: names(new, &|name, _| !old.contains_key(name)),
        changed: names(new, &|name, value| old.get(name).is_some_and(|before| before != value)),
        removed: names(old, &|name, _| !new.contains_key(name)),
    }
}

/// Workloads to run, and gateways, that are placed nowhere. Before the first placements everything is still to come.
fn unplaced(config: &Config, placements: &Placements) -> Vec<String> {
    if placements.proxies.is_empty() {
        return Vec::new();
    }
    let placed: BTreeSet<&str> = placements.proxies.iter().map(|placement| placement.proxy.as_str()).collect();
    let endpoints = config.services.values().flat_map(|service| &service.endpoints);
    let run = endpoints.filter(|endpoint| matches!(endpoint.place, Place::Run(_)));
    let gateways = config.mesh.gateways.iter().map(|gateway| gateway.name.to_string());
    let names = run.map(|endpoint| endpoint.workload.to_string()).chain(gateways);
    names.filter(|workload| !placed.contains(workload.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use model::config::Identity;

    use super::*;
    use crate::testing::{bank, bank_files, place};

    fn request(files: Vec<ManifestFile>) -> ApplyRequest {
        ApplyRequest { files, author: "ann".to_owned(), message: "m".to_owned(), ..ApplyRequest::default() }
    }

    fn revision(number: u64) -> Revision {
        Revision {
            number,
            author: "bob".to_owned(),
            message: String::new(),
            time: Stamp(0),
            commit: None,
            restores: None,
            digest: String::new(),
            files: bank_files(),
        }
    }

    #[test]
    fn an_object_is_never_lost_by_accident() {
        let (all, latest) = (bank(), revision(4));
        let mut fewer = all.clone();
        fewer.backups.clear();
        fewer.drills.clear();
        let before = Before { latest: Some(&latest), recovering: &[] };
        let Err(Failure::Refused(Refusal::Conflict(reason))) = judge(&before, &request(bank_files()), &fewer, 9) else {
            panic!("not refused")
        };
        assert!(reason.contains("Drill/lose-east") && reason.contains("--prune"), "{reason}");
        let pruned = judge(&before, &ApplyRequest { prune: true, ..request(bank_files()) }, &fewer, 9);
        let Ok(changes) = pruned else { panic!("refused") };
        assert!(changes.removed.contains(&"Drill/lose-east".to_owned()) && changes.added.is_empty());
        let Ok(changes) = judge(&before, &request(bank_files()), &all, 9) else { panic!("refused") };
        assert_eq!(changes, ObjectChanges::default(), "the same, however it is written");
    }

    #[test]
    fn a_clash_is_told_with_who_and_when() {
        let mut latest = revision(7);
        latest.message = "more time".to_owned();
        let before = Before { latest: Some(&latest), recovering: &[] };
        let judged = judge(&before, &ApplyRequest { expect: Some(5), ..request(bank_files()) }, &bank(), 9);
        let Err(Failure::Stale(reason)) = judged else { panic!("not refused") };
        for part in ["revision 7", "not 5", "bob", "1970-01-01T00:00:00Z", "more time", "firedrill diff 5 7"] {
            assert!(reason.contains(part), "{part}: {reason}");
        }
        assert!(judge(&before, &ApplyRequest { expect: Some(7), ..request(bank_files()) }, &bank(), 9).is_ok());
        let none = Before { latest: None, recovering: &[] };
        assert!(judge(&none, &ApplyRequest { expect: Some(1), ..request(bank_files()) }, &bank(), 9).is_err());
        assert!(judge(&none, &ApplyRequest { expect: Some(0), ..request(bank_files()) }, &bank(), 9).is_ok());
    }

    #[test]
    fn a_plan_that_is_failed_over_stays() {
        let (latest, mut without) = (revision(1), bank());
        without.plans.clear();
        without.drills.clear();
        let prune = ApplyRequest { prune: true, ..request(bank_files()) };
        let recovering = [("bank-west".to_owned(), "{}".to_owned())];
        let refused = judge(&Before { latest: Some(&latest), recovering: &recovering }, &prune, &without, 9);
        let Err(Failure::Refused(Refusal::Conflict(reason))) = refused else { panic!("not refused") };
        assert!(reason.contains("bank-west") && reason.contains("fail it back"), "{reason}");
        assert!(judge(&Before { latest: Some(&latest), recovering: &[] }, &prune, &without, 9).is_ok());
        assert!(judge(&Before { latest: Some(&latest), recovering: &recovering }, &prune, &bank(), 9).is_ok());
    }

    #[test]
    fn who_issues_certificates_changes_only_while_no_proxy_runs() {
        let latest = revision(1);
        let before = Before { latest: Some(&latest), recovering: &[] };
        let (mut issued, mut renamed, mut shorter) = (bank(), bank(), bank());
        issued.mesh.identity = Identity::Spire { socket: "/run/spire/agent.sock".to_owned() };
        renamed.mesh.trust_domain = "other.example".to_owned();
        shorter.mesh.certificate_lifetime /= 2;
        for (config, field) in [(&issued, "`identity`"), (&renamed, "`trustDomain`")] {
            let judged = judge(&before, &request(bank_files()), config, 1);
            let Err(Failure::Refused(Refusal::Conflict(reason))) = judged else { panic!("not refused") };
            assert!(reason.contains(field) && reason.contains("1 are connected"), "{reason}");
            assert!(judge(&before, &request(bank_files()), config, 0).is_ok());
        }
        assert!(judge(&before, &request(bank_files()), &shorter, 1).is_ok());
    }

    #[test]
    fn what_runs_nowhere_is_named() {
        let config = bank();
        let mut placements = place(&config);
        assert!(unplaced(&config, &placements).is_empty());
        assert!(unplaced(&config, &Placements::default()).is_empty());
        placements.proxies.retain(|placement| placement.proxy != "fx-west-0");
        assert_eq!(unplaced(&config, &placements), ["fx-west-0"]);
        placements.proxies.retain(|placement| placement.proxy != "edge");
        assert_eq!(unplaced(&config, &placements), ["fx-west-0", "edge"]);
    }

    #[test]
    fn a_drill_is_not_disturbed_by_accident() {
        let changed = ObjectChanges { changed: vec!["Mesh/bank".to_owned()], ..ObjectChanges::default() };
        let held = ["drill-lose-east-3".to_owned()];
        let plain = request(Vec::new());
        let Err(Refusal::Conflict(reason)) = undisturbed(&plain, &changed, &held) else { panic!("not refused") };
        assert!(reason.contains("drill-lose-east-3") && reason.contains("--during-drill"), "{reason}");
        assert_eq!(undisturbed(&plain, &changed, &[]), Ok(()));
        assert_eq!(undisturbed(&plain, &ObjectChanges::default(), &held), Ok(()));
        assert_eq!(undisturbed(&ApplyRequest { dry_run: true, ..plain.clone() }, &changed, &held), Ok(()));
        assert_eq!(undisturbed(&ApplyRequest { during_drill: true, ..plain }, &changed, &held), Ok(()));
    }

    #[test]
    fn words_are_bounded() {
        assert_eq!(check_words(&request(Vec::new())), Ok(()));
        let cases = [
            ApplyRequest { author: " ".to_owned(), ..request(Vec::new()) },
            ApplyRequest { author: "a".repeat(201), ..request(Vec::new()) },
            ApplyRequest { message: "m".repeat(2001), ..request(Vec::new()) },
            ApplyRequest { message: "\u{0}".to_owned(), ..request(Vec::new()) },
            ApplyRequest { commit: Some("\u{1b}[31m".to_owned()), ..request(Vec::new()) },
        ];
        for case in cases {
            assert!(check_words(&case).is_err(), "{case:?}");
        }
    }
}
