//! Who calls, written as one name, and who may: also by a SPIFFE id.

use super::{World, dangling, federation::known_id};
use crate::{
    config::{Caller, Principal},
    name::{GatewayName, ServiceName},
    read::{At, Cx},
};

/// A name as [`caller`] reads it, or a SPIFFE id.
pub(crate) fn principal(from: &At<String>, world: &World, cx: &mut Cx<'_>) -> Option<Principal> {
    if from.starts_with("spiffe://") {
        return known_id(from, world, cx).map(Principal::Id);
    }
    caller(from, world, cx).map(Principal::Caller)
}

/// Looked up among services, then gateways; reports a name that is neither.
pub(crate) fn caller(from: &At<String>, world: &World, cx: &mut Cx<'_>) -> Option<Caller> {
    if world.services.contains_key(&from.value) {
        return ServiceName::new(&from.value).ok().map(Caller::Service);
    }
    let Some(gateways) = &world.gateways else {
        return None; // the mesh could not be read, which was reported
    };
    if gateways.contains_key(&from.value) {
        return GatewayName::new(&from.value).ok().map(Caller::Gateway);
    }
    if !world.complete {
        return None;
    }
    let known = world.services.keys().chain(gateways.keys()).map(String::as_str);
    dangling("service or gateway", &from.value, from.at, known, cx);
    None
}
