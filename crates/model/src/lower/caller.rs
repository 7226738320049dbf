//! Who calls, written as one name.

use super::{World, dangling};
use crate::{
    config::Caller,
    name::{GatewayName, ServiceName},
    read::{At, Cx},
};

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
