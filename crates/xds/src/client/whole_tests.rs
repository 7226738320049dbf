//! The client's state machine, message by message.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::ControlPlane,
        service::discovery::v3::{DiscoveryRequest, DiscoveryResponse, Resource as Wrapper},
    },
    google::protobuf::{self, Any},
};
use prost::{Message, Name};

use super::{
    Update, Verdict,
    protocol::{Protocol as _, Reaction},
    whole::WholeCore,
};
use crate::{
    codec::{Resource, encode_resource},
    node::NodeInfo,
    overlay::{Effect, Overlay},
    resource::{CONTROL_PLANE, ResourceKind as Kind},
    snapshot::{Cluster, Direction, EndpointSet, Listener, ListenerProtocol, UpstreamProtocol},
};

pub(super) fn cluster(name: &str) -> Resource {
    Resource::Cluster(Cluster::new(name, UpstreamProtocol::Tcp))
}

pub(super) fn endpoints(name: &str) -> Resource {
    Resource::Endpoints(EndpointSet { cluster: name.to_owned(), localities: Vec::new() })
}

pub(super) fn listener(cluster: &str) -> Resource {
    Resource::Listener(Listener {
        name: "bytes".to_owned(),
        address: SocketAddr::from(([127, 0, 0, 1], 9)),
        direction: Direction::Outbound,
        tls: None,
        protocol: ListenerProtocol::tcp(cluster),
    })
}

pub(super) fn any(resource: &Resource) -> Any {
    Any { type_url: resource.kind().type_url().to_owned(), value: encode_resource(resource).unwrap() }
}

fn response(kind: Kind, version: &str, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.to_owned(),
        resources,
        type_url: kind.type_url().to_owned(),
        nonce: format!("nonce of {kind} {version}"),
        control_plane: Some(ControlPlane { identifier: CONTROL_PLANE.to_owned() }),
        ..DiscoveryResponse::default()
    }
}

fn give(core: &mut WholeCore, version: &str, resources: &[Resource]) -> Reaction<DiscoveryRequest> {
    let kind = resources[0].kind();
    core.on_response(&response(kind, version, resources.iter().map(any).collect()), Instant::now())
}

fn opened() -> WholeCore {
    let mut core = WholeCore::new(NodeInfo { id: "gate".to_owned(), ..NodeInfo::default() });
    let requests = core.open();
    assert_eq!(requests[0].node.as_ref().unwrap().id, "gate");
    assert_eq!(requests.len(), 3);
    core
}

#[test]
fn a_snapshot_is_handed_out_only_when_it_is_whole() {
    let mut core = opened();
    let reaction = give(&mut core, "1", &[cluster("a")]);
    assert_eq!(reaction.updates, []);
    let asked: Vec<_> = reaction.requests.iter().map(|request| request.type_url.as_str()).collect();
    assert_eq!(asked, [Kind::Cluster.type_url(), Kind::Endpoints.type_url()], "acknowledges, and asks for endpoints");
    assert_eq!(reaction.requests[1].resource_names, ["a"]);
    assert_eq!(give(&mut core, "1", &[listener("a")]).updates, []);
    let updates = give(&mut core, "1", &[endpoints("a")]).updates;
    assert!(matches!(&updates[..], [Update::Snapshot { version, .. }] if version == "1"));
    assert_eq!(give(&mut core, "1", &[endpoints("a")]).updates, [], "the same again is no news");

    // The parts of the next version are not mixed with those of the last.
    assert_eq!(give(&mut core, "2", &[cluster("a"), cluster("b")]).updates, []);
    assert_eq!(give(&mut core, "2", &[endpoints("a")]).updates, []);
    assert_eq!(give(&mut core, "2", &[endpoints("a"), endpoints("b")]).updates, []);
    let updates = give(&mut core, "2", &[listener("b")]).updates;
    assert!(matches!(&updates[..], [Update::Snapshot { snapshot, .. }] if snapshot.clusters.len() == 2));
}

