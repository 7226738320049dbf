//! Authorization ↔ the RBAC filter's rules.
//!
//! In a dry run they are the filter's shadow rules: Envoy then decides, logs and counts, and refuses nobody.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::rbac::v3::{
            Permission, Policy, Principal, Rbac, permission,
            principal::{Authenticated, Identifier, Set},
        },
        extensions::filters::http::rbac::v3::Rbac as Filter,
        r#type::matcher::v3::{PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern},
    },
    google::protobuf::Any,
};
use prost::{Message as _, Name as _, encode_length_delimiter};

use super::{
    matching::{read_header, read_methods, validate_headers, validate_methods, write_header, write_methods},
    tls::{exactly, read_exactly},
    wire::{At, Checked, ensure, same, wrong},
};
use crate::snapshot::{ANYONE, AllowRule, Authorization};

/// What stands before the rules, and before shadow rules: the field's number, and that bytes of a length follow.
const RULES: u8 = 1 << 3 | 2;
const SHADOW_RULES: u8 = 2 << 3 | 2;

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
        validate_headers(&rule.headers).at(&path)?;
    }
    Ok(())
}

/// The filter's configuration. The same rules must be the same bytes, and prost writes a map in whatever order its table has:
/// so each policy is encoded by itself. A message is its fields, one after the other.
pub(super) fn pack(rules: &Authorization) -> Any {
    let one = |policy| Rbac { policies: HashMap::from([policy]), ..Rbac::default() }.encode_to_vec();
    let written: Vec<u8> = policies(rules).flat_map(one).collect();
    let mut value = vec![if rules.dry_run { SHADOW_RULES } else { RULES }];
    // A vector has room for it.
    let _ = encode_length_delimiter(written.len(), &mut value);
    value.extend(written);
    Any { type_url: Filter::type_url(), value }
}

fn write(rules: &Authorization) -> Filter {
    // The action that is not written is to allow.
    let written = Some(Rbac { policies: policies(rules).collect(), ..Rbac::default() });
    if rules.dry_run {
        return Filter { shadow_rules: written, ..Filter::default() };
    }
    Filter { rules: written, ..Filter::default() }
}

/// One policy a permission, named by its place: so Envoy's log says which one let a request in. All of a permission is in
/// the policy's principal, where caller, method, path and headers can be matched alike. No policy denies everyone.
fn policies(rules: &Authorization) -> impl Iterator<Item = (String, Policy)> {
    rules.allow.iter().enumerate().map(|(index, rule)| {
        let any = Permission { rule: Some(permission::Rule::Any(true)) };
        let policy = Policy { permissions: vec![any], principals: vec![write_rule(rule)], ..Policy::default() };
        (Authorization::rule(index), policy)
    })
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
        let paths = rule.paths.iter().flat_map(|path| write_path(path)).map(|pattern| {
            let matcher = StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() };
            principal(Identifier::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(matcher)) }))
        });
        all.push(principal(Identifier::OrIds(Set { ids: paths.collect() })));
    }
    all.extend(rule.headers.iter().map(|header| principal(Identifier::Header(write_header(header)))));
    principal(Identifier::AndIds(Set { ids: all }))
}

/// A beginning of whole segments: Envoy has no word for it here. One that ends in a slash takes what is below it only.
fn write_path(path: &str) -> Vec<MatchPattern> {
    if path.ends_with('/') {
        return vec![MatchPattern::Prefix(path.to_owned())];
    }
    vec![MatchPattern::Exact(path.to_owned()), MatchPattern::Prefix(format!("{path}/"))]
}

/// `None` for any other patterns than those written above.
fn read_paths(mut patterns: &[MatchPattern]) -> Option<Vec<String>> {
    let mut paths = Vec::new();
    loop {
        let (path, rest) = match patterns {
            [] => return Some(paths),
            [MatchPattern::Prefix(path), rest @ ..] if path.ends_with('/') => (path, rest),
            [MatchPattern::Exact(path), MatchPattern::Prefix(below), rest @ ..]
                if below.strip_suffix('/') == Some(path) =>
            {
                (path, rest)
            }
            _ => return None,
        };
        paths.push(path.clone());
        patterns = rest;
    }
}

fn principal(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

pub(super) fn read(filter: &Filter) -> Checked<Authorization> {
    let (rules, dry_run, path) = match (&filter.rules, &filter.shadow_rules) {
        (Some(rules), None) => (rules, false, "rules"),
        (None, Some(rules)) => (rules, true, "shadow_rules"),
        _ => return wrong("", "exactly one of rules and shadow_rules is supported"),
    };
    let allow = (0..rules.policies.len()).map(|index| {
        let name = Authorization::rule(index);
        let Some(policy) = rules.policies.get(&name) else {
            return wrong("policies", format!("{name} is missing: they are named by their places"));
        };
        let rule = match policy.principals.as_slice() {
            [rule] => read_rule(rule),
            _ => None,
        };
        rule.map_or_else(|| wrong(format!("policies[{name}].principals"), "is not supported"), Ok)
    });
    let read = Authorization { allow: allow.collect::<Checked<_>>().at(path)?, dry_run };
    same(filter, &write(&read))?;
    Ok(read)
}

/// `None` for any other shape than the one written above.
fn read_rule(rule: &Principal) -> Option<AllowRule> {
    let Some(Identifier::AndIds(all)) = &rule.identifier else { return None };
    let (callers, mut rest) = all.ids.split_first()?;
    let principals = alternatives(callers)?.iter().map(read_caller).collect::<Option<_>>()?;
    let (mut methods, mut paths) = (Vec::new(), Vec::new());
    if let Some((Principal { identifier: Some(Identifier::Header(matcher)) }, others)) = rest.split_first()
        && matcher.name == ":method"
    {
        methods = read_methods(matcher).ok()?;
        rest = others;
    }
    if let Some((first, others)) = rest.split_first()
        && let Some(alternatives) = alternatives(first)
    {
        let patterns: Vec<MatchPattern> = alternatives.iter().map(read_path).collect::<Option<_>>()?;
        paths = read_paths(&patterns)?;
        rest = others;
    }
    let headers = rest.iter().map(|header| match &header.identifier {
        Some(Identifier::Header(matcher)) => read_header(matcher).ok(),
        _ => None,
    });
    Some(AllowRule { principals, methods, paths, headers: headers.collect::<Option<_>>()? })
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

fn read_path(path: &Principal) -> Option<MatchPattern> {
    let Some(Identifier::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(matcher)) })) = &path.identifier
    else {
        return None;
    };
    matcher.match_pattern.clone()
}
