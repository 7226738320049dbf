//! The conditions of a route.

use http::{
    HeaderMap, HeaderName, Method,
    header::{COOKIE, GetAll, HeaderValue},
    request::Parts,
};
use regex::bytes::Regex;
use xds::{
    pattern,
    snapshot::{Is, Named, PathMatch, RouteMatch},
};

/// Conditions that must all hold.
#[derive(Debug)]
pub struct Matcher {
    path: PathTest,
    methods: Vec<Method>,
    headers: Headers,
    query: Vec<(String, Test)>,
    cookies: Vec<(String, Test)>,
    callers: Vec<String>,
}

/// Conditions on headers that must all hold.
#[derive(Debug)]
pub struct Headers(Vec<(HeaderName, Test)>);

impl Headers {
    /// Prepares them. Names that no request can have were refused with their snapshot.
    pub fn new(conditions: &[Named]) -> Self {
        let test = |header: &Named| Some((HeaderName::from_bytes(header.name.as_bytes()).ok()?, Test::new(&header.is)));
        Self(conditions.iter().filter_map(test).collect())
    }

    /// Whether all of them hold.
    pub fn fit(&self, headers: &HeaderMap) -> bool {
        self.0.iter().all(|(name, test)| header_fits(test, &headers.get_all(name)))
    }
}

#[derive(Debug)]
enum PathTest {
    Exact(String),
    Prefix(String),
    Segments(String),
    Regex(Regex),
    Connect,
    Never,
}

#[derive(Debug)]
enum Test {
    Present,
    Absent,
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Regex(Regex),
    Never,
}

impl Test {
    /// A pattern that does not compile was refused with its snapshot.
    fn new(is: &Is) -> Self {
        match is {
            Is::Present => Self::Present,
            Is::Absent => Self::Absent,
            Is::Exact(value) => Self::Exact(value.clone().into_bytes()),
            Is::Prefix(value) => Self::Prefix(value.clone().into_bytes()),
            Is::Regex(regex) => pattern::whole(regex).map_or(Self::Never, Self::Regex),
        }
    }

    fn fits(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (Self::Present, value) => value.is_some(),
            (Self::Absent, value) => value.is_none(),
            (_, None) | (Self::Never, _) => false,
            (Self::Exact(expected), Some(value)) => value == expected.as_slice(),
            (Self::Prefix(prefix), Some(value)) => value.starts_with(prefix),
            (Self::Regex(regex), Some(value)) => regex.is_match(value),
        }
    }
}

impl Matcher {
    /// Prepares a route's conditions. Names that no request can have were refused with their snapshot.
    pub fn new(matches: &RouteMatch) -> Self {
        let RouteMatch { path, methods, headers, query, cookies, callers } = matches;
        let named = |conditions: &[Named]| {
            conditions.iter().map(|condition| (condition.name.clone(), Test::new(&condition.is))).collect()
        };
        Self {
            path: match path {
                PathMatch::Exact(path) => PathTest::Exact(path.clone()),
                PathMatch::Prefix(path) => PathTest::Prefix(path.clone()),
                PathMatch::Segments(path) => PathTest::Segments(path.clone()),
                PathMatch::Regex(regex) => pattern::whole(regex).map_or(PathTest::Never, PathTest::Regex),
                PathMatch::Connect => PathTest::Connect,
            },
            methods: methods.iter().filter_map(|method| Method::from_bytes(method.as_bytes()).ok()).collect(),
            headers: Headers::new(headers),
            query: named(query),
            cookies: named(cookies),
            callers: callers.clone(),
        }
    }

    /// Whether all of them hold.
    pub fn matches(&self, caller: Option<&str>, request: &Parts) -> bool {
        let path = request.uri.path();
        // CONNECT has no path that a condition could be about.
        let connects = request.method == Method::CONNECT;
        let path_fits = match &self.path {
            PathTest::Connect => connects,
            _ if connects => false,
            PathTest::Exact(exact) => path == exact,
            PathTest::Prefix(prefix) => path.starts_with(prefix.as_str()),
            PathTest::Segments(prefix) => below(path, prefix),
            PathTest::Regex(regex) => regex.is_match(path.as_bytes()),
            PathTest::Never => false,
        };
        path_fits
            && (self.methods.is_empty() || self.methods.contains(&request.method))
            && self.headers.fit(&request.headers)
            && self.query.iter().all(|(name, test)| test.fits(parameter(request.uri.query(), name)))
            && self.cookies.iter().all(|(name, test)| test.fits(cookie(&request.headers, name)))
            && (self.callers.is_empty() || caller.is_some_and(|caller| self.callers.iter().any(|id| id == caller)))
    }
}

