//! Authorization ↔ the RBAC filter's rules.

use std::collections::HashMap;

use envoy_types::pb::envoy::{
    config::rbac::v3::{
        Permission, Policy, Principal, Rbac, permission,
        principal::{Authenticated, Identifier, Set},
        rbac,
    },
    r#type::matcher::v3::{PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern},
};

use super::{
    matching::{read_methods, validate_methods, write_methods},
    tls::{exactly, read_exactly},
    wire::{At, Checked, ensure, wrong},
};
use crate::snapshot::{ANYONE, AllowRule, Authorization};

const POLICY: &str = "allow";

pub(super) fn validate(rules: &Authorization) -> Checked<()> {
    for (index, rule) in rules.allow.iter().enumerate() {
        let path = format!("allow[{index}]");
        ensure(!rule.principals.is_empty(), "principals", || "is empty".to_owned()).at(&path)?;
        ensure(rule.principals.iter().all(|id| !id.is_empty()), "principals", || "an id is empty".to_owned())
            .at(&path)?;
        let everyone = rule.principals.iter().any(|id| id == ANYONE) && rule.principals.len() > 1;
        ensure(!everyone, "principals", || "others stand beside `*`, which is everyone".to_owned()).at(&path)?;
        validate_methods(&rule.methods).at(&path)?;
        let fine = rule.paths.iter().all(|prefix| prefix.starts_with('/'));
        ensure(fine, "paths", || "a path does not begin with a slash".to_owned()).at(&path)?;
    }
    Ok(())
}

/// One policy, whose principals are our rules (caller, method and path are all matched there): protobuf's map of
/// policies has no order, and ours has one. No policy denies everyone.
pub(super) fn write(rules: &Authorization) -> Rbac {
    let mut policies = HashMap::new();
    if !rules.allow.is_empty() {
        let any = Permission { rule: Some(permission::Rule::Any(true)) };
        let principals = rules.allow.iter().map(write_rule).collect();
        policies.insert(POLICY.to_owned(), Policy { permissions: vec![any], principals, ..Policy::default() });
    }
    Rbac { action: rbac::Action::Allow.into(), policies, ..Rbac::default() }
}

fn write_rule(rule: &AllowRule) -> Principal {
    let callers = rule.principals.iter().map(|id| {
        principal(match id.as_str() {
            ANYONE => Identifier::Any(true),
            id => Identifier::Authenticated(Authenticated { principal_name: Some(exactly(id)) }),
        })
    });
    let mut all = vec![principal(Identifier::OrIds(Set { ids: callers.collect() }))];
    all.extend(write_methods(&rule.methods).map(|matcher| principal(Identifier::Header(matcher))));
    if !rule.paths.is_empty() {
        let paths = rule.paths.iter().map(|prefix| {
            let prefix = MatchPattern::Prefix(prefix.clone());
            let matcher = StringMatcher { match_pattern: Some(prefix), ..StringMatcher::default() };
            principal(Identifier::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(matcher)) }))
        });
        all.push(principal(Identifier::OrIds(Set { ids: paths.collect() })));
    }
    principal(Identifier::AndIds(Set { ids: all }))
}

fn principal(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

pub(super) fn read(rules: &Rbac) -> Checked<Authorization> {
    let principals = rules.policies.get(POLICY).map(|policy| policy.principals.as_slice()).unwrap_or_default();
    let allow = principals.iter().enumerate().map(|(index, rule)| {
        let path = format!("policies[{POLICY}].principals[{index}]");
        read_rule(rule).map_or_else(|| wrong(path, "is not supported"), Ok)
    });
    Ok(Authorization { allow: allow.collect::<Checked<_>>()? })
}

/// `None` for any other shape than the one written above.
fn read_rule(rule: &Principal) -> Option<AllowRule> {
    let Some(Identifier::AndIds(all)) = &rule.identifier else { return None };
    let (callers, mut rest) = all.ids.split_first()?;
    let principals = alternatives(callers)?.iter().map(read_caller).collect::<Option<_>>()?;
    let mut methods = Vec::new();
    if let Some((Principal { identifier: Some(Identifier::Header(matcher)) }, others)) = rest.split_first() {
        methods = read_methods(matcher).ok()?;
        rest = others;
    }
    let paths = match rest {
        [] => Vec::new(),
        [paths] => alternatives(paths)?.iter().map(read_path).collect::<Option<_>>()?,
        _ => return None,
    };
    Some(AllowRule { principals, methods, paths })
}

fn alternatives(principal: &Principal) -> Option<&[Principal]> {
    match &principal.identifier {
        Some(Identifier::OrIds(set)) => Some(&set.ids),
        _ => None,
    }
}

fn read_caller(caller: &Principal) -> Option<String> {
    match &caller.identifier {
        Some(Identifier::Any(true)) => Some(ANYONE.to_owned()),
        Some(Identifier::Authenticated(caller)) => read_exactly(&caller.principal_name, "").ok(),
        _ => None,
    }
}

fn read_path(path: &Principal) -> Option<String> {
    let Some(Identifier::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(matcher)) })) = &path.identifier
    else {
        return None;
    };
    match &matcher.match_pattern {
        Some(MatchPattern::Prefix(prefix)) => Some(prefix.clone()),
        _ => None,
    }
}
