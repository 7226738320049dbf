//! The stream's state machine, message by message.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse, Resource},
    google::rpc::Status,
};
use prost::Message;

use super::{
    bodies::Bodies,
    desired::Desired,
    held::Held,
    protocol::{Heard, Protocol as _},
    stream::StreamCore,
};
use crate::{
    overlay::{Effect, Overlay},
    resource::ResourceKind as Kind,
    snapshot::{
        Cluster, Direction, Endpoint, EndpointSet, Listener, ListenerProtocol, Locality, Snapshot, UpstreamProtocol,
    },
};

pub(super) fn snapshot(clusters: &[&str], port: u16) -> Arc<Snapshot> {
    let cluster = |name: &&str| Cluster::new(*name, UpstreamProtocol::Tcp);
    let listener = Listener {
        name: "bytes".to_owned(),
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        direction: Direction::Outbound,
        tls: None,
        protocol: ListenerProtocol::tcp(clusters[0]),
    };
    let endpoints = clusters.iter().map(|name| EndpointSet { cluster: (*name).to_owned(), localities: Vec::new() });
    Arc::new(Snapshot {
        listeners: vec![listener],
        clusters: clusters.iter().map(cluster).collect(),
        endpoints: endpoints.collect(),
        ..Snapshot::default()
    })
}

pub(super) fn locality(port: u16) -> Locality {
    let endpoint = Endpoint {
        name: port.to_string(),
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        version: String::new(),
        weight: 1,
    };
    Locality { region: "east".to_owned(), zone: String::new(), priority: 0, weight: 1, endpoints: vec![endpoint] }
}

struct Talk {
    core: StreamCore,
    desired: Desired,
    held: Held,
    now: Instant,
}

impl Talk {
    fn new() -> Self {
        Self { core: StreamCore::default(), desired: Desired::default(), held: Held::default(), now: Instant::now() }
    }

    fn publish(&mut self, version: &str, snapshot: Arc<Snapshot>) {
        let beside = crate::codec::Beside::default();
        self.desired.publish(version, snapshot, beside, &mut Bodies::default()).unwrap();
    }

    fn ask(&mut self, kind: Kind, names: &[&str], nonce: &str, error: Option<&str>) -> Heard {
        let request = DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            error_detail: error.map(|text| Status { message: text.to_owned(), ..Status::default() }),
            ..DiscoveryRequest::default()
        };
        self.core.on_request(&request).unwrap()
    }

    fn response(&mut self) -> Option<DiscoveryResponse> {
        self.core.next_response(&self.desired, &mut self.held, self.now)
    }

    /// Kind, version and number of resources of the next response, and its nonce.
    fn next(&mut self) -> (Kind, String, usize, String) {
        let response = self.response().expect("a response is due");
        let kind = Kind::of_type_url(&response.type_url).unwrap();
        (kind, response.version_info, response.resources.len(), response.nonce)
    }

    /// The next response, which is of this kind: its version, the names in it, and its nonce.
    fn names(&mut self, expected: Kind) -> (String, Vec<String>, String) {
        let response = self.response().expect("a response is due");
        assert_eq!(Kind::of_type_url(&response.type_url), Some(expected));
        let name = |any: &envoy_types::pb::google::protobuf::Any| {
            crate::codec::decode_resource(&any.type_url, &any.value).unwrap().name().to_owned()
        };
        (response.version_info, response.resources.iter().map(name).collect(), response.nonce)
    }

    fn settled(&self) -> bool {
        self.core.settled_all(&self.desired)
    }

    fn silent(&mut self) {
        assert_eq!(self.response(), None);
    }

    /// Brings a stream with everything subscribed to the state where everything is accepted.
    fn settle(&mut self, names: &[&str]) {
        self.ask(Kind::Cluster, &[], "", None);
        self.ask(Kind::Listener, &[], "", None);
        self.ask(Kind::Endpoints, names, "", None);
        while let Some(response) = self.response() {
            let kind = Kind::of_type_url(&response.type_url).unwrap();
            let names = if kind == Kind::Endpoints { names } else { &[] };
            self.ask(kind, names, &response.nonce, None);
        }
    }
}

