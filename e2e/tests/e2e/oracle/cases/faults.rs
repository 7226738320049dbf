//! Faults of the configuration.

use std::time::Duration;

use xds::{
    overlay::{Delay, FaultAction},
    snapshot::{Forward, RouteAction, RouteFault},
};

use crate::oracle::{
    ask::get,
    case::{Case, anywhere, prefix, route},
};

fn delay(percent: f64) -> RouteFault {
    RouteFault { percent, action: FaultAction::Delay(Delay::Fixed(Duration::from_millis(50))) }
}

fn abort(percent: f64) -> RouteFault {
    RouteFault { percent, action: FaultAction::Abort { status: 418 } }
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("a delay", "a0").forward(|forward| forward.faults = vec![delay(100.0)]).ask(get("/"), "200 DI a0"),
        Case::new("an abort", "a0").forward(|forward| forward.faults = vec![abort(100.0)]).ask(get("/"), "418 FI -"),
        Case::new("delay, then abort", "a0")
            .forward(|forward| forward.faults = vec![delay(100.0), abort(100.0)])
            .ask(get("/"), "418 DI,FI -"),
        Case::new("faults without a share", "a0")
            .forward(|forward| forward.faults = vec![delay(0.0), abort(0.0)])
            .asks(4, &get("/"), "200 - a0"),
        Case::new("an abort of some", "a0").forward(|forward| forward.faults = vec![abort(30.0)]).spread(
            get("/"),
            1200,
            &[("a", 70.0), ("418", 30.0)],
        ),
        Case::new("delay and abort are drawn apart", "a0")
            .forward(|forward| forward.faults = vec![delay(10.0), abort(50.0)])
            .spread(get("/"), 400, &[("a", 50.0), ("418", 50.0)]),
        Case::new("faults of one route", "a0")
            .hosts(|forward| {
                let hurt = Forward { faults: vec![abort(100.0)], ..forward.clone() };
                anywhere(vec![
                    route(prefix("/hurt"), RouteAction::Forward(hurt)),
                    route(prefix("/"), RouteAction::Forward(forward)),
                ])
            })
            .ask(get("/hurt"), "418 FI -")
            .ask(get("/well"), "200 - a0"),
    ]
}
