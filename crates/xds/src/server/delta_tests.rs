//! The incremental stream's state machine, message by message.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::service::{
        discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        runtime::v3::Runtime,
    },
    google::rpc::Status,
};
use prost::Message as _;

use super::{
    bodies::Bodies,
    delta::DeltaCore,
    desired::Desired,
    held::Held,
    protocol::{Heard, Protocol as _},
    tests::snapshot,
};
use crate::{
    codec::{LAYER, Layer, Share},
    overlay::{Effect, Overlay},
    resource::ResourceKind as Kind,
    snapshot::Snapshot,
};

/// A stream and a proxy that asks for the endpoints of every cluster it has.
struct Talk {
    core: DeltaCore,
    desired: Desired,
    now: Instant,
    clusters: Vec<String>,
}

fn told(response: &DeltaDiscoveryResponse) -> String {
    let kind = Kind::of_type_url(&response.type_url).unwrap();
    let new = response.resources.iter().map(|resource| format!(" +{}", resource.name));
    let gone = response.removed_resources.iter().map(|name| format!(" -{name}"));
    let what: String = new.chain(gone).collect();
    format!("{} {kind}{what}", response.system_version_info)
}

impl Talk {
    fn new() -> Self {
        Self { core: DeltaCore::default(), desired: Desired::default(), now: Instant::now(), clusters: Vec::new() }
    }

    fn publish(&mut self, version: &str, snapshot: Arc<Snapshot>) {
        let beside = crate::codec::Beside::default();
        self.desired.publish(version, snapshot, beside, &mut Bodies::default()).unwrap();
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Heard {
        self.core.on_request(&request).unwrap()
    }

    fn ask(&mut self, kind: Kind, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let type_url = kind.type_url().to_owned();
        self.request(DeltaDiscoveryRequest { type_url, resource_names_subscribe: names, ..Default::default() });
    }

    fn answer(&mut self, response: &DeltaDiscoveryResponse, error: Option<&str>) -> Heard {
        self.request(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error.map(|text| Status { message: text.to_owned(), ..Status::default() }),
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn response(&mut self) -> Option<DeltaDiscoveryResponse> {
        self.core.next_response(&self.desired, &mut Held::default(), self.now)
    }

    fn silent(&mut self) {
        assert_eq!(self.response(), None);
    }

    /// Accepts everything, and asks for endpoints as clusters come and go, until there is nothing more.
    fn settle(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(response) = self.response() {
            all.push(told(&response));
            self.answer(&response, None);
            if response.type_url == Kind::Cluster.type_url() {
                let new: Vec<String> = response.resources.iter().map(|resource| resource.name.clone()).collect();
                let known = std::mem::take(&mut self.clusters);
                let news: Vec<&str> = new.iter().filter(|name| !known.contains(name)).map(String::as_str).collect();
                if !news.is_empty() {
                    self.ask(Kind::Endpoints, &news);
                }
                self.clusters = known.into_iter().chain(new).collect();
                self.clusters.retain(|name| !response.removed_resources.contains(name));
                self.request(DeltaDiscoveryRequest {
                    type_url: Kind::Endpoints.type_url().to_owned(),
                    resource_names_unsubscribe: response.removed_resources.clone(),
                    ..DeltaDiscoveryRequest::default()
                });
            }
        }
        all
    }

    fn open(&mut self) {
        self.ask(Kind::Cluster, &[]);
        self.ask(Kind::Listener, &[]);
    }

    fn settled(&self) -> bool {
        self.core.settled_all(&self.desired)
    }
}

#[test]
fn only_what_changed_is_told_and_what_goes_goes_last() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a", "b"], 1));
    talk.open();
    let first = ["1~more Cluster +a +b", "1~more ClusterLoadAssignment +a +b", "1 Listener +bytes"];
    assert_eq!(talk.settle(), first);
    assert!(talk.settled());
    talk.publish("2", snapshot(&["a", "b"], 2));
    assert!(!talk.settled());
    assert_eq!(talk.settle(), ["2 Listener +bytes"], "clusters are as they were");
    talk.publish("3", snapshot(&["b", "c"], 3));
    let third = ["3~more Cluster +c", "3~more ClusterLoadAssignment +c", "3~more Listener +bytes", "3 Cluster -a"];
    assert_eq!(talk.settle(), third);
    assert!(talk.settled());
}

#[test]
fn one_endpoint_is_one_response() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a", "b"], 1));
    talk.open();
    talk.settle();
    let mut changed = Snapshot::clone(&snapshot(&["a", "b"], 1));
    changed.endpoints[1].localities.push(super::tests::locality(9));
    talk.publish("2", Arc::new(changed));
    assert_eq!(talk.settle(), ["2 ClusterLoadAssignment +b"]);
}

#[test]
fn endpoints_follow_a_changed_cluster_though_they_are_the_same() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a", "b"], 1));
    talk.open();
    talk.settle();
    let mut changed = Snapshot::clone(&snapshot(&["a", "b"], 1));
    changed.clusters[0].connect_timeout += Duration::from_secs(1);
    talk.publish("2", Arc::new(changed));
    assert_eq!(talk.settle(), ["2~more Cluster +a", "2 ClusterLoadAssignment +a"]);
}

