//! Matching by expressions, query and cookies; redirects, rewrites, header edits, mirrors.

use xds::snapshot::{
    Forward, HeaderEdits, Is, Mirror, Named, PathChange, PathMatch, Redirect, RouteAction, RouteMatch,
};

use crate::oracle::{
    ask::{Ask, get, post},
    case::{Case, Step, answer, anywhere, exact, prefix, route, same, split},
};

fn shown(ask: Ask) -> Ask {
    ask.shows("body")
}

/// What the endpoint got.
fn echoed(ask: Ask) -> Ask {
    ask.script("echo").shows("body")
}

fn regex(pattern: &str) -> RouteMatch {
    RouteMatch { path: PathMatch::Regex(pattern.to_owned()), ..prefix("/") }
}

fn segments(path: &str) -> RouteMatch {
    RouteMatch { path: PathMatch::Segments(path.to_owned()), ..prefix("/") }
}

fn named(name: &str, is: Is) -> Vec<Named> {
    vec![Named { name: name.to_owned(), is }]
}

fn header(name: &str, is: Is) -> RouteMatch {
    RouteMatch { headers: named(name, is), ..prefix("/") }
}

fn query(name: &str, is: Is) -> RouteMatch {
    RouteMatch { query: named(name, is), ..prefix("/") }
}

