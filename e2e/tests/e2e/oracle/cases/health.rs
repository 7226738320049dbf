//! Active health checks.

use std::time::Duration;

use xds::snapshot::Exchange;

use crate::oracle::{
    ask::get,
    case::{Case, Seen, Step, same},
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("a status that is not 200 is unhealthy at once, and comes back by its threshold", "a0 | b0")
            .checked()
            .cluster(|cluster| {
                let check = cluster.health_check.as_mut().unwrap();
                check.unhealthy_after = 1000;
                check.healthy_after = 2;
            })
            .ask(get("/"), "200 - a0")
            .step(Step::Pass("a0", false))
            .step(Step::Await("a0", same(Seen::Unhealthy)))
            .ask(get("/"), "200 - b0")
            .step(Step::Pass("a0", true))
            .step(Step::Await("a0", same(Seen::Fine)))
            .ask(get("/"), "200 - a0"),
        Case::new("a check that cannot connect", "a0? | b0").checked().ask(get("/"), "200 - b0"),
        Case::new("a check that only connects does not read answers", "a0 | b0")
            .checked()
            .cluster(|cluster| cluster.health_check.as_mut().unwrap().http_path = None)
            .step(Step::Behave("a0", "503"))
            .step(Step::Pass("a0", false))
            .ask(get("/"), "503 - a0"),
        Case::new("a check that says and hears something over TCP", "a0 | b0")
            .bytes()
            .checked()
            .cluster(|cluster| {
                let check = cluster.health_check.as_mut().unwrap();
                let question = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
                check.http_path = None;
                check.exchange = Some(Exchange { send: question, receive: b" 200 ".to_vec() });
                check.timeout = Duration::from_secs(1);
            })
            .ask(get("/").unlogged(), "200 ? a0")
            .step(Step::Pass("a0", false))
            .step(Step::Await("a0", same(Seen::Unhealthy)))
            .ask(get("/").unlogged(), "200 ? b0")
            .step(Step::Pass("a0", true))
            .step(Step::Await("a0", same(Seen::Fine)))
            .ask(get("/").unlogged(), "200 ? a0"),
    ]
}