#[test]
fn what_does_not_decode_is_refused_whole_and_what_is_in_force_stays() {
    let mut core = opened();
    give(&mut core, "1", &[cluster("a")]);
    let bad = Any { type_url: Kind::Cluster.type_url().to_owned(), value: b"\x07garbage".to_vec() };
    let mixed = vec![any(&cluster("b")), bad];
    let reaction = core.on_response(&response(Kind::Cluster, "2", mixed), Instant::now());
    assert!(matches!(&reaction.updates[..], [Update::Rejected { version, .. }] if version == "2"));
    let nack = &reaction.requests[0];
    assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("1", "nonce of Cluster 2"));
    assert!(nack.error_detail.is_some());
    assert_eq!(reaction.requests.len(), 1, "nothing of it counts");
    give(&mut core, "1", &[listener("a")]);
    assert_eq!(give(&mut core, "1", &[endpoints("a")]).updates.len(), 1);
    let twice = response(Kind::Cluster, "3", vec![any(&cluster("a")), any(&cluster("a"))]);
    let twice = core.on_response(&twice, Instant::now());
    assert!(matches!(&twice.updates[..], [Update::Rejected { reason, .. }] if reason.contains("twice")));
}

#[test]
fn a_heartbeat_is_told_from_a_change() {
    let overlay = Overlay { id: "x".to_owned(), reason: String::new(), effect: Effect::Harmless };
    let wrap = |body: bool, ttl: Option<i64>| {
        let wrapper = Wrapper {
            name: "x".to_owned(),
            ttl: ttl.map(|seconds| protobuf::Duration { seconds, nanos: 0 }),
            resource: body.then(|| any(&Resource::Overlay(overlay.clone()))),
            ..Wrapper::default()
        };
        vec![Any { type_url: Wrapper::type_url(), value: wrapper.encode_to_vec() }]
    };
    let three = Duration::from_secs(3);
    let mut core = opened();
    let mut hear = |version: &str, resources| {
        let mut updates = core.on_response(&response(Kind::Overlay, version, resources), Instant::now()).updates;
        assert_eq!(updates.len(), 1);
        updates.remove(0)
    };
    assert!(matches!(hear("1", wrap(false, Some(3))), Update::Rejected { .. }), "renews what was never there");
    assert_eq!(hear("1", wrap(true, Some(3))), Update::Overlays(vec![(overlay.clone(), three)]));
    assert_eq!(hear("1", wrap(false, Some(3))), Update::Heartbeat(vec![("x".to_owned(), three)]));
    assert!(matches!(hear("2", wrap(true, None)), Update::Rejected { .. }), "an overlay without a lease");
    assert!(matches!(hear("2", vec![any(&Resource::Overlay(overlay.clone()))]), Update::Rejected { .. }));
    assert_eq!(hear("2", Vec::new()), Update::Overlays(Vec::new()));
}

pub(super) fn verdict(version: &str, refused: Option<&str>) -> Verdict {
    Verdict { version: version.to_owned(), refused: refused.map(str::to_owned) }
}

#[test]
fn the_last_part_is_acknowledged_when_the_snapshot_is_in_force() {
    let mut core = opened();
    give(&mut core, "1", &[cluster("a")]);
    give(&mut core, "1", &[endpoints("a")]);
    assert!(!core.undecided());
    let reaction = give(&mut core, "1", &[listener("a")]);
    assert!(matches!(&reaction.updates[..], [Update::Snapshot { .. }]) && reaction.requests.is_empty(), "not yet");
    assert!(core.undecided());
    assert_eq!(core.on_verdict(&verdict("0", None)), [], "of another one");
    let ack = core.on_verdict(&verdict("1", None)).remove(0);
    assert_eq!((ack.version_info.as_str(), ack.response_nonce.as_str()), ("1", "nonce of Listener 1"));
    assert!(ack.error_detail.is_none() && !core.undecided());
    assert_eq!(core.on_verdict(&verdict("1", None)), [], "said before");
}