fn cookie(name: &str, is: Is) -> RouteMatch {
    RouteMatch { cookies: named(name, is), ..prefix("/") }
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn to(redirect: Redirect) -> RouteAction {
    RouteAction::Redirect(redirect)
}

fn changed(forward: &Forward, path: PathChange) -> RouteAction {
    RouteAction::Forward(Forward { path: Some(path), ..forward.clone() })
}

pub fn cases() -> Vec<Case> {
    let mut cases = matching();
    cases.extend(redirects());
    cases.extend(changes());
    cases.extend(mirrors());
    cases
}

fn matching() -> Vec<Case> {
    vec![
        Case::new("a regular expression takes the whole path", "a0")
            .hosts(|_| {
                anywhere(vec![
                    route(regex("/item/[0-9]+"), answer(200, "item")),
                    route(regex("/(a|b)/.*\\.js"), answer(200, "script")),
                    route(prefix("/"), answer(200, "none")),
                ])
            })
            .ask(shown(get("/item/42")), "200 - - body=item")
            .ask(shown(get("/item/42?x=/y")), "200 - - body=item")
            .ask(shown(get("/item/42/more")), "200 - - body=none")
            .ask(shown(get("/an/item/42")), "200 - - body=none")
            .ask(shown(get("/b/x.js")), "200 - - body=script")
            .ask(shown(get("/b/xxjs")), "200 - - body=none"),
        Case::new("headers by prefix, expression and absence", "a0")
            .hosts(|_| {
                anywhere(vec![
                    route(header("x-a", Is::Prefix(text("v1"))), answer(200, "prefix")),
                    route(header("x-a", Is::Regex(text("[a-c]+"))), answer(200, "regex")),
                    route(header("x-a", Is::Absent), answer(200, "absent")),
                    route(prefix("/"), answer(200, "none")),
                ])
            })
            .ask(shown(get("/").header("x-a", "v1.2")), "200 - - body=prefix")
            .ask(shown(get("/").header("x-a", "abc")), "200 - - body=regex")
            .ask(shown(get("/").header("x-a", "abcd")), "200 - - body=none")
            .ask(shown(get("/").header("x-a", "V1")), "200 - - body=none")
            .ask(shown(get("/")), "200 - - body=absent"),
        Case::new("the query", "a0")
            .hosts(|_| {
                anywhere(vec![
                    route(query("a", Is::Exact(text("1"))), answer(200, "one")),
                    route(query("a", Is::Prefix(text("2"))), answer(200, "two")),
                    route(query("a", Is::Regex(text("3+"))), answer(200, "three")),
                    route(query("b", Is::Present), answer(200, "there")),
                    route(prefix("/"), answer(200, "none")),
                ])
            })
            .ask(shown(get("/?a=1")), "200 - - body=one")
            .ask(shown(get("/?c=0&a=1")), "200 - - body=one")
            .ask(shown(get("/?a=1&a=2")), "200 - - body=one")
            .ask(shown(get("/?a=21")), "200 - - body=two")
            .ask(shown(get("/?a=333")), "200 - - body=three")
            .ask(shown(get("/?a=3334")), "200 - - body=none")
            .ask(shown(get("/?A=1")), "200 - - body=none")
            .ask(shown(get("/?a=%31")), "200 - - body=none")
            .ask(shown(get("/?b")), "200 - - body=there")
            .ask(shown(get("/?b=")), "200 - - body=there")
            .ask(shown(get("/?xb=")), "200 - - body=none"),
        Case::new("cookies", "a0")
            .hosts(|_| {
                anywhere(vec![
                    route(cookie("s", Is::Exact(text("new"))), answer(200, "new")),
                    route(cookie("s", Is::Present), answer(200, "some")),
                    route(prefix("/"), answer(200, "none")),
                ])
            })
            .ask(shown(get("/").header("cookie", "s=new")), "200 - - body=new")
            .ask(shown(get("/").header("cookie", "x=1; s=new; y=2")), "200 - - body=new")
            .ask(shown(get("/").header("cookie", "x=1; s=old")), "200 - - body=some")
            .ask(shown(get("/").header("cookie", "xs=new")), "200 - - body=none")
            .ask(shown(get("/")), "200 - - body=none"),
        Case::new("a header keeps its callers with one cluster of a split", "a0 ; b0")
            .hosts(|forward| {
                let sticky = Some(xds::snapshot::Sticky::Header(text("x-user")));
                let split = Forward { sticky, ..split(forward, &[70, 30]) };
                anywhere(vec![route(prefix("/"), RouteAction::Forward(split))])
            })
            .step(Step::Stays(get("/").header("x-user", "ann"), 8))
            .step(Step::Stays(get("/").header("x-user", "bob"), 8))
            .spread(get("/").header("x-user", "user {n}"), 1200, &[("a", 70.0), ("b", 30.0)])
            .spread(get("/"), 1200, &[("a", 70.0), ("b", 30.0)]),
    ]
}

fn redirects() -> Vec<Case> {
    let place = |ask: Ask| ask.shows("location");
    vec![
        Case::new("redirects", "a0")
            .hosts(|_| {
                let redirect = || Redirect { status: 301, ..Redirect::default() };
                anywhere(vec![
                    route(prefix("/host"), to(Redirect { host: Some(text("other.example")), ..redirect() })),
                    route(prefix("/https"), to(Redirect { scheme: Some(text("https")), status: 308, ..redirect() })),
                    route(prefix("/port"), to(Redirect { port: Some(8443), status: 302, ..redirect() })),
                    route(prefix("/old"), to(Redirect { path: Some(PathChange::Prefix(text("/new"))), ..redirect() })),
                    route(exact("/one"), to(Redirect { path: Some(PathChange::Prefix(text("/two"))), ..redirect() })),
                    route(
                        prefix("/bare"),
                        to(Redirect { strip_query: true, status: 307, host: Some(text("x.example")), ..redirect() }),
                    ),
                ])
            })
            .ask(place(get("/host/a?b=c")), "301 - - location=http://other.example/host/a?b=c")
            .ask(place(get("/https")), "308 - - location=https://oracle.example/https")
            .ask(place(get("/https").host("oracle.example:80")), "308 - - location=https://oracle.example/https")
            .ask(place(get("/https").host("oracle.example:8080")), "308 - - location=https://oracle.example:8080/https")
            .ask(place(get("/port?x")), "302 - - location=http://oracle.example:8443/port?x")
            .ask(place(get("/old/a?b")), "301 - - location=http://oracle.example/new/a?b")
            .ask(place(get("/one?b")), "301 - - location=http://oracle.example/two?b")
            .ask(place(get("/bare?b")), "307 - - location=http://x.example/bare")
            .ask(place(post("/host")), "301 - - location=http://other.example/host"),
    ]
}

fn changes() -> Vec<Case> {
    vec![
        Case::new("paths are rewritten", "a0")
            .hosts(|forward| {
                let regex = |pattern: &str, with: &str| PathChange::Regex { pattern: text(pattern), with: text(with) };
                anywhere(vec![
                    route(prefix("/api/"), changed(&forward, PathChange::Prefix(text("/")))),
                    route(exact("/one"), changed(&forward, PathChange::Prefix(text("/two")))),
                    route(prefix("/user"), changed(&forward, regex("/user/([0-9]+)", "/u-\\1"))),
                    route(prefix("/x"), changed(&forward, regex("x", "yy"))),
                    route(prefix("/"), RouteAction::Forward(forward)),
                ])
            })
            .ask(echoed(get("/api/a/b?c=/api/")), "200 - a0 body=GET /a/b?c=/api/ at oracle.example")
            .ask(echoed(get("/one?q")), "200 - a0 body=GET /two?q at oracle.example")
            .ask(echoed(get("/user/42/name?x=/user/7")), "200 - a0 body=GET /u-42/name?x=/user/7 at oracle.example")
            .ask(echoed(get("/xax?x")), "200 - a0 body=GET /yyayy?x at oracle.example")
            .ask(echoed(get("/other")), "200 - a0 body=GET /other at oracle.example"),
        Case::new("whole segments are matched, and rewritten", "a0")
            .hosts(|forward| {
                let root = PathChange::Regex { pattern: text("^/cut/?"), with: text("/") };
                anywhere(vec![
                    route(segments("/old"), changed(&forward, PathChange::Prefix(text("/new")))),
                    route(segments("/cut"), changed(&forward, root)),
                    route(prefix("/"), RouteAction::Forward(forward)),
                ])
            })
            .ask(echoed(get("/old?q")), "200 - a0 body=GET /new?q at oracle.example")
            .ask(echoed(get("/old/a")), "200 - a0 body=GET /new/a at oracle.example")
            .ask(echoed(get("/older")), "200 - a0 body=GET /older at oracle.example")
            .ask(echoed(get("/cut/a?/cut/")), "200 - a0 body=GET /a?/cut/ at oracle.example")
            .ask(echoed(get("/cut")), "200 - a0 body=GET / at oracle.example")
            .ask(echoed(get("/cutter")), "200 - a0 body=GET /cutter at oracle.example"),
        Case::new("the host is rewritten", "a0")
            .forward(|forward| forward.host = Some("inner.example".to_owned()))
            .ask(echoed(get("/p")), "200 - a0 body=GET /p at inner.example"),
        Case::new("headers of requests are changed", "a0")
            .forward(|forward| {
                forward.request_headers = HeaderEdits {
                    set: vec![(text("x-set"), text("new"))],
                    add: vec![(text("x-add"), text("more"))],
                    remove: vec![text("x-gone")],
                };
            })
            .ask(get("/").script("tell:x-set").header("x-set", "old").shows("body"), "200 - a0 body=new")
            .ask(get("/").script("tell:x-set").shows("body"), "200 - a0 body=new")
            .ask(get("/").script("tell:x-add").header("x-add", "one").shows("body"), "200 - a0 body=one,more")
            .ask(get("/").script("tell:x-gone").header("x-gone", "here").shows("body"), "200 - a0 body=-"),
        Case::new("headers of responses are changed", "a0")
            .forward(|forward| {
                forward.response_headers = HeaderEdits {
                    set: vec![(text("x-host"), text("hidden"))],
                    add: vec![(text("x-more"), text("1"))],
                    remove: vec![text("x-gone")],
                };
            })
            .ask(get("/").shows("x-host").shows("x-more"), "200 - a0 x-host=hidden x-more=1")
            .ask(get("/").script("503").shows("x-more"), "503 - a0 x-more=1"),
    ]
}

fn mirrors() -> Vec<Case> {
    fn mirrored(forward: &Forward, percent: f64) -> RouteAction {
        let cluster = forward.clusters[0].cluster.replace("-0", "-1");
        RouteAction::Forward(Forward { mirrors: vec![Mirror { cluster, percent }], ..forward.clone() })
    }
    vec![
        Case::new("a mirror gets a copy with another host", "a0 ; b0")
            .hosts(|forward| anywhere(vec![route(prefix("/"), mirrored(&forward, 100.0))]))
            .ask(get("/copy?q").shows("x-host").unnamed(), "200 - x-host=a0")
            .step(Step::Heard("b0", same("GET /copy?q at oracle.example-shadow")))
            .ask(post("/copy").shows("x-host").unnamed(), "200 - x-host=a0")
            .step(Step::Heard("b0", same("POST /copy at oracle.example-shadow"))),
        Case::new("a mirror that fails is not noticed", "a0 ; b0")
            .hosts(|forward| anywhere(vec![route(prefix("/"), mirrored(&forward, 100.0))]))
            .step(Step::Behave("b0", "reset"))
            .ask(get("/").shows("x-host").unnamed(), "200 - x-host=a0")
            .step(Step::Behave("b0", "hang"))
            .ask(get("/").shows("x-host").unnamed(), "200 - x-host=a0"),
        Case::new("a mirror gets its percentage", "a0 ; b0")
            .hosts(|forward| anywhere(vec![route(prefix("/"), mirrored(&forward, 30.0))]))
            .spread(get("/"), 1200, &[("a", 100.0)])
            .step(Step::Got("b0", 1200, same(30.0))),
        Case::new("a mirror without a share gets nothing", "a0 ; b0")
            .hosts(|forward| anywhere(vec![route(prefix("/"), mirrored(&forward, 0.0))]))
            .spread(get("/"), 400, &[("a", 100.0)])
            .step(Step::Got("b0", 400, same(0.0))),
    ]
}
