//! Routes of a service: an order of regions, or what is done with some requests.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::{Delay, Hedge, List, Retries, Text, TlsFault};
use crate::{
    name::{RegionName, ServiceName},
    read::{At, Cx, FromNode, mapping, mismatch, words},
    scalar::{OrOff, Time},
    tree::{Node, Value},
    unit::Percent,
};

mapping! {
    /// An order of regions (`prefer`, for callers in `when`), or what is done with the requests in `match`.
    "a route" Route {
        /// Whom an order of regions is for. Default: all callers.
        when: Option<At<When>>,
        /// `sameRegion`, or regions in order. Goes with `when` only.
        prefer: Option<At<Prefer>>,
        /// Which requests; all conditions must hold. Default: all.
        r#match: Option<At<RequestMatch>>,
        /// Versions with their shares. Default: all endpoints.
        split: List<Share>,
        /// What keeps a caller with one version of the split: its hash decides. Default: each request is drawn.
        sticky: Option<At<Sticky>>,
        /// Who gets a copy; what it answers is thrown away.
        mirrors: List<Mirror>,
        /// The caller is sent elsewhere; goes with `match` only.
        redirect: Option<At<Redirect>>,
        /// Another path or host for the endpoint.
        rewrite: Option<At<Rewrite>>,
        /// Changes to the request's headers.
        request_headers: Option<At<HeaderEdits>>,
        /// Changes to the response's headers.
        response_headers: Option<At<HeaderEdits>>,
        /// Time from the end of a request to the head of its response, all tries included; 0s is no bound. Default: the service's.
        timeout: Option<At<Time>>,
        /// Time without a byte in either direction after which a request is ended, before or after its response began; 0s is
        /// never. Default: the service's.
        idle_timeout: Option<At<Time>>,
        /// When a failed try is repeated. Fields that are not written: the service's.
        retries: Option<At<Retries>>,
        /// A second try beside a slow first one; `off`, or bounds. Default: the service's.
        hedge: Option<At<OrOff<Hedge>>>,
        /// Which of the service's limits its requests count against. Default `default`.
        priority: Option<At<Priority>>,
        /// Faults that stand in the configuration; a drill's come and go with it.
        faults: List<RouteFault>,
    }
}

words! {
    /// Which of a service's limits count: each priority is counted apart.
    Priority {
        /// Those that stand in `limits` itself.
        Default = "default",
        /// Those of `limits.high`.
        High = "high",
    }
}

mapping! {
    /// Whom an order of regions is for.
    "`when`" When {
        /// The calling service.
        caller: At<ServiceName>,
    }
}

/// `sameRegion`, or regions in order; regions that are not named come after.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum Prefer {
    /// The caller's own region first.
    SameRegion(SameRegion),
    /// This order.
    Order(Vec<At<RegionName>>),
}

words! {
    /// The caller's own region first.
    SameRegion {
        /// The caller's own region first.
        SameRegion = "sameRegion",
    }
}

impl FromNode for Prefer {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::List(_) => FromNode::from_node(node, cx).map(Self::Order),
            Value::Scalar(_) => FromNode::from_node(node, cx).map(Self::SameRegion),
            _ => mismatch(node, "`sameRegion` or a list of regions, as `[east, west]`", cx),
        }
    }
}

mapping! {
    /// Conditions that must all hold.
    "`match`" RequestMatch {
        /// On the path without query. Default: every path.
        path: Option<At<PathMatch>>,
        /// One of these HTTP methods. Default: all.
        methods: List<String>,
        /// All of these headers.
        headers: List<Named>,
        /// All of these parameters of the query, undecoded; the first of a name counts.
        query: List<Named>,
        /// All of these cookies; the first of a name counts.
        cookies: List<Named>,
        /// One of these callers, services or gateways. Default: all.
        callers: List<String>,
    }
}

