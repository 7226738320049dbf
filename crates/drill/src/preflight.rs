//! Whether a mesh may be drilled now, decided from one look at it.

use std::collections::BTreeMap;

use model::config::{Pattern, RecoveryPlan};

use crate::target::{EndpointReport, ProxyReport};

/// One look at the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Every endpoint of the plan's services, checked.
    pub endpoints: Vec<EndpointReport>,
    /// Every proxy.
    pub proxies: Vec<ProxyReport>,
    /// No failover is in force.
    pub recovery_normal: bool,
}

/// Why the mesh may not be drilled; empty if it may.
pub fn objections(look: &Look, plan: &RecoveryPlan) -> Vec<String> {
    let mut reasons = Vec::new();
    endpoints(&look.endpoints, plan, &mut reasons);
    proxies(&look.proxies, &mut reasons);
    if !look.recovery_normal {
        reasons.push(format!("recovery of {} is not at rest: a failover or failback is in force", plan.name));
    }
    reasons
}

fn endpoints(endpoints: &[EndpointReport], plan: &RecoveryPlan, reasons: &mut Vec<String>) {
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
                reasons.push(format!("{} {service} in {region}: it has no endpoint", role(region.as_str())));
            }
        }
    }
    for endpoint in endpoints {
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

    #[test]
    fn objections_name_what_is_wrong() {
        let check = |change: fn(&mut Look), parts: &[&str]| {
            let plan = testing::plan();
            let mut look = testing::look();
            change(&mut look);
            let reasons = objections(&look, &plan);
            assert_eq!(reasons.len(), parts.len(), "{reasons:?}");
            for (reason, part) in reasons.iter().zip(parts) {
                assert!(reason.contains(part), "{reason} / {part}");
            }
        };
        check(|_| (), &[]);
        check(|look| look.recovery_normal = false, &["not at rest"]);
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
    }

    #[test]
    fn differences() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let before = map(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert!(differing(&before, &before).is_empty());
        assert_eq!(differing(&before, &map(&[("a", "1"), ("b", "9"), ("d", "4")])), ["b", "c"]);
    }
}
