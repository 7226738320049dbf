//! What the control plane counts, as Prometheus text.

use std::fmt::Write as _;

use crate::mesh::Mesh;

/// All of it.
pub(crate) fn text(mesh: &Mesh) -> String {
    let (tokens, certificates, refused) = mesh.counted();
    let mut text = String::new();
    for (name, help, count) in [
        ("firedrill_join_tokens_created_total", "Join tokens handed out.", tokens),
        ("firedrill_certificates_issued_total", "Certificates signed for proxies.", certificates),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {count}");
    }
    let name = "firedrill_joins_refused_total";
    let help = "Certificates and streams that proxies were refused.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
    for (reason, count) in refused {
        let _ = writeln!(text, "{name}{{reason=\"{reason}\"}} {count}");
    }
    let proxies = mesh.ads.proxies();
    let connected = proxies.values().filter(|proxy| proxy.connected);
    for (name, help, count) in [
        ("firedrill_proxies_connected", "Proxies with a stream to this control plane.", connected.clone().count()),
        (
            "firedrill_proxies_settled",
            "Of these, those that accepted all that is published for them.",
            connected.filter(|proxy| proxy.settled).count(),
        ),
    ] {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {count}");
    }
    text
}
