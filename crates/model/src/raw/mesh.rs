//! Kind `Mesh`, and the traffic policy that services share with it.

use super::{FailurePercentage, Federated, List, Listeners, SuccessRate, TcpCheck, Text};
use crate::{
    name::{GatewayName, RegionName, ServiceName},
    read::{At, mapping, words},
    scalar::{HostPort, OrOff, Time, Word},
    unit::Percent,
};

mapping! {
    /// The mesh: regions, ways in, and the policy of services that say nothing else.
    "the spec of a Mesh" Mesh {
        /// SPIFFE trust domain, as `bank.example`.
        trust_domain: Text,
        /// Failure domains that can be lost as a whole, in order of preference.
        regions: At<Vec<At<RegionName>>>,
        /// Where identities come from. Default: the built-in certificate authority.
        identity: Option<At<Identity>>,
        /// Other meshes: their services may be named in `allow`, and called.
        federation: List<Federated>,
        /// Ways into the mesh.
        gateways: List<Gateway>,
        /// Traffic policy of services that say nothing else.
        defaults: Option<At<Policy>>,
    }
}

mapping! {
    /// Where identities come from: one of these.
    "`identity`" Identity {
        /// The certificate authority of the control plane.
        builtin: Option<At<Builtin>>,
        /// A SPIFFE Workload API, as that of a SPIRE agent.
        spire: Option<At<Spire>>,
        /// Files that another tool writes, and replaces in time.
        files: Option<At<IdentityFiles>>,
    }
}

mapping! {
    /// The certificate authority of the control plane.
    "`builtin`" Builtin {
        /// Lifetime of a workload's certificate; renewed at half of it. Default 24h.
        certificate_lifetime: Option<At<Time>>,
    }
}

mapping! {
    /// A SPIFFE Workload API. It must hand out `spiffe://TRUST-DOMAIN/service/NAME` to sidecars, `…/gateway/NAME` to gateways and
    /// `…/control` to the control plane; of several each takes its own.
    "`spire`" Spire {
        /// Its Unix socket, as `unix:///run/spire/agent.sock`.
        socket: Text,
    }
}

mapping! {
    /// PEM files by absolute paths on each proxy's machine, looked at again and again. `{proxy}` in a path stands for the proxy's name,
    /// and for `control` at the control plane.
    "`files`" IdentityFiles {
        /// Certificate chain, leaf first, as `/run/svid/{proxy}.pem`.
        certificate: Text,
        /// Its private key, as `/run/svid/{proxy}.key`.
        key: Text,
        /// Roots of the trust domain, as `/run/svid/bundle.pem`.
        bundle: Text,
    }
}

mapping! {
    /// A way into the mesh: plaintext HTTP.
    "a gateway" Gateway {
        /// Name; also its host name in probes, as `http://edge/`.
        name: At<GatewayName>,
        /// Address and port, as `127.0.0.1:8080`.
        listen: At<HostPort>,
        /// Services behind it; the first match wins.
        routes: At<Vec<At<GatewayRoute>>>,
    }
}

mapping! {
    /// A path prefix and the service behind it.
    "a gateway's route" GatewayRoute {
        /// Path prefix, segment by segment: `/foo` takes `/foo` and `/foo/bar`, not `/foobar`. Default `/`.
        prefix: Option<Text>,
        /// The service.
        service: At<ServiceName>,
    }
}

mapping! {
    /// How requests to a service are treated.
    "`defaults`" Policy {
        /// Time from the end of a request to the head of its response, all tries included; 0s is no bound. Default 15s.
        timeout: Option<At<Time>>,
        /// Time without a byte in either direction after which a request is ended, before or after its response began; 0s is
        /// never. Default 5m.
        idle_timeout: Option<At<Time>>,
        /// When a failed try is repeated.
        retries: Option<At<Retries>>,
        /// A second try beside a slow first one, for idempotent requests; `off`, or bounds. Default: between 20ms and half of `perTry`.
        hedge: Option<At<OrOff<Hedge>>>,
        /// What takes an endpoint out.
        detection: Option<At<Detection>>,
        /// Bounds on what callers may send to any proxy.
        listeners: Option<At<Listeners>>,
    }
}

mapping! {
    /// When a failed try is repeated.
    "`retries`" Retries {
        /// Repeats after the first try, at most 10; 0 is off. Default 2.
        attempts: Option<At<u32>>,
        /// Bound on one try. Default: a third of the timeout.
        per_try: Option<At<Time>>,
        /// Failures that are repeated. Default: all.
        on: List<RetryOn>,
    }
}

words! {
    /// A class of failures.
    RetryOn {
        /// No connection could be made.
        ConnectFailure = "connectFailure",
        /// The connection ended before an answer.
        Reset = "reset",
        /// 502, 503 or 504.
        GatewayError = "gatewayError",
    }
}

mapping! {
    /// Bounds on when the second try starts; between them it is the observed p99.
    "`hedge`" Hedge {
        /// Never earlier.
        at_least: At<Time>,
        /// Never later.
        at_most: At<Time>,
    }
}

mapping! {
    /// What takes an endpoint out.
    "`detection`" Detection {
        /// Failed requests in a row; or `off`. Default 5.
        consecutive_errors: Option<At<OrOff<u32>>>,
        /// Answers 5xx in a row, every one of them; or `off`. Default off.
        #[schemars(rename = "consecutive5xx")]
        consecutive_5xx: Option<At<OrOff<u32>>>,
        /// Failures to connect, resets and timeouts in a row, counted apart from answers; or `off`: they count as 503. Default off.
        consecutive_local: Option<At<OrOff<u32>>>,
        /// Successes compared with other endpoints; or `off`. Default off; `{}` is its defaults.
        success_rate: Option<At<OrOff<SuccessRate>>>,
        /// Failures compared with a fixed percentage; or `off`. Default off; `{}` is its defaults.
        failure_percentage: Option<At<OrOff<FailurePercentage>>>,
        /// Length of the interval over which rates are taken. Default 1s.
        interval: Option<At<Time>>,
        /// Length of the first ejection; the n-th is n times as long. Default 30s.
        ejection: Option<At<Time>>,
        /// Length of the longest ejection. Default 5m, or `ejection` if that is longer.
        longest_ejection: Option<At<Time>>,
        /// Part of a tier that may be ejected at once while no later tier has endpoints; with one, all may. Default 50%.
        ejected_at_most: Option<At<Percent>>,
        /// Probing of every endpoint by every proxy that uses it; or `off`. Default: connect each 1s.
        active_check: Option<At<OrOff<ActiveCheck>>>,
    }
}

mapping! {
    /// Probing of endpoints: one of `http`, `grpc` and `tcp`.
    "`activeCheck`" ActiveCheck {
        /// Path to GET; 200 is expected.
        http: Option<Text>,
        /// Service that `grpc.health.v1` is asked for, `""` for the whole server; `SERVING` is expected. Needs `protocol: http2`.
        grpc: Option<At<Word>>,
        /// `true`: only connect. With `protocol: tcp` also what is said and heard over the connection.
        tcp: Option<At<TcpCheck>>,
        /// Interval. Default 1s.
        every: Option<At<Time>>,
        /// Interval while no request was ever sent to the service. Default: `every`.
        every_without_traffic: Option<At<Time>>,
        /// Bound on one check. Default: `every`, at most 1s.
        timeout: Option<At<Time>>,
        /// Failures in a row until it is out. Default 2.
        unhealthy_after: Option<At<u32>>,
        /// Successes in a row until it is in again. Default 2.
        healthy_after: Option<At<u32>>,
    }
}
