//! The client's state machine of incremental streams, message by message.

use std::time::{Duration, Instant};

use envoy_types::pb::{
    envoy::{
        config::core::v3::ControlPlane,
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wrapper},
    },
    google::protobuf::{self, Any},
};

use super::{
    Update,
    delta::DeltaCore,
    protocol::{Protocol as _, Reaction},
    whole_tests::{any, cluster, endpoints, listener, verdict},
};
use crate::{
    codec::Resource,
    node::NodeInfo,
    overlay::{Effect, Overlay},
    resource::{CONTROL_PLANE, ResourceKind as Kind},
};

fn opened() -> DeltaCore {
    let mut core = DeltaCore::new(NodeInfo { id: "gate".to_owned(), ..NodeInfo::default() });
    let requests = core.open();
    assert_eq!(requests[0].node.as_ref().unwrap().id, "gate");
    assert_eq!(requests.len(), 3);
    core
}

fn response(kind: Kind, version: &str, resources: &[Resource], gone: &[&str]) -> DeltaDiscoveryResponse {
    let wrap = |resource: &Resource| Wrapper {
        name: resource.name().to_owned(),
        version: format!("content of {version}"),
        resource: Some(any(resource)),
        ..Wrapper::default()
    };
    DeltaDiscoveryResponse {
        system_version_info: version.to_owned(),
        resources: resources.iter().map(wrap).collect(),
        type_url: kind.type_url().to_owned(),
        removed_resources: gone.iter().map(|name| (*name).to_owned()).collect(),
        nonce: format!("nonce of {kind} {version}"),
        control_plane: Some(ControlPlane { identifier: CONTROL_PLANE.to_owned() }),
        ..DeltaDiscoveryResponse::default()
    }
}

fn give(core: &mut DeltaCore, version: &str, resources: &[Resource]) -> Reaction<DeltaDiscoveryRequest> {
    core.on_response(&response(resources[0].kind(), version, resources, &[]), Instant::now())
}

/// What is sent, for people: `Cluster ack`, `ClusterLoadAssignment +a -b`.
fn sent(requests: &[DeltaDiscoveryRequest]) -> Vec<String> {
    let one = |request: &DeltaDiscoveryRequest| {
        let answer = match (request.response_nonce.is_empty(), &request.error_detail) {
            (true, _) => "",
            (false, None) => " ack",
            (false, Some(_)) => " nack",
        };
        let new = request.resource_names_subscribe.iter().map(|name| format!(" +{name}"));
        let gone = request.resource_names_unsubscribe.iter().map(|name| format!(" -{name}"));
        let names: String = new.chain(gone).collect();
        format!("{}{answer}{names}", Kind::of_type_url(&request.type_url).unwrap())
    };
    requests.iter().map(one).collect()
}

/// With version 1 of one cluster in force.
fn running() -> DeltaCore {
    let mut core = opened();
    let reaction = give(&mut core, "1~more", &[cluster("a")]);
    assert_eq!(sent(&reaction.requests), ["Cluster ack", "ClusterLoadAssignment +a"]);
    assert_eq!(give(&mut core, "1~more", &[endpoints("a")]).updates, []);
    let reaction = give(&mut core, "1", &[listener("a")]);
    assert!(matches!(&reaction.updates[..], [Update::Snapshot { version, .. }] if version == "1"));
    assert!(core.undecided() && reaction.requests.is_empty(), "it is not acknowledged before it is in force");
    assert_eq!(sent(&core.on_verdict(&verdict("1", None))), ["Listener ack"]);
    assert!(!core.undecided());
    core
}

#[test]
fn nothing_is_handed_out_before_all_of_a_version_is_there() {
    let mut core = running();
    let reaction = give(&mut core, "2~more", &[cluster("b")]);
    assert_eq!(sent(&reaction.requests), ["Cluster ack", "ClusterLoadAssignment +b"]);
    assert_eq!(give(&mut core, "2~more", &[endpoints("b")]).updates, []);
    assert_eq!(give(&mut core, "2~more", &[listener("b")]).updates, []);
    let gone = response(Kind::Cluster, "2", &[], &["a"]);
    let reaction = core.on_response(&gone, Instant::now());
    assert_eq!(sent(&reaction.requests), ["ClusterLoadAssignment -a"]);
    let [Update::Snapshot { snapshot, .. }] = &reaction.updates[..] else { panic!("a snapshot") };
    let clusters: Vec<_> = snapshot.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    assert_eq!((clusters, snapshot.endpoints.len()), (vec!["b"], 1));
}

