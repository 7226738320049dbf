//! From what is written to a [`Config`]: references resolved, defaults filled in, impossible combinations refused.

mod action;
mod caller;
mod drill;
mod fault;
mod federation;
mod guard;
mod header;
mod identity;
mod mesh;
mod plan;
mod policy;
mod relations;
mod route;
mod service;
mod upstream;

use std::{cell::Cell, collections::BTreeMap, time::Duration};

use crate::{
    config::Config,
    name::{DrillName, PlanName, RegionName, ServiceName},
    near::{list, nearest},
    raw::{self, Manifest, Spec},
    read::{At, Cx},
    scalar::{Time, Word},
    tree::Loc,
};

/// Workloads and gateways of one mesh, so that a slip in a `count` is not expanded without end. How many of them one
/// machine takes is for `up` to say.
const MOST: usize = 10_000;

/// Names that may be referred to, also those of manifests that could not be read as a whole.
pub(crate) struct World {
    /// In the mesh's order; `None`: not all of them could be read, so no reference to one is judged.
    pub regions: Option<Vec<RegionName>>,
    /// Where each service is named.
    pub services: BTreeMap<String, Loc>,
    /// Where each gateway is named; `None` as with regions.
    pub gateways: Option<BTreeMap<String, Loc>>,
    /// Ours and those that the mesh is federated with; `None` as with regions.
    pub trust_domains: Option<Vec<String>>,
    /// Where each plan is named.
    pub plans: BTreeMap<String, Loc>,
    /// Addresses of the mesh's loopback subnet that are left for gateways and workloads.
    pub addresses: Cell<Option<usize>>,
    /// Every document could be told: a name that is not there is not in an unreadable one.
    pub complete: bool,
}

/// What was written of a part of the configuration.
pub(crate) struct Piece<'m, T> {
    pub manifest: &'m Manifest,
    pub spec: &'m At<T>,
    /// It has problems of its own: what seems missing in it may only be wrong.
    pub flawed: bool,
}

/// Kinds and names of everything read, by kind.
struct Sorted<'m> {
    mesh: Option<(&'m Manifest, &'m At<raw::Mesh>)>,
    services: Vec<(&'m Manifest, &'m At<raw::Service>)>,
    plans: Vec<(&'m Manifest, &'m At<raw::RecoveryPlan>)>,
    drills: Vec<(&'m Manifest, &'m At<raw::Drill>)>,
    backups: Vec<(&'m Manifest, &'m At<raw::Backup>)>,
}

/// Where the parts of the configuration were written, for checks between them.
pub(crate) struct Written<'m> {
    pub services: BTreeMap<ServiceName, Piece<'m, raw::Service>>,
    pub plans: BTreeMap<PlanName, Piece<'m, raw::RecoveryPlan>>,
    pub drills: BTreeMap<DrillName, Piece<'m, raw::Drill>>,
}

/// Everything together. `None`: a problem was reported.
pub(crate) fn config(manifests: &[Manifest], complete: bool, cx: &mut Cx<'_>) -> Option<Config> {
    let before = cx.errors();
    let (sorted, world) = sort(manifests, complete, cx);
    let defaults = sorted.mesh.and_then(|(_, m)| m.defaults.as_ref());
    let mesh = sorted.mesh.and_then(|(manifest, spec)| mesh::mesh(manifest, spec, &world, cx));
    let mut written = Written { services: BTreeMap::new(), plans: BTreeMap::new(), drills: BTreeMap::new() };
    let mut services = BTreeMap::new();
    for (manifest, spec) in sorted.services {
        let name = manifest.name.value.clone();
        let before = cx.errors();
        let service = service::service(manifest, spec, defaults, &world, cx);
        let flawed = spec.flawed || cx.errors() > before;
        written.services.insert(name.clone(), Piece { manifest, spec, flawed });
        services.extend(service.map(|s| (name, s)));
    }
    let mut plans = BTreeMap::new();
    for (manifest, spec) in sorted.plans {
        let Ok(name) = PlanName::new(manifest.name.as_str()) else { continue };
        let before = cx.errors();
        let plan = plan::plan(name.clone(), spec, &world, cx);
        let flawed = spec.flawed || cx.errors() > before;
        written.plans.insert(name.clone(), Piece { manifest, spec, flawed });
        plans.extend(plan.map(|p| (name, p)));
    }
    let mut drills = BTreeMap::new();
    for (manifest, spec) in sorted.drills {
        let Ok(name) = DrillName::new(manifest.name.as_str()) else { continue };
        let before = cx.errors();
        let drill = drill::drill(name.clone(), spec, &world, cx);
        let flawed = spec.flawed || cx.errors() > before;
        written.drills.insert(name.clone(), Piece { manifest, spec, flawed });
        drills.extend(drill.map(|d| (name, d)));
    }
    let mut backups = BTreeMap::new();
    for (manifest, spec) in sorted.backups {
        let backup = service::backup(manifest, spec, &world, cx);
        backups.extend(backup.map(|b| (b.name.clone(), b)));
    }
    let config = Config { mesh: mesh?, services, plans, drills, backups };
    relations::check(&config, &written, cx);
    (cx.errors() == before).then_some(config)
}

