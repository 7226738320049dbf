//! Bounds on time.

use std::time::Duration;

use xds::snapshot::RetryOn;

use crate::oracle::{
    ask::{Naming, get, post},
    case::{Case, retry},
};

const BODY: &str = "A route's timeout ends with the response's head";

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("a route's timeout", "a0")
            .forward(|forward| forward.timeout = Duration::from_millis(300))
            .ask(get("/").script("hang"), "504 UT a0")
            .ask(post("/").script("hang"), "504 UT a0"),
        Case::new("a bound on one try without repeats", "a0")
            .forward(|forward| {
                let mut policy = retry(0, &[RetryOn::GatewayError]);
                policy.per_try = Some(Duration::from_millis(200));
                forward.retry = Some(policy);
            })
            .ask(get("/").script("hang"), "504 URX,UT a0"),
        Case::new("the route's timeout covers all tries", "a0 a1 a2")
            .forward(|forward| {
                let mut policy = retry(2, &[RetryOn::GatewayError, RetryOn::Reset]);
                policy.per_try = Some(Duration::from_secs(10));
                forward.retry = Some(policy);
                forward.timeout = Duration::from_millis(1500);
            })
            .ask(get("/").script("503,hang").naming(Naming::Order), "504 UT 1>2"),
        Case::new("the route's timeout and the body", "a0")
            .forward(|forward| {
                forward.timeout = Duration::from_millis(1500);
                forward.idle_timeout = Some(Duration::from_secs(3));
            })
            .ask_differs(get("/").script("stall"), "200~ UT a0", "200~ SI a0", BODY),
        Case::new("a stream that is silent", "a0")
            .forward(|forward| {
                forward.timeout = Duration::ZERO;
                forward.idle_timeout = Some(Duration::from_millis(1500));
            })
            .ask(get("/").script("stall"), "200~ SI a0")
            .ask(get("/").script("hang"), "504 SI a0"),
        Case::new("no timeout", "a0")
            .forward(|forward| forward.timeout = Duration::ZERO)
            .ask(get("/").script("late:300"), "200 - a0"),
    ]
}
