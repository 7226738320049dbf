//! Routes of a service by request.

use std::collections::BTreeMap;

use super::{
    World,
    caller::caller,
    dangling, fault,
    header::{cookie_name, header_name, is_header_name},
    method, not_empty, path,
    policy::route_policy,
    segments,
};
use crate::{
    config::{
        Endpoint, Forward, HeaderEdits, Is, Mirror, MirrorTo, Named, PathChange, PathMatch, Priority, Redirect,
        RequestAction, RequestMatch, RequestRoute, RouteFault, Share, Sticky, TrafficPolicy,
    },
    name::ServiceName,
    pattern, raw,
    read::{At, Cx},
    unit::Percent,
};

/// What a route is judged against.
pub(crate) struct Of<'a> {
    pub service: &'a At<ServiceName>,
    pub endpoints: &'a [Endpoint],
    /// An endpoint could not be read: a version that is not there may be its.
    pub flawed: bool,
    pub policy: &'a TrafficPolicy,
    pub world: &'a World,
}

/// The routes that are no order of regions.
pub(crate) fn requests(written: &[At<raw::Route>], of: &Of<'_>, cx: &mut Cx<'_>) -> Vec<RequestRoute> {
    let mut routes = Vec::new();
    let mut all: Option<&At<raw::Route>> = None;
    for route in written.iter().filter(|route| route.prefer.is_none()) {
        if let Some(all) = all {
            let all = cx.place(all.head);
            cx.error("unreachable-route", route.head, "the route is never used: one before it matches every request")
                .mend("put it first")
                .see(all, "matches every request");
        }
        let before = cx.errors();
        let Some(made) = request(route, of, cx) else { continue };
        if !route.flawed && cx.errors() == before && made.matches == RequestMatch::default() {
            all = all.or(Some(route));
        }
        routes.push(made);
    }
    routes
}

fn request(route: &At<raw::Route>, of: &Of<'_>, cx: &mut Cx<'_>) -> Option<RequestRoute> {
    if let Some(when) = &route.when {
        cx.error("impossible-route", when.head, "`when` goes with `prefer` only")
            .mend(format!("write `match: {{callers: [{}]}}`", when.caller.value));
    }
    let matches = route.r#match.as_ref().map(|m| matches(m, of, cx)).unwrap_or_default();
    let forwarding = forwarding(route);
    let Some(redirect) = &route.redirect else {
        if forwarding.is_none() && !route.flawed {
            cx.error("route-without-effect", route.head, "the route says nothing about what is done with its requests")
                .mend("add `prefer`, `split`, `mirrors`, `redirect`, `rewrite`, `timeout` or another field");
            return None;
        }
        return Some(RequestRoute { action: RequestAction::Forward(forward(route, of, cx)), matches });
    };
    if let Some((name, at)) = forwarding {
        cx.error("impossible-route", at, format!("`{name}` does not go with `redirect`: nothing is forwarded"))
            .mend(format!("delete `{name}` or `redirect`"));
    }
    Some(RequestRoute { matches, action: RequestAction::Redirect(self::redirect(redirect, cx)) })
}

/// The first field that is about forwarding.
fn forwarding(route: &raw::Route) -> Option<(&'static str, crate::tree::Loc)> {
    let fields = [
        ("split", route.split.as_ref().map(|f| f.head)),
        ("sticky", route.sticky.as_ref().map(|f| f.head)),
        ("mirrors", route.mirrors.as_ref().map(|f| f.head)),
        ("rewrite", route.rewrite.as_ref().map(|f| f.head)),
        ("requestHeaders", route.request_headers.as_ref().map(|f| f.head)),
        ("responseHeaders", route.response_headers.as_ref().map(|f| f.head)),
        ("timeout", route.timeout.as_ref().map(|f| f.head)),
        ("idleTimeout", route.idle_timeout.as_ref().map(|f| f.head)),
        ("retries", route.retries.as_ref().map(|f| f.head)),
        ("hedge", route.hedge.as_ref().map(|f| f.head)),
        ("priority", route.priority.as_ref().map(|f| f.head)),
        ("faults", route.faults.as_ref().map(|f| f.head)),
    ];
    fields.into_iter().find_map(|(name, at)| at.map(|at| (name, at)))
}

