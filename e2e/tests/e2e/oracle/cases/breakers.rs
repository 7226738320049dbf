//! Circuit breakers and retry budgets.

use xds::snapshot::{RetryOn, UpstreamProtocol};

use crate::oracle::{
    ask::{Naming, get},
    case::{Case, Step, retry, same},
};

const BUDGET: &str = "The retry budget is a rate with savings";

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("more requests than allowed", "a0")
            .cluster(|cluster| cluster.breakers.requests = 2)
            .step(Step::Crowd(get("/").script("hold"), 5, 3, same("503 UO -")))
            .step(Step::Held(2))
            .step(Step::Release(same("200 - a0")))
            .ask(get("/"), "200 - a0"),
        Case::new("more requests than allowed over HTTP/2", "a0")
            .cluster(|cluster| {
                cluster.breakers.requests = 2;
                cluster.protocol = UpstreamProtocol::Http2;
            })
            .step(Step::Crowd(get("/").script("hold"), 5, 3, same("503 UO -")))
            .step(Step::Held(2))
            .step(Step::Release(same("200 - a0"))),
        Case::new("an empty retry budget", "a0 a1")
            .cluster(|cluster| {
                cluster.breakers.retry_percent = 0;
                cluster.breakers.retries_per_second = 0;
            })
            .forward(|forward| forward.retry = Some(retry(1, &[RetryOn::GatewayError])))
            .ask_differs(get("/").script("503,200").naming(Naming::Order), "200 - 1>2", "503 UO 1", BUDGET),
    ]
}
