//! Where a redirect sends its caller.

use http::{HeaderValue, request::Parts, uri::Authority};
use xds::snapshot::Redirect;

use super::rewrite::Change;

/// The value of `location`. `secure` is whether the caller came over TLS; `path` is the redirect's prepared change.
/// `None` if no header can hold it.
pub fn location(
    redirect: &Redirect,
    path: Option<&Change>,
    request: &Parts,
    authority: &Authority,
    secure: bool,
) -> Option<HeaderValue> {
    let was = if secure { "https" } else { "http" };
    let scheme = redirect.scheme.as_deref().unwrap_or(was);
    let port = match redirect.port {
        Some(port) => Some(port),
        // A new host has ports of its own, and the default port of the other scheme would lead nowhere.
        None if redirect.host.is_some() => None,
        None => authority.port_u16().filter(|port| scheme == was || *port != if secure { 443 } else { 80 }),
    };
    let host = redirect.host.as_deref().unwrap_or(authority.host());
    let mut target = format!("{scheme}://{host}");
    if let Some(port) = port {
        target.push_str(&format!(":{port}"));
    }
    match path {
        Some(change) => target.push_str(&change.apply(request.uri.path())),
        None => target.push_str(request.uri.path()),
    }
    if let Some(query) = request.uri.query().filter(|_| !redirect.strip_query) {
        target.push('?');
        target.push_str(query);
    }
    HeaderValue::try_from(target).ok()
}

#[cfg(test)]
mod tests {
    use xds::snapshot::{PathChange, PathMatch};

    use super::{super::Rewrite, *};

    #[test]
    fn what_is_not_said_stays() {
        let text = |text: &str| Some(text.to_owned());
        let base = || Redirect { status: 301, ..Redirect::default() };
        for (redirect, authority, secure, expected) in [
            (base(), "fx", false, "http://fx/a/b?c=d"),
            (base(), "fx:8080", true, "https://fx:8080/a/b?c=d"),
            (Redirect { scheme: text("https"), ..base() }, "fx:80", false, "https://fx/a/b?c=d"),
            (Redirect { scheme: text("https"), ..base() }, "fx:8080", false, "https://fx:8080/a/b?c=d"),
            (Redirect { scheme: text("http"), ..base() }, "[::1]:443", true, "http://[::1]/a/b?c=d"),
            (Redirect { scheme: text("https"), port: Some(8443), ..base() }, "fx:80", false, "https://fx:8443/a/b?c=d"),
            (Redirect { host: text("other"), ..base() }, "fx:8080", false, "http://other/a/b?c=d"),
            (Redirect { strip_query: true, ..base() }, "fx", false, "http://fx/a/b"),
            (Redirect { path: Some(PathChange::Prefix("/x".into())), ..base() }, "fx", false, "http://fx/x/b?c=d"),
        ] {
            let rewrite = Rewrite::of_redirect(&redirect, &PathMatch::Prefix("/a".into()));
            let change = rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
            let (head, ()) = http::Request::get("/a/b?c=d").body(()).unwrap().into_parts();
            let authority = Authority::try_from(authority).unwrap();
            let location = location(&redirect, change, &head, &authority, secure).unwrap();
            assert_eq!(location, expected, "{redirect:?}");
        }
    }
}
