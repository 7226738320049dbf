//! Who talks to whom, in Istio's labels.

use crate::metrics::text::Labels;

/// Both sides of a request or a connection. What is empty is `unknown`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peers<'a> {
    /// Whether this proxy stands before the workload that is called, rather than on the caller's side.
    pub destination_side: bool,
    /// The service or gateway that calls.
    pub source: &'a str,
    /// Its SPIFFE id.
    pub source_principal: &'a str,
    /// The service that is called.
    pub destination: &'a str,
    /// Its SPIFFE id.
    pub destination_principal: &'a str,
    /// Version of the endpoint.
    pub destination_version: &'a str,
    /// Region of the endpoint.
    pub destination_region: &'a str,
    /// Whether both have proven who they are.
    pub mutual_tls: bool,
}

/// A mesh has no namespaces; dashboards ask for one all the same.
const NAMESPACE: &str = "default";

impl Peers<'_> {
    /// The labels that all families of traffic have in common.
    pub fn labels(&self) -> Labels {
        fn known(text: &str) -> &str {
            if text.is_empty() { "unknown" } else { text }
        }
        let (source, destination) = (known(self.source), known(self.destination));
        Labels::default()
            .and("reporter", if self.destination_side { "destination" } else { "source" })
            .and("source_workload", source)
            .and("source_workload_namespace", NAMESPACE)
            .and("source_app", source)
            .and("source_principal", known(self.source_principal))
            .and("destination_workload", destination)
            .and("destination_workload_namespace", NAMESPACE)
            .and("destination_app", destination)
            .and("destination_principal", known(self.destination_principal))
            .and("destination_version", known(self.destination_version))
            .and("destination_service", destination)
            .and("destination_service_name", destination)
            .and("destination_service_namespace", NAMESPACE)
            .and("destination_region", known(self.destination_region))
            .and("connection_security_policy", if self.mutual_tls { "mutual_tls" } else { "none" })
    }
}

/// Labels of what came after there were as many label sets as are kept.
pub fn surplus() -> Labels {
    let other = "other";
    let peers = Peers {
        source: other,
        destination: other,
        destination_version: other,
        destination_region: other,
        ..Peers::default()
    };
    peers.labels()
}