#[test]
fn listeners_wait_until_clusters_and_all_their_endpoints_are_accepted() {
    let mut talk = Talk::new();
    talk.ask(Kind::Cluster, &[], "", None);
    talk.ask(Kind::Listener, &[], "", None);
    talk.silent();
    talk.publish("1", snapshot(&["a", "b"], 1));
    let (kind, version, count, clusters) = talk.next();
    assert_eq!((kind, version.as_str(), count), (Kind::Cluster, "1", 2));
    talk.silent();
    // Endpoints follow at once when asked for, whether or not the clusters are acknowledged yet.
    talk.ask(Kind::Endpoints, &["a"], "", None);
    let (kind, _, count, endpoints) = talk.next();
    assert_eq!((kind, count), (Kind::Endpoints, 1));
    assert_eq!(talk.ask(Kind::Cluster, &[], &clusters, None), Heard::Acked { kind: Kind::Cluster, version });
    talk.ask(Kind::Endpoints, &["a"], &endpoints, None);
    talk.silent();
    talk.ask(Kind::Endpoints, &["a", "b"], &endpoints, None);
    let (kind, _, count, endpoints) = talk.next();
    assert_eq!((kind, count), (Kind::Endpoints, 2));
    talk.silent();
    talk.ask(Kind::Endpoints, &["a", "b"], &endpoints, None);
    assert_eq!(talk.next().0, Kind::Listener);
    talk.silent();
}

#[test]
fn endpoints_are_sent_again_after_their_clusters() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a"], 1));
    talk.settle(&["a"]);
    talk.publish("2", snapshot(&["a"], 2));
    let kinds = [Kind::Cluster, Kind::Endpoints];
    let nonces = kinds.map(|kind| {
        let (sent, version, _, nonce) = talk.next();
        assert_eq!((sent, version.as_str()), (kind, "2"));
        nonce
    });
    talk.silent();
    talk.ask(Kind::Endpoints, &["a"], &nonces[1], None);
    talk.ask(Kind::Cluster, &[], &nonces[0], None);
    assert_eq!(talk.next().0, Kind::Listener);
}

#[test]
fn a_refusal_that_is_taken_back_is_an_acceptance() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a"], 1));
    talk.ask(Kind::Cluster, &[], "", None);
    let (kind, version, _, nonce) = talk.next();
    assert!(matches!(talk.ask(kind, &[], &nonce, Some("no")), Heard::Nacked(_)));
    assert_eq!(talk.ask(kind, &[], &nonce, None), Heard::Nothing, "names only: it does not name the version");
    let taken_back = DiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        version_info: version.clone(),
        response_nonce: nonce,
        ..DiscoveryRequest::default()
    };
    assert_eq!(talk.core.on_request(&taken_back).unwrap(), Heard::Acked { kind, version });
    assert_eq!(talk.core.on_request(&taken_back).unwrap(), Heard::Nothing);
    talk.silent();
}

#[test]
fn a_refusal_stops_its_version_and_the_next_one_goes_on() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a"], 1));
    talk.settle(&["a"]);
    talk.publish("2", snapshot(&["a", "b"], 2));
    let (kind, _, _, nonce) = talk.next();
    assert_eq!((kind, talk.next().0), (Kind::Cluster, Kind::Endpoints));
    let Heard::Nacked(nack) = talk.ask(Kind::Cluster, &[], &nonce, Some("no b")) else { panic!("a refusal") };
    assert_eq!((nack.kind, nack.version.as_str(), nack.detail.as_str()), (Kind::Cluster, "2", "no b"));
    talk.silent();
    talk.publish("3", snapshot(&["a"], 3));
    assert_eq!(talk.next().1, "3");
}

#[test]
fn a_stale_answer_counts_for_nothing() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a"], 1));
    talk.ask(Kind::Cluster, &[], "", None);
    let (_, _, _, nonce) = talk.next();
    assert_eq!(talk.ask(Kind::Cluster, &[], "no such nonce", None), Heard::Nothing);
    talk.publish("2", snapshot(&["a"], 2));
    talk.silent();
    talk.ask(Kind::Cluster, &[], &nonce, None);
    assert_eq!(talk.next().1, "2", "one of a kind is under way at a time");
}

