//! Circuit breakers and retry budgets.

use xds::snapshot::{CircuitBreakers, Forward, RetryOn, RouteAction, RoutingPriority, UpstreamProtocol};

use crate::oracle::{
    ask::{Ask, Naming, get},
    case::{Case, Domain, Step, anywhere, prefix, retry, route, same},
};

const BUDGET: &str = "The retry budget is a rate with savings";

/// What is below `/high` is of high priority, the rest is not.
fn by_priority(forward: Forward) -> Vec<Domain> {
    let high = Forward { priority: RoutingPriority::High, ..forward.clone() };
    anywhere(vec![
        route(prefix("/high"), RouteAction::Forward(high)),
        route(prefix("/"), RouteAction::Forward(forward)),
    ])
}

fn held(path: &'static str) -> Ask {
    get(path).script("hold")
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("more requests than allowed", "a0")
            .cluster(|cluster| cluster.breakers.requests = 2)
            .step(Step::Crowd(held("/"), 5, 3, same("503 UO -")))
            .step(Step::Held(2))
            .step(Step::Release(same("200 - a0")))
            .ask(get("/"), "200 - a0"),
        Case::new("more requests than allowed over HTTP/2", "a0")
            .cluster(|cluster| {
                cluster.breakers.requests = 2;
                cluster.protocol = UpstreamProtocol::Http2;
            })
            .step(Step::Crowd(held("/"), 5, 3, same("503 UO -")))
            .step(Step::Held(2))
            .step(Step::Release(same("200 - a0"))),
        Case::new("an empty retry budget", "a0 a1")
            .cluster(|cluster| {
                cluster.breakers.retry_percent = 0;
                cluster.breakers.retries_per_second = 0;
            })
            .forward(|forward| forward.retry = Some(retry(1, &[RetryOn::GatewayError])))
            .ask_differs(get("/").script("503,200").naming(Naming::Order), "200 - 1>2", "503 UO 1", BUDGET),
    ];
    cases.extend(priorities());
    cases
}

/// Each routing priority has breakers of its own.
fn priorities() -> Vec<Case> {
    vec![
        Case::new("requests of default priority overflow, those of high priority pass", "a0")
            .cluster(|cluster| cluster.breakers.requests = 2)
            .hosts(by_priority)
            .step(Step::Crowd(held("/"), 5, 3, same("503 UO -")))
            .step(Step::Held(2))
            .asks(3, &get("/high"), "200 - a0")
            // Nobody said how many: as many as usual.
            .step(Step::Crowd(held("/high"), 4, 0, same("")))
            .step(Step::Held(6))
            .ask(get("/"), "503 UO -")
            .step(Step::Release(same("200 - a0")))
            .ask(get("/"), "200 - a0"),
        Case::new("requests of high priority overflow, those of default priority pass", "a0")
            .cluster(|cluster| cluster.high_breakers = Some(CircuitBreakers { requests: 2, ..CircuitBreakers::USUAL }))
            .hosts(by_priority)
            .step(Step::Crowd(held("/high"), 5, 3, same("503 UO -")))
            .step(Step::Held(2))
            .asks(3, &get("/"), "200 - a0")
            .step(Step::Crowd(held("/"), 4, 0, same("")))
            .step(Step::Held(6))
            .ask(get("/high"), "503 UO -")
            .step(Step::Release(same("200 - a0")))
            .ask(get("/high"), "200 - a0"),
        Case::new("both priorities overflow over HTTP/2, each at its own threshold", "a0")
            .cluster(|cluster| {
                cluster.breakers.requests = 2;
                cluster.high_breakers = Some(CircuitBreakers { requests: 3, ..CircuitBreakers::USUAL });
                cluster.protocol = UpstreamProtocol::Http2;
            })
            .hosts(by_priority)
            .step(Step::Crowd(held("/"), 5, 3, same("503 UO -")))
            .step(Step::Held(2))
            .step(Step::Crowd(held("/high"), 5, 2, same("503 UO -")))
            .step(Step::Held(5))
            .step(Step::Release(same("200 - a0"))),
        Case::new("no connection is left for default priority, high priority has its own", "a0")
            .cluster(|cluster| {
                cluster.breakers.connections = 1;
                cluster.breakers.pending = 1;
            })
            .hosts(by_priority)
            .step(Step::Crowd(held("/"), 1, 0, same("")))
            .step(Step::Held(1))
            // One waits for the connection, the other may not.
            .step(Step::Crowd(held("/"), 2, 1, same("503 UO -")))
            .asks(2, &get("/high"), "200 - a0")
            .step(Step::Release(same("200 - a0"))),
        Case::new("an empty retry budget of default priority leaves the other one alone", "a0 a1")
            .cluster(|cluster| {
                cluster.breakers.retry_percent = 0;
                cluster.breakers.retries_per_second = 0;
                cluster.high_breakers = Some(CircuitBreakers::USUAL);
            })
            .forward(|forward| forward.retry = Some(retry(1, &[RetryOn::GatewayError])))
            .hosts(by_priority)
            .ask_differs(get("/").script("503,200").naming(Naming::Order), "200 - 1>2", "503 UO 1", BUDGET)
            .ask(get("/high").script("503,200").naming(Naming::Order), "200 - 1>2"),
    ]
}