/// Whether a path begins with these whole segments. What ends in a slash takes what is below it only.
pub fn below(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// One value that fits suffices, as at Envoy.
fn header_fits(test: &Test, values: &GetAll<'_, HeaderValue>) -> bool {
    let mut all = values.iter().peekable();
    if all.peek().is_none() {
        return test.fits(None);
    }
    all.any(|value| test.fits(Some(value.as_bytes())))
}

/// The first parameter of this name, undecoded; empty where no `=` follows it.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a [u8]> {
    query?.split('&').find_map(|parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (key == name).then_some(value.as_bytes())
    })
}

/// The first cookie of this name, without the quotes that it may stand in (RFC 6265, 4.1.1).
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request =
            headers.iter().fold(http::Request::builder().method(method).uri(uri), |r, (k, v)| r.header(*k, *v));
        request.body(()).unwrap().into_parts().0
    }

    fn on(name: &str, is: Is) -> Vec<Named> {
        vec![Named { name: name.into(), is }]
    }

    fn text(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn every_condition_counts() {
        let id = "spiffe://bank/service/a";
        let request = parts(
            "GET",
            "/v2/rates?user=7&flag&user=8&e=%41",
            &[
                ("x-v", "2.1"),
                ("x-many", "a"),
                ("x-many", "b"),
                ("cookie", "one=1; ab=\"q\"; a=z;;b"),
                ("cookie", "c=3"),
            ],
        );
        let any = RouteMatch::default;
        let headers = |name: &str, is| RouteMatch { headers: on(name, is), ..any() };
        let query = |name: &str, is| RouteMatch { query: on(name, is), ..any() };
        let cookies = |name: &str, is| RouteMatch { cookies: on(name, is), ..any() };
        let cases = [
            (any(), true),
            (RouteMatch { path: PathMatch::Regex(text("/v[0-9]/[a-z]+")), ..any() }, true),
            (RouteMatch { path: PathMatch::Regex(text("/v[0-9]")), ..any() }, false),
            (RouteMatch { path: PathMatch::Exact(text("/v2/rates")), ..any() }, true),
            (RouteMatch { path: PathMatch::Prefix(text("/v3")), ..any() }, false),
            (RouteMatch { path: PathMatch::Prefix(text("/v2/ra")), ..any() }, true),
            (RouteMatch { path: PathMatch::Segments(text("/v2/ra")), ..any() }, false),
            (RouteMatch { path: PathMatch::Segments(text("/v2")), ..any() }, true),
            (RouteMatch { path: PathMatch::Segments(text("/v2/rates")), ..any() }, true),
            (RouteMatch { methods: vec![text("PUT"), text("GET")], ..any() }, true),
            (RouteMatch { methods: vec![text("PUT")], ..any() }, false),
            (headers("x-v", Is::Exact(text("2.1"))), true),
            (headers("x-v", Is::Exact(text("2"))), false),
            (headers("x-v", Is::Prefix(text("2."))), true),
            (headers("x-v", Is::Regex(text(r"2\.[0-9]"))), true),
            (headers("x-v", Is::Regex(text("[0-9]"))), false),
            (headers("x-v", Is::Present), true),
            (headers("x-v", Is::Absent), false),
            (headers("x-w", Is::Present), false),
            (headers("x-w", Is::Absent), true),
            (headers("x-w", Is::Exact(text(""))), false),
            (headers("x-many", Is::Exact(text("a,b"))), false),
            (headers("x-many", Is::Exact(text("b"))), true),
            (query("user", Is::Exact(text("7"))), true),
            (query("user", Is::Exact(text("8"))), false),
            (query("flag", Is::Present), true),
            (query("flag", Is::Exact(text(""))), true),
            (query("e", Is::Exact(text("A"))), false),
            (query("use", Is::Present), false),
            (cookies("a", Is::Exact(text("z"))), true),
            (cookies("ab", Is::Exact(text("q"))), true),
            (cookies("b", Is::Present), false),
            (cookies("c", Is::Prefix(text("3"))), true),
            (cookies("d", Is::Absent), true),
            (cookies("one", Is::Absent), false),
            (RouteMatch { callers: vec![text("spiffe://bank/service/b"), text(id)], ..any() }, true),
            (RouteMatch { callers: vec![text("spiffe://bank/service")], ..any() }, false),
        ];
        for (condition, expected) in cases {
            assert_eq!(Matcher::new(&condition).matches(Some(id), &request), expected, "{condition:?}");
        }
        let named = RouteMatch { callers: vec![text(id)], ..any() };
        assert!(!Matcher::new(&named).matches(None, &request));
    }
}
