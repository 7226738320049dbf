//! Repeats: which failures, which methods, how often, where to.

use std::time::Duration;

use xds::snapshot::{RetryOn, UpstreamProtocol};

use crate::oracle::{
    ask::{Naming, ask, get, post},
    case::{Case, retry},
};

const CROSSES: &str = "The last repeat goes to the next tier";
/// Also where a case of detectors resets a kept connection.
pub const KEPT: &str = "A safe request goes once more when a kept connection ends";

const ELSEWHERE: &str = "A repeat never goes to an endpoint that was tried";

fn gateway_errors(name: &'static str, hosts: &str) -> Case {
    Case::new(name, hosts).forward(|forward| forward.retry = Some(retry(1, &[RetryOn::GatewayError])))
}

fn everything(name: &'static str, hosts: &str) -> Case {
    Case::new(name, hosts).forward(|forward| {
        let on = [RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Reset, RetryOn::GatewayError];
        forward.retry = Some(retry(2, &on));
    })
}

pub fn cases() -> Vec<Case> {
    let tried = |script: &str| get("/").script(script).naming(Naming::Order);
    let mut cases = vec![
        gateway_errors("502, 503 and 504 are gateway errors, others are not", "a0 a1")
            .ask(tried("502,200"), "200 - 1>2")
            .ask(tried("503,200"), "200 - 1>2")
            .ask(tried("504,200"), "200 - 1>2")
            .ask(tried("500,200"), "500 - 1")
            .ask(tried("501,200"), "501 - 1")
            .ask(tried("404,200"), "404 - 1")
            .ask(tried("429,200"), "429 - 1"),
        everything("an answer that stays bad is given in the end", "a0 a1 a2")
            .ask(tried("503"), "503 URX 1>2>3")
            .ask(tried("503,504,502"), "502 URX 1>2>3")
            .ask(tried("503,404"), "404 - 1>2"),
        everything("resets are repeated", "a0 a1 a2")
            .ask(tried("reset,200"), "200 - 1>2")
            .ask(tried("close,200"), "200 - 1>2")
            .ask(tried("reset,503,200"), "200 - 1>2>3")
            .ask_differs(tried("reset"), "503 UC,URX 1>2>3", "503 UC,URX 1>2>3>3", KEPT),
        everything("methods that may be repeated after bytes were sent", "a0 a1 a2")
            .ask(ask("HEAD", "/").script("503,200").naming(Naming::Order), "200 - 1>2")
            .ask(ask("PUT", "/").script("503,200").naming(Naming::Order), "200 - 1>2")
            .ask(ask("DELETE", "/").script("reset,200").naming(Naming::Order), "200 - 1>2")
            .ask(ask("OPTIONS", "/").script("503,200").naming(Naming::Order), "200 - 1>2")
            .ask(post("/").script("503,200").naming(Naming::Order), "503 - 1")
            .ask(post("/").script("reset,200").naming(Naming::Order), "503 UC 1")
            .ask(ask("PATCH", "/").script("503,200").naming(Naming::Order), "503 - 1"),
        everything("a route may say that every method is repeated", "a0 a1 a2")
            .forward(|forward| forward.retry.as_mut().unwrap().non_idempotent = true)
            .ask(post("/").script("503,200").naming(Naming::Order), "200 - 1>2")
            .ask(post("/").script("reset,200").naming(Naming::Order), "200 - 1>2"),
        everything("a connect failure goes to another endpoint", "a0? a1").asks(4, &get("/"), "200 - a1"),
        everything("connect failures everywhere", "a0? a1? a2?").ask(get("/"), "503 UF,URX -"),
        everything("repeats reach the next tier", "a0 a1 | b0")
            .ask(get("/").script("503,503,200").naming(Naming::Regions), "200 - a>a>b"),
        gateway_errors("a single repeat reaches the next tier", "a0 a1 | b0").ask_differs(
            get("/").script("503,200").naming(Naming::Regions),
            "200 - a>a",
            "200 - a>b",
            CROSSES,
        ),
        Case::new("without a policy nothing is repeated", "a0 a1")
            .ask(tried("503,200"), "503 - 1")
            .ask(tried("reset,200"), "503 UC 1"),
        everything("no attempts, no repeats", "a0 a1")
            .forward(|forward| forward.retry.as_mut().unwrap().attempts = 0)
            .ask(tried("503,200"), "503 URX 1")
            .ask(tried("reset,200"), "503 UC,URX 1")
            .ask(tried("404"), "404 - 1"),
        gateway_errors("a gateway error is also what would be answered as one", "a0 a1")
            .ask(tried("reset,200"), "200 - 1>2")
            .ask(tried("close,200"), "200 - 1>2")
            .ask(tried("garbage,200"), "200 - 1>2"),
        gateway_errors("connect failures are gateway errors", "a0? a1").asks(4, &get("/"), "200 - a1"),
        everything("an answer that is not HTTP is repeated", "a0 a1 a2")
            .ask(tried("garbage,200"), "200 - 1>2")
            .ask(tried("garbage"), "502 UPE,URX 1>2>3"),
        gateway_errors("a repeat with nobody else to go to", "a0").ask_differs(
            get("/").script("503,200"),
            "200 - a0>a0",
            "503 - a0",
            ELSEWHERE,
        ),
        everything("a try that takes too long is repeated", "a0 a1 a2")
            .forward(|forward| forward.retry.as_mut().unwrap().per_try = Some(Duration::from_millis(1500)))
            .ask(tried("hang,200"), "200 - 1>2")
            .ask(tried("late:20"), "200 - 1"),
        everything("tries that all take too long", "a0 a1 a2")
            .forward(|forward| forward.retry.as_mut().unwrap().per_try = Some(Duration::from_millis(200)))
            .ask(tried("hang"), "504 URX,UT 1>2>3"),
    ];
    let refused = Case::new("a refused stream was not looked at: every method is repeated", "a0 a1");
    let refused = refused.cluster(|cluster| cluster.protocol = UpstreamProtocol::Http2);
    cases.push(
        refused
            .forward(|forward| forward.retry = Some(retry(1, &[RetryOn::RefusedStream])))
            .ask(tried("refuse,200"), "200 - 1>2")
            .ask(post("/").script("refuse,200").naming(Naming::Order), "200 - 1>2"),
    );
    cases
}