/// What does not go with an order of regions.
pub(crate) fn beside_prefer(route: &raw::Route) -> Option<(&'static str, crate::tree::Loc)> {
    let matches = route.r#match.as_ref().map(|m| ("match", m.head));
    matches.or(route.redirect.as_ref().map(|r| ("redirect", r.head))).or(forwarding(route))
}

fn matches(written: &At<raw::RequestMatch>, of: &Of<'_>, cx: &mut Cx<'_>) -> RequestMatch {
    let named = |list: &Option<At<Vec<At<raw::Named>>>>, kind: Kind, cx: &mut Cx<'_>| {
        list.iter().flat_map(|l| l.iter()).filter_map(|n| named(n, kind, cx)).collect()
    };
    let methods = written.methods.iter().flat_map(|m| m.iter());
    let callers = written.callers.iter().flat_map(|c| c.iter());
    RequestMatch {
        path: written.path.as_ref().and_then(|p| path_match(p, cx)).unwrap_or_default(),
        methods: methods.filter_map(|m| method(m, m.at, cx)).collect(),
        headers: named(&written.headers, Kind::Header, cx),
        query: named(&written.query, Kind::Query, cx),
        cookies: named(&written.cookies, Kind::Cookie, cx),
        callers: callers.filter_map(|c| caller(c, of.world, cx)).collect(),
    }
}

fn path_match(written: &At<raw::PathMatch>, cx: &mut Cx<'_>) -> Option<PathMatch> {
    match (&written.exact, &written.prefix, &written.prefix_string, &written.regex) {
        (Some(exact), None, None, None) => Some(PathMatch::Exact(plain_path(exact, cx))),
        (None, Some(prefix), None, None) => Some(PathMatch::Prefix(segments(plain_path(prefix, cx)))),
        (None, None, Some(prefix), None) => Some(PathMatch::PrefixString(plain_path(prefix, cx))),
        (None, None, None, Some(regex)) => {
            judge(regex, cx);
            Some(PathMatch::Regex(regex.value.clone()))
        }
        _ => {
            if !written.flawed {
                cx.error(
                    "choose-one",
                    written.head,
                    "a path is matched by one of `exact`, `prefix`, `prefixString`, `regex`",
                )
                .mend("write exactly one, as `path: {prefix: /cart}`");
            }
            None
        }
    }
}

/// A path without query, which is matched apart.
fn plain_path(written: &At<String>, cx: &mut Cx<'_>) -> String {
    if written.contains('?') {
        cx.error("bad-path", written.at, format!("`{}` has a query, which is not part of the path", written.value))
            .mend("match it by `query: [{name: …, exact: …}]`");
    }
    path(written, cx)
}

