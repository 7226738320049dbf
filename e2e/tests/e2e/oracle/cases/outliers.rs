//! Outlier detection: what counts, when an endpoint is ejected, when it comes back.

use std::time::Duration;

use xds::snapshot::OutlierDetection;

use crate::oracle::{
    ask::{Naming, get},
    case::{Case, Seen, Step, differ, same},
};

/// Ejects after three failures in a row, as many endpoints as fail, for longer than a case lasts.
fn outlier() -> OutlierDetection {
    OutlierDetection {
        consecutive_errors: 3,
        base_ejection: Duration::from_secs(300),
        max_ejection: Duration::from_secs(300),
        max_percent: 100,
        ..OutlierDetection::default()
    }
}

fn case(name: &'static str, hosts: &str) -> Case {
    Case::new(name, hosts).cluster(|cluster| cluster.outlier = Some(outlier()))
}

pub fn cases() -> Vec<Case> {
    let ejected = || Step::Await("a0", same(Seen::Ejected));
    let fine = || Step::Await("a0", same(Seen::Fine));
    vec![
        case("three 503 in a row eject", "a0 | b0")
            .asks(3, &get("/").script("503"), "503 - a0")
            .step(ejected())
            .ask(get("/"), "200 - b0"),
        case("502 and 504 count as 503 does", "a0 | b0")
            .ask(get("/").script("502"), "502 - a0")
            .ask(get("/").script("503"), "503 - a0")
            .ask(get("/").script("504"), "504 - a0")
            .step(ejected()),
        case("two failures do not eject, and a success between starts anew", "a0 | b0")
            .asks(2, &get("/").script("503"), "503 - a0")
            .ask(get("/"), "200 - a0")
            .asks(2, &get("/").script("503"), "503 - a0")
            .step(fine())
            .ask(get("/").script("503"), "503 - a0")
            .step(ejected()),
        case("a 500 is an answer of the program, and starts anew", "a0 | b0")
            .asks(5, &get("/").script("500"), "500 - a0")
            .asks(2, &get("/").script("503"), "503 - a0")
            .ask(get("/").script("500"), "500 - a0")
            .asks(2, &get("/").script("503"), "503 - a0")
            .step(fine())
            .ask(get("/").script("503"), "503 - a0")
            .step(ejected()),
        case("connect failures eject", "a0? | b0")
            .asks(3, &get("/"), "503 UF -")
            .step(ejected())
            .ask(get("/"), "200 - b0"),
        case("resets eject", "a0 | b0").asks(3, &get("/").script("reset"), "503 UC a0").step(ejected()),
        case("timeouts eject", "a0 | b0")
            .forward(|forward| forward.timeout = Duration::from_millis(300))
            .asks(3, &get("/").script("hang"), "504 UT a0")
            .step(ejected()),
        case("ejection ends after its time", "a0 | b0")
            .cluster(|cluster| {
                cluster.outlier.as_mut().unwrap().base_ejection = Duration::from_secs(1);
            })
            .asks(3, &get("/").script("503"), "503 - a0")
            .step(ejected())
            .step(fine())
            .ask(get("/"), "200 - a0"),
        case("a passing check ends an ejection", "a0 | b0")
            .checked()
            .asks(3, &get("/").script("503"), "503 - a0")
            .step(fine())
            .ask(get("/"), "200 - a0"),
        case("the cap holds back ejections where no other tier is", "a0 a1 a2 a3")
            .cluster(|cluster| cluster.outlier.as_mut().unwrap().max_percent = 50)
            .asks(20, &get("/").script("503").naming(Naming::Regions), "503 - a")
            .step(Step::Count(Seen::Ejected, same(2))),
        case("the cap of a tier that has another behind it", "a0 | b0")
            .cluster(|cluster| cluster.outlier.as_mut().unwrap().max_percent = 10)
            .asks(3, &get("/").script("503"), "503 - a0")
            .step(Step::Await("a0", differ(Seen::Fine, Seen::Ejected, CAP))),
        case("half of a tier ejected: 70 to 30", "a0 a1 | b0")
            .step(Step::Behave("a1", "503"))
            .step(Step::Until(get("/"), "a1", Seen::Ejected))
            .spread(get("/"), 1200, &[("a", 70.0), ("b", 30.0)]),
    ]
}

const CAP: &str = "Ejection caps count per tier and lift where another tier stands behind";
