use std::collections::BTreeMap;

use http::Request;
use http_body_util::Full;
use xds::snapshot::{Balancer, Direction, HashKey};

use crate::support::*;

async fn answered_by(to: std::net::SocketAddr, header: (&str, &str)) -> String {
    let request = Request::get("/").header("host", "fx").header(header.0, header.1).body(Full::default()).unwrap();
    http1(to, request).await.unwrap().header("x-origin").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_stays_with_an_endpoint() {
    let origins = ["fx-1", "fx-2", "fx-3"].map(Origin::start);
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        let mut snapshot = simple(Direction::Gateway, &[&origins.each_ref()]);
        snapshot.clusters[0].balancer = balancer;
        snapshot.clusters[0].balancing.hash = vec![HashKey::Cookie("user".into())];
        let to = snapshot.listeners[0].address;
        let _proxy = Proxy::start(&snapshot);
        let mut homes: BTreeMap<String, u32> = BTreeMap::new();
        for user in 0..12 {
            let cookie = format!("a=1; user={user}");
            let home = answered_by(to, ("cookie", &cookie)).await;
            assert_eq!(answered_by(to, ("cookie", &cookie)).await, home, "{balancer:?}");
            *homes.entry(home).or_default() += 1;
        }
        assert!(homes.len() > 1, "users are spread: {homes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_balancer_uses_every_endpoint() {
    let origins = ["fx-1", "fx-2", "fx-3"].map(Origin::start);
    for balancer in
        [Balancer::RoundRobin, Balancer::LeastRequest, Balancer::PeakEwma, Balancer::RingHash, Balancer::Maglev]
    {
        let mut snapshot = simple(Direction::Gateway, &[&origins.each_ref()]);
        snapshot.clusters[0].balancer = balancer;
        let to = snapshot.listeners[0].address;
        let _proxy = Proxy::start(&snapshot);
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..60 {
            *seen.entry(answered_by(to, ("x", "y")).await).or_default() += 1;
        }
        assert!(seen.len() == 3, "{balancer:?}: {seen:?}");
    }
}
