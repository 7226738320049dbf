//! Kind `Mesh`.

use std::{net::SocketAddr, time::Duration};

use super::{
    World, covers, federation, identity, no_repeats, not_empty, path,
    policy::{Said, policy},
    segments,
    upstream::listeners,
};
use crate::{
    config::{Gateway, GatewayRoute, Mesh},
    raw::{self, Manifest},
    read::{At, Cx},
};

pub(crate) fn mesh(manifest: &Manifest, spec: &At<raw::Mesh>, world: &World, cx: &mut Cx<'_>) -> Option<Mesh> {
    federation::trust_domain(&spec.trust_domain, cx);
    not_empty(&spec.regions, "a mesh needs at least one region", cx);
    no_repeats(&spec.regions, "region", cx);
    let lifetime =
        spec.identity.as_ref().and_then(|i| i.builtin.as_ref()).and_then(|b| b.certificate_lifetime.as_ref());
    if let Some(short) = lifetime.filter(|t| t.value.0 < Duration::from_secs(10)) {
        cx.error("out-of-range", short.at, "certificates must live for at least 10s, to be renewed in time")
            .mend("write `24h`");
    }
    let written = spec.gateways.as_ref().map_or(&[][..], |g| &g.value[..]);
    if let Some(many) = spec.gateways.as_ref().filter(|g| g.len() > super::MOST) {
        cx.error("too-many-workloads", many.head, format!("more than {} gateways in one mesh", super::MOST))
            .mend("delete some");
    }
    let gateways: Vec<Gateway> = written.iter().filter_map(|g| gateway(g, world, cx)).collect();
    for (i, gateway) in written.iter().enumerate() {
        for other in written.iter().take(i) {
            clash(gateway, other, cx);
        }
    }
    Some(Mesh {
        name: manifest.name.as_str().to_owned(),
        trust_domain: spec.trust_domain.value.clone(),
        regions: spec.regions.iter().map(|r| r.value.clone()).collect(),
        identity: identity::identity(spec, cx),
        certificate_lifetime: lifetime.map_or(Duration::from_secs(24 * 3600), |t| t.value.0),
        federation: federation::federation(spec, cx),
        gateways,
        listeners: listeners(spec.defaults.as_ref().and_then(|d| d.listeners.as_ref()), cx),
        defaults: policy(Said::by_mesh(spec.defaults.as_ref()), Said::default(), cx),
    })
}

/// Whether two sockets cannot listen at the same time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && (a.ip() == b.ip() || any)
}

fn clash(gateway: &At<raw::Gateway>, other: &At<raw::Gateway>, cx: &mut Cx<'_>) {
    if gateway.name.value == other.name.value {
        let first = cx.place(other.name.at);
        cx.error("duplicate-name", gateway.name.at, format!("the gateway `{}` is there twice", gateway.name.value))
            .mend("rename one of them")
            .see(first, "first named here");
    }
    let (a, b) = (gateway.listen.value.0, other.listen.value.0);
    if overlap(a, b) {
        let first = cx.place(other.listen.at);
        cx.error(
            "overlapping-listen",
            gateway.listen.at,
            format!(
                "gateway `{}` cannot listen on {a}: gateway `{}` listens on {b}",
                gateway.name.value, other.name.value
            ),
        )
        .mend("give each gateway its own port")
        .see(first, "listens here");
    }
}

fn gateway(gateway: &At<raw::Gateway>, world: &World, cx: &mut Cx<'_>) -> Option<Gateway> {
    if let Some(service) = world.services.get(gateway.name.as_str()) {
        let service = cx.place(*service);
        cx.error("duplicate-name", gateway.name.at, format!("`{}` is the name of a service, too", gateway.name.value))
            .mend("rename the gateway: permissions name services and gateways alike")
            .see(service, "the service");
    }
    not_empty(&gateway.routes, "a gateway needs at least one route", cx);
    let mut routes: Vec<GatewayRoute> = Vec::new();
    for route in gateway.routes.iter() {
        let prefix = route.prefix.as_ref().map_or_else(|| "/".to_owned(), |p| segments(path(p, cx)));
        if let Some(earlier) = routes.iter().find(|r| covers(&r.prefix, &prefix)) {
            let at = route.prefix.as_ref().map_or(route.head, |p| p.at);
            cx.error(
                "unreachable-route",
                at,
                format!("the route `{prefix}` is never used: `{}` before it matches first", earlier.prefix),
            )
            .mend("put the longer prefix first");
        }
        let Some(service) = world.service(&route.service, cx) else { continue };
        routes.push(GatewayRoute { prefix, service });
    }
    Some(Gateway { name: gateway.name.value.clone(), listen: gateway.listen.value.0, routes })
}