#[test]
fn listeners_wait_for_the_answer_of_endpoints() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a"], 1));
    talk.open();
    let clusters = talk.response().unwrap();
    talk.silent();
    talk.ask(Kind::Endpoints, &["a"]);
    let endpoints = talk.response().unwrap();
    talk.silent();
    talk.answer(&clusters, None);
    talk.silent();
    talk.answer(&endpoints, None);
    assert_eq!(told(&talk.response().unwrap()), "1 Listener +bytes");
}

#[test]
fn a_refusal_stops_its_version_and_the_next_one_goes_on_from_what_is_held() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a"], 1));
    talk.open();
    talk.settle();
    talk.publish("2", snapshot(&["a", "b"], 1));
    let clusters = talk.response().unwrap();
    let Heard::Nacked(nack) = talk.answer(&clusters, Some("no b")) else { panic!("a refusal") };
    assert_eq!((nack.kind, nack.version.as_str(), nack.detail.as_str()), (Kind::Cluster, "2", "no b"));
    talk.silent();
    assert!(!talk.settled());
    talk.publish("3", snapshot(&["a"], 1));
    assert_eq!(talk.settle(), ["3 Listener"], "what it has is of this version");
    assert!(talk.settled());
    talk.publish("4", snapshot(&["a", "b"], 1));
    let fourth = ["4~more Cluster +b", "4~more ClusterLoadAssignment +b", "4 Listener"];
    assert_eq!(talk.settle(), fourth, "listeners have their turn after a new cluster, so that it can warm");
}

#[test]
fn a_refusal_that_is_taken_back_is_an_acceptance() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a"], 1));
    talk.open();
    talk.settle();
    talk.publish("2", snapshot(&["a"], 2));
    let listeners = talk.response().unwrap();
    assert!(matches!(talk.answer(&listeners, Some("in use")), Heard::Nacked(_)));
    assert!(matches!(talk.answer(&listeners, None), Heard::Acked { kind: Kind::Listener, .. }));
    assert_eq!(talk.answer(&listeners, None), Heard::Nothing);
    talk.silent();
    assert!(talk.settled());
}

#[test]
fn a_version_that_was_overtaken_is_never_sent() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a"], 1));
    talk.open();
    talk.settle();
    for version in 2..10_u16 {
        talk.publish(&version.to_string(), snapshot(&["a"], version));
    }
    assert_eq!(talk.settle(), ["9 Listener +bytes"]);
}

#[test]
fn who_comes_back_with_what_it_has_is_told_the_rest() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a", "b"], 1));
    talk.open();
    let (mut has, mut last) = (Vec::new(), None);
    talk.ask(Kind::Endpoints, &["a", "b"]);
    while let Some(response) = talk.response() {
        talk.answer(&response, None);
        for resource in &response.resources {
            has.push((response.type_url.clone(), resource.name.clone(), resource.version.clone()));
        }
        last = Some(response);
    }
    assert_eq!(last.unwrap().system_version_info, "1");
    let resume = |talk: &mut Talk, version: &str| {
        talk.core = DeltaCore::default();
        for kind in [Kind::Cluster, Kind::Endpoints, Kind::Listener] {
            let of_kind = has.iter().filter(|(of, ..)| of == kind.type_url());
            let initial = of_kind.map(|(_, name, version)| (name.clone(), version.clone()));
            let names = if kind == Kind::Endpoints { vec!["a".to_owned(), "b".to_owned()] } else { Vec::new() };
            let node = crate::node::NodeInfo::default().to_proto_with(version);
            talk.request(DeltaDiscoveryRequest {
                node: (kind == Kind::Cluster).then_some(node),
                type_url: kind.type_url().to_owned(),
                initial_resource_versions: initial.collect(),
                resource_names_subscribe: names,
                ..DeltaDiscoveryRequest::default()
            });
        }
    };
    resume(&mut talk, "1");
    assert!(talk.settled());
    talk.silent();
    // Another control plane names the same content by another version.
    resume(&mut talk, "0");
    assert_eq!(talk.settle(), ["1 Listener"]);
    resume(&mut talk, "1");
    talk.publish("2", snapshot(&["b"], 2));
    assert_eq!(talk.settle(), ["2~more Listener +bytes", "2 Cluster -a"]);
}