#[test]
fn a_server_that_says_nothing_of_versions_is_followed_step_by_step() {
    let mut core = opened();
    assert_eq!(give(&mut core, "", &[cluster("a")]).updates, []);
    assert_eq!(give(&mut core, "", &[listener("a")]).updates, []);
    let updates = give(&mut core, "", &[endpoints("a")]).updates;
    assert!(matches!(&updates[..], [Update::Snapshot { version, .. }] if !version.is_empty()));
}

#[test]
fn who_comes_back_says_what_it_has() {
    let mut core = running();
    let requests = core.open();
    let has = |kind: Kind| {
        let request = requests.iter().find(|request| request.type_url == kind.type_url()).unwrap();
        (request.initial_resource_versions.clone(), request.resource_names_subscribe.clone())
    };
    assert_eq!(has(Kind::Cluster), ([("a".to_owned(), "content of 1~more".to_owned())].into(), Vec::new()));
    assert_eq!(has(Kind::Endpoints).1, ["a"]);
    assert_eq!(has(Kind::Listener).0.len(), 1);
    assert!(has(Kind::Overlay).0.is_empty(), "leases are told anew");
    let metadata = &requests[0].node.as_ref().unwrap().metadata.as_ref().unwrap().fields;
    assert!(format!("{:?}", metadata["version"]).contains("\"1\""));

    // Half of a version is not built upon.
    give(&mut core, "2~more", &[cluster("b")]);
    assert!(core.open().iter().all(|request| request.initial_resource_versions.is_empty()));
}

#[test]
fn a_refused_response_leaves_what_was_held_and_its_version_is_not_handed_out() {
    let mut core = running();
    let mut bad = response(Kind::Cluster, "2~more", &[cluster("b")], &[]);
    let garbage = Any { type_url: Kind::Cluster.type_url().to_owned(), value: b"\x07garbage".to_vec() };
    bad.resources.push(Wrapper { name: "c".to_owned(), resource: Some(garbage), ..Wrapper::default() });
    let reaction = core.on_response(&bad, Instant::now());
    assert_eq!(sent(&reaction.requests), ["Cluster nack"]);
    assert!(matches!(&reaction.updates[..], [Update::Rejected { version, .. }] if version == "2"));
    let reaction = give(&mut core, "2", &[endpoints("a")]);
    assert_eq!(
        (sent(&reaction.requests), &reaction.updates[..]),
        (vec!["ClusterLoadAssignment ack".to_owned()], &[][..])
    );
    // A reference that leads nowhere is refused when the version is whole, and what it replaced is back.
    let reaction = give(&mut core, "3", &[listener("nowhere")]);
    assert_eq!(sent(&reaction.requests), ["Listener nack"]);
    assert!(matches!(&reaction.updates[..], [Update::Rejected { version, .. }] if version == "3"));
    let reaction = core.on_response(&response(Kind::Listener, "4", &[], &[]), Instant::now());
    let [Update::Snapshot { version, snapshot }] = &reaction.updates[..] else { panic!("a snapshot") };
    assert_eq!((version.as_str(), snapshot.clusters.len(), snapshot.listeners.len()), ("4", 1, 1));
}

#[test]
fn what_is_not_supported_is_refused_where_it_stands() {
    let check = |change: fn(&mut DeltaDiscoveryResponse), expected: &str| {
        let mut response = response(Kind::Cluster, "1", &[cluster("a")], &[]);
        change(&mut response);
        let reaction = opened().on_response(&response, Instant::now());
        let [Update::Rejected { reason, .. }] = &reaction.updates[..] else { panic!("not refused: {expected}") };
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(reaction.requests[0].error_detail.as_ref().unwrap().message, *reason);
    };
    check(|response| response.resources[0].ttl = Some(protobuf::Duration::default()), "Cluster a: ttl");
    check(|response| response.resources[0].resource = None, "Cluster a: resource: is missing");
    check(|response| response.resources[0].name = "b".to_owned(), "Cluster a is wrapped as b");
    check(|response| response.resources.push(response.resources[0].clone()), "is there twice");
    check(|response| response.removed_resources.push("a".to_owned()), "is there and removed");
    check(|response| response.removed_resource_names.push(Default::default()), "removed_resource_names");
}

