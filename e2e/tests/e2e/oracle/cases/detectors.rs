//! Detectors of outlier detection beside failures in a row of a gateway's kind.

use std::time::Duration;

use xds::snapshot::{FailurePercentage, OutlierDetection, SuccessRate};

use super::retries::KEPT;
use crate::oracle::{
    ask::{Naming, get},
    case::{Case, Seen, Step, differ, same},
};

const RESETS: &str = "Resets count among failures of the network";

/// Everything off, ejections without a cap and longer than a case lasts.
fn off() -> OutlierDetection {
    OutlierDetection {
        consecutive_errors: 0,
        base_ejection: Duration::from_secs(300),
        max_ejection: Duration::from_secs(300),
        max_percent: 100,
        ..OutlierDetection::default()
    }
}

pub fn cases() -> Vec<Case> {
    let ejected = || Step::Await("a0", same(Seen::Ejected));
    let fine = || Step::Await("a0", same(Seen::Fine));
    vec![
        Case::new("every 5xx in a row counts where that is asked for", "a0 | b0")
            .cluster(|cluster| cluster.outlier = Some(OutlierDetection { consecutive_5xx: Some(3), ..off() }))
            .asks(2, &get("/").script("500"), "500 - a0")
            .ask(get("/"), "200 - a0")
            .ask(get("/").script("500"), "500 - a0")
            .ask(get("/").script("503"), "503 - a0")
            .step(fine())
            .ask(get("/").script("501"), "501 - a0")
            .step(ejected()),
        Case::new("failures of the network are counted apart where that is asked for", "a0 | b0")
            .cluster(|cluster| cluster.outlier = Some(OutlierDetection { consecutive_local: Some(3), ..off() }))
            .asks(5, &get("/").script("503"), "503 - a0")
            .ask_differs(get("/").script("reset"), "503 UC a0", "503 UC a0>b0", KEPT)
            .ask(get("/").script("reset"), "503 UC a0")
            .step(fine())
            .ask(get("/").script("reset"), "503 UC a0")
            .step(Step::Await("a0", differ(Seen::Fine, Seen::Ejected, RESETS))),
        Case::new("connect failures are failures of the network", "a0? | b0")
            .cluster(|cluster| cluster.outlier = Some(OutlierDetection { consecutive_local: Some(3), ..off() }))
            .asks(3, &get("/"), "503 UF -")
            .step(ejected()),
        Case::new("answers of programs are counted apart from failures of the network", "a0 | b0")
            .cluster(|cluster| {
                let apart = OutlierDetection { consecutive_errors: 3, consecutive_local: Some(300), ..off() };
                cluster.outlier = Some(apart);
            })
            .asks(2, &get("/").script("503"), "503 - a0")
            .ask_differs(get("/").script("reset"), "503 UC a0", "503 UC a0>b0", KEPT)
            .step(fine())
            .ask(get("/").script("503"), "503 - a0")
            .step(ejected()),
        Case::new("who succeeds much more rarely than the others is ejected", "a0 a1 a2 a3 a4")
            .cluster(|cluster| {
                let rate = SuccessRate { hosts: 5, requests: 5, factor: 1500 };
                cluster.outlier = Some(OutlierDetection { success_rate: Some(rate), ..off() });
            })
            .step(Step::Behave("a0", "500"))
            .step(Step::Until(get("/").naming(Naming::Regions), "a0", Seen::Ejected))
            .step(Step::Count(Seen::Ejected, same(1))),
        Case::new("who fails more often than a percentage is ejected", "a0 a1 a2 a3 a4")
            .cluster(|cluster| {
                let rate = FailurePercentage { threshold: 50, hosts: 5, requests: 5 };
                cluster.outlier = Some(OutlierDetection { failure_percentage: Some(rate), ..off() });
            })
            .step(Step::Behave("a0", "500"))
            .step(Step::Behave("a1", "503"))
            .step(Step::Until(get("/"), "a0", Seen::Ejected))
            .step(Step::Await("a1", same(Seen::Ejected)))
            .step(Step::Count(Seen::Ejected, same(2))),
    ]
}