mapping! {
    /// A condition on the path: exactly one of these.
    "`path`" PathMatch {
        /// The whole path.
        exact: Option<Text>,
        /// Its beginning, segment by segment: `/foo` takes `/foo` and `/foo/bar`, not `/foobar`. A slash at its end counts for nothing.
        prefix: Option<Text>,
        /// Its beginning, byte by byte: `/foo` takes `/foobar`, too.
        prefix_string: Option<Text>,
        /// A regular expression (RE2) that takes the whole path.
        regex: Option<Text>,
    }
}

mapping! {
    /// A condition on a header, parameter or cookie: its name, and exactly one of the others.
    "a condition" Named {
        /// Its name.
        name: Text,
        /// `true`: it is there.
        present: Option<At<bool>>,
        /// `true`: it is not there.
        absent: Option<At<bool>>,
        /// Its whole value.
        exact: Option<Text>,
        /// The value's beginning.
        prefix: Option<Text>,
        /// A regular expression (RE2) that takes the whole value.
        regex: Option<Text>,
    }
}

mapping! {
    /// A version and its share.
    "a share" Share {
        /// A version that endpoints of the service have.
        version: Text,
        /// Relative to the sum over the split. Default 1.
        weight: Option<At<u32>>,
    }
}

mapping! {
    /// What keeps a caller with one version: either `header` or `cookie`.
    "`sticky`" Sticky {
        /// The value of this header.
        header: Option<Text>,
        /// The value of this cookie.
        cookie: Option<Text>,
        /// Where the cookie is missing it is set, for this long; `0s` until the browser ends. Default: it is not set.
        ttl: Option<At<Time>>,
    }
}

mapping! {
    /// Who gets a copy: either `version` or `service`.
    "a mirror" Mirror {
        /// A version of this service.
        version: Option<Text>,
        /// Another service.
        service: Option<At<ServiceName>>,
        /// Share of the requests. Default 100%.
        percent: Option<At<Percent>>,
    }
}

mapping! {
    /// Where a caller is sent. What is not written stays as it was asked.
    "`redirect`" Redirect {
        /// 301, 302, 303, 307 or 308. Default 302.
        status: Option<At<u16>>,
        /// `http` or `https`.
        scheme: Option<At<Scheme>>,
        /// Host without port.
        host: Option<Text>,
        /// Port.
        port: Option<At<u16>>,
        /// In place of the matched prefix; of the whole path where the route matches otherwise.
        prefix: Option<Text>,
        /// Every match of this regular expression (RE2) in the path is replaced by `with`.
        regex: Option<Text>,
        /// What replaces it; `\1` is the first group.
        with: Option<Text>,
        /// `true`: the query is left out. Default false.
        strip_query: Option<At<bool>>,
    }
}

words! {
    /// Scheme of a URL.
    Scheme {
        /// Plaintext.
        Http = "http",
        /// TLS.
        Https = "https",
    }
}

mapping! {
    /// Another path (`prefix`, or `regex` and `with`), another host, or both.
    "`rewrite`" Rewrite {
        /// In place of the matched prefix; of the whole path where the route matches otherwise.
        prefix: Option<Text>,
        /// Every match of this regular expression (RE2) in the path is replaced by `with`.
        regex: Option<Text>,
        /// What replaces it; `\1` is the first group.
        with: Option<Text>,
        /// The host that the endpoint sees.
        host: Option<Text>,
    }
}

mapping! {
    /// Changes to headers: first `remove`, then `set`, then `add`.
    "changes to headers" HeaderEdits {
        /// Values by name, put in place of what is there.
        set: Option<At<BTreeMap<String, String>>>,
        /// Values by name, put behind what is there.
        add: Option<At<BTreeMap<String, String>>>,
        /// Names of headers that are taken away.
        remove: List<String>,
    }
}

mapping! {
    /// What happens to some requests of a route, in exactly one way.
    "a route's fault" RouteFault {
        /// Share of the requests. Default 100%.
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
