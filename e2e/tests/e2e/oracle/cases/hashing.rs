//! Balancers that hash: the same key goes to the same endpoint, and keys spread by weight.

use xds::snapshot::{Balancer, Cluster, HashKey};

use crate::oracle::{
    ask::get,
    case::{Case, Seen, Shares, Step, same},
};

const EVEN: Shares = &[("a0", 33.4), ("a1", 33.3), ("a2", 33.3)];

fn by_header(cluster: &mut Cluster) {
    cluster.balancing.hash = vec![HashKey::Header("x-key".to_owned())];
}

fn ring(cluster: &mut Cluster) {
    cluster.balancer = Balancer::RingHash;
}

fn maglev(cluster: &mut Cluster) {
    cluster.balancer = Balancer::Maglev;
}

pub fn cases() -> Vec<Case> {
    let key = |key| get("/").header("x-key", key);
    let keys = || get("/").header("x-key", "key-{n}");
    let mut cases = Vec::new();
    type Set = fn(&mut Cluster);
    let balancers: [(Set, [&'static str; 5]); 2] = [
        (
            ring,
            [
                "ring hash by header",
                "ring hash by cookie",
                "ring hash by source address",
                "ring hash by weight",
                "ring hash without a key",
            ],
        ),
        (
            maglev,
            [
                "Maglev by header",
                "Maglev by cookie",
                "Maglev by source address",
                "Maglev by weight",
                "Maglev without a key",
            ],
        ),
    ];
    for (balancer, [header, cookie, source, weight, none]) in balancers {
        let case = |name, hosts| Case::new(name, hosts).cluster(balancer);
        cases.extend([
            case(header, "a0 a1 a2")
                .cluster(by_header)
                .step(Step::Stays(key("ann"), 8))
                .step(Step::Stays(key("bob"), 8))
                .spread(keys(), 1200, EVEN),
            case(cookie, "a0 a1 a2")
                .cluster(|cluster| cluster.balancing.hash = vec![HashKey::Cookie("s".to_owned())])
                .step(Step::Stays(get("/").header("cookie", "x=1; s=ann"), 8))
                .spread(get("/").header("cookie", "s=user-{n}"), 1200, EVEN),
            case(source, "a0 a1 a2")
                .cluster(|cluster| cluster.balancing.hash = vec![HashKey::SourceAddress])
                .step(Step::Stays(get("/"), 8)),
            case(weight, "a0*3 a1").cluster(by_header).step(Step::Stays(key("ann"), 8)).spread(
                keys(),
                1200,
                &[("a0", 75.0), ("a1", 25.0)],
            ),
            case(none, "a0 a1 a2").cluster(by_header).spread(get("/"), 1200, EVEN),
        ]);
    }
    cases.push(
        Case::new("a key comes back to its endpoint when that is well again", "a0 a1 a2")
            .cluster(ring)
            .cluster(by_header)
            .checked()
            .step(Step::Stays(key("ann"), 8))
            .step(Step::Pass("a0", false))
            .step(Step::Await("a0", same(Seen::Unhealthy)))
            .step(Step::Stays(key("ann"), 8))
            .spread(keys(), 1200, &[("a0", 0.0), ("a1", 50.0), ("a2", 50.0)]),
    );
    cases
}
