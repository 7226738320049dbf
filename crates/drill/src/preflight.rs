//! Whether a mesh may be drilled now, decided from one look at it.

use std::collections::BTreeMap;

use model::config::{Pattern, RecoveryPlan};

use crate::{
    normal::displaced,
    target::{EndpointReport, ProxyReport, Recovery},
};

/// One look at the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Every endpoint of the plan's services, checked.
    pub endpoints: Vec<EndpointReport>,
    /// Every proxy.
    pub proxies: Vec<ProxyReport>,
    /// Where recovery of the plan stands.
    pub recovery: Recovery,
}

/// Why the mesh may not be drilled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objections {
    /// What time does not mend.
    pub lasting: Vec<String>,
    /// What may pass by itself: processes on their way back, ramps, leases that lapse.
    pub passing: Vec<String>,
}

impl Objections {
    /// True if the mesh may be drilled.
    pub fn is_empty(&self) -> bool {
        self.lasting.is_empty() && self.passing.is_empty()
    }

    /// All of them.
    pub fn into_reasons(self) -> Vec<String> {
        let mut reasons = self.lasting;
        reasons.extend(self.passing);
        reasons
    }
}

/// Why the mesh may not be drilled now.
pub fn objections(look: &Look, plan: &RecoveryPlan) -> Objections {
    let mut found = Objections::default();
    endpoints(&look.endpoints, plan, &mut found);
    proxies(&look.proxies, &mut found.passing);
    if let Recovery::Active(what) = &look.recovery {
        found.passing.push(format!("recovery of {} is not at rest: {what}", plan.name));
    }
    found.passing.extend(displaced(&look.proxies, plan));
    found
}

fn endpoints(endpoints: &[EndpointReport], plan: &RecoveryPlan, found: &mut Objections) {
    let Pattern::ActivePassive { primary, standby, .. } = &plan.pattern;
    let role = |region: &str| match region {
        region if region == primary.as_str() => "primary",
        region if standby.iter().any(|s| s.as_str() == region) => "standby",
        _ => "endpoint",
    };
    for service in &plan.services {
        for region in std::iter::once(primary).chain(standby) {
            let here = |e: &&EndpointReport| e.service == service.as_str() && e.region == region.as_str();
            if !endpoints.iter().any(|e| here(&e)) {
                found.lasting.push(format!("{} {service} in {region}: it has no endpoint", role(region.as_str())));
            }
        }
    }
    for endpoint in endpoints {
        // One that cannot be reached may be starting, and fails its other checks for that.
        let unreachable = endpoint.checks.get("reachable").is_some_and(Result::is_err);
        let reasons = if unreachable { &mut found.passing } else { &mut found.lasting };
        for (check, result) in &endpoint.checks {
            if let Err(seen) = result {
                let EndpointReport { workload, region, .. } = endpoint;
                reasons.push(format!("{} {workload} in {region}: {check} failed: {seen}", role(region)));
            }
        }
    }
}

fn proxies(proxies: &[ProxyReport], reasons: &mut Vec<String>) {
    if proxies.is_empty() {
        reasons.push("there is no proxy in the mesh, so nothing can be observed".to_owned());
    }
    for proxy in proxies {
        let name = &proxy.name;
        if let Err(seen) = &proxy.digest {
            reasons.push(format!("proxy {name} does not tell its configuration: {seen}"));
        } else if !proxy.in_sync {
            reasons.push(format!("proxy {name} does not hold what the control plane wants it to hold"));
        }
        if !proxy.overlays.is_empty() {
            reasons.push(format!("proxy {name} carries overlays of others: {}", proxy.overlays.join(", ")));
        }
    }
}

/// Digests by proxy, of those that tell theirs.
pub fn digests(proxies: &[ProxyReport]) -> BTreeMap<String, String> {
    let digest = |proxy: &ProxyReport| proxy.digest.as_ref().ok().map(|digest| (proxy.name.clone(), digest.clone()));
    proxies.iter().filter_map(digest).collect()
}

/// Proxies of `before` whose digest is not the same now, or unknown.
pub fn differing(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    before.iter().filter(|(name, digest)| after.get(*name) != Some(digest)).map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const LASTING: [&str; 2] = ["standby app in west: it has no endpoint", "refusesStrangers failed: 200"];

    #[test]
    fn objections_name_what_is_wrong() {
        let check = |change: fn(&mut Look), parts: &[&str]| {
            let plan = testing::plan();
            let mut look = testing::look();
            change(&mut look);
            let found = objections(&look, &plan);
            let (lasting, reasons) = (found.lasting.clone(), found.into_reasons());
            assert_eq!(lasting.len(), parts.iter().filter(|part| LASTING.contains(*part)).count(), "{reasons:?}");
            assert_eq!(reasons.len(), parts.len(), "{reasons:?}");
            for (reason, part) in reasons.iter().zip(parts) {
                assert!(reason.contains(part), "{reason} / {part}");
            }
        };
        check(|_| (), &[]);
        let active = |look: &mut Look| look.recovery = Recovery::Active("failing back".into());
        check(active, &["recovery of plan is not at rest: failing back"]);
        check(|look| look.proxies[0].loads[0].tiers = vec![50, 50], &["app at edge: 50 % of the load goes to east"]);
        check(|look| look.proxies.clear(), &["no proxy"]);
        check(|look| look.proxies[0].in_sync = false, &["does not hold"]);
        check(|look| look.proxies[0].digest = Err("refused".into()), &["edge does not tell"]);
        check(|look| look.proxies[1].overlays.push("x".into()), &["overlays of others: x"]);
        check(|look| look.endpoints.retain(|e| e.region == "east"), &["standby app in west: it has no endpoint"]);
        check(
            |look| {
                look.endpoints[1].checks.insert("reachable".into(), Err("connection refused".into()));
            },
            &["standby app-west-0 in west: reachable failed: connection refused"],
        );
        check(
            |look| {
                look.endpoints[1].checks.insert("refusesStrangers".into(), Err("200".into()));
            },
            &["refusesStrangers failed: 200"],
        );
    }

    #[test]
    fn differences() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let before = map(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert!(differing(&before, &before).is_empty());
        assert_eq!(differing(&before, &map(&[("a", "1"), ("b", "9"), ("d", "4")])), ["b", "c"]);
    }
}
