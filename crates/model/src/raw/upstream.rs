//! How a service's endpoints are shared and protected.

use super::{List, Text};
use crate::{
    read::{At, mapping, words},
    scalar::{OrOff, Time},
    unit::Percent,
};

mapping! {
    /// Which endpoint of a tier gets a request.
    "`balancing`" Balancing {
        /// Default leastRequest.
        balancer: Option<At<Balancer>>,
        /// `leastRequest`: endpoints drawn, of which the least busy is taken; 2 to 100. Default 2.
        choices: Option<At<u32>>,
        /// `ringHash` and `maglev`, which need it: what of a request is hashed, all of it together. Without any of it, a
        /// request goes anywhere.
        hash: List<HashKey>,
        /// `roundRobin` and `leastRequest`: an endpoint that is new or healthy again gets its share gradually. Default off.
        slow_start: Option<At<OrOff<SlowStart>>>,
        /// When too few of a tier's endpoints are available, health is not believed. Default off: it always is.
        panic: Option<At<OrOff<Panic>>>,
        /// How the share of a tier grows that was lost and is back. A plan's `failback` decides for its services. Default 10%,
        /// 25%, 50% and 100%, each for 2s.
        ramp: Option<At<OrOff<Ramp>>>,
    }
}

words! {
    /// How an endpoint is chosen.
    Balancer {
        /// In turn, by weight.
        RoundRobin = "roundRobin",
        /// The least busy of `choices` that are drawn.
        LeastRequest = "leastRequest",
        /// The one of two with the smaller product of recent latency and requests in flight. Least request on Envoy.
        PeakEwma = "peakEwma",
        /// By the hash of a request, on a ring.
        RingHash = "ringHash",
        /// By the hash of a request, in a Maglev table.
        Maglev = "maglev",
    }
}

mapping! {
    /// A part of a request that is hashed: exactly one of these.
    "a hash key" HashKey {
        /// The value of this header.
        header: Option<Text>,
        /// The value of this cookie.
        cookie: Option<Text>,
        /// `true`: the caller's IP address.
        source_address: Option<At<bool>>,
    }
}

mapping! {
    /// How an endpoint's share grows: linear in time.
    "`slowStart`" SlowStart {
        /// Time until the whole share.
        window: At<Time>,
        /// Part of the share from the start, 1% to 100%. Default 10%.
        at_least: Option<At<Percent>>,
    }
}

mapping! {
    /// How a tier's share grows.
    "`ramp`" Ramp {
        /// Parts of its share, rising, ending in 100%. Default [10%, 25%, 50%, 100%].
        steps: List<Percent>,
        /// Time on each, and before the first; longer for a tier that comes and goes. Default 2s.
        dwell: Option<At<Time>>,
    }
}

mapping! {
    /// When health is not believed.
    "`panic`" Panic {
        /// Available part of a tier's endpoints below which it is in panic.
        below: At<Percent>,
        /// What it then does. Default spray.
        policy: Option<At<PanicPolicy>>,
    }
}

words! {
    /// What a tier in panic does.
    PanicPolicy {
        /// Sends to every endpoint, whatever its health.
        Spray = "spray",
        /// Gets nothing: its requests go to another tier, or are refused with 503.
        FailFast = "failFast",
    }
}

mapping! {
    /// Bounds on concurrent use of a service by one proxy; above them a request is refused with 503.
    "`limits`" Limits {
        /// Connections. Default 1024.
        connections: Option<At<u32>>,
        /// Requests that wait for a connection. Default 1024.
        pending: Option<At<u32>>,
        /// Requests in flight. Default 1024.
        requests: Option<At<u32>>,
        /// Retries and hedges as part of first tries. Default 20%.
        retry_percent: Option<At<Percent>>,
        /// Retries and hedges a second that are always allowed. Default 10.
        retries_per_second: Option<At<u32>>,
        /// Connections that each worker of a proxy keeps open to each endpoint that takes over next, 0 to 16. Default 1.
        standby_connections: Option<At<u32>>,
        /// Bounds on requests of routes with `priority: high`, which are counted apart; the others do not concern them.
        high: Option<At<HighLimits>>,
    }
}

mapping! {
    /// Bounds on concurrent use by requests of high priority.
    "`high`" HighLimits {
        /// Connections. Default 1024.
        connections: Option<At<u32>>,
        /// Requests that wait for a connection. Default 1024.
        pending: Option<At<u32>>,
        /// Requests in flight. Default 1024.
        requests: Option<At<u32>>,
        /// Retries and hedges as part of first tries. Default 20%.
        retry_percent: Option<At<Percent>>,
        /// Retries and hedges a second that are always allowed. Default 10.
        retries_per_second: Option<At<u32>>,
    }
}

mapping! {
    /// Bounds on what callers may send to any proxy.
    "`listeners`" Listeners {
        /// Bytes of all request headers together, at most 8388608; above it 431. Default 61440.
        header_bytes: Option<At<u32>>,
        /// Request headers; above it 431. Default 100.
        headers: Option<At<u32>>,
        /// Time to send request headers. Default 10s.
        header_timeout: Option<At<Time>>,
        /// Time without a request after which a connection is closed. Default 1h.
        idle_timeout: Option<At<Time>>,
        /// Connections at once; above it new ones are closed. Default 16384.
        connections: Option<At<u32>>,
        /// HTTP/2 streams at once on a connection. Default 100.
        concurrent_streams: Option<At<u32>>,
        /// Time for which a caller may send nothing of a request's body, after which it gets 408, or take nothing of a
        /// response; 0s is for ever. Default 1m.
        body_timeout: Option<At<Time>>,
        /// Bytes a second that a gateway's caller must send of a request's body, and take of a response, on average over the
        /// time that is waited for it beyond `bodyTimeout`; a slower one is cut off. 0 is no bound. Default 1024.
        minimum_rate: Option<At<u32>>,
    }
}

mapping! {
    /// Ejects what succeeds more rarely than `mean − factor × standard deviation` of all endpoints.
    "`successRate`" SuccessRate {
        /// The factor, in thousandths. Default 1900.
        factor: Option<At<u32>>,
        /// Endpoints with enough requests that are needed. Default 5.
        hosts: Option<At<u32>>,
        /// Requests of an endpoint in an interval that are enough. Default 100.
        requests: Option<At<u32>>,
    }
}

mapping! {
    /// Ejects what fails at least this often.
    "`failurePercentage`" FailurePercentage {
        /// Part of an endpoint's requests. Default 85%.
        threshold: Option<At<Percent>>,
        /// Endpoints with enough requests that are needed. Default 5.
        hosts: Option<At<u32>>,
        /// Requests of an endpoint in an interval that are enough. Default 50.
        requests: Option<At<u32>>,
    }
}
