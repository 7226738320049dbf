//! Faults that proxies make.

use schemars::JsonSchema;

use super::{List, Text};
use crate::{
    name::{RegionName, ServiceName},
    read::{At, Cx, FromNode, mapping, words},
    scalar::Time,
    tree::{Node, Value},
    unit::Percent,
};

mapping! {
    /// The proxies hurt matching requests, in exactly one way.
    "`fault`" Fault {
        /// Requests to this service.
        to: At<ServiceName>,
        /// Only requests of this caller, a service or gateway.
        from: Option<Text>,
        /// Only tries that go to this region.
        region: Option<At<RegionName>>,
        /// Only paths with this prefix.
        path: Option<Text>,
        /// Only this method.
        method: Option<Text>,
        /// Only requests with this header, as `x-user: canary`.
        header: Option<Text>,
        /// Share of matching requests. Default 100%.
        percent: Option<At<Percent>>,
        /// Wait first: a time, or `mean` and `deviation`, or `base`, `spike` and `percent`.
        delay: Option<At<Delay>>,
        /// Answer with this status.
        abort: Option<At<u16>>,
        /// Answer with this gRPC status, 1 to 16.
        abort_grpc: Option<At<u16>>,
        /// `true`: refuse the connection.
        refuse: Option<At<bool>>,
        /// `true`: reset it after the request.
        reset: Option<At<bool>>,
        /// Reset it after this many bytes of the response's body.
        reset_after: Option<At<u32>>,
        /// `true`: never answer.
        blackhole: Option<At<bool>>,
        /// `true`: no connection is made until the connect timeout, as if packets were dropped.
        drop_connect: Option<At<bool>>,
        /// Bytes in a second that pass, each way.
        bandwidth: Option<At<u32>>,
        /// End the response's body after this many bytes, as if it were whole.
        truncate: Option<At<u32>>,
        /// `true`: the service's name cannot be resolved.
        dns: Option<At<bool>>,
        /// The TLS handshake fails, for this reason.
        tls: Option<At<TlsFault>>,
    }
}

words! {
    /// Why a TLS handshake fails.
    TlsFault {
        /// The certificate is no longer valid.
        Expired = "expired",
        /// It is signed by nobody who is trusted.
        Untrusted = "untrusted",
        /// It names another service.
        WrongIdentity = "wrongIdentity",
    }
}

/// How long a fault waits: a time, or a distribution.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
#[allow(clippy::large_enum_variant, reason = "there are a few in a manifest")]
pub(crate) enum Delay {
    /// Always as long.
    Fixed(At<Time>),
    /// From request to request.
    Varying(Varying),
}

impl FromNode for Delay {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Map(_) => FromNode::from_node(node, cx).map(Self::Varying),
            _ => FromNode::from_node(node, cx).map(Self::Fixed),
        }
    }
}

mapping! {
    /// A delay that differs from request to request: `mean` with `deviation`, or `base` with `spike` and `percent`.
    "a varying delay" Varying {
        /// Middle of a normal distribution.
        mean: Option<At<Time>>,
        /// Its standard deviation.
        deviation: Option<At<Time>>,
        /// Mostly this long.
        base: Option<At<Time>>,
        /// Now and then this long.
        spike: Option<At<Time>>,
        /// How often `spike`.
        percent: Option<At<Percent>>,
    }
}

mapping! {
    /// A network between regions that loses bytes.
    "`partition`" Partition {
        /// One side.
        regions: At<Vec<At<RegionName>>>,
        /// The other side. Default: all other regions, and gateways.
        from: List<RegionName>,
        /// Which way bytes are lost. Default both.
        way: Option<At<Way>>,
    }
}

words! {
    /// Which way bytes are lost.
    Way {
        /// Both ways.
        Both = "both",
        /// On the way to `regions`.
        To = "to",
        /// On the way from them.
        From = "from",
    }
}

mapping! {
    /// Proxies do not hear the control plane: `{}` for all proxies.
    "`noControl`" NoControl {
        /// Only proxies in this region.
        region: Option<At<RegionName>>,
    }
}
