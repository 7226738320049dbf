//! What an endpoint sees instead of what the caller wrote.

use std::borrow::Cow;

use http::{
    Uri,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use regex::bytes::Regex;
use xds::{
    pattern,
    snapshot::{Forward, PathChange, PathMatch, Redirect},
};

use super::headers::Edits;

/// Prepared changes of a route.
#[derive(Debug)]
pub struct Rewrite {
    /// Of the path.
    pub path: Option<Change>,
    host: Option<Authority>,
    request: Edits,
    response: Edits,
}

/// A change of a path.
#[derive(Debug)]
pub enum Change {
    /// What comes in place of the first bytes.
    Beginning {
        /// How many.
        length: usize,
        /// In their place.
        with: String,
    },
    /// In place of the whole path.
    Whole(String),
    /// In place of every match.
    Regex(Regex, String),
}

impl Change {
    /// Patterns were compiled before, when the snapshot was looked at.
    fn new(change: &PathChange, matched: &PathMatch) -> Option<Self> {
        Some(match (change, matched) {
            (PathChange::Prefix(with), PathMatch::Prefix(prefix) | PathMatch::Segments(prefix)) => {
                Self::Beginning { length: prefix.len(), with: with.clone() }
            }
            (PathChange::Prefix(with), PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Connect) => {
                Self::Whole(with.clone())
            }
            (PathChange::Regex { pattern, with }, _) => {
                let regex = pattern::part(pattern).ok()?;
                let with = pattern::replacement(with, &regex).ok()?;
                Self::Regex(regex, with)
            }
        })
    }

    /// The changed path (without query). Nothing says that it is a path: a pattern may make anything of one.
    pub fn apply(&self, path: &str) -> String {
        match self {
            Self::Beginning { length, with } => format!("{with}{}", path.get(*length..).unwrap_or_default()),
            Self::Whole(with) => with.clone(),
            Self::Regex(regex, with) => match regex.replace_all(path.as_bytes(), with.as_bytes()) {
                Cow::Borrowed(_) => path.to_owned(),
                Cow::Owned(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            },
        }
    }
}

impl Rewrite {
    /// Of a route that forwards; `None` if it changes nothing.
    pub fn new(forward: &Forward, matched: &PathMatch) -> Option<Self> {
        let nothing = forward.path.is_none()
            && forward.host.is_none()
            && forward.request_headers.is_empty()
            && forward.response_headers.is_empty();
        (!nothing).then(|| Self {
            path: forward.path.as_ref().and_then(|change| Change::new(change, matched)),
            host: forward.host.as_deref().and_then(|host| Authority::try_from(host).ok()),
            request: Edits::new(&forward.request_headers),
            response: Edits::new(&forward.response_headers),
        })
    }

    /// Of a redirect; `None` if the path stays.
    pub fn of_redirect(redirect: &Redirect, matched: &PathMatch) -> Option<Self> {
        let path = Change::new(redirect.path.as_ref()?, matched);
        Some(Self { path, host: None, request: Edits::default(), response: Edits::default() })
    }

    /// Changes a request.
    ///
    /// # Errors
    /// A sentence, when what comes out is no path. The caller still has to see whether the new path is ambiguous: a
    /// prefix `/a` that becomes `/` makes `/../b` of `/a../b`.
    pub fn request(&self, head: &mut Parts, authority: &mut Authority) -> Result<(), &'static str> {
        self.request.apply(&mut head.headers);
        if let Some(host) = &self.host {
            *authority = host.clone();
        }
        let Some(change) = &self.path else { return Ok(()) };
        let mut target = change.apply(head.uri.path());
        if !target.starts_with('/') {
            return Err("the rewritten path is no path");
        }
        if let Some(query) = head.uri.query() {
            target.push('?');
            target.push_str(query);
        }
        let target = PathAndQuery::try_from(target).map_err(|_| "the rewritten path is no path")?;
        let mut uri = std::mem::take(&mut head.uri).into_parts();
        uri.path_and_query = Some(target);
        head.uri = Uri::from_parts(uri).map_err(|_| "the rewritten path is no path")?;
        Ok(())
    }

    /// Changes a response's headers.
    pub fn response(&self, headers: &mut http::HeaderMap) {
        self.response.apply(headers);
    }
}

#[cfg(test)]
mod tests {
    use xds::snapshot::HeaderEdits;

    use super::*;

    fn rewritten(path: PathChange, matched: PathMatch, uri: &str) -> Result<String, &'static str> {
        let forward = Forward { path: Some(path), ..Forward::default() };
        let (mut head, ()) = http::Request::get(uri).body(()).unwrap().into_parts();
        let mut authority = Authority::from_static("fx");
        Rewrite::new(&forward, &matched).unwrap().request(&mut head, &mut authority)?;
        assert_eq!(authority, "fx");
        Ok(head.uri.to_string())
    }

    #[test]
    fn paths_change_and_queries_stay() {
        let prefix = |with: &str| PathChange::Prefix(with.into());
        let regex = |pattern: &str, with: &str| PathChange::Regex { pattern: pattern.into(), with: with.into() };
        let at = |prefix: &str| PathMatch::Prefix(prefix.into());
        for (change, matched, uri, expected) in [
            (prefix("/"), at("/v1/"), "/v1/rates?a=b%20c", Ok("/rates?a=b%20c")),
            (prefix("/new"), at("/old"), "/older", Ok("/newer")),
            (prefix("/x"), PathMatch::Exact("/a/b".into()), "/a/b?q", Ok("/x?q")),
            (prefix("/x"), PathMatch::Regex("/a/.*".into()), "/a/b", Ok("/x")),
            (prefix("/x"), at("/a"), "http://fx/a/b", Ok("http://fx/x/b")),
            (
                regex("^/service/([^/]+)(/.*)$", r"\2/instance/\1"),
                at("/"),
                "/service/foo/v1/api",
                Ok("/v1/api/instance/foo"),
            ),
            (regex("one", "two"), at("/"), "/xxx/one/yyy/one/zzz?one", Ok("/xxx/two/yyy/two/zzz?one")),
            (regex("(?i)/ONE", "/$1"), at("/"), "/one", Ok("/$1")),
            (regex("none", "x"), at("/"), "/a", Ok("/a")),
            (regex("/a", "a"), at("/"), "/a", Err("the rewritten path is no path")),
            (regex("a", " "), at("/"), "/a", Err("the rewritten path is no path")),
        ] {
            let shown = format!("{change:?} {uri}");
            assert_eq!(rewritten(change, matched, uri).as_deref(), expected.as_ref().copied(), "{shown}");
        }
    }

    #[test]
    fn host_and_headers_change() {
        let edits = |name: &str| HeaderEdits { set: vec![(name.into(), "1".into())], ..HeaderEdits::default() };
        let forward = Forward {
            host: Some("inner.bank:8080".into()),
            request_headers: edits("x-request"),
            response_headers: edits("x-response"),
            ..Forward::default()
        };
        let rewrite = Rewrite::new(&forward, &PathMatch::default()).unwrap();
        let (mut head, ()) = http::Request::get("/a?b").body(()).unwrap().into_parts();
        let mut authority = Authority::from_static("fx");
        rewrite.request(&mut head, &mut authority).unwrap();
        assert_eq!((authority.as_str(), head.uri.to_string().as_str()), ("inner.bank:8080", "/a?b"));
        assert_eq!(head.headers["x-request"], "1");
        let mut headers = http::HeaderMap::new();
        rewrite.response(&mut headers);
        assert_eq!(headers["x-response"], "1");
        assert!(Rewrite::new(&Forward::default(), &PathMatch::default()).is_none());
    }
}
