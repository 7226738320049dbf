//! What routes ask of a request.

use envoy_types::pb::envoy::{
    config::route::v3::{
        self as pb, CookieMatcher, HeaderMatcher, QueryParameterMatcher,
        header_matcher::HeaderMatchSpecifier,
        query_parameter_matcher::QueryParameterMatchSpecifier,
        route_match::{ConnectMatcher, PathSpecifier},
    },
    r#type::matcher::v3::{
        FilterStateMatcher, RegexMatcher, StringMatcher, filter_state_matcher, string_matcher::MatchPattern,
    },
};

use super::wire::{At, Checked, ensure, need, wrong};
use crate::{
    pattern,
    snapshot::{Is, Named, PathMatch, RouteMatch},
};

/// Under which Envoy would look for the caller. Nothing sets it there, so that such a route is never taken by Envoy.
const CALLER: &str = "firedrill.caller";
/// A pattern that every value fits: how Envoy is asked whether there is a cookie.
const ANY: &str = ".*";

pub(super) fn validate(matches: &RouteMatch) -> Checked<()> {
    match &matches.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => validate_path(path).at("path")?,
        PathMatch::Segments(path) => {
            validate_path(path).at("path")?;
            ensure(!path.ends_with('/') && !path.contains('#'), "path", || format!("{path:?} does not end a segment"))?;
        }
        PathMatch::Regex(regex) => validate_pattern(regex).at("path")?,
        PathMatch::Connect => {}
    }
    validate_methods(&matches.methods)?;
    validate_headers(&matches.headers)?;
    for parameter in &matches.query {
        ensure(!parameter.name.is_empty(), "query", || "a name is empty".to_owned())?;
        ensure(parameter.is != Is::Absent, "query", || "absence is not supported".to_owned())?;
        validate_is(&parameter.is).at("query")?;
    }
    for cookie in &matches.cookies {
        ensure(is_token(&cookie.name), "cookies", || format!("{:?} is not a cookie's name", cookie.name))?;
        validate_is(&cookie.is).at("cookies")?;
        ensure(cookie.is != Is::Regex(ANY.to_owned()), "cookies", || "write `present`".to_owned())?;
    }
    ensure(matches.callers.iter().all(|id| !id.is_empty()), "callers", || "an id is empty".to_owned())
}

pub(super) fn validate_headers(headers: &[Named]) -> Checked<()> {
    for header in headers {
        validate_header_name(&header.name).at("headers")?;
        validate_is(&header.is).at("headers")?;
    }
    Ok(())
}

/// A path that a request can have, without query.
pub(super) fn validate_path(path: &str) -> Checked<()> {
    let sendable = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?');
    ensure(sendable, "", || format!("{path:?} is not a path"))
}

pub(super) fn validate_methods(methods: &[String]) -> Checked<()> {
    for method in methods {
        let fine = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
        ensure(fine, "methods", || format!("{method:?} is not a method"))?;
    }
    Ok(())
}

pub(super) fn validate_header_name(name: &str) -> Checked<()> {
    let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let fine = !name.is_empty() && name.bytes().all(token);
    ensure(fine, "", || format!("{name:?} is not a lower-case header name"))
}

/// RFC 9110, 5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

pub(super) fn validate_pattern(regex: &str) -> Checked<()> {
    ensure(!regex.is_empty(), "", || "the pattern is empty".to_owned())?;
    pattern::whole(regex).map(drop).or_else(|problem| wrong("", problem))
}

fn validate_is(is: &Is) -> Checked<()> {
    match is {
        Is::Present | Is::Absent | Is::Exact(_) => Ok(()),
        Is::Prefix(prefix) => ensure(!prefix.is_empty(), "", || "a prefix is empty; write `present`".to_owned()),
        Is::Regex(regex) => validate_pattern(regex),
    }
}

pub(super) fn write(matches: &RouteMatch) -> pb::RouteMatch {
    pb::RouteMatch {
        path_specifier: Some(match &matches.path {
            PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
            PathMatch::Prefix(path) => PathSpecifier::Prefix(path.clone()),
            PathMatch::Segments(path) => PathSpecifier::PathSeparatedPrefix(path.clone()),
            PathMatch::Regex(regex) => PathSpecifier::SafeRegex(write_pattern(regex)),
            PathMatch::Connect => PathSpecifier::ConnectMatcher(ConnectMatcher {}),
        }),
        headers: write_methods(&matches.methods).into_iter().chain(matches.headers.iter().map(write_header)).collect(),
        query_parameters: matches.query.iter().map(write_parameter).collect(),
        cookies: matches.cookies.iter().map(write_cookie).collect(),
        filter_state: write_callers(&matches.callers).into_iter().collect(),
        ..pb::RouteMatch::default()
    }
}

/// "One of these methods": Envoy can only say it as a regular expression. Methods are letters, so nothing is escaped.
pub(super) fn write_methods(methods: &[String]) -> Option<HeaderMatcher> {
    (!methods.is_empty()).then(|| HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(text(MatchPattern::SafeRegex(write_pattern(
            &methods.join("|"),
        ))))),
        ..HeaderMatcher::default()
    })
}

pub(super) fn write_pattern(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.to_owned(), ..RegexMatcher::default() }
}

fn text(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }
}

/// `None` asks for no value.
fn write_value(is: &Is) -> Option<StringMatcher> {
    match is {
        Is::Present | Is::Absent => None,
        Is::Exact(value) => Some(text(MatchPattern::Exact(value.clone()))),
        Is::Prefix(value) => Some(text(MatchPattern::Prefix(value.clone()))),
        Is::Regex(regex) => Some(text(MatchPattern::SafeRegex(write_pattern(regex)))),
    }
}

