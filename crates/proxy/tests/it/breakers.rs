//! Circuit breakers: each routing priority has its own.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use serde_json::{Value, json};
use xds::snapshot::{CircuitBreakers, Direction, PathMatch, RouteAction, RoutingPriority, Snapshot, UpstreamProtocol};

use crate::support::*;

/// Gives what is below `/high` high priority.
pub fn by_priority(snapshot: &mut Snapshot) {
    let routes = &mut hosts(snapshot)[0].routes;
    let mut high = routes[1].clone();
    high.matches.path = PathMatch::Prefix("/high".into());
    let RouteAction::Forward(forward) = &mut high.action else { unreachable!() };
    forward.priority = RoutingPriority::High;
    routes.insert(0, high);
    for route in routes {
        let RouteAction::Forward(forward) = &mut route.action else { continue };
        forward.timeout = Duration::from_secs(30);
    }
}

fn breakers(proxy: &Proxy) -> Vec<Value> {
    proxy.status()["clusters"][0]["breakers"].as_array().cloned().unwrap_or_default()
}

fn breaker(priority: &str, bound: &str, used: u64, refused: u64, open: bool) -> Value {
    json!({"priority": priority, "bound": bound, "used": used, "refused": refused, "open": open})
}

/// Each once: its request waits for an answer that does not come, and no other one may be sent.
#[tokio::test(flavor = "multi_thread")]
async fn one_priority_is_open_and_the_other_passes() {
    for (full, other) in [("/", "/high"), ("/high", "/")] {
        let origin = Origin::start("fx-1");
        let mut snapshot = simple(Direction::Gateway, &[&[&origin]]);
        snapshot.routes = vec![routes("fx", None, None)];
        by_priority(&mut snapshot);
        let one = CircuitBreakers { requests: 1, ..CircuitBreakers::USUAL };
        let name = if full == "/" {
            snapshot.clusters[0].breakers = one;
            "default"
        } else {
            snapshot.clusters[0].high_breakers = Some(one);
            "high"
        };
        let to = snapshot.listeners[0].address;
        let proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
        assert_eq!(breakers(&proxy), [] as [Value; 0], "nothing was asked for");
        let until = |what, holds: &dyn Fn(&Proxy) -> bool| tokio::task::block_in_place(|| proxy.until(what, holds));

        origin.does.frozen.store(true, SeqCst);
        let waiting = tokio::spawn(http1(to, get(full)));
        until("under way", &|_| origin.does.requests.load(SeqCst) == 1);
        origin.does.frozen.store(false, SeqCst);
        for _ in 0..3 {
            assert_eq!(http1(to, get(full)).await.unwrap().status, 503, "{full}");
            assert_eq!(http1(to, get(other)).await.unwrap().status, 200, "{other}");
        }
        let [full, other] = if name == "default" { ["default", "high"] } else { ["high", "default"] };
        let mut expected = vec![
            breaker(full, "connections", 1, 0, false),
            breaker(full, "requests", 1, 3, true),
            breaker(other, "connections", 1, 0, false),
        ];
        expected.sort_by_key(|status| status["priority"].as_str().map(str::to_owned));
        until("the others are over", &|proxy| breakers(proxy) == expected);
        let page = proxy.admin("/metrics").unwrap().1;
        for (what, value) in [("open", 1), ("used", 1), ("refused_total", 3)] {
            let labels = format!("cluster=\"fx\",routing_priority=\"{full}\",bound=\"requests\"");
            let line = format!("firedrill_breaker_{what}{{{labels}}} {value}");
            assert!(page.lines().any(|other| other == line), "{line} is not in {page}");
        }

        until("closed", &|proxy| !breakers(proxy).iter().any(|breaker| breaker["open"] == true));
        let told: Vec<Value> = proxy.events().into_iter().map(|mut event| event["kind"].take()).collect();
        let told = told.into_iter().filter(|kind| kind["type"].as_str().is_some_and(|t| t.starts_with("breaker")));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                json!({"type": "breakerOpened", "cluster": "fx", "priority": full, "bound": "requests"}),
                json!({"type": "breakerClosed", "cluster": "fx", "priority": full, "bound": "requests", "refused": 3}),
            ]
        );
        waiting.abort();
    }
}

/// Over both protocols: whoever has high priority finds a connection though there is none left for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn priorities_do_not_share_connections() {
    let origin = Origin::start("fx-1");
    let mut snapshot = simple(Direction::Gateway, &[&[&origin]]);
    snapshot.routes = vec![routes("fx", None, None)];
    by_priority(&mut snapshot);
    snapshot.clusters[0].breakers = CircuitBreakers { connections: 1, pending: 1, ..CircuitBreakers::USUAL };
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
    origin.does.frozen.store(true, SeqCst);
    let ask = || tokio::spawn(http1(to, get("/")));
    let until = |what, holds: &dyn Fn(&Proxy) -> bool| tokio::task::block_in_place(|| proxy.until(what, holds));
    let first = ask();
    until("under way", &|_| origin.does.requests.load(SeqCst) == 1);
    origin.does.frozen.store(false, SeqCst);
    let second = ask();
    until("one waits", &|proxy| breakers(proxy).iter().any(|b| b["bound"] == "pending" && b["used"] == 1));
    assert_eq!(http1(to, get("/")).await.unwrap().status, 503, "no other may wait");
    assert_eq!(http1(to, get("/high")).await.unwrap().status, 200);
    first.abort();
    assert_eq!(second.await.unwrap().unwrap().status, 200, "the first one's connection is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn priorities_do_not_share_connections_over_http2() {
    let inner = Origin::start("fx-1");
    // A proxy of ours as an endpoint that speaks HTTP/2.
    let inside = simple(Direction::Gateway, &[&[&inner]]);
    let before = Proxy::with(&inside, None, |options| options.workers = 1);
    let mut snapshot = simple(Direction::Gateway, &[&[&inner]]);
    snapshot.endpoints[0].localities[0].endpoints[0].address = inside.listeners[0].address;
    snapshot.clusters[0].protocol = UpstreamProtocol::Http2;
    by_priority(&mut snapshot);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
    for path in ["/", "/high", "/", "/high"] {
        assert_eq!(http1(to, get(path)).await.unwrap().status, 200);
    }
    let expected = [breaker("default", "connections", 1, 0, false), breaker("high", "connections", 1, 0, false)];
    tokio::task::block_in_place(|| proxy.until("one connection for each", |proxy| breakers(proxy) == expected));
    drop(before);
}
