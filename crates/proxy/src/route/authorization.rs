//! Who may make which request. Pure.

use http::request::Parts;
use xds::snapshot::{ANYONE, AllowRule, Authorization};

use super::matching::{Headers, below};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The permission in this place lets it in.
    Allow(usize),
    /// No permission does.
    Deny,
    /// No permission does, and in a dry run it gets in all the same.
    ShadowDeny,
}

impl Decision {
    /// As logs and counters call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow(_) => "allow",
            Self::Deny => "deny",
            Self::ShadowDeny => "shadow_deny",
        }
    }

    /// The permission that made it; `none` where it was the lack of one.
    pub fn rule(self) -> String {
        match self {
            Self::Allow(index) => Authorization::rule(index),
            Self::Deny | Self::ShadowDeny => "none".to_owned(),
        }
    }
}

/// Permissions, prepared when a snapshot comes.
#[derive(Debug)]
pub struct Permissions {
    allow: Vec<Permission>,
    dry_run: bool,
}

#[derive(Debug)]
struct Permission {
    rule: AllowRule,
    headers: Headers,
}

impl Permissions {
    /// Prepares them.
    pub fn new(config: &Authorization) -> Self {
        let Authorization { allow, dry_run } = config;
        let prepared = |rule: &AllowRule| Permission { rule: rule.clone(), headers: Headers::new(&rule.headers) };
        Self { allow: allow.iter().map(prepared).collect(), dry_run: *dry_run }
    }

    /// Judges a request; the first permission that fits is the one. A caller without identity passes only those for everyone.
    pub fn decide(&self, caller: Option<&str>, request: &Parts) -> Decision {
        match self.allow.iter().position(|permission| permission.fits(caller, request)) {
            Some(index) => Decision::Allow(index),
            None if self.dry_run => Decision::ShadowDeny,
            None => Decision::Deny,
        }
    }
}

impl Permission {
    fn fits(&self, caller: Option<&str>, request: &Parts) -> bool {
        let AllowRule { principals, methods, paths, headers: _ } = &self.rule;
        principals.iter().any(|principal| principal == ANYONE || caller == Some(principal))
            && (methods.is_empty() || methods.iter().any(|method| method == request.method.as_str()))
            && (paths.is_empty() || paths.iter().any(|path| below(request.uri.path(), path)))
            && self.headers.fit(&request.headers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};
    use xds::snapshot::{Is, Named};

    use super::*;

    const A: &str = "spiffe://bank/service/a";

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request =
            headers.iter().fold(http::Request::builder().method(method).uri(uri), |r, (k, v)| r.header(*k, *v));
        request.body(()).unwrap().into_parts().0
    }

    fn rule(principal: &str, methods: &[&str], paths: &[&str], headers: &[(&str, Is)]) -> AllowRule {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let headers = headers.iter().map(|(name, is)| Named { name: (*name).to_owned(), is: is.clone() });
        AllowRule {
            principals: vec![principal.to_owned()],
            methods: owned(methods),
            paths: owned(paths),
            headers: headers.collect(),
        }
    }

    fn decide(allow: Vec<AllowRule>, caller: Option<&str>, request: &Parts) -> Decision {
        Permissions::new(&Authorization { allow, dry_run: false }).decide(caller, request)
    }

    #[test]
    fn denies_by_default() {
        let policy = vec![rule(A, &["GET"], &["/v1/", "/health"], &[])];
        let cases = [
            (Some(A), "GET", "/v1/x", Decision::Allow(0)),
            (Some(A), "POST", "/v1/x", Decision::Deny),
            (Some(A), "GET", "/v2/x", Decision::Deny),
            (Some(A), "GET", "/v1", Decision::Deny),
            (Some(A), "GET", "/health", Decision::Allow(0)),
            (Some(A), "GET", "/health/live", Decision::Allow(0)),
            (Some(A), "GET", "/healthy", Decision::Deny),
            (Some("spiffe://bank/service/ab"), "GET", "/v1/x", Decision::Deny),
            (None, "GET", "/v1/x", Decision::Deny),
        ];
        for (caller, method, path, expected) in cases {
            let request = parts(method, path, &[]);
            assert_eq!(decide(policy.clone(), caller, &request), expected, "{caller:?} {method} {path}");
        }
        let open = vec![rule(ANYONE, &["GET"], &[], &[])];
        for (caller, method, expected) in [
            (None, "GET", Decision::Allow(0)),
            (Some("spiffe://x/y"), "GET", Decision::Allow(0)),
            (None, "PUT", Decision::Deny),
        ] {
            assert_eq!(decide(open.clone(), caller, &parts(method, "/", &[])), expected, "{caller:?} {method}");
        }
        assert_eq!(decide(Vec::new(), Some(A), &parts("GET", "/", &[])), Decision::Deny);
    }

