//! Who may call a service.

use super::Named;
use crate::{
    name::{GatewayName, ServiceName},
    spiffe::SpiffeId,
};

/// Who may call a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Authorization {
    /// `None` (not written): those services that name it in `calls`, and gateways that route to it.
    pub allow: Option<Vec<Allow>>,
    /// Default enforce.
    pub mode: AuthorizationMode,
}

/// What becomes of a caller without a permission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthorizationMode {
    /// It is refused.
    #[default]
    Enforce,
    /// It passes, and is told.
    DryRun,
}

/// A permission to call.
#[derive(Clone, Debug, PartialEq)]
pub struct Allow {
    /// Who.
    pub from: Principal,
    /// Empty is all.
    pub methods: Vec<String>,
    /// Path prefixes; empty is all.
    pub paths: Vec<String>,
    /// All of these headers; empty is any.
    pub headers: Vec<Named>,
}

/// Who may call: written as the name of a caller, or as a SPIFFE id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Of the mesh.
    Caller(Caller),
    /// Of a mesh that this one is federated with, or another workload of its own trust domain.
    Id(SpiffeId),
}

/// Who calls: written as one name, looked up among services, then gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A service.
    Service(ServiceName),
    /// A gateway.
    Gateway(GatewayName),
}
