//! Load inside a tier: endpoint weights, locality weights, balancers.

use xds::snapshot::{Balancer, RouteAction};

use crate::oracle::{
    ask::get,
    case::{Case, Shares, anywhere, prefix, route, split},
};

/// Name, endpoints, who answers.
type Row = (&'static str, &'static str, Shares);

const ROWS: &[Row] = &[
    ("round robin is even", "a0 a1 a2", &[("a0", 33.4), ("a1", 33.3), ("a2", 33.3)]),
    ("endpoint weights", "a0*3 a1", &[("a0", 75.0), ("a1", 25.0)]),
    ("endpoint weights far apart", "a0*97 a1*2 a2", &[("a0", 97.0), ("a1", 2.0), ("a2", 1.0)]),
    ("locality weights", "a0 a1 =3 / b0", &[("a", 75.0), ("b", 25.0)]),
    ("a locality's weight counts, not its size", "a0 a1 a2 / b0", &[("a", 50.0), ("b", 50.0)]),
    ("locality weight times endpoint weight", "a0*3 a1 =3 / b0", &[("a0", 56.25), ("a1", 18.75), ("b0", 25.0)]),
    ("a locality's weight shrinks with its health", "a0 a1! =3 / b0", &[("a", 67.7), ("b", 32.3)]),
    ("a locality keeps its weight at three quarters", "a0 a1 a2 a3! / b0", &[("a", 50.0), ("b", 50.0)]),
    ("a dead locality hands over to the others", "a0! =8 / b0 =3 / c0", &[("a", 0.0), ("b", 75.0), ("c", 25.0)]),
    ("localities inside two tiers", "a0! =3 / b0 | c0 =3 / d0", &[("a", 0.0), ("b", 70.0), ("c", 22.5), ("d", 7.5)]),
];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = ROWS
        .iter()
        .map(|(name, hosts, shares)| Case::new(name, hosts).checked().spread(get("/"), 1200, shares))
        .collect();
    let least = |name, hosts, shares| {
        let case = Case::new(name, hosts).cluster(|cluster| cluster.balancer = Balancer::LeastRequest);
        case.spread(get("/"), 1200, shares)
    };
    cases.push(least(
        "least request is even when all are idle",
        "a0 a1 a2",
        &[("a0", 33.4), ("a1", 33.3), ("a2", 33.3)],
    ));
    cases.extend([
        Case::new("a route splits over clusters by weight", "a0 ; b0 ; c0")
            .hosts(|forward| anywhere(vec![route(prefix("/"), RouteAction::Forward(split(forward, &[70, 20, 10])))]))
            .spread(get("/"), 1200, &[("a", 70.0), ("b", 20.0), ("c", 10.0)]),
        Case::new("a split whose weights are no percentages", "a0 ; b0")
            .hosts(|forward| anywhere(vec![route(prefix("/"), RouteAction::Forward(split(forward, &[3, 1])))]))
            .spread(get("/"), 1200, &[("a", 75.0), ("b", 25.0)]),
        Case::new("a cluster of a split is dead: its share is refused", "a0 ; b0!")
            .checked()
            .cluster(|cluster| cluster.panic_threshold = 0)
            .hosts(|forward| anywhere(vec![route(prefix("/"), RouteAction::Forward(split(forward, &[60, 40])))]))
            .spread(get("/"), 1200, &[("a", 60.0), ("503", 40.0)]),
    ]);
    cases
}