#[test]
fn a_refused_snapshot_is_refused_to_the_control_plane_and_may_be_accepted_later() {
    let mut core = opened();
    for part in [cluster("a"), endpoints("a"), listener("a")] {
        give(&mut core, "1", &[part]);
    }
    let nack = core.on_verdict(&verdict("1", Some("the address is in use"))).remove(0);
    assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("", "nonce of Listener 1"));
    assert_eq!(nack.error_detail.unwrap().message, "the address is in use");
    let ack = core.on_verdict(&verdict("1", None)).remove(0);
    assert_eq!((ack.version_info.as_str(), ack.error_detail), ("1", None));

    core.on_verdict(&verdict("1", None));
    for part in [cluster("a"), endpoints("a")] {
        give(&mut core, "2", &[part]);
    }
    give(&mut core, "2", &[listener("a")]);
    core.on_verdict(&verdict("2", Some("no"))).remove(0);
    // On a new stream it is offered once more, though nothing of it has changed.
    core.open();
    for part in [cluster("a"), endpoints("a")] {
        give(&mut core, "2", &[part]);
    }
    assert!(matches!(&give(&mut core, "2", &[listener("a")]).updates[..], [Update::Snapshot { .. }]));
}

/// As another control plane says it: a version for each kind.
fn foreign(core: &mut WholeCore, version: &str, resources: &[Resource]) -> Reaction<DiscoveryRequest> {
    let kind = resources[0].kind();
    let mut response = response(kind, version, resources.iter().map(any).collect());
    response.control_plane = None;
    core.on_response(&response, Instant::now())
}

fn snapshot_of(reaction: &Reaction<DiscoveryRequest>) -> Option<(String, Vec<&str>)> {
    match &reaction.updates[..] {
        [Update::Snapshot { version, snapshot }] => {
            Some((version.clone(), snapshot.clusters.iter().map(|cluster| cluster.name.as_str()).collect()))
        }
        _ => None,
    }
}

#[test]
fn kinds_of_another_control_plane_have_versions_of_their_own() {
    let mut core = opened();
    foreign(&mut core, "c1", &[cluster("a")]);
    assert_eq!(snapshot_of(&foreign(&mut core, "l9", &[listener("a")])), None, "endpoints are missing");
    let whole = foreign(&mut core, "e4", &[endpoints("a")]);
    assert_eq!(snapshot_of(&whole), Some(("c1 e4 l9".to_owned(), vec!["a"])));
    let ack = core.on_verdict(&verdict("c1 e4 l9", None)).remove(0);
    assert_eq!((ack.version_info.as_str(), ack.response_nonce.as_str()), ("e4", "nonce of ClusterLoadAssignment e4"));

    // One kind alone may change, and what leads somewhere may come before what it leads to.
    let early = foreign(&mut core, "l10", &[listener("b")]);
    assert_eq!((snapshot_of(&early), early.requests[0].error_detail.as_ref()), (None, None));
    foreign(&mut core, "c2", &[cluster("b")]);
    let whole = foreign(&mut core, "e5", &[endpoints("b")]);
    assert_eq!(snapshot_of(&whole), Some(("c2 e5 l10".to_owned(), vec!["b"])));

    // On a new stream nothing is held, and so nothing is said to be.
    core.on_verdict(&verdict("c2 e5 l10", None));
    assert!(core.open().iter().all(|request| request.version_info.is_empty()));
}

#[test]
fn what_another_control_plane_is_refused_does_not_come_back_with_its_next_word() {
    let mut core = opened();
    for (version, resource) in [("c1", cluster("a")), ("e1", endpoints("a")), ("l1", listener("a"))] {
        foreign(&mut core, version, &[resource]);
    }
    core.on_verdict(&verdict("c1 e1 l1", None));
    foreign(&mut core, "c2", &[cluster("a"), cluster("b")]);
    foreign(&mut core, "e2", &[endpoints("a"), endpoints("b")]);
    core.on_verdict(&verdict("c2 e2 l1", None));
    assert!(snapshot_of(&foreign(&mut core, "l2", &[listener("b")])).is_some());
    let nack = core.on_verdict(&verdict("c2 e2 l2", Some("no"))).remove(0);
    assert_eq!((nack.version_info.as_str(), nack.error_detail.unwrap().message.as_str()), ("l1", "no"));
    let next = foreign(&mut core, "e3", &[endpoints("a"), endpoints("b")]);
    let [Update::Snapshot { version, snapshot }] = &next.updates[..] else { panic!("{next:?}") };
    assert_eq!((version.as_str(), &snapshot.listeners[..]), ("c2 e3 l1", &[listener_of("a")][..]));
}

fn listener_of(name: &str) -> Listener {
    match listener(name) {
        Resource::Listener(listener) => listener,
        other => panic!("{other:?}"),
    }
}
