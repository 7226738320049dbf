//! Kinds `Service` and `Backup`.

use super::{Argv, Balancing, Detection, Hedge, Limits, List, Named, Retries, Route, Text};
use crate::{
    name::{RegionName, ServiceName},
    read::{At, mapping, words},
    scalar::{HostPort, OrOff, Time},
    unit::Rate,
};

mapping! {
    /// A service: its endpoints, whom it calls and who may call it.
    "the spec of a Service" Service {
        /// What it speaks. Default http.
        protocol: Option<At<Protocol>>,
        /// How callers of a service that speaks tcp reach it.
        connect: Option<At<Connect>>,
        /// Its instances.
        endpoints: At<Vec<At<Endpoint>>>,
        /// SPIFFE id that instances outside the mesh prove, as `spiffe://partner.example/service/fx`: they are reached over mutual
        /// TLS. Without it they are reached in plaintext.
        identity: Option<Text>,
        /// Services that its workloads may call.
        calls: List<ServiceName>,
        /// Time from the end of a request to the head of its response, all tries included; 0s is no bound. Default: the mesh's.
        timeout: Option<At<Time>>,
        /// Time without a byte in either direction after which a request is ended, before or after its response began; 0s is
        /// never. Default: the mesh's.
        idle_timeout: Option<At<Time>>,
        /// When a failed try is repeated. Fields that are not written: the mesh's.
        retries: Option<At<Retries>>,
        /// A second try beside a slow first one; `off`, or bounds. Default: the mesh's.
        hedge: Option<At<OrOff<Hedge>>>,
        /// What takes an endpoint out. Fields that are not written: the mesh's.
        detection: Option<At<Detection>>,
        /// Which endpoint of a tier gets a request.
        balancing: Option<At<Balancing>>,
        /// Bounds on concurrent use by one proxy.
        limits: Option<At<Limits>>,
        /// Orders of regions by caller, and what is done with some requests; of each the first that matches counts. Else the
        /// caller's own region is first, and requests go to all endpoints.
        routes: List<Route>,
        /// Who may call. Default: services that name it in `calls`, and gateways that route to it.
        authorization: Option<At<Authorization>>,
    }
}

mapping! {
    /// Callers say CONNECT with the service's name, to their sidecar or a gateway, and speak with an endpoint in bytes from
    /// there on.
    "`connect`" Connect {
        /// Time without a byte either way after which a connection is closed; 0s is never. Default 1h.
        idle_timeout: Option<At<Time>>,
    }
}

words! {
    /// What a service speaks.
    Protocol {
        /// HTTP/1.1.
        Http = "http",
        /// HTTP/2.
        Http2 = "http2",
        /// Bytes.
        Tcp = "tcp",
        #[schemars(skip)]
        Grpc = "grpc",
    }
}

mapping! {
    /// Instances of a service in a region: either `run` or `address`.
    "an endpoint" Endpoint {
        /// Failure domain.
        region: At<RegionName>,
        /// How many, with `run`. Default 1.
        count: Option<At<u32>>,
        /// Version. Default v1.
        version: Option<Text>,
        /// Requests a second that each can take, as `2000/s`.
        capacity: Option<At<Rate>>,
        /// Share among the region's endpoints. Default 1.
        weight: Option<At<u32>>,
        /// Command that the supervisor starts; it listens on the address in `FIREDRILL_LISTEN`. A sidecar stands before it.
        run: Option<Argv>,
        /// Address of an instance that runs already, outside the mesh, without a sidecar of it: reached in plaintext
        /// unless the service has an `identity`.
        address: Option<At<HostPort>>,
        /// Addresses of several such instances.
        addresses: List<HostPort>,
        /// Such instances as DNS names them.
        dns: Option<At<Dns>>,
        /// Such instances as a file lists them.
        file: Option<At<ListFile>>,
    }
}

mapping! {
    /// Instances that DNS names: either `name` and `port`, or `srv`. Asked again when the records' time to live is over.
    "a DNS source" Dns {
        /// Name whose addresses (A and AAAA) they are.
        name: Option<Text>,
        /// Port of each, with `name`.
        port: Option<At<u16>>,
        /// Name of service records (SRV), as `_http._tcp.fx.example`: those of the lowest priority count.
        srv: Option<Text>,
        /// Name server that is asked. Default: the first of `/etc/resolv.conf`.
        server: Option<At<HostPort>>,
        /// How long the last answer is used while no other comes. Default 24h.
        stale_for: Option<At<Time>>,
    }
}

mapping! {
    /// Instances that a file on the control plane's machine lists, in YAML or JSON; read again when it changes.
    "a file source" ListFile {
        /// The file: an absolute path.
        path: Text,
        /// How long the last list is used while the file cannot be read. Default 24h.
        stale_for: Option<At<Time>>,
    }
}

mapping! {
    /// Who may call.
    "`authorization`" Authorization {
        /// Permissions; who has none is refused. Default: services that name it in `calls`, and gateways that route to it.
        allow: List<Allow>,
        /// `enforce`, or `dryRun`: everyone passes, and who would have been refused is told. Default enforce.
        mode: Option<At<AuthorizationMode>>,
    }
}

words! {
    /// What becomes of a caller without a permission.
    AuthorizationMode {
        /// It is refused.
        Enforce = "enforce",
        /// It passes, and is told in access log and metrics.
        DryRun = "dryRun",
    }
}

mapping! {
    /// A permission.
    "a permission" Allow {
        /// A service or gateway, or a SPIFFE id, as `spiffe://partner.example/service/web`.
        from: Text,
        /// HTTP methods. Default: all.
        methods: List<String>,
        /// Path prefixes, segment by segment: `/foo` takes `/foo` and `/foo/bar`, not `/foobar`; `/foo/` only what is below. Default: all.
        paths: List<String>,
        /// All of these headers. Default: any.
        headers: List<Named>,
    }
}

mapping! {
    /// A backup that is tested by restoring it.
    "the spec of a Backup" Backup {
        /// Whose data.
        service: At<ServiceName>,
        /// How often.
        every: At<Time>,
        /// Command that makes one.
        command: Argv,
        /// Command that restores one.
        restore: Argv,
        /// Command that checks a restore; exit 0 is good.
        check: Argv,
    }
}
