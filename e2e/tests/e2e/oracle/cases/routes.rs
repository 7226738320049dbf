//! Which route a request takes, and answers that are given without forwarding.

use xds::snapshot::{Is, Named, RouteAction, RouteMatch};

use crate::oracle::{
    ask::{Ask, ask, get, post},
    case::{Case, answer, anywhere, exact, prefix, route},
};

const DOTS: &str = "A path with dot segments is refused";

/// The first route that matches is named by the body.
fn shown(ask: Ask) -> Ask {
    ask.shows("body")
}

fn with_header(name: &str, exact: Option<&str>) -> RouteMatch {
    let is = exact.map_or(Is::Present, |value| Is::Exact(value.to_owned()));
    let header = Named { name: name.to_owned(), is };
    RouteMatch { headers: vec![header], ..prefix("/") }
}

fn with_methods(methods: &[&str]) -> RouteMatch {
    RouteMatch { methods: methods.iter().map(|method| (*method).to_owned()).collect(), ..prefix("/") }
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("exact and prefix paths, first match wins", "a0")
            .hosts(|_| {
                anywhere(vec![
                    route(exact("/a"), answer(200, "exact")),
                    route(prefix("/a/b"), answer(200, "longer")),
                    route(prefix("/a"), answer(200, "prefix")),
                    route(exact("/ab"), answer(200, "never")),
                ])
            })
            .ask(shown(get("/a")), "200 - - body=exact")
            .ask(shown(get("/a?q=/x")), "200 - - body=exact")
            .ask(shown(get("/a/")), "200 - - body=prefix")
            .ask(shown(get("/a/b")), "200 - - body=longer")
            .ask(shown(get("/ab")), "200 - - body=prefix")
            .ask(get("/A"), "404 NR -")
            .ask(get("/"), "404 NR -"),
        Case::new("paths that other programs would read in another way", "a0")
            .hosts(|forward| {
                anywhere(vec![
                    route(prefix("/secret"), answer(403, "no")),
                    route(prefix("/open"), RouteAction::Forward(forward)),
                ])
            })
            .ask_differs(get("/open/../secret").unlogged(), "403 ? -", "400 ? -", DOTS)
            .ask_differs(get("/open/./%2e%2e/secret").unlogged(), "403 ? -", "400 ? -", DOTS)
            .ask_differs(get("/open/./x").unlogged(), "200 ? a0", "400 ? -", DOTS)
            .ask(get("/open//y").script("echo").shows("body"), "200 - a0 body=GET /open//y at oracle.example")
            .ask(get("/open/a%20b").script("echo").shows("body"), "200 - a0 body=GET /open/a%20b at oracle.example"),
        Case::new("headers", "a0")
            .hosts(|_| {
                anywhere(vec![
                    route(with_header("x-a", Some("one")), answer(200, "one")),
                    route(with_header("x-a", None), answer(200, "some")),
                    route(with_header("x-b", None), answer(200, "other")),
                ])
            })
            .ask(shown(get("/").header("x-a", "one")), "200 - - body=one")
            .ask(shown(get("/").header("X-A", "one")), "200 - - body=one")
            .ask(shown(get("/").header("x-a", "ONE")), "200 - - body=some")
            .ask(shown(get("/").header("x-a", "")), "200 - - body=some")
            .ask(shown(get("/").header("x-b", "2").header("x-a", "one")), "200 - - body=one")
            .ask(shown(get("/").header("x-b", "2")), "200 - - body=other")
            .ask(get("/"), "404 NR -"),
        Case::new("a header that is there twice", "a0")
            .hosts(|_| {
                anywhere(vec![
                    route(with_header("x-a", Some("one,two")), answer(200, "list")),
                    route(with_header("x-a", Some("one")), answer(200, "one")),
                    route(prefix("/"), answer(200, "none")),
                ])
            })
            .ask(shown(get("/").header("x-a", "one").header("x-a", "two")), "200 - - body=one")
            .ask(shown(get("/").header("x-a", "two").header("x-a", "one")), "200 - - body=one")
            .ask(shown(get("/").header("x-a", "one,two")), "200 - - body=list"),
        Case::new("methods", "a0")
            .hosts(|_| {
                anywhere(vec![
                    route(with_methods(&["GET", "HEAD"]), answer(200, "read")),
                    route(with_methods(&["POST"]), answer(200, "write")),
                ])
            })
            .ask(shown(get("/")), "200 - - body=read")
            .ask(shown(ask("HEAD", "/")), "200 - - body=")
            .ask(shown(post("/")), "200 - - body=write")
            .ask(ask("PUT", "/"), "404 NR -"),
        Case::new("direct answers", "a0")
            .hosts(|_| {
                anywhere(vec![
                    route(exact("/gone"), answer(410, "it is gone")),
                    route(exact("/empty"), answer(204, "")),
                    route(exact("/broken"), answer(503, "closed")),
                ])
            })
            .ask(shown(get("/gone")), "410 - - body=it is gone")
            .ask(shown(post("/gone")), "410 - - body=it is gone")
            .ask(get("/gone").shows("content-type"), "410 - - content-type=text/plain")
            .ask(get("/empty"), "204 - -")
            .ask(shown(get("/broken")), "503 - - body=closed"),
        Case::new("virtual hosts", "a0")
            .hosts(|forward| {
                vec![
                    ("one", vec!["one.example"], vec![route(prefix("/"), answer(200, "one"))]),
                    ("two", vec!["two.example", "three.example"], vec![route(prefix("/x"), answer(200, "two"))]),
                    ("rest", vec!["*"], vec![route(prefix("/"), RouteAction::Forward(forward))]),
                ]
            })
            .ask(shown(get("/").host("one.example")), "200 - - body=one")
            .ask(shown(get("/").host("ONE.example")), "200 - - body=one")
            .ask(shown(get("/").host("one.example:8080")), "200 - - body=one")
            .ask(shown(get("/x").host("three.example")), "200 - - body=two")
            .ask(get("/y").host("two.example"), "404 NR -")
            .ask(get("/").host("sub.one.example"), "200 - a0"),
        Case::new("no host takes the request", "a0")
            .hosts(|forward| {
                vec![("one", vec!["one.example"], vec![route(prefix("/"), RouteAction::Forward(forward))])]
            })
            .ask(get("/").host("one.example"), "200 - a0")
            .ask(get("/").host("two.example"), "404 NR -"),
    ]
}
