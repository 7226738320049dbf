//! A configuration written out as manifests again, with every default visible. What is printed is itself valid.

mod recovery;
mod yaml;

use model::{
    config::{ActiveCheck, Allow, Backup, Caller, Config, Endpoint, Hedge, Mesh, Place, Prefer, Protocol, RegionPreference, RetryOn, Service, TrafficPolicy},
    unit::print_duration,
};
use serde_json::{Value, json};

/// Every manifest: the mesh, then services, plans, drills and backups by name.
pub fn manifests(config: &Config) -> Vec<Value> {
    let mut all = vec![manifest("Mesh", &config.mesh.name, mesh(&config.mesh))];
    all.extend(config.services.values().map(|s| manifest("Service", s.name.as_str(), service(s))));
    all.extend(config.plans.values().map(|p| manifest("RecoveryPlan", p.name.as_str(), recovery::plan(p))));
    all.extend(config.drills.values().map(|d| manifest("Drill", d.name.as_str(), recovery::drill(d))));
    all.extend(config.backups.values().map(|b| manifest("Backup", &b.name, backup(b))));
    all
}

/// The same as YAML documents.
pub fn yaml(config: &Config) -> String {
    manifests(config).iter().map(yaml::document).collect::<Vec<_>>().join("---\n")
}

fn manifest(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "firedrill.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn mesh(mesh: &Mesh) -> Value {
    let gateways = mesh.gateways.iter().map(|gateway| {
        let routes = gateway.routes.iter().map(|r| json!({"prefix": r.prefix, "service": r.service}));
        json!({"name": gateway.name, "listen": gateway.listen.to_string(), "routes": routes.collect::<Vec<_>>()})
    });
    json!({
        "trustDomain": mesh.trust_domain,
        "regions": mesh.regions,
        "identity": {"builtin": {"certificateLifetime": print_duration(mesh.certificate_lifetime)}},
        "gateways": gateways.collect::<Vec<_>>(),
        "defaults": policy(&mesh.defaults),
    })
}

fn policy(policy: &TrafficPolicy) -> Value {
    let on = policy.retries.on.iter().map(|on| match on {
        RetryOn::ConnectFailure => "connectFailure",
        RetryOn::Reset => "reset",
        RetryOn::GatewayError => "gatewayError",
    });
    let hedge = match &policy.hedge {
        Some(Hedge { at_least, at_most }) => {
            json!({"atLeast": print_duration(*at_least), "atMost": print_duration(*at_most)})
        }
        None => json!("off"),
    };
    json!({
        "timeout": print_duration(policy.timeout),
        "retries": {
            "attempts": policy.retries.attempts,
            "perTry": print_duration(policy.retries.per_try),
            "on": on.collect::<Vec<_>>(),
        },
        "hedge": hedge,
        "detection": {
            "consecutiveErrors": policy.detection.consecutive_errors.map_or_else(|| json!("off"), |n| json!(n)),
            "ejection": print_duration(policy.detection.ejection),
            "activeCheck": policy.detection.active_check.as_ref().map_or_else(|| json!("off"), active_check),
        },
    })
}

fn active_check(check: &ActiveCheck) -> Value {
    let mut out = match &check.http {
        Some(path) => json!({"http": path}),
        None => json!({"tcp": true}),
    };
    out["every"] = print_duration(check.every).into();
    out["timeout"] = print_duration(check.timeout).into();
    out["unhealthyAfter"] = check.unhealthy_after.into();
    out["healthyAfter"] = check.healthy_after.into();
    out
}

fn service(service: &Service) -> Value {
    let protocol = match service.protocol {
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Tcp => "tcp",
    };
    let mut out = json!({
        "protocol": protocol,
        "endpoints": service.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "calls": service.calls,
    });
    if let Value::Object(fields) = policy(&service.policy) {
        for (name, value) in fields {
            out[name] = value;
        }
    }
    if !service.routes.is_empty() {
        out["routes"] = service.routes.iter().map(route).collect();
    }
    if let Some(allow) = &service.authorization {
        out["authorization"] = json!({"allow": allow.iter().map(permission).collect::<Vec<_>>()});
    }
    out
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let mut out = json!({"region": endpoint.region, "version": endpoint.version});
    if let Some(capacity) = endpoint.capacity {
        out["capacity"] = capacity.to_string().into();
    }
    out["weight"] = endpoint.weight.into();
    match &endpoint.place {
        Place::Run(command) => out["run"] = json!(command),
        Place::Address(address) => out["address"] = address.to_string().into(),
    }
    out
}

fn route(route: &RegionPreference) -> Value {
    let prefer = match &route.prefer {
        Prefer::SameRegion => json!("sameRegion"),
        Prefer::Order(regions) => json!(regions),
    };
    match &route.caller {
        Some(caller) => json!({"when": {"caller": caller}, "prefer": prefer}),
        None => json!({"prefer": prefer}),
    }
}

fn permission(allow: &Allow) -> Value {
    let from = match &allow.from {
        Caller::Service(name) => name.to_string(),
        Caller::Gateway(name) => name.to_string(),
    };
    let mut out = json!({"from": from});
    if !allow.methods.is_empty() {
        out["methods"] = json!(allow.methods);
    }
    if !allow.paths.is_empty() {
        out["paths"] = json!(allow.paths);
    }
    out
}

fn backup(backup: &Backup) -> Value {
    json!({
        "service": backup.service,
        "every": print_duration(backup.every),
        "command": backup.command,
        "restore": backup.restore,
        "check": backup.check,
    })
}