pub(super) fn write_header(header: &Named) -> HeaderMatcher {
    let there = || HeaderMatchSpecifier::PresentMatch(header.is == Is::Present);
    HeaderMatcher {
        name: header.name.clone(),
        header_match_specifier: Some(write_value(&header.is).map_or_else(there, HeaderMatchSpecifier::StringMatch)),
        ..HeaderMatcher::default()
    }
}

fn write_parameter(parameter: &Named) -> QueryParameterMatcher {
    let value = write_value(&parameter.is).map(QueryParameterMatchSpecifier::StringMatch);
    QueryParameterMatcher {
        name: parameter.name.clone(),
        query_parameter_match_specifier: value.or(Some(QueryParameterMatchSpecifier::PresentMatch(true))),
    }
}

fn write_cookie(cookie: &Named) -> CookieMatcher {
    let any = || text(MatchPattern::SafeRegex(write_pattern(ANY)));
    CookieMatcher {
        name: cookie.name.clone(),
        string_match: Some(write_value(&cookie.is).unwrap_or_else(any)),
        invert_match: cookie.is == Is::Absent,
    }
}

fn write_callers(callers: &[String]) -> Option<FilterStateMatcher> {
    let ids = callers.iter().map(|id| regex::escape(id)).collect::<Vec<_>>().join("|");
    (!callers.is_empty()).then(|| FilterStateMatcher {
        key: CALLER.to_owned(),
        matcher: Some(filter_state_matcher::Matcher::StringMatch(text(MatchPattern::SafeRegex(write_pattern(&ids))))),
    })
}

/// What Envoy's message says; callers are in the metadata.
pub(super) fn read(matches: &pb::RouteMatch, callers: Vec<String>) -> Checked<RouteMatch> {
    let path = match &matches.path_specifier {
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.clone()),
        Some(PathSpecifier::Prefix(path)) => PathMatch::Prefix(path.clone()),
        Some(PathSpecifier::PathSeparatedPrefix(path)) => PathMatch::Segments(path.clone()),
        Some(PathSpecifier::SafeRegex(regex)) => PathMatch::Regex(regex.regex.clone()),
        Some(PathSpecifier::ConnectMatcher(ConnectMatcher {})) => PathMatch::Connect,
        _ => {
            return wrong(
                "path_specifier",
                "only path, prefix, path_separated_prefix, safe_regex and connect_matcher are supported",
            );
        }
    };
    let mut headers = matches.headers.as_slice();
    let mut methods = Vec::new();
    if let Some((first, rest)) = headers.split_first()
        && first.name == ":method"
    {
        methods = read_methods(first).at("headers[0]")?;
        headers = rest;
    }
    Ok(RouteMatch {
        path,
        methods,
        headers: headers.iter().map(read_header).collect::<Checked<_>>()?,
        query: matches.query_parameters.iter().map(read_parameter).collect::<Checked<_>>()?,
        cookies: matches.cookies.iter().map(read_cookie).collect::<Checked<_>>()?,
        callers,
    })
}

pub(super) fn read_methods(matcher: &HeaderMatcher) -> Checked<Vec<String>> {
    match &matcher.header_match_specifier {
        Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::SafeRegex(regex)),
            ..
        })) => Ok(regex.regex.split('|').map(str::to_owned).collect()),
        _ => wrong("", "methods are only supported as alternatives in a regular expression"),
    }
}

fn read_value(matcher: &StringMatcher) -> Checked<Is> {
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(value)) => Ok(Is::Exact(value.clone())),
        Some(MatchPattern::Prefix(value)) => Ok(Is::Prefix(value.clone())),
        Some(MatchPattern::SafeRegex(regex)) => Ok(Is::Regex(regex.regex.clone())),
        _ => wrong("", "only exact, prefix and safe_regex are supported"),
    }
}

pub(super) fn read_header(header: &HeaderMatcher) -> Checked<Named> {
    let is = match &header.header_match_specifier {
        Some(HeaderMatchSpecifier::PresentMatch(true)) => Is::Present,
        Some(HeaderMatchSpecifier::PresentMatch(false)) => Is::Absent,
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => read_value(matcher).at("headers")?,
        _ => return wrong("headers", format!("{}: only presence and values are supported", header.name)),
    };
    Ok(Named { name: header.name.clone(), is })
}

fn read_parameter(parameter: &QueryParameterMatcher) -> Checked<Named> {
    let is = match &parameter.query_parameter_match_specifier {
        Some(QueryParameterMatchSpecifier::PresentMatch(true)) => Is::Present,
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => read_value(matcher).at("query_parameters")?,
        _ => return wrong("query_parameters", format!("{}: only presence and values are supported", parameter.name)),
    };
    Ok(Named { name: parameter.name.clone(), is })
}

fn read_cookie(cookie: &CookieMatcher) -> Checked<Named> {
    let is = match (read_value(need(&cookie.string_match, "cookies")?).at("cookies")?, cookie.invert_match) {
        (Is::Regex(regex), true) if regex == ANY => Is::Absent,
        (Is::Regex(regex), false) if regex == ANY => Is::Present,
        (is, false) => is,
        (_, true) => return wrong("cookies.invert_match", "is only supported for absence"),
    };
    Ok(Named { name: cookie.name.clone(), is })
}