#[test]
fn a_refused_snapshot_may_be_accepted_later_and_is_not_resumed_from() {
    let mut core = running();
    give(&mut core, "2", &[listener("a")]);
    assert_eq!(sent(&core.on_verdict(&verdict("2", Some("in use")))), ["Listener nack"]);
    assert_eq!(sent(&core.on_verdict(&verdict("2", None))), ["Listener ack"]);
    assert_eq!(core.on_verdict(&verdict("2", None)), [], "said before");
    assert!(core.open().iter().any(|request| !request.initial_resource_versions.is_empty()));
    give(&mut core, "3", &[listener("a")]);
    core.on_verdict(&verdict("3", Some("in use")));
    assert!(core.open().iter().all(|request| request.initial_resource_versions.is_empty()));
}

#[test]
fn a_heartbeat_is_told_from_a_change_and_does_not_bring_back_what_lapsed() {
    let wrap = |id: &str, body: bool| Wrapper {
        name: id.to_owned(),
        version: "1".to_owned(),
        ttl: Some(protobuf::Duration { seconds: 3, nanos: 0 }),
        resource: body.then(|| {
            let overlay = Overlay { id: id.to_owned(), reason: String::new(), effect: Effect::Harmless };
            any(&Resource::Overlay(overlay))
        }),
        ..Wrapper::default()
    };
    let mut core = opened();
    let start = Instant::now();
    let mut hear = |at: u64, resources: Vec<Wrapper>, gone: &[&str]| {
        let response = DeltaDiscoveryResponse { resources, ..response(Kind::Overlay, "1", &[], gone) };
        let mut updates = core.on_response(&response, start + Duration::from_secs(at)).updates;
        assert_eq!(updates.len(), 1);
        match updates.remove(0) {
            Update::Overlays(all) => {
                let all: Vec<_> =
                    all.iter().map(|(overlay, left)| format!("{} {}", overlay.id, left.as_secs())).collect();
                all.join(", ")
            }
            Update::Heartbeat(renewed) => format!("heartbeat of {}", renewed[0].0),
            other => format!("{other:?}").split(' ').next().unwrap().to_owned(),
        }
    };
    assert_eq!(hear(0, Vec::new(), &[]), "");
    assert_eq!(hear(0, vec![wrap("a", false)], &[]), "Rejected", "renews what was never there");
    assert_eq!(hear(0, vec![wrap("a", true)], &[]), "a 3");
    assert_eq!(hear(1, vec![wrap("b", true)], &[]), "a 2, b 3", "what is not told again lives on");
    assert_eq!(hear(2, vec![wrap("b", false)], &[]), "heartbeat of b");
    assert_eq!(hear(4, vec![wrap("a", false)], &[]), "heartbeat of a");
    assert_eq!(hear(4, vec![wrap("c", true)], &["b"]), "c 3", "a had lapsed");
    assert_eq!(hear(4, vec![wrap("a", true)], &[]), "a 3, c 3");
}

#[test]
fn a_refusal_by_kind_of_another_control_plane_holds_nothing_else_back() {
    let mut core = opened();
    let mut give = |version: &str, resources: &[Resource]| {
        let mut response = response(resources[0].kind(), version, resources, &[]);
        (response.control_plane, response.system_version_info) = (None, String::new());
        core.on_response(&response, Instant::now())
    };
    give("c1", &[cluster("a")]);
    // What it leads to comes later, and is waited for.
    let early = give("l1", &[listener("b")]);
    assert_eq!((sent(&early.requests), early.updates), (vec!["Listener ack".to_owned()], vec![]));
    assert_eq!(give("c2", &[cluster("b")]).updates, []);
    let whole = give("e1", &[endpoints("a"), endpoints("b")]);
    assert!(matches!(&whole.updates[..], [Update::Snapshot { snapshot, .. }] if snapshot.clusters.len() == 2));
}
