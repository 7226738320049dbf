//! Who issues the identities of a mesh.

use crate::{
    config::{Identity, IdentityFiles},
    raw,
    read::{At, Cx},
};

pub(crate) fn identity(spec: &raw::Mesh, cx: &mut Cx<'_>) -> Identity {
    let Some(written) = &spec.identity else { return Identity::Builtin };
    let kinds = [written.builtin.is_some(), written.spire.is_some(), written.files.is_some()];
    if kinds.iter().filter(|there| **there).count() > 1 {
        cx.error("choose-one", written.head, "identities come from one of `builtin`, `files` and `spire`")
            .mend("delete the others");
    }
    if let Some(files) = &written.files {
        return Identity::Files(self::files(files, spec, cx));
    }
    let Some(spire) = &written.spire else { return Identity::Builtin };
    let socket =
        spire.socket.strip_prefix("unix://").or_else(|| spire.socket.strip_prefix("unix:")).unwrap_or_default();
    if !socket.starts_with('/') {
        cx.error("bad-socket", spire.socket.at, format!("`{}` is not a Unix socket", spire.socket.value))
            .mend("write it as `unix:///run/spire/agent.sock`");
    }
    Identity::Spire { socket: socket.to_owned() }
}

fn files(files: &At<raw::IdentityFiles>, spec: &raw::Mesh, cx: &mut Cx<'_>) -> IdentityFiles {
    for path in [&files.certificate, &files.key, &files.bundle] {
        if !path.starts_with('/') {
            cx.error("relative-path", path.at, format!("`{}` is not an absolute path", path.value))
                .mend("write it from `/` on: proxies read it, wherever they were started");
        }
    }
    for path in [&files.certificate, &files.key].into_iter().filter(|path| !path.contains(IdentityFiles::PROXY)) {
        cx.error("shared-identity", path.at, format!("`{}` would be the file of every proxy", path.value))
            .mend("put `{proxy}` into it, as `/run/svid/{proxy}.pem`");
    }
    for gateway in spec.gateways.iter().flat_map(|g| g.iter()).filter(|gateway| gateway.name.as_str() == "control") {
        cx.error("reserved-name", gateway.name.at, "`control` is what the control plane's own files are called")
            .mend("rename the gateway");
    }
    IdentityFiles {
        certificate: files.certificate.value.clone(),
        key: files.key.value.clone(),
        bundle: files.bundle.value.clone(),
    }
}