fn sort<'m>(manifests: &'m [Manifest], complete: bool, cx: &mut Cx<'_>) -> (Sorted<'m>, World) {
    let mut sorted = Sorted { mesh: None, services: vec![], plans: vec![], drills: vec![], backups: vec![] };
    let mut seen: BTreeMap<(&str, &str), Loc> = BTreeMap::new();
    let mut meshes: Option<(Loc, bool)> = None;
    for manifest in manifests {
        let kind = match &manifest.spec {
            Spec::Mesh(_) => "Mesh",
            Spec::Service(_) => "Service",
            Spec::RecoveryPlan(_) => "RecoveryPlan",
            Spec::Drill(_) => "Drill",
            Spec::Backup(_) => "Backup",
        };
        let (name, at) = (manifest.name.as_str(), manifest.name.at);
        if let Some(first) = seen.get(&(kind, name)).copied() {
            let first = cx.place(first);
            cx.error("duplicate-name", at, format!("there are two manifests of kind {kind} with the name `{name}`"))
                .mend("rename or delete one of them")
                .see(first, "first named here");
            continue;
        }
        seen.insert((kind, name), at);
        match &manifest.spec {
            Spec::Mesh(spec) => {
                if let Some((first, _)) = meshes {
                    let first = cx.place(first);
                    cx.error("duplicate-mesh", at, "there are two manifests of kind Mesh")
                        .mend("keep one")
                        .see(first, "the first is here");
                    continue;
                }
                meshes = Some((at, spec.is_some()));
                sorted.mesh = spec.as_ref().map(|s| (manifest, s));
            }
            Spec::Service(spec) => sorted.services.extend(spec.as_ref().map(|s| (manifest, s))),
            Spec::RecoveryPlan(spec) => sorted.plans.extend(spec.as_ref().map(|s| (manifest, s))),
            Spec::Drill(spec) => sorted.drills.extend(spec.as_ref().map(|s| (manifest, s))),
            Spec::Backup(spec) => sorted.backups.extend(spec.as_ref().map(|s| (manifest, s))),
        }
    }
    if meshes.is_none() {
        // Not when a document could not be told: it may be the mesh.
        if complete {
            cx.error_nowhere("missing-mesh", "there is no manifest of kind Mesh")
                .mend("write one with `trustDomain`, `regions` and `gateways`; `firedrill init` prints a starter");
        }
    }
    let names =
        |kind: &str| seen.iter().filter(|((k, _), _)| *k == kind).map(|((_, n), at)| ((*n).to_owned(), *at)).collect();
    let gateways = sorted.mesh.and_then(|(_, m)| m.gateways.as_ref()).map_or(0, |g| g.len());
    // A name that is missing from a list with an unreadable item may be that item's: one mistake, one error.
    let regions = sorted.mesh.filter(|(_, m)| !m.regions.flawed);
    let named_gateways = sorted.mesh.filter(|(_, m)| m.gateways.as_ref().map_or(!m.flawed, |g| !g.flawed));
    let world = World {
        regions: regions.map(|(_, m)| m.regions.iter().map(|r| r.value.clone()).collect()),
        services: names("Service"),
        gateways: named_gateways.map(|(_, m)| {
            m.gateways.iter().flat_map(|g| g.iter()).map(|g| (g.name.as_str().to_owned(), g.name.at)).collect()
        }),
        trust_domains: sorted.mesh.map(|(_, m)| {
            let federated = m.federation.iter().flat_map(|f| f.iter()).map(|f| f.trust_domain.value.clone());
            [m.trust_domain.value.clone()].into_iter().chain(federated).collect()
        }),
        plans: names("RecoveryPlan"),
        addresses: Cell::new(Some(MOST.saturating_sub(gateways))),
        complete,
    };
    (sorted, world)
}

