//! Routes of a service by request, as they are written.

use serde_json::{Map, Value, json};

use super::{caller, fault_action, hedge, object, retries};
use crate::{
    config::{
        Forward, HeaderEdits, Is, Mirror, MirrorTo, Named, PathChange, PathMatch, Priority, Redirect, RequestAction,
        RequestMatch, RequestRoute, RouteFault, Sticky,
    },
    unit::print_duration,
};

pub(super) fn request(route: &RequestRoute) -> Value {
    let mut out = match &route.action {
        RequestAction::Redirect(to) => object(json!({"redirect": redirect(to)})),
        RequestAction::Forward(to) => forward(to),
    };
    out.insert("match".into(), matches(&route.matches));
    Value::Object(out)
}

fn matches(matches: &RequestMatch) -> Value {
    let (kind, path) = match &matches.path {
        PathMatch::Exact(path) => ("exact", path),
        PathMatch::Prefix(path) => ("prefix", path),
        PathMatch::PrefixString(path) => ("prefixString", path),
        PathMatch::Regex(path) => ("regex", path),
    };
    let all = |conditions: &[Named]| conditions.iter().map(named).collect::<Vec<_>>();
    json!({
        "path": {kind: path},
        "methods": matches.methods,
        "headers": all(&matches.headers),
        "query": all(&matches.query),
        "cookies": all(&matches.cookies),
        "callers": matches.callers.iter().map(caller).collect::<Vec<_>>(),
    })
}

pub(super) fn named(condition: &Named) -> Value {
    let (kind, what) = match &condition.is {
        Is::Present => ("present", json!(true)),
        Is::Absent => ("absent", json!(true)),
        Is::Exact(text) => ("exact", json!(text)),
        Is::Prefix(text) => ("prefix", json!(text)),
        Is::Regex(text) => ("regex", json!(text)),
    };
    json!({"name": condition.name, kind: what})
}

fn redirect(to: &Redirect) -> Value {
    let mut out = to.path.as_ref().map(change).unwrap_or_default();
    out.insert("status".into(), json!(to.status));
    out.insert("stripQuery".into(), json!(to.strip_query));
    out.extend(to.scheme.as_ref().map(|scheme| ("scheme".to_owned(), json!(scheme))));
    out.extend(to.host.as_ref().map(|host| ("host".to_owned(), json!(host))));
    out.extend(to.port.map(|port| ("port".to_owned(), json!(port))));
    Value::Object(out)
}

fn change(change: &PathChange) -> Map<String, Value> {
    object(match change {
        PathChange::Prefix(prefix) => json!({"prefix": prefix}),
        PathChange::Regex { pattern, with } => json!({"regex": pattern, "with": with}),
    })
}

fn forward(to: &Forward) -> Map<String, Value> {
    let mut out = object(json!({
        "timeout": print_duration(to.timeout),
        "idleTimeout": print_duration(to.idle_timeout),
        "retries": retries(&to.retries),
        "hedge": to.hedge.as_ref().map_or(json!("off"), hedge),
        "mirrors": to.mirrors.iter().map(mirror).collect::<Vec<_>>(),
        "faults": to.faults.iter().map(fault).collect::<Vec<_>>(),
    }));
    if !to.split.is_empty() {
        let split = to.split.iter().map(|share| json!({"version": share.version, "weight": share.weight}));
        out.insert("split".into(), split.collect());
    }
    if to.priority == Priority::High {
        out.insert("priority".into(), json!("high"));
    }
    if let Some(sticky) = &to.sticky {
        let mut written = Map::new();
        match sticky {
            Sticky::Header(name) => written.insert("header".into(), json!(name)),
            Sticky::Cookie { name, ttl } => {
                written.extend(ttl.map(|ttl| ("ttl".to_owned(), json!(print_duration(ttl)))));
                written.insert("cookie".into(), json!(name))
            }
        };
        out.insert("sticky".into(), Value::Object(written));
    }
    let mut rewrite = to.rewrite.as_ref().map(change).unwrap_or_default();
    rewrite.extend(to.host.as_ref().map(|host| ("host".to_owned(), json!(host))));
    if !rewrite.is_empty() {
        out.insert("rewrite".into(), Value::Object(rewrite));
    }
    for (name, edits) in [("requestHeaders", &to.request_headers), ("responseHeaders", &to.response_headers)] {
        if *edits != HeaderEdits::default() {
            out.insert(name.to_owned(), self::edits(edits));
        }
    }
    out
}

fn edits(edits: &HeaderEdits) -> Value {
    let map = |pairs: &[(String, String)]| pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({"set": Value::Object(map(&edits.set)), "add": Value::Object(map(&edits.add)), "remove": edits.remove})
}

fn mirror(mirror: &Mirror) -> Value {
    let percent = mirror.percent.to_string();
    match &mirror.to {
        MirrorTo::Version(version) => json!({"version": version, "percent": percent}),
        MirrorTo::Service(service) => json!({"service": service, "percent": percent}),
    }
}

fn fault(fault: &RouteFault) -> Value {
    let (kind, what) = fault_action(&fault.action);
    json!({"percent": fault.percent.to_string(), kind: what})
}