#[test]
fn who_asks_for_what_is_not_there_is_told_so_once_and_told_when_it_comes() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a"], 1));
    talk.open();
    talk.settle();
    talk.ask(Kind::Endpoints, &["b"]);
    assert_eq!(talk.settle(), ["1 ClusterLoadAssignment -b"]);
    talk.ask(Kind::Endpoints, &["a"]);
    assert_eq!(talk.settle(), ["1 ClusterLoadAssignment +a"], "asked for again");
    talk.publish("2", snapshot(&["a", "b"], 1));
    assert_eq!(talk.settle(), ["2~more Cluster +b", "2~more ClusterLoadAssignment +b", "2 Listener"]);
}

#[test]
fn overlays_come_whole_are_renewed_without_a_body_and_are_removed_by_name() {
    let overlay = |id: &str| Overlay { id: id.to_owned(), reason: String::new(), effect: Effect::Harmless };
    let ttl = Duration::from_secs(3);
    let mut talk = Talk::new();
    talk.ask(Kind::Overlay, &[]);
    assert_eq!(talk.settle(), ["0 Runtime"], "the proxy learns at once that there is none");
    talk.desired.set_overlays(vec![(overlay("a"), ttl), (overlay("b"), ttl)], talk.now).unwrap();
    talk.now += Duration::from_secs(1);
    let whole = talk.response().unwrap();
    assert_eq!(told(&whole), "1 Runtime +a +b");
    assert_eq!(whole.resources[0].ttl.unwrap().seconds, 2, "time already passed is not given again");
    talk.answer(&whole, None);
    talk.desired.heartbeat(&[("b".to_owned(), ttl)], talk.now);
    let beat = talk.response().unwrap();
    assert_eq!((told(&beat).as_str(), &beat.resources[0].resource), ("1 Runtime +b", &None));
    assert_eq!(beat.resources[0].version, whole.resources[1].version);
    talk.answer(&beat, None);
    talk.silent();
    talk.desired.set_overlays(vec![(overlay("b"), ttl)], talk.now).unwrap();
    assert_eq!(talk.settle(), ["2 Runtime +b -a"]);
}

#[test]
fn an_envoys_layer_has_a_time_to_live_and_is_renewed_without_a_body() {
    let ttl = Duration::from_secs(3);
    let layer = || Layer::from([("firedrill.a".to_owned(), Share::Fine(50.0))]);
    let fields = |response: &DeltaDiscoveryResponse| {
        let runtime = Runtime::decode(response.resources[0].resource.as_ref().unwrap().value.as_slice()).unwrap();
        runtime.layer.unwrap().fields.len()
    };
    let mut talk = Talk::new();
    talk.ask(Kind::Overlay, &[LAYER]);
    let first = talk.response().unwrap();
    assert_eq!((told(&first).as_str(), fields(&first), first.resources[0].ttl), ("0 Runtime +firedrill", 0, None));
    talk.answer(&first, None);
    talk.desired.set_layer(layer(), ttl, talk.now);
    let whole = talk.response().unwrap();
    assert_eq!((told(&whole).as_str(), fields(&whole)), ("1 Runtime +firedrill", 1));
    assert_eq!(whole.resources[0].ttl.unwrap().seconds, 3);
    talk.answer(&whole, None);
    talk.silent();
    talk.now += Duration::from_secs(1);
    talk.desired.set_layer(layer(), ttl, talk.now);
    let beat = talk.response().unwrap();
    assert_eq!((told(&beat).as_str(), &beat.resources[0].resource), ("1 Runtime +firedrill", &None));
    assert_eq!(beat.resources[0].ttl.unwrap().seconds, 3);
    talk.answer(&beat, None);
    talk.desired.set_layer(Layer::new(), ttl, talk.now);
    let gone = talk.response().unwrap();
    assert_eq!((told(&gone).as_str(), fields(&gone), gone.resources[0].ttl), ("2 Runtime +firedrill", 0, None));
}

#[test]
fn a_flood_of_names_ends_the_stream() {
    let mut core = DeltaCore::default();
    let names = (0..20_000).map(|name| name.to_string()).collect();
    let type_url = Kind::Endpoints.type_url().to_owned();
    let request = DeltaDiscoveryRequest { type_url, resource_names_subscribe: names, ..Default::default() };
    assert!(core.on_request(&request).is_err());
}