fn judge(written: &At<String>, cx: &mut Cx<'_>) -> Option<regex::bytes::Regex> {
    match pattern::judge(written) {
        Ok(pattern) => Some(pattern),
        Err(why) => {
            cx.error("bad-pattern", written.at, format!("`{}` is not a regular expression: {why}", written.value))
                .mend("write it in RE2's syntax, as `/v[0-9]+/.*`: no look-around, no back-references");
            None
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Header,
    Query,
    Cookie,
}

/// A condition on a header.
pub(crate) fn header(written: &At<raw::Named>, cx: &mut Cx<'_>) -> Option<Named> {
    named(written, Kind::Header, cx)
}

fn named(written: &At<raw::Named>, kind: Kind, cx: &mut Cx<'_>) -> Option<Named> {
    let mut conditions = Vec::new();
    for (flag, is) in [(&written.present, Is::Present), (&written.absent, Is::Absent)] {
        let Some(flag) = flag else { continue };
        if !flag.value {
            cx.error("choose-one", flag.at, "`false` is no condition").mend("write `present: true` or `absent: true`");
        }
        if kind == Kind::Query && is == Is::Absent {
            cx.error("not-supported", flag.head, "the absence of a parameter cannot be matched")
                .mend("match its presence in a route before this one");
        }
        conditions.push(is);
    }
    conditions.extend(written.exact.as_ref().map(|v| Is::Exact(v.value.clone())));
    conditions.extend(written.prefix.as_ref().map(|v| Is::Prefix(v.value.clone())));
    if let Some(regex) = &written.regex {
        judge(regex, cx);
        conditions.push(Is::Regex(regex.value.clone()));
    }
    let name = match kind {
        Kind::Header => header_name(&written.name, cx),
        Kind::Cookie => cookie_name(&written.name, cx),
        Kind::Query => written.name.value.clone(),
    };
    let mut conditions = conditions.into_iter();
    if let (Some(is), None) = (conditions.next(), conditions.next()) {
        return Some(Named { name, is });
    }
    if !written.flawed {
        cx.error("choose-one", written.head, "a condition is one of `present`, `absent`, `exact`, `prefix`, `regex`")
            .mend("write exactly one, as `{name: x-user, exact: canary}`");
    }
    None
}

fn redirect(written: &At<raw::Redirect>, cx: &mut Cx<'_>) -> Redirect {
    let status = written.status.as_ref();
    if let Some(status) = status.filter(|s| ![301, 302, 303, 307, 308].contains(&s.value)) {
        cx.error("out-of-range", status.at, format!("{} is not the status of a redirect", status.value))
            .mend("write 301, 302, 303, 307 or 308");
    }
    let scheme = written.scheme.as_ref().map(|scheme| match scheme.value {
        raw::Scheme::Http => "http".to_owned(),
        raw::Scheme::Https => "https".to_owned(),
    });
    if let Some(zero) = written.port.as_ref().filter(|p| p.value == 0) {
        cx.error("zero", zero.at, "there is no port 0").mend("write 1 to 65535, or delete it");
    }
    let redirect = Redirect {
        status: status.map_or(302, |s| s.value),
        scheme,
        host: written.host.as_ref().map(|h| host(h, false, cx)),
        port: written.port.as_ref().map(|p| p.value),
        path: path_change(written.prefix.as_ref(), written.regex.as_ref(), written.with.as_ref(), written.head, cx),
        strip_query: written.strip_query.as_ref().is_some_and(|s| s.value),
    };
    let Redirect { status: _, scheme, host, port, path, strip_query } = &redirect;
    let stays = scheme.is_none() && host.is_none() && port.is_none() && path.is_none() && !strip_query;
    if stays && !written.flawed {
        cx.error("redirect-to-itself", written.head, "the caller would be sent where it came from, again and again")
            .mend("write at least one of `scheme`, `host`, `port`, `prefix`, `regex`, `stripQuery: true`");
    }
    redirect
}

fn host(written: &At<String>, port: bool, cx: &mut Cx<'_>) -> String {
    let (name, number) = match written.rsplit_once(':').filter(|_| port) {
        Some((name, number)) => (name, Some(number)),
        None => (written.value.as_str(), None),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let fine = !name.is_empty() && name.bytes().all(plain) && number.is_none_or(|n| n.parse::<u16>().is_ok());
    if !fine {
        let example = if port { "shop.example:8080" } else { "shop.example" };
        cx.error("bad-address", written.at, format!("`{}` is not a host", written.value))
            .mend(format!("write a name, as `{example}`"));
    }
    written.value.clone()
}

fn path_change(
    prefix: Option<&At<String>>,
    regex: Option<&At<String>>,
    with: Option<&At<String>>,
    head: crate::tree::Loc,
    cx: &mut Cx<'_>,
) -> Option<PathChange> {
    match (prefix, regex, with) {
        (None, None, None) => None,
        (Some(prefix), None, None) => Some(PathChange::Prefix(plain_path(prefix, cx))),
        (None, Some(regex), Some(with)) => {
            let found = judge(regex, cx);
            let printable = with.bytes().all(|byte| byte.is_ascii_graphic());
            if !printable || found.is_some_and(|found| !pattern::fits(with, &found)) {
                cx.error("bad-pattern", with.at, format!("`{}` cannot stand in place of a match", with.value))
                    .mend(r"a backslash is followed by the number of a group of the pattern, as `\1`");
            }
            Some(PathChange::Regex { pattern: regex.value.clone(), with: with.value.clone() })
        }
        _ => {
            cx.error("choose-one", head, "a path is changed by either `prefix`, or `regex` and `with`")
                .mend("write `prefix: /new`, or `regex: …` and `with: …`");
            None
        }
    }
}

fn forward(route: &At<raw::Route>, of: &Of<'_>, cx: &mut Cx<'_>) -> Forward {
    let split = route.split.as_ref().map(|s| split(s, of, cx)).unwrap_or_default();
    let sticky = route.sticky.as_ref().and_then(|s| sticky(s, split.len(), cx));
    let rewrite = route.rewrite.as_ref();
    if let Some(empty) = rewrite.filter(|r| !r.flawed && r.prefix.is_none() && r.regex.is_none() && r.host.is_none()) {
        cx.error("route-without-effect", empty.head, "the rewrite changes nothing")
            .mend("write `prefix`, or `regex` and `with`, or `host`");
    }
    let policy = route_policy(route, of.policy, cx);
    Forward {
        split,
        sticky,
        mirrors: route.mirrors.iter().flat_map(|m| m.iter()).filter_map(|m| mirror(m, of, cx)).collect(),
        rewrite: rewrite.and_then(|r| path_change(r.prefix.as_ref(), r.regex.as_ref(), r.with.as_ref(), r.head, cx)),
        host: rewrite.and_then(|r| r.host.as_ref()).map(|h| host(h, true, cx)),
        request_headers: route.request_headers.as_ref().map(|e| edits(e, cx)).unwrap_or_default(),
        response_headers: route.response_headers.as_ref().map(|e| edits(e, cx)).unwrap_or_default(),
        timeout: policy.timeout,
        idle_timeout: policy.idle_timeout,
        retries: policy.retries,
        hedge: policy.hedge,
        priority: match route.priority.as_ref().map(|p| p.value) {
            None | Some(raw::Priority::Default) => Priority::Default,
            Some(raw::Priority::High) => Priority::High,
        },
        faults: route.faults.iter().flat_map(|f| f.iter()).filter_map(|f| standing(f, of, cx)).collect(),
    }
}

/// Reports a version that no endpoint has.
fn version(written: &At<String>, of: &Of<'_>, cx: &mut Cx<'_>) -> Option<String> {
    let known: std::collections::BTreeSet<&str> = of.endpoints.iter().map(|e| e.version.as_str()).collect();
    if !known.contains(written.as_str()) {
        if !of.flawed {
            let what = format!("endpoint of `{}` with the version", of.service.value);
            dangling(&what, written, written.at, known.iter().copied(), cx);
        }
        return None;
    }
    Some(written.value.clone())
}

fn split(written: &At<Vec<At<raw::Share>>>, of: &Of<'_>, cx: &mut Cx<'_>) -> Vec<Share> {
    not_empty(written, "a split needs at least one version", cx);
    let mut shares: Vec<Share> = Vec::new();
    for share in written.iter() {
        let weight = share.weight.as_ref().map_or(1, |w| w.value);
        if let Some(large) = share.weight.as_ref().filter(|w| w.value > 10_000) {
            cx.error("out-of-range", large.at, "the weight must be from 0 to 10000").mend("write smaller weights");
        }
        if shares.iter().any(|s| s.version == share.version.value) {
            let version = &share.version.value;
            cx.error("duplicate-name", share.version.at, format!("the version `{version}` is in the split twice"))
                .mend("add their weights");
        }
        let Some(version) = version(&share.version, of, cx) else { continue };
        shares.push(Share { version, weight });
    }
    if !shares.is_empty() && shares.len() == written.len() && shares.iter().all(|s| s.weight == 0) {
        cx.error("zero", written.head, "the weights of the split are all 0: nobody would get the requests")
            .mend("give at least one version a weight above 0");
    }
    shares
}

fn sticky(written: &At<raw::Sticky>, versions: usize, cx: &mut Cx<'_>) -> Option<Sticky> {
    if versions < 2 && !written.flawed {
        cx.error("impossible-route", written.head, "`sticky` needs a `split` between versions")
            .mend("add `split`, or delete `sticky`");
    }
    match (&written.header, &written.cookie) {
        (Some(header), None) => {
            if let Some(ttl) = &written.ttl {
                cx.error("impossible-route", ttl.head, "`ttl` goes with `cookie` only: a header is never set")
                    .mend("delete `ttl`");
            }
            Some(Sticky::Header(header_name(header, cx)))
        }
        (None, Some(cookie)) => {
            Some(Sticky::Cookie { name: cookie_name(cookie, cx), ttl: written.ttl.as_ref().map(|t| t.value.0) })
        }
        _ => {
            if !written.flawed {
                cx.error("choose-one", written.head, "a caller is known by either `header` or `cookie`")
                    .mend("write `sticky: {cookie: variant, ttl: 24h}` or `sticky: {header: x-user}`");
            }
            None
        }
    }
}

fn mirror(written: &At<raw::Mirror>, of: &Of<'_>, cx: &mut Cx<'_>) -> Option<Mirror> {
    let percent = percent(written.percent.as_ref(), "a mirror of 0% copies nothing", cx);
    let to = match (&written.version, &written.service) {
        (Some(version), None) => MirrorTo::Version(self::version(version, of, cx)?),
        (None, Some(service)) => {
            if service.value == of.service.value {
                cx.error("impossible-route", service.at, "the service would get every copy beside the request itself")
                    .mend("write `version: …`, or another service");
            }
            MirrorTo::Service(of.world.service(service, cx)?)
        }
        _ => {
            if !written.flawed {
                cx.error("choose-one", written.head, "a mirror goes to either a `version` or a `service`")
                    .mend("write exactly one, as `{version: v2, percent: 10%}`");
            }
            return None;
        }
    };
    Some(Mirror { to, percent })
}

fn percent(written: Option<&At<Percent>>, zero: &str, cx: &mut Cx<'_>) -> Percent {
    if let Some(nothing) = written.filter(|p| p.value.0 <= 0.0) {
        cx.error("zero", nothing.at, zero).mend("write a percentage above 0, or delete it for all");
    }
    written.map_or(Percent(100.0), |p| p.value)
}

/// Not to be changed: they say where a message ends, whom it is for, or are between neighbours only.
const FIXED: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn edits(written: &At<raw::HeaderEdits>, cx: &mut Cx<'_>) -> HeaderEdits {
    let set = written.set.as_ref().map(|set| values(set, cx)).unwrap_or_default();
    let add = written.add.as_ref().map(|add| values(add, cx)).unwrap_or_default();
    let remove = written.remove.iter().flat_map(|r| r.iter());
    let remove: Vec<String> = remove.map(|name| changeable(name, name.at, cx)).collect();
    if set.is_empty() && add.is_empty() && remove.is_empty() && !written.flawed {
        cx.error("route-without-effect", written.head, "no header is changed").mend("write `set`, `add` or `remove`");
    }
    HeaderEdits { set, add, remove }
}

fn values(written: &At<BTreeMap<String, String>>, cx: &mut Cx<'_>) -> Vec<(String, String)> {
    let mut values: Vec<(String, String)> = Vec::new();
    for (name, value) in &written.value {
        // RFC 9110, 5.5; what surrounds a value is not part of it.
        if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) || value.trim() != value {
            cx.error("bad-header", written.at, format!("`{name}: {value}` is not a header"))
                .mend("use printable ASCII, without blanks around the value");
        }
        let name = changeable(name, written.at, cx);
        if values.iter().any(|(other, _)| *other == name) {
            cx.error("duplicate-key", written.at, format!("the header `{name}` is there twice"))
                .mend("delete one of them: case does not count");
        }
        values.push((name, value.clone()));
    }
    values.sort();
    values
}

fn changeable(name: &str, at: crate::tree::Loc, cx: &mut Cx<'_>) -> String {
    let lower = name.to_ascii_lowercase();
    if !is_header_name(name) {
        cx.error("bad-header", at, format!("`{name}` is not a header's name"))
            .mend("use letters, digits, `-`, `_` and `.`, as `x-user`");
    } else if FIXED.contains(&lower.as_str()) {
        let help = if lower == "host" { "write `rewrite: {host: …}`" } else { "delete it" };
        cx.error("bad-header", at, format!("the header `{lower}` cannot be changed")).mend(help);
    }
    lower
}

fn standing(written: &At<raw::RouteFault>, of: &Of<'_>, cx: &mut Cx<'_>) -> Option<RouteFault> {
    let percent = percent(written.percent.as_ref(), "a fault on 0% of requests does nothing", cx);
    Some(RouteFault { percent, action: fault::standing(written, of.service, cx)? })
}