    #[test]
    fn all_headers_of_a_permission_count() {
        let policy = vec![
            rule(A, &[], &[], &[("x-tenant", Is::Exact("gold".into())), ("x-debug", Is::Absent)]),
            rule(A, &[], &[], &[("x-tenant", Is::Regex("silver|bronze".into()))]),
            rule(A, &[], &[], &[("x-team", Is::Prefix("pay".into()))]),
            rule(A, &[], &[], &[("x-any", Is::Present)]),
        ];
        let cases: [(&[(&str, &str)], Decision); 8] = [
            (&[("x-tenant", "gold")], Decision::Allow(0)),
            (&[("x-tenant", "gold"), ("x-debug", "1")], Decision::Deny),
            (&[("x-tenant", "bronze"), ("x-debug", "1")], Decision::Allow(1)),
            (&[("x-tenant", "bronze2")], Decision::Deny),
            (&[("x-team", "payments")], Decision::Allow(2)),
            (&[("x-any", "")], Decision::Allow(3)),
            (&[("x-tenant", "tin"), ("x-tenant", "gold")], Decision::Allow(0)),
            (&[], Decision::Deny),
        ];
        for (headers, expected) in cases {
            assert_eq!(decide(policy.clone(), Some(A), &parts("GET", "/", headers)), expected, "{headers:?}");
            assert_eq!(decide(policy.clone(), None, &parts("GET", "/", headers)), Decision::Deny);
        }
    }

    fn any_rule() -> impl Strategy<Value = AllowRule> {
        let is = select(vec![Is::Present, Is::Absent, Is::Exact("1".into()), Is::Prefix("1".into())]);
        let headers = proptest::collection::vec((select(vec!["x-a", "x-b"]), is), 0..2);
        let parts = (select(vec![A, "spiffe://bank/service/b", ANYONE]), select(vec!["", "GET", "PUT"]), headers);
        (parts, select(vec!["", "/v1", "/v2"])).prop_map(|((who, method, headers), path)| {
            let one = |text: &'static str| if text.is_empty() { vec![] } else { vec![text] };
            rule(who, &one(method), &one(path), &headers)
        })
    }

    proptest! {
        /// A dry run decides as the real thing does, only that nobody is refused; and a permission more never takes a right away.
        #[test]
        fn a_dry_run_tells_exactly_the_refusals(
            allow in proptest::collection::vec(any_rule(), 0..4),
            more in any_rule(),
            caller in proptest::option::of(select(vec![A, "spiffe://bank/service/b", "spiffe://bank/service/c"])),
            method in select(vec!["GET", "PUT", "POST"]),
            path in select(vec!["/", "/v1/x", "/v2"]),
            headers in proptest::collection::vec((select(vec!["x-a", "x-b"]), select(vec!["1", "12", "2"])), 0..3),
        ) {
            let request = parts(method, path, &headers);
            let enforced = decide(allow.clone(), caller, &request);
            let told = Permissions::new(&Authorization { allow: allow.clone(), dry_run: true }).decide(caller, &request);
            let expected = if enforced == Decision::Deny { Decision::ShadowDeny } else { enforced };
            prop_assert_eq!(told, expected);
            let mut wider = allow;
            wider.push(more);
            if enforced != Decision::Deny {
                prop_assert_eq!(decide(wider, caller, &request), enforced);
            }
        }
    }
}