/// Reports a name that is not among the known ones.
fn dangling<'k>(what: &str, name: &str, at: Loc, known: impl Iterator<Item = &'k str> + Clone, cx: &mut Cx<'_>) {
    let near = if cx.is_full() { None } else { nearest(name, known.clone()) };
    let help = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.clone().next().is_none() => format!("there is no {what} at all"),
        None => format!("there is {}", list(known)),
    };
    cx.error("unknown-name", at, format!("there is no {what} `{name}`")).mend(help);
}

impl World {
    /// Whether a region exists; reports if not.
    pub(crate) fn region(&self, region: &At<RegionName>, cx: &mut Cx<'_>) -> Option<RegionName> {
        if let Some(regions) = self.regions.as_ref().filter(|known| !known.contains(&region.value)) {
            dangling("region", region.as_str(), region.at, regions.iter().map(RegionName::as_str), cx);
            return None;
        }
        Some(region.value.clone())
    }

    /// Whether a service exists; reports if not.
    pub(crate) fn service(&self, service: &At<ServiceName>, cx: &mut Cx<'_>) -> Option<ServiceName> {
        if !self.services.contains_key(service.as_str()) {
            if !self.complete {
                return None;
            }
            dangling("service", service.as_str(), service.at, self.services.keys().map(String::as_str), cx);
            return None;
        }
        Some(service.value.clone())
    }
}

/// Reports values that are in a list twice.
fn no_repeats<T: PartialEq + std::fmt::Display>(items: &[At<T>], what: &str, cx: &mut Cx<'_>) {
    for (i, item) in items.iter().enumerate() {
        if let Some(first) = items.iter().take(i).find(|other| other.value == item.value) {
            let first = cx.place(first.at);
            cx.error("duplicate-name", item.at, format!("the {what} `{}` is named twice", item.value))
                .mend("delete one of them")
                .see(first, "first named here");
        }
    }
}

/// A list that must not be empty.
fn not_empty<T>(items: &At<Vec<T>>, message: &str, cx: &mut Cx<'_>) {
    if items.is_empty() && !items.flawed {
        cx.error("empty-list", items.head, message).mend("name at least one");
    }
}

/// A duration above 0; the default if it is not written.
fn positive(time: Option<&At<Time>>, default: Duration, cx: &mut Cx<'_>) -> Duration {
    let Some(time) = time else { return default };
    if time.value.0.is_zero() {
        cx.error("zero", time.at, "the duration must be longer than 0").mend("write a duration, as `1s`");
    }
    time.value.0
}

/// argv, never empty.
fn argv(command: &At<Vec<At<Word>>>, cx: &mut Cx<'_>) -> Vec<String> {
    not_empty(command, "the command is empty", cx);
    if let Some(program) = command.first().filter(|word| word.value.0.trim().is_empty()) {
        cx.error("no-value", program.at, "the program is empty").mend("begin with the program to run");
    }
    command.iter().map(|word| word.value.0.clone()).collect()
}

/// A path that begins with `/`; printable ASCII without blanks.
fn path(path: &At<String>, cx: &mut Cx<'_>) -> String {
    if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) {
        cx.error("bad-path", path.at, format!("`{}` is not a path", path.value))
            .mend("begin it with `/`, without blanks; write other characters percent-encoded");
    }
    path.value.clone()
}

/// A beginning of whole segments: a slash at its end says nothing.
fn segments(path: String) -> String {
    let length = path.trim_end_matches('/').len().max(1).min(path.len());
    path.get(..length).map(str::to_owned).unwrap_or(path)
}

/// Whether every path with the second beginning has the first.
fn covers(prefix: &str, other: &str) -> bool {
    prefix == "/" || other.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// An HTTP method in upper case.
fn method(text: &str, at: Loc, cx: &mut Cx<'_>) -> Option<String> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"];
    if KNOWN.contains(&text) {
        return Some(text.to_owned());
    }
    let help =
        nearest(text, KNOWN).map_or_else(|| format!("use one of {}", list(KNOWN)), |m| format!("did you mean `{m}`?"));
    cx.error("unknown-value", at, format!("`{text}` is not an HTTP method")).mend(help);
    None
}
