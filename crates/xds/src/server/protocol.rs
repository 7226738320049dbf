//! What both protocols have in common: a state machine of one stream that hears requests and says what is to be sent.

use std::time::Instant;

use envoy_types::pb::{envoy::config::core::v3::Node, google::rpc::Status};

use super::{Nack, desired::Desired, held::Held};
use crate::resource::ResourceKind;

/// A proxy that asks for more names than this at once is not ours.
pub(super) const MOST_NAMES: usize = 10_000;

/// Longest detail of a refusal that is kept, in bytes.
const LONGEST_DETAIL: usize = 4096;

/// One stream, without I/O and without a clock of its own.
pub(super) trait Protocol: Default + Send {
    /// What the proxy sends.
    type Request: Send + Sync;
    /// What it is sent.
    type Response: Send;

    /// Who the proxy says it is; in the first message at least.
    fn node(request: &Self::Request) -> Option<&Node>;

    /// The version that the proxy says it has, in a message that says so (the first one does).
    fn version(request: &Self::Request) -> Option<String>;

    /// Takes in a request. An error is the peer's fault and ends the stream.
    fn on_request(&mut self, request: &Self::Request) -> Result<Heard, String>;

    /// The next response, if one is due. Called again after each, until there is none: each call sees the latest
    /// configuration, so a slow proxy skips what was overtaken.
    fn next_response(&mut self, desired: &Desired, held: &mut Held, now: Instant) -> Option<Self::Response>;

    /// Whether the proxy accepted all of the published snapshot, and nothing beside it is kept any more.
    fn settled_all(&self, desired: &Desired) -> bool;

    /// Kinds that were asked for.
    fn kinds(&self) -> Vec<ResourceKind>;
}

/// What a request told.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// A subscription, or an answer to something older than the last response.
    Nothing,
    Acked {
        kind: ResourceKind,
        version: String,
    },
    Nacked(Nack),
}

/// A refusal in words of bounded length.
pub(super) fn nack(kind: ResourceKind, version: String, error: &Status) -> Nack {
    let mut detail = error.message.clone();
    let end = (0..=LONGEST_DETAIL.min(detail.len())).rev().find(|at| detail.is_char_boundary(*at));
    detail.truncate(end.unwrap_or(0));
    Nack { kind, version, detail }
}
