//! Who may make which request: what is refused, what a dry run tells, and which permission it was.

use xds::snapshot::{ANYONE, AllowRule, Authorization, HttpListener, Is, Named};

use crate::oracle::{
    ask::{Ask, get, post},
    case::Case,
};

const FLAG: &str = "A refused caller is flagged";

fn rule(methods: &[&str], paths: &[&str], headers: &[(&str, Is)]) -> AllowRule {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let headers = headers.iter().map(|(name, is)| Named { name: (*name).to_owned(), is: is.clone() });
    AllowRule {
        principals: vec![ANYONE.to_owned()],
        methods: owned(methods),
        paths: owned(paths),
        headers: headers.collect(),
    }
}

/// In the same order: a method and a path, and every kind of condition on a header.
fn rules() -> Vec<AllowRule> {
    vec![
        rule(&["GET", "HEAD"], &["/open"], &[]),
        rule(&[], &[], &[("x-tenant", Is::Exact("gold".into())), ("x-debug", Is::Absent)]),
        rule(&[], &[], &[("x-team", Is::Prefix("pay".into()))]),
        rule(&["POST"], &["/v1", "/v2"], &[("x-build", Is::Regex("[0-9]+".into()))]),
        rule(&[], &[], &[("x-any", Is::Present)]),
    ]
}

fn enforced(http: &mut HttpListener) {
    http.authorization = Some(Authorization { allow: rules(), dry_run: false });
}

fn told(http: &mut HttpListener) {
    http.authorization = Some(Authorization { allow: rules(), dry_run: true });
}

/// What is asked, and the permission that lets it in.
fn asks() -> Vec<(Ask, Option<usize>)> {
    vec![
        (get("/open/a?b=/c"), Some(0)),
        (post("/open/a"), None),
        (get("/open"), Some(0)),
        (get("/openly"), None),
        (get("/opera"), None),
        (get("/").header("x-tenant", "gold"), Some(1)),
        (get("/").header("X-Tenant", "gold"), Some(1)),
        (get("/").header("x-tenant", "Gold"), None),
        (get("/").header("x-tenant", "gold").header("x-debug", "1"), None),
        (get("/").header("x-tenant", "tin").header("x-tenant", "gold"), Some(1)),
        (get("/").header("x-tenant", "tin,gold"), None),
        (get("/").header("x-team", "payments"), Some(2)),
        (get("/").header("x-team", "repay"), None),
        (post("/v2/orders").header("x-build", "1024"), Some(3)),
        (post("/v2/orders").header("x-build", "1024a"), None),
        (post("/v3/orders").header("x-build", "1024"), None),
        (get("/").header("x-any", ""), Some(4)),
        (get("/"), None),
    ]
}

pub fn cases() -> Vec<Case> {
    let (mut refused, mut dry) = (
        Case::new("authorization by method, path and header", "a0").listener(enforced),
        Case::new("authorization in a dry run", "a0").listener(told),
    );
    for (ask, permission) in asks() {
        let ask = ask.judged();
        (refused, dry) = match permission {
            Some(index) => {
                let line = ALLOWED[index];
                (refused.ask(ask.clone(), line), dry.ask(ask, line))
            }
            None => (
                refused.ask_differs(ask.clone(), DENIED_BY_ENVOY, DENIED_BY_OURS, FLAG),
                dry.ask(ask, "200 - a0 shadow_deny none"),
            ),
        };
    }
    vec![refused, dry]
}

const ALLOWED: [&str; 5] = [
    "200 - a0 allow allow[0]",
    "200 - a0 allow allow[1]",
    "200 - a0 allow allow[2]",
    "200 - a0 allow allow[3]",
    "200 - a0 allow allow[4]",
];
const DENIED_BY_ENVOY: &str = "403 - - deny none rbac_access_denied_matched_policy[none]";
const DENIED_BY_OURS: &str = "403 UAEX - deny none rbac_access_denied_matched_policy[none]";