#[test]
fn a_version_that_was_overtaken_is_never_sent() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a"], 1));
    talk.settle(&["a"]);
    for version in 2..10_u16 {
        talk.publish(&version.to_string(), snapshot(&["a"], version));
    }
    assert_eq!(talk.next().1, "9");
}

#[test]
fn overlays_wait_for_nothing_and_their_time_runs_down() {
    let overlay = |id: &str| Overlay { id: id.to_owned(), reason: String::new(), effect: Effect::Harmless };
    let ttl = Duration::from_secs(3);
    let wrapped = |response: &DiscoveryResponse| {
        let decode = |any: &envoy_types::pb::google::protobuf::Any| Resource::decode(any.value.as_slice()).unwrap();
        response.resources.iter().map(decode).collect::<Vec<_>>()
    };
    let mut talk = Talk::new();
    talk.ask(Kind::Overlay, &[], "", None);
    let first = talk.response().unwrap();
    assert!(first.resources.is_empty(), "the proxy learns at once that there is none");
    talk.ask(Kind::Overlay, &[], &first.nonce, None);
    talk.desired.set_overlays(vec![(overlay("a"), ttl), (overlay("b"), ttl)], talk.now).unwrap();
    talk.now += Duration::from_secs(1);
    let whole = talk.response().unwrap();
    let left = wrapped(&whole)[0].ttl.unwrap();
    assert_eq!((left.seconds, left.nanos), (2, 0), "time already passed is not given again");
    talk.ask(Kind::Overlay, &[], &whole.nonce, None);
    talk.silent();

    talk.desired.heartbeat(&[("b".to_owned(), ttl), ("unknown".to_owned(), ttl)], talk.now);
    let beat = talk.response().unwrap();
    let resources = wrapped(&beat);
    assert_eq!((beat.version_info.as_str(), resources.len()), (whole.version_info.as_str(), 1));
    assert_eq!((resources[0].name.as_str(), &resources[0].resource), ("b", &None));
    talk.ask(Kind::Overlay, &[], &beat.nonce, None);
    talk.silent();

    // "a" lapsed; who connects now gets only "b".
    talk.now += Duration::from_millis(2500);
    talk.core = StreamCore::default();
    talk.ask(Kind::Overlay, &[], "", None);
    let late = talk.response().unwrap();
    assert_eq!(wrapped(&late).iter().map(|resource| resource.name.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn what_may_have_lapsed_at_a_paused_proxy_is_told_again_in_full() {
    let overlay = Overlay { id: "a".to_owned(), reason: String::new(), effect: Effect::Harmless };
    let ttl = Duration::from_secs(3);
    let beat = [("a".to_owned(), ttl)];
    let bodies = |response: &DiscoveryResponse| {
        let body =
            |any: &envoy_types::pb::google::protobuf::Any| Resource::decode(any.value.as_slice()).unwrap().resource;
        response.resources.iter().filter_map(body).count()
    };
    let mut talk = Talk::new();
    talk.ask(Kind::Overlay, &[], "", None);
    talk.desired.set_overlays(vec![(overlay, ttl)], talk.now).unwrap();
    let whole = talk.response().unwrap();
    assert_eq!(bodies(&whole), 1);
    talk.ask(Kind::Overlay, &[], &whole.nonce, None);
    // Paused for less than the lease: a heartbeat is enough.
    for (seconds, expected) in [(2, 0), (4, 1), (1, 0)] {
        talk.silent();
        talk.desired.heartbeat(&beat, talk.now);
        let heartbeat = talk.response().unwrap();
        assert_eq!(bodies(&heartbeat), 0);
        for _ in 0..seconds {
            talk.now += Duration::from_secs(1);
            talk.desired.heartbeat(&beat, talk.now);
            talk.silent();
        }
        talk.ask(Kind::Overlay, &[], &heartbeat.nonce, None);
        let after = talk.response().unwrap();
        assert_eq!((bodies(&after), &after.version_info), (expected, &whole.version_info), "paused for {seconds} s");
        talk.ask(Kind::Overlay, &[], &after.nonce, None);
    }
}

#[test]
fn a_named_layer_is_answered_so_that_an_envoy_can_start() {
    let mut talk = Talk::new();
    talk.ask(Kind::Overlay, &["layer"], "", None);
    let (kind, _, count, nonce) = talk.next();
    assert_eq!((kind, count), (Kind::Overlay, 1));
    talk.ask(Kind::Overlay, &["layer"], &nonce, None);
    talk.silent();
}

#[test]
fn a_cluster_that_goes_stays_until_nothing_leads_to_it() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a", "b"], 1));
    talk.settle(&["a", "b"]);
    assert!(talk.settled());
    talk.publish("2", snapshot(&["b", "c"], 2));
    assert!(!talk.settled());
    let (version, names, clusters) = talk.names(Kind::Cluster);
    assert_eq!((version.as_str(), names.join(" ").as_str()), ("2~kept", "b c a"));
    // Whoever asks for the endpoints of what goes, gets them as they were.
    let (_, names, endpoints) = talk.names(Kind::Endpoints);
    assert_eq!(names, ["b", "a"]);
    talk.ask(Kind::Endpoints, &["a", "b", "c"], &endpoints, None);
    let (version, names, endpoints) = talk.names(Kind::Endpoints);
    assert_eq!((version.as_str(), names.join(" ").as_str()), ("2", "b c a"));
    talk.ask(Kind::Cluster, &[], &clusters, None);
    talk.silent();
    talk.ask(Kind::Endpoints, &["a", "b", "c"], &endpoints, None);
    let (version, _, listeners) = talk.names(Kind::Listener);
    assert_eq!(version, "2");
    talk.silent();
    talk.ask(Kind::Listener, &[], &listeners, None);
    assert!(!talk.settled());
    let (version, names, clusters) = talk.names(Kind::Cluster);
    assert_eq!((version.as_str(), names.join(" ").as_str()), ("2", "b c"));
    talk.ask(Kind::Endpoints, &["b", "c"], &endpoints, None);
    talk.ask(Kind::Cluster, &[], &clusters, None);
    talk.silent();
    assert!(talk.settled());
}

#[test]
fn a_cluster_stays_while_the_listeners_that_lead_elsewhere_are_refused() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a"], 1));
    talk.settle(&["a"]);
    talk.publish("2", snapshot(&["b"], 2));
    for kind in [Kind::Cluster, Kind::Endpoints] {
        let (_, _, nonce) = talk.names(kind);
        talk.ask(kind, if kind == Kind::Endpoints { &["a", "b"] } else { &[] }, &nonce, None);
    }
    let (_, _, endpoints) = talk.names(Kind::Endpoints);
    talk.ask(Kind::Endpoints, &["a", "b"], &endpoints, None);
    let (_, _, listeners) = talk.names(Kind::Listener);
    talk.ask(Kind::Listener, &[], &listeners, Some("no"));
    talk.silent();
    // Part of a refused response may be in force all the same: both are kept.
    talk.publish("3", snapshot(&["c"], 3));
    let (version, names, _) = talk.names(Kind::Cluster);
    assert_eq!((version.as_str(), names.join(" ").as_str()), ("3~kept", "c a b"));
}

#[test]
fn a_version_whose_routes_were_never_sent_leaves_no_cluster_behind() {
    let mut talk = Talk::new();
    talk.publish("1", snapshot(&["a"], 1));
    talk.settle(&["a"]);
    talk.publish("2", snapshot(&["b"], 2));
    let (_, _, nonce) = talk.names(Kind::Cluster);
    talk.publish("3", snapshot(&["c"], 3));
    talk.ask(Kind::Cluster, &[], &nonce, None);
    assert_eq!(talk.names(Kind::Cluster).1, ["c", "a"]);
}

#[test]
fn a_proxy_that_comes_back_keeps_its_clusters_and_one_that_starts_has_none() {
    let again = |version: &str| {
        let mut talk = Talk::new();
        talk.publish("1", snapshot(&["a"], 1));
        talk.settle(&["a"]);
        talk.core = StreamCore::default();
        talk.publish("2", snapshot(&["b"], 2));
        let request = DiscoveryRequest {
            type_url: Kind::Cluster.type_url().to_owned(),
            version_info: version.to_owned(),
            ..DiscoveryRequest::default()
        };
        talk.core.on_request(&request).unwrap();
        talk.names(Kind::Cluster)
    };
    assert_eq!(again("1").1, ["b", "a"]);
    assert_eq!(again("").1, ["b"]);
}
