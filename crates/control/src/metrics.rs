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
    loads(mesh, &mut text);
    text
}

/// What proxies reported, by cluster and region: the server bounds how many there are.
fn loads(mesh: &Mesh, text: &mut String) {
    let (totals, left_out) = mesh.ads.load_totals();
    let name = "firedrill_reported_requests_total";
    let _ =
        writeln!(text, "# HELP {name} Requests that proxies reported, by what became of them.\n# TYPE {name} counter");
    for ((cluster, region), total) in totals {
        let labels = format!("cluster=\"{}\",region=\"{}\"", escaped(&cluster), escaped(&region));
        for (result, count) in [("issued", total.issued), ("successful", total.successful), ("error", total.errors)] {
            let _ = writeln!(text, "{name}{{{labels},result=\"{result}\"}} {count}");
        }
    }
    let name = "firedrill_reports_left_out_total";
    let help = "Localities of clusters beyond the number that is kept of one proxy.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {left_out}");
}

/// A label's value: a proxy may name its clusters as it likes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
